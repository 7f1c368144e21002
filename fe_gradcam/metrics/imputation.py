"""Replacing pixels: in which order, by which values, and the probabilities of the model then."""

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
"""What pixels may be replaced by, apart from a number."""

NEIGHBOURS = {
    **dict.fromkeys([(-1, 0), (0, -1), (0, 1), (1, 0)], 1 / 6),  # across an edge
    **dict.fromkeys([(-1, -1), (-1, 1), (1, -1), (1, 1)], 1 / 12),  # across a corner
}
"""The weights that ROAD gives the neighbours of a pixel, by their offset down and right."""

BLOCK = 4
"""Side in pixels of the blocks in the coarse system of `_solved`."""

SOLVED_AT_ONCE = 1000
"""A system of at most so many unknowns is factorised, in a half to a sixth of the time of the steps."""

EXACT = 1e-5
"""The imputation ends at this largest residual, relative to the largest right-hand side."""

MOST_STEPS = 500
"""The most steps of the imputation, which takes about 20."""


def falling(heat: NDArray[np.float32], ties: NDArray[Any]) -> NDArray[np.int64]:
    """The rank of each pixel by its heat, (N, *S): 0 is the hottest.

    Pixels of equal heat are ranked by `ties`. Ranked by index, large areas of zero heat would be taken row by row.
    """
    flat = heat.reshape(len(heat), -1)
    order = np.lexsort((ties.reshape(flat.shape), -flat), axis=-1)
    places = np.empty(flat.shape, np.int64)
    np.put_along_axis(places, order, np.arange(flat.shape[1])[None], axis=1)
    return places.reshape(heat.shape)


def replaced(ask: Ask, images: Tensor, replacements: Tensor, places: Tensor, steps: int) -> Tensor:
    """The mean probability of a class while an image's pixels are replaced, the hottest first.

    p(f) is the probability of the class for the image in which a fraction f of the pixels, the hottest ones, is taken
    from the replacement, all channels of a pixel at once. The result is the integral of p over f from 0 to 1, by the
    trapezium rule on the steps + 1 fractions k / steps; numbers of pixels are rounded.

    Args:
        ask: Gives the probabilities; it is not called for a version that equals the one before.
        images: (N, C, *S).
        replacements: (N, C, *S).
        places: (N, *S), the rank of each pixel, as `falling` gives it.
        steps: Number of versions of each image, without the first.

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
    """The replacement for each pixel, (N, C, *S): a number, the image's mean by channel, or the blurred image."""
    if fill == "blur":
        return blurred(images)
    if fill == "mean":
        return images.mean(tuple(range(2, images.dim())), keepdim=True).expand_as(images)
    return torch.full_like(images, float(fill))


def blurred(images: Tensor) -> Tensor:
    """The images (N, C, *S) blurred with the Gaussian kernel of RISE, mirrored at their borders."""
    side, deviation = BLUR
    steps = np.arange(side) - side // 2
    kernel = np.exp(-(steps**2) / (2 * deviation**2))
    values = images.cpu().numpy()
    for axis in range(2, values.ndim):
        values = correlate1d(values, kernel / kernel.sum(), axis=axis, mode="mirror")
    return torch.from_numpy(values).to(images.device)


def interpolated(image: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image (C, H, W) with its missing pixels (H, W) filled in, each by the weighted mean of its neighbours.

    Some neighbours are missing too, so this solves a sparse system with one equation for each missing pixel. At the
    border of the image only existing neighbours have weights. The result is exact to about 1e-4 of the image's range;
    pixels that are not missing stay as they were. Source: Rong 2022 (ROAD), arXiv:2202.00449, without its noise.

    Raises:
        ArgumentError: Every pixel is missing.
    """
    if missing.all():
        raise ArgumentError("missing is True everywhere; pass at least one pixel that is not missing, to fill in from.")
    if not missing.any():
        return image
    middle = image[:, ~missing].mean(1, dtype=np.float64)  # so that a constant image comes out exactly
    system, sums = _equations(image - middle[:, None, None], missing)
    row, column = np.nonzero(missing)
    _, blocks = np.unique((row // BLOCK) * missing.shape[1] + column // BLOCK, return_inverse=True)
    filled_in: NDArray[np.float32] = image.copy()
    filled_in[:, missing] = (_solved(system, sums, blocks) + middle).T
    return filled_in


def _equations(image: NDArray[np.float64], missing: NDArray[np.bool_]) -> tuple[Any, NDArray[np.float64]]:
    """The system (n, n) of the n missing pixels, and its right-hand side (n, C): weighted sums of known neighbours."""
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

    The preconditioner has two parts: the diagonal for nearby pixels, and for distant ones the system of the blocks,
    which is small and solved directly. With the diagonal alone, larger holes would need more steps. At 224 pixels this
    takes half the time of a factorisation of the whole system, and the time of that grows faster with the size; a small
    system is factorised.

    `blocks`, (n,), is the index of the block that holds each unknown, from 0.
    """
    if len(sums) <= SOLVED_AT_ONCE:
        whole = splu(system.tocsc(), "MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True})
        return np.asarray(whole.solve(sums))
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
    """(C,): the inner products, column by column; a plain sum over the first axis is slower."""
    return np.asarray(np.einsum("nc,nc->c", a, b))
