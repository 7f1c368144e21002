"""The commands as a whole: help, versions, what they load; the tables of methods and layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fe_gradcam
from fe_gradcam import METHODS
from fe_gradcam.command import cli
from fe_gradcam.scaling import FUSES, SCALINGS
from tests.command.running import refused, run
from tests.models.squares import keras_colours

ROOT = Path(fe_gradcam.__file__).parents[1]


def test_methods() -> None:
    said = run("methods").stdout
    for name, method in METHODS.items():
        assert all(words in said for words in (name, method.summary, method.paper, method.cost)), name
    lines = [line.strip() for line in said.splitlines()]
    of_method = lines[[line.split()[0] for line in lines].index("ss_cam") :][:5]
    assert of_method[2:] == ["samples K forwards", "samples=8: an integer from 1", "noise=0.2: a number from 0"]
    assert "patch=None: an integer from 1 or None" in lines
    assert "center=False: True or False" in lines
    assert len([line for line in lines if "=" in line.split(":")[0].split()[0]]) == sum(
        len(method.parameters) for method in METHODS.values()
    )


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
    assert "--size is needed" in refused("nets:Colours", command="layers")
    assert "larger than 1x1" in refused("nets:Colours", "--size", 1, command="layers")


def test_layers_of_a_keras_model(here: Path) -> None:
    keras_colours().save("model.keras")
    lines = run("layers", "model.keras", "--all").stdout.splitlines()
    (conv,) = [line for line in lines if " conv " in line]
    assert "2x16x16" in conv
    assert "<- default" in conv
    index = conv.split()[0]
    by_index = run("explain", "model.keras", "squares.png", "--layer", index, "--output", "out")
    assert "at layer conv." in by_index.stdout


def test_check(here: Path) -> None:
    done = run("check", "nets:Colours", "squares.png", "--size", 16)
    assert done.exit_code == 0, done.output
    first, *lines = done.stdout.splitlines()
    assert first == "grad_cam: Colours, explained at 'relu', a map of 16 x 16"
    assert sum("  passed  " in line for line in lines) + sum("not applicable" in line for line in lines) == 10
    assert lines[-1].startswith("All ")
    noise = run("check", "nets:Colours", "--size", 16, "--layer", "conv", "--method", "hires_cam")
    assert "No IMAGES: 4 images of noise are tested." in noise.stderr
    assert "hires_cam: Colours, explained at 'conv'" in noise.stdout
    assert "--size is needed" in refused("nets:Colours", command="check")
    assert "one layer is checked at a time" in refused(
        "nets:Colours", "--size", 16, "--layer", "conv", "--layer", "relu", command="check"
    )


def test_version() -> None:
    assert fe_gradcam.__version__ in run("--version").stdout


def test_help_teaches() -> None:
    overall = run("--help").stdout
    for word in ("explain", "layers", "methods", "Exit codes: 0", "grid.png"):
        assert word in overall
    explained = " ".join(run("explain", "--help").stdout.split())
    for word in (*METHODS, *SCALINGS, *FUSES, "Exit codes: 0", "Examples:", "results.json", "on white"):
        assert word in explained
    assert "\\b" not in explained
    for command in (cli.explain, cli.layers):
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, option.name
                assert option.show_default or "Default: " in option.help, option.name


def loaded_by(*arguments: str) -> set[str]:
    program = "import sys\nfrom fe_gradcam.command.cli import main\nmain(standalone_mode=False)\nprint(*sys.modules)"
    command, environment = [sys.executable, "-c", program, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_that_takes_time() -> None:
    loaded = loaded_by("--help")
    assert "fe_gradcam" in loaded
    assert not loaded & {"numpy", "torch", "tensorflow", "fastestimator", "PIL", "cv2", "matplotlib"}


def test_a_pytorch_model_loads_neither_tensorflow_nor_the_host(here: Path) -> None:
    loaded = loaded_by("explain", "nets:Colours", "squares.png", "--size", "16")
    assert "torch" in loaded
    assert not loaded & {"tensorflow", "fastestimator", "plotly"}
