"""How similar two maps are, and a model with its weights shuffled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from fe_gradcam.backends import backend_for
from fe_gradcam.backends.interrupts import interruptible
from fe_gradcam.errors import ArgumentError, in_short
from fe_gradcam.parameters import whole

Values = NDArray[np.float64]
"""One number per image, (N,); NaN if an image has none."""


def rank_correlation(a: ArrayLike, b: ArrayLike) -> Values:
    """Spearman's rank correlation of two finite maps (N, ...), image by image, (N,) within [-1, 1].

    Equal values share the mean of their ranks. A constant map has no order: the result is 1 if both maps are constant,
    0 if one is.

    Raises:
        ArgumentError: The shapes differ, or there is no axis besides N.
    """
    first, second = _rows(a, b)
    ranks = [rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2 for rows in (first, second)]
    lengths = [np.sqrt((rank**2).sum(1)) for rank in ranks]
    constant = [(rows == rows[:, :1]).all(1) for rows in (first, second)]
    neither = ~constant[0] & ~constant[1]
    cosine = (ranks[0] * ranks[1]).sum(1) / np.where(neither, lengths[0] * lengths[1], 1)
    return np.asarray(np.where(neither, cosine.clip(-1, 1), constant[0] & constant[1]), np.float64)


def overlap_of_hottest(a: ArrayLike, b: ArrayLike, share: float = 0.2) -> Values:
    """The overlap of the hottest pixels of two finite maps (N, ...): intersection over union, (N,), from 0 to 1.

    The hottest pixels are k = share * pixels, rounded, at least one. Pixels at the threshold are equally hot: each of
    them is taken in part, so that the parts of all pixels sum to k. Intersection and union are the sums of the smaller
    and of the larger part of each pixel. So the order of the pixels does not matter, and two constant maps overlap
    fully. Against a constant map, in which the part of each pixel is `share`, the overlap is about share / (2 - share):
    0.11 for a fifth, as by chance.

    Raises:
        ArgumentError: The shapes differ, or `share` is out of range.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 < share <= 1:
        raise ArgumentError(f"share={in_short(share)} is not accepted. Accepted: a number above 0 and at most 1.")
    taken = [_taken(rows, max(1, round(share * rows.shape[1]))) for rows in _rows(a, b)]
    return np.asarray(np.minimum(*taken).sum(1) / np.maximum(*taken).sum(1))


def _taken(rows: Values, count: int) -> Values:
    """(N, P): the part of each pixel that is among the `count` hottest."""
    threshold = np.partition(rows, -count, axis=1)[:, -count, None]
    above, at = rows > threshold, rows == threshold
    return np.asarray(above + at * (count - above.sum(1, keepdims=True)) / at.sum(1, keepdims=True))


def _rows(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim < 2 or not first[:1].size:
        raise ArgumentError(
            f"a has shape {first.shape} and b {second.shape}. Accepted: two batches of maps with one shape (N, h, w)."
        )
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


@interruptible
def randomised(model: Any, seed: int = 0) -> Iterator[None]:
    """While active, the model has forgotten what it learnt: the values in each of its weight tensors are shuffled.

    All weight tensors with two axes or more are shuffled in place, in all layers at once, so the weights of a layer
    keep their distribution. Tensors with one axis stay: biases, and parameters and statistics of normalisations. At
    the end, also after an error, the weights are put back bit for bit. Gradients and global random streams are not
    touched.

    Raises:
        UnsupportedModelError: `model` is neither a torch.nn.Module nor a tf.keras.Model.
        ArgumentError: `seed` is not an integer from 0.
    """
    seed = whole("seed", seed, 0)
    backend_for(model)  # raises an error that says what is accepted
    of_torch = isinstance(model, torch.nn.Module)
    weights = [one for one in (model.parameters() if of_torch else model.weights) if len(one.shape) > 1]
    weights = [one for one in weights if "float" in str(one.dtype)]
    kept = [one.detach().clone() if of_torch else one.numpy() for one in weights]
    try:
        for at, (weight, values) in enumerate(zip(weights, kept, strict=True)):
            order = np.random.default_rng((seed, at)).permutation(math.prod(values.shape))
            _write(weight, values.reshape(-1)[order].reshape(values.shape))
        yield
    finally:
        for weight, values in zip(weights, kept, strict=True):
            _write(weight, values)


def _write(weight: Any, values: Any) -> None:
    """Writes a weight; PyTorch's through .data, which keeps the tensor's version, so existing graphs stay valid."""
    if not isinstance(weight, torch.Tensor):
        weight.assign(values)
        return
    with torch.inference_mode():
        weight.data.copy_(values)
