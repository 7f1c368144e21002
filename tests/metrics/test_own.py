"""Heatmaps that other code made, measured as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam import ArgumentError, UnknownNameError, explain, masks_of_boxes, measure
from fe_gradcam.metrics.own import own_heatmap
from tests.metrics.readers import FRAMEWORKS, OF_MODEL, READERS, laid_out, random_case

NAMES = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_array_of_a_heatmap_measures_as_the_heatmap_itself(framework: str) -> None:
    model, images, _, places = random_case(framework)
    heatmap = explain(model, images)
    metrics = [*OF_MODEL, "pointing_game", "energy_inside", "energy_ratio"]
    expected = measure(model, images, heatmap, metrics, masks=places)
    for own in (heatmap.values, torch.from_numpy(heatmap.values), heatmap.values.tolist()):
        found = measure(model, images, own, metrics, masks=places)
        for name, values in expected.items():
            assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_of_a_reader_of_one_pixel_the_curve_is_known(framework: str) -> None:
    """P is 1 with the pixel and 0 without: heat there deletes it first, so the curve is 1 at its start alone."""
    weights = np.zeros((4, 4))
    weights[1, 2] = 1
    images = laid_out(framework, np.ones((1, 1, 4, 4), np.float32))
    there, elsewhere = np.zeros((2, 1, 4, 4), np.float32)
    there[0, 1, 2], elsewhere[0] = 1, 1
    elsewhere[0, 1, 2] = 0
    steps = {"steps": 16}
    area = [
        measure(READERS[framework](weights), images, heat, [("deletion", steps)], target=0)["deletion(steps=16)"][0]
        for heat in (there, elsewhere)
    ]
    # Trapezia over 17 points: (1 + 0) / 2 of the first sixteenth; and all but half of the last one.
    assert_allclose(area, [1 / 32, 1 - 1 / 32], atol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_small_map_is_stretched_to_the_images_and_knows_its_class(framework: str) -> None:
    model, images, *_ = random_case(framework)
    heat = np.random.default_rng(0).normal(size=(3, 3, 4)).astype(np.float32)
    heat[1] = -1
    how: dict[str, Any] = {"batch_size": 2, "model_output": None, "class_names": NAMES}
    inferred, named = (own_heatmap(heat, model, images, target, **how) for target in (None, "c"))
    assert inferred.values.shape == (3, 9, 12) and inferred.raw.shape == (3, 3, 4)
    assert_array_equal(inferred.class_ids, explain(model, images).class_ids)
    assert_allclose(inferred.confidences, explain(model, images).confidences, rtol=1e-6)
    assert_array_equal(named.class_ids, [2, 2, 2])
    assert_array_equal(inferred.blank, [False, True, False])
    constant = own_heatmap(np.ones((3, 2, 2)), model, images, np.array([0, 4, 1]), **how)
    assert_array_equal(constant.class_ids, [0, 4, 1])
    assert_allclose(constant.values, 1, rtol=1e-6, err_msg="of a constant map stretching makes a constant one")


def test_where_the_object_is_needs_no_model() -> None:
    heat = np.zeros((2, 4, 4))
    heat[:, 0, :2], heat[:, 3, 3] = 3, 2
    boxes = np.array([[0, 0, 2, 1], [3, 3, 1, 1]])
    found = measure(None, None, heat, ["energy_inside", "pointing_game"], boxes=boxes)
    assert_allclose(found["energy_inside"], [6 / 8, 2 / 8])
    assert_allclose(found["pointing_game"], [1, 0])
    how: dict[str, Any] = {"batch_size": 2, "model_output": None, "class_names": None}
    own = own_heatmap(heat, None, None, None, **how)
    assert_array_equal(own.class_ids, [-1, -1])  # no class
    assert np.isnan(own.confidences).all()


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["channels first", "channels last"])
def test_without_a_model_a_small_map_is_stretched_to_the_images(axes: tuple[int, ...]) -> None:
    """The map has two columns, 1 and 0: what lies in the left half follows from the bilinear columns."""
    images = np.zeros((2, 3, 8, 8)).transpose(axes)
    heat = np.zeros((2, 2, 2))
    heat[:, :, 0] = 1
    found = measure(None, images, heat, ["energy_inside"], boxes=[[0, 0, 4, 8]] * 2)["energy_inside"]
    columns = np.array([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])
    assert_allclose(found, columns[:4].sum() / columns.sum())
    with pytest.raises(ArgumentError, match=r"heatmap has 2 maps, and images shape \(3, 3, 8, 8\)"):
        measure(None, np.zeros((3, 3, 8, 8)), heat, ["energy_inside"], boxes=[[0, 0, 4, 8]] * 2)


def test_heat_and_boxes_of_any_kind_are_read_or_refused_in_words() -> None:
    model, images, heatmap, _ = random_case("torch")
    own = torch.from_numpy(heatmap.values).bfloat16()
    assert measure(model, images, own, "deletion")["deletion"].shape == (3,)
    for boxes in ([[[0, 0, 1, 1]], [[0, 0, 1, 1], [1, 1, 2, 2]], []], "box", 3):
        with pytest.raises(ArgumentError, match=r"boxes hold no table of numbers .* fill the missing ones with zeros"):
            measure(model, images, heatmap, "energy_inside", boxes=boxes)


def test_masks_boxes_and_the_earlier_name_mean_the_same() -> None:
    model, images, heatmap, _ = random_case("torch")
    boxes = np.array([[3, 2, 6, 5]] * 3)
    inside = masks_of_boxes(boxes[:, None], (9, 12))
    ways = [{"boxes": boxes}, {"masks": inside}, {"masks": inside * 255}, {"masks": inside * 1.0}, {"places": inside}]
    ways.append({"masks": torch.from_numpy(inside)[:, None]})
    ways.append({"masks": np.ones((3, 9, 12), bool), "boxes": boxes})  # the part that they share
    found = [measure(model, images, heatmap, ["energy_ratio"], **way)["energy_ratio"] for way in ways]  # type: ignore[arg-type]
    for one in found:
        assert_array_equal(one, found[0])
    with pytest.raises(ArgumentError, match="boxes lie outside of the images, which are 12 wide and 9 high"):
        measure(model, images, heatmap, ["energy_ratio"], boxes=[[100, 2, 6, 5]] * 3)
    with pytest.raises(ArgumentError, match="masks and places are both given, and mean the same"):
        measure(model, images, heatmap, ["energy_ratio"], masks=inside, places=inside)


def test_an_array_is_held_against_one_that_is_made_again() -> None:
    model, images, *_ = random_case("torch")
    heat = explain(model, images, scaling="none").raw
    assert_allclose(measure(model, images, heat, "sanity", again=lambda: heat)["sanity"], 1, rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"again returned maps of shape \(1, 2, 2\)"):
        measure(model, images, heat, "sanity", again=lambda: np.ones((1, 2, 2)))


@pytest.mark.parametrize(
    ("heat", "changed", "says"),
    [
        (np.ones((2, 3, 3)), {}, r"heatmap has shape \(2, 3, 3\), and images \(3, 3, 9, 12\)"),
        (np.ones((3, 1, 3, 3)), {}, r"one map for each image, \(3, h, w\), without an axis of channels"),
        (np.ones((3, 3)), {}, r"heatmap is of shape \(3, 3\). Accepted: one Heatmap"),
        ("heat.png", {}, "heatmap is a str. Accepted: one Heatmap"),
        (np.full((3, 3, 3), np.nan), {}, "NaN or infinite values for 3 of 3 images, the first of them at 0"),
        (np.ones((3, 3, 3)), {"target": lambda output: output[:, 0]}, "is no class, and metrics need the probability"),
        (np.ones((3, 3, 3)), {"target": 5}, "it has 5 classes"),
    ],
)
def test_arrays_that_cannot_be_measured(heat: Any, changed: dict[str, Any], says: str) -> None:
    model, images, *_ = random_case("torch")
    with pytest.raises(ArgumentError, match=says):
        measure(model, images, heat, **changed)


def test_a_target_is_for_arrays_alone() -> None:
    model, images, heatmap, _ = random_case("torch")
    with pytest.raises(ArgumentError, match="target goes with an array of your own"):
        measure(model, images, heatmap, target=1)
    with pytest.raises(UnknownNameError, match="did you mean 'b'"):
        measure(model, images, heatmap.values, target="bb", class_names=NAMES)
