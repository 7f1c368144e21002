"""How a Keras model is called in a trace, with which inputs, and how its output is read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from torch import Tensor

from fe_gradcam.backends.interrupts import held_back
from fe_gradcam.backends.keras.compiled import (
    Specs,
    as_torch,
    compiled,
    packed,
    tensor_of,
    tensor_specs,
    watched,
)
from fe_gradcam.backends.keras.graph import (
    Call,
    call_model,
    calls_of,
    check_layout,
    unactivated,
)
from fe_gradcam.backends.keras.layers import explained_among, first_of, layer_infos, seen_by
from fe_gradcam.backends.keras.scores import is_segmentation, is_table, is_tensor, outputs_of, rows_of
from fe_gradcam.backends.keras.version import layers_in, named_layers
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import Backend, Query
from fe_gradcam.backends.scoring import Outputs
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.layers import name_among
from fe_gradcam.spec.outputs import pick
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import Layer, LayerInfo, LayerRef


class ObservedKeras(Backend):
    """What of a Keras model's backend calls the model and reads its output; the passes are in KerasBackend."""

    channels_first = False

    @property
    def precision(self) -> float:
        """The spacing of the model's numbers at 1."""
        compute = tf.as_dtype(self._model.compute_dtype or "float32").as_numpy_dtype
        return float(tf.experimental.numpy.finfo(compute).eps)

    def _modules(self) -> list[Any]:
        return [watched(self._model, [self._model, *layers_in(self._model)])]

    def _name_of(self, layer: Layer) -> str:
        named = named_layers(self._model)
        return name_among(layer, named, list(named))

    def kind_of(self, layer: LayerRef) -> str:
        """See Backend."""
        kind = self._known.kinds.get(layer.name)
        if kind is None:
            named = named_layers(self._model)
            kind = self._known.kinds.put(layer.name, type(named[layer.name]).__name__ if layer.name in named else "")
        return kind

    @held_back
    def _listed(self, inputs: Inputs) -> tuple[list[LayerInfo], Seen]:
        """See Backend; nothing is computed."""
        names = {id(layer): name for name, layer in named_layers(self._model).items()}
        size = self.image_size(inputs)
        found: list[tuple[list[LayerInfo], Seen]] = []

        def trace(*given: Any) -> Any:
            calls: list[Call] = []
            with calls_of(self._all_layers(), lambda *call: calls.append(call)):
                result = call_model(self._model, packed(given), training=False)
            check_layout(given)
            found.append((layer_infos(calls, names), seen_by(calls, size)))
            return result

        with tf.init_scope():
            compiled(trace, tensor_specs(self._specs(inputs)))
        return found[0]

    def _one_of(self, inputs: Inputs) -> Inputs | None:
        """See Backend; symbols, whose size must be known, are replaced by noise."""
        parts = tuple(_one_of(part) for part in inputs.parts)
        return None if any(part is None for part in parts) else Inputs(parts, inputs.at)

    @held_back
    def _outputs(self, given: Sequence[Any], of_pixels: bool, factor: float = 1.0) -> Tensor | None:
        def scores(*given: Any) -> Any:
            picked = self._picked(call_model(self._model, packed(given), training=False), of_pixels)
            return None if picked is None else rows_of(picked)

        specs = [tf.TensorSpec(part.shape, part.dtype) for part in given]
        table = compiled(scores, specs)(*(_stretched(part, factor) for part in given))
        return None if table is None else as_torch(table)

    def _picked(self, output: Any, of_pixels: bool) -> Any | None:
        """The part of the output that holds scores: a table, or the scores of every pixel."""
        fits = is_segmentation if of_pixels else is_table
        names = getattr(self._model, "output_names", None)
        picked = pick(output, self._model_output, is_tensor=is_tensor, fits=fits, names=names)
        return picked if picked is not None and (is_table(picked) or is_segmentation(picked)) else None

    def _read(self, output: Any, query: Query, reading: Reading) -> Outputs:
        picked = self._picked(output, query.of_pixels)
        return outputs_of(output, picked, reading, getattr(self._model, "output_names", None))

    def _at_layer_and_output(self, given: tuple[Any, ...], layer: LayerRef) -> tuple[Any, Any]:
        keras_layer = named_layers(self._model)[layer.name]
        calls: list[Call] = []
        inner: list[Any] = []
        heard = self._all_layers() if layer.place == "relu" else [keras_layer]
        before = unactivated(keras_layer, inner) if layer.place == "convolution" else nullcontext()
        with calls_of(heard, lambda *call: calls.append(call)), before:
            output = call_model(self._model, packed(given), training=False)
        check_layout(given)
        outputs = inner or [first_of(its_output) for its_layer, _, its_output in calls if its_layer is keras_layer]
        return explained_among(outputs, layer, calls), output

    def _specs(self, inputs: Inputs) -> Specs:
        """The inputs' shapes, and the dtypes in which the model takes them, which are found out once."""
        given = tuple(part.dtype for part in inputs.parts)
        taken = self._known.taken.get(given)
        if taken is None:
            taken = self._known.taken[given] = self._dtypes(given)
        return tuple(zip(inputs.shapes, taken, strict=True))

    def _dtypes(self, given: Sequence[Any]) -> list[Any]:
        """To which dtype Keras casts each input if it is floating: that of the declared input, or of the computation.

        With mixed precision these differ: what stands in front, such as a rescaling, may compute in float32.
        """
        computed = tf.as_dtype(self._model.compute_dtype or "float32")
        declared = [tf.as_dtype(one.dtype) for one in tf.nest.flatten(getattr(self._model, "inputs", None) or [])]
        if len(declared) != len(given):
            declared = [computed] * len(given)
        own = [tf.as_dtype(str(one).removeprefix("torch.") if isinstance(one, torch.dtype) else one) for one in given]
        casts = [taken if taken.is_floating else computed for taken in declared]
        return [cast if dtype.is_floating else dtype for cast, dtype in zip(casts, own, strict=True)]

    def _given(self, inputs: Inputs, specs: Specs) -> list[Any]:
        """The inputs as tensors of TensorFlow, in the dtypes of their `specs`."""
        return [
            part if isinstance(part, tf.Tensor) and part.dtype == dtype else tf.cast(tensor_of(part), dtype)
            for part, (_, dtype) in zip(inputs.parts, specs, strict=True)
        ]

    def _all_layers(self) -> list[Any]:
        return layers_in(self._model)


def _stretched(part: Any, factor: float) -> Any:
    """Images far from any that a model knows; other inputs, such as ids of words, are not changed."""
    if part.dtype.is_floating:
        return part * factor
    return tf.saturate_cast(tf.cast(part, tf.float32) * factor, part.dtype) if part.shape.rank >= 4 else part


def _one_of(part: Any) -> Any:
    """The first image; noise instead if images are symbols, or None if their size is not known."""
    if not isinstance(part, tf.Tensor) or hasattr(part, "numpy"):
        return part[:1]
    if None in part.shape[1:]:
        return None
    return np.random.default_rng(0).random((1, *part.shape[1:])).astype(part.dtype.as_numpy_dtype)
