"""Mistakes of a user, each with the moment at which it shows and what is said: before the first step of training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
import torch
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.estimator import Estimator
from fastestimator.op.tensorop.model import ModelOp
from fastestimator.schedule import EpochScheduler
from fastestimator.trace.trace import Trace

from fe_gradcam import ArgumentError, CamWarning, GradCAM, UnknownNameError
from fe_gradcam.integrations.fastestimator import warmup
from tests.models.toys import SmallTorch, small_keras
from tests.trainings import COUNT, Catch, as_layout, build, dataset, estimator, fitted, ops_of

IDS = np.arange(COUNT) % 5
WORDS = np.array(["ant", "bee", "cat", "dog", "elk"])
MAPPING = dict(zip(WORDS.tolist(), range(5), strict=True))
BYTES = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 12, 3)).astype(np.uint8)


def few(value: float) -> np.ndarray:
    """Ids of which one, in the first batch, is no class."""
    return np.where(np.arange(COUNT) == 1, value, IDS)


def data_of(framework: str, count: int = COUNT) -> NumpyDataset:
    other = BYTES if framework == "torch" else np.ascontiguousarray(BYTES.transpose(0, 3, 1, 2))
    more = {
        "word": WORDS[IDS], "from_one": np.sort(IDS)[::-1] + 1,
        "far": IDS + 100, "ignored": np.full(COUNT, -100), "void": few(77),
        "unknown": few(np.nan), "unlabelled": few(-1), "none": np.full(COUNT, -1), "half": IDS + 0.5,
        "wide": np.full((COUNT, 7), 1 / 7, np.float32), "photo": other, "moved": other.astype(np.float32) / 255,
        "bytes": as_layout(framework, BYTES),
    }  # fmt: skip
    return dataset(framework, count, **{key: values[:count] for key, values in more.items()})


class Steps(Trace):
    """Counts the steps of training."""

    def __init__(self) -> None:
        super().__init__(mode="train")
        self.done: list[int] = []

    def on_batch_begin(self, data: Any) -> None:
        self.done.append(self.system.global_step)


def trained(framework: str, steps: Steps, *, fit: Mapping[str, Any] | None = None, **arguments: Any) -> None:
    """Trains with a trace that is mistaken, as a user has it: failures of it are warnings."""
    model, data = build(framework), data_of(framework)
    trace = GradCAM(arguments.pop("images", "x"), model=model, **{"labels": "y", **arguments})
    estimator(framework, model, [trace, steps], train_data=data, eval_data=data).fit(**(fit or {}))


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "labels are strings": (
        {"labels": "word"},
        ArgumentError,
        ["labels='word' holds strings ('ant', 'bee', ", "class ids are needed", "label_mapping="],
    ),
    "labels are names that label_mapping lacks": (
        {"labels": "word", "label_mapping": {"Ant": 0, "cats": 2, "Dog": 3}},
        ArgumentError,
        ["labels='word' holds names that label_mapping lacks in 5 of 5 rows ('ant', 'bee',", "mapping has: 'Ant'"],
    ),
    "ids count from 1": (
        {"labels": "from_one"},
        ArgumentError,
        ["labels='from_one' holds ids up to 5, and none that is 0", "5 classes, ids 0 to 4", "subtract 1"],
    ),
    "ids are of something else": (
        {"labels": "far"},
        ArgumentError,
        ["labels='far' holds no true class in 5 of 5 rows (100, 101,", "ids 0 to 4", "Is it the right key?"],
    ),
    "ids are negative": (
        {"labels": "ignored"},
        ArgumentError,
        ["labels='ignored' holds no true class in 5 of 5 rows (-100)", "-1 for a row without a class"],
    ),
    "labels are no classes": (
        {"labels": "half"},
        ArgumentError,
        ["labels='half' holds an array of shape (5,) and dtype float64", "class ids"],
    ),
    "a key of images that there is not": (
        {"images": "xx"},
        UnknownNameError,
        ["images='xx' is no key of the batches in mode 'eval'; did you mean 'x'", "Keys there: ", "The network gives "
         "this model 'x'."],
    ),
    "a key of labels that there is not": (
        {"labels": "words"},
        UnknownNameError,
        ["labels='words' is no key of the batches in mode 'eval'; did you mean 'word'", "x, y, y_pred."],
    ),
    "predictions are class ids": (
        {"preds": "y", "select": "misclassified"},
        ArgumentError,
        ["preds='y' holds integers of shape (5,), so they seem to be class ids", "probabilities or logits (N, C)"],
    ),
    "predictions are images": (
        {"preds": "x", "select": "misclassified"},
        ArgumentError,
        ["preds='x' holds an array of shape (5, ", "(N, C) or (N, 1) is needed"],
    ),
    "predictions of another model": (
        {"preds": "wide", "select": "misclassified"},
        ArgumentError,
        ["preds='wide' has 7 classes, and the model has 5."],
    ),
    "label_mapping counts from 1": (
        {"label_mapping": {name: at + 1 for name, at in MAPPING.items()}},
        ArgumentError,
        ["label_mapping has ids that are no classes ('elk': 5)", "5 classes, ids 0 to 4", "subtract 1"],
    ),
    "label_mapping is of another model": (
        {"label_mapping": {"ant": 0, "fox": 17, "gnu": 40}},
        ArgumentError,
        ["label_mapping has ids that are no classes ('fox': 17, 'gnu': 40)", "5 classes, ids 0 to 4"],
    ),
    "images in the other layout": (
        {"images": "moved"},
        ArgumentError,
        ["images='moved' has shape (1, ", "pass images.transpose(0, ", "The network gives this model 'x'."],
    ),
}  # fmt: skip
"""By what was done: the arguments of the trace, the error, and what it says."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_before_the_first_step(framework: str, mistake: str) -> None:
    arguments, error, said = MISTAKES[mistake]
    steps = Steps()
    with pytest.raises(error) as caught:
        trained(framework, steps, **arguments)
    assert not steps.done
    message = str(caught.value)
    assert message.startswith("GradCAM ('gradcam'): ")
    for part in said:
        assert part in message


@pytest.mark.parametrize(("key", "also"), [("photo", "has shape (1, 9, 12, 3)"), ("bytes", "pass images.astype(")])
def test_bytes_that_a_model_of_floats_fails_on_are_an_error_before_the_first_step(key: str, also: str) -> None:
    """Keras makes floats of them itself; there the layout alone is at fault."""
    steps = Steps()
    with pytest.raises(ArgumentError) as caught:
        trained("torch", steps, images=key)
    assert not steps.done
    assert isinstance(caught.value.__cause__, RuntimeError)  # what the model itself said
    for part in (also, "holds uint8, and the model takes floats", "/ 255", "The network gives this model 'x'."):
        assert part in str(caught.value)
    trained("tf", steps, images="bytes", on_error="raise")
    assert steps.done


@contextmanager
def warned_once(*said: str) -> Iterator[None]:
    """One warning of the package, in which all of it is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = [str(one.message) for one in caught if issubclass(one.category, CamWarning)]
    assert len(ours) == 1, ours
    for part in said:
        assert part in ours[0]


@pytest.mark.parametrize(
    ("labels", "shown"),
    [("void", "1 of 5 rows (77)"), ("unknown", "1 of 5 rows (nan)"), ("unlabelled", "1 of 5 rows (-1)")],
)
def test_a_row_without_a_usable_label_has_no_true_class_and_is_told_of_once(
    framework: str, labels: str, shown: str
) -> None:
    """In two epochs, in the grid and in what chooses the rows."""
    model, data = build(framework), data_of(framework)
    trace = GradCAM("x", model=model, labels=labels, targets=["pred", "label"], select="best", preds="y_pred",
                    n_samples=None, on_error="raise")  # fmt: skip
    with warned_once(f"labels={labels!r} holds no true class in {shown}", "shown as not labelled", "ids 0 to 4"):
        catch = fitted(framework, model, trace, epochs=2, train_data=data, eval_data=data)
    for caught in catch.caught:
        found = {result["position"]: result.get("label") for result in caught["gradcam_results"]}
        assert found == {at: int(IDS[at]) for at in range(COUNT) if at != 1}  # "best" ranks by the true class


def test_a_row_that_is_not_shown_is_told_of_too_if_it_is_in_the_first_batch() -> None:
    with warned_once("labels='void' holds no true class in 1 of 5 rows (77)"):
        trained("torch", Steps(), labels="void", n_samples=1)


def test_data_without_any_label_is_no_mistake() -> None:
    """-1 says so by itself; all other ids that are no class are an error where most are."""
    steps = Steps()
    with warned_once("labels='none' holds no true class in 5 of 5 rows (-1)"):
        trained("torch", steps, labels="none")
    assert steps.done


def test_names_of_classes_are_labels_where_label_mapping_has_them(framework: str) -> None:
    model, data = build(framework), data_of(framework)
    trace = GradCAM("x", model=model, labels="word", label_mapping=MAPPING, on_error="raise")
    (caught,) = fitted(framework, model, trace, train_data=data, eval_data=data).caught
    assert [result["label"] for result in caught["gradcam_results"]] == IDS[:5].tolist()


def test_a_single_name_beyond_the_classes_is_a_warning() -> None:
    with warned_once("label_mapping has ids that are no classes ('void': 255)", "ids 0 to 4", "not shown"):
        trained("torch", Steps(), label_mapping={**MAPPING, "void": 255})


def test_each_dataset_is_looked_at() -> None:
    model, steps = build("torch"), Steps()
    eval_data = {"day": dataset("torch", 4, y2=np.zeros(4, int)), "night": dataset("torch", 4, y2=np.full(4, 60))}
    trace = GradCAM("x", model=model, labels="y2")
    with pytest.raises(ArgumentError, match=r"4 of 4 rows \(60\)"):
        estimator("torch", model, [trace, steps], eval_data=eval_data).fit()
    assert not steps.done


# --- the host's warmup ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["word", "far"])
def test_without_a_warmup_mistakes_show_with_the_first_batch_that_has_the_keys(framework: str, labels: str) -> None:
    steps, train = Steps(), Steps()
    with pytest.raises(ArgumentError, match=rf"GradCAM \('gradcam'\): labels='{labels}' holds"):
        trained(framework, steps, labels=labels, fit={"warmup": False})
    with pytest.raises(ArgumentError, match=rf"GradCAM \('gradcam'\): labels='{labels}' holds"):
        trained(framework, train, labels=labels, mode="train", fit={"warmup": False})
    assert len(steps.done) == 3  # eval comes after them
    assert len(train.done) == 1


def test_a_trace_of_the_test_mode_sees_its_own_first_batch() -> None:
    model = build("torch")
    trace = GradCAM("x", model=model, labels="far", mode="test")
    fitting = estimator("torch", model, [trace], test_data=data_of("torch"))
    fitting.fit()
    with pytest.raises(ArgumentError, match="labels='far' holds no true class in 5 of 5 rows"):
        fitting.test()


def test_the_warmup_is_as_it_was_where_nothing_is_to_be_said() -> None:
    """The host's own errors stay its own, and nothing is left at its objects."""
    model = build("torch")
    plain = estimator("torch", model, [Catch("eval")])
    other = Catch("eval")
    other.inputs = ["not there"]
    of_others = estimator("torch", model, [GradCAM("x", model=model, labels="y"), other])
    with pytest.raises(AssertionError, match="missing key"):
        of_others.fit()
    assert "run_step" not in vars(of_others.network)
    before = Estimator._warmup
    warmup.apply()
    assert Estimator._warmup is before
    plain.fit()
    assert "run_step" not in vars(plain.network)


def test_a_trace_that_comes_later_is_looked_at_before_the_first_step_too() -> None:
    model, steps = build("torch"), Steps()
    late = EpochScheduler({1: None, 2: GradCAM("x", model=model, labels="far")})
    data = data_of("torch")
    with pytest.raises(ArgumentError, match="labels='far' holds no true class"):
        estimator("torch", model, [late, steps], epochs=2, train_data=data, eval_data=data).fit()
    assert not steps.done


def test_nothing_of_the_warmup_is_kept() -> None:
    model = build("torch")
    trace = GradCAM("x", model=model, labels="y", on_error="raise")
    fitted("torch", model, trace)
    assert not trace._foreseen


@pytest.mark.parametrize("warm", [True, False])
def test_images_of_another_shape_than_the_dummy_are_tried_too(warm: bool) -> None:
    """Of a known input the dummy passes; the trace's own images are others."""
    steps = Steps()
    with pytest.raises(ArgumentError, match="the channels in the second axis"):
        trained("torch", steps, images="moved", fit={"warmup": warm})
    assert bool(steps.done) != warm


def test_a_batch_is_read_by_the_host_alone() -> None:
    """As many images are read as without the trace: what is looked at is the host's own batch."""
    read: list[int] = []

    class Counted(NumpyDataset):
        def __getitem__(self, at: Any) -> Any:
            read.append(at)
            return super().__getitem__(at)

    counts = []
    for traced in (False, True):
        model, data = build("torch"), data_of("torch")
        counted = Counted({key: np.stack([data[at][key] for at in range(COUNT)]) for key in ("x", "y")})
        read.clear()
        traces = [GradCAM("x", model=model, labels="y", on_error="raise")] if traced else []
        estimator("torch", model, traces, train_data=data, eval_data=counted).fit()
        counts.append(list(read))
    assert counts[0] == counts[1]


# --- explain says the same -----------------------------------------------------------------------------------


class TakesBytes(SmallTorch):
    """A model that makes floats of bytes, channels last, by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 3, 1, 2).float() / 255)


def test_a_model_that_takes_its_channels_in_another_axis_is_refused_before_the_first_step() -> None:
    """Its heatmaps would have the size (12, 3) of what was read as the picture."""
    model, steps = fe.build(TakesBytes, optimizer_fn="adam", model_name="bytes"), Steps()
    data, ops = data_of("torch"), ops_of(model, ModelOp(model, "photo", "y_pred"))
    trace = GradCAM("photo", model=model, labels="y", on_error="raise", mode="eval", display="x")
    with pytest.raises(
        ArgumentError, match=r"images='photo' has shape .*takes the channels in the last axis.*Wrap the"
    ):
        estimator("torch", model, [trace, steps], ops=ops, train_data=data, eval_data=data).fit()
    assert not steps.done


def test_a_keras_model_of_any_size_is_told_of_its_layout() -> None:
    model = fe.build(partial(small_keras, size=(None, None)), optimizer_fn="adam", model_name="any")
    data, steps = data_of("tf"), Steps()
    trace = GradCAM("moved", model=model, labels="y")
    with pytest.raises(ArgumentError, match=r"has shape \(1, 3, 9, 12\), and the model takes the channels in the last"):
        estimator("tf", model, [trace, steps], train_data=data, eval_data=data).fit()
    assert not steps.done


@pytest.mark.parametrize(
    ("keyword", "says"),
    [
        ("layers", "GradCAM has no argument 'layers'; pass layer= with one, or with a list that is fused to one map"),
        ("class_names", "pass label_mapping="),
        ("n_sample", "did you mean 'n_samples'"),
    ],
)
def test_a_wrong_keyword_says_which_one_is_meant(keyword: str, says: str) -> None:
    with pytest.raises(TypeError, match=says) as caught:
        GradCAM("x", model=torch.nn.Identity(), **{keyword: 1})
    assert isinstance(caught.value, ArgumentError)


def test_what_others_put_over_the_network_and_the_warmup_stays() -> None:
    model, seen = build("torch"), []
    trained = estimator(
        "torch", model, [GradCAM("x", model=model)], train_data=data_of("torch"), eval_data=data_of("torch")
    )
    step = trained.network.run_step

    def profiled(batch: Any) -> Any:
        seen.append(batch)
        return step(batch)

    trained.network.run_step = profiled
    trained.fit()
    assert trained.network.run_step is profiled
    assert len(seen) > 2, "the warmup's batches and those of the training"
