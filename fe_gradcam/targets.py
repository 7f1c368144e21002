"""What scalar is explained: targets as users write them, made plain for a backend to resolve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.types import ArgumentError, Target

TOP_CLASS = -1
"""Stands for the class that an image is inferred as, until the backend knows it."""


@dataclass(frozen=True, eq=False)
class ResolvedTarget:
    """A target for N images.

    Attributes:
        class_ids: (N,) int64, TOP_CLASS where the inferred class is meant; None with a `score`.
        score: A callable on the model's own output that returns (N,) scores, or None.
    """

    class_ids: NDArray[np.int64] | None
    score: Callable[[Any], Any] | None


def resolve_target(target: Target, count: int) -> ResolvedTarget:
    """Makes a target plain for `count` images.

    Raises:
        ArgumentError: It is of no accepted form, or its length is not the number of images.
    """
    if target is None:
        return ResolvedTarget(np.full(count, TOP_CLASS, np.int64), None)
    if callable(target):
        return ResolvedTarget(None, target)
    if isinstance(target, Integral) and not isinstance(target, bool):
        ids = np.full(count, int(target), np.int64)
    else:
        ids = _as_ids(target, count)
    if count and ids.min() < 0:
        raise ArgumentError(f"target={target!r} holds a negative class id; class ids count from 0.")
    return ResolvedTarget(ids, None)


def _as_ids(target: Any, count: int) -> NDArray[np.int64]:
    try:
        ids = np.asarray(target)
    except Exception:  # a tensor on a GPU, a ragged list: named below
        ids = np.empty(0, object)
    if ids.ndim == 0 and ids.dtype.kind in "iu":
        ids = np.full(count, ids)
    if ids.dtype.kind not in "iu" or ids.shape != (count,):
        raise ArgumentError(
            f"target={target!r} is not accepted for {count} image(s). Accepted: None (the inferred class), a class "
            f"id, an integer array of shape ({count},) with one class id per image, or a callable that gets the "
            "model's output and returns one score per image."
        )
    return ids.astype(np.int64)


def check_class_ids(class_ids: NDArray[np.int64], n_classes: int) -> None:
    """Raises ArgumentError where an id is not below the number of classes."""
    if class_ids.size and class_ids.max() >= n_classes:
        raise ArgumentError(
            f"target={int(class_ids.max())} is not a class of this model: it has {n_classes} classes, "
            f"ids 0 to {n_classes - 1}."
        )
