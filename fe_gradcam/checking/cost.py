"""What a function costs: time, and memory at its highest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize
from time import process_time
from typing import Any

_PAGES = Path("/proc/self/statm")


def seconds(*functions: Callable[[], Any], rounds: int = 5) -> list[float]:
    """The median CPU time of each; they take turns."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, times in zip(functions, taken, strict=True):
            start = process_time()
            function()
            times.append(process_time() - start)
    return [sorted(times)[rounds // 2] for times in taken]


def megabytes(function: Callable[[], Any]) -> float | None:
    """How far the process's memory rises while the function runs, looked at each millisecond; None if not known."""
    if not _PAGES.exists():
        return None
    before, highest, done = _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], _resident())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        function()
    finally:
        done.set()
        watching.join()
    return max(highest[0], _resident()) - before


def _resident() -> float:
    return int(_PAGES.read_text().split()[1]) * getpagesize() / 2**20
