"""Costs of functions whose cost is known."""

from __future__ import annotations

import numpy as np

from fe_gradcam.checking.cost import megabytes, seconds


def test_the_median_of_what_functions_take_in_turns() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        np.linalg.eigh(np.random.default_rng(0).random((120, 120)))

    quick, slower = seconds(lambda: calls.append("quick"), slow, rounds=3)
    assert calls == ["quick", "slow"] * 3
    assert 0 <= quick < slower


def test_memory_rises_by_what_is_held() -> None:
    rise = megabytes(lambda: np.ones(64 * 2**20, np.uint8).sum())
    assert rise is None or 40 < rise < 200
