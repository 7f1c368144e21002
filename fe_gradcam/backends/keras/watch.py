"""Notices whether what a trace of a Keras model has read is still the same; a trace keeps what it read for ever.

Nothing of the model is kept alive: objects are held weakly, and told apart by their addresses while they live.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from operator import itemgetter
from types import ModuleType
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from fe_gradcam.backends.keras.version import PACKAGES, keras_of

OF_TRAINING = frozenset(
    (
        *("compiled", "compiled_loss", "compiled_metrics", "history", "loss", "optimizer", "steps_per_execution"),
        *("predict_function", "stop_training", "test_function", "train_function", "train_tf_function"),
        *("built", "unrolled_steps_per_execution"),
    )
)
"""Attributes of a model that its training changes and no call reads."""

WEIGHTS = frozenset(
    (
        "_trainable_variables",
        "_non_trainable_variables",
        "_trainable_weights",
        "_non_trainable_weights",
        "_dtype_policy",
        "_name",
    )
)
"""Attributes of Keras' own, with a leading underscore, that a call depends on."""

LEVELS = 3
"""How many containers inside one another are looked into."""

MOST_WATCHED = 1000
"""Longer containers, and arrays of more bytes, are not looked into: they hold data."""

_PLAIN_VALUES = (bool, int, float, complex, str, bytes, type(None), type, np.generic)
_CONTAINERS = (list, tuple, dict, set, frozenset)


class _Level(NamedTuple):
    """Values by address; the arrays among them, by position and values; those that are looked into, with lengths."""

    addresses: list[int]
    arrays: list[tuple[int, bytes]]
    positions: list[int]
    lengths: list[int]


class Noted:
    """Values by address, with what they hold; `are` tells whether others are the same, and hold the same."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._dead: list[Any] = []
        self._refs: list[Any] = []
        self._alone: list[Any] = []
        self._levels: list[_Level] = []
        for left in reversed(range(LEVELS + 1)):
            positions = [at for at, value in enumerate(values) if left and _is_looked_into(value)]
            inside = [_values_of(values[at]) for at in positions]
            addresses, lengths = list(map(id, values)), list(map(len, inside))
            self._levels.append(_Level(addresses, list(self._held(values, left)), positions, lengths))
            values = list(chain.from_iterable(inside))

    def _held(self, values: Sequence[Any], left: int) -> Iterator[tuple[int, bytes]]:
        """Holds the values, weakly if they may change; yields the small arrays among them."""
        for at, value in enumerate(values):
            if _never_changes(value):
                self._alone.append(value)
            elif not left or not isinstance(value, _CONTAINERS):
                with suppress(TypeError):  # a container deep inside, an object with slots, a SimpleNamespace
                    self._refs.append(ref(value, self._dead.append))
            if isinstance(value, np.ndarray) and value.nbytes <= MOST_WATCHED:
                yield at, value.tobytes()

    def are(self, values: Sequence[Any]) -> bool:
        """Whether the values are the same."""
        if self._dead:
            return False
        for level in self._levels:
            if list(map(id, values)) != level.addresses:
                return False
            for at, content in level.arrays:
                if values[at].tobytes() != content:
                    return False
            inside = [_values_of(values[at]) for at in level.positions]
            if list(map(len, inside)) != level.lengths:
                return False
            values = list(chain.from_iterable(inside))
        return True


class Watched:
    """What a trace of layers may read: their plain attributes, those of their classes, weights, and what these hold.

    Attributes that Keras itself keeps, and that no call depends on, are left out.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = [_own_of(layer) for layer in layers]
        self._noted = Noted(self._read_by(layers) or ())

    def are(self, layers: Sequence[Any]) -> bool:
        """Whether these are the same layers, and hold what they held."""
        read = self._read_by(layers) if len(layers) == len(self._layers) else None
        return read is not None and self._noted.are(read)

    def _read_by(self, layers: Sequence[Any]) -> list[Any] | None:
        """What the layers hold; None if they are others, or have other attributes."""
        read: list[Any] = []
        for layer, (known, names, values_in, count) in zip(layers, self._layers, strict=True):
            its = layer.__dict__
            if known() is not layer or (len(its) != count and _names_in(layer) != names):
                return None
            try:
                read += values_in(its)
            except KeyError:
                return None
        kinds = [kind for kind in dict.fromkeys(map(type, layers)) if not _is_of_library(kind)]
        for base in dict.fromkeys(base for kind in kinds for base in kind.__mro__):
            if not _is_of_library(base):
                read += vars(base).values()
        return read


def _own_of(layer: Any) -> tuple[ref[Any], list[str], Callable[[Any], tuple[Any, ...]], int]:
    """A layer, its attributes that are watched, what gets these from all, and how many all are."""
    names = _names_in(layer)
    return ref(layer), names, itemgetter(*names), len(layer.__dict__)


def read_by(called: Callable[..., Any]) -> list[Any]:
    """A callable target, and the values that it reads if it is a function: globals, defaults, and those around it."""
    code = getattr(called, "__code__", None)
    if code is None:
        return [called]
    read = [called, *(called.__globals__[name] for name in code.co_names if name in called.__globals__)]
    read += called.__defaults__ or ()
    for cell in called.__closure__ or ():
        with suppress(ValueError):  # it is assigned to later
            read.append(cell.cell_contents)
    return read


_LIBRARIES = frozenset(("builtins", "functools", "keras", "tf_keras", "tensorflow", "numpy", "torch"))
"""Objects of these hold what is their own affair; functions are told apart by themselves."""


def _names_in(layer: Any) -> list[str]:
    """The attributes of a layer that its call may read."""
    keras = keras_of(layer)
    of_keras = type(layer).__module__.partition(".")[0] in PACKAGES
    plain = frozenset() if of_keras or keras is None else _of_every_layer(keras)
    return [
        name
        for name in list(layer.__dict__)  # another thread may add one
        if name not in OF_TRAINING and (name in WEIGHTS or not (name.startswith("_") if of_keras else name in plain))
    ]


@cache
def _of_every_layer(keras: ModuleType) -> frozenset[str]:
    named = {"name": "plain"}  # without a name Keras would count these, and name the next ones of the user otherwise
    return frozenset((*vars(keras.Model(**named)), *vars(keras.layers.Layer(**named))))


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


def _never_changes(value: Any) -> bool:
    """Whether a value, which is held alive then, stays what it is."""
    return isinstance(value, _PLAIN_VALUES) or (type(value) is tuple and all(map(_never_changes, value)))


def _is_looked_into(value: Any) -> bool:
    if isinstance(value, _CONTAINERS):
        return not _never_changes(value)
    own = getattr(value, "__dict__", None)
    return isinstance(own, dict) and not _is_of_library(type(value)) and keras_of(value) is None


def _values_of(container: Any) -> Collection[Any]:
    held = container if isinstance(container, _CONTAINERS) else container.__dict__
    if len(held) > MOST_WATCHED:
        return ()
    return [*held, *held.values()] if isinstance(held, dict) else held
