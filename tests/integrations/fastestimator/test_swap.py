"""Objects in exchanged surroundings in the host's pipelines."""

from __future__ import annotations

from typing import Any

import fastestimator as fe
import numpy as np
import pytest
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.numpyop.numpyop import Batch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.integrations.fastestimator.swap import SwapSurroundings

COUNT, SIDE = 12, 20
STATE = {"mode": "train"}


def batch(dtype: Any = np.uint8) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Images (N, 20, 20, 3), each of one grey value, 10 times its row; an object of 200 in each; masks and boxes."""
    images = np.broadcast_to(10 * np.arange(COUNT).reshape(-1, 1, 1, 1), (COUNT, SIDE, SIDE, 3)).astype(dtype)
    masks, boxes = np.zeros((COUNT, SIDE, SIDE), np.uint8), np.zeros((COUNT, 4), np.int64)
    for row, (top, left) in enumerate(np.random.default_rng(0).integers(0, 15, (COUNT, 2))):
        images[row, top : top + 5, left : left + 5] = 200
        masks[row, top : top + 5, left : left + 5] = 1
        boxes[row] = left, top, 5, 5
    return images, masks, boxes


def swapped(op: SwapSurroundings, *data: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    np.random.seed(seed)
    return op.forward_batch(list(data), STATE)


def grounds_of(images: NDArray[Any], masks: NDArray[Any]) -> NDArray[Any]:
    """By the pixel of the frame's edge that is farthest from the object, which row's grey value it has."""
    found = []
    for image, mask in zip(images, masks, strict=True):
        rows, columns = np.nonzero(mask)
        corner = 0 if rows.mean() > SIDE / 2 else -1, 0 if columns.mean() > SIDE / 2 else -1
        found.append(float(image[corner][0]) / 10)
    return np.array(found)


def test_each_object_stays_at_its_place_in_the_surroundings_of_another_image() -> None:
    images, masks, _ = batch()
    before = images.copy()
    new = swapped(SwapSurroundings("x", "x", masks="m", probability=1), images, masks)
    assert (new.dtype, new.shape) == (images.dtype, images.shape)
    assert (new[masks > 0] == 200).all()
    donors = grounds_of(new, masks)
    assert_array_equal(donors, np.round(donors))  # the donor's object is gone, and nothing of it smears
    assert (donors != np.arange(COUNT)).all()
    assert 2 < len(set(donors)) <= 8  # a quarter of the batch gives surroundings, and at least 8 images
    assert_array_equal(images, before)


def test_an_image_that_is_not_drawn_stays_as_it_is_to_the_bit() -> None:
    images, masks, _ = batch(np.float64)
    assert_array_equal(swapped(SwapSurroundings("x", "x", masks="m", probability=0), images, masks), images)
    op = SwapSurroundings("x", "x", masks="m", probability=0.25)
    changed = [(swapped(op, images, masks, seed=seed) != images).any((1, 2, 3)).mean() for seed in range(40)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.06)  # 3 deviations of 480


def test_a_batch_whose_objects_are_all_cut_off_ends_no_training() -> None:
    images, _, boxes = batch()
    op = SwapSurroundings("x", "y", boxes="b", probability=1)
    assert_array_equal(swapped(op, images, np.add(boxes, [1000, 1000, 0, 0])), images)
    assert (swapped(op, images, boxes) != images).any()
    with pytest.raises(ArgumentError):
        swapped(op, images, boxes[:, :2])


def test_layouts_boxes_and_masks_agree() -> None:
    images, masks, boxes = batch()
    how: dict[str, Any] = {"probability": 1}
    wanted = swapped(SwapSurroundings("x", "y", masks="m", **how), images, masks)
    first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    found = swapped(SwapSurroundings("x", "y", masks="m", **how), first, masks[..., None])
    assert_array_equal(np.moveaxis(found, 1, -1), wanted)
    assert_array_equal(swapped(SwapSurroundings("x", "y", boxes="b", **how), images, boxes), wanted)
    assert_array_equal(swapped(SwapSurroundings("x", "y", boxes="b", **how), images[..., 0], boxes), wanted[..., 0])
    both = SwapSurroundings("x", "y", masks="m", boxes="b", **how)
    assert both.inputs == ["x", "m", "b"]
    assert_array_equal(swapped(both, images, np.ones_like(masks), boxes), wanted)
    narrow, its = images[:, :3], masks[:, :3] | 1  # three rows of three channels
    with pytest.raises(ArgumentError, match=r"channels_first=True or False"):
        swapped(SwapSurroundings("x", "y", masks="m"), narrow, its)
    at_the_end = SwapSurroundings("x", "y", masks="m", channels_first=False, probability=0)
    assert_array_equal(swapped(at_the_end, narrow, its), narrow)


def test_an_empty_mask_says_nothing_or_that_there_is_no_object() -> None:
    images, masks, _ = batch()
    masks[3] = 0
    kept = swapped(SwapSurroundings("x", "x", masks="m", probability=1), images, masks)
    assert_array_equal(kept[3], images[3])
    assert 3 not in grounds_of(kept[masks.any((1, 2))], masks[masks.any((1, 2))])
    shown = swapped(SwapSurroundings("x", "x", masks="m", probability=1, empty="no object"), images, masks)
    assert len(np.unique(shown[3])) == 1 and shown[3, 0, 0, 0] != 30  # the surroundings of another, and no object


@pytest.mark.parametrize("framework", ["torch", "tf"])
def test_a_pipeline_exchanges_surroundings_behind_batch_and_can_be_repeated(framework: str) -> None:
    images, masks, boxes = batch(np.float32)
    if framework == "torch":
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    data = NumpyDataset({"x": images, "y": np.arange(COUNT), "m": masks, "b": boxes})
    op = SwapSurroundings("x", "x", mode="train", masks="m", probability=1)
    pipeline = fe.Pipeline(data, data, batch_size=COUNT, ops=[Batch(), op], num_process=0)

    def batch_of(mode: str, seed: int) -> NDArray[Any]:
        np.random.seed(seed)
        with pipeline(mode=mode, shuffle=False, output_keys={"x", "y"}) as loader:
            (found,) = list(loader)
        assert sorted(found["y"].tolist()) == list(range(COUNT)) and "m" not in found  # pruned once it was used
        return np.asarray(found["x"])[np.argsort(found["y"])]

    once = batch_of("train", 1)
    assert_array_equal(once, batch_of("train", 1))
    assert (once != batch_of("train", 2)).any()
    assert (once != images).any((1, 2, 3)).all()
    assert_allclose(batch_of("eval", 1), images)


def test_one_image_has_no_donors_and_a_batch_of_one_stays_as_it_is() -> None:
    images, masks, _ = batch()
    op = SwapSurroundings("x", "x", masks="m", probability=1)
    with pytest.raises(ArgumentError, match=r"Put Batch\(\) before it"):
        op.forward([images[0], masks[0]], STATE)
    assert_array_equal(swapped(op, images[:1], masks[:1]), images[:1])


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(ArgumentError, match="masks= or boxes="):
        SwapSurroundings("x", "x")
    with pytest.raises(ArgumentError, match=r"probability=1\.5"):
        SwapSurroundings("x", "x", masks="m", probability=1.5)
    with pytest.raises(ArgumentError, match="'unknown', 'no object'"):
        SwapSurroundings("x", "x", masks="m", empty="healthy")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="one key"):
        SwapSurroundings(["x", "z"], "x", masks="m")  # type: ignore[arg-type]
