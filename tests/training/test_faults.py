"""The table of faults: a training ends as it does without the trace, and all that can be shown is shown.

Each line is a fault: what happens in it, what is lost, and what is said of that.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from fastestimator.util.data import Data

from fe_gradcam import ArgumentError, CamWarning, GradCAM
from fe_gradcam.errors import warn, warnings_logged
from fe_gradcam.training.options import Options
from fe_gradcam.training.selection import selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher
from tests.models.toys import SmallTorch
from tests.state import seed
from tests.trainings import COUNT, Catch, build, dataset, estimator, failing, gradcam, printed, shown, weights_of

fe_build = build.__globals__["fe"].build

MARK = 1e6
"""A pixel of this value marks the image on which a model fails."""


class Fault:
    """What a layer does while images are explained, and only then."""

    explaining = False
    most: int | None = None
    marked = False

    @classmethod
    def check(cls, images: Any) -> np.ndarray:
        """Raises as the fault says; MemoryError becomes ResourceExhaustedError in TensorFlow."""
        if cls.explaining:
            if cls.most is not None and len(images) > cls.most:
                raise MemoryError
            if cls.marked and np.max(images) >= MARK:
                raise ValueError("a marked image")
        return np.float32(0)


class FaultyTorch(SmallTorch):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            Fault.check(x.detach().numpy())
        except MemoryError:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.") from None
        return super().forward(x)


@tf.keras.utils.register_keras_serializable("tests")
class Faulty(tf.keras.layers.Layer):
    def call(self, x: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(Fault.check, [x], tf.float32)]):
            return tf.identity(x)


def faulty_keras() -> Any:
    layers = tf.keras.layers
    inputs = tf.keras.Input((9, 12, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv2")(Faulty()(inputs))
    return tf.keras.Model(inputs, layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


@dataclass
class Ended:
    """How a training ended: the weights, what stood in the data, what was warned of and printed."""

    weights: list[np.ndarray]
    caught: list[dict[str, Any]]
    warned: list[str] = field(default_factory=list)

    def said(self, *parts: str) -> bool:
        return any(all(part in one for part in parts) for one in self.warned)


def ended(framework: str, data: Any, traced: bool = True, epochs: int = 2, batch_size: int = 5, **how: Any) -> Ended:
    seed()
    model = fe_build(lambda: FaultyTorch(softmax=True) if framework == "torch" else faulty_keras(), optimizer_fn="adam")
    catch = Catch("eval")
    traces: list[Any] = [catch]
    if traced:
        trace = GradCAM("x", model=model, **{"labels": "y", "n_samples": 5, **how})
        around = trace.watcher._around

        @contextmanager
        def flagged() -> Iterator[None]:
            with around():
                Fault.explaining = True
                try:
                    yield
                finally:
                    Fault.explaining = False

        trace.watcher._around = flagged
        traces = [trace, catch]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator(framework, model, traces, train_data=data, eval_data=data, epochs=epochs, batch_size=batch_size).fit()
    ours = [str(one.message) for one in caught if issubclass(one.category, CamWarning)]
    return Ended(weights_of(framework, model), catch.caught, ours)


def with_rows(framework: str, change: Callable[[np.ndarray], None], labels: Any = None) -> Any:
    images = shown(framework, COUNT)
    change(images)
    return dataset(framework, x=images, **({} if labels is None else {"other": labels}))


def marked(images: np.ndarray) -> None:
    images[2, 0, 0, 0] = MARK


def not_finite(value: float) -> Callable[[np.ndarray], None]:
    def change(images: np.ndarray) -> None:
        images[1] = value

    return change


def all_nan(images: np.ndarray) -> None:
    images[:] = np.nan


def nothing(images: np.ndarray) -> None:
    """Leaves the images as they are."""


@cache
def untraced(framework: str, change: Callable[[np.ndarray], None], batch_size: int = 5) -> list[np.ndarray]:
    """The weights of the training without the trace."""
    return ended(framework, with_rows(framework, change), traced=False, batch_size=batch_size).weights


@dataclass
class Line:
    """A line of the table: what is done to the data, the model and the trace, and what comes of it.

    Attributes:
        shown: Positions of the images in the results of each epoch.
        said: What a warning says.
        hidden_by_keras: Whether it cannot be seen there: on a CPU the ReLU of TensorFlow makes 0 of NaN.
    """

    change: Callable[[np.ndarray], None] = nothing
    most: int | None = None
    marked: bool = False
    how: dict[str, Any] = field(default_factory=dict)
    feed: dict[str, Any] = field(default_factory=dict)
    shown: tuple[int, ...] = (0, 1, 2, 3, 4)
    said: tuple[str, ...] = ()
    labels: Any = None
    hidden_by_keras: bool = False


NOT_A_NUMBER, INFINITE = not_finite(np.nan), not_finite(np.inf)

FAR = np.where(np.arange(COUNT) == 0, 77, np.arange(COUNT) % 5)

TABLE: dict[str, Line] = {
    "no fault": Line(),
    "out of memory for more than two images": Line(
        most=2, said=("the 5 images of this epoch could not be explained together", "each part by itself could")
    ),
    "out of memory for any image": Line(most=0, shown=(), said=("could not make the grid of this epoch",)),
    "the model fails on one image": Line(
        marked,
        marked=True,
        shown=(0, 1, 3, 4),
        said=("could not be explained together; 1 are not shown", "marked image"),
    ),
    "the model fails on one image, and images are followed": Line(
        marked, marked=True, shown=(0, 1, 3, 4), how={"track": True, "metrics": ["drift"]}, said=("1 are not shown",)
    ),
    "NaN in an image": Line(NOT_A_NUMBER, said=("NaN or infinite values",), hidden_by_keras=True),
    "infinity in an image": Line(INFINITE, said=("NaN or infinite values",), hidden_by_keras=True),
    "batches of one": Line(feed={"batch_size": 1}),
    "a batch larger than the data": Line(feed={"batch_size": 64}),
    "a label out of range, in batches of one": Line(
        labels=FAR, feed={"batch_size": 1}, how={"frequency": 2}, said=("no true class in 1 of 1 rows (77)",)
    ),
}


@pytest.fixture(autouse=True)
def _no_fault() -> Iterator[None]:
    yield
    Fault.explaining, Fault.most, Fault.marked = False, None, False


@pytest.mark.parametrize("fault", TABLE)
def test_a_fault_leaves_the_training_as_it_is_and_shows_what_can_be_shown(framework: str, fault: str) -> None:
    line = TABLE[fault]
    Fault.most, Fault.marked = line.most, line.marked
    how = line.how if line.labels is None else {**line.how, "labels": "other"}
    data = with_rows(framework, line.change, line.labels)
    with_trace = ended(framework, data, **line.feed, **how)
    for one, other in zip(untraced(framework, line.change, **line.feed), with_trace.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    every = line.how.get("frequency", 1)
    for number, caught in enumerate(with_trace.caught, 1):
        results = caught.get("gradcam_results", [])
        assert [one["position"] for one in results] == (list(line.shown) if number % every == 0 else [])
        assert ("gradcam" in caught) == bool(results)
        for one in results:
            for heat in one["heatmap_grad_cam"].values():
                assert np.isfinite(heat).all()
    said = () if line.hidden_by_keras and framework == "tf" else line.said
    assert bool(with_trace.warned) == bool(said)
    for part in said:
        assert with_trace.said(part), with_trace.warned
    if line.labels is not None:
        labels = [one["label"] for one in with_trace.caught[-1]["gradcam_results"]]
        assert labels == [-1, *FAR[1:5].tolist()]
        assert sum("no true class" in one for one in with_trace.warned) == 1


def test_weights_that_are_not_finite_end_no_training(framework: str) -> None:
    found = ended(framework, with_rows(framework, all_nan), metrics=["average_drop"])
    assert not all(np.isfinite(one).all() for one in found.weights)
    assert [len(caught["gradcam_results"]) for caught in found.caught] == [5, 5]
    assert found.said("NaN or infinite values for 5 of 5 images") == (framework == "torch")  # see `hidden_by_keras`
    for one, other in zip(untraced(framework, all_nan), found.weights, strict=True):
        np.testing.assert_array_equal(one, other)


# --- what the trace itself does ------------------------------------------------------------------------------


class UnspeakableError(RuntimeError):
    def __str__(self) -> str:
        raise TypeError("no text")


def watched(**how: Any) -> Watcher:
    options = Options({"model", "labels"}, **{"selection": selection_of("first", 3, None, 0, ()), **how})
    watcher = Watcher(ModelSource(SmallTorch().eval(), options), options)
    watcher.begin()
    watcher.begin_epoch(1)
    return watcher


@pytest.mark.parametrize(
    ("select", "accepted"), [([10**30], False), ([0, 2**63], False), ([2**63 - 1], True), ([10**9], True)], ids=str
)
def test_a_position_beyond_any_epoch_is_an_error_at_once(select: Any, accepted: bool) -> None:
    if not accepted:
        with pytest.raises(ArgumentError, match=rf"select holds the position {max(select)}, and no epoch"):
            GradCAM("x", model=SmallTorch(), select=select)
        return
    watcher = watched(selection=selection_of(select, None, None, 0, ()), on_error="raise")
    watcher.see(torch.rand(3, 3, 9, 12), torch.arange(3))
    with pytest.warns(CamWarning, match="the epoch had 3 images, and none at"):
        assert not watcher.end_epoch().values


@pytest.mark.parametrize(
    "argument", ["n_samples", "per_class", "frequency", "seed", "batch_size", "n_components", "atlas"]
)
def test_numbers_of_any_size_end_no_epoch(argument: str) -> None:
    model = SmallTorch().eval()
    try:
        trace = (
            GradCAM("x", model=model, labels="y", n_samples=2, **{argument: 10**30})
            if argument != "n_samples"
            else (GradCAM("x", model=model, labels="y", n_samples=10**30))
        )
    except ArgumentError as error:
        assert argument in str(error)
        return
    trace.watcher._around = nullcontext  # there is no host
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)
        trace.watcher.begin()
        trace.watcher.begin_epoch(10**30 if argument == "frequency" else 1)
        trace.watcher.see(torch.rand(3, 3, 9, 12), torch.arange(3))
        epoch = trace.watcher.end_epoch()
    assert "gradcam" in epoch


def test_an_error_without_a_text_is_told_of_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = watched()
    watcher.see(torch.rand(3, 3, 9, 12), torch.arange(3))
    monkeypatch.setattr("fe_gradcam.training.source.explained", failing(UnspeakableError()))
    with pytest.warns(CamWarning, match=r"UnspeakableError: \(its text cannot be made: TypeError\)"):
        assert not watcher.end_epoch().values


def run_through(trace: GradCAM) -> None:
    """What the host calls in an epoch of evaluation."""
    network = SimpleNamespace(target_type="torch", device=None, ops=[], models=[])
    trace.system = SimpleNamespace(traces=[trace], mode="eval", epoch_idx=1, ds_id="", network=network, log_steps=0)
    trace.on_begin(Data())
    trace.on_epoch_begin(Data())
    trace.on_batch_end(Data({"x": torch.rand(3, 3, 9, 12), "y": torch.arange(3)}))
    trace.on_epoch_end(Data())
    trace.on_end(Data())


INSIDE = {
    "on_begin": "_say_whose_model",
    "on_batch_end": "_runs_in",
    "on_epoch_end": "_known_by_now",
    "on_end": "_say_cost",
}
"""A method of the trace that each hook calls."""


@pytest.mark.parametrize("hook", INSIDE)
@pytest.mark.parametrize("error", [UnspeakableError, StopIteration])
def test_no_failure_in_any_hook_ends_a_training(
    hook: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = GradCAM("x", model=SmallTorch(), labels="y", n_samples=1)
    monkeypatch.setattr(GradCAM, INSIDE[hook], failing(error("on request")))
    with pytest.warns(CamWarning, match=f"the training goes on. {error.__name__}"):
        run_through(trace)


@pytest.mark.parametrize("hook", INSIDE)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(hook: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    trace = GradCAM("x", model=SmallTorch(), labels="y", n_samples=1)

    def end(*args: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(GradCAM, INSIDE[hook], end)
    with pytest.raises(error):
        run_through(trace)


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_what_always_fails_is_given_up_soon(on_error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = watched(selection=selection_of("first", None, None, 0, ()))
    watcher.see(torch.rand(64, 3, 9, 12), torch.arange(64) % 5)
    asked: list[int] = []

    def explained(model: Any, images: Any, *more: Any, **named: Any) -> Any:
        asked.append(len(images))
        raise RuntimeError("always")

    monkeypatch.setattr("fe_gradcam.training.source.explained", explained)
    watcher.options.on_error = on_error
    if on_error == "raise":
        with pytest.raises(RuntimeError, match="always"):
            watcher.end_epoch()
        assert asked == [64]
        return
    with pytest.warns(CamWarning, match="could not make the grid of this epoch.*always"):
        watcher.end_epoch()
    assert asked == [64, 32, 16, 8, 4, 2, 1, 1, 2]


def test_explained_by_halves_images_keep_their_places_and_their_true_classes() -> None:
    """Of the halves one alone has rows of several true classes."""
    images, table = torch.rand(6, 3, 9, 12), np.eye(5, dtype=int)[np.arange(6) % 5]
    table[5, [0, 1, 2, 3, 4]] = 1
    found = []
    for most in (None, 2):
        torch.manual_seed(0)
        options = Options({"model", "labels", "ids"}, selection=selection_of("first", None, None, 0, ()))
        model = FaultyTorch().eval()
        watcher = Watcher(ModelSource(model, options), options)
        watcher.begin()
        watcher.begin_epoch(1)
        watcher.see(images, table, ids=list("abcdef"))
        Fault.most, Fault.explaining = most, most is not None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            epoch = watcher.end_epoch()
        Fault.explaining = False
        assert len(caught) == (most is not None)
        found.append(epoch)
    one, other = ([epoch.parts[0], epoch.rows()[""], epoch["gradcam_results"]] for epoch in found)
    np.testing.assert_allclose(one[0].columns[0].heatmap.values, other[0].columns[0].heatmap.values, atol=1e-5)
    np.testing.assert_array_equal(one[0].several, other[0].several)
    np.testing.assert_array_equal(one[0].wrong, other[0].wrong)
    assert not other[0].wrong[5]
    assert other[0].ids == list("abcdef") == other[1]["ids"]
    np.testing.assert_array_equal(one[1]["images"], other[1]["images"])
    assert [result["labels"] for result in other[2]] == [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]]


def test_several_true_classes_in_a_training(framework: str) -> None:
    """The first is shown, all count as right: in the frames, the results, the choice of rows and the film."""
    table = np.zeros((COUNT, 5), int)
    table[np.arange(COUNT), np.arange(COUNT) % 5] = table[np.arange(COUNT), (np.arange(COUNT) + 1) % 5] = 1
    model, data = build(framework), dataset(framework, many=table)
    how = {"labels": "many", "preds": "y_pred", "n_samples": None, "targets": ["pred", "label"]}
    catch = Catch("eval")
    traces = [gradcam(model, **how), gradcam(model, **how, select="misclassified", outputs="wrong"), catch]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CamWarning)
        estimator(framework, model, traces, train_data=data, eval_data=data).fit()
    caught = catch.caught[0]
    results = caught["gradcam_results"]
    right = [table[at, result["prediction"]] == 1 for at, result in enumerate(results)]
    assert [row.wrong for row in caught["gradcam"].grid.rows] == [not one for one in right]
    assert [result["label"] for result in results] == table.argmax(1).tolist()
    assert [result["labels"] for result in results] == [np.flatnonzero(row).tolist() for row in table]
    assert (
        sorted(one["position"] for one in caught.get("wrong_results", [])) == np.flatnonzero(~np.array(right)).tolist()
    )


# --- where warnings are errors -------------------------------------------------------------------------------


def test_where_warnings_are_errors_a_line_of_the_log_stands_in(
    framework: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(framework)
    trace = gradcam(model, on_error="warn", labels="other", select=[0, 1, 2000], metrics=["average_drop"])
    monkeypatch.setattr("fe_gradcam.training.products.metrics.MetricsProduct._of", failing(RuntimeError("on request")))
    data = dataset(framework, other=FAR)
    catch = Catch("eval")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CamWarning)
        estimator(framework, model, [trace, catch], eval_data=data, train_data=data, epochs=2).fit()
    assert [len(caught["gradcam_results"]) for caught in catch.caught] == [2, 2]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FastEstimator-Warn: GradCAM (")]
    for part in ("no true class in 1 of 5 rows (77)", "and none at [2000]", "could not make the metrics of this epoch"):
        assert any(part in line for line in lines), lines


def test_only_in_a_training_a_line_stands_in() -> None:
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CamWarning, match="told"):
            warn("told")
        with warnings_logged(said.append):
            warn("told")
            with pytest.raises(CamWarning), warnings_logged(print):
                raise CamWarning("of another")
        with pytest.raises(CamWarning):
            warn("told")
    assert said == ["told"]


def test_a_log_of_few_letters_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    trace = GradCAM("x", model=SmallTorch(), labels="y", n_samples=1, outputs="猫")
    monkeypatch.setattr(sys, "stdout", out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_through(trace)
    monkeypatch.undo()
    assert rb"\u732b took" in out.buffer.getvalue()


# --- large images --------------------------------------------------------------------------------------------

LARGE = """
import json, resource, sys
import numpy as np, torch
from fe_gradcam.training.options import Options
from fe_gradcam.training.selection import selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher

batches, folder = int(sys.argv[1]), sys.argv[2]
nn = torch.nn
model = nn.Sequential(
    nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
).eval()
options = Options(
    {"model", "labels"}, selection=selection_of("random", 1, None, 0, {"model", "labels"}), save_dir=folder,
    track=True, report=True, on_error="raise",
)
watcher = Watcher(ModelSource(model, options), options)
watcher.begin()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

image = torch.rand(1, 3, 4000, 4000)
with torch.no_grad():
    model(image)
before = peak()
for number in (1, 2):
    watcher.begin_epoch(number)
    for at in range(batches):
        watcher.see(image, torch.tensor([at % 5]))
    epoch = watcher.end_epoch()
print(json.dumps({"more": peak() - before, "image": image.numel() * 4 / 2**20, "keys": sorted(epoch.values)}))
"""


@pytest.mark.slow
def test_memory_is_bounded_with_large_images(tmp_path: Path) -> None:
    """Of 4,000 pixels, with film and page: a few times the image, however many of them an epoch has."""
    few, many = (printed(LARGE, str(batches), str(tmp_path)) for batches in (2, 12))
    assert few["keys"] == ["gradcam", "gradcam_film", "gradcam_report", "gradcam_results"]
    assert few["more"] < 8 * few["image"]
    assert many["more"] < few["more"] + 2 * few["image"]
