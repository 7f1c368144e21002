"""Which images of an epoch are explained: every rule against a plain reference, and in trainings on real digits."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
import tensorflow as tf
import torch
from fastestimator.backend import set_lr
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.model import ModelOp
from fastestimator.op.tensorop.tensorop import LambdaOp
from fastestimator.util.data import Data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam import ArgumentError, CamWarning, UnknownNameError, explain
from fe_gradcam.drawing.canvas import INK, WHITE
from fe_gradcam.drawing.grid import Row, draw_grid
from fe_gradcam.metrics.measure import measure, summary
from fe_gradcam.spec.objects import masks_of_boxes, object_masks
from fe_gradcam.training import chosen as selecting
from fe_gradcam.training.chosen import Chosen
from fe_gradcam.training.rows import probabilities_of
from fe_gradcam.training.selection import BOTH, RULES, Facts, Selection, selection_of
from tests.models.toys import SmallTorch
from tests.trainings import (
    FRAMEWORKS,
    Catch,
    as_input,
    as_layout,
    canvases,
    confidences,
    digit_net,
    estimator,
    fitted,
    gradcam,
    heats,
    keyed_ops,
    streams,
    words_of,
)
from tutorials.real_data import Canvases

CLASSES = 3
NAMES = [*RULES, BOTH]
GIVEN = ("labels", "preds")


# --- every rule against a plain reference ------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


@st.composite
def epochs(draw: Any, least: int = 0) -> Epoch:
    """Up to 24 images of three classes; some are not labelled, and probabilities in steps of a quarter have ties."""
    count = draw(st.integers(least, 24))
    labels = draw(st.lists(st.integers(-1, CLASSES - 1), min_size=count, max_size=count))
    splits = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted)
    quarters = [(low, high - low, 4 - high) for low, high in (draw(splits) for _ in range(count))]
    table = np.array(quarters, np.float32).reshape(count, CLASSES) / 4
    return Epoch(np.array(labels, np.int64), table)


def cuts(count: int) -> st.SearchStrategy[list[int]]:
    """Sizes of batches that make up an epoch."""
    inner = st.sets(st.integers(1, max(1, count - 1))).map(sorted) if count > 1 else st.just([])
    return inner.map(lambda places: np.diff([0, *places, count]).tolist())


def chosen_of(
    selection: Selection, epoch: Epoch, sizes: Sequence[int], after: Callable[[Chosen], None] = lambda chosen: None
) -> Chosen:
    chosen, start = Chosen(selection), 0
    for size in sizes:
        part = slice(start, start + size)
        batch = {"x": np.arange(start, start + size)[:, None]}
        chosen.add(batch, epoch.labels[part], epoch.probabilities[part])
        start += size
        after(chosen)
    return chosen


def places(chosen: Chosen) -> list[int]:
    rows = chosen.rows()
    assert len(rows) == len(chosen)
    if len(rows):
        assert rows["x"][:, 0].tolist() == rows.positions.tolist()  # the row is that of its place
    return [int(place) for place in rows.positions]


def reference(
    name: str, epoch: Epoch, chances: NDArray[np.float64], limit: int | None, by_class: bool, classes: int = CLASSES
) -> list[int]:
    """Places in the order in which they are shown, by the words of the documentation, row by row."""

    def wanted(rule: str, at: int) -> float | None:
        label, row = int(epoch.labels[at]), epoch.probabilities[at].tolist()
        inferred = row.index(max(row))
        wrong = label >= 0 and inferred != label
        return {
            "first": -at,
            "random": chances[at],
            "misclassified": chances[at] if wrong else None,
            "confident_mistakes": max(row) if wrong else None,
            "least_confident": -max(row),
            "best": row[label] if label >= 0 else None,
            "worst": -row[label] if label >= 0 else None,
        }[rule]

    shown: list[int] = []
    for one in range(classes) if by_class else [None]:
        for rule in ("best", "worst") if name == BOTH else (name,):
            scores = {at: wanted(rule, at) for at in range(len(epoch)) if one is None or epoch.labels[at] == one}
            ranked = sorted((-score, at) for at, score in scores.items() if score is not None)[:limit]
            order = [at for _, at in ranked]
            shown += order if rule in ("confident_mistakes", "least_confident", "best", "worst") else sorted(order)
    return list(dict.fromkeys(shown))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), epoch=epochs(), n_samples=st.sampled_from([None, 0, 1, 2, 5, 100]), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_a_rule_chooses_and_orders_as_its_words_say_however_an_epoch_is_cut_into_batches(
    name: str, data: Any, epoch: Epoch, n_samples: int | None, seed: int
) -> None:
    per_class = data.draw(st.sampled_from([None, 1, 2, 50]))
    selection, sizes = selection_of(name, n_samples, per_class, seed, GIVEN), data.draw(cuts(len(epoch)))
    by_class = per_class is not None or name == BOTH
    limit = n_samples if not by_class or n_samples == 0 else per_class or 1
    most_kept: list[int] = []

    def bounded(chosen: Chosen) -> None:
        most_kept.extend(len(heap) for heap in chosen._heaps.values())

    chosen = chosen_of(selection, epoch, sizes, bounded)
    chances = np.random.default_rng(seed).random(len(epoch))
    assert places(chosen) == reference(name, epoch, chances, limit, by_class)
    assert limit is None or max(most_kept, default=0) <= limit  # after each batch, not only at the end
    assert chosen.rows().largest_batch == max(1, *sizes)


@given(data=st.data(), epoch=epochs(), n_samples=st.sampled_from([None, 0, 1, 3]))
@settings(max_examples=60)
def test_positions_are_shown_in_the_order_asked_and_the_missing_ones_are_known(
    data: Any, epoch: Epoch, n_samples: int | None
) -> None:
    asked = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8))
    chosen = chosen_of(selection_of(asked, n_samples, None, 0, ()), epoch, data.draw(cuts(len(epoch))))
    once = [] if n_samples == 0 else list(dict.fromkeys(asked))
    assert places(chosen) == [place for place in once if place < len(epoch)]
    assert chosen.missing == [place for place in once if place >= len(epoch)]
    assert chosen.full == (not once or len(epoch) > max(once))


@pytest.mark.parametrize("name", ["random", "first", "least_confident"])
@given(epoch=epochs(least=1))
def test_where_no_labels_are_given_the_classes_are_those_inferred(name: str, epoch: Epoch) -> None:
    chosen = Chosen(selection_of(name, 5, 1, 0, ["preds"]))
    chosen.add({"x": np.arange(len(epoch))[:, None]}, None, epoch.probabilities)
    inferred = epoch.probabilities.argmax(1)
    assert [int(inferred[place]) for place in places(chosen)] == np.unique(inferred).tolist()


def test_a_class_that_the_model_does_not_know_is_a_mistake_without_a_probability() -> None:
    epoch = Epoch(np.array([7, 0]), np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]], np.float32))
    assert places(chosen_of(selection_of("confident_mistakes", 5, None, 0, GIVEN), epoch, [2])) == [0]
    assert places(chosen_of(selection_of("worst", 5, None, 0, GIVEN), epoch, [2])) == [1]


def test_a_random_choice_draws_from_no_global_stream() -> None:
    epoch, before = Epoch(np.zeros(9, np.int64), np.ones((9, CLASSES), np.float32)), streams()
    chosen_of(selection_of("random", 5, None, 3, ()), epoch, [5, 4])
    assert streams() == before


# --- no more is kept, and no more copied, than is wanted -----------------------------------------------


def test_only_rows_that_are_wanted_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []

    def watched(value: Any, rows: slice) -> Any:
        copied.append(rows.stop - rows.start)
        return value[rows].copy()

    monkeypatch.setattr(selecting, "host_rows", watched)

    def new(selection: Selection) -> Chosen:
        copied.clear()
        return Chosen(selection)

    falling = np.sort(np.random.default_rng(0).uniform(0.4, 1, 400).astype(np.float32))[::-1]
    table, images = np.stack([falling, 1 - falling], 1), {"x": np.zeros((20, 3))}
    chosen = new(selection_of("confident_mistakes", 5, None, 0, GIVEN))
    for start in range(0, 400, 20):
        chosen.add(images, np.ones(20, np.int64), table[start : start + 20])
    chosen.add(images, np.ones(20, np.int64), np.tile(table[4], (20, 1)))
    assert copied == [1] * 5  # the most confident come first, and none after them is wanted, nor any as confident

    chosen = new(selection_of("confident_mistakes", 5, None, 0, GIVEN))
    for start in range(0, 400, 20):
        chosen.add(images, np.zeros(20, np.int64), 1 - table[::-1][start : start + 20])
        assert sum(copied) <= 5 * (start // 20 + 1)  # of a batch no more than are kept at all

    chosen = new(selection_of("random", 5, None, 0, ()))
    for _ in range(1000):
        chosen.add(images)
    # A row is kept when it is among the five best so far: 5 (1 + ln(20,000 / 5)) = 46 of 20,000 in the mean, and the
    # deviation is below the root of it.
    assert sum(copied) < 46 + 5 * 7

    chosen = new(Selection("random", ("random",), None, True, 10))
    for _ in range(1000):
        chosen.add(images, np.arange(20) % 3)
    # Of each of three classes three or four, of 6,667: 4 (1 + ln(6,667 / 4)) = 34 and as much spread; and of the first
    # batch all.
    assert sum(copied) < 20 + 3 * (34 + 5 * 6)


def test_an_epoch_of_50_000_images_takes_the_memory_of_those_that_are_kept() -> None:
    """Through the hooks of the trace: rows of 3 x 32 x 32 float32, 12 KB, of which 50,000 would be 614 MB."""
    kept, size = 20, 500
    model = SmallTorch(classes=10).eval()
    trace = gradcam(model, preds="p", n_samples=kept, select="misclassified")
    network = SimpleNamespace(target_type="torch", device=None)
    trace.system = SimpleNamespace(traces=[trace], mode="eval", epoch_idx=1, ds_id="", network=network)
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.random((size, 3, 32, 32), np.float32))
    answers = torch.from_numpy(generator.dirichlet(np.ones(10), size).astype(np.float32))
    batch = {"x": images, "y": torch.zeros(size, dtype=torch.int64), "p": answers}
    trace.on_epoch_begin(Data())
    trace.on_batch_end(batch)  # the first image is explained here
    chosen, row = trace.watcher._choices[""]["grid"], images[0].numel() * 4
    tracemalloc.start()
    for _ in range(99):
        trace.on_batch_end(batch)
        assert all(len(heap) <= kept for heap in chosen._heaps.values())
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert chosen.seen == 50_000
    assert len(chosen.rows()) == kept
    assert all(one.row["images"].base is None for heap in chosen._heaps.values() for one in heap)
    # Kept rows replaced by others, and for a moment those of one batch: twice the rows, and 200 KB of numbers.
    assert now < kept * row + 200_000
    assert peak < 2 * kept * row + 200_000


# --- what the atlas keeps --------------------------------------------------------------------------------


@given(
    data=st.data(),
    labels=st.lists(st.integers(-1, 4), max_size=40),
    most=st.sampled_from([1, 3, 7, 16]),
    seed=st.integers(0, 3),
)
@settings(max_examples=100)
def test_the_most_that_are_kept_are_as_many_of_each_class_as_there_are(
    data: Any, labels: list[int], most: int, seed: int
) -> None:
    """Row by row of each class in random order, in turn, until there are `most`: whatever the batches."""
    every = Selection("random", ("random",), None, True, most, seed=seed)
    epoch = Epoch(np.array(labels, np.int64), np.full((len(labels), CLASSES), 1 / CLASSES, np.float32))
    kept: list[int] = []
    chosen = chosen_of(
        every, epoch, data.draw(cuts(len(labels))), lambda one: kept.append(sum(map(len, one._heaps.values())))
    )
    assert max(kept, default=0) <= most
    chances = np.random.default_rng(seed).random(len(labels))
    turns = []
    for class_id in range(-1, 5):  # those without a label are a class of their own
        members = sorted((-chances[at], at) for at, label in enumerate(labels) if label == class_id)
        turns += [(turn, less, at) for turn, (less, at) in enumerate(members)]
    expected = {at for _, _, at in sorted(turns)[:most]}
    assert set(places(chosen)) == expected


# --- rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.copy, torch.tensor, tf.constant])
def test_rows_are_copies_of_their_own_on_the_cpu(make: Any) -> None:
    chosen, numbers = Chosen(Selection(limit=5)), np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    for batch in map(make, np.split(numbers, 2)):
        chosen.add({"x": batch})
        if make is not tf.constant:
            batch[:] = 0
    rows = chosen.rows()
    assert isinstance(rows["x"], np.ndarray)
    assert np.array_equal(rows["x"], numbers[:5])
    assert rows.positions.tolist() == list(range(5))
    assert (len(rows), rows.largest_batch) == (5, 3)
    rows["x"][:] = -1
    assert chosen.rows()["x"].min() == 0


def test_rows_with_gradients_and_of_half_precision_are_plain_numbers() -> None:
    chosen = Chosen(Selection(limit=2))
    graph = torch.ones(3, 2, requires_grad=True) * 2
    chosen.add({"x": graph, "half": torch.full((3, 2), 1.5, dtype=torch.bfloat16)})
    rows = chosen.rows()
    assert rows["x"].tolist() == [[2, 2]] * 2
    assert rows["half"].tolist() == [[1.5, 1.5]] * 2


def test_names_may_be_lists_of_strings_or_bytes_and_tensors_of_them() -> None:
    given_names = ["a", "b", "c", "d"]
    as_bytes = [name.encode() for name in given_names]
    kinds = {"strings": given_names, "bytes": as_bytes, "tensor": tf.constant(as_bytes), "array": np.array(given_names)}
    chosen = Chosen(selection_of([3, 1], None, None, 0, ()))
    for half in (slice(0, 2), slice(2, 4)):
        chosen.add({"x": np.arange(4)[half], **{kind: names[half] for kind, names in kinds.items()}})
    rows = chosen.rows()
    assert rows["strings"] == ["d", "b"]
    assert rows["bytes"] == [b"d", b"b"]
    assert list(rows["tensor"]) == [b"d", b"b"]
    assert rows["array"].tolist() == ["d", "b"]


def test_keys_without_a_row_for_each_image_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"different numbers of rows: x 4, name 3"):
        Chosen(Selection(limit=2)).add({"x": np.zeros(4), "name": ["a", "b", "c"]})
    with pytest.raises(ArgumentError, match="loss holds a single float and no rows"):
        Chosen(Selection(limit=2)).add({"x": np.zeros((3, 2)), "loss": 0.5})


# --- mistakes in the arguments -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("frist", 5, None, GIVEN), UnknownNameError, r"select='frist' .*did you mean 'first'.*or positions"),
        (("best_and_wrost", 5, None, GIVEN), UnknownNameError, "did you mean 'best_and_worst'"),
        (("misclassified", 5, None, ["preds"]), ArgumentError, "select='misclassified' needs labels= .* true classes"),
        (("worst", 5, None, ["labels"]), ArgumentError, "select='worst' needs preds= .* predictions"),
        ((BOTH, 5, None, []), ArgumentError, "needs labels= and preds= .* true classes and of the predictions"),
        (("least_confident", 5, None, []), ArgumentError, "select='least_confident' needs preds="),
        (("random", 5, 2, []), ArgumentError, "per_class needs labels= .* or preds="),
        (("random", 5, 0, GIVEN), ArgumentError, r"per_class=0 is not accepted\. Accepted: an integer from 1, or None"),
        (("random", 5, True, GIVEN), ArgumentError, "per_class=True is not accepted"),
        (("random", 5, 1.5, GIVEN), ArgumentError, "per_class=1.5 is not accepted"),
        (([0, 1], 5, 2, GIVEN), ArgumentError, "per_class needs a rule by name"),
        (([], 5, None, GIVEN), ArgumentError, r"select=\[\] is not accepted.*a list of positions from 0"),
        (([0, -1], 5, None, GIVEN), ArgumentError, r"select=\[0, -1\] is not accepted"),
        (([0.5], 5, None, GIVEN), ArgumentError, r"select=\[0.5\] is not accepted"),
        ((True, 5, None, GIVEN), ArgumentError, "select=True is not accepted"),
        ((None, 5, None, GIVEN), ArgumentError, "select=None is not accepted. Accepted: first, random"),
        ((["first"], 5, None, GIVEN), ArgumentError, r"select=\['first'\] is not accepted"),
    ],
)
def test_mistakes_are_named_with_what_is_accepted(arguments: Any, error: type, message: str) -> None:
    select, n_samples, per_class, have = arguments
    with pytest.raises(error, match=message):
        selection_of(select, n_samples, per_class, 0, have)


@pytest.mark.parametrize("name", NAMES)
def test_rules_and_their_needs(name: str) -> None:
    """What a rule needs is asked for at once, and with it alone the rule runs."""
    needs = {need for rule in selection_of(name, 5, None, 0, GIVEN).rules for need in RULES[rule].needs}
    selection = selection_of(name, 5, None, 0, needs)
    chosen = Chosen(selection)
    labels = np.zeros(2, np.int64) if "labels" in needs else None
    table = np.array([[0.3, 0.7], [0.6, 0.4]], np.float32) if "preds" in needs else None
    chosen.add({"x": np.arange(2)[:, None]}, labels, table)
    assert len(chosen) >= 1
    for need in needs:
        with pytest.raises(ArgumentError, match=f"needs {need}="):
            selection_of(name, 5, None, 0, needs - {need})


def test_positions_may_be_an_array_or_one_number() -> None:
    assert selection_of(np.array([4, 2]), 5, None, 0, ()).positions == (4, 2)
    assert selection_of(7, 5, None, 0, ()).positions == (7,)
    assert selection_of((3, 3, 1), 5, None, 0, ()).positions == (3, 1)


# --- in trainings on real digits -----------------------------------------------------------------------

SIDE, IN_EVAL, UNLABELLED = 32, 90, slice(80, 90)
TRACES: dict[str, dict[str, Any]] = {
    "wrong": {"select": "misclassified", "n_samples": 6, "boxes": "box", "metrics": ["pointing_game", "energy_inside"]},
    "sure": {"select": "confident_mistakes", "n_samples": 8},
    "unsure": {"select": "least_confident", "n_samples": 4},
    "worst": {"select": "worst", "per_class": 2},
    "both": {"select": BOTH, "masks": "mask", "metrics": "energy_inside"},
    "random": {"select": "random", "n_samples": 5, "seed": 4, "methods": ["grad_cam", "layer_cam"]},
    "places": {"select": [70, 3, 70, 999, 88]},
    "none": {"select": [70, 3], "n_samples": 0},
    "keyed": {"select": "confident_mistakes", "n_samples": 8, "model": None, "grads": "grads", "activations": "acts"},
}


@cache
def digits() -> Canvases:
    """300 digits, each cut out around its middle, up to two pixels off, so that a few steps teach something."""
    whole, generator = canvases()[0:300], np.random.default_rng(0)
    images, boxes = np.zeros((300, SIDE, SIDE), np.uint8), whole.boxes.copy()
    for at, (left, top, width, height) in enumerate(whole.boxes):
        across, down = (SIDE - width) // 2 + generator.integers(-2, 3), (SIDE - height) // 2 + generator.integers(-2, 3)
        cut = whole.images[at][top : top + height, left : left + width]
        images[at, down : down + height, across : across + width] = cut
        boxes[at, :2] = across, down
    return Canvases(images, whole.labels, boxes)


def digit_data(framework: str, rows: slice) -> dict[str, Any]:
    part = digits()[rows]
    seen = part.labels.copy()
    seen[UNLABELLED] = -1
    return {
        "x": as_input(framework, part.images),
        "y": part.labels,
        "seen": seen,
        "box": part.boxes,
        "mask": (part.images > 25).astype(np.uint8),
        "name": np.arange(1000, 1000 + len(part.images)),
    }


@dataclass
class Trained:
    """A training of two epochs with a trace for each rule, and what a full inference says after it."""

    model: Any
    data: dict[str, Any]
    epoch: Epoch
    caught: dict[str, Any]
    warned: list[str]

    def results(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.caught[f"{name}_results"]
        return found

    def rows(self, name: str) -> NDArray[np.int64]:
        return np.array([result["position"] for result in self.results(name)])

    def objects(self, name: str) -> NDArray[np.bool_]:
        """Masks of what "wrong" has boxes of, and "both" masks."""
        rows = self.rows(name)
        boxes = masks_of_boxes(self.data["box"][rows][:, None], (SIDE, SIDE))
        return boxes if name == "wrong" else self.data["mask"][rows] > 0


def full_inference(framework: str, model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    if framework == "torch":
        with torch.no_grad():
            return np.asarray(model.eval()(torch.from_numpy(images)).numpy())
    return np.asarray(model(images, training=False).numpy())


@pytest.fixture(scope="module", params=FRAMEWORKS)
def trained(request: pytest.FixtureRequest) -> Trained:
    framework = request.param
    torch.manual_seed(0)
    model = fe.build(lambda: digit_net(framework, "flat", side=SIDE), optimizer_fn="adam", model_name="digits")
    set_lr(model, 5e-3)
    common = {"model": model, "labels": "seen", "preds": "y_pred", "ids": "name"}
    traces = [gradcam(**{"outputs": name, **common, **more}) for name, more in TRACES.items()]
    train, data = digit_data(framework, slice(100, 300)), digit_data(framework, slice(0, IN_EVAL))
    how = {"train_data": NumpyDataset(train), "eval_data": NumpyDataset(data), "batch_size": 16}
    with pytest.warns(CamWarning) as warned:
        catch = fitted(framework, model, *traces, ops=keyed_ops(model), epochs=2, **how)
    epoch = Epoch(data["seen"], full_inference(framework, model, data["x"]))
    return Trained(model, data, epoch, catch.caught[-1], [str(one.message) for one in warned])


def test_the_training_left_right_and_wrong_answers(trained: Trained) -> None:
    """Without both, the tests below would show little."""
    labelled, inferred = trained.epoch.labels >= 0, trained.epoch.probabilities.argmax(1)
    right = (inferred == trained.epoch.labels)[labelled]
    assert 15 <= right.sum() <= 65


@pytest.mark.parametrize("name", [name for name in TRACES if name not in ("places", "none")])
def test_the_images_shown_are_those_that_a_full_inference_chooses(trained: Trained, name: str) -> None:
    more, epoch = TRACES[name], trained.epoch
    chances = np.random.default_rng(more.get("seed", 0)).random(IN_EVAL)
    by_class = "per_class" in more or more["select"] == BOTH
    limit = more.get("per_class", 1) if by_class else more["n_samples"]
    expected = reference(more["select"], epoch, chances, limit, by_class, classes=10)
    results = trained.results(name)
    assert len(expected) >= 4
    assert trained.rows(name).tolist() == expected
    assert [result["id"] for result in results] == [1000 + at for at in expected]
    assert [words_of(row)["id"] for row in trained.caught[name].grid.rows] == [f"id {1000 + at}" for at in expected]
    assert [result["label"] for result in results] == epoch.labels[expected].tolist()
    assert [result["prediction"] for result in results] == epoch.probabilities[expected].argmax(1).tolist()
    # Another batch, and another kernel for it: rounding alone.
    assert_allclose(confidences(results), epoch.probabilities[expected].max(1), rtol=1e-4)


def test_positions_come_in_the_order_asked_and_the_missing_one_is_said(trained: Trained) -> None:
    assert trained.rows("places").tolist() == [70, 3, 88]
    unlabelled = trained.results("places")[2]
    assert unlabelled["label"] == -1
    assert list(unlabelled["heatmap_grad_cam"]) == [f"heatmap_image_class_{unlabelled['prediction']}"]
    assert sum("the epoch had 90 images, and none at [999]" in said for said in trained.warned) == 2  # both epochs
    assert not any("none at [70, 3]" in said for said in trained.warned)  # n_samples=0 asks for none
    assert "none" not in trained.caught


def test_beside_a_wrong_answer_stands_the_heatmap_of_the_true_class(trained: Trained) -> None:
    for name in ("wrong", "both", "random", "places"):
        rows, results = trained.rows(name), trained.results(name)
        images, labels = trained.data["x"][rows], trained.epoch.labels[rows]
        inferred = trained.epoch.probabilities[rows].argmax(1)
        wrong = (labels >= 0) & (inferred != labels)
        for method in TRACES[name].get("methods", ["grad_cam"]):
            of_inferred = explain(trained.model, images, method=method).values
            of_true = explain(trained.model, images, target=np.maximum(labels, 0), method=method).values
            for result, label, class_id, is_wrong in zip(results, labels, inferred, wrong, strict=True):
                class_ids = [class_id, label] if is_wrong else [class_id]
                if label >= 0:
                    assert list(result[f"heatmap_{method}"]) == [f"heatmap_image_class_{one}" for one in class_ids]
            # Computed in two batches of other sizes: rounding, which the scaling to the maximum enlarges.
            assert_allclose(heats(results, inferred, method), of_inferred, atol=1e-4)
            those = [result for result, is_wrong in zip(results, wrong, strict=True) if is_wrong]
            if those:
                assert_allclose(heats(those, labels[wrong], method), of_true[wrong], atol=1e-4)
        if name == "both":
            assert wrong.any()
            assert not wrong.all()


def test_a_wrong_answer_has_the_true_class_in_a_second_line_and_a_right_one_none(trained: Trained) -> None:
    shown, rows = trained.caught["both"], trained.rows("both")
    wrong = trained.epoch.probabilities[rows].argmax(1) != trained.epoch.labels[rows]
    assert shown.grid.titles == ("image", "grad_cam")
    for row, is_wrong in zip(shown.grid.rows, wrong, strict=True):
        assert row.wrong == is_wrong == bool(row.below)
        assert all(panel.outline is not None for panel in row.every_panel)
        if is_wrong:
            assert row.below[0] is None
            assert row.aside[1].words.startswith(words_of(row)["label"])
    assert any(not np.array_equal(row.below[1].rgb, row.panels[1].rgb) for row in shown.grid.rows if row.below)
    # In the host's columns a second line is a row of its own, which begins with the image again.
    images, heats = shown.columns
    assert len(images.batch) == len(heats.batch) == len(rows) + wrong.sum()
    at = int(np.flatnonzero(wrong)[0])
    first = at + int(wrong[:at].sum())
    assert np.array_equal(images.batch[first].image, images.batch[first + 1].image)
    assert np.array_equal(heats.batch[first + 1].image, shown.grid.rows[at].below[1].rgb)


def test_boxes_and_masks_are_outlined_in_the_picture(trained: Trained) -> None:
    for name in ("wrong", "both"):
        for row, place in zip(trained.caught[name].grid.rows, trained.objects(name), strict=True):
            assert np.array_equal(row.panels[0].outline, place)
            assert np.array_equal(row.panels[1].outline, place)

    at = next(at for at, (x, y, w, h) in enumerate(trained.data["box"][trained.rows("wrong")])
              if x > 0 and y > 0 and x + w < SIDE and y + h < SIDE)  # fmt: skip
    left, top, width, height = trained.data["box"][trained.rows("wrong")][at]
    grid = trained.caught["wrong"].grid
    panel = grid.rows[at].panels[0]
    alone = [
        draw_grid(replace(grid, titles=("image",), rows=(Row((), wrong=False, panels=(one,)),)))
        for one in (panel, replace(panel, outline=None))
    ]
    side = 6  # a picture of 32 pixels is drawn at 6 times its size
    black = np.argwhere((alone[1] == 0).all(-1)).min(0)  # the picture is black but for the digit, and white around it
    y, x = black[0] + top * side, black[1] + left * side

    def box(by: int) -> NDArray[np.bool_]:
        mask = np.zeros(alone[0].shape[:2], bool)
        mask[y - by : y + height * side + by, x - by : x + width * side + by] = True
        return mask

    ring, band = box(1) & ~box(0), box(2) & ~box(-1)
    assert (alone[0][ring] == WHITE).all()
    assert (alone[0][band & ~ring] == INK).all()
    assert np.array_equal(alone[0][~band], alone[1][~band])


def test_metrics_of_place_are_those_of_the_boxes_and_masks(trained: Trained) -> None:
    for name, metrics in (("wrong", ["pointing_game", "energy_inside"]), ("both", ["energy_inside"])):
        images = trained.data["x"][trained.rows(name)]
        heatmap = explain(trained.model, images)
        expected = measure(trained.model, images, heatmap, metrics, masks=trained.objects(name))
        for metric in metrics:
            mean, caught = summary(expected[metric]), trained.caught[f"{name}_{metric}"]
            if mean is None:  # every heatmap of these few is blank, as trainings go: the value of before stands in
                continue
            # To four digits, of which the last may be rounded the other way.
            assert_allclose(caught, mean, rtol=2e-3)
            assert metric == "pointing_game" or 0 < caught < 1


# --- a model of one output -----------------------------------------------------------------------------


def single_output(framework: str) -> Any:
    """A logit of the mean of the image, from 0.05 to 0.95: as probabilities, half of them would be below 1/2."""
    if framework == "torch":
        nn = torch.nn
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
        for name, parameter in model.named_parameters():
            nn.init.constant_(parameter, name.endswith("weight"))
        return model
    layers = tf.keras.layers
    conv = layers.Conv2D(1, 1, activation="relu", kernel_initializer="ones", input_shape=(4, 4, 1))
    head = layers.Dense(1, kernel_initializer="ones")
    return tf.keras.Sequential([conv, layers.GlobalAveragePooling2D(), head])


def test_a_single_output_is_read_as_what_it_is_a_logit_or_a_probability(framework: str) -> None:
    means = np.linspace(0.05, 0.95, 10).astype(np.float32)
    images = as_layout(framework, np.tile(means[:, None, None, None], (1, 4, 4, 1)))
    data = NumpyDataset({"x": images, "y": np.arange(10) % 2})
    model = fe.build(lambda: single_output(framework), optimizer_fn=None, model_name="single")

    common = {"model": model, "select": "confident_mistakes", "n_samples": 3}
    traces = [gradcam(preds=key, outputs=key, **common) for key in ("logit", "probability")]
    catch = Catch("test")
    squash = LambdaOp(lambda logit: 1 / (1 + 2.718281828 ** (-logit)), inputs="logit", outputs="probability")
    ops = [ModelOp(model, "x", "logit"), squash]
    estimator(framework, model, [*traces, catch], ops=ops, test_data=data, batch_size=4).test()
    for key in ("logit", "probability"):
        results = catch.caught[0][f"{key}_results"]
        # A logit above 0 is class 1, so that the mistakes are those of class 0, the largest logits first.
        assert [result["position"] for result in results] == [8, 6, 4]
        assert [result["prediction"] for result in results] == [1] * 3
        assert_allclose(confidences(results), 1 / (1 + np.exp(-means[[8, 6, 4]])), rtol=1e-5)


def test_predictions_that_are_class_ids_are_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"preds='cls' holds integers of shape \(4,\), so they seem to be class ids"
    ):
        probabilities_of(np.array([0, 3, 1, 2]), "preds='cls'")


def test_boxes_in_shares_of_the_image_are_refused() -> None:
    with pytest.raises(ArgumentError, match="boxes hold no number above 1"):
        object_masks(None, np.array([[0.1, 0.2, 0.5, 0.5]]), (64, 64), 1)


def test_of_several_true_classes_each_is_right_and_the_likeliest_ranks() -> None:
    table = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], np.float32)
    several = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    facts = Facts(np.arange(3), np.zeros(3), np.array([0, 1, -1]), table, several)
    assert facts.wrong.tolist() == [False, True, False]
    assert_allclose(facts.of_true_class, [0.5, 0.3, np.nan])
    assert_allclose(replace(facts, several=None, labels=np.array([1, 2, -1])).of_true_class, [0.3, 0.2, np.nan])


def test_an_answer_that_is_nan_is_no_class_no_mistake_and_ranks_nowhere() -> None:
    table = np.array([[0.5, 0.3, 0.2], [np.nan] * 3], np.float32)
    facts = Facts(np.arange(2), np.zeros(2), np.array([1, 1]), table)
    assert facts.inferred.tolist() == [0, -1]
    assert facts.wrong.tolist() == [True, False]
    for name in ("misclassified", "confident_mistakes", "least_confident", "best", "worst"):
        assert np.isfinite(RULES[name](facts)).tolist() == [name != "best" or True, False], name


def test_batches_with_different_numbers_of_boxes_are_joined_with_empty_ones() -> None:
    chosen = Chosen(Selection())
    for count in (1, 3):
        chosen.add({"images": np.zeros((2, 4, 4, 1)), "boxes": np.full((2, count, 4), 2.0)})
    boxes = chosen.rows()["boxes"]
    assert boxes.shape == (4, 3, 4)
    assert boxes.any(2).sum(1).tolist() == [1, 1, 3, 3]
    assert (object_masks(None, boxes[:2], (4, 4), 2) == object_masks(None, boxes[:2, :1], (4, 4), 2)).all()


def test_positions_go_on_behind_a_batch_that_is_left_out() -> None:
    chosen = Chosen(Selection("positions", limit=2, positions=(1, 6)))
    chosen.add({"images": np.zeros((3, 4)), "labels": np.zeros(3)})
    for other in ({"images": np.zeros((3, 4))}, {"images": np.zeros((2, 5)), "labels": np.zeros(2)}):
        if "labels" in other:
            with pytest.raises(ArgumentError, match=r"other shapes than those before: images \(5,\), not \(4,\)"):
                chosen.add(other)
        else:
            with pytest.raises(ArgumentError, match="This batch holds no labels"):
                chosen.add(other)
    assert (chosen.seen, chosen.rows().positions.tolist()) == (8, [1])
