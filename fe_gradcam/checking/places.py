"""How a layer's output makes up a map, worked out anew: which of its numbers stand at which place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.types import Reshape


class Reading:
    """One way to read the output of a layer (N, *shape) as maps (N, K, *S).

    Attributes:
        name: What the reading is called in a table.
        at: (K, *S), the position of each number of the map in the flattened output of one image.
    """

    def __init__(self, name: str, shape: tuple[int, ...], to_map: Callable[[Any], Any]) -> None:
        self.name, self._shape = name, shape
        positions = torch.arange(prod(shape), dtype=torch.float64).reshape(1, *shape)
        self.at: NDArray[np.int64] = np.asarray(to_map(positions)[0]).astype(np.int64)

    def maps(self, output: NDArray[Any]) -> NDArray[Any]:
        """(N, K, *S), the numbers of the map."""
        return np.asarray(output.reshape(len(output), -1)[:, self.at])

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """(N, K, *S) or what broadcasts to it, as the layer puts it out, with zeros where the map has no place."""
        flat = np.zeros((len(values), prod(self._shape)))
        flat[:, self.at] = values
        return flat.reshape(len(values), *self._shape)


def readings(shape: tuple[int, ...], sides: tuple[int, ...], reshape: Reshape | None) -> Iterator[Reading]:
    """All ways in which an output (N, *shape) can hold maps of these sides, the usual ones first."""
    if reshape is not None:
        yield Reading("reshape", shape, reshape)
        return
    if shape[1:] == sides:
        yield Reading("channels first", shape, lambda output: output)
    if shape[:-1] == sides:
        yield Reading("channels last", shape, lambda output: output.movedim(-1, 1))
    places = prod(sides)
    if len(shape) == 2 and shape[0] >= places:
        for first in dict.fromkeys((shape[0] - places, 0)):
            where = "after" if first else "before"
            said = f"tokens, {where} {shape[0] - places} others" if shape[0] > places else "tokens"
            yield Reading(said, shape, partial(_grid, first=first, sides=sides))


def _grid(output: Tensor, first: int, sides: tuple[int, ...]) -> Tensor:
    tokens = output[:, first : first + prod(sides)].movedim(-1, 1)
    return tokens.reshape(len(tokens), -1, *sides)


def share_of(sides: Sequence[int], size: Sequence[int], starts: Sequence[int], spans: Sequence[int]) -> NDArray[Any]:
    """(*S) how much of each place of a map lies in a part of the image, from 0 to 1."""
    found = np.ones(())
    for side, whole, start, span in zip(sides, size, starts, spans, strict=True):
        edges = np.arange(side + 1) * whole / side
        inside = np.clip(np.minimum(edges[1:], start + span) - np.maximum(edges[:-1], start), 0, None) * side / whole
        found = found[..., None] * inside
    return found


def hottest(heat: NDArray[Any]) -> NDArray[Any]:
    """Maps (N, *S), less what three fourths of the places have, so that each sums to 1 (or is 0)."""
    ones = [1] * (heat.ndim - 1)
    heat = np.clip(heat - np.quantile(heat.reshape(len(heat), -1), 0.75, 1).reshape(-1, *ones), 0, None)
    whole = heat.reshape(len(heat), -1).sum(1).reshape(-1, *ones)
    return np.asarray(heat / np.where(whole > 0, whole, 1))


def moves(maps: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Maps (N, *S) as they are, and as they would be if places were read in another way.

    Not one place further on: strides, paddings and kernels that are not symmetric move what a layer sees by about as
    much, in sound networks too.
    """
    yield "where they are", maps
    axes = range(1, maps.ndim)
    for axis in axes:
        yield f"turned over along axis {axis}", np.flip(maps, axis)
    for order in permutations(axes):
        if order != tuple(axes):
            yield f"with the axes in the order {order}", maps.transpose(0, *order).reshape(maps.shape)
