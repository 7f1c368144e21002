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

AGREES_TO = {True: 0.01, False: 0.03}
"""How far differences of the score, exact or not, may be from the heatmap, as a share of its largest value."""

SMALLEST = {True: 1e-7, False: 1e-3}
"""A heatmap whose largest value is below this share of the score, where the differences are exact or not, is held
against that share: only rounding is left there."""


@dataclass(frozen=True)
class Differences:
    """How far heatmaps are from what differences of the score say, under one reading of the layer's output.

    Attributes:
        grad_cam: Of the worst image, the median over the directions, of which one may meet a kink, as a share of the
            map's largest value; and so `hires_cam`.
        count: How many differences.
        exact: Whether they are of a copy of the model in float64.
        rounding: The spacing of the model's own numbers at 1.
    """

    reading: Reading
    grad_cam: float
    hires_cam: float
    count: int
    exact: bool
    rounding: float

    @property
    def off(self) -> float:
        """The larger of the two."""
        return max(self.grad_cam, self.hires_cam)

    @property
    def agree(self) -> bool:
        """Whether they are small enough."""
        return self.off <= max(AGREES_TO[self.exact], 16 * self.rounding)

    @property
    def precision(self) -> str:
        """In which precision the differences are, in words."""
        return "float64" if self.exact else "float32"


def nearest(subject: Subject, count: int, random: np.random.Generator) -> Differences:
    """The differences under the first reading of the layer's output for which they are small, or are smallest."""
    found: list[Differences] = []
    for reading in subject.readings:
        found.append(differences(subject, reading, count, random))
        if found[-1].agree:
            break
    return min(found, key=lambda one: one.off)


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
    scores = np.abs(subject.scores(plain, images, lambda output: output))
    rows, places, ones = np.arange(len(grad_cam)), prod(subject.sides), [1] * len(subject.sides)
    flat = grad_cam.reshape(len(rows), -1)
    of_grad, of_hires = [], []
    with np.errstate(all="ignore"):
        largest = np.maximum(np.abs(flat).max(1), SMALLEST[exact is not None] * scores)
        for at in (flat.argmax(1), flat.argmin(1), *random.integers(0, places, (count - 2, len(rows)))):
            vectors = activations.reshape(*activations.shape[:2], -1)[rows, :, at]
            slope = _slope(subject, plain, images, reading.spread(vectors.reshape((*vectors.shape, *ones))), steps)
            of_grad.append(_share(slope / places - flat[rows, at], largest))
        whole = np.maximum(np.abs(hires_cam).reshape(len(rows), -1).sum(1), SMALLEST[exact is not None] * scores)
        for _ in range(count):
            half = random.random((len(rows), *subject.sides)) < 0.5
            slope = _slope(subject, plain, images, reading.spread(activations * half[:, None]), steps)
            of_hires.append(_share(slope - (hires_cam * half).reshape(len(rows), -1).sum(1), whole))
    off, of_hires_cam = (float(np.max(np.median(one, 0))) for one in (of_grad, of_hires))
    return Differences(reading, off, of_hires_cam, 2 * count * len(rows), exact is not None, subject.rounding)


def _share(error: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    """(N,) errors as shares; infinite where something is no number."""
    share = np.where(error == 0, 0, np.abs(error) / whole)
    return np.where(np.isfinite(share), share, np.inf)


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
