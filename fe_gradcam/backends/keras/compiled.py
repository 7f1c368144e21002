"""Compiled TensorFlow functions that live as long as a Keras model, and the conversion of their inputs and outputs."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf
import torch
from torch import Tensor

from fe_gradcam.backends.keras.graph import TRACED
from fe_gradcam.backends.keras.version import layers_in
from fe_gradcam.backends.keras.watch import Noted, Watched, read_by
from fe_gradcam.backends.known import Recent
from fe_gradcam.spec.resolved import ResolvedTarget

KEPT_FUNCTIONS = 32
"""Compiled functions kept per model."""

FUNCTIONS: WeakKeyDictionary[Any, Recent[tuple[Any, Noted]]] = WeakKeyDictionary()
WATCHED: WeakKeyDictionary[Any, Watched] = WeakKeyDictionary()
atexit.register(FUNCTIONS.clear)  # TensorFlow cannot free its functions once the interpreter is shutting down


def compiled_pass(
    model: Any,
    what: tuple[Any, ...],
    specs: list[Any],
    targets: Sequence[ResolvedTarget],
    trace: Callable[[Any, Any, Any], Any],
    more: Sequence[Any] = (),
) -> Any:
    """A compiled pass, made once; it lives no longer than the model.

    `trace` gets the inputs, the targets' arrays and `more`, each with an axis of rows, and builds the pass; `what` is
    all else that the pass depends on.
    """
    kept = FUNCTIONS.setdefault(model, Recent(KEPT_FUNCTIONS))
    of_targets = [array for target in targets for array in target.arrays]
    others = [tf.TensorSpec([None, *array.shape[1:]], tf.as_dtype(array.dtype)) for array in (*of_targets, *more)]
    key = (*what, signature(specs), tuple(target.signature for target in targets), signature(others))
    called = [value for target in targets if target.called for value in read_by(target.called)]
    found = kept.get(key)
    if found is not None and found[1].are(called):
        return found[0]
    first, second = len(specs), len(specs) + len(of_targets)
    function = compiled(lambda *given: trace(given[:first], given[first:second], given[second:]), [*specs, *others])
    kept.put(key, (function, Noted(called)))
    layers = [model, *layers_in(model)]
    if model in WATCHED and not WATCHED[model].are(layers):  # the first trace may have built layers
        WATCHED[model] = Watched(layers)
    return function


def watched(model: Any, layers: Sequence[Any]) -> Watched:
    """What is watched of the model and its layers; once it has changed, a new one, and nothing compiled is left."""
    known = WATCHED.get(model)
    if known is None or not known.are(layers):
        FUNCTIONS.pop(model, None)
        known = WATCHED[model] = Watched(layers)
    return known


def compiled(function: Callable[..., Any], specs: list[Any]) -> Any:
    """The function as a graph for inputs of these shapes and dtypes."""
    untouched = tf.autograph.experimental.do_not_convert(function)
    with TRACED:
        return tf.function(untouched, autograph=False).get_concrete_function(*specs)


def signature(specs: list[Any]) -> tuple[Any, ...]:
    """Shapes and dtypes."""
    return tuple((tuple(spec.shape), spec.dtype) for spec in specs)


def tensor_of(part: Any) -> Any:
    """An array or tensor of any framework as a tensor of TensorFlow."""
    if not isinstance(part, Tensor):
        return tf.convert_to_tensor(part)
    held = part.detach().cpu()
    return tf.convert_to_tensor((held.float() if held.dtype == torch.bfloat16 else held).numpy())


def packed(inputs: tuple[Any, ...]) -> Any:
    """The inputs as a Keras model takes them: one tensor, or a list of tensors."""
    return inputs[0] if len(inputs) == 1 else list(inputs)


def as_torch(tensor: Any) -> Tensor:
    """The tensor in host memory; shared, not copied, if it is there already."""
    if tensor.device.endswith("CPU:0") and tensor.dtype != tf.bool:
        return torch.utils.dlpack.from_dlpack(tf.experimental.dlpack.to_dlpack(tensor))
    return torch.from_numpy(tensor.numpy())
