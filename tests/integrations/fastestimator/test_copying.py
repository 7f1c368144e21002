"""Copies of a trace, pickled ones too: the same settings in another training, and what is not copied is said."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fe_gradcam import ArgumentError, CamWarning, GradCAM
from tests.models.toys import SmallTorch
from tests.state import seed
from tests.trainings import build, fitted, gradcam, heats, keyed_gradcam, keyed_ops, weights_of


def through_pickle(trace: Any) -> Any:
    return pickle.loads(pickle.dumps(trace))


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": through_pickle,
    "twice": lambda trace: copy.copy(copy.deepcopy(trace)),
}
SETTINGS: dict[str, Any] = {
    "n_samples": 3,
    "methods": ["grad_cam", "hires_cam"],
    "targets": ["pred", "label"],
    "metrics": ["average_drop"],
    "select": "random",
    "seed": 7,
    "label_mapping": {f"class {at}": at for at in range(5)},
    "mean": np.zeros(3),
}


def put_out(caught: dict[str, Any]) -> list[Any]:
    return [
        [result["position"] for result in caught["gradcam_results"]],
        heats(caught["gradcam_results"]),
        heats(caught["gradcam_results"], method="hires_cam"),
        caught["gradcam"].raster,
        caught.get("gradcam_average_drop_grad_cam"),
    ]


@pytest.mark.parametrize("way", ["copy", "deepcopy", "twice"])
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_makes_in_another_estimator_what_the_trace_makes(framework: str, way: str, used: bool) -> None:
    found = []
    for kind in ("trace", "copy"):
        seed()
        model = build(framework)
        trace = gradcam(model, **SETTINGS)
        if used:
            fitted(framework, build(framework), GradCAM("x", model=model, n_samples=1))
            fitted(framework, model, trace)
        if kind == "copy":
            trace = WAYS[way](trace)
            assert trace.model is model
        found.append(put_out(fitted(framework, model, trace).caught[0]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_trace_of_keys_needs_no_model(framework: str, way: str) -> None:
    found = []
    for copied in (lambda trace: trace, WAYS[way]):
        seed()
        model = build(framework)
        trace = copied(keyed_gradcam(n_samples=2, methods="hires_cam"))
        caught = fitted(framework, model, trace, ops=keyed_ops(model)).caught[0]
        found.append(caught["gradcam"].raster)
    np.testing.assert_array_equal(*found)


def test_a_copy_follows_the_images_that_the_trace_follows(framework: str) -> None:
    model = build(framework)
    trace = gradcam(model, n_samples=2, select="random", track=True)
    fitted(framework, model, trace, epochs=2)
    for way in ("copy", "deepcopy"):
        other = WAYS[way](trace)
        of_both = [one.watcher.history.streams["eval", ""] for one in (trace, other)]
        np.testing.assert_array_equal(*(one.rows.positions for one in of_both))
        np.testing.assert_array_equal(*(one.pictures for one in of_both))
        assert [one.epoch for one in of_both[1].records] == [1, 2]
        assert of_both[0] is not of_both[1]


def test_a_copy_has_what_can_be_changed_for_itself() -> None:
    targets = ["pred"]
    trace = GradCAM("x", model=SmallTorch(), targets=targets)
    other = copy.deepcopy(trace)
    assert other._given["targets"] == targets
    assert other._given["targets"] is not targets
    assert other.watcher is not trace.watcher
    assert other.inputs == trace.inputs
    assert other.outputs == trace.outputs


def test_behind_a_copy_of_its_model_a_deep_copy_explains_that_copy() -> None:
    model = SmallTorch()
    trace = GradCAM("x", model=model, layer=model.conv2)
    other_model, other = copy.deepcopy((model, trace))
    assert other_model is not model
    assert other.model is other_model
    assert other._given["layer"] is other_model.conv2
    assert copy.deepcopy(trace)._given["layer"] is model.conv2


def test_a_trace_and_its_copy_in_one_training_are_told_from_each_other() -> None:
    model = build("torch")
    trace = gradcam(model)
    with pytest.raises(ArgumentError, match="the key of 2 GradCAM traces"):
        fitted("torch", model, trace, copy.copy(trace))


def test_a_model_that_cannot_be_pickled_is_an_error_that_names_it() -> None:
    """As those that the host builds for PyTorch."""
    with pytest.raises(
        ArgumentError, match=r"GradCAM \('gradcam'\) cannot be pickled, as its model cannot: .*copy.copy"
    ):
        pickle.dumps(gradcam(build("torch")))


def test_a_pickled_trace_has_its_own_model_and_says_so() -> None:
    model = SmallTorch()
    other = through_pickle(GradCAM("x", model=model, n_samples=2))
    assert other.model is not model
    assert all(map(torch.equal, other.model.state_dict().values(), model.state_dict().values()))
    trained = build("torch")
    with pytest.warns(CamWarning, match="was pickled, and its model with it: it explains that copy"):
        assert "gradcam" in fitted("torch", trained, other).caught[0]


def test_a_pickled_trace_of_keras_has_its_own_model() -> None:
    model = build("tf")
    other = through_pickle(gradcam(model, n_samples=2))
    for one, its in zip(weights_of("tf", other.model), weights_of("tf", model), strict=True):
        np.testing.assert_array_equal(one, its)


def test_pickled_with_its_model_a_trace_explains_that_model_and_is_quiet() -> None:
    model = SmallTorch()
    other_model, other = through_pickle((model, GradCAM("x", model=model)))
    assert other.model is other_model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other._say_whose_model([other_model])
        GradCAM("x", model=model)._say_whose_model([])
