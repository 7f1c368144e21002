"""Everything that can be reached from an object, so that a test can say that nothing of it was changed."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

PLAIN = (str, bytes, int, float, complex, bool, type(None))
ALONE = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType),
    *(tf.Graph, tf.Tensor, tf.types.experimental.GenericFunction),
)
"""What is no part of the object: only that it is the same counts."""

HOLDERS = (dict, list, tuple, set, frozenset)
"""What counts by what it holds: each plain call of a Keras model puts other empty lists in place of empty ones."""


def reachable(root: Any) -> dict[str, Any]:
    """What is found along each path of attributes, keys and positions: numbers by value, other objects by identity."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, PLAIN):
            found[path] = one
        elif id(one) not in seen:
            seen.add(id(one))
            found[path] = type(one).__name__ if type(one) in HOLDERS else _Same(one)
            if isinstance(one, (tf.Variable, np.ndarray)):
                found[f"{path} holds"] = np.asarray(one).tobytes()
            elif not isinstance(one, ALONE):
                parts = dict(_parts(one))
                found[f"{path} has"] = sorted(parts)
                waiting += [(path + name, part) for name, part in parts.items()]
    return found


class _Same:
    """Equal to what holds the same object; holds it, so that no other gets its address."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.one is other.one

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"the {type(self.one).__name__} at {id(self.one)}"


def _parts(one: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(one, dict):
        yield from ((f"[{key!r:.60}]", value) for key, value in list(one.items()))
    elif isinstance(one, (list, tuple, set, frozenset)):
        yield from ((f"[{at}]", value) for at, value in enumerate(one))
    yield from ((f".{name}", value) for name, value in list(getattr(one, "__dict__", {}).items()))
    for kind in type(one).__mro__:
        names = getattr(kind, "__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(one, name):
                yield f".{name}", getattr(one, name)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, in words; best empty."""
    return [
        f"{path}: {before.get(path, 'nothing')} -> {after.get(path, 'nothing')}"
        for path in sorted({*before, *after}, key=len)
        if path not in before or path not in after or before[path] != after[path]
    ]
