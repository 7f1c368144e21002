"""The layers of a Keras model, in the order of one traced pass and by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fe_gradcam.backends.errors import no_tensor, not_called
from fe_gradcam.backends.keras.graph import POOL_OPS, Call, activation_behind, passed_on, relu_behind
from fe_gradcam.backends.keras.version import KERAS_CONVOLUTIONS, is_a, layers_in
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import LayerInfo, LayerRef


def layer_infos(calls: list[Call], names: dict[int, str]) -> list[LayerInfo]:
    """The layers of a traced pass, in the order of their calls; `names` by the layers' ids."""
    infos: list[LayerInfo] = []
    pooled: dict[int, bool] = {}
    for layer, _, output in calls:
        first, kind, convolution = first_of(output), type(layer).__name__, is_a(layer, *KERAS_CONVOLUTIONS)
        if isinstance(first, tf.Tensor):
            behind = activation_behind(first)
            source = passed_on(first)
            passes = id(source) in pooled and not layers_in(layer)
            pooled[id(first)] = passes or source.op.type in POOL_OPS or pooled.get(id(first), False)
            infos.append(
                LayerInfo(
                    names[id(layer)],
                    kind,
                    tuple(first.shape[1:]),
                    spatial=True,
                    activation=None if behind is None else behind.op.type.lower(),
                    convolution=convolution,
                    relu=convolution and relu_behind(first, calls) is not None,
                    pooled=pooled[id(first)],
                )
            )
    return infos


def seen_by(calls: list[Call], size: tuple[int, ...]) -> Seen:
    """The layout of the layers' outputs that the pass shows."""
    shapes = [tuple(first_of(output).shape[1:-1]) for layer, _, output in calls if is_a(layer, *KERAS_CONVOLUTIONS)]
    return Seen(tuple(shape for shape in shapes if len(shape) == len(size) and None not in shape))


def explained_among(outputs: list[Any], layer: LayerRef, calls: Sequence[Call] = ()) -> Any:
    """The explained tensor among the outputs of a layer in one pass: the last call counts.

    All calls of the pass are needed if the place is behind the ReLU that follows.
    """
    if not outputs:
        raise not_called(layer)
    found = outputs[-1]
    if not isinstance(found, tf.Tensor):
        raise no_tensor(layer, found)
    if layer.place == "activation":
        behind = activation_behind(found)
        return found if behind is None else behind
    if layer.place == "relu":
        found = relu_behind(found, list(calls))
        if found is None:
            raise not_called(layer)
    return found


def first_of(output: Any) -> Any:
    """A layer's output, or the first of several, as a transformer's block returns it."""
    return output[0] if isinstance(output, (tuple, list)) and output else output
