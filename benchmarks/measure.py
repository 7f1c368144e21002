"""Ratios of two functions' times, measured in turn so that a noisy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Of the times of interleaved pairs.

    Attributes:
        median: Of the pairs' ratios.
        low: Their lower quartile.
        high: Their upper quartile.
        base: Median seconds of the function compared with.
    """

    median: float
    low: float
    high: float
    base: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}] of {1e3 * self.base:.0f} ms"


def compared(function: Callable[[], object], base: Callable[[], object], pairs: int) -> Ratio:
    """The time of `function` over that of `base`, which goes first in every other pair."""
    for each in (base, function, base, function):
        each()
    times: dict[Callable[[], object], list[float]] = {function: [], base: []}
    for pair in range(pairs):
        for each in (base, function) if pair % 2 else (function, base):
            started = time.perf_counter()
            each()
            times[each].append(time.perf_counter() - started)
    ratios = np.array(times[function]) / np.array(times[base])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return Ratio(float(median), float(low), float(high), float(np.median(times[base])))
