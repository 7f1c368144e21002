"""Which layer is explained, and how its output becomes a map: policy over the layers that a backend lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any

import torch
from torch import Tensor

from fe_gradcam.errors import nearest
from fe_gradcam.types import ArgumentError, LayerInfo, LayerRef, Reshape, UnknownNameError

EXTRA_TOKENS = (0, 1, 2, 5, 9)
"""Tokens in front of those of the image: a class token, one for distillation beside it, or four or eight registers."""

MOST_TRIED = 8
"""Layers asked whether the score depends on them, before the last map is taken as it is."""

HALVINGS = 5
"""How many times the grid of a transformer's patches may have been halved on the way (Swin: 3)."""


# --- outputs that are no maps yet ----------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one pass of a network showed about how its layers lay out their outputs.

    Attributes:
        maps: The sizes (h, w) of the maps that its convolutions put out.
        channels_last: Whether a linear or normalisation layer worked along the last axis of a map, as in
            transformers with channels last.
    """

    maps: tuple[tuple[int, ...], ...]
    channels_last: bool = False


@dataclass(frozen=True)
class Tokens:
    """How tokens (N, T, K) make up a map (N, K, h, w): the last h * w of them, row by row.

    Attributes:
        grid: (h, w).
        extra: How many tokens stand in front of those of the image.
    """

    grid: tuple[int, ...]
    extra: int


def token_grid(count: int, maps: Iterable[Sequence[int]], size: Sequence[int]) -> Tokens | None:
    """Recognises the grid of `count` tokens, or None.

    The grid is that of a map which the network made on the way (of its patches), halved some times or
    not at all; where it made none, one of the image's own proportions whose patches fill the image. Of
    several the one with the fewest extra tokens.

    Args:
        count: T.
        maps: The sizes (h, w) of the maps that the network made.
        size: (H, W) of the images.
    """
    found = []
    for grid in dict.fromkeys(tuple(one) for one in maps):
        for halvings in range(HALVINGS + 1):
            smaller = tuple(ceil(side / 2**halvings) for side in grid)
            found.append((count - _product(smaller), smaller))
    if len(size) == 2 and None not in size and not found:
        for extra in EXTRA_TOKENS:
            height = isqrt(max(count - extra, 0) * size[0] // size[1])
            if height and (count - extra) % height == 0:
                width = (count - extra) // height
                if size[0] % height == 0 and size[1] % width == 0 and size[0] // height == size[1] // width:
                    found.append((extra, (height, width)))
    fitting = [(extra, grid) for extra, grid in found if extra in EXTRA_TOKENS and extra < _product(grid)]
    if not fitting:
        return None
    extra, grid = min(fitting, key=lambda one: one[0])
    return Tokens(grid, extra) if _product(grid) > 1 else None


def channels_last(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a layer's output of this shape for one image can only be (h, w, K), where networks have either.

    It can where the first axes are in proportion to the image, and the last are not.

    Args:
        shape: Of its output for one image.
        size: (H, W) of the images.
    """
    if len(shape) != len(size) + 1:
        return False
    return _in_proportion(shape[:-1], size) and not _in_proportion(shape[1:], size)


def _in_proportion(sides: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a map of these sides is the image in smaller: some share of it that each side is within one of."""
    least = max((side - 1) / whole for side, whole in zip(sides, size, strict=True))
    most = min((side + 1) / whole for side, whole in zip(sides, size, strict=True))
    return least <= most and all(side <= whole for side, whole in zip(sides, size, strict=True))


def as_map(
    tensor: Tensor,
    layer: object,
    size: Sequence[int],
    seen: Callable[[], Seen],
    reshape: Reshape | None,
    *,
    channels_first: bool,
) -> Tensor:
    """A layer's output, or the gradients of it, as (N, K, *S).

    Args:
        tensor: (N, K, *S) or (N, *S, K); (N, T, K) of tokens.
        layer: Its name, for errors.
        size: (H, W) of the images.
        seen: What a pass of the network showed; asked only where it matters.
        reshape: The user's own; None recognises tokens and channels last.
        channels_first: Whether the framework has channels first; some transformers have them last even so.

    Raises:
        ArgumentError: It is no map, and cannot be made one.
    """
    if reshape is not None:
        made = reshape(tensor)
        if getattr(made, "ndim", 0) < 4 or len(made) != len(tensor):
            raise ArgumentError(
                f"reshape made a {type(made).__name__} of shape {tuple(getattr(made, 'shape', ()))} from the output "
                f"{tuple(tensor.shape)} of layer={str(layer)!r}; a map (N, K, h, w) for the same N is needed."
            )
        return made
    shape = tuple(tensor.shape[1:])
    if len(shape) == 2 and shape[1] > 1:
        found = token_grid(shape[0], seen().maps, size)
        if found is not None:
            of_image = tensor[:, found.extra :].movedim(-1, 1)
            return of_image.reshape(*of_image.shape[:2], *found.grid)
    if len(shape) not in (3, 4):
        raise no_map(layer, shape)
    if channels_first and not (channels_last(shape, size) and seen().channels_last):
        return tensor
    return tensor.movedim(-1, 1)


def pulled_back(maps: Tensor, shape: tuple[int, ...], to_map: Callable[[Tensor], Tensor]) -> Tensor:
    """Maps (N, K, *S) in the layout (N, *shape) that the layer puts out; zero where `to_map` leaves something out.

    Args:
        maps: In the layout that `to_map` makes.
        shape: Of the layer's output for one image.
        to_map: Moves, splits and leaves out, and nothing else: so its transpose, which autograd knows, leads back.
    """
    with torch.enable_grad():
        leaf = torch.zeros(len(maps), *shape, device=maps.device, requires_grad=True)
        made = to_map(leaf)
    (back,) = torch.autograd.grad(made, leaf, maps)
    return back


def no_map(layer: object, shape: Sequence[int]) -> ArgumentError:
    """The error for a layer whose output has no places."""
    tokens = " If these are tokens of the image, pass reshape= that makes (N, K, h, w) of them." * (len(shape) == 2)
    return ArgumentError(
        f"layer={str(layer)!r} has an output of shape {tuple(shape)} per image; a map (K, h, w) is needed. Pass a "
        f"layer before the places are pooled or flattened; fe_gradcam.list_layers(model, images) shows them.{tokens}"
    )


# --- which layer -----------------------------------------------------------------------------------------


def only_pools(kind: str) -> bool:
    """Whether a layer of this class computes nothing but a pooling, or nothing at all."""
    return any(word in kind.lower() for word in ("pool", "dropout", "identity"))


def default_layer(
    infos: Sequence[LayerInfo], reaches: Callable[[LayerRef], bool], *, of_pixels: bool
) -> tuple[LayerRef, bool]:
    """The last map larger than 1x1 before a pooling, behind the activation function that directly takes it up.

    Chosen by measurement (benchmarks/default_layer.py): behind the activation function the heat of
    grad_cam falls on the object more than at the convolution's own output, and a pooling behind that
    makes the map coarser.

    Where the score does not depend on its places it is another: of a transformer that reads its class
    token alone, the last normalisation layer before its last attention. Tokens are explained at
    normalisation layers, where there are any.

    Args:
        infos: The layers in the order of execution.
        reaches: Whether the score depends on the places of a layer's output.
        of_pixels: Whether a segmentation is explained: then the last convolution makes the scores
            themselves, and the default lies before it.

    Returns:
        The place, and whether the score depends on it now; if not, as with a head whose weights are all
        zero, another weight of the model may tell more.

    Raises:
        ArgumentError: No layer has an output that is a map.
    """
    if of_pixels:
        last_convolution = max((at for at, info in enumerate(infos) if info.convolution), default=len(infos))
        infos = infos[:last_convolution]
    spatial = [info for info in reversed(infos) if info.spatial]
    if not spatial:
        raise ArgumentError(
            "layer=None finds no layer whose output is a map (K, h, w) larger than 1x1, so there is nothing to draw a "
            "heatmap from. Pass layer= with the name of a layer that keeps the image's places."
        )
    # a map of one channel is an attention gate: its sign says nothing; in their order otherwise
    spatial.sort(key=lambda info: info.pooled or info.shape[0] == 1)
    last = spatial[0]
    of_tokens = [info for info in spatial if info.tokens is not None]
    normalised = [info for info in of_tokens if "norm" in info.kind.lower()]
    first = [last] if last.tokens is None else []
    places = dict.fromkeys(_place_at(info) for info in [*first, *normalised, *of_tokens, *spatial])
    for place in list(places)[:MOST_TRIED]:
        if reaches(place):
            return place, True
    return _place_at(last), False


def _place_at(info: LayerInfo) -> LayerRef:
    return LayerRef(info.name, "output" if info.activation is None else "activation")


def convolution_layer(infos: Sequence[LayerInfo], name: str | None, conv_only: bool) -> LayerRef:
    """The place that HALCON's operator explains.

    Args:
        infos: The layers in the order of execution.
        name: Of a convolution; None takes the last whose output is larger than 1x1.
        conv_only: Whether the convolution's own output is meant, or else the ReLU behind it.

    Raises:
        ArgumentError: The network has no such convolution, the layer is none, or no ReLU follows it.
    """
    convolutions = [info for info in infos if info.convolution and info.spatial]
    names = list(dict.fromkeys(info.name for info in convolutions))
    if not convolutions:
        raise ArgumentError(
            "target_conv_layer: the model has no convolution layer whose output is larger than 1x1. "
            "fe_gradcam.explain takes any layer."
        )
    chosen = [info for info in convolutions if name is None or info.name == name]
    if not chosen:
        raise ArgumentError(
            f"target_conv_layer={name!r} is no convolution layer with an output larger than 1x1. Accepted: "
            f"{', '.join(names)}. (fe_gradcam.explain takes any layer.)"
        )
    if conv_only:
        return LayerRef(chosen[-1].name, "convolution")
    if not chosen[-1].relu:
        followed = list(dict.fromkeys(info.name for info in convolutions if info.relu))
        raise ArgumentError(
            f"use_conv_only='false': no ReLU follows the convolution {chosen[-1].name!r}, directly or behind its batch "
            f"normalisation. Pass 'true', or target_conv_layer with one that has one: {', '.join(followed) or 'none'}."
        )
    return LayerRef(chosen[-1].name, "relu")


def unknown_layer(layer: object, names: Sequence[str]) -> UnknownNameError:
    """The error for a layer that the model does not have."""
    return UnknownNameError(
        f"layer={layer!r} is no layer of this model{nearest(layer, names)} Accepted: one of its {len(names)} layers by "
        "name, index or as the module itself; fe_gradcam.list_layers(model, images) shows them with their shapes."
    )


def _product(sides: Sequence[Any]) -> int:
    whole = 1
    for side in sides:
        whole *= int(side)
    return whole
