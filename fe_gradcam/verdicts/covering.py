"""Covering a place in images of a class, and other places that are alike: is what is there the cause of the answer?

A place is covered by filling it in from its surroundings (`fe_gradcam.metrics.imputation.interpolated`). It is a cause
if the class's probability falls by FALL or more, and TIMES as much as when other places of the same image are covered
that are as large and hold as much (the deviation of their pixels is within a factor of ALIKE). An image without such
other places is not used: there the place holds all there is, and so is the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.metrics.imputation import interpolated
from fe_gradcam.verdicts.atlas import Box
from fe_gradcam.verdicts.verdict import Trial

FALL = 0.25
"""A place is a cause only if the mean probability over the images falls by at least this."""

TIMES = 3.0
"""The probability must fall so many times as far as when other places are covered."""

ALIKE = 2.0
"""Another place holds as much if the deviation of its pixels is within this factor."""

OTHERS = 4
"""How many other places are covered in each image: those most similar to the place."""

NO_VARIANCE = 1e-9
"""Rounding of a variance, relative to the largest square of a picture."""

TRIED = 16
"""The most images of a class that are tested."""

LEFT = "To test it would cost more than is left of this epoch's passes: it is left for a later epoch."
"""Said of a class that could not be afforded."""

SHOWN = 4
"""The most images of an experiment that are shown."""

ON_OBJECT = 0.5
"""The place is the object if this share of the place lies on the object, or this share of the object in the place."""

AsksClass: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.floating]]
"""Gets the row of each changed picture's image, (V,), and the pictures, (V, C, H, W); gives a class's probabilities."""


@dataclass(frozen=True, eq=False)
class Covered:
    """The probability of a class for n images as they are, and with places covered.

    Attributes:
        rows: (n,) the images.
        boxes: The place in each image.
        pictures: (n, C, H, W), the place covered.
        plain: (n,) for the images as they are.
        covered: (n,) with the place covered.
        elsewhere: (n,) with other places covered, the mean over these.
    """

    rows: NDArray[np.int64]
    boxes: Sequence[Box]
    pictures: NDArray[np.float32]
    plain: NDArray[np.float64]
    covered: NDArray[np.float64]
    elsewhere: NDArray[np.float64]

    @property
    def means(self) -> tuple[float, float, float]:
        """The mean probabilities: plain, covered, and covered elsewhere."""
        return float(self.plain.mean()), float(self.covered.mean()), float(self.elsewhere.mean())

    @property
    def is_cause(self) -> bool:
        """Whether the probability falls far enough, and far enough beyond that of other places."""
        plain, covered, elsewhere = self.means
        return plain - covered >= max(FALL, TIMES * (plain - elsewhere))

    def trials(self, given: NDArray[np.float32], done: str) -> list[Trial]:
        """The images whose probability falls farthest; `given`, (N, C, H, W), are the images as they are."""
        clearest = np.argsort(self.covered - self.plain, kind="stable")[:SHOWN]
        return [
            Trial(
                int(self.rows[at]),
                given[self.rows[at]],
                self.pictures[at],
                float(self.plain[at]),
                float(self.covered[at]),
                done,
                self.boxes[at].mask((given.shape[2], given.shape[3])),
            )
            for at in clearest
        ]


class Covering:
    """What is covered in each image: its place, and other places that hold as much.

    Args:
        pictures: (N, C, H, W).
        boxes: The place, for each row that is tested; rows without another place that holds as much are left out.

    Attributes:
        places: For each row that is left, the place and the others.
    """

    def __init__(self, pictures: NDArray[np.float32], boxes: Mapping[int, Box]) -> None:
        self._pictures = pictures
        others = {row: alike(pictures[row], box) for row, box in boxes.items()}
        self.places = {row: [boxes[row], *few] for row, few in others.items() if few}

    @property
    def asks(self) -> int:
        """How many images have to be asked."""
        return sum(map(len, self.places.values()))

    def asked(self, plain: NDArray[np.floating], asks: AsksClass) -> Covered:
        """Asks; `plain`, (N,), are the class's probabilities for the images as they are."""
        versions = [
            interpolated(self._pictures[row], one.mask(self._pictures.shape[2:]))
            for row, few in self.places.items()
            for one in few
        ]
        counts, rows = [len(few) for few in self.places.values()], np.array(list(self.places), np.int64)
        starts = np.cumsum([0, *counts[:-1]])
        every = np.stack(versions)
        answers = np.asarray(asks(np.repeat(rows, counts), every), np.float64)
        elsewhere = [part[1:].mean() for part in np.split(answers, starts[1:])]
        boxes = [few[0] for few in self.places.values()]
        return Covered(rows, boxes, every[starts], plain[rows].astype(np.float64), answers[starts], np.array(elsewhere))


def on_object(boxes: Mapping[int, Box], masks: NDArray[np.bool_]) -> bool:
    """Whether the places, by row, are the object; masks (N, H, W), where empty ones say nothing."""
    shares = []
    for row, box in boxes.items():
        if masks[row].any():
            inside = masks[row][box.slices].sum()
            shares.append((inside / (box.width * box.height), inside / masks[row].sum()))
    return len(shares) > 0 and bool((np.mean(shares, 0) >= ON_OBJECT).any())


def alike(picture: NDArray[np.float32], box: Box) -> list[Box]:
    """Other places of a picture (C, H, W) that do not touch `box`, are as large, and hold about as much."""
    height, width = picture.shape[1:]
    inside = picture[:, box.slices[0], box.slices[1]]
    # A flat mark has no deviation inside, so the pixels around it count too.
    border = (0, 0) if (inside != inside[:, :1, :1]).any() else (max(1, box.height // 4), max(1, box.width // 4))
    corners = np.meshgrid(_starts(height, box.height), _starts(width, box.width), indexing="ij")
    tops, lefts = (ends.ravel() for ends in corners)
    apart = (abs(tops - box.top) >= box.height) | (abs(lefts - box.left) >= box.width)
    tops, lefts = np.append(box.top, tops[apart]), np.append(box.left, lefts[apart])
    content, *others = deviations(picture, tops, lefts, (box.height, box.width), border)
    if not content > 0:
        return []
    with np.errstate(divide="ignore"):
        unlike = np.abs(np.log(np.array(others) / content))
    nearest = [at for at in np.argsort(unlike, kind="stable")[:OTHERS] if unlike[at] <= np.log(ALIKE)]
    return [Box(int(lefts[1 + at]), int(tops[1 + at]), box.width, box.height) for at in nearest]


def deviations(
    picture: NDArray[np.float32],
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
    size: tuple[int, int],
    border: tuple[int, int],
) -> NDArray[np.float64]:
    """(P,) the deviation of the pixels in P places of one size with a border, as the mean over the channels.

    Cumulative sums over rows and columns are used, so that many places cost little.
    """
    top, bottom = (tops - border[0]).clip(0), (tops + size[0] + border[0]).clip(None, picture.shape[1])
    left, right = (lefts - border[1]).clip(0), (lefts + size[1] + border[1]).clip(None, picture.shape[2])
    centred = picture.astype(np.float64) - picture.mean((1, 2), dtype=np.float64, keepdims=True)

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.pad(values.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        inside = sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left] + sums[:, top, left]
        return np.asarray(inside / ((bottom - top) * (right - left)))

    variances = (means(centred**2) - means(centred) ** 2).clip(0)
    # A rest of sums that cancel counts as 0.
    variances[variances < NO_VARIANCE * (centred**2).max((1, 2))[:, None]] = 0
    return np.asarray(np.sqrt(variances).mean(0))


def _starts(size: int, side: int) -> list[int]:
    """Where places of a side may begin along an axis: a third of a side apart, the last one at the end of the axis."""
    return sorted({*range(0, size - side + 1, max(1, side // 3)), size - side})
