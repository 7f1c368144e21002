"""A mark differs with what an attribute leads to, and with nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fe_gradcam.backends.marks import MOST_LISTED, mark


def of_tensor(value: Any) -> Any:
    """Modules count alone."""
    if isinstance(value, torch.nn.Module):
        return None
    return value.tolist() if isinstance(value, torch.Tensor) else value


def held() -> dict[str, Any]:
    return {
        "number": float("nan"),
        "list": [1, {"deep": [torch.zeros(2)]}],
        "set": {1, 2},
        "deque": deque([1]),
        "object": SimpleNamespace(inner=SimpleNamespace(count=0)),
        "array": np.zeros(3),
        "module": torch.nn.Linear(1, 1),
        "many": [0] * (MOST_LISTED + 1),
        "function": held,
    }


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another number": lambda one: one.update(number=1.0),
    "a tensor deep inside": lambda one: one["list"][1]["deep"][0].add_(1),
    "another entry of a list": lambda one: one["list"].append(2),
    "an entry of a set": lambda one: one["set"].add(3),
    "an entry of a deque": lambda one: one["deque"].append(2),
    "an attribute of an object in an object": lambda one: setattr(one["object"].inner, "count", 1),
    "another object": lambda one: one.update(object=SimpleNamespace(inner=one["object"].inner)),
    "a number of an array": lambda one: one["array"].__setitem__(1, 2.0),
    "another module": lambda one: one.update(module=torch.nn.Linear(1, 1)),
    "one more of many": lambda one: one["many"].append(0),
    "another function": lambda one: one.update(function=of_tensor),
    "one less": lambda one: one.pop("array"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mark_differs_with_each_change(change: str) -> None:
    one = held()
    before = mark(one, of_tensor)
    assert mark(one, of_tensor) == before
    CHANGES[change](one)
    assert mark(one, of_tensor) != before


def test_lists_count_by_what_they_hold() -> None:
    one = {"list": [1, 2], "module": torch.nn.Linear(1, 1)}
    before = mark(one, of_tensor)
    one["list"] = [1, 2]
    with torch.no_grad():
        one["module"].weight.add_(1)  # it is noted by itself
    assert mark(one, of_tensor) == before


def test_circles_end() -> None:
    one: dict[str, Any] = {}
    one["self"] = one
    assert mark(one, of_tensor) == mark(one, of_tensor)


class Acting:
    """Is taken for a dict and is none, as what Keras wraps dicts in."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held
        self.items = held.items

    __class__ = property(lambda self: dict)  # type: ignore[assignment]


class Computing(dict[str, Any]):
    """Computes its items anew each time, as a lazy configuration does."""

    def items(self) -> Any:
        return {name: object() for name in self}.items()


@pytest.mark.parametrize("kind", [Acting, Computing])
def test_a_dict_of_another_kind_counts_by_what_it_holds(kind: Callable[[dict[str, Any]], Any]) -> None:
    inside = [1]
    one = kind({"list": inside})
    assert isinstance(one, dict)
    before = mark(one, of_tensor)
    assert mark(one, of_tensor) == before
    inside.append(2)
    assert mark(one, of_tensor) != before
