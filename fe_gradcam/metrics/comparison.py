"""The similarity of two maps, and a model with randomised weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import ArgumentError
from fe_gradcam.parameters import whole

Values = NDArray[np.float64]
"""One number per image, (N,); NaN for an image without a value."""


def rank_correlation(a: ArrayLike, b: ArrayLike) -> Values:
    """Spearman's rank correlation of two finite maps (N, ...), image by image, (N,) within [-1, 1].

    Equal values share the mean of their ranks. A constant map has no order: the result is 1 if both maps are
    constant, and 0 if only one is.

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
    """The overlap of the hottest pixels of two finite maps (N, ...): intersection over union, (N,), 0 to 1.

    The hottest pixels are k = share * pixels, rounded, at least one. If several pixels at the threshold are equally
    hot, each of them counts in part, so that k are taken in all; intersection and union are then the sums of the
    smaller and of the larger part of each pixel. So the order of the pixels never matters, and two constant maps
    overlap fully. Against a constant map, of which each pixel is taken by `share`, the overlap is about
    share / (2 - share): 0.11 for a fifth, as by chance.

    Raises:
        ArgumentError: The shapes differ, or `share` is out of range.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 < share <= 1:
        raise ArgumentError(f"share={share!r} is not accepted. Accepted: a number above 0 and at most 1.")
    taken = [_taken(rows, max(1, round(share * rows.shape[1]))) for rows in _rows(a, b)]
    return np.asarray(np.minimum(*taken).sum(1) / np.maximum(*taken).sum(1))


def _taken(rows: Values, count: int) -> Values:
    """(N, P), the part of each pixel that counts among the `count` hottest."""
    threshold = np.partition(rows, -count, axis=1)[:, -count, None]
    above, at = rows > threshold, rows == threshold
    return np.asarray(above + at * (count - above.sum(1, keepdims=True)) / at.sum(1, keepdims=True))


def _rows(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim < 2 or not first[:1].size:
        raise ArgumentError(
            f"a has shape {first.shape} and b {second.shape}; two batches of maps of one shape (N, h, w) are needed."
        )
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


@contextmanager
def randomised(model: Any, seed: int = 0) -> Iterator[None]:
    """Takes away what a model has learnt, in place: the values of each weight tensor are put in a random order.

    This changes every weight tensor with two axes or more, all layers at once. Biases, and the parameters and
    statistics of normalisations, have one axis and stay. So the weights of each layer keep their distribution. On exit
    the weights are restored bit for bit, also after an error; gradients and the global random streams are not touched.

    Raises:
        UnsupportedModelError: `model` is neither a torch.nn.Module nor a tf.keras.Model.
        ArgumentError: `seed` is not an integer from 0.
    """
    seed = whole("seed", seed, 0)
    backend_for(model)  # raises an error that says what is accepted
    of_torch = isinstance(model, torch.nn.Module)
    weights = [one for one in (model.parameters() if of_torch else model.weights) if len(one.shape) > 1]
    weights = [one for one in weights if (one.is_floating_point() if of_torch else one.dtype.is_floating)]
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
    """Writes a weight; in PyTorch into .data, which keeps version counters, so that a graph in use stays valid."""
    if not isinstance(weight, torch.Tensor):
        weight.assign(values)
        return
    with torch.inference_mode():
        weight.data.copy_(values)
