"""Heatmaps against central differences of the score, by plain calls of the model."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.checking.places import Reading
from fe_gradcam.checking.subject import Subject

STEPS = (0.1, 0.03, 0.01, 0.003)
"""Sizes of the differences in float32, as shares of the layer's output."""

EXACT_STEPS = (3e-6,)
"""The same in float64, where rounding is far away and no kink of a ReLU is near."""


@dataclass(frozen=True)
class Differences:
    """How far heatmaps are from what differences of the score say, under one reading of the layer's output.

    Attributes:
        grad_cam: The median over directions, as a share of the map's largest value; and so `hires_cam`.
        count: How many differences.
        precision: "float64" if the model has a copy in it, else "float32".
    """

    reading: Reading
    grad_cam: float
    hires_cam: float
    count: int
    precision: str

    @property
    def off(self) -> float:
        """The larger of the two."""
        return float(np.nanmax((self.grad_cam, self.hires_cam)))


def nearest(subject: Subject, readings: list[Reading], count: int, random: np.random.Generator) -> Differences:
    """The differences under the reading for which they are smallest."""
    return min((differences(subject, reading, count, random) for reading in readings), key=lambda one: one.off)


def differences(subject: Subject, reading: Reading, count: int, random: np.random.Generator) -> Differences:
    """Two laws, each along `count` directions.

    If the vector of channels at one place is added at all places, times a small number, the score grows by that number
    times the places times Grad-CAM at that place. If the layer's output grows by a small share at some places, the
    score grows by that share of the sum of HiRes-CAM over these.
    """
    exact = subject.plain.exact(subject.images)
    plain, images = exact or (subject.plain, subject.images)
    steps = EXACT_STEPS if exact else STEPS
    activations = reading.maps(plain.at(images, subject.ref)[-1])
    grad_cam, hires_cam = subject.maps("grad_cam"), subject.maps("hires_cam")
    rows, places, ones = np.arange(len(grad_cam)), prod(subject.sides), [1] * len(subject.sides)
    flat = grad_cam.reshape(len(rows), -1)
    of_grad, of_hires = [], []
    with np.errstate(all="ignore"):
        for at in (flat.argmax(1), flat.argmin(1), *random.integers(0, places, (count - 2, len(rows)))):
            vectors = activations.reshape(*activations.shape[:2], -1)[rows, :, at]
            slope = _slope(subject, plain, images, reading.spread(vectors.reshape((*vectors.shape, *ones))), steps)
            of_grad.append(np.abs(slope / places - flat[rows, at]) / np.abs(flat).max(1))
        for _ in range(count):
            half = random.random((len(rows), *subject.sides)) < 0.5
            slope = _slope(subject, plain, images, reading.spread(activations * half[:, None]), steps)
            expected, whole = ((one).reshape(len(rows), -1).sum(1) for one in (hires_cam * half, np.abs(hires_cam)))
            of_hires.append(np.abs(slope - expected) / whole)
    precision = "float64" if exact else "float32"
    return Differences(reading, _median(of_grad), _median(of_hires), 2 * count * len(rows), precision)


def _median(errors: list[NDArray[Any]]) -> float:
    """The median of those that could be computed: a map may be zero for one image."""
    return float(np.nanmedian(errors)) if np.isfinite(errors).any() else float("nan")


def _slope(
    subject: Subject, plain: Any, images: Any, along: NDArray[Any], steps: tuple[float, ...]
) -> NDArray[np.float64]:
    """(N,) central differences of the score along a direction; of several steps the two that agree best."""
    found: list[NDArray[np.float64]] = []
    for step in steps:
        up = subject.scores(plain, images, lambda output, step=step: output + step * along)
        down = subject.scores(plain, images, lambda output, step=step: output - step * along)
        found.append((up - down) / (2 * step))
    if len(found) == 1:
        return found[0]
    nearest_pair = np.abs(np.diff(found, axis=0)).argmin(0)
    return np.asarray(np.asarray(found)[nearest_pair + 1, np.arange(len(found[0]))])
