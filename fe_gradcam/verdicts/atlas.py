"""The class atlas: the mean heat of each class, and how much this heat stays at one place of the frame.

Heat is summed at the size of the layer's map, (h, w), and not at that of the images, (H, W): 49 numbers instead of
50,176. The usual upsampling is linear, so sums, shares and correlations at the images' size follow from these sums.
With U, the matrix of the upsampling, a heat map r upsampled is U r, its sum is w·r with w = Uᵀ1, and the inner product
of two upsampled maps r and s is rᵀ G s with G = UᵀU. U is made of a matrix along rows and one along columns, and so are
w and G. Sums can be merged in any order; the result is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.scaling import upsample
from fe_gradcam.types import Heatmap

Map = NDArray[np.float64]

FEWEST = 6
"""The fewest images with heat that a class needs for its fixed place to mean something, and for the test."""


TRIED = 16
"""The most images of a class that a test changes."""


@dataclass(frozen=True)
class Box:
    """A place of the frame, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """(H, W), True inside."""
        inside = np.zeros(size, bool)
        inside[self.slices] = True
        return inside


@dataclass(frozen=True)
class Upsampling:
    """The usual upsampling as linear algebra; see `fe_gradcam.scaling.upsample`.

    Attributes:
        layer: (h, w) of the layer's map.
        size: (H, W) of the images.
    """

    layer: tuple[int, int]
    size: tuple[int, int]

    @cached_property
    def along(self) -> tuple[Map, Map]:
        """(H, h) and (W, w): an upsampled map is the first times the map times the second transposed."""
        rows, columns = (
            upsample(torch.eye(few, dtype=torch.float64)[:, :, None], (many, 1))[..., 0].T.numpy()
            for few, many in zip(self.layer, self.size, strict=True)
        )
        return rows, columns

    @cached_property
    def weights(self) -> Map:
        """(h, w): the sum of an upsampled map is the sum of the map times these."""
        rows, columns = self.along
        return np.outer(rows.sum(0), columns.sum(0))

    @cached_property
    def _grams(self) -> tuple[Map, Map]:
        rows, columns = self.along
        return rows.T @ rows, columns.T @ columns

    def squared(self, one: Map) -> float:
        """The sum of squares of an upsampled map (h, w)."""
        rows, columns = self._grams
        return float(((rows @ one @ columns) * one).sum())

    def of(self, one: Map) -> Map:
        """(H, W), a map (h, w) upsampled."""
        rows, columns = self.along
        return np.asarray(rows @ one @ columns.T)

    def in_boxes(self, maps: Map, boxes: Sequence[Box]) -> Map:
        """(M, B), the sum of each upsampled map of (M, h, w) in each box."""
        rows, columns = self.along
        down = np.stack([rows[box.slices[0]].sum(0) for box in boxes])
        across = np.stack([columns[box.slices[1]].sum(0) for box in boxes])
        places = np.einsum("bh,bw->bhw", down, across).reshape(len(boxes), -1)
        return np.asarray(maps.reshape(len(maps), -1) @ places.T)


class ClassHeat:
    """The running sums of one class over images: a million images need as much memory as one.

    Attributes:
        upsampling: From the size of the sums of heat, (h, w), to that of the images, (H, W).
        images: How many images were added.
        warm: How many of these images had heat that is not the same everywhere.
        shares: (h, w), sum of the heat maps, each divided by its sum at the images' size.
        units: (h, w), sum of the heat maps, each less its mean and divided by its norm, both at the images' size.
        pictures: (H, W, 3) uint32, sum of the pictures; None if none was added.
    """

    def __init__(self, upsampling: Upsampling) -> None:
        self.upsampling, self.images, self.warm = upsampling, 0, 0
        self.shares, self.units = np.zeros(upsampling.layer), np.zeros(upsampling.layer)
        self.pictures: NDArray[np.uint32] | None = None

    def add(self, heat: NDArray[np.float32], picture: NDArray[np.uint8] | None = None) -> None:
        """Adds an image with its heat (h, w); negative heat counts as 0."""
        positive = np.maximum(heat.astype(np.float64), 0)
        self.images += 1
        if picture is not None:
            given = picture.astype(np.uint32)
            self.pictures = given if self.pictures is None else self.pictures + given
        total = float((self.upsampling.weights * positive).sum())
        height, width = self.upsampling.size
        off = positive - total / (height * width)  # the weights of each pixel of the upsampling sum to 1
        norm = np.sqrt(self.upsampling.squared(off))
        if total > 0 and norm > 1e-9 * total:
            self.warm += 1
            self.shares += positive / total
            self.units += off / norm

    def __add__(self, other: ClassHeat) -> ClassHeat:
        """The sums over the images of both."""
        both = ClassHeat(self.upsampling)
        both.images, both.warm = self.images + other.images, self.warm + other.warm
        both.shares, both.units = self.shares + other.shares, self.units + other.units
        known = [one.pictures for one in (self, other) if one.pictures is not None]
        both.pictures = sum(known[1:], known[0]) if known else None
        return both

    @property
    def heat(self) -> Map:
        """(H, W), the mean of the heat maps, each divided by its own sum; the sum is 1, or 0 if there was no heat."""
        return self.upsampling.of(self.mean)

    @property
    def mean(self) -> Map:
        """(h, w), the map that `heat` is upsampled from."""
        return self.shares / max(self.warm, 1)

    @property
    def picture(self) -> NDArray[np.uint8]:
        """(H, W, 3), the mean picture; black if no picture was added."""
        if self.pictures is None:
            return np.zeros((*self.upsampling.size, 3), np.uint8)
        return (self.pictures / self.images + 0.5).astype(np.uint8)

    @property
    def fixed_place(self) -> float:
        """How much the heat stays at the same place of the frame, whatever the image.

        This is the mean correlation of the heat of two images, over all pairs of different images: 1 for heat that
        never moves, 0 for heat that moves all over the frame with an object, below 0 for heat that avoids its earlier
        places. With the unit maps u_i (heat less its mean, divided by its norm) it is (|Σ u_i|² - n) / (n (n - 1)), so
        the sum of the unit maps is enough. NaN for fewer than two images with heat.

        A high value is not wrong in itself: if the objects are always at one place, so is the heat.
        """
        if self.warm < 2:
            return float("nan")
        return float((self.upsampling.squared(self.units) - self.warm) / (self.warm * (self.warm - 1)))


class Atlas:
    """The mean heat of each class.

    Args:
        size: (H, W) of the images.
        layer: (h, w) of the heat that is added; None: that of the images.
    """

    def __init__(self, size: tuple[int, int], layer: tuple[int, int] | None = None) -> None:
        self.upsampling = Upsampling(layer or size, size)
        self.classes: dict[int, ClassHeat] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.upsampling.size

    @classmethod
    def of(cls, heatmap: Heatmap, pictures: NDArray[np.uint8]) -> Atlas:
        """The atlas of heatmaps and their pictures (N, h, w, 3), which are resized to the size of the heat.

        Images whose target is not a class are left out.
        """
        height, width = heatmap.values.shape[1:]
        if pictures.shape[1:3] != (height, width):
            pictures = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in pictures])
        down, across = heatmap.raw.shape[1:]
        atlas = cls((height, width), (down, across))
        evidence = np.where(heatmap.blank[:, None, None], np.float32(0), heatmap.raw)
        for class_id, heat, picture in zip(heatmap.class_ids, evidence, pictures, strict=True):
            if class_id >= 0:
                atlas.add(int(class_id), heat, picture)
        return atlas

    def add(self, class_id: int, heat: NDArray[np.float32], picture: NDArray[np.uint8] | None = None) -> None:
        """Adds an image (H, W, 3) of a class with its heat (h, w); without pictures an atlas is small."""
        if class_id not in self.classes:
            self.classes[class_id] = ClassHeat(self.upsampling)
        self.classes[class_id].add(heat, picture)

    def __add__(self, other: Atlas) -> Atlas:
        """The atlas of the images of both: the same, up to rounding, as if all had been added to one.

        Raises:
            ArgumentError: The two are not of one size.
        """
        if self.upsampling != other.upsampling:
            raise ArgumentError(
                f"atlases to be merged: one has images of {self.size} and heat of {self.upsampling.layer}, the other "
                f"images of {other.size} and heat of {other.upsampling.layer}. Merge atlases of one model, layer and "
                "image size."
            )
        both = Atlas(self.size, self.upsampling.layer)
        for class_id in sorted({*self.classes, *other.classes}):
            empty = ClassHeat(self.upsampling)
            both.classes[class_id] = self.classes.get(class_id, empty) + other.classes.get(class_id, empty)
        return both

    def shares_in(self, classes: Sequence[int], boxes: Sequence[Box]) -> Map:
        """(C, B), the share of the heat of each class that lies in each box, 0 to 1."""
        if not classes or not boxes:
            return np.zeros((len(classes), len(boxes)))
        return self.upsampling.in_boxes(np.stack([self.classes[one].mean for one in classes]), boxes)

    def largest(self, most: int) -> list[int]:
        """At most `most` of the classes with FEWEST images with heat or more: those with most of these images first."""
        every = [class_id for class_id, one in self.classes.items() if one.warm >= FEWEST]
        return sorted(every, key=lambda class_id: (-self.classes[class_id].warm, class_id))[:most]

    @property
    def tells(self) -> bool:
        """Whether some class has enough images for the test for shortcuts."""
        return any(one.warm >= FEWEST for one in self.classes.values())

    def too_few(self, wanted: int, said: str, advice: str) -> str | None:
        """The warning that `wanted` images are too few for the classes; None if they are enough.

        Args:
            wanted: How many images there are, or were asked for.
            said: The beginning of the warning, which names these images.
            advice: The end of the warning, which says what to pass, with a place for the number.
        """
        count = len(self.classes)
        if wanted >= FEWEST * count:
            return None
        classes = f"{count} class{'es' * (count > 1)}"
        return (
            f"{said} are too few for {classes}: a class with fewer than {FEWEST} images is not tested for shortcuts. "
            f"{advice.format(2 * FEWEST * count)}"
        )

    @property
    def fixed_place(self) -> float:
        """The largest `ClassHeat.fixed_place` of the classes with FEWEST images with heat or more; NaN if none has."""
        return max((one.fixed_place for one in self.classes.values() if one.warm >= FEWEST), default=float("nan"))


def sampled(ids: Iterable[Any], most: int, seed: int) -> NDArray[np.int64]:
    """The indices of at most `most` ids, chosen by chance: those whose hash, with the seed, is the smallest.

    So which images are taken depends on their ids and the seed, not on their order or on what else there is to hash.

    Example:
        >>> sampled(["a", "b", "c"], 2, seed=0), sampled(["c", "b", "a"], 2, seed=0)
        (array([1, 0]), array([1, 2]))
    """
    hashes = [blake2b(f"{seed} {one}".encode(), digest_size=8).digest() for one in ids]
    return np.array(sorted(range(len(hashes)), key=hashes.__getitem__)[:most], np.int64)
