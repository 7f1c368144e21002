"""What holds for every metric, how metrics are asked for, and arguments that do not fit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam import METRICS, ArgumentError, UnknownNameError, UnsupportedModelError, measure
from fe_gradcam.metrics.measure import summary
from tests.metrics.readers import FRAMEWORKS, OF_MODEL, READERS, every_metric, heat_of, laid_out, random_case, untouched
from tests.models.toys import SmallTorch

pytestmark = pytest.mark.threads

SHARES = ("average_drop", "increase", "deletion", "insertion", "pointing_game", "energy_inside", "sanity")
OF_PLACE = {"metrics": "energy_inside"}
RANGES = dict.fromkeys(SHARES, (0.0, 1.0)) | {"road": (-0.5, 0.5), "energy_ratio": (0, np.inf)}


def assert_within_its_range(name: str, values: np.ndarray) -> None:
    least, most = RANGES[name]
    assert (values >= least).all() and (values <= most).all(), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_metric_has_a_value_for_each_image_within_its_range(framework: str) -> None:
    assert set(RANGES) == set(METRICS)
    found = every_metric(*random_case(framework))
    assert list(found) == list(METRICS)
    for name, values in found.items():
        assert values.shape == (3,) and values.dtype == np.float32
        assert_within_its_range(name, values)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_batch_equals_its_images_one_by_one_whatever_the_batch_size(framework: str) -> None:
    model, images, heatmap, places = random_case(framework)
    whole = every_metric(model, images, heatmap, places)
    small = every_metric(model, images, heatmap, places, batch_size=7)
    rows = [slice(at, at + 1) for at in range(3)]
    single = [every_metric(model, images[row], heatmap.rows(row), places[row]) for row in rows]
    for name, values in whole.items():
        assert_allclose(values, small[name], atol=1e-5, err_msg=name)
        assert_allclose(values, np.concatenate([alone[name] for alone in single]), atol=1e-5, err_msg=name)


@settings(max_examples=6)
@given(arrays(np.float32, (2, 5, 6), elements=st.integers(0, 5).map(np.float32)), st.sampled_from([0.125, 4.0, 1024.0]))
def test_every_metric_is_the_same_for_heat_on_another_scale(heat: np.ndarray, factor: float) -> None:
    torch.manual_seed(0)
    model, images = SmallTorch().eval(), torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    places = np.zeros((2, 5, 6), bool)
    places[:, 1:3] = True
    found, scaled = (every_metric(model, images, heat_of(one), places) for one in (heat, heat * np.float32(factor)))
    for name, values in found.items():
        assert_allclose(values, scaled[name], rtol=1e-5, err_msg=name)
        assert_within_its_range(name, values[~np.isnan(values)])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_model_and_the_random_streams_stay_as_they_were(framework: str) -> None:
    model, images, heatmap, places = random_case(framework)
    if framework == "torch":
        model.train()
    picture = np.array(images)
    with untouched(model), warnings.catch_warnings():
        warnings.simplefilter("error")
        every_metric(model, images, heatmap, places)
    assert_array_equal(np.array(images), picture)
    assert framework == "keras" or all(module.training for module in model.modules())


def test_the_frameworks_agree() -> None:
    weights = np.random.default_rng(0).random((9, 12)) / 54
    images = np.random.default_rng(1).random((2, 1, 9, 12), np.float32)
    heatmap = heat_of(np.random.default_rng(2).random((2, 9, 12)), [0, 1])
    found = [measure(READERS[name](weights), laid_out(name, images), heatmap, OF_MODEL) for name in FRAMEWORKS]
    for name, values in found[0].items():
        assert_allclose(values, found[1][name], atol=1e-5, err_msg=name)


def test_how_a_metric_is_asked_for() -> None:
    metric = METRICS.find(["deletion", {"steps": np.int64(16), "baseline": "mean"}])
    assert metric.label == "deletion(steps=16, baseline=mean)" and type(metric.given["steps"]) is int
    assert METRICS.find(metric) is metric
    assert METRICS.find(("road", {"percentiles": [50]})).given == {"percentiles": (50,)}
    assert METRICS["deletion"].given == {}


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("deletoin", UnknownNameError, "did you mean 'deletion'"),
        (("sanity", {"step": 3}), UnknownNameError, "none, this metric has no parameters"),
        (("deletion", {"steps": 0}), ArgumentError, "steps=0 is not accepted. Accepted: an integer from 1"),
        (("deletion", {"baseline": "noise"}), ArgumentError, "a number or 'mean' or 'blur'"),
        (("road", {"percentiles": 50}), ArgumentError, "several, each a number from 0 to 100"),
        (("road", {"percentiles": ()}), ArgumentError, "several, each a number from 0 to 100"),
        (("road", {"percentiles": (50, 101)}), ArgumentError, "several, each a number from 0 to 100"),
        (3, ArgumentError, "metric=3 is not accepted"),
    ],
)
def test_a_metric_that_there_is_not(given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        METRICS.find(given)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"metrics": "sanity", "again": None}, ArgumentError, "again is not given, and metric='sanity' explains"),
        ({"metrics": "energy_inside", "masks": None}, ArgumentError, "masks and boxes are not given, and metric"),
        ({**OF_PLACE, "masks": np.full((3, 9, 12), "x")}, ArgumentError, r"masks has shape .* dtype <U1"),
        ({**OF_PLACE, "masks": np.zeros((3, 9))}, ArgumentError, r"masks hold an array of shape \(3, 9\)"),
        ({**OF_PLACE, "masks": np.zeros((2, 9, 12))}, ArgumentError, "masks are of 2 images, and there are 3 images"),
        ({**OF_PLACE, "boxes": np.ones((2, 4))}, ArgumentError, "boxes are of 2 images, and there are 3 images"),
        ({"images": torch.zeros(2, 3, 9, 12)}, ArgumentError, r"images has shape \(2, 3, 9, 12\), and heatmap"),
        ({"images": torch.zeros(3, 9)}, ArgumentError, r"images has shape \(3, 9\)"),
        ({"heatmap": heat_of(np.ones((3, 9, 12)), 5)}, ArgumentError, "it has 5 classes"),
        ({"batch_size": 0}, ArgumentError, "batch_size=0 is not accepted"),
        ({"seed": -1}, ArgumentError, "seed=-1 is not accepted"),
        ({"model": len}, UnsupportedModelError, "a torch.nn.Module or a tf.keras.Model is needed"),
        ({"metrics": "sanity", "again": lambda: 3}, ArgumentError, "again returned a int"),
        ({"metrics": "sanity", "again": lambda: heat_of([[[1]]])}, ArgumentError, r"maps of shape \(1, 1, 1\)"),
    ],
)
def test_arguments_that_do_not_fit(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    model, images, heatmap, places = random_case("torch")
    fitting = {"model": model, "images": images, "heatmap": heatmap, "masks": places, "again": lambda: heatmap}
    with pytest.raises(error, match=says):
        measure(**(fitting | changed))  # type: ignore[arg-type]


def test_summary() -> None:
    assert summary(np.array([0.25, np.nan, 0.75], np.float32)) == 0.5
    assert summary([np.nan]) is None and summary([]) is None


def test_the_seed_is_0_unless_another_is_given() -> None:
    model, images, heatmap, _ = random_case("torch")
    left_out, of_zero, of_one = (
        measure(model, images, heatmap, "road", **given)["road"] for given in ({}, {"seed": 0}, {"seed": 1})
    )
    assert_array_equal(left_out, of_zero)
    assert (left_out != of_one).all()
