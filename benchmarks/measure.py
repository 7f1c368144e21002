"""Ratios of functions' times, measured in turn so that a noisy machine slows all of them, and peaks of memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]
Clock = Callable[[], float]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """The times of a function over those of another, of interleaved rounds.

    Attributes:
        median: Of the rounds' ratios.
        low: Where its 95 % interval begins; see `interval`.
        high: Where it ends.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: Times, base: Times) -> Ratio:
        """Round by round."""
        ratios = times / base
        return cls(float(np.median(ratios)), *interval(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(values: Times) -> tuple[float, float]:
    """Values between which the median lies with 95 %, whatever the distribution: those at n/2 -+ 0.98 sqrt(n)."""
    ordered = np.sort(values)
    first = max(int(len(values) / 2 - 0.98 * len(values) ** 0.5), 0)
    return float(ordered[first]), float(ordered[len(values) - 1 - first])


def rounds(functions: Mapping[str, Call], count: int, clock: Clock = time.process_time) -> dict[str, Times]:
    """Seconds of each function in each round, (count,); every other round goes backwards.

    By default CPU time is measured, which other jobs on the machine lengthen less than that of the clock on the wall.
    """
    for function in [*functions.values()] * 2:
        function()
    taken = {name: np.zeros(count) for name in functions}
    for turn in range(count):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            started = clock()
            functions[name]()
            taken[name][turn] = clock() - started
    return taken


def compared(function: Call, base: Call, pairs: int) -> Ratio:
    """The time of `function` over that of `base`."""
    taken = rounds({"base": base, "function": function}, pairs)
    return Ratio.of(taken["function"], taken["base"])


def one_thread() -> None:
    """Lets each framework that is loaded compute in one thread; TensorFlow takes it only before its first step."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "tensorflow" in sys.modules:
        threading: Any = sys.modules["tensorflow"].config.threading
        threading.set_intra_op_parallelism_threads(1)
        threading.set_inter_op_parallelism_threads(1)


def resident(field: str = "VmRSS") -> float:
    """MiB that this process holds, or with "VmHWM" held at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def rise(function: Call, times: int = 5) -> float:
    """MiB by which the peak of this process rises; Linux lets it be reset, so that loading does not count."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    for _ in range(times):
        function()
    return resident("VmHWM") - before


def rise_of(module: str, *arguments: str) -> float:
    """What a fresh process of a benchmark prints last if it is given ``--peak`` and these arguments.

    Every larger block is mapped by itself, so that what is measured is what is in use, and not what the C library
    keeps of what was given back, which differs by a fifth from run to run.
    """
    command = [sys.executable, "-m", module, "--peak", *arguments]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])
