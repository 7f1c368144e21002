"""Targets in the form that backends read: which part of the model's output is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import Argument, ArgumentError, in_short
from fe_gradcam.spec.arrays import array_of
from fe_gradcam.spec.targets import Contrast, OutputValue, Rank, Segmentation, _is_id, class_id_of
from fe_gradcam.types import ClassNames, Target

TOP_CLASS = -1
"""Stands for the class with the highest score until the backend knows it; -1 - r stands for the r-th class after it."""

Rows: TypeAlias = "slice | NDArray[np.int64]"
"""Which images, in any order; an image may stand several times."""

ACCEPTED = (
    "None (the inferred class), a class id, a class name (with class_names), an integer array of shape (N,) with one "
    "class id per image, one of Rank, Contrast, OutputValue and Segmentation, or a callable that gets the model's "
    "output and returns one score per image; several targets go to explain_many(targets=[...])"
)


class Resolved:
    """What every resolved target says about itself.

    Attributes:
        by_image: The target's data for each image: class ids (N, M) or a mask (N, *S), or None.
        of_classes: Whether the target is made of class scores.
        of_pixels: Whether the target reads a segmentation.
        row_by_row: Whether the score of an image depends on that image alone, whatever else is in the batch.
        called: The callable, if the target is one, or None.
    """

    by_image: NDArray[Any] | None = None
    of_classes: bool = False
    of_pixels: bool = False
    row_by_row: bool = True
    called: Callable[[Any], Any] | None = None

    @property
    def is_class(self) -> bool:
        """Whether the target is the score of one class for each image, not a sum."""
        return False

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """`by_image` as a tuple of one array, or an empty tuple."""
        return () if self.by_image is None else (self.by_image,)

    def rows(self: Same, rows: Rows) -> Same:
        """The same target for some of the images."""
        return self if self.by_image is None else self._with(self.by_image[rows])

    def pinned(self: Same, came_to: NDArray[Any] | None) -> Same:
        """The same target as a pass resolved it: with the classes inferred, or the pixels assigned to the class."""
        return self if came_to is None else self._with(came_to)

    def turned(self: Same, axes: tuple[int, ...]) -> Same:
        """The same target for images that are flipped along `axes`, which count from the last."""
        if self.by_image is None or not self.of_pixels:
            return self
        return self._with(np.ascontiguousarray(np.flip(self.by_image, axes)))

    def _with(self: Same, by_image: NDArray[Any]) -> Same:
        return replace(self, by_image=by_image)  # type: ignore[type-var]


Same = TypeVar("Same", bound=Resolved)


@dataclass(frozen=True, eq=False)
class ClassTarget(Resolved):
    """A sum of class scores, Σ_m weights[m] * y[by_image[:, m]].

    Attributes:
        by_image: (N, M) int64 class ids. In the first column -1 - r stands for the class with the r-th highest score,
            in the other columns for the r-th highest among the classes besides that of the first; r counts from 0.
        weights: M numbers.
    """

    by_image: NDArray[np.int64]
    weights: tuple[float, ...] = (1.0,)
    of_classes = True
    kind: ClassVar[Literal["classes"]] = "classes"

    @property
    def is_class(self) -> bool:
        """See Resolved."""
        return len(self.weights) == 1

    @cached_property
    def is_inferred(self) -> bool:
        """Whether the target is the score of the inferred class in each image."""
        return self.is_class and bool((self.by_image == TOP_CLASS).all())

    @property
    def ranked(self) -> bool:
        """Whether the classes must be sorted by score; the highest alone is found without sorting."""
        return not self.is_inferred and bool(
            (self.by_image[:, 1:] < 0).any() or (self.by_image[:, 0] < TOP_CLASS).any()
        )

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a compiled pass depends on besides the arrays."""
        return ("classes", self.weights, self.ranked)

    def _with(self, by_image: NDArray[Any]) -> ClassTarget:
        return ClassTarget(by_image, self.weights)

    def against_itself(self, top: NDArray[np.int64]) -> int:
        """In how many images a class is held against itself, if the classes `top` (N,) score highest."""
        first = np.where(self.by_image[:, 0] == TOP_CLASS, top, self.by_image[:, 0])
        return int((self.by_image[:, 1:] == first[:, None]).any(1).sum())

    def check(self, n_classes: int) -> None:
        """Raises ArgumentError if a class is not one of `n_classes`."""
        if not self.by_image.size:
            return
        largest = int(self.by_image.max())
        if largest >= n_classes:
            raise ArgumentError(Argument("target", str(largest)), _no_class_of(n_classes))
        first, others = self.by_image[:, 0], self.by_image[:, 1:]
        wanted = max(int(-first.min()), int(1 - others.min()) if others.size else 0)
        if wanted > n_classes:
            said = f" asks for {wanted} different classes, and this model has {n_classes}."
            raise ArgumentError(Argument("target"), said)


@dataclass(frozen=True, eq=False)
class ValueTarget(Resolved):
    """A column of the output as it is, times `sign`."""

    index: int
    sign: int
    kind: ClassVar[Literal["value"]] = "value"

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a compiled pass depends on besides the arrays."""
        return ("value", self.index, self.sign)

    def check(self, width: int) -> None:
        """Raises ArgumentError if the output has no such column."""
        if self.index >= width:
            raise ArgumentError(f"OutputValue: index={self.index} is out of range; the output has {width} column(s).")


@dataclass(frozen=True, eq=False)
class RegionTarget(Resolved):
    """The scores of a class, summed over a mask (N, *S) float32; without one, over the pixels assigned to the class.

    If the class is TOP_CLASS: the scores that each pixel has for the class that it is assigned to.
    """

    class_id: int
    by_image: NDArray[np.float32] | None
    of_classes = True
    of_pixels = True
    kind: ClassVar[Literal["region"]] = "region"

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a compiled pass depends on besides the arrays."""
        return ("region", self.class_id, self.by_image is not None)

    def check(self, shape: tuple[int, ...], n_classes: int) -> None:
        """Raises ArgumentError if the mask does not have the `shape` (*S) of the output, or there is no such class."""
        if self.class_id >= n_classes:
            raise ArgumentError(f"Segmentation: class_id={self.class_id}{_no_class_of(n_classes)}")
        sizes = shape if self.by_image is None else self.by_image.shape[1:]
        if len(sizes) != len(shape) or any(side not in (None, own) for own, side in zip(sizes, shape, strict=True)):
            raise ArgumentError(
                f"Segmentation: mask has shape {sizes} per image; {shape} is needed, the size of the model's "
                "segmentation. Resize the mask."
            )


@dataclass(frozen=True, eq=False)
class CallableTarget(Resolved):
    """A callable that gets the model's own output and returns (N,) scores, which may depend on the whole batch."""

    called: Callable[[Any], Any]
    row_by_row = False
    kind: ClassVar[Literal["callable"]] = "callable"

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a compiled pass depends on besides the arrays."""
        return ("callable", id(self.called))


def _no_class_of(n_classes: int) -> str:
    return f" is not a class of this model: it has {n_classes} classes, ids 0 to {n_classes - 1}."


ResolvedTarget: TypeAlias = "ClassTarget | ValueTarget | RegionTarget | CallableTarget"


def resolve_target(target: Target, count: int, names: ClassNames | None = None) -> ResolvedTarget:
    """The resolved form, for `count` images, of a target as `fe_gradcam.explain` takes it.

    Raises:
        ArgumentError: The target is of no accepted form, or its length is not the number of images.
        UnknownNameError: The target names a class that `names` does not hold.
    """
    if target is None:
        return _inferred(count)
    if isinstance(target, str):
        return ClassTarget(np.full((count, 1), class_id_of(target, names), np.int64))
    if isinstance(target, Rank):
        return ClassTarget(np.full((count, 1), -target.place, np.int64))
    if isinstance(target, Contrast):
        return _contrast(target, count, names)
    if isinstance(target, OutputValue):
        return ValueTarget(int(target.index), int(target.sign))
    if isinstance(target, Segmentation):
        return RegionTarget(class_id_of(target.class_id, names), _mask(target.mask, count))
    if callable(target):
        return CallableTarget(target)
    ids = np.full(count, int(target), np.int64) if _is_id(target) else _as_ids(target, count)
    if count and ids.min() < 0:
        raise ArgumentError(Argument("target", in_short(target)), " holds a negative class id; class ids count from 0.")
    return ClassTarget(ids[:, None])


@lru_cache(maxsize=32)
def _inferred(count: int) -> ClassTarget:
    return ClassTarget(np.full((count, 1), TOP_CLASS, np.int64))


def _contrast(target: Contrast, count: int, names: ClassNames | None) -> ClassTarget:
    first = TOP_CLASS if target.of is None else class_id_of(target.of, names)
    others = [class_id_of(one, names) for one in target._others()]
    if first >= 0 and first in others:
        raise ArgumentError(Argument("target"), " holds a class against itself; pass another class as against.")
    others = others or [TOP_CLASS - rank for rank in range(target.rivals)]
    row = np.array([first, *others], np.int64)
    weight = -float(target.strength) / len(others)
    return ClassTarget(np.tile(row, (count, 1)), (1.0, *[weight] * len(others)))


MASKS = "bools or finite weights of shape (h, w) or (N, h, w), at the size of the segmentation."
"""What the mask of a segmentation may be."""


def _mask(given: Any, count: int) -> NDArray[np.float32] | None:
    if given is None:
        return None
    mask = array_of("mask", given, MASKS)
    if mask.ndim < 2 or not np.isfinite(mask).all():
        raise ArgumentError(f"mask has shape {mask.shape} and dtype {mask.dtype}. Accepted: {MASKS}")
    if mask.shape[0] != count or mask.ndim == 2:
        mask = np.broadcast_to(mask, (count, *mask.shape))
    return mask.astype(np.float32)


def _as_ids(target: Any, count: int) -> NDArray[np.int64]:
    try:
        ids = array_of("target", target, f"{ACCEPTED}.")
    except ArgumentError:  # said below
        ids = np.empty(0, object)
    if ids.ndim == 0 and ids.dtype.kind in "iu":
        ids = np.full(count, ids)
    if ids.dtype.kind not in "iu" or ids.shape != (count,):
        said = f" is not accepted for {count} image(s). Accepted: {ACCEPTED}."
        raise ArgumentError(Argument("target", in_short(target)), said)
    return ids.astype(np.int64)
