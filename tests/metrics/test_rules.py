"""Each metric by hand, on models that read single pixels or a quadrant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam import METRICS, ArgumentError, Heatmap, explain, measure
from fe_gradcam.metrics.measure import summary
from fe_gradcam.spec.objects import masks_of_boxes, object_masks
from tests.metrics.readers import FRAMEWORKS, OF_MODEL, READERS, TorchReader, heat_of, laid_out, outputs_of, random_case

WEIGHTS = np.arange(1, 9, dtype=np.float32).reshape(2, 4) / 36
BEST_DELETION = (36 / 2 + 28 + 21 + 15 + 10 + 6 + 3 + 1) / 36 / 8
BEST_INSERTION = (8 + 15 + 21 + 26 + 30 + 33 + 35 + 36 / 2) / 36 / 8
QUADRANT = np.zeros((8, 8), np.float32)
QUADRANT[:4, 4:] = 1
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


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_that_reads_one_quadrant(framework: str) -> None:
    model = READERS[framework](QUADRANT / 16)
    image = laid_out(framework, np.tile(QUADRANT, (2, 1, 1, 1)))
    heatmap = heat_of([3 * QUADRANT, 3 * QUADRANT[::-1]])  # the right one, and that below it
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
    model = READERS[framework]((QUADRANT - 0.25) / 16, 0.3)  # what lies beside the quadrant speaks against it
    image = laid_out(framework, np.ones((3, 1, 8, 8), np.float32))
    found = measure(model, image, heat_of([QUADRANT, np.ones((8, 8)), 1 - QUADRANT]), ("increase", "average_drop"))
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
    model, blank = READERS[framework](QUADRANT / 16), laid_out(framework, np.zeros((1, 1, 8, 8), np.float32))
    assert np.isnan(measure(model, blank, heat_of([QUADRANT]), "average_drop")["average_drop"]).all()


def test_noise_is_that_of_the_seed_and_of_missing_pixels_alone() -> None:
    pixels, image = np.zeros((8, 8)), torch.full((1, 1, 8, 8), 0.5)
    pixels[0, 0] = 1

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


def of_places(heat: Any, places: Any, *metrics: Any) -> list[np.ndarray]:
    heat = np.asarray(heat, np.float32)
    images = torch.zeros(len(heat), 1, *heat.shape[1:])
    found = measure(TorchReader(heat[0]), images, heat_of(heat, -1), metrics, masks=np.array(places, bool))
    return list(found.values())


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
    within = [("pointing_game", {"tolerance": pixels}) for pixels in (3, 2.8)]
    hits, near, nearly = of_places(heat, places, "pointing_game", *within)
    assert_array_equal(hits, [1, 0, 1, 0, 0, np.nan])
    assert_array_equal(near, [1, 1, 1, 0, 0, np.nan])  # the distance is the root of 8, 2.83
    assert_array_equal(nearly, hits)


def test_the_energy_inside_by_hand() -> None:
    place = np.zeros((2, 4), bool)
    place[:, :2] = True
    heat = [[[1, 2, 3, 0], [0, 0, 0, -6]], np.zeros((2, 4)), np.ones((2, 4)), np.ones((2, 4))]
    (share,) = of_places(heat, [place, place, place, np.zeros_like(place)], "energy_inside")
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


def test_boxes_that_are_fractions_of_the_image_are_not_taken_for_pixels() -> None:
    with pytest.raises(ArgumentError, match=r"fractions of the image.*multiply by the width 4 and the height 2"):
        object_masks(None, [[[0.25, 0, 0.5, 1], [0, 0, 0, 0]]], (2, 4), 1)
    in_pixels = [[[0, 0, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [0.5, 0, 1.5, 1]], [[0, 1, 4, 1], [0, 0, 1, 1]]]
    for count in (1, 2, 3):  # a pixel and no box; half a pixel in one of two; ...
        found = object_masks(None, in_pixels[:count], (2, 4), count)
        assert_array_equal(found, masks_of_boxes(in_pixels[:count], (2, 4)))
    assert_array_equal(object_masks(None, np.zeros((2, 4)), (2, 4), 2), np.zeros((2, 2, 4), bool))


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

    metrics = (("insertion", {"steps": 10}), ("road", {"percentiles": (20, 50)}))
    noise = heat_of(np.random.default_rng(0).random(heatmap.values.shape), heatmap.class_ids)
    found, blind = (measure(model, images, one, metrics, batch_size=8) for one in (heatmap, noise))
    for name, least in zip(found, (0.1, 0.05), strict=True):
        assert summary(found[name]) > summary(blind[name]) + least, name
    sanity = measure(model, images, heatmap, "sanity", again=lambda: explain(model, images, target=heatmap.class_ids))
    assert summary(sanity["sanity"]) < 0.5


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
