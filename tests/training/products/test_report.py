"""The page of a training, written after each epoch."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fe_gradcam import ArgumentError, CamWarning, UnknownNameError
from fe_gradcam.backends.weights import weights_sha256
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.reporting import page as pages
from fe_gradcam.training.epoch import Epoch
from fe_gradcam.training.history import MOST_EPOCHS, MOST_IMAGES
from fe_gradcam.training.options import Classes, Options
from fe_gradcam.training.products import report as product
from fe_gradcam.training.selection import selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher
from tests.models.toys import SmallTorch
from tests.reporting.pages import levels_in, page_in, picture_in
from tests.trainings import failing
from tests.verdicts.coloured import BLUE, GREEN, GREEN_BY_MARK, RED, network, scenes

CLASSES = [RED] * 12 + [GREEN] * 12 + [BLUE] * 12


def watched(folder: Path, *more: str, model: Any = None, report: Any = True, **how: Any) -> Watcher:
    given = {"model", "labels", *more}
    how = {"selection": selection_of("first", 4, None, 0, given), "on_error": "raise", **how}
    options = Options(given, save_dir=folder, report=report, **how)
    torch.manual_seed(0)
    watcher = Watcher(ModelSource(model or SmallTorch().eval(), options), options)
    watcher.begin()
    return watcher


def one_epoch(watcher: Watcher, number: int, log: Any = None, seed: int = 0, **more: Any) -> Epoch:
    watcher.begin_epoch(number)
    generator = torch.Generator().manual_seed(seed)
    watcher.see(torch.rand(6, 3, 9, 12, generator=generator), torch.arange(6) % 5, **more)
    return watcher.end_epoch(log)


def changed(model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.sin(torch.arange(weight.numel(), dtype=torch.float32)).reshape(weight.shape)


def said_in(folder: Path, mode: str = "eval") -> Any:
    return page_in(folder / f"gradcam_{mode}_report.html")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scaling", ["scale_after_relu", "scale_before_relu", "none"])
def test_the_page_has_the_heat_of_each_epoch_within_a_level(tmp_path: Path, scaling: Any, shared: bool) -> None:
    watcher = watched(tmp_path, methods=["grad_cam", "score_cam"], settings=Settings(scaling), shared_scale=shared)
    shown = []
    for number in (1, 2):
        epoch = one_epoch(watcher, number)
        shown.append(epoch.parts[0])
        changed(watcher.source.model)
        assert epoch["gradcam_report"] == str(tmp_path / "gradcam_eval_report.html")
    (dataset,) = said_in(tmp_path)["datasets"]
    assert [one["epoch"] for one in dataset["epochs"]] == [1, 2]
    for part, epoch in zip(shown, dataset["epochs"], strict=True):
        assert [one["method"] for one in epoch["columns"]] == ["grad_cam"] * 2 + ["score_cam"] * 2
        for column, entry in zip(part.columns, epoch["columns"], strict=True):
            rows = slice(None) if column.shown is None else column.shown
            values = column.heatmap.values[rows].astype(np.float64)
            tops = np.abs(values).max((1, 2), keepdims=True) if column.unit is None else column.unit
            exact = 127.5 + 127.5 * values / np.where(tops == 0, 1, tops) if scaling == "none" else 255 * values
            found = levels_in(entry["heat"])
            assert found.shape[0] == len(values)
            assert not len(values) or np.abs(found - np.rint(exact)).max() <= 1


def test_curves_metrics_and_what_was_asked(tmp_path: Path) -> None:
    watcher = watched(tmp_path, "ids", metrics=["deletion", "drift"], classes=Classes.of({"cat": 0, "dog": 1}))
    for number in (1, 2):
        epoch = one_epoch(
            watcher, number, {"accuracy": number / 4, "steps/sec": 9.0}, ids=[f"p{at}" for at in range(6)]
        )
        changed(watcher.source.model)
    said = said_in(tmp_path)
    assert [one["key"] for one in said["curves"]] == ["accuracy", "gradcam_deletion", "gradcam_drift"]
    assert said["curves"][0]["points"] == [[1, 0.25], [2, 0.5]]
    assert said["metrics"]["gradcam_deletion"] == "lower is better"
    last = said["datasets"][0]["epochs"][-1]["metrics"]["gradcam_deletion"]
    assert len(last) == 4 and np.mean(last) == pytest.approx(epoch["gradcam_deletion"], rel=1e-3)
    assert [one["id"] for one in said["datasets"][0]["images"]] == ["p0", "p1", "p2", "p3"]
    assert said["class_names"] == {"0": "cat", "1": "dog"}
    asked = said["asked"]
    assert (asked["methods"], asked["images"], asked["seed"]) == (["grad_cam"], 4, 0)
    assert asked["versions"]["torch"] == torch.__version__
    changed_since, asked_then = weights_sha256(watcher.source.model), asked["weights_sha256"]
    assert len(asked_then) == 64 and asked_then != changed_since


def test_values_that_come_later_are_taken_up_at_the_next_epoch_and_at_the_end(tmp_path: Path) -> None:
    watcher = watched(tmp_path)
    one_epoch(watcher, 1)
    watcher.begin_epoch(2)
    watcher.see(torch.rand(6, 3, 9, 12), torch.arange(6) % 5)
    watcher.end_epoch({}, {"late": {1: 0.5}})
    assert said_in(tmp_path)["curves"][0]["points"] == [[1, 0.5]]
    before = (tmp_path / "gradcam_eval_report.html").stat().st_mtime_ns
    watcher.end({"eval": {"late": {1: 0.5}}})
    assert (tmp_path / "gradcam_eval_report.html").stat().st_mtime_ns == before
    watcher.end({"eval": {"late": {1: 0.5, 2: 0.75}}, "test": {"late": {1: 0}}})
    assert said_in(tmp_path)["curves"][0]["points"] == [[1, 0.5], [2, 0.75]]


def test_verdicts_and_their_experiments_are_on_the_page(tmp_path: Path) -> None:
    images, masks = scenes(CLASSES, (GREEN,))
    watcher = watched(tmp_path, "masks", model=network(GREEN_BY_MARK), atlas=36, classes=Classes.of({"green": GREEN}))
    for number in (1, 2):
        watcher.begin_epoch(number, "test")
        watcher.see(torch.from_numpy(images), np.array(CLASSES), masks=masks)
        epoch = watcher.end_epoch()
    said = said_in(tmp_path, "test")
    first, last = said["datasets"][0]["epochs"]
    verdicts = {one["class_id"]: one for one in last["verdicts"]}
    (accused,) = epoch["gradcam_alarms"]
    assert [one["class_id"] for one in verdicts.values() if one["accuses"]] == [GREEN]
    assert verdicts[GREEN]["evidence"][0]["said"] == accused.evidence[0].said and verdicts[GREEN]["name"] == "green"
    assert {one["key"]: one["says"] for one in said["curves"]}["gradcam_shortcuts"] == "classes that tests accuse"
    trial = verdicts[GREEN]["evidence"][0]["trials"][0]
    assert picture_in(said["pictures"][trial["given"]]).shape[:2] == images.shape[2:]
    assert trial["after"] < trial["before"]
    assert [one["evidence"] for one in first["verdicts"]] == [[]] * 3
    assert [one["class_id"] for one in last["atlas"]["classes"]] == sorted({RED, GREEN, BLUE})


def test_a_page_without_pictures_and_names_holds_neither_also_of_experiments(tmp_path: Path) -> None:
    images, masks = scenes(CLASSES, (GREEN,))
    watcher = watched(tmp_path, "masks", model=network(GREEN_BY_MARK), atlas=36, report={"pictures": False})
    watcher.begin_epoch(1, "test")
    watcher.see(torch.from_numpy(images), np.array(CLASSES), masks=masks)
    watcher.end_epoch()
    said = said_in(tmp_path, "test")
    verdicts = said["datasets"][0]["epochs"][0]["verdicts"]
    trials = [trial for one in verdicts for its in one["evidence"] for trial in its["trials"]]
    assert trials and all(one["given"] is None and one["changed"] is None for one in trials)
    assert said["pictures"] == [] and "Pictures are not included." in said["notes"]
    assert [(one["id"], one["src"]) for one in said["datasets"][0]["images"]] == [(None, None)] * 4
    assert "data:image" not in (tmp_path / "gradcam_test_report.html").read_text()


def test_images_are_followed_unless_the_settings_say_not(tmp_path: Path) -> None:
    watcher = watched(tmp_path)
    for number in (1, 2):
        one_epoch(watcher, number, seed=number)
    dataset = said_in(tmp_path)["datasets"][0]
    assert len(dataset["images"]) == 4 and [one["images"] for one in dataset["epochs"]] == [None, None]
    watcher = watched(tmp_path, report={"track": False, "title": "Night shift"})
    for number in (1, 2):
        one_epoch(watcher, number, seed=number)
    said = said_in(tmp_path)
    dataset = said["datasets"][0]
    assert said["title"] == "Night shift" and not watcher.options.track
    assert [one["images"] for one in dataset["epochs"]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [one["src"] is None for one in dataset["images"]] == [True] * 4 + [False] * 4


def test_several_datasets_have_each_their_part(tmp_path: Path) -> None:
    watcher = watched(tmp_path)
    watcher.begin_epoch(1)
    for dataset, seed in (("day", 1), ("night", 2)):
        generator = torch.Generator().manual_seed(seed)
        watcher.see(torch.rand(6, 3, 9, 12, generator=generator), torch.arange(6) % 5, dataset=dataset)
    watcher.end_epoch()
    assert [one["name"] for one in said_in(tmp_path)["datasets"]] == ["day", "night"]


def test_all_epochs_and_images_are_kept_where_the_film_keeps_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fe_gradcam.training.watcher.PRODUCTS", [product.ReportProduct])
    most = max(MOST_EPOCHS, MOST_IMAGES) + 1
    watcher = watched(tmp_path, selection=selection_of("first", most, None, 0, ()), look=Look("cividis"))
    for number in range(1, most + 1):
        watcher.begin_epoch(number)
        watcher.see(torch.zeros(most, 3, 9, 12) + torch.arange(most)[:, None, None, None] / 60, torch.arange(most) % 5)
        watcher.end_epoch()
    dataset = said_in(tmp_path)["datasets"][0]
    assert [one["epoch"] for one in dataset["epochs"]] == list(range(1, most + 1)) and len(dataset["images"]) == most
    assert said_in(tmp_path)["colormap"] == "cividis"


def test_a_resumed_training_gives_the_page_of_one_that_was_not_killed(tmp_path: Path) -> None:
    """Byte by byte; what was saved of it goes through a file."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        watcher = watched(folder)
        for number in (1, 2, 3):
            if folder == killed and number == 3:
                state, model = pickle.loads(pickle.dumps(watcher.state())), watcher.source.model
                watcher = watched(folder, model=model)
                watcher.restore(state)
            one_epoch(watcher, number, {"accuracy": number / 4})
            changed(watcher.source.model)
    assert (whole / "gradcam_eval_report.html").read_bytes() == (killed / "gradcam_eval_report.html").read_bytes()


def test_a_new_training_begins_a_new_page_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    watcher = watched(tmp_path)
    one_epoch(watcher, 1)
    watcher.begin(anew=False)
    one_epoch(watcher, 2)
    assert [one["epoch"] for one in said_in(tmp_path)["datasets"][0]["epochs"]] == [1, 2]
    watcher.begin()
    one_epoch(watcher, 3)
    assert [one["epoch"] for one in said_in(tmp_path)["datasets"][0]["epochs"]] == [3]


def test_a_page_that_cannot_be_written_is_a_warning_and_the_next_epoch_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watched(tmp_path, on_error="warn")
    monkeypatch.setattr(product, "write_page", failing(OSError("no space left")))
    with pytest.warns(CamWarning, match="could not make the report of this epoch; the training goes on"):
        epoch = one_epoch(watcher, 1)
    assert "gradcam_film" in epoch and "gradcam_report" not in epoch
    monkeypatch.undo()
    one_epoch(watcher, 2)
    assert [one["epoch"] for one in said_in(tmp_path)["datasets"][0]["epochs"]] == [1, 2]


def test_a_large_page_is_warned_of_once_and_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = watched(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_epoch(watcher, 1)
    monkeypatch.setattr(product, "LARGE", 1000)
    with pytest.warns(CamWarning, match=r"gradcam_eval_report\.html has 0\.\d MB .*n_samples=, fewer methods") as said:
        for number in (2, 3):
            one_epoch(watcher, number)
    assert len(said) == 1


def test_notes_say_what_the_page_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_epoch(watched(tmp_path, report={"pictures": False}), 1)
    lacks = ["Pictures are not included.", "No class was judged, as atlas=True was not passed."]
    assert said_in(tmp_path)["notes"] == lacks
    monkeypatch.setattr(product, "HEAT_MOST", 6)
    one_epoch(watched(tmp_path), 1)
    assert said_in(tmp_path)["notes"] == [lacks[1], "Heat of grad_cam is kept at 6 pixels of 10."]
    assert said_in(tmp_path)["datasets"][0]["epochs"][0]["columns"][0]["heat"]["w"] == 6


def test_epochs_that_were_left_out_stay_out_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = watched(tmp_path)
    one_epoch(watcher, 1, {"accuracy": 0.5})
    monkeypatch.setattr(pages, "TOO_LARGE", (tmp_path / "gradcam_eval_report.html").stat().st_size + 400)
    for number in (2, 3):
        one_epoch(watcher, number, {"accuracy": 0.5})
    said = said_in(tmp_path)
    assert [one["epoch"] for one in said["datasets"][0]["epochs"]] == [3]
    assert said["notes"][0].startswith("Epochs 1 to 2 were left out")
    assert [epoch for epoch, _ in said["curves"][0]["points"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("report", "how", "error", "said"),
    [
        (True, {"save_dir": None}, ArgumentError, r"report=True is written to a file\. Pass save_dir="),
        (
            "yes",
            {},
            ArgumentError,
            r"report='yes' is not accepted\. Accepted: True, False, or a dict of settings: pict",
        ),
        (
            {"picture": True},
            {},
            UnknownNameError,
            r"no setting 'picture'; did you mean 'pictures'\? Accepted: pictures",
        ),
        ({"pictures": 1}, {}, ArgumentError, r"report\['pictures'\]=1 is not accepted\. Accepted: True or False"),
        ({"title": 3}, {}, ArgumentError, r"report\['title'\]=3 is not accepted\. Accepted: text"),
        (
            True,
            {"selection": selection_of("first", 0, None, 0, ())},
            ArgumentError,
            r"none are chosen\. Pass n_samples",
        ),
    ],
)
def test_mistakes_are_errors_at_once(tmp_path: Path, report: Any, how: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        Options(report=report, **{"save_dir": tmp_path, **how})
