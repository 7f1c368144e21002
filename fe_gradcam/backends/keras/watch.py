"""Notices whether what a trace of a Keras model has read is still the same; a trace keeps what it read for ever.

Nothing of the model is kept alive: objects are held weakly, and told apart by their addresses while they live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

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


class _Held:
    """A container, or the attributes of an object: what it holds, by address."""

    def __init__(self, container: Any, levels: int, notes: Noted) -> None:
        values = _values_of(container)
        self._ids = list(map(id, values))
        found = [notes.note(value, levels) for value in values]
        self._inside = [(at, inner) for at, inner in enumerate(found) if inner is not None]

    def is_of(self, container: Any) -> bool:
        """Whether a container holds the same."""
        values = _values_of(container)
        return list(map(id, values)) == self._ids and all(inner.is_of(values[at]) for at, inner in self._inside)


class _Numbers:
    """A small array, by its values."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._values = array.tobytes()

    def is_of(self, array: NDArray[Any]) -> bool:
        """Whether an array holds the same."""
        return array.tobytes() == self._values


class Noted:
    """Values by address, with what they hold; `are` tells whether others are the same, and hold the same."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._dead: list[Any] = []
        self._refs: list[Any] = []
        self._alone: list[Any] = []
        self._held = _Held(values, LEVELS, self)

    def note(self, value: Any, levels: int) -> _Held | _Numbers | None:
        """Holds a value weakly, and returns what it holds if it is looked into."""
        if isinstance(value, _PLAIN_VALUES):
            self._alone.append(value)
            return None
        if levels and isinstance(value, (list, tuple, dict, set, frozenset)):
            return _Held(value, levels - 1, self)
        with suppress(TypeError):  # a container deep inside, an object with slots, a SimpleNamespace
            self._refs.append(ref(value, self._dead.append))
        if isinstance(value, np.ndarray) and value.nbytes <= MOST_WATCHED:
            return _Numbers(value)
        own, its = getattr(value, "__dict__", None), type(value).__module__.partition(".")[0]
        looked_into = levels and isinstance(own, dict) and its not in _LIBRARIES and keras_of(value) is None
        return _Held(value, levels - 1, self) if looked_into else None

    def are(self, values: Sequence[Any]) -> bool:
        """Whether the values are the same."""
        return not self._dead and self._held.is_of(values)


class Watched:
    """What a trace of layers may read: their plain attributes, those of their classes, weights, and what these hold.

    Attributes that Keras itself keeps, and that no call depends on, are left out.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = [(ref(layer), _names_in(layer), len(layer.__dict__)) for layer in layers]
        self._noted = Noted(self._read_by(layers))

    def are(self, layers: Sequence[Any]) -> bool:
        """Whether these are the same layers, and hold what they held."""
        if len(layers) != len(self._layers):
            return False
        for layer, (known, names, count) in zip(layers, self._layers, strict=True):
            if known() is not layer or (len(layer.__dict__) != count and _names_in(layer) != names):
                return False
        return self._noted.are(self._read_by(layers))

    def _read_by(self, layers: Sequence[Any]) -> list[Any]:
        read: list[Any] = []
        for layer, (_, names, _) in zip(layers, self._layers, strict=True):
            read += [layer.__dict__.get(name) for name in names]
        classes = dict.fromkeys(one for layer in layers for one in type(layer).__mro__)
        for one in classes:
            if one.__module__.partition(".")[0] not in _LIBRARIES:
                read += vars(one).values()
        return read


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
        for name in layer.__dict__
        if name not in OF_TRAINING and (name in WEIGHTS or not (name.startswith("_") if of_keras else name in plain))
    ]


@cache
def _of_every_layer(keras: ModuleType) -> frozenset[str]:
    named = {"name": "plain"}  # without a name Keras would count these, and name the next ones of the user otherwise
    return frozenset((*vars(keras.Model(**named)), *vars(keras.layers.Layer(**named))))


def _values_of(container: Any) -> list[Any]:
    if not isinstance(container, (list, tuple, dict, set, frozenset)):
        container = container.__dict__
    if len(container) > MOST_WATCHED:
        return []
    if isinstance(container, dict):
        pairs = list(container.items())
        container = [*(name for name, _ in pairs), *(value for _, value in pairs)]
    return list(container)
