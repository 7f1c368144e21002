"""Pixels replaced: in which order, by what, and what a model says of the picture then."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from fe_gradcam.errors import ArgumentError
from fe_gradcam.metrics.asked import Ask

BLUR = (11, 5.0)
"""Side in pixels and standard deviation of the Gaussian kernel of RISE's insertion."""

FILLS = ("mean", "blur")
"""What pixels may be replaced by, besides a number."""

NEIGHBOURS = {
    **dict.fromkeys([(-1, 0), (0, -1), (0, 1), (1, 0)], 1 / 6),  # across an edge
    **dict.fromkeys([(-1, -1), (-1, 1), (1, -1), (1, 1)], 1 / 12),  # across a corner
}
"""Weights of a pixel's neighbours, by how far down and right they are; of ROAD."""

BLOCK = 4
"""Side in pixels of the blocks that what reaches far is found out with."""

EXACT = 1e-5
"""Where the imputation ends: the largest residual, relative to the largest right-hand side."""

MOST_STEPS = 500
"""Of the imputation, which takes about 20."""


def falling(heat: NDArray[np.float32], ties: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each pixel in the order of falling heat, (N, *S): 0 is the hottest.

    Pixels of equal heat come in the order of `ties`: by index the large areas of zero heat would be taken row by row.
    """
    flat = heat.reshape(len(heat), -1)
    order = np.lexsort((ties.reshape(flat.shape), -flat), axis=-1)
    places = np.empty(flat.shape, np.int64)
    np.put_along_axis(places, order, np.arange(flat.shape[1])[None], axis=1)
    return places.reshape(heat.shape)


def replaced(ask: Ask, images: Tensor, replacements: Tensor, places: Tensor, steps: int) -> Tensor:
    """The mean probability of a class while an image's pixels are replaced, the hottest first.

    p(f) is the probability of the class for the image in which the share f of the pixels, those with the most heat,
    are taken from the replacement, all channels of a pixel at once. The result is the integral of p over f from 0 to
    1, by the trapezium rule on the steps + 1 fractions k / steps; the number of pixels is rounded.

    Args:
        ask: Is not asked about a version that is the same as the one before.
        images: (N, C, *S).
        replacements: (N, C, *S).
        places: (N, *S), of each pixel in the order, as `falling` gives them.
        steps: Versions of each image, besides the first.

    Returns:
        (N,) float64 within [0, 1].
    """
    pixels = places[0].numel()
    counts = (torch.arange(steps + 1, dtype=torch.float64) * (pixels / steps)).round().long().to(places.device)
    changes = torch.zeros(len(places), pixels + 1, dtype=torch.long, device=places.device)
    changes.scatter_(1, places.flatten(1) + 1, (images != replacements).any(1).flatten(1).long())
    until = changes.cumsum(1)[:, counts]
    new = torch.ones_like(until, dtype=torch.bool)
    new[:, 1:] = until[:, 1:] > until[:, :-1]
    rows, which = new.nonzero(as_tuple=True)

    def versions(at: Tensor) -> Tensor:
        row = rows[at]
        is_replaced = places[row, None] < counts[which[at]].reshape(-1, *[1] * (images.dim() - 1))
        return torch.where(is_replaced, replacements[row], images[row])

    asked = ask(rows, versions).double()
    latest = new.flatten().cumsum(0).reshape(new.shape) - 1
    return torch.trapezoid(asked[latest.to(asked.device)], dx=1 / steps)


def filled(images: Tensor, fill: float | str) -> Tensor:
    """What pixels are replaced by, (N, C, *S): a number, each image's mean by channel, or the image blurred."""
    if fill == "blur":
        return blurred(images)
    if fill == "mean":
        return images.mean(tuple(range(2, images.dim())), keepdim=True).expand_as(images)
    return torch.full_like(images, float(fill))


def blurred(images: Tensor) -> Tensor:
    """The images (N, C, *S) under the Gaussian kernel of RISE, mirrored at their borders."""
    side, deviation = BLUR
    steps = np.arange(side) - side // 2
    kernel = np.exp(-(steps**2) / (2 * deviation**2))
    values = images.cpu().numpy()
    for axis in range(2, values.ndim):
        values = correlate1d(values, kernel / kernel.sum(), axis=axis, mode="mirror")
    return torch.from_numpy(values).to(images.device)


def interpolated(image: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image (C, H, W) with its missing pixels (H, W) filled in, each by the weighted mean of its neighbours.

    Some of those are missing too, so that it is a sparse system of equations, one for each missing pixel. At the
    image's border the weights are those of the neighbours there are. It is exact to about 1e-4 of the image's range;
    the pixels that are not missing are as they were. Source: Rong 2022 (ROAD), arXiv:2202.00449, without its noise.

    Raises:
        ArgumentError: Every pixel is missing.
    """
    if missing.all():
        raise ArgumentError("missing is True everywhere: pixels are filled in from those that are not. Leave some.")
    if not missing.any():
        return image
    middle = image[:, ~missing].mean(1, dtype=np.float64)  # so that what is constant comes out exactly
    system, sums = _equations(image - middle[:, None, None], missing)
    row, column = np.nonzero(missing)
    _, blocks = np.unique((row // BLOCK) * missing.shape[1] + column // BLOCK, return_inverse=True)
    filled_in: NDArray[np.float32] = image.copy()
    filled_in[:, missing] = (_solved(system, sums, blocks) + middle).T
    return filled_in


def _equations(image: NDArray[np.float64], missing: NDArray[np.bool_]) -> tuple[Any, NDArray[np.float64]]:
    """For each missing pixel: its weights less those of its missing neighbours (n, n), the sum of the others (n, C)."""
    down, right = (axis + 1 for axis in np.nonzero(missing))  # within a border of one pixel
    count, own = len(down), np.arange(len(down))
    numbers = np.full((missing.shape[0] + 2, missing.shape[1] + 2), -1)
    numbers[down, right] = own
    there, known = np.pad(np.ones(missing.shape), 1), np.pad(image * ~missing, ((0, 0), (1, 1), (1, 1)))
    weights, sums = np.zeros(count), np.zeros((count, len(image)))
    entries = []
    for (by_rows, by_columns), weight in NEIGHBOURS.items():
        at = (down + by_rows, right + by_columns)
        weights += weight * there[at]
        sums += weight * known[:, at[0], at[1]].T
        pairs = numbers[at] >= 0
        entries.append((own[pairs], numbers[at][pairs], np.full(int(pairs.sum()), -weight)))
    rows, columns, weighted = (np.concatenate(parts) for parts in zip(*entries, (own, own, weights), strict=True))
    return csr_matrix((weighted, (rows, columns)), shape=(count, count)), sums


def _solved(system: Any, sums: NDArray[np.float64], blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The solution (n, C) of a symmetric positive definite system (n, n), by preconditioned conjugate gradients.

    What neighbours tell each other is preconditioned by the diagonal, what reaches far by the system of the blocks,
    which is small and solved as it is. Its steps do not grow in number with the holes, as those of the diagonal alone
    do, and it takes half the time of factors of the whole, at 224 pixels; of those the time grows faster.

    `blocks`, (n,), is the block that each unknown is in, counted from 0.
    """
    inverse = 1 / system.diagonal()[:, None]
    of_blocks = csr_matrix((np.ones(len(blocks)), (np.arange(len(blocks)), blocks)))
    factors = splu((of_blocks.T @ system @ of_blocks).tocsc())

    def preconditioned(residual: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(inverse * residual + of_blocks @ factors.solve(of_blocks.T @ residual))

    solution, residual = np.zeros_like(sums), sums
    way = near = preconditioned(residual)
    length = _products(residual, near)
    enough = EXACT * np.abs(sums).max()
    for _ in range(MOST_STEPS):
        if not np.abs(residual).max() > enough:  # of NaN neither
            break
        onward = system @ way
        slope = _products(way, onward)
        step = length / np.where(slope > 0, slope, 1)
        solution, residual = solution + step * way, residual - step * onward
        near = preconditioned(residual)
        before, length = length, _products(residual, near)
        way = near + length / np.where(before > 0, before, 1) * way
    return np.asarray(solution)


def _products(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,), column by column; a sum over the first of two axes is slower."""
    return np.asarray(np.einsum("nc,nc->c", a, b))
