"""The same images over the epochs: what is followed, the filmstrip, how far heat moves, and a training resumed."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dill
import fastestimator as fe
import numpy as np
import pytest
import torch
from fastestimator.backend import set_lr
from fastestimator.trace.io import RestoreWizard
from fastestimator.util.data import Data
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike, NDArray

from fe_gradcam import ArgumentError, CamWarning, GradCAM
from fe_gradcam.drawing.canvas import LINE, RED
from fe_gradcam.drawing.film import CELL, MOST_COLUMNS, shown_epochs
from fe_gradcam.drawing.grid import GAP, MARGIN, Text, draw_grid
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.drawing.sheet import LEFT_TO_RIGHT, Look, compose_grid
from fe_gradcam.explaining.explained import Column, Explained, with_shared_scale
from fe_gradcam.scaling import scale
from fe_gradcam.training.epoch import Epoch
from fe_gradcam.training.history import HEAT_SIDE, MOST_EPOCHS, MOST_IMAGES, PICTURE_SIDE, Followed, History, compare
from fe_gradcam.training.options import Classes, Options
from fe_gradcam.training.products.film import FilmProduct
from fe_gradcam.training.rows import Rows
from tests.heat import heatmap_of
from tests.reporting.pages import page_in
from tests.trainings import (
    FRAMEWORKS,
    Catch,
    KilledError,
    Killer,
    digit_net,
    digits,
    estimator,
    gradcam,
    in_another_process,
    keyed_gradcam,
    ops_of,
    read_png,
    words_of,
)

EVAL = ("eval", "")
HeatValues = NDArray[np.float32]


# --- how far heat moves ------------------------------------------------------------------------------------


def test_heat_that_stays_has_no_drift_and_overlaps_wholly() -> None:
    values = np.random.default_rng(0).random((3, 8, 9)).astype(np.float32)
    # Stronger heat in the same order is the same heat.
    for again in (values, values / 2):
        found = compare(values, again)
        assert_allclose(found["drift"], 0, atol=1e-6)  # of float32 values
        assert_allclose(found["overlap"], 1)


def test_drift_and_overlap_by_hand() -> None:
    """Ten pixels, of which two are the hottest fifth. Reversed order: rank correlation -1, drift 2, none in common.

    The two hottest changed into the first and the third: of three one is in common. Ranks 10 9 8 7 ... become
    10 8 9 7 ...: 1 - 6 (1 + 1) / (10 * 99) = 1 - 12 / 990.
    """
    falling = np.arange(10, 0, -1, dtype=np.float32).reshape(1, 2, 5)
    swapped = falling.copy()
    swapped[0, 0, 1:3] = 8, 9
    found = compare(falling, swapped)
    assert_allclose(found["drift"], 12 / 990, atol=1e-6)
    assert_allclose(found["overlap"], 1 / 3, rtol=1e-6)
    found = compare(falling, falling[..., ::-1, ::-1].copy())
    assert_allclose(found["drift"], 2, rtol=1e-6)
    assert_allclose(found["overlap"], 0)


def test_random_heat_drifts_by_one_and_overlaps_as_by_chance() -> None:
    """Two random fifths share 1/25 of all pixels, and hold 9/25 together: 1/9. Spreads are below 0.01 here."""
    generator = np.random.default_rng(1)
    found = compare(*(generator.random((50, 20, 20)).astype(np.float32) for _ in range(2)))
    assert_allclose(found["drift"].mean(), 1, atol=0.03)
    assert_allclose(found["overlap"].mean(), 1 / 9, atol=0.01)


def test_each_method_and_target_is_compared_with_its_own_past() -> None:
    generator, followed = np.random.default_rng(2), new()
    maps = [generator.random((2, 4, 5)).astype(np.float32) for _ in range(4)]

    def epoch(number: int, *columns: tuple[str, str, HeatValues]) -> dict[str, dict[str, HeatValues]]:
        part = part_of(columns[0][2])
        made = [Column(method, target, heatmap_of(values)) for method, target, values in columns]
        followed.add(number, replace(part, columns=made))
        return followed.moved("pred")

    assert epoch(1, ("m", "pred", maps[0]), ("n", "pred", maps[1]), ("m", "dog", maps[2])) == {}
    found = epoch(2, ("m", "pred", maps[0]), ("n", "pred", maps[0]), ("m", "dog", maps[3]))
    assert set(found) == {"m", "n"}
    assert_allclose(found["m"]["drift"], 0, atol=1e-6)
    assert (found["n"]["drift"] > 0.01).all()
    assert followed.moved("dog")["m"]["drift"].min() > 0.01
    # Negative heat is none, blank heat says nothing, nor does that of another number of images.
    blank = epoch(3, ("m", "pred", maps[0] - 5))["m"]
    assert np.isnan([blank["drift"], blank["overlap"]]).all()
    assert epoch(4, ("m", "pred", maps[0][:1])) == {}


# --- the filmstrip -----------------------------------------------------------------------------------------


def part_of(values: HeatValues, inferred: ArrayLike = 0, **how: Any) -> Explained:
    """Images of class 0, and what they are taken for with 80%."""
    count = len(values)
    probabilities = np.full((count, 3), 0.1, np.float32)
    probabilities[np.arange(count), inferred] = 0.8
    pictures = np.random.default_rng(0).integers(0, 256, (*values.shape, 3)).astype(np.uint8)
    ids = [f"image {at}" for at in range(count)]
    column = Column("grad_cam", "pred", heatmap_of(values, **how))
    return Explained(pictures, [column], probabilities, np.zeros(count, np.int64), ids)


OPTIONS = Options(track=True, classes=Classes.of({"cat": 0, "dog": 1}))


def film_of(product: FilmProduct, number: int, part: Explained, followed: Followed) -> Any:
    """The film once an epoch has shown the part."""
    history, reader = History(), cast(Any, SimpleNamespace(explained=lambda rows, dataset: part))
    history.streams[EVAL] = followed
    epoch = Epoch(number, "eval", OPTIONS, reader, lambda product: {"": followed.rows}, history)
    product.make(epoch)
    return epoch["gradcam_film"].grid


def new() -> Followed:
    return Followed(Rows({}, np.zeros(0, np.int64)))


def filmed(followed: Followed, epochs: range, count: int = 3, side: tuple[int, int] = (8, 12)) -> Any:
    """In each epoch the image of that number (modulo `count`) is taken for another class; of all the true one is 0."""
    product = FilmProduct(OPTIONS)
    for epoch in epochs:
        values = np.random.default_rng(epoch).random((count, *side)).astype(np.float32)
        values /= values.max((1, 2), keepdims=True)
        part = part_of(values, (np.arange(count) == epoch % count).astype(int))
        film = film_of(product, epoch, part, followed)
    return film, compose_grid([part], {0: "cat", 1: "dog"}, Look(), f"eval, epoch {epoch}")


def test_a_film_has_a_row_for_each_image_and_a_column_for_each_epoch() -> None:
    film, grid = filmed(new(), range(1, 5))
    assert film.titles == ("image", "epoch 1", "epoch 2", "epoch 3", "epoch 4")
    assert film.title == "eval, epochs 1 to 4"
    assert film.subtitle == "grad_cam for the inferred class, layer conv3, map 8 x 12"
    assert film.scale_label == grid.scale_label
    assert len(film.rows) == 3
    for at, row in enumerate(film.rows):
        assert words_of(row) == {"id": f"image {at}", "label": "cat"}  # what was inferred stands on each picture
        assert not row.wrong
        assert np.array_equal(row.panels[0].rgb, grid.rows[at].panels[0].rgb)
        assert [panel.framed for panel in row.panels] == [False, *(epoch % 3 == at for epoch in range(1, 5))]
        for epoch, panel in enumerate(row.panels[1:], 1):
            assert panel.caption == Text("prediction", f"{'dog' if epoch % 3 == at else 'cat'}{LEFT_TO_RIGHT}", "(80%)")
            assert not panel.note
        assert np.array_equal(row.panels[-1].rgb, grid.rows[at].panels[1].rgb)


def test_a_net_that_answers_nan_infers_no_class_and_is_not_wrong() -> None:
    values = np.random.default_rng(0).random((2, 8, 12)).astype(np.float32)
    told = part_of(values, 1)
    film = film_of(FilmProduct(OPTIONS), 1, replace(told, probabilities=np.full((2, 3), np.nan, np.float32)), new())
    for row in film.rows:
        assert [panel.framed for panel in row.panels] == [False, False]
        assert row.panels[1].caption == Text("prediction", "none", "(NaN)")


def test_a_wrong_answer_has_a_red_frame_in_the_picture_and_a_right_one_none() -> None:
    film, _ = filmed(new(), range(1, 3), count=2)
    width, height = CELL, round(CELL * 8 / 12)
    for row in film.rows:
        alone = replace(
            film, rows=(replace(row, texts=(), panels=tuple(replace(one, caption=None) for one in row.panels)),)
        )
        red = (draw_grid(alone, cell=CELL) == RED).all(-1)
        assert red[-2 * LINE :, :CELL].any(), "the frame is explained below the pictures"
        red[:, :CELL] = False
        (wrong,) = [at for at, panel in enumerate(row.panels) if panel.framed]
        rows, columns = np.nonzero(red)
        left = MARGIN + wrong * (CELL + GAP)
        assert (columns.min(), columns.max()) == (left, left + width - 1)
        assert np.ptp(rows) + 1 == height
        inside = red[rows.min() + 3 : rows.max() - 2, left + 3 : left + width - 3]
        assert not inside.any()
        assert red.sum() == 2 * 3 * (width + height - 6)  # three pixels wide, within the picture


@pytest.mark.parametrize("epochs", [MOST_EPOCHS - 1, MOST_EPOCHS, MOST_EPOCHS + 1, 3 * MOST_EPOCHS, 200])
def test_a_long_film_is_thinned_and_keeps_its_first_and_its_last_epoch(epochs: int) -> None:
    followed = new()
    film, _ = filmed(followed, range(1, epochs + 1), count=1, side=(4, 4))
    numbers = [record.epoch for record in followed.records]
    shown = [numbers[at] for at in shown_epochs(len(numbers))]
    assert [f"epoch {number}" for number in shown] == list(film.titles[1:])
    assert MOST_COLUMNS // 2 < len(shown) <= MOST_COLUMNS
    assert (shown[0], shown[-1]) == (1, epochs)
    assert len(set(np.diff(shown[:-1]).tolist())) == 1
    assert film.title == f"eval, epochs 1 to {epochs}"
    assert len(numbers) <= MOST_EPOCHS
    assert (numbers[0], numbers[-1]) == (1, epochs)
    assert numbers == sorted(set(numbers))
    if epochs <= MOST_EPOCHS:
        assert numbers == list(range(1, epochs + 1))
    else:
        assert len(numbers) > MOST_EPOCHS // 2
        assert len(set(np.diff(numbers[:-1]).tolist())) == 1  # the axis of time is even, but for the last


def test_a_film_shows_every_epoch_while_there_is_room_and_then_every_second() -> None:
    assert shown_epochs(1) == [0]
    assert shown_epochs(MOST_COLUMNS) == list(range(MOST_COLUMNS))
    assert shown_epochs(13) == [0, 2, 4, 6, 8, 10, 12]
    assert shown_epochs(24) == [0, 4, 8, 12, 16, 20, 23]  # by twos and the last they would be 13


def test_an_epoch_that_is_taken_again_replaces_itself_and_what_came_after() -> None:
    """As where a training is resumed from an epoch before its last."""
    followed = new()
    filmed(followed, range(1, 5))
    film, _ = filmed(followed, range(3, 4))
    assert film.titles[1:] == ("epoch 1", "epoch 2", "epoch 3")


@pytest.mark.parametrize("scaling", ["scale_after_relu", "scale_before_relu", "none"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_newest_heat_is_that_of_the_grid_and_past_heat_is_within_half_a_step_of_it(
    scaling: Any, shared: bool
) -> None:
    """A step is 1/127 of the largest magnitude; a scaling to the maximum of a map enlarges it by that maximum."""
    raw = np.random.default_rng(0).normal(0, 3, (2, 7, 7)).astype(np.float32)
    values = scale(torch.from_numpy(raw), scaling, (56, 56)).numpy()
    column = Column("grad_cam", "pred", heatmap_of(values, raw=raw, scaling=scaling))
    part = Explained(np.zeros((2, 56, 56, 3), np.uint8), [column], None, None, None)
    (part,) = with_shared_scale([part]) if shared else (part,)
    shown = part.columns[0].heatmap.values
    followed = new()
    for epoch in (1, 2):
        followed.add(epoch, part)
        assert np.array_equal(followed.newest[0].values(), shown)
    past = followed.records[0].heat
    assert past.raw.dtype == np.int8
    step = np.abs(raw).max() / 127 if scaling == "none" else 1 / 127
    most = np.abs(raw).max((1, 2)) / raw.max((1, 2))
    assert np.abs(past.values() - shown).max() <= step * (1 if scaling == "none" else most.max())


def test_what_is_kept_is_small() -> None:
    """1.2 MB of pictures and 28 kB of heat, beside the newest: of 24 images of 300 x 150 over 24 epochs."""
    followed = new()
    for epoch in range(1, MOST_EPOCHS + 1):
        values = np.random.default_rng(epoch).random((MOST_IMAGES + 4, 7, 7)).astype(np.float32)
        followed.add(epoch, replace(part_of(values), pictures=np.zeros((len(values), 300, 150, 3), np.uint8)))
    assert followed.pictures is not None
    assert followed.pictures.shape == (MOST_IMAGES, PICTURE_SIDE, PICTURE_SIDE // 2, 3)
    assert len(followed.records) == MOST_EPOCHS
    past = [record.heat.raw for record in followed.records[:-1]]
    assert sum(raw.nbytes for raw in past) == 23 * MOST_IMAGES * 49
    followed = new()
    for epoch in (1, 2):
        followed.add(epoch, part_of(np.zeros((1, 300, 150), np.float32)))  # a method that has the size of the image
    assert max(followed.records[0].heat.raw.shape) == HEAT_SIDE


def test_without_evidence_the_film_says_so() -> None:
    part = part_of(np.zeros((1, 4, 4), np.float32), blank=True)
    assert film_of(FilmProduct(OPTIONS), 1, part, new()).rows[0].panels[1].note == "no evidence"


# --- a state that is saved -------------------------------------------------------------------------------


def test_a_state_is_plain_and_what_it_restores_is_the_same() -> None:
    history = History()
    rows = Rows({"images": np.arange(6).reshape(3, 2), "ids": ["a", "b", "c"]}, np.array([4, 0, 9]), 7)
    history.streams[EVAL] = followed = Followed(rows)
    filmed(followed, range(1, 4))
    state = dill.loads(dill.dumps(history.state()))

    def only_plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(only_plain(key) and only_plain(one) for key, one in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(only_plain, value))
        return value is None or isinstance(value, (np.ndarray, str, int, float, bool))

    assert only_plain(state)
    other = History()
    other.restore(state)
    again = other.streams[EVAL]
    assert again.rows["ids"] == ["a", "b", "c"]
    assert again.rows.positions.tolist() == [4, 0, 9]
    assert again.rows.largest_batch == 7
    film, _ = filmed(again, range(4, 5))
    assert film.titles[1:] == ("epoch 1", "epoch 2", "epoch 3", "epoch 4")
    expected, _ = filmed(followed, range(4, 5))
    assert np.array_equal(Picture(film).rgb, Picture(expected).rgb)
    moved, expected_moved = again.moved("pred")["grad_cam"], followed.moved("pred")["grad_cam"]
    assert np.array_equal(moved["drift"], expected_moved["drift"])


# --- in trainings ------------------------------------------------------------------------------------------


def net(framework: str, name: str = "followed") -> Any:
    model = fe.build(lambda: digit_net(framework, "mean", [(6, 5, 3), (8, 3, 2)]), "adam", model_name=name)
    set_lr(model, 1e-2)
    return model


def training(framework: str, *traces: Any, model: Any = None, **how: Any) -> fe.Estimator:
    """Three epochs of 24 digits, unless told otherwise."""
    data = digits(framework, slice(0, 24))
    given = {"epochs": 3, "train_data": data, "eval_data": data, **how}
    return estimator(framework, model or net(framework), list(traces), **given)


def followed(model: Any, **more: Any) -> GradCAM:
    return gradcam(model, **{"preds": "y_pred", "ids": "name", "track": True, **more})


def test_the_same_images_are_followed_in_a_shuffled_epoch_and_filmed_after_each(framework: str, tmp_path: Path) -> None:
    model, file = net(framework), tmp_path / "gradcam_train_film.png"
    seen: list[list[int]] = []
    widths: list[int] = []

    class Watch(Catch):
        def on_epoch_begin(self, data: Any) -> None:
            seen.append([])

        def on_batch_end(self, data: Any) -> None:
            seen[-1] += [int(one) for one in data["name"]]

        def on_epoch_end(self, data: Any) -> None:
            super().on_epoch_end(data)
            widths.append(read_png(file).shape[1])

    catch, common = Watch("train"), {"mode": "train", "select": "random", "n_samples": 4}
    track = followed(model, save_dir=tmp_path, metrics=["drift", "overlap"], **common)
    free = followed(model, outputs="free", track=False, **common)
    training(framework, track, free, catch, model=model).fit()
    ids = [[result["id"] for result in caught["gradcam_results"]] for caught in catch.caught]
    assert seen[0] != seen[1]  # the pipeline shuffles
    assert ids[0] == ids[1] == ids[2]
    assert [seen[0][result["position"]] for result in catch.caught[2]["gradcam_results"]] == ids[0]
    free_ids = [[result["id"] for result in caught["free_results"]] for caught in catch.caught]
    assert free_ids[0] == ids[0]  # the same places of the epoch,
    assert free_ids[1] != ids[0]  # at which other images are in the next
    for epoch, caught in enumerate(catch.caught, 1):
        film = caught["gradcam_film"].grid
        assert film.titles == ("image", *(f"epoch {number}" for number in range(1, epoch + 1)))
        assert [words_of(row)["id"] for row in film.rows] == [f"id {one}" for one in ids[0]]
        for row, shown in zip(film.rows, caught["gradcam"].grid.rows, strict=True):
            newest, of_grid = row.panels[-1].rgb.astype(int), shown.panels[1].rgb[1::3, 1::3]  # three times the size
            assert np.abs(newest - of_grid).max() <= 12  # where the hottest place lies between pixels of the film
            assert np.abs(newest - of_grid).mean() < 1
            assert row.panels[-1].framed == shown.wrong
        if epoch == 1:
            assert np.isnan([caught["gradcam_drift"], caught["gradcam_overlap"]]).all()
        else:
            assert 0 <= caught["gradcam_drift"] <= 2
            assert 0 <= caught["gradcam_overlap"] < 1
    assert ["gradcam_drift" in logged for logged in catch.logged] == [False, True, True]
    # A column more in each file; its cell and the gap beside it.
    assert np.diff(widths).tolist() == [CELL + 6] * 2
    assert np.array_equal(read_png(file), catch.caught[-1]["gradcam_film"].raster)


def test_a_model_that_does_not_learn_does_not_drift_and_a_second_training_starts_anew(framework: str) -> None:
    model, catch = net(framework), Catch("eval")
    trace = followed(model, metrics=["drift", "overlap"], n_samples=3)
    fitting = training(framework, trace, catch, model=model, epochs=2, ops=ops_of(model)[:2])
    fitting.fit()
    fitting.fit()
    assert [caught["epoch"] for caught in catch.caught] == [1, 2, 1, 2]
    for first, second in (catch.caught[:2], catch.caught[2:]):
        assert np.isnan(first["gradcam_drift"])
        assert first["gradcam_film"].grid.titles == ("image", "epoch 1")
        # The same pass again; rounding may swap pixels of almost the same heat.
        assert second["gradcam_drift"] == pytest.approx(0, abs=1e-4)
        assert second["gradcam_overlap"] == pytest.approx(1, abs=0.02)


def test_datasets_have_films_of_their_own(tmp_path: Path) -> None:
    model, catch = net("torch"), Catch("eval")
    data = {"day": digits("torch", slice(0, 6)), "night": digits("torch", slice(6, 14))}
    trace = followed(model, n_samples=7, save_dir=tmp_path)
    training("torch", trace, catch, model=model, epochs=2, eval_data=data).fit()
    caught = catch.caught[-1]
    assert [len(caught[f"gradcam_film|{name}"].grid.rows) for name in ("day", "night")] == [6, 7]
    assert caught["gradcam_film|night"].grid.title == "eval, night, epochs 1 to 2"
    assert len(caught["gradcam_film"].grid.rows) == 6
    written = sorted(path.name for path in tmp_path.glob("*film*"))
    assert written == ["gradcam_eval_film_day.png", "gradcam_eval_film_night.png"]


def test_following_needs_a_model() -> None:
    with pytest.raises(ArgumentError, match=r"track=True explains images with the model.* Pass model= instead"):
        keyed_gradcam(track=True)


# --- a training that is resumed ------------------------------------------------------------------------------


def resumable(framework: str, folder: Path, killed: int | None = None) -> dict[str, Any]:
    """Trains for four epochs, or those before `killed`, from where the folder says the last training ended."""
    model, catch = net(framework, f"resumed_{framework}"), Catch("eval")
    trace = followed(model, select="random", n_samples=3, metrics="drift", save_dir=folder, report=True)
    traces = [trace, catch, Killer(killed), RestoreWizard(str(folder / "state"))]
    with contextlib.suppress(KilledError):
        training(framework, *traces, model=model, epochs=4).fit(warmup=False)
    trace.watcher.folder.end()  # as with a process that is killed
    return {
        "epochs": [caught["epoch"] for caught in catch.caught],
        "titles": [list(caught["gradcam_film"].grid.titles[1:]) for caught in catch.caught],
        "ids": [[int(result["id"]) for result in caught["gradcam_results"]] for caught in catch.caught],
        "drift": [float(caught["gradcam_drift"]) for caught in catch.caught],
        "first": [int(row.panels[1].rgb.sum()) for row in catch.caught[-1]["gradcam_film"].grid.rows],
    }


def all_resumable(folder: str, killed: int | None = None) -> dict[str, Any]:
    return {framework: resumable(framework, Path(folder) / framework, killed) for framework in FRAMEWORKS}


def test_the_film_goes_on_in_another_process(tmp_path: Path) -> None:
    before = all_resumable(str(tmp_path), 3)
    after = in_another_process(all_resumable, tmp_path)
    for framework in FRAMEWORKS:
        start, end = before[framework], after[framework]
        # The host saves before the eval of an epoch, and takes that again.
        assert start["epochs"] == [1, 2]
        assert end["epochs"] == [2, 3, 4]
        assert end["titles"] == [[f"epoch {at}" for at in range(1, last + 1)] for last in (2, 3, 4)]
        assert end["ids"] == [start["ids"][0]] * len(end["ids"])
        assert end["first"] == start["first"]  # the pictures of the first epoch themselves
        assert np.isfinite(end["drift"]).all()  # against the heat that was saved, at once
        (page,) = page_in(tmp_path / framework / "gradcam_eval_report.html")["datasets"]
        assert [one["epoch"] for one in page["epochs"]] == [1, 2, 3, 4]
        assert [one["id"] for one in page["images"]] == [str(one) for one in start["ids"][0]]


def saved(**more: Any) -> GradCAM:
    """A trace in a system of its own, through which the host saves and loads."""
    trace = followed(net("torch"), on_error="warn", **more)
    trace.system = SimpleNamespace(traces=[trace], mode="eval", epoch_idx=1, ds_id="", network=None)
    return trace


ROWS = ({"images": np.zeros((1, 1, 64, 64), np.float32)}, np.arange(1), 2)


@pytest.mark.parametrize(
    "state",
    [
        {EVAL: {"rows": {}}},
        {EVAL: {"rows": (1,), "pictures": None, "records": [], "newest": []}},
        {EVAL: {"rows": ROWS, "pictures": None, "records": [1], "newest": []}},
        {EVAL: {"rows": ROWS, "pictures": None, "records": [], "newest": []}},  # without the labels that are asked for
        5,
    ],
)
def test_a_state_that_does_not_fit_is_a_warning_and_changes_nothing(state: Any) -> None:
    trace = saved()
    with pytest.warns(CamWarning, match="could not go on with the filmstrip of the training that is resumed"):
        trace.__setstate__({"history": {"called": trace.watcher.state()["called"], "streams": state}})
    assert trace.watcher.history.streams == {}
    trace.on_epoch_begin(Data())
    assert trace.watcher.wants()  # it goes on with the next epoch


@pytest.mark.parametrize("state", [{}, {"history": {"called": {}, "streams": {}}}])
def test_a_state_without_a_film_and_a_trace_that_follows_nothing_are_quiet(state: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved().__setstate__(state)
        untracked = saved(track=False)
        untracked.__setstate__({"history": {"called": {}, "streams": {EVAL: {}}}})
    assert untracked.watcher.history.streams == {}


def test_images_that_were_saved_under_other_keys_or_before_this_form_are_a_warning_and_chosen_anew() -> None:
    """As where a training is resumed with another key of the labels."""
    trace = saved()
    called = {**trace.watcher.state()["called"], "labels": "labels='other'"}
    parts = {"images": ROWS[0]["images"], "labels": np.zeros(1), "preds": np.zeros((1, 3)), "ids": ["a"]}
    full = {EVAL: {"rows": (parts, *ROWS[1:]), "pictures": None, "records": [], "newest": []}}
    for state in ({"history": {"called": called, "streams": full}}, {"follower": {"rows": {}}}):
        with pytest.warns(CamWarning, match="could not go on with the filmstrip"):
            trace.__setstate__(state)
        assert trace.watcher.history.streams == {}
    trace.__setstate__({"history": {"called": trace.watcher.state()["called"], "streams": full}})
    assert list(trace.watcher.history.streams) == [EVAL]
