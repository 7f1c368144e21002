"""Each Keras that is here: Keras 2, which the host needs and finds under tf.keras, and Keras 3 beside it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import tensorflow as tf

KERASES: dict[str, Any] = {"keras": tf.keras}
if int(version("keras").partition(".")[0]) >= 3:
    KERASES["keras 3"] = importlib.import_module("keras")


def applied(function: Callable[[Any], Any], tensor: Any) -> Any:
    """A function of TensorFlow on a tensor of a functional model: Keras 3 wants a layer around it."""
    keras = KERASES.get("keras 3")
    if keras is None or not isinstance(tensor, keras.KerasTensor):
        return function(tensor)
    return keras.layers.Lambda(function)(tensor)


def precision_of(keras: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """How the precision in which layers are made is read and set."""
    how = keras.mixed_precision
    if hasattr(how, "global_policy"):
        return how.global_policy, how.set_global_policy
    return how.dtype_policy, how.set_dtype_policy
