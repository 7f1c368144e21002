"""Whose a Keras model is: of Keras 2 (``tf_keras``, or ``keras`` with TensorFlow 2.15) or of Keras 3 (``keras``).

Both may be in use in one process, so nothing is asked of ``tf.keras``. Importing this loads no framework.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

PACKAGES = ("keras", "tf_keras")
"""The packages that a Keras layer may come from."""

KERAS_CONVOLUTIONS = (
    *(f"Conv{axes}D{transposed}" for axes in (1, 2, 3) for transposed in ("", "Transpose")),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
)
"""The layers that convolve, in either Keras."""


def keras_of(layer: Any) -> ModuleType | None:
    """The Keras whose class a layer or model is, or is derived from; None if it is of none."""
    packages = (base.__module__.partition(".")[0] for base in type(layer).__mro__)
    return next((sys.modules[one] for one in packages if one in PACKAGES and one in sys.modules), None)


def computes_on(model: Any) -> str | None:
    """What a Keras model computes on: "tensorflow", "torch", "jax" and so on; None if it is no Keras model."""
    keras = keras_of(model)
    if keras is None or not isinstance(model, keras.Model):
        return None
    return str(keras.config.backend()) if is_keras_3(keras) else "tensorflow"


def is_keras_3(keras: ModuleType) -> bool:
    """Whether this is Keras 3, or newer."""
    return hasattr(keras, "config")


def is_a(layer: Any, *names: str) -> bool:
    """Whether a layer is of one of the classes that its Keras has under these names."""
    keras = keras_of(layer)
    return keras is not None and isinstance(layer, tuple(getattr(keras.layers, name) for name in names))


def layers_in(layer: Any) -> list[Any]:
    """All layers inside a layer or model, each before those inside it, in the order in which they were added.

    In a functional model of Keras 3 the functions are among them: operations, the layers that Keras 2 makes of them.
    """
    keras = keras_of(layer)
    if keras is None or not is_keras_3(keras):
        return list(layer._flatten_layers(include_self=False))
    found: dict[int, Any] = {}
    operation, of_layers, of_models = keras.Operation, keras.Layer, keras.Model

    def add_below(outer: Any) -> None:  # Keras has this too, but turns the order of layers inside others round
        inside = outer._flatten_layers(include_self=False, recursive=False) if isinstance(outer, of_layers) else []
        functional = outer.operations if isinstance(outer, of_models) and hasattr(outer, "operations") else []
        for inner in (*functional, *inside):
            if isinstance(inner, operation) and id(inner) not in found:
                found[id(inner)] = inner
                if getattr(inner, "_layers", None) or isinstance(inner, of_models):
                    add_below(inner)

    add_below(layer)
    return list(found.values())


def named_layers(model: Any) -> dict[str, Any]:
    """A Keras model's layers by name, in the order of FastEstimator's ``intermediate_layers``."""
    named: dict[str, Any] = {}
    for layer in layers_in(model):
        name, count = layer.name, 1
        while name in named and named[name] is not layer:
            count += 1
            name = f"{layer.name}#{count}"
        named[name] = layer
    return named
