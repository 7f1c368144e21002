"""From the output of a layer to a map, for tokens and for channels in the last axis; and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, isqrt, prod

import torch
from torch import Tensor

from fe_gradcam.errors import LIST_LAYERS, Argument, ArgumentError
from fe_gradcam.types import Reshape

EXTRA_TOKENS = (0, 1, 2, 5, 9)
"""How many tokens may precede those of the image: a class token, and with it one for distillation, 4 or 8 registers."""

HALVINGS = 5
"""How often a transformer may halve its grid of patches (Swin: 3 times)."""


@dataclass(frozen=True)
class Seen:
    """What one pass showed about the layout of the layers' outputs.

    Attributes:
        maps: The sizes (h, w) of the maps that convolutions put out.
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
        extra: How many tokens precede those of the image.
    """

    grid: tuple[int, ...]
    extra: int


def token_grid(count: int, maps: Iterable[Sequence[int]], size: Sequence[int]) -> Tokens | None:
    """The grid of `count` tokens, or None if it is not recognised.

    The grid is the size of a map that the network made on the way (of its patches), halved some times or not at all.
    If the network made no such map, the grid has the proportions of the image, and its patches fill the image. If
    several grids fit, the one with the fewest extra tokens is taken.

    Args:
        count: T.
        maps: See `Seen`.
        size: (H, W) of the images.
    """
    found = []
    for grid in dict.fromkeys(tuple(one) for one in maps):
        for halvings in range(HALVINGS + 1):
            smaller = tuple(ceil(side / 2**halvings) for side in grid)
            found.append((count - prod(smaller), smaller))
    if len(size) == 2 and None not in size and not found:
        for extra in EXTRA_TOKENS:
            height = isqrt(max(count - extra, 0) * size[0] // size[1])
            if height and (count - extra) % height == 0:
                width = (count - extra) // height
                if size[0] % height == 0 and size[1] % width == 0 and size[0] // height == size[1] // width:
                    found.append((extra, (height, width)))
    fitting = [(extra, grid) for extra, grid in found if extra in EXTRA_TOKENS and extra < prod(grid)]
    if not fitting:
        return None
    extra, grid = min(fitting, key=lambda one: one[0])
    return Tokens(grid, extra) if prod(grid) > 1 else None


def channels_last(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a layer's output of this shape for one image must be (h, w, K), in a framework that allows (K, h, w) too.

    It must be if its first axes have the proportions of the image, and its last axes do not.
    """
    return len(shape) == len(size) + 1 and _in_proportion(shape[:-1], size) and not _in_proportion(shape[1:], size)


def _in_proportion(sides: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a map of these sides may be the image scaled down: by one factor, with each side off by less than one."""
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
    """A layer's output, or its gradients, as (N, K, *S); it may be (N, K, *S), (N, *S, K) or tokens (N, T, K).

    `seen` is called only if it is needed: to recognise tokens without a `reshape`, or to recognise channels last, which
    some transformers have in a framework with channels first.
    """
    if reshape is not None:
        made = reshape(tensor)
        if getattr(made, "ndim", 0) < 4 or len(made) != len(tensor):
            raise ArgumentError(
                f"reshape made a {type(made).__name__} of shape {tuple(getattr(made, 'shape', ()))} from the output "
                f"{tuple(tensor.shape)} of layer={str(layer)!r}; a map (N, K, h, w) with the same N is needed."
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
    """Maps (N, K, *S) in the layout (N, *shape) of the layer's output; zero where `to_map` drops values.

    `to_map` only moves, splits and drops values, so its transpose, which autograd computes, leads back.
    """
    with torch.enable_grad():
        leaf = torch.zeros(len(maps), *shape, dtype=torch.float32, device=maps.device, requires_grad=True)
        made = to_map(leaf)
    (back,) = torch.autograd.grad(made, leaf, maps)
    return back


def no_map(layer: object, shape: Sequence[int]) -> ArgumentError:
    """The error for a layer whose output is no map."""
    tokens = " If it holds tokens of the image, pass reshape= that makes (N, K, h, w) of them." * (len(shape) == 2)
    return ArgumentError(
        Argument("layer", repr(str(layer))),
        f" has an output of shape {tuple(shape)} per image; a map (K, h, w) is needed. Pass a layer before the pooling "
        "or flattening; ",
        LIST_LAYERS,
        f" lists the layers.{tokens}",
    )
