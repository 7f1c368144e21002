"""Compiled TensorFlow functions that live as long as a Keras model, and the conversion of their inputs and outputs."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from tensorflow.python.eager import context
from torch import Tensor

from fe_gradcam.backends.interrupts import HeldBack
from fe_gradcam.backends.keras.graph import TRACED
from fe_gradcam.backends.keras.version import layers_in
from fe_gradcam.backends.keras.watch import Noted, Watched, read_by
from fe_gradcam.backends.known import Recent
from fe_gradcam.spec.resolved import ResolvedTarget

KEPT_FUNCTIONS = 32
"""Compiled functions kept per model."""

Specs: TypeAlias = "tuple[tuple[tuple[int, ...], Any], ...]"
"""The shape for one row, and the dtype, of each input."""

SMALL_BYTES = 1024
"""Up to so many bytes an array of a target is kept as a tensor; larger ones are masks."""


class Pass:
    """A compiled pass, whose tensors come as those of PyTorch, in host memory.

    It is called as an operation: TensorFlow's own call, which binds arguments to names, takes 0.2 ms more. It
    is that of the function itself: of one that tf.raw_ops calls, TensorFlow would keep 0.4 MB for ever.

    Attributes:
        places: What the traced function returned, with the position of each tensor in what `run` returns.
    """

    def __init__(self, trace: Callable[..., Any], specs: list[Any]) -> None:
        self.places: Any = None

        def traced(*given: Any) -> list[Any]:
            made = trace(*given)
            tensors = {id(one): one for one in tf.nest.flatten(made) if one is not None}  # each once
            at = {one: at for at, one in enumerate(tensors)}
            self.places = tf.nest.map_structure(lambda one: None if one is None else at[id(one)], made)
            return list(tensors.values())

        self._concrete = compiled(traced, specs)
        self._dtypes = [output.dtype for output in self._concrete.outputs]
        self._captured = self._concrete.captured_inputs
        asks = tf.config.list_logical_devices("GPU") or self._concrete.graph.deferred_external_captures
        self._is_operation = not asks and tf.bool not in self._dtypes
        self._name = self._concrete.function_def.signature.name.encode()

    def run(self, given: Sequence[Any]) -> list[Tensor]:
        """The tensors of a pass."""
        if self._is_operation:
            with suppress(tf.errors.OpError):  # the function itself says where in the user's code
                made = _call(self._name, [*given, *self._captured], len(self._dtypes))
                return [_from_dlpack(_to_dlpack(one)) for one in made]
        return list(map(as_torch, self._concrete(*given)))

    def __call__(self, given: Sequence[Any]) -> Any:
        """What the traced function returned, for these inputs."""
        made = self.run(given)
        return tf.nest.map_structure(lambda at: None if at is None else made[at], self.places)


def _call(name: bytes, given: list[Any], count: int) -> Any:
    """What the runtime's function of a name puts out, so many tensors."""
    return context.context().call_function(name, given, count)


_to_dlpack, _from_dlpack = tf.experimental.dlpack.to_dlpack, torch.utils.dlpack.from_dlpack

FUNCTIONS: WeakKeyDictionary[Any, Recent[tuple[Pass, Noted]]] = WeakKeyDictionary()
WATCHED: WeakKeyDictionary[Any, Watched] = WeakKeyDictionary()
atexit.register(FUNCTIONS.clear)  # TensorFlow cannot free its functions once the interpreter is shutting down


def compiled_pass(
    model: Any,
    what: tuple[Any, ...],
    specs: Specs,
    targets: Sequence[ResolvedTarget],
    trace: Callable[[Any, Any, Any], Any],
    more: Sequence[Any] = (),
) -> Pass:
    """A compiled pass, made once; it lives no longer than the model.

    `trace` gets the inputs, the targets' arrays and `more`, each with an axis of rows, and builds the pass; `what` is
    all else that the pass depends on.
    """
    kept = FUNCTIONS.get(model)
    if kept is None:
        kept = FUNCTIONS.setdefault(model, Recent(KEPT_FUNCTIONS))
    of_targets = [array for target in targets for array in target.arrays]
    others = tuple((array.shape[1:], array.dtype) for array in (*of_targets, *more))
    key = (*what, specs, *(target.signature for target in targets), others)
    called = [value for target in targets if target.called for value in read_by(target.called)]
    found = kept.get(key)
    if found is not None and found[1].are(called):
        return found[0]
    first, second = len(specs), len(specs) + len(of_targets)
    made = Pass(
        lambda *given: trace(given[:first], given[first:second], given[second:]), tensor_specs((*specs, *others))
    )
    kept.put(key, (made, Noted(called)))
    layers = [model, *layers_in(model)]
    if model in WATCHED and not WATCHED[model].are(layers):  # the first trace may have built layers
        WATCHED[model] = Watched(layers)
    return made


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
    with HeldBack(), TRACED:
        return tf.function(untouched, autograph=False).get_concrete_function(*specs)


def tensor_specs(specs: Specs) -> list[Any]:
    """Inputs of these shapes and dtypes, with any number of rows."""
    return [tf.TensorSpec([None, *shape], dtype) for shape, dtype in specs]


def constant(array: NDArray[Any]) -> Any:
    """An array as a tensor; that of a small array is kept, as the class ids of one call are those of the next."""
    if array.nbytes > SMALL_BYTES:
        return tf.constant(array)
    return _constant(array.tobytes(), array.dtype, array.shape)


@lru_cache(maxsize=32)
def _constant(values: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    with tf.init_scope():
        return tf.constant(np.frombuffer(values, dtype).reshape(shape))


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
        shared: Tensor = _from_dlpack(_to_dlpack(tensor))
        return shared
    return torch.from_numpy(tensor.numpy())
