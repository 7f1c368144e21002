"""What the log says once: where the pictures lie, and how the numbers are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fe_gradcam.metrics.rules import METRICS
from fe_gradcam.training.epoch import Epoch
from fe_gradcam.training.options import Options
from fe_gradcam.training.selection import Selection, selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher
from tests.models.toys import SmallTorch
from tests.trainings import build, estimator, gradcam


def said_of(images: int = 4, **how: Any) -> list[list[str]]:
    """The lines of two epochs."""
    options = Options({"model", "labels"}, **{"selection": Selection(limit=images), "on_error": "raise", **how})
    watcher = Watcher(ModelSource(SmallTorch().eval(), options), options)
    watcher.begin()
    lines = []
    for number in (1, 2):
        watcher.begin_epoch(number)
        watcher.see(torch.rand(40, 3, 9, 12), np.arange(40) % 5)
        lines.append(watcher.legend(watcher.end_epoch()))
    return lines


def test_the_pictures_are_named_with_what_they_show_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,), later = said_of(save_dir="heat", track=True, atlas=30)
    assert not later
    written = {path.name for path in (tmp_path / "heat").glob("*.png")}
    assert line.startswith("pictures in heat/: open ")
    for about in ("(the images of this epoch)", "(a column for each epoch)", "(the mean heat of each class)"):
        name = line.partition(f" {about}")[0].rpartition(" ")[2]
        assert name in written
        assert "epoch_2" not in name
        assert "epoch_002" not in name


def test_a_folder_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    (line,), _ = said_of(save_dir=tmp_path)
    assert line.startswith(f"pictures in {tmp_path}/: open gradcam_eval_epoch_")


def test_where_there_is_neither_a_file_nor_a_number_nothing_is_said() -> None:
    assert said_of() == [[], []]


def test_numbers_are_said_with_their_better_direction_and_how_many_images_they_are_of() -> None:
    (line,), later = said_of(metrics=["deletion", "insertion", "average_drop", "drift"], track=True)
    assert not later
    by_words = {words: keys.split(", ") for keys, _, words in (part.partition(": ") for part in line.split("; "))}
    assert {METRICS[name].better for name in ("deletion", "average_drop")} == {"lower"}
    assert by_words["lower is better"] == ["gradcam_deletion", "gradcam_average_drop"]
    assert by_words["higher is better"] == ["gradcam_insertion"]
    assert by_words["0 where the heat has not moved since the epoch before"] == ["gradcam_drift"]
    assert "means of 4 images, which is few: take n_samples=32 or more to compare trainings" in line


@pytest.mark.parametrize(
    ("images", "how", "ending"),
    [
        (32, {}, "means of 32 images"),
        (31, {}, "means of 31 images, which is few: take n_samples=32 or more to compare trainings"),
        (1, {}, "means of 1 image, which is few: take n_samples=32 or more to compare trainings"),
        (
            5,
            {"selection": selection_of("random", 5, 1, 0, {"labels"})},
            "means of 5 images, which is few: take 32 images or more to compare trainings",
        ),
    ],
)
def test_few_images_are_said_to_be_few(images: int, how: dict[str, Any], ending: str) -> None:
    (line,), _ = said_of(images, metrics="average_drop", **how)
    assert line == f"gradcam_average_drop: lower is better; {ending}"


def test_an_epoch_that_puts_nothing_out_leaves_it_to_the_next() -> None:
    options = Options(selection=Selection(limit=2), metrics="average_drop")
    watcher = Watcher(ModelSource(SmallTorch().eval(), options), options)
    watcher.begin()
    empty = Epoch(1, "eval", options, watcher._reader, lambda product: {}, watcher.history)
    assert not watcher.legend(empty)
    watcher.begin_epoch(2)
    watcher.see(torch.rand(2, 3, 9, 12))
    assert len(watcher.legend(watcher.end_epoch())) == 1


@pytest.mark.parametrize(("log_steps", "count"), [(0, 1), (None, 0)])
def test_the_host_s_log_has_it_once(log_steps: Any, count: int, tmp_path: Path, capsys: Any) -> None:
    model = build("torch")
    trace = gradcam(model, save_dir=tmp_path, metrics="average_drop", mode=["train", "eval"])
    fitting = estimator("torch", model, [trace], epochs=2)
    fitting.system.log_steps = log_steps
    fitting.fit()
    lines = capsys.readouterr().out.splitlines()
    for what in ("pictures in ", "gradcam_average_drop: lower is better"):
        assert sum(line.startswith(f"FastEstimator-GradCAM: {what}") for line in lines) == count
