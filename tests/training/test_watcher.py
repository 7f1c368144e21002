"""The engine by itself: without a host, with a product of somebody else's, and where things fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastestimator.util.data import Data

from fe_gradcam import ArgumentError, CamWarning, GradCAM
from fe_gradcam.drawing.grid import Grid, Panel, Row
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.training import watcher as engine
from fe_gradcam.training.epoch import Cost, Epoch, Product
from fe_gradcam.training.options import Options
from fe_gradcam.training.selection import Selection, selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher
from tests.models.toys import SmallTorch
from tests.trainings import build, estimator, failing, fitted, gradcam, printed

EVERYTHING = """
import json
import sys

sys.modules["fastestimator"] = sys.modules["plotly"] = None  # they are not to be had here
framework, folder = sys.argv[1:]

import numpy as np
import torch
from tests.models.toys import SmallTorch, small_keras
from fe_gradcam.training.options import Classes, Options
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.training.selection import Selection, selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher

torch.manual_seed(0)  # some weights give a blank map, which has no drift
model = SmallTorch() if framework == "torch" else small_keras()
options = Options(
    {"model", "labels", "preds", "ids", "masks", "boxes", "display"},
    classes=Classes.of({"cat": 0, "dog": 1}), methods=["grad_cam", "score_cam"], targets=["pred", "dog"],
    selection=Selection("random", ("random",), 4), settings=Settings(smooth="augment"), shared_scale=True,
    track=True, atlas=24, save_dir=folder,
    metrics=["deletion", "sanity", "energy_inside", "drift", "overlap"], on_error="raise",
)
watcher = Watcher(ModelSource(model, options), options)
images = np.random.default_rng(0).normal(size=(20, 9, 12, 3)).astype(np.float32)
x = images.transpose(0, 3, 1, 2) if framework == "torch" else images
masks = np.zeros((20, 9, 12), bool)
masks[:, 2:6, 3:8] = True
found = []
watcher.begin()
for number in (1, 2):
    watcher.begin_epoch()
    for at in [slice(start, start + 5) for start in range(0, 20, 5)]:
        watcher.see(
            x[at], np.arange(20)[at] % 5, np.full((5, 5), 0.2, np.float32), ids=[f"image {one}" for one in range(5)],
            masks=masks[at], boxes=np.tile([2, 1, 8, 7], (5, 1)), display=images[at],
        )
    epoch = watcher.end_epoch({"accuracy": 0.5})
    found.append({
        "keys": sorted([*epoch.values, *epoch.logged]),
        "logged": {key: put.of_all for key, put in epoch.logged.items()},
        "ids": [result["id"] for result in epoch["gradcam_results"]], "size": list(epoch["gradcam_film"].rgb.shape),
        "accuracy": epoch.log["accuracy"], "cost": sorted(epoch.cost.seconds), "said": str(epoch.cost),
    })
other = Watcher(ModelSource(model, options), options)
other.restore(watcher.state())
print(json.dumps({"epochs": found, "keys": sorted(watcher.keys), "streams": list(other.history.streams)}))
"""


def test_everything_is_made_without_a_host(framework: str, tmp_path: Path) -> None:
    """Two epochs with all outputs on, in an interpreter that has neither FastEstimator nor plotly."""
    said = printed(EVERYTHING, framework, str(tmp_path))
    first, second = said["epochs"]
    of_some = {"gradcam_experiments", "gradcam_shortcuts", "gradcam_surroundings"}  # masks, or classes to judge
    assert set(second["keys"]) == set(said["keys"]) - of_some
    moved = {f"gradcam_{name}_{method}" for name in ("drift", "overlap") for method in ("grad_cam", "score_cam")}
    assert set(said["keys"]) - set(first["keys"]) - of_some == moved
    assert all(np.isfinite(second["logged"][key]) for key in second["logged"])
    assert "gradcam_fixed_place" not in second["logged"]
    assert first["ids"] == second["ids"]
    assert second["size"][1] > first["size"][1]  # the film has a column more
    assert second["accuracy"] == 0.5
    assert second["cost"] == ["atlas", "explaining", "film", "grid", "metrics"]
    assert "% of the epoch's" in second["said"]
    assert said["streams"] == [["eval", ""]]
    names = [f"gradcam_eval_atlas_epoch_{n:03d}.png" for n in (1, 2)]
    names += [f"gradcam_eval_epoch_{n:03d}.{ending}" for n in (1, 2) for ending in ("npz", "png")]
    names.append("gradcam_eval_film.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == names


class Brightness(Product):
    """A product that chooses its own rows, draws a picture and logs a number."""

    name = "brightness"
    keys: Sequence[str] = ("gradcam_brightness", "gradcam_brightest")
    logged: Sequence[str] = ("gradcam_brightness",)
    selection: Selection | None = Selection(limit=3)
    says: Mapping[str, str] = {"gradcam_brightness": "255 is white"}

    def make(self, epoch: Epoch) -> None:
        pictures, means = {}, {}
        for dataset, rows in epoch.rows(self.name).items():
            shown = epoch.reader.pictures(rows)
            means[dataset] = shown.mean((1, 2, 3)).astype(np.float32)
            row = Row((), wrong=False, panels=(Panel(shown[int(means[dataset].argmax())]),))
            pictures[dataset] = Picture(Grid((row,), ("brightest",), "gray", "brightness", (0.0, 255.0)))
        epoch.log_mean(self.keys[0], means)
        epoch.show(self.keys[1], pictures, f"brightest_epoch_{epoch.number}")
        assert "gradcam" in epoch  # what was put out before may be looked at


def test_a_new_output_is_one_entry_and_is_there_for_the_host_too(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PRODUCTS", [*engine.PRODUCTS, lambda options: Brightness()])
    model = build(framework)
    trace = gradcam(model, n_samples=2, save_dir=tmp_path)
    assert set(Brightness.keys) <= set(trace.get_outputs(None))
    catch = fitted(framework, model, trace)
    assert 0 < catch.caught[0]["gradcam_brightness"] < 255
    assert "gradcam_brightness" in catch.logged[0]
    assert "gradcam_brightest" not in catch.logged[0]
    assert (tmp_path / "gradcam_eval_brightest_epoch_1.png").exists()
    assert catch.caught[0]["gradcam_brightest"].raster.ndim == 3


def watched(*more: str, around: Any = nullcontext, **how: Any) -> Watcher:
    """Of a model and labels, and more."""
    options = Options({"model", "labels", *more}, **{"selection": selection_of("first", 3, None, 0, ()), **how})
    watcher = Watcher(ModelSource(SmallTorch().eval(), options), options, around=around)
    watcher.begin()
    return watcher


def one_epoch(watcher: Watcher, number: int = 1) -> Epoch:
    watcher.begin_epoch(number)
    generator = torch.Generator().manual_seed(number)
    watcher.see(torch.rand(6, 3, 9, 12, generator=generator), torch.arange(6) % 5)
    return watcher.end_epoch()


def test_a_product_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PRODUCTS", [lambda options: Brightness(), *engine.PRODUCTS])
    monkeypatch.setattr(Brightness, "make", failing(MemoryError("on request")))
    watcher = watched(track=True, atlas=6, metrics="average_drop")
    for number in (1, 2):
        with pytest.warns(
            CamWarning, match="could not make the brightness of this epoch; the training goes on"
        ) as said:
            epoch = one_epoch(watcher, number)
        assert len([one for one in said if "could not" in str(one.message)]) == 1
        assert {"gradcam", "gradcam_film", "gradcam_average_drop", "gradcam_atlas"} <= {*epoch.values, *epoch.logged}
        assert "gradcam_brightness" not in epoch


def test_what_products_share_is_warned_of_once_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = watched(track=True, metrics="average_drop")
    one_epoch(watcher)
    monkeypatch.setattr("fe_gradcam.training.source.explained", failing(RuntimeError("on request")))
    with pytest.warns(CamWarning, match="on request") as said:
        epoch = one_epoch(watcher, 2)
    assert len(said) == 1
    assert not epoch.values
    monkeypatch.undo()
    assert "gradcam_film" in one_epoch(watcher, 3)


def test_a_batch_that_lacks_what_the_options_count_on_is_refused_at_once() -> None:
    watcher = watched()
    watcher.begin_epoch()
    with pytest.raises(ArgumentError, match=r"see\(\) got no labels, which the options need"):
        watcher.see(torch.rand(2, 3, 9, 12))


def test_an_epoch_in_which_nothing_is_wanted_puts_out_nothing() -> None:
    watcher = watched(frequency=2)
    assert not one_epoch(watcher, 1).values
    assert one_epoch(watcher, 2).values


def test_a_cost_says_seconds_share_and_products() -> None:
    cost = Cost(of=50.0)
    cost.add("explaining", 0.75)
    cost.add("grid", 0.25)
    cost.add("explaining", 0.25)
    assert str(cost) == "1.2 s, 2.5% of the epoch's 50 s (explaining 1, grid 0.25)"


@pytest.mark.parametrize(
    ("modes", "log_steps", "epochs"),
    [("!train", 0, [1, 2]), (["train", "eval"], 0, [1, 2]), ("train", 0, [1, 2]), (None, None, [])],
)
def test_the_log_says_once_an_epoch_what_its_end_cost(
    modes: Any, log_steps: Any, epochs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("torch")
    fitting = estimator("torch", model, [gradcam(model, mode=modes, n_samples=1)], epochs=2)
    fitting.system.log_steps = log_steps
    fitting.fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FastEstimator-GradCAM")]
    assert [int(line.split("epoch: ")[1].split(";")[0]) for line in lines] == epochs
    assert all(" s, " in line and "explaining" in line and "grid" in line for line in lines)


def test_rows_of_another_shape_are_left_out_and_said_once() -> None:
    """Images of two sizes in one epoch: of the atlas, which wants six images, three are left."""
    watcher = watched(track=True, atlas=6)
    watcher.begin_epoch(1)
    watcher.see(torch.rand(3, 3, 9, 12), torch.arange(3))
    with pytest.warns(
        CamWarning, match=r"other shapes than those before: images \(3, 9, 14\), not \(3, 9, 12\)"
    ) as said:
        for _ in range(3):
            watcher.see(torch.rand(3, 3, 9, 14), torch.arange(3))
    assert len(said) == 1
    epoch = watcher.end_epoch()
    assert {"gradcam", "gradcam_film", "gradcam_atlas"} <= set(epoch.values)
    assert "3 batches of this epoch could not be read" in epoch.messages[0]
    assert len(epoch.rows("atlas")[""]) == 3


@pytest.mark.parametrize("at", ["try_out", "see", "end_epoch"])
def test_a_model_that_cannot_be_brought_where_it_is_explained_is_a_warning(at: str) -> None:
    broken = [at == "try_out"]

    @contextmanager
    def around() -> Iterator[None]:
        if broken[0]:
            raise RuntimeError("out of memory")
        yield

    watcher = watched(around=around)
    with pytest.warns(CamWarning, match="out of memory"):
        if at == "try_out":
            watcher.try_out((np.ones((1, 3, 9, 12), np.float32),))
        watcher.begin_epoch(1)
        broken[0] = at == "see"
        watcher.see(torch.rand(6, 3, 9, 12), torch.arange(6) % 5)
        broken[0] = at == "end_epoch"
        epoch = watcher.end_epoch()
    assert ("gradcam" in epoch) == (at != "end_epoch")
    broken[0] = False
    assert one_epoch(watcher, 2).values


def test_a_later_batch_that_lacks_a_part_is_a_warning_and_is_left_out() -> None:
    trace = GradCAM("x", model=SmallTorch().eval(), labels="y", select="random")
    network = SimpleNamespace(target_type="torch", device=None)
    trace.system = SimpleNamespace(traces=[trace], mode="eval", epoch_idx=1, ds_id="", network=network, log_steps=None)
    trace.on_epoch_begin(Data())
    trace.on_batch_end(Data({"x": torch.rand(3, 3, 9, 12), "y": torch.arange(3)}))
    with pytest.warns(CamWarning, match="This batch holds no labels='y', which the first batch held"):
        trace.on_batch_end(Data({"x": torch.rand(3, 3, 9, 12)}))
    trace.on_batch_end(Data({"x": torch.rand(3, 3, 9, 12), "y": torch.arange(3)}))
    put_out = Data()
    trace.on_epoch_end(put_out)
    assert [result["position"] for result in put_out["gradcam_results"]] == [0, 1, 2, 7, 8]


def test_a_film_outlines_the_object_in_every_picture_and_says_what_is_not_labelled() -> None:
    watcher = watched("masks", track=True, targets=["label"], on_error="raise")
    masks = np.zeros((2, 9, 12), bool)
    masks[:, 2:5, 3:6] = True
    for number in (1, 2):
        watcher.begin_epoch(number)
        watcher.see(torch.rand(2, 3, 9, 12), np.array([1, -1]), masks=masks)
        film = watcher.end_epoch()["gradcam_film"].grid
    assert all(np.array_equal(panel.outline, masks[0]) for row in film.rows for panel in row.panels)
    assert [len(row.panels) for row in film.rows] == [3, 3]
    assert film.scale_label.endswith("outlined: where the object is")
    assert [panel.note for panel in film.rows[1].panels[1:]] == ["not labelled"] * 2
    assert "not labelled" not in [panel.note for panel in film.rows[0].panels]
