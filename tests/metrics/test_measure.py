"""The metrics on models whose best score is known by hand, and what must hold for every metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from torch import nn

from fe_gradcam import METRICS, ArgumentError, Heatmap, UnknownNameError, UnsupportedModelError, explain, measure
from fe_gradcam.metrics.imputation import NEIGHBOURS, blurred, filled, interpolated
from fe_gradcam.metrics.measure import overlap_of_hottest, randomised, rank_correlation, summary
from fe_gradcam.metrics.objects import masks_of_boxes
from tests.models.toys import SmallTorch, small_keras

FRAMEWORKS = ("torch", "keras")
RANGES: dict[str, tuple[float, float]] = {
    "average_drop": (0, 1),
    "increase": (0, 1),
    "deletion": (0, 1),
    "insertion": (0, 1),
    "road": (-0.5, 0.5),
    "pointing_game": (0, 1),
    "energy_inside": (0, 1),
    "energy_ratio": (0, np.inf),
    "sanity": (0, 1),
}
OF_MODEL = [name for name, metric in METRICS.items() if metric.needs == "model"]
OF_PLACE = [name for name, metric in METRICS.items() if metric.needs == "place"]


class TorchReader(nn.Module):
    """The probabilities (p, 1 - p) with p = bias + the weighted sum of the pixels, within [0, 1]."""

    def __init__(self, weights: np.ndarray, bias: float = 0.0) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.look.weight)
        self.weights, self.bias = torch.from_numpy(weights.astype(np.float32)), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = (self.bias + (self.look(x)[:, 0] * self.weights).sum((1, 2))).clamp(0, 1)
        return torch.stack([p, 1 - p], 1)


class KerasReader(tf.keras.Model):
    """The same in Keras."""

    def __init__(self, weights: np.ndarray, bias: float = 0.0) -> None:
        super().__init__()
        self.look = tf.keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones")
        self.read, self.bias = tf.constant(weights, tf.float32), bias

    def call(self, x: Any) -> Any:
        p = tf.clip_by_value(self.bias + tf.reduce_sum(self.look(x)[..., 0] * self.read, [1, 2]), 0, 1)
        return tf.stack([p, 1 - p], 1)


READERS = {"torch": TorchReader, "keras": KerasReader}


def laid_out(framework: str, images: np.ndarray) -> Any:
    """Images (N, C, H, W) in the framework's layout."""
    return torch.from_numpy(images) if framework == "torch" else np.ascontiguousarray(np.moveaxis(images, 1, -1))


def heat_of(values: Any, class_ids: Any = 0) -> Heatmap:
    """A heatmap of these values, blank where none is positive."""
    values = np.asarray(values, np.float32)
    count = len(values)
    nothing = np.zeros(count, np.float32)
    ids = np.broadcast_to(np.asarray(class_ids, np.int64), count).copy()
    blank = values.reshape(count, -1).max(1) <= 0
    return Heatmap(values, values, ids, nothing, nothing, blank, method="given", layer="", scaling="none")


def random_case(framework: str) -> tuple[Any, Any, Heatmap, np.ndarray]:
    """A random net, three images, their heatmaps and places."""
    rng = np.random.default_rng(1)
    model = SmallTorch().eval() if framework == "torch" else small_keras()
    images = laid_out(framework, rng.normal(size=(3, 3, 9, 12)).astype(np.float32))
    heat = rng.random((3, 9, 12), np.float32)
    heat[:, :3] = 0  # ties
    places = np.zeros(heat.shape, bool)
    places[:, 2:7, 3:9] = True
    return model, images, heat_of(heat, [0, 2, 4]), places


def every_metric(model: Any, images: Any, heatmap: Heatmap, places: np.ndarray, **given: Any) -> dict[str, np.ndarray]:
    def again() -> Heatmap:
        return heatmap

    return measure(model, images, heatmap, tuple(METRICS), places=places, again=again, **given)


# --- by hand -------------------------------------------------------------------------------------------

WEIGHTS = np.arange(1, 9, dtype=np.float32).reshape(2, 4) / 36
"""The best order takes 8/36, 7/36 ...: p falls through 36, 28, 21, 15, 10, 6, 3, 1 and 0 thirty-sixths."""
BEST_DELETION = (36 / 2 + 28 + 21 + 15 + 10 + 6 + 3 + 1) / 36 / 8
BEST_INSERTION = (8 + 15 + 21 + 26 + 30 + 33 + 35 + 36 / 2) / 36 / 8
BY_PIXEL = [("deletion", {"steps": 8}), ("insertion", {"steps": 8, "baseline": 0.0})]


def areas(framework: str, heat: np.ndarray) -> tuple[float, float]:
    image = laid_out(framework, np.ones((1, 1, 2, 4), np.float32))
    found = measure(READERS[framework](WEIGHTS), image, heat_of(heat[None]), BY_PIXEL)
    deleted, inserted = (float(values[0]) for values in found.values())
    return deleted, inserted


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_deletion_and_insertion_by_hand(framework: str) -> None:
    assert_allclose(areas(framework, WEIGHTS), (BEST_DELETION, BEST_INSERTION), atol=1e-6)
    assert_allclose(areas(framework, -WEIGHTS), (1 - BEST_DELETION, 1 - BEST_INSERTION), atol=1e-6)


@given(st.permutations(range(8)))
def test_no_order_beats_that_of_the_weights(order: list[int]) -> None:
    deleted, inserted = areas("torch", np.array(order, np.float32).reshape(2, 4))
    assert deleted >= BEST_DELETION - 1e-6
    assert inserted <= BEST_INSERTION + 1e-6


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_blank_heatmap_deletes_in_a_random_order(framework: str) -> None:
    pixels = np.zeros((8, 8))
    pixels[2, 3] = 1
    images = np.random.default_rng(0).random((100, 1, 8, 8), np.float32)
    images[:, 0, 2, 3] = 1
    heatmap = heat_of(np.zeros((100, 8, 8)))
    drawn = measure(READERS[framework](pixels), laid_out(framework, images), heatmap, "deletion", batch_size=1000)
    assert len(set(drawn["deletion"])) > 10
    assert abs(drawn["deletion"].mean() - 0.5) < 4 * 0.29 / 10  # 0.29: of the uniform distribution


def quadrant() -> np.ndarray:
    mask = np.zeros((8, 8), np.float32)
    mask[:4, 4:] = 1
    return mask


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_that_reads_one_quadrant(framework: str) -> None:
    model = READERS[framework](quadrant() / 16)
    image = laid_out(framework, np.tile(quadrant(), (2, 1, 1, 1)))
    heatmap = heat_of([3 * quadrant(), 3 * quadrant()[::-1]])  # the right one, and that below it
    metrics = ("average_drop", "increase", ("road", {"percentiles": (25,), "noise": 0.0}), ("deletion", {"steps": 4}))
    found = measure(model, image, heatmap, metrics)
    assert list(found) == ["average_drop", "increase", "road(percentiles=(25,), noise=0.0)", "deletion(steps=4)"]
    drop, more, road, deleted = found.values()
    assert_allclose(drop, [0, 1], atol=1e-6)
    assert_allclose(more, [0, 0])
    # without the quadrant all that is known is 0; without the coldest quarter the right quadrant may lose pixels
    assert_allclose(road[0], 0.5, atol=1e-6)
    assert road[1] < 0
    assert_allclose(deleted[0], 1 / 8, atol=1e-6)  # 1, 0, 0, 0, 0 by the trapezium rule


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_image_better_known_through_its_heat(framework: str) -> None:
    model = READERS[framework]((quadrant() - 0.25) / 16, 0.3)  # what lies beside the quadrant speaks against it
    image = laid_out(framework, np.ones((3, 1, 8, 8), np.float32))
    found = measure(model, image, heat_of([quadrant(), np.ones((8, 8)), 1 - quadrant()]), ("increase", "average_drop"))
    assert_allclose(found["increase"], [1, 0, 0])
    assert_allclose(found["average_drop"], [0, 0, 1], atol=1e-6)  # Y 0.3; O 1, 0.3 and 0.3 - 0.75


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_constant_model(framework: str) -> None:
    model = READERS[framework](np.zeros((9, 12)), 0.3)
    images = laid_out(framework, np.random.default_rng(0).random((2, 1, 9, 12), np.float32))
    found = measure(model, images, heat_of(np.random.default_rng(1).random((2, 9, 12)), [0, 1]), OF_MODEL)
    for name in ("deletion", "insertion"):
        assert_allclose(found[name], [0.3, 0.7], rtol=1e-6)
    for name in ("road", "increase", "average_drop"):
        assert_allclose(found[name], 0, atol=1e-7)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_average_drop_is_nan_where_there_is_nothing_to_lose(framework: str) -> None:
    model = READERS[framework](quadrant() / 16)
    found = measure(
        model, laid_out(framework, np.zeros((1, 1, 8, 8), np.float32)), heat_of([quadrant()]), "average_drop"
    )
    assert np.isnan(found["average_drop"]).all()


def test_noise_is_that_of_the_seed_and_of_missing_pixels_alone() -> None:
    pixels = np.zeros((8, 8))
    pixels[0, 0] = 1
    image = torch.full((1, 1, 8, 8), 0.5)

    def road(hottest: tuple[int, int], seed: int = 0, **given: Any) -> float:
        heat = np.ones((1, 8, 8))
        heat[0][hottest] = 2
        heat[0, 7, 7 - hottest[1]] = 0
        spec = ("road", {"percentiles": (100 / 64,), **given})
        return float(next(iter(measure(TorchReader(pixels), image, heat_of(heat), [spec], seed=seed).values()))[0])

    assert 0 < abs(road((0, 0))) < 0.03  # half a draw of deviation 0.01
    assert road((0, 0)) == road((0, 0)) != road((0, 0), seed=1)
    assert road((0, 0), noise=0.0) == 0
    assert road((0, 5)) == 0  # the pixel that is read is not among those removed


# --- probabilities -------------------------------------------------------------------------------------

HEADS: dict[str, tuple[int, Callable[[torch.Tensor], torch.Tensor], Callable[[Any], Any]]] = {
    "logits": (5, lambda x: x.softmax(1), lambda x: x),
    "softmax": (5, lambda x: x.softmax(1), tf.nn.softmax),
    "sigmoid of several": (5, torch.sigmoid, tf.sigmoid),
    "one logit": (1, lambda x: torch.cat([(-x).sigmoid(), x.sigmoid()], 1), lambda x: x),
    "one sigmoid": (1, lambda x: torch.cat([(-x).sigmoid(), x.sigmoid()], 1), tf.sigmoid),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_probability_of_the_explained_class_is_asked_for(framework: str, head: str) -> None:
    classes, expected, of_keras = HEADS[head]
    images = np.random.default_rng(0).normal(size=(3, 3, 9, 12)).astype(np.float32)
    ids = np.array([1, 0, 1])
    if framework == "torch":
        net: Any = SmallTorch(classes=classes).eval()
        logits = [net(torch.from_numpy(part)).detach() for part in (images, 0 * images)]
        in_torch = {"softmax": nn.Softmax(1), "sigmoid of several": nn.Sigmoid(), "one sigmoid": nn.Sigmoid()}
        model: Any = nn.Sequential(net, in_torch.get(head, nn.Identity())).eval()
    else:
        net = small_keras(classes=classes)
        logits = [torch.from_numpy(net(laid_out("keras", part)).numpy()) for part in (images, 0 * images)]
        model = tf.keras.Model(net.inputs, of_keras(net.output))
    ends = [expected(table).numpy()[range(3), ids] for table in logits]
    found = measure(model, laid_out(framework, images), heat_of(np.ones((3, 9, 12)), ids), [("deletion", {"steps": 1})])
    assert_allclose(found["deletion(steps=1)"], (ends[0] + ends[1]) / 2, rtol=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_outputs_for_empty_images_do_not_say_how_outputs_are_read(framework: str) -> None:
    """Without biases the logits of an empty image are 0: alone they might be probabilities of independent classes."""
    model, images, heatmap, _ = random_case(framework)
    if framework == "torch":
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, False)
        )
    before = explain(model, images, target=heatmap.class_ids).confidences
    found = measure(model, images, heatmap, [("deletion", {"steps": 1})], batch_size=1)["deletion(steps=1)"]
    assert_allclose(found, (before + 1 / 5) / 2, rtol=1e-5)
    assert_allclose(explain(model, images, target=heatmap.class_ids).confidences, before, rtol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_image_without_a_class_has_no_value_of_the_model(framework: str) -> None:
    model, images, heatmap, places = random_case(framework)
    found = every_metric(model, images, replace(heatmap, class_ids=np.array([0, -1, 4])), places)
    for name, values in found.items():
        assert_array_equal(np.isnan(values), [False, name in OF_MODEL, False], name)


class OfBytes(nn.Module):
    """Takes bytes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.uint8:
            raise TypeError(x.dtype)
        return torch.stack([self.look(x.float() / 255).mean((1, 2, 3)), torch.zeros(len(x))], 1)


def test_bytes_stay_bytes() -> None:
    images = torch.randint(0, 256, (2, 1, 9, 12), dtype=torch.uint8)
    found = measure(OfBytes().eval(), images, heat_of(np.random.default_rng(0).random((2, 9, 12))), OF_MODEL)
    assert all(np.isfinite(values).all() for values in found.values())


class WithMore(nn.Module):
    """p is the share of white pixels, or what comes beside the image where that is not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Identity()

    def forward(self, more: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        p = torch.where(more[:, 0] != 0, more[:, 0], self.look(x).mean((1, 2, 3)))
        return torch.stack([p, 1 - p], 1)


def test_of_several_inputs_the_picture_alone_is_changed() -> None:
    inputs = (torch.tensor([[0.0], [0.25]]), torch.ones(2, 1, 4, 4))
    assert_allclose(
        measure(WithMore(), inputs, heat_of(np.ones((2, 4, 4))), "deletion", batch_size=3)["deletion"], [0.5, 0.25]
    )


def test_volumes() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    volumes = torch.rand(2, 1, 5, 6, 7)
    heatmap = heat_of(np.random.default_rng(0).random((2, 5, 6, 7)))
    places = np.zeros((2, 5, 6, 7), bool)
    places[:, 1:3, 2:5, 2:6] = True
    found = measure(
        model, volumes, heatmap, [name for name in METRICS if name not in ("road", "sanity")], places=places
    )
    assert all(np.isfinite(values).all() for values in found.values())
    with pytest.raises(ArgumentError, match="images of two axes"):
        measure(model, volumes, heatmap, "road")


# --- places --------------------------------------------------------------------------------------------


def of_places(heat: Any, places: Any, *metrics: Any) -> list[np.ndarray]:
    heat = np.asarray(heat, np.float32)
    images = torch.zeros(len(heat), 1, *heat.shape[1:])
    return list(
        measure(TorchReader(heat[0]), images, heat_of(heat, -1), metrics, places=np.array(places, bool)).values()
    )


def test_the_pointing_game_by_hand() -> None:
    place = np.zeros((5, 7), bool)
    place[1:3, 1:3] = True
    heat = np.zeros((6, 5, 7))
    heat[0, 2, 2] = 1  # inside
    heat[1, 4, 4] = 1  # two rows and two columns off
    heat[2, 0, 6] = heat[2, 1, 1] = 2  # one of two
    heat[3] = 1  # everywhere
    heat[5, 2, 2] = 1  # and no place
    places = [*[place] * 5, np.zeros_like(place)]
    hits, near, nearly = of_places(
        heat, places, "pointing_game", ("pointing_game", {"tolerance": 3}), ("pointing_game", {"tolerance": 2.8})
    )
    assert_array_equal(hits, [1, 0, 1, 0, 0, np.nan])
    assert_array_equal(near, [1, 1, 1, 0, 0, np.nan])  # the distance is the root of 8, 2.83
    assert_array_equal(nearly, hits)


def test_the_energy_inside_by_hand() -> None:
    place = np.zeros((2, 4), bool)
    place[:, :2] = True
    heat = [[[1, 2, 3, 0], [0, 0, 0, -6]], np.zeros((2, 4)), np.ones((2, 4)), np.ones((2, 4))]
    share, ratio = of_places(heat, [place, place, place, np.zeros_like(place)], "energy_inside", "energy_ratio")
    assert_allclose(share, [0.5, np.nan, 0.5, np.nan])
    place[:, 1] = False
    (ratio,) = of_places(heat, [place, place, place, np.zeros_like(place)], "energy_ratio")
    assert_allclose(ratio, [(1 / 6) / (1 / 4), np.nan, 1, np.nan])


def test_masks_of_boxes() -> None:
    boxes = [
        [[1, 0, 2, 1, 7], [3, 1, 1, 5, 7]],
        [[0, 0, 0, 3, 7], [0.6, 0.4, 1, 1, 7]],
        [[0, 0, 2, -1, 7], [np.nan] * 5],
    ]
    expected = [[[0, 1, 1, 0], [0, 0, 0, 1]], [[0, 1, 0, 0], [0, 0, 0, 0]], np.zeros((2, 4))]
    assert_array_equal(masks_of_boxes(boxes, (2, 4)), np.array(expected, bool))
    with pytest.raises(ArgumentError, match=r"boxes has shape \(1, 4\)"):
        masks_of_boxes([[0, 0, 1, 1]], (2, 4))


# --- imputation ----------------------------------------------------------------------------------------


def by_loops(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The imputation as its definition says it, one equation after the other."""
    places = [tuple(place) for place in np.argwhere(missing)]
    system, sums = np.zeros((len(places), len(places))), np.zeros((len(places), len(image)))
    for at, (row, column) in enumerate(places):
        for (down, right), weight in NEIGHBOURS.items():
            other = (row + down, column + right)
            if 0 <= other[0] < missing.shape[0] and 0 <= other[1] < missing.shape[1]:
                system[at, at] += weight
                if missing[other]:
                    system[at, places.index(other)] -= weight
                else:
                    sums[at] += weight * image[(slice(None), *other)]
    filled_in = image.copy()
    filled_in[:, missing] = np.linalg.solve(system, sums).T
    return filled_in


@given(arrays(bool, (7, 9)), st.integers(0, 100))
def test_the_imputation_solves_its_equations(missing: np.ndarray, seed: int) -> None:
    missing[3, 4] = False
    image = np.random.default_rng(seed).normal(size=(2, 7, 9)).astype(np.float32)
    found = interpolated(image, missing)
    assert_array_equal(found[:, ~missing], image[:, ~missing])
    assert_allclose(found, by_loops(image, missing), atol=1e-3)  # it ends within 1e-4 of the range


def test_a_pixel_by_hand() -> None:
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3) ** 2
    middle, corner = np.zeros((2, 3, 3), bool)
    middle[1, 1] = corner[0, 0] = True
    assert_allclose(interpolated(image, middle)[0, 1, 1], (4 + 16 + 36 + 64) / 6 + (1 + 9 + 49 + 81) / 12, rtol=1e-5)
    assert_allclose(interpolated(image, corner)[0, 0, 0], 0.4 * 4 + 0.4 * 16 + 0.2 * 25, rtol=1e-5)


def test_a_ramp_is_filled_in_as_it_was_and_so_is_a_constant() -> None:
    rows, columns = np.mgrid[:60, :80].astype(np.float32)
    ramp, missing = np.stack([rows + 2 * columns, 7 - rows]), np.zeros((60, 80), bool)
    missing[5:50, 8:70] = True
    assert_allclose(interpolated(ramp, missing), ramp, atol=0.02)  # of a range of 217
    assert_array_equal(interpolated(np.full((3, 60, 80), 0.7, np.float32), ~missing), np.float32(0.7))
    assert_array_equal(interpolated(ramp, np.zeros_like(missing)), ramp)
    with pytest.raises(ArgumentError, match="missing is True everywhere"):
        interpolated(ramp, np.ones_like(missing))


def test_what_pixels_are_replaced_by() -> None:
    import cv2

    images = torch.rand(2, 3, 20, 8)
    assert_allclose(filled(images, "mean"), images.mean((2, 3))[:, :, None, None].expand_as(images), rtol=1e-6)
    assert_array_equal(filled(images, -1), -torch.ones_like(images))
    for image, blurry in zip(images.numpy(), blurred(images).numpy(), strict=True):
        expected = cv2.GaussianBlur(image.transpose(1, 2, 0), (11, 11), 5.0)
        assert_allclose(blurry.transpose(1, 2, 0), expected, atol=1e-6)


# --- maps compared -------------------------------------------------------------------------------------

NUMBERS = st.integers(-3, 3).map(float)
MAPS = arrays(np.float64, (3, 2, 4), elements=NUMBERS)


@given(MAPS, MAPS)
def test_the_rank_correlation(a: np.ndarray, b: np.ndarray) -> None:
    found = rank_correlation(a, b)
    assert_allclose(found, rank_correlation(b, a), atol=1e-12)
    for one, first, second in zip(found, a, b, strict=True):
        constant = np.ptp(first) == 0, np.ptp(second) == 0
        expected = float(all(constant)) if any(constant) else spearmanr(first.ravel(), second.ravel()).statistic
        assert_allclose(one, expected, atol=1e-12)
    assert_allclose(rank_correlation(a, np.exp(a)), 1)


@given(MAPS, MAPS, st.floats(0.05, 1))
def test_the_overlap_of_the_hottest(a: np.ndarray, b: np.ndarray, share: float) -> None:
    found = overlap_of_hottest(a, b, share)
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    assert_allclose(found, overlap_of_hottest(b, a, share), atol=1e-12)
    assert_allclose(overlap_of_hottest(a, 2 * a + 1, share), 1)
    order = np.random.default_rng(0).permutation(8)
    assert_allclose(found, overlap_of_hottest(*(maps.reshape(3, 8)[:, order] for maps in (a, b)), share), atol=1e-12)


def test_the_overlap_by_hand() -> None:
    falling, shifted = np.array([[8, 7, 6, 5, 4, 3, 2, 1]]), np.array([[1, 8, 7, 6, 5, 4, 3, 2]])
    assert_allclose(overlap_of_hottest(falling, shifted, 0.25), 1 / 3)
    # a constant map takes each pixel by a quarter: 2 * 1/4 in common of 2 * 1 + 6 * 1/4
    assert_allclose(overlap_of_hottest(falling, 0 * falling, 0.25), 0.5 / 3.5)
    assert_allclose(overlap_of_hottest(0 * falling, 0 * falling), 1)


def test_maps_that_cannot_be_compared() -> None:
    for compare in (rank_correlation, overlap_of_hottest):
        with pytest.raises(ArgumentError, match=r"a has shape \(2, 3\) and b \(2, 4\)"):
            compare(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ArgumentError, match=r"share=0 is not accepted"):
        overlap_of_hottest(np.zeros((2, 3)), np.zeros((2, 3)), 0)


# --- sanity --------------------------------------------------------------------------------------------


def weights_of(model: Any) -> list[np.ndarray]:
    if isinstance(model, nn.Module):
        return [value.detach().numpy().copy() for value in model.state_dict().values()]
    return [value.numpy() for value in model.weights]


def outputs_of(model: Any, images: Any) -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return np.array(model(images))
    return np.array(model(images, training=False))


MODELS: dict[str, Callable[[], Any]] = {
    "torch": lambda: SmallTorch().eval(),
    "data parallel": lambda: nn.DataParallel(SmallTorch().eval()),
    "compiled": lambda: torch.compile(SmallTorch().eval(), backend="eager"),
    "keras": small_keras,
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_randomised_model_is_put_back_bit_for_bit(kind: str) -> None:
    model = MODELS[kind]()
    images = laid_out(
        "keras" if kind == "keras" else "torch", np.random.default_rng(0).random((2, 3, 9, 12), np.float32)
    )
    before, outputs = weights_of(model), outputs_of(model, images)
    streams = np.random.get_state()[1].copy(), torch.get_rng_state().clone()
    shuffled = []
    for seed in (0, 0, 1):
        with pytest.raises(KeyboardInterrupt), randomised(model, seed):
            shuffled.append(weights_of(model))
            assert np.abs(outputs_of(model, images) - outputs).max() > 1e-3 * np.abs(outputs).max()
            raise KeyboardInterrupt
        for one, other in zip(before, weights_of(model), strict=True):
            assert one.tobytes() == other.tobytes()
    for one, first, second, third in zip(before, *shuffled, strict=True):
        assert_array_equal(first, second)
        assert_array_equal(np.sort(first, None), np.sort(one, None))
        assert (one.ndim > 1) == bool((first != one).any()) == bool((first != third).any())
    assert_array_equal(np.random.get_state()[1], streams[0])
    assert torch.equal(torch.get_rng_state(), streams[1])


def test_a_graph_and_gradients_survive_a_randomised_model() -> None:
    model, images = SmallTorch().eval(), torch.rand(2, 3, 9, 12)
    model(images).sum().backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters()}
    held = model(images).sum()
    with randomised(model):
        pass
    assert all(torch.equal(one.grad, expected[name]) for name, one in model.named_parameters())
    held.backward()
    assert all(torch.allclose(one.grad, 2 * expected[name]) for name, one in model.named_parameters())


def test_weights_made_in_inference_mode_and_tied_ones_are_randomised_too() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    before = weights_of(model)
    with randomised(model):
        assert (model[0].weight.detach().numpy() != before[0]).any()
        assert model[1].weight is model[0].weight
    assert all(one.tobytes() == other.tobytes() for one, other in zip(before, weights_of(model), strict=True))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_heat_that_ignores_the_weights_has_no_sanity(framework: str) -> None:
    model, images, _, _ = random_case(framework)
    pictures = np.asarray(images) if framework == "keras" else np.moveaxis(images.numpy(), 1, -1)
    plain, seen = outputs_of(model, images), []

    def edges() -> Heatmap:
        seen.append(outputs_of(model, images))
        return heat_of(sum(np.abs(slope) for slope in np.gradient(pictures.mean(-1), axis=(1, 2))), [0, 1, 2])

    assert_allclose(measure(model, images, edges(), "sanity", again=edges)["sanity"], 1, rtol=1e-6)
    assert_array_equal(seen[0], plain)
    assert np.abs(seen[1] - plain).max() > 1e-3 * np.abs(plain).max()
    assert_allclose(outputs_of(model, images), plain, rtol=1e-6)


def test_sanity_of_maps_without_an_order() -> None:
    model, images, heatmap, _ = random_case("torch")
    raw = heatmap.raw.copy()
    raw[0] = 0
    heatmap = replace(heatmap, raw=raw, blank=np.array([True, False, False]))
    other = replace(heatmap, raw=np.stack([raw[1], -raw[1], 0 * raw[1]]))
    assert_allclose(measure(model, images, heatmap, "sanity", again=lambda: other)["sanity"], [np.nan, 1, 0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_grad_cam_of_a_trained_classifier(framework: str, pretrained: dict[str, Any]) -> None:
    model, images = pretrained[framework]
    images = images[:4]
    heatmap = explain(model, images)

    def again() -> Heatmap:
        return explain(model, images, target=heatmap.class_ids)

    metrics = (("insertion", {"steps": 10}), ("road", {"percentiles": (20, 50)}))
    noise = heat_of(np.random.default_rng(0).random(heatmap.values.shape), heatmap.class_ids)
    found, blind = (measure(model, images, one, metrics, batch_size=8) for one in (heatmap, noise))
    for name, least in zip(found, (0.1, 0.05), strict=True):
        assert summary(found[name]) > summary(blind[name]) + least, name
    assert summary(measure(model, images, heatmap, "sanity", again=again)["sanity"]) < 0.5


# --- what holds for every metric -----------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_metric_has_a_value_for_each_image_within_its_range(framework: str) -> None:
    assert set(RANGES) == set(METRICS)
    found = every_metric(*random_case(framework))
    assert list(found) == list(METRICS)
    for name, values in found.items():
        assert values.shape == (3,) and values.dtype == np.float32
        assert (values >= RANGES[name][0]).all() and (values <= RANGES[name][1]).all(), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_batch_equals_its_images_one_by_one_whatever_the_batch_size(framework: str) -> None:
    model, images, heatmap, places = random_case(framework)
    whole = every_metric(model, images, heatmap, places)
    small = every_metric(model, images, heatmap, places, batch_size=7)
    for row in range(3):
        fields = {name: getattr(heatmap, name)[row : row + 1] for name in ("values", "raw", "class_ids", "blank")}
        alone = every_metric(model, images[row : row + 1], replace(heatmap, **fields), places[row : row + 1])
        for name, values in whole.items():
            assert_allclose(values[row], alone[name][0], atol=1e-5, err_msg=name)
    for name, values in whole.items():
        assert_allclose(values, small[name], atol=1e-5, err_msg=name)


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
        known = values[~np.isnan(values)]
        assert (known >= RANGES[name][0]).all() and (known <= RANGES[name][1]).all(), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_model_and_the_random_streams_stay_as_they_were(framework: str) -> None:
    model, images, heatmap, places = random_case(framework)
    if framework == "torch":
        model.train()
    before, picture = weights_of(model), np.array(images)
    streams = np.random.get_state()[1].copy(), torch.get_rng_state().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every_metric(model, images, heatmap, places)
    assert all(one.tobytes() == other.tobytes() for one, other in zip(before, weights_of(model), strict=True))
    assert_array_equal(np.array(images), picture)
    assert_array_equal(np.random.get_state()[1], streams[0])
    assert torch.equal(torch.get_rng_state(), streams[1])
    assert framework == "keras" or all(module.training for module in model.modules())


def test_the_frameworks_agree() -> None:
    weights = np.random.default_rng(0).random((9, 12)) / 54
    images = np.random.default_rng(1).random((2, 1, 9, 12), np.float32)
    heatmap = heat_of(np.random.default_rng(2).random((2, 9, 12)), [0, 1])
    found = [measure(READERS[name](weights), laid_out(name, images), heatmap, OF_MODEL) for name in FRAMEWORKS]
    for name, values in found[0].items():
        assert_allclose(values, found[1][name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name and metric.label == name
    assert metric.paper.startswith("arXiv:") and "Source: " in (metric.rule.__doc__ or "")
    assert metric.summary and metric.needs in ("model", "place", "again") and metric.better in ("higher", "lower")
    for parameter in metric.parameters.values():
        assert parameter.accepts(parameter.default), parameter.name
        assert not parameter.accepts("ten") and not parameter.accepts(None) and not parameter.accepts(-1e400)
        with pytest.raises(ArgumentError, match=f"metric='{name}': {parameter.name}='ten' is not accepted"):
            METRICS.find((name, {parameter.name: "ten"}))


# --- asked for, and errors -----------------------------------------------------------------------------


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
        (("deletion", {"step": 3}), UnknownNameError, "has no parameter 'step'; did you mean 'steps'"),
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
        ({"metrics": "sanity", "again": None}, ArgumentError, "again is None, and metric='sanity' needs it"),
        ({"metrics": "energy_inside", "places": None}, ArgumentError, "places is None, and metric='energy_inside'"),
        ({"places": np.zeros((3, 9, 12))}, ArgumentError, r"dtype float64; bools of shape \(3, 9, 12\)"),
        ({"places": np.zeros((3, 9), bool)}, ArgumentError, r"places has shape \(3, 9\)"),
        ({"images": torch.zeros(2, 3, 9, 12)}, ArgumentError, r"images has shape \(2, 3, 9, 12\), and heatmap"),
        ({"images": torch.zeros(3, 9)}, ArgumentError, r"images has shape \(3, 9\)"),
        ({"heatmap": heat_of(np.ones((3, 9, 12)), 5)}, ArgumentError, "it has 5 classes"),
        ({"batch_size": 0}, ArgumentError, "batch_size=0 is not accepted"),
        ({"seed": -1}, ArgumentError, "seed=-1 is not accepted"),
        ({"model": len}, UnsupportedModelError, "a torch.nn.Module or a tf.keras.Model is needed"),
        ({"metrics": "sanity", "again": lambda: 3}, ArgumentError, "again returned a int"),
        (
            {"metrics": "sanity", "again": lambda: heat_of(np.ones((2, 3, 3)))},
            ArgumentError,
            r"maps of shape \(2, 3, 3\)",
        ),
    ],
)
def test_arguments_that_do_not_fit(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    model, images, heatmap, places = random_case("torch")
    fitting = {"model": model, "images": images, "heatmap": heatmap, "places": places, "again": lambda: heatmap}
    with pytest.raises(error, match=says):
        measure(**(fitting | changed))  # type: ignore[arg-type]


def test_randomised_says_what_it_takes() -> None:
    for model, seed, error in ((len, 0, UnsupportedModelError), (SmallTorch(), -1, ArgumentError)):
        with pytest.raises(error), randomised(model, seed):
            pass


def test_summary() -> None:
    assert summary(np.array([0.25, np.nan, 0.75], np.float32)) == 0.5
    assert summary([np.nan]) is None and summary([]) is None
