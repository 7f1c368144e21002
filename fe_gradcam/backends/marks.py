"""What stands in an attribute, noted so that it can be told later whether anything of it has changed."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

DEPTH = 4
"""How far is looked into what an attribute holds: containers and objects inside one another."""

MOST_LISTED = 1000
"""Of containers with more entries only the length is noted."""

_ALONE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, functools.partial)

_HOLDERS = (dict, list, tuple, set, frozenset)
"""What counts by what it holds: each plain call of a Keras model puts other empty lists in place of empty ones."""


class Itself:
    """Equal to what holds the same object; holds it, so that no other gets its address."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.one is other.one

    __hash__ = None  # type: ignore[assignment]


def mark(value: Any, of_tensor: Callable[[Any], Any], depth: int = DEPTH) -> Any:
    """Something that differs once an attribute was replaced, or a container, object or tensor that it leads to changed.

    Args:
        value: What stands in the attribute.
        of_tensor: Makes something of a tensor that differs with its values, and None of what is looked into no
            further, or is no tensor but counts alone; other objects are given back.
        depth: See DEPTH.
    """
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    if isinstance(value, (float, complex)):
        return repr(value)  # nan is not nan
    its = of_tensor(value)
    if its is not value:
        return (Itself(value), its)
    if isinstance(value, np.ndarray):
        return (Itself(value), value.shape, value.tobytes())
    if not depth or isinstance(value, _ALONE):
        return Itself(value)
    names, inside = list[Any](), list[Any]()
    if isinstance(value, dict):
        pairs = list(dict.items(value) if issubclass(type(value), dict) else value.items())  # some only act as one
        names, inside = [mark(name, of_tensor, 0) for name, _ in pairs], [held for _, held in pairs]
    elif isinstance(value, (list, tuple, deque)):
        inside = list(value)
    elif isinstance(value, (set, frozenset)):
        inside = sorted(value, key=id)
    elif isinstance(getattr(value, "__dict__", None), dict):
        names, inside = list(value.__dict__), list(value.__dict__.values())
    else:
        return Itself(value)
    if len(inside) > MOST_LISTED:
        return (Itself(value), len(inside))
    entries = [names, [mark(one, of_tensor, depth - 1) for one in inside]]
    return entries if type(value) in _HOLDERS else (Itself(value), entries)
