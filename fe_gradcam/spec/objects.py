"""Where the object is in each image: masks and boxes, as one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import ArgumentError, in_short
from fe_gradcam.parameters import whole
from fe_gradcam.spec.arrays import array_of, listed


def object_masks(
    masks: Any, boxes: Any, size: Sequence[int], count: int, *, may_be_outside: bool = False
) -> NDArray[np.bool_] | None:
    """Where the object of each image is, (N, H, W), from masks, boxes or both; None if neither is given.

    Args:
        masks: (N, h, w), or with an axis of one channel in front or behind; stretched to `size` if they have another.
            The object is where integers are not 0, or where floats are 0.5 or more. For volumes (N, D, H, W), at the
            size of the volumes.
        boxes: (N, 4) or (N, M, 4): left, top, width and height in pixels; further columns are not read.
        size: (H, W) of the images, or (D, H, W) of volumes, which have no boxes.
        count: N, the number of images.
        may_be_outside: Whether all boxes may lie outside of the images, as in a batch that was cropped; as a rule such
            boxes are of another size, or in another order.

    Raises:
        ArgumentError: A shape is not accepted, or masks or boxes are of another number of images.
    """
    found = {} if masks is None else {"masks": _of_masks(masks, tuple(size))}
    if boxes is not None:
        if len(size) != 2:
            raise ArgumentError(f"boxes are for images with two axes, and these have {len(size)}: pass masks= instead.")
        table = _table(boxes)
        real = table[..., :4][(table[..., 2:4] > 0).all(-1)] if table.shape[-1] >= 4 else np.empty((0, 4))
        ends = real[..., :2] + real[..., 2:]
        outside = (real[..., :2] >= (size[1], size[0])).any(-1) | (ends <= 0).any(-1)
        if real.size and outside.all() and not may_be_outside:
            raise ArgumentError(
                f"boxes lie outside of the images, which are {size[1]} wide and {size[0]} high: left, top, width and "
                "height in pixels of the images are needed."
            )
        if real.size and real.max() <= 1 and (real != np.floor(real)).any():
            raise ArgumentError(
                "boxes hold no number above 1, as if they were fractions of the image; left, top, width and height in "
                f"pixels are needed: multiply by the width {size[1]} and the height {size[0]}."
            )
        found["boxes"] = masks_of_boxes(table[:, None] if table.ndim == 2 else table, size)
    for name, inside in found.items():
        if len(inside) != count:
            raise ArgumentError(f"{name} are of {len(inside)} images, and there are {count} images; pass one for each.")
    return np.logical_and.reduce(list(found.values())) if found else None


def _table(boxes: Any) -> NDArray[np.float64]:
    """Boxes as numbers."""
    try:
        table = array_of("boxes", boxes, "").astype(np.float64)
    except ArgumentError as error:
        raise ArgumentError(NO_TABLE) from error
    if table.ndim < 2:
        raise ArgumentError(NO_TABLE)
    return table


NO_TABLE = (
    "boxes hold no table of numbers (N, 4) or (N, M, 4). If images have boxes in different numbers, fill the missing "
    "ones with zeros."
)
"""What is said of boxes that are none."""

MASKS_ACCEPTED = (
    "numbers or bools of shape (N, H, W), also with an axis of one channel; for volumes (N, D, H, W) at the size of "
    "the volumes."
)
"""What masks may be."""


def _of_masks(given: Any, size: tuple[int, ...]) -> NDArray[np.bool_]:
    masks = array_of("masks", given, MASKS_ACCEPTED)
    if masks.ndim == 2 + len(size) and 1 in (masks.shape[1], masks.shape[-1]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    stretches = len(size) == 2 or masks.shape[1:] == size
    if masks.ndim != 1 + len(size) or 0 in masks.shape or not stretches:
        raise ArgumentError(
            f"masks hold an array of shape {masks.shape} and dtype {masks.dtype}. Accepted: {MASKS_ACCEPTED}"
        )
    inside = (masks >= 0.5 if masks.dtype.kind == "f" else masks != 0).astype(np.uint8)
    if inside.shape[1:] != size:
        inside = np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_NEAREST) for one in inside])
    return np.asarray(inside > 0)


BOXES_AND_SIZE = (
    "boxes (N, M, 4) of left, top, width, height in pixels, and size (H, W). With one box for each image add the axis: "
    "boxes[:, None]."
)
"""What `masks_of_boxes` takes."""

LONGEST_SIDE = 100_000
"""Pixels; a longer side is a mistake."""


def masks_of_boxes(boxes: ArrayLike, size: Sequence[int]) -> NDArray[np.bool_]:
    """Masks of boxes, as `measure` takes them: True for each pixel whose centre lies in a box of its image.

    Args:
        boxes: (N, M, 4 or more): left, top, width, height in pixels; further columns are not read. A row without a
            positive width and height is no box, so that images may have different numbers of boxes.
        size: (H, W) of the images.

    Returns:
        (N, H, W) bool.

    Raises:
        ArgumentError: `boxes` or `size` has another shape; a ValueError.
    """
    rows, sides = array_of("boxes", boxes, BOXES_AND_SIZE).astype(np.float64), listed("size", size, BOXES_AND_SIZE)
    if rows.ndim != 3 or rows.shape[2] < 4 or len(sides) != 2:
        raise ArgumentError(
            f"boxes has shape {rows.shape} and size is {in_short(tuple(sides))}. Accepted: {BOXES_AND_SIZE}"
        )
    high, wide = (whole("size", side, 1, most=LONGEST_SIDE) for side in sides)
    inside = []
    for start, length, count in ((rows[..., 1], rows[..., 3], high), (rows[..., 0], rows[..., 2], wide)):
        centres, start = np.arange(count) + 0.5, start[..., None]
        inside.append((centres >= start) & (centres < start + length[..., None]))
    return np.asarray((inside[0][..., :, None] & inside[1][..., None, :]).any(1))
