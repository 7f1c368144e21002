"""Calls and epochs leave nothing behind: a leak of 100 KiB a call would be seen. `benchmarks.leaks` has the figures."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.leaks import Slope, calls, leaks_of, net, slopes_of, training
from fe_gradcam.backends.keras import compiled

STEPS = 20
KIB = "KiB"


def open_file() -> Any:
    return Path(__file__).open()


def test_a_slope_and_its_error_by_hand() -> None:
    """1, 2, 3, 5 behind the first half: 1.3 each; the rests are 0.2, -0.1, -0.4, 0.3."""
    slope = Slope.of([40, 40, 40, 40, 1, 2, 3, 5])
    assert (slope.each, slope.error) == pytest.approx((1.3, (0.3 / 2 / 5) ** 0.5))
    assert slope.leaks(0.9) and not slope.leaks(1)


def test_leaks_of_each_kind_are_seen() -> None:
    model, kept, files = net("torch"), list[Any](), contextlib.ExitStack()

    def leaking() -> None:
        kept.append(np.ones(100 * 128, np.float64))
        kept.append(torch.zeros(1))
        files.enter_context(open_file())
        model[0][0].register_forward_hook(lambda *given: None)

    with files:
        found = leaks_of(slopes_of(leaking, model, STEPS))
    assert set(found) >= {KIB, "objects", "tensors", "hooks", "files"}
    assert leaks_of(slopes_of(lambda: None, net("torch"), STEPS)) == []


@pytest.mark.slow
def test_calls_leave_nothing_behind(framework: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "KEPT_FUNCTIONS", 4)
    model = net(framework)
    found = {name: _leaking(step, model) & _leaking(step, model) for name, step in calls(framework, model, tmp_path)}
    assert {name: its for name, its in found.items() if its} == {}


def _leaking(step: Any, model: Any) -> set[str]:
    """What grows with a call, memory by 80 KiB at least; what the C library moves once does so in one round alone."""
    slopes = slopes_of(step, model, STEPS)
    return {one for one in leaks_of(slopes) if one != KIB or slopes[KIB].leaks(80)}


@pytest.mark.slow
def test_epochs_leave_nothing_behind(framework: Any, tmp_path: Path) -> None:
    """Page, history and log grow, and memory settles after dozens of epochs: `benchmarks.leaks` has the figures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slopes = training(framework, tmp_path, 8)
    assert not {"tensors", "hooks", "files", "threads"} & set(leaks_of(slopes))
