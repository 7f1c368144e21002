"""The layers of a model as a table."""

from __future__ import annotations

from pathlib import Path

from tests.command.running import refused, run
from tests.models.squares import keras_colours


def test_layers(here: Path) -> None:
    maps = run("layers", "nets:Colours", "--size", 16).stdout.splitlines()
    everything = run("layers", "nets:Colours", "--size", 16, "--all").stdout.splitlines()
    assert [line.split()[:6] for line in maps] == [
        ["index", "name", "kind", "output", "map", "convolution"],
        ["1", "conv", "Conv2d", "2x16x16", "yes", "yes"],
        ["2", "relu", "ReLU", "2x16x16", "yes", "-"],
    ]
    assert [line for line in maps if "<- default" in line] == [maps[2]]
    assert maps[1].split()[6] == "yes", "a ReLU behind the convolution"
    assert len(everything) == 5
    assert everything[3].split()[:5] == ["3", "fc", "Linear", "2", "-"]
    assert "--size is needed" in refused("layers", "nets:Colours")
    assert "larger than 1x1" in refused("layers", "nets:Colours", "--size", 1)


def test_layers_of_a_keras_model(here: Path) -> None:
    keras_colours().save("model.keras")
    lines = run("layers", "model.keras", "--all").stdout.splitlines()
    (conv,) = [line for line in lines if " conv " in line]
    assert "2x16x16" in conv
    assert "<- default" in conv
    index = conv.split()[0]
    by_index = run("explain", "model.keras", "squares.png", "--layer", index, "--output", "out")
    assert "at layer conv." in by_index.stdout
