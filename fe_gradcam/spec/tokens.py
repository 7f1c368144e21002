"""From the output of a layer to a map, for tokens and for channels in the last axis; and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, isqrt, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.errors import LIST_LAYERS, Argument, ArgumentError
from fe_gradcam.types import LayerRef, Reshape

EXTRA_TOKENS = (0, 1, 2, 5, 9)
"""How many tokens may precede those of the image: a class token, and with it one for distillation, 4 or 8 registers."""

HALVINGS = 5
"""How often a transformer may halve its grid of patches (Swin: 3 times)."""


SAME_ROW = 1e-5
"""Positions no further apart than this are those of one row or column."""

NEXT = 0.6
"""How close neighbours may stand, in cells. Where they stand closer, each token is of places far apart."""


@dataclass(frozen=True)
class Layout:
    """How the output of a layer for one image makes up a map (K, *grid).

    Attributes:
        channels: The axis of the channels.
        grid: The size of the map.
        order: For each place of the map, row by row, where it stands among the values of a channel. None if these are
            the places row by row, and nothing else.
        tokens: How many tokens the output holds, with those of no place; None if the output is a map as it is.
    """

    channels: int
    grid: tuple[int, ...]
    order: tuple[int, ...] | None = None
    tokens: int | None = None

    @cached_property
    def run(self) -> slice | None:
        """The places as a slice, if they stand one behind the other: then no indices go to the device."""
        order = self.order or ()
        return slice(order[0], order[-1] + 1) if order == tuple(range(order[0], order[-1] + 1)) else None

    def map_of(self, tensor: Tensor) -> Tensor:
        """The output of the layer, with a batch axis in front, as (N, K, *grid)."""
        if self.channels == 0 and self.order is None and tensor.shape[2:] == self.grid:
            return tensor
        moved = tensor.movedim(self.channels + 1, 1)
        if self.order is None:
            return moved.reshape(*moved.shape[:2], *self.grid)
        chosen: Any = self.run or torch.tensor(self.order, device=tensor.device)
        return moved.flatten(2)[:, :, chosen].reshape(*moved.shape[:2], *self.grid)


@dataclass(frozen=True)
class Seen:
    """What one pass showed about the layout of the layers' outputs.

    Attributes:
        maps: The sizes (h, w) of the maps that convolutions put out.
        channels_last: Whether a linear or normalisation layer worked along the last axis of a map, as in
            transformers with channels last.
        layouts: The layout by the layer's name and the shape of its output for one image; None if the places of the
            output are not those of the image. A layer that could not be followed is missing.
        followed: Whether the places of the image were followed through the pass. If so, tokens are recognised by
            nothing else.
        largest: How many numbers the largest output holds for one image; 0 if this is not known.
    """

    maps: tuple[tuple[int, ...], ...]
    channels_last: bool = False
    layouts: Mapping[tuple[str, tuple[int, ...]], Layout | None] = field(default_factory=dict)
    followed: bool = False
    largest: int = 0

    def layout_of(self, name: str, shape: tuple[int, ...], size: Sequence[int]) -> Layout | None:
        """How the output of a layer makes up a map, or None if it does not, or this is not known."""
        if (name, shape) in self.layouts:
            return self.layouts[name, shape]
        if len(shape) == 2 and shape[1] != 1:
            return self.of_tokens(shape[0], size)
        if len(shape) != len(size) + 1:
            return None
        return Layout(len(size), shape[:-1]) if self.channels_last and channels_last(shape, size) else None

    def of_tokens(self, count: int | None, size: Sequence[int]) -> Layout | None:
        """How so many tokens (T, K) of a layer that was not followed make up a map."""
        if count is None:
            return None
        if self.followed:
            like = {one for one in self.layouts.values() if one is not None and one.tokens == count}
            known = {one for one in like if one.channels == 1}
            return known.pop() if len(known) == 1 else None
        found = token_grid(count, self.maps, size)
        return None if found is None else Layout(1, found.grid, tuple(range(found.extra, count)), count)


def layout_of(positions: Sequence[NDArray[np.floating[Any]]]) -> Layout | None:
    """The layout of an output for one image, found by where each of its values stands in the image.

    Args:
        positions: For each axis of space an array of the output's shape, with positions within [0, 1]; NaN for what
            stands at no place, such as a class token.

    Returns:
        None if the values of a channel are not one for each cell of a grid.
    """
    shape = positions[0].shape
    found = []
    for axis in (1, 0) if len(shape) == 2 else range(len(shape)):
        layout = _with_channels(positions, axis)
        if layout is not None:
            found.append(layout)
            if len(shape) == 2 or (shape[axis] > 1 and all(one.strides[axis] == 0 for one in positions)):
                return layout
    return max(found, key=lambda one: prod(one.grid), default=None)


def _with_channels(positions: Sequence[NDArray[np.floating[Any]]], axis: int) -> Layout | None:
    """The layout if the channels stand in this axis."""
    means = [_mean_along(one, axis) for one in positions]
    rest, values = means[0].shape, [mean.ravel() for mean in means]
    placed = np.flatnonzero(np.isfinite(values).all(0))
    if not len(placed) or len(rest) not in (1, len(positions)):
        return None
    cells, grid = [], []
    for value in values:
        cell, count = _cells(value[placed])
        cells.append(cell)
        grid.append(count)
    if prod(grid) != len(placed) or prod(grid) < 2:
        return None
    order = np.full(len(placed), -1)
    order[np.ravel_multi_index(cells, grid)] = placed
    if (order < 0).any():
        return None
    as_it_is = len(placed) == len(values[0]) and bool((order == np.arange(len(order))).all())
    if len(rest) > 1:
        whole = len(placed) == len(values[0]) and sorted(rest) == sorted(grid)
        return Layout(axis, tuple(grid), None if as_it_is else tuple(order.tolist())) if whole else None
    for value, cell, count in zip(values, cells, grid, strict=True):
        off, apart = np.abs(value[placed] * count - (cell + 0.5)), np.diff(np.unique(value[placed])) * count
        if off.max() > 0.5 or apart[apart > SAME_ROW * count].min(initial=1) < NEXT:  # tokens of a part of the image
            return None
    return Layout(axis, tuple(grid), None if as_it_is else tuple(order.tolist()), len(values[0]))


def _mean_along(positions: NDArray[np.floating[Any]], axis: int) -> NDArray[np.floating[Any]]:
    """The mean along an axis of what stands at places; NaN where nothing does."""
    if positions.strides[axis] == 0 or positions.shape[axis] == 1:
        first: NDArray[np.floating[Any]] = np.take(positions, 0, axis)
        return first
    known = np.isfinite(positions)
    count = known.sum(axis)
    total = np.where(known, positions, 0).sum(axis)
    mean: NDArray[np.floating[Any]] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _cells(values: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], int]:
    """In which row or column each value stands, and how many of them there are."""
    order = values.argsort()
    steps = np.diff(values[order]) > SAME_ROW
    cells = np.empty(len(values), np.int64)
    cells[order] = np.concatenate([[0], steps.cumsum()])
    return cells, int(steps.sum()) + 1


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
    layer: LayerRef,
    size: Sequence[int],
    seen: Callable[[], Seen],
    reshape: Reshape | None,
    *,
    channels_first: bool,
) -> Tensor:
    """A layer's output, or its gradients, as (N, K, *S); it may be (N, K, *S), (N, *S, K) or tokens (N, T, K).

    `seen` is called only if it is needed: without a `reshape`, for tokens, and in a framework with channels first to
    recognise channels last, which some transformers have.
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
    if len(shape) == 2 or (channels_first and len(shape) in (3, 4)):
        found = seen().layout_of(layer.name, shape, size)
        if found is not None:
            return found.map_of(tensor)
    if len(shape) not in (3, 4):
        raise no_map(layer, shape)
    return tensor if channels_first else tensor.permute(0, len(shape), *range(1, len(shape)))


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
