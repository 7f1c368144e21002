"""The layers of a Keras model as one traced pass met them, and by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fe_gradcam.backends.errors import no_tensor, not_called
from fe_gradcam.backends.keras.graph import Call, activation_behind, relu_behind
from fe_gradcam.spec.layers import name_among, only_pools
from fe_gradcam.spec.tokens import Seen, token_grid
from fe_gradcam.types import Layer, LayerInfo, LayerRef

CONV_LAYERS = (
    tf.keras.layers.Conv1D,
    tf.keras.layers.Conv2D,
    tf.keras.layers.Conv3D,
    tf.keras.layers.DepthwiseConv1D,
    tf.keras.layers.DepthwiseConv2D,
    tf.keras.layers.SeparableConv1D,
    tf.keras.layers.SeparableConv2D,
)


def layer_infos(calls: list[Call], names: dict[int, str], size: tuple[int, ...]) -> list[LayerInfo]:
    """What the calls of a traced pass show, in their order.

    Args:
        calls: Of all layers.
        names: Of the layers, by their ids.
        size: (H, W) of the images.
    """
    maps = seen_by(calls, size).maps
    met = [(layer, first) for layer, _, output in calls if isinstance(first := first_of(output), tf.Tensor)]
    counts = {shape[1] for _, first in met if is_tokens(shape := tuple(first.shape))}
    tokens = {count: found for count in counts if (found := token_grid(count, maps, size)) is not None}
    infos: list[LayerInfo] = []
    pooled: dict[int, bool] = {}
    for layer, first in met:
        shape = tuple(first.shape)
        of_tokens = shape[1] if is_tokens(shape) and shape[1] in tokens else None
        own = shape[-1:] + (shape[1:-1] if of_tokens is None else tokens[of_tokens].grid)
        attention = len(shape) == 4 and shape[2] == shape[3] and shape[2] in tokens and shape[1:3] not in maps
        behind = activation_behind(first)
        infos.append(
            LayerInfo(
                names[id(layer)],
                type(layer).__name__,
                own,
                spatial=len(own) == len(size) + 1 and any(side != 1 for side in own[1:]) and not attention,
                activation=None if behind is None else behind.op.type.lower(),
                tokens=of_tokens,
                convolution=isinstance(layer, CONV_LAYERS),
                relu=isinstance(layer, CONV_LAYERS) and relu_behind(first, calls) is not None,
                pooled=_only_pools(layer) or pooled.get(id(first), False),
            )
        )
        pooled[id(first)] = infos[-1].pooled
    return infos


def _only_pools(layer: Any) -> bool:
    return only_pools(type(layer).__name__) and not any(layer._flatten_layers(include_self=False))


def seen_by(calls: list[Call], size: tuple[int, ...]) -> Seen:
    """What the pass showed about the layout of the layers' outputs."""
    shapes = [tuple(first_of(output).shape[1:-1]) for layer, _, output in calls if isinstance(layer, CONV_LAYERS)]
    return Seen(tuple(shape for shape in shapes if len(shape) == len(size) and None not in shape))


def named_layers(model: Any) -> dict[str, Any]:
    """A Keras model's layers by name, in the order of FastEstimator's ``intermediate_layers``."""
    layers = list(model._flatten_layers(include_self=False, recursive=True))
    named: dict[str, Any] = {}
    for layer in layers:
        name, count = layer.name, 1
        while name in named and named[name] is not layer:
            count += 1
            name = f"{layer.name}#{count}"
        named[name] = layer
    return named


def name_of(model: Any, layer: Layer) -> str:
    """See `name_among`."""
    named = named_layers(model)
    return name_among(layer, named, list(named))


def explained_among(outputs: list[Any], layer: LayerRef, calls: Sequence[Call] = ()) -> Any:
    """The explained tensor among what a layer put out in one pass: the last call counts.

    Args:
        outputs: Of the layer.
        layer: The place.
        calls: All calls of the pass, where the place is behind the ReLU that follows.

    Raises:
        ArgumentError: The layer was not called.
        UnsupportedModelError: The layer returns something that is no tensor.
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
        behind = relu_behind(found, list(calls))
        if behind is None:
            raise not_called(layer)
        return behind
    return found


def first_of(output: Any) -> Any:
    """A layer's output, or the first of several, as a transformer's block returns it."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def is_tokens(shape: tuple[int | None, ...]) -> bool:
    """Whether it is the shape of tokens (N, T, K)."""
    return len(shape) == 3 and None not in shape[1:] and shape[2] != 1
