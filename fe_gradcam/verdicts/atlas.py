"""The class atlas: the mean heat of each class, and how much this heat stays at one place of the frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.types import Heatmap

Map = NDArray[np.float64]

FEWEST = 6
"""The fewest images with heat that a class needs for its fixed place to mean something, and for the test."""


class ClassHeat:
    """The running sums of one class over images (H, W): a million images need as much memory as one.

    Attributes:
        images: How many images were added.
        warm: How many of these images had heat that is not the same everywhere.
        shares: (H, W), sum of the heat maps, each divided by its own sum.
        units: (H, W), sum of the heat maps, each less its mean and then divided by its norm.
        pictures: (H, W, 3), sum of the pictures.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.images = self.warm = 0
        self.shares, self.units, self.pictures = np.zeros(size), np.zeros(size), np.zeros((*size, 3))

    def add(self, heat: NDArray[np.float32], picture: NDArray[np.uint8]) -> None:
        """Adds an image with its heat (H, W); negative heat counts as 0."""
        positive = np.maximum(heat.astype(np.float64), 0)
        self.images += 1
        self.pictures += picture
        total, off = positive.sum(), positive - positive.mean()
        norm = np.sqrt((off**2).sum())
        if total > 0 and norm > 1e-9 * total:
            self.warm += 1
            self.shares += positive / total
            self.units += off / norm

    @property
    def heat(self) -> Map:
        """(H, W), the mean of the heat maps, each divided by its own sum; the sum is 1, or 0 if there was no heat."""
        return self.shares / max(self.warm, 1)

    @property
    def picture(self) -> NDArray[np.uint8]:
        """(H, W, 3), the mean picture."""
        return (self.pictures / max(self.images, 1) + 0.5).astype(np.uint8)

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
        return float(((self.units**2).sum() - self.warm) / (self.warm * (self.warm - 1)))


class Atlas:
    """The mean heat of each class, over images of one size (H, W)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.classes: dict[int, ClassHeat] = {}

    @classmethod
    def of(cls, heatmap: Heatmap, pictures: NDArray[np.uint8]) -> Atlas:
        """The atlas of heatmaps and their pictures (N, h, w, 3), which are resized to the size of the heat.

        Images whose target is not a class are left out.
        """
        height, width = heatmap.values.shape[1:]
        if pictures.shape[1:3] != (height, width):
            pictures = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in pictures])
        atlas = cls((height, width))
        for class_id, heat, picture in zip(heatmap.class_ids, heatmap.values, pictures, strict=True):
            if class_id >= 0:
                atlas.add(int(class_id), heat, picture)
        return atlas

    def add(self, class_id: int, heat: NDArray[np.float32], picture: NDArray[np.uint8]) -> None:
        """Adds an image (H, W, 3) of a class with its heat (H, W)."""
        if class_id not in self.classes:
            self.classes[class_id] = ClassHeat(self.size)
        self.classes[class_id].add(heat, picture)

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
