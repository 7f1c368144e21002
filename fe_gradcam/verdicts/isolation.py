"""Whether a patch that many images have in common stands by itself, or is a part of something larger.

The images are laid over each other so that the patch lies at one place, and the mean is taken. What lies around a sign
is another thing in each image, so the mean is flat there. What lies around a part of an object goes along with it:
strokes cross the border of the patch, and the mean keeps them. A window may cut a sign, or hold more than it. So the
ring around any square of at most LARGEST_SIGN of the frame counts that overlaps the window by half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

LONGEST = 128
"""Larger pictures are shrunk to this before they are matched or laid over each other, in pixels of the longer side."""

LARGEST_SIGN = 0.05
"""A sign has at most this share of the frame."""

CONTINUES = 0.2
"""A patch with so much contrast around it, as a share of its own, is a part of something larger. Around signs it came
to 0.08 at the most, around parts of digits to 0.41 and more."""


def shrunk_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of pictures that are matched: as they are, or with LONGEST pixels on the longer side."""
    scale = max(1.0, max(size) / LONGEST)
    return round(size[0] / scale), round(size[1] / scale)


def shrunk_to(size: tuple[int, int], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture (C, H, W) at another size (H', W'), channels last; of more than three channels the mean."""
    one = picture.transpose(1, 2, 0)
    one = one if one.shape[2] in (1, 3) else one.mean(2, keepdims=True)
    resized = cv2.resize(one, size[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized.reshape(*size, one.shape[2]))


def largest_sign(size: tuple[int, int]) -> int:
    """The side in pixels of the largest square that may be a sign, in a picture (H, W)."""
    return int(np.sqrt(LARGEST_SIGN * size[0] * size[1]))


def around(picture: NDArray[np.float32], corner: tuple[int, int], side: int, margin: int) -> NDArray[np.float32]:
    """The window of a picture (H, W, C) with a margin, (side + 2 margin, side + 2 margin, C); NaN beyond the frame."""
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=np.nan)
    top, left = corner
    return padded[top : top + side + 2 * margin, left : left + side + 2 * margin]


def continues(crops: Sequence[NDArray[np.float32]], side: int, largest: int) -> float:
    """The least contrast around the patch, as a share of the patch's own contrast; 0 around one that stands by itself.

    Contrast is the standard deviation of the mean of the crops, over all channels.

    Args:
        crops: The patch in each image as `around` gives it, with a margin of `largest`.
        side: Of the window that was found.
        largest: The largest side of a square that may be the patch; smaller ones have at least half of `side`.

    Returns:
        The share; infinite if the crops have no contrast.
    """
    there = np.isfinite(np.array(crops)).all(-1).sum(0) > 0
    mean = np.nansum(crops, 0) / np.maximum(np.isfinite(np.array(crops)).sum(0), 1)
    mean -= mean[there].mean(0)
    sums = [
        _cumulative(values)
        for values in (np.where(there[..., None], mean, 0), mean**2 * there[..., None], there[..., None])
    ]
    window = _inside(sums, np.array([largest]), np.array([largest]), side)
    own = float(_contrast(window)[0])
    if not own > 0:
        return float("inf")
    return min(_ratios(sums, side, largest, own), default=float("inf"))


def _ratios(sums: Sequence[NDArray[np.float64]], side: int, largest: int, own: float) -> Iterator[float]:
    """The contrast around each square that may be the patch, by its own contrast."""
    ring, whole = max(2, side // 6), side + 2 * largest
    for square in range(max(4, side // 2), max(side, largest) + 1):
        starts = np.arange(ring, whole - square - ring + 1)
        tops, lefts = (ends.ravel() for ends in np.meshgrid(starts, starts, indexing="ij"))
        down, across = (np.minimum(at + square, largest + side) - np.maximum(at, largest) for at in (tops, lefts))
        near = down.clip(0) * across.clip(0) >= min(side, square) ** 2 / 2
        tops, lefts = tops[near], lefts[near]
        inner = _inside(sums, tops, lefts, square)
        outer = _inside(sums, tops - ring, lefts - ring, square + 2 * ring)
        between = [more - less for more, less in zip(outer, inner, strict=True)]
        # A patch at the border of the frame has a ring on some sides only.
        seen = between[2][:, 0] >= ((square + 2 * ring) ** 2 - square**2) / 4
        held = _contrast(inner)
        full = seen & (held >= own / 2)
        yield from (_contrast(between)[full] / held[full]).tolist()


def _cumulative(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """(H + 1, W + 1, C), sums from the upper left corner on."""
    return np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))


def _inside(
    sums: Sequence[NDArray[np.float64]], tops: NDArray[np.int64], lefts: NDArray[np.int64], side: int
) -> list[NDArray[np.float64]]:
    """(P, C) sums of the values, of their squares and of ones in P squares."""
    below, beside = tops + side, lefts + side
    return [one[below, beside] - one[tops, beside] - one[below, lefts] + one[tops, lefts] for one in sums]


def _contrast(sums: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(P,) the standard deviation in each square, over all channels."""
    values, squares, ones = sums
    count = np.maximum(ones, 1)
    return np.asarray(np.sqrt((squares / count - (values / count) ** 2).clip(0).sum(1)))
