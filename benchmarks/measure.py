"""Ratios of functions' times, measured in turn so that a noisy machine slows all of them, and peaks of memory."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
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


def rounds_within(functions: Mapping[str, Call], seconds: float, fewest: int, most: int) -> dict[str, Times]:
    """As many rounds as take about so many seconds, within the two bounds."""
    once = sum(times.mean() for times in rounds(functions, 3).values())
    return rounds(functions, int(np.clip(seconds / once, fewest, most)))


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


def row_by_row(
    module: str, head: str, every: Sequence[str], print_row: Callable[..., None], peak: Callable[..., float]
) -> None:
    """The command line of a benchmark whose rows are measured each in a process of its own, below a head.

    Of a row's words and the seconds for its rounds `print_row` prints it; of those after ``--peak`` (see `rise_of`)
    `peak` says the MiB.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("rows", nargs="*", help=f'such as "{every[0]}"; all by default')
    parser.add_argument("--seconds", type=float, default=30, help="about so many for the rounds of a row")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.peak:
        print(peak(*chosen.peak))
    elif len(chosen.rows) == 1:
        print_row(*chosen.rows[0].split(), chosen.seconds)
    else:
        print(head, flush=True)
        for row in chosen.rows or every:
            subprocess.run([sys.executable, "-m", module, row, "--seconds", str(chosen.seconds)], check=True)
