"""Which layer is explained: the policy, over the layers that a backend lists."""

from __future__ import annotations

from collections.abc import Sequence

from fe_gradcam.names import nearest
from fe_gradcam.types import ArgumentError, LayerInfo, LayerRef, UnknownNameError


def default_layer(infos: Sequence[LayerInfo]) -> LayerRef:
    """The last output larger than 1x1, behind the activation function that directly takes it up.

    Args:
        infos: The layers in the order of execution.

    Raises:
        ArgumentError: No layer has an output that is a map.
    """
    for info in reversed(infos):
        if info.spatial:
            return LayerRef(info.name, activated=info.activation is not None)
    raise ArgumentError(
        "layer=None finds no layer whose output is a map (K, h, w) larger than 1x1, so there is nothing to draw a "
        "heatmap from. Pass layer= with the name of a layer that keeps the image's places."
    )


def unknown_layer(layer: object, names: Sequence[str]) -> UnknownNameError:
    """The error for a layer that the model does not have."""
    return UnknownNameError(
        f"layer={layer!r} is no layer of this model{nearest(layer, names)} Accepted: one of its {len(names)} layers by "
        "name, index or as the module itself; fe_gradcam.list_layers(model, images) shows them with their shapes."
    )


def check_map(layer: object, shape: Sequence[int]) -> None:
    """Raises ArgumentError unless a layer's output for one image, (K, *S), is a map."""
    if len(shape) != 3:
        raise ArgumentError(
            f"layer={str(layer)!r} has an output of shape {tuple(shape)} per image; a map (K, h, w) is needed. Pass a "
            "layer before the places are pooled or flattened; fe_gradcam.list_layers(model, images) shows them."
        )
