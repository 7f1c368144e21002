"""What scalar is explained: targets as users write them, made plain for a backend to resolve.

Class scores are written y, of classes a and b; by default the logits (see `fe_gradcam.explain`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import nearest
from fe_gradcam.types import ArgumentError, ClassNames, Target, TargetSpec, UnknownNameError

TOP_CLASS = -1
"""Stands for the class with the highest score, until the backend knows it; -1 - r for the r-th behind it."""

Rows: TypeAlias = "slice | NDArray[np.int64]"
"""Some of the images, in any order, also several times."""

ACCEPTED = (
    "None (the inferred class), a class id, a class name (with class_names), an integer array of shape (N,) with one "
    "class id per image, one of Rank, Contrast, OutputValue and Segmentation, or a callable that gets the model's "
    "output and returns one score per image; several targets go to explain_many(targets=[...])"
)


# --- what users write --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rank(TargetSpec):
    """The class with the `place`-th highest score of each image, counted from 1."""

    place: int

    def __post_init__(self) -> None:
        _check_whole("place", self.place)

    @property
    def name(self) -> str:
        """As "top 2"."""
        return f"top {self.place}"


def top_k(count: int) -> list[Rank]:
    """The `count` classes of the highest scores, as targets, the highest first.

    Example:
        >>> [target.name for target in top_k(3)]
        ['top 1', 'top 2', 'top 3']
    """
    _check_whole("count", count)
    return [Rank(place) for place in range(1, count + 1)]


@dataclass(frozen=True)
class Contrast(TargetSpec):
    """Why one class and not another: y_a - strength * mean of y_b over the classes it is held against.

    With `strength` 1 and one class against, the score is the logarithm of the odds of the two (twice
    that where a model has a single logit z, which makes the scores z and -z). Against
    several similar classes and with a strength below 1 it is the form of Finer-CAM (Zhang 2025,
    arXiv:2501.11309), which explains y_c - γ y_d, averaged over the classes d, by any CAM method. The
    paper takes as d the classes similar to c; here, where they are not named, they are those that score
    highest beside it in the image.

    Attributes:
        of: The class a: an id, a name, or None for the inferred class.
        against: The class b: an id, a name, a sequence of these, or None for the `rivals` classes that
            score highest besides a.
        strength: γ, from 0 on; 0 leaves y_a alone.
        rivals: How many classes it is held against where `against` is None.
    """

    of: int | str | None = None
    against: int | str | Sequence[int | str] | None = None
    strength: float = 1.0
    rivals: int = 1

    def __post_init__(self) -> None:
        _check_whole("rivals", self.rivals)
        number = isinstance(self.strength, Real) and not isinstance(self.strength, bool)
        if not number or not 0 <= self.strength < float("inf"):
            raise ArgumentError(f"strength={self.strength!r} is not accepted. Accepted: a number from 0.")
        others = self.against
        if isinstance(others, (Sequence, np.ndarray)) and not isinstance(others, str):
            object.__setattr__(self, "against", tuple(others))
        for one in (*(() if self.of is None else (self.of,)), *self._others()):
            if not isinstance(one, str) and not _is_id(one):
                raise ArgumentError(f"Contrast: {one!r} is no class. Accepted: an id from 0, a name or None.")
        if self.against is not None and not self._others():
            raise ArgumentError("against is empty. Accepted: a class, several, or None for the highest rivals.")

    def _others(self) -> tuple[int | str, ...]:
        if self.against is None:
            return ()
        return self.against if isinstance(self.against, tuple) else (self.against,)

    @property
    def name(self) -> str:
        """As "3 against 5"."""
        others = " and ".join(map(str, self._others())) or "its rival" + ("s" if self.rivals > 1 else "")
        return f"{'top class' if self.of is None else self.of} against {others}"


@dataclass(frozen=True)
class OutputValue(TargetSpec):
    """One column of the model's output as it is, for models that put out no classes: regression.

    Attributes:
        index: Which column of the output (N, C); 0 where there is one.
        sign: 1: what raises the value; -1: what lowers it.
    """

    index: int = 0
    sign: int = 1

    def __post_init__(self) -> None:
        if not _is_id(self.index):
            raise ArgumentError(f"index={self.index!r} is not accepted. Accepted: an integer from 0.")
        if self.sign not in (1, -1):
            raise ArgumentError(f"sign={self.sign!r} is not accepted. Accepted: 1 or -1.")

    @property
    def name(self) -> str:
        """As "output 0"."""
        return f"output {self.index}" if self.sign > 0 else f"output {self.index}, falling"


@dataclass(frozen=True, eq=False)
class Segmentation(TargetSpec):
    """A class within a region of a segmentation: the sum of its scores over the pixels of a mask.

    Source: Vinogradova 2020 (Seg-Grad-CAM), arXiv:2002.11434.

    Attributes:
        class_id: The class, an id or a name.
        mask: (h, w) or (N, h, w) at the size of the model's output, which may be smaller than the image,
            of volumes with a depth before h: what counts, as bools or weights. None: the pixels that the
            model gives to the class; an image without any has no evidence.
    """

    class_id: int | str
    mask: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.class_id, str) and not _is_id(self.class_id):
            raise ArgumentError(f"class_id={self.class_id!r} is not accepted. Accepted: a class id from 0, or a name.")

    @property
    def name(self) -> str:
        """As "3 in its pixels"."""
        return f"{self.class_id} in {'its pixels' if self.mask is None else 'the mask'}"


# --- what backends resolve ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ClassTarget:
    """A sum of class scores, Σ_m weights[m] * y[class_ids[:, m]].

    Attributes:
        class_ids: (N, M) int64. In the first column -1 - r stands for the class of the r-th highest
            score, in the others for the r-th highest besides the first column's class; r counts from 0.
        weights: M numbers.
    """

    class_ids: NDArray[np.int64]
    weights: tuple[float, ...] = (1.0,)

    @property
    def is_class(self) -> bool:
        """Whether it is the score of one class, and no sum."""
        return len(self.weights) == 1

    @property
    def ranked(self) -> bool:
        """Whether the classes must be brought into order: the highest alone is found without."""
        return bool((self.class_ids[:, 1:] < 0).any() or (self.class_ids[:, 0] < TOP_CLASS).any())

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a compiled pass depends on besides the arrays."""
        return ("classes", self.weights, self.ranked)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What it needs of each image."""
        return (self.class_ids,)

    def rows(self, rows: Rows) -> ClassTarget:
        """The same for some of the images."""
        return ClassTarget(self.class_ids[rows], self.weights)

    def check(self, n_classes: int) -> None:
        """Raises ArgumentError where a class is not one of `n_classes`."""
        if not self.class_ids.size:
            return
        largest = int(self.class_ids.max())
        if largest >= n_classes:
            raise ArgumentError(
                f"target={largest} is not a class of this model: it has {n_classes} classes, ids 0 to {n_classes - 1}."
            )
        first, others = self.class_ids[:, 0], self.class_ids[:, 1:]
        wanted = max(int(-first.min()), int(1 - others.min()) if others.size else 0)
        if wanted > n_classes:
            raise ArgumentError(f"target asks for {wanted} different classes, and this model has {n_classes}.")


@dataclass(frozen=True, eq=False)
class ValueTarget:
    """A column of the output as it is, times `sign`."""

    index: int
    sign: int

    @property
    def signature(self) -> tuple[Any, ...]:
        """See ClassTarget."""
        return ("value", self.index, self.sign)

    arrays: tuple[NDArray[Any], ...] = ()

    def rows(self, rows: Rows) -> ValueTarget:
        """See ClassTarget."""
        return self

    def check(self, width: int) -> None:
        """Raises ArgumentError where the output has no such column."""
        if self.index >= width:
            raise ArgumentError(f"OutputValue: index={self.index} is out of range; the output has {width} column(s).")


@dataclass(frozen=True, eq=False)
class RegionTarget:
    """The scores of a class, summed over the pixels of a mask (N, *S) float32, or over its own where that is None."""

    class_id: int
    mask: NDArray[np.float32] | None

    @property
    def signature(self) -> tuple[Any, ...]:
        """See ClassTarget."""
        return ("region", self.class_id, self.mask is not None)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """See ClassTarget."""
        return () if self.mask is None else (self.mask,)

    def rows(self, rows: Rows) -> RegionTarget:
        """See ClassTarget."""
        return self if self.mask is None else RegionTarget(self.class_id, self.mask[rows])

    def check(self, shape: tuple[int, ...], n_classes: int) -> None:
        """Raises ArgumentError where the mask has not the `shape` (*S) of the output, or the class is none of it."""
        if self.class_id >= n_classes:
            raise ArgumentError(
                f"Segmentation: class_id={self.class_id} is not a class of this model: it has {n_classes} classes, "
                f"ids 0 to {n_classes - 1}."
            )
        sizes = () if self.mask is None else self.mask.shape[1:]
        fits = len(sizes) == len(shape) and all(side in (None, own) for own, side in zip(sizes, shape, strict=True))
        if self.mask is not None and not fits:
            raise ArgumentError(
                f"Segmentation: mask has shape {self.mask.shape[1:]} per image; {shape}, the size of the model's "
                "segmentation, is needed."
            )


@dataclass(frozen=True, eq=False)
class CallableTarget:
    """A callable on the model's own output that returns (N,) scores."""

    score: Callable[[Any], Any]

    @property
    def signature(self) -> tuple[Any, ...]:
        """See ClassTarget."""
        return ("callable", id(self.score))

    arrays: tuple[NDArray[Any], ...] = ()

    def rows(self, rows: Rows) -> CallableTarget:
        """See ClassTarget."""
        return self


ResolvedTarget: TypeAlias = "ClassTarget | ValueTarget | RegionTarget | CallableTarget"


def resolve_target(target: Target, count: int, names: ClassNames | None = None) -> ResolvedTarget:
    """Makes a target plain for `count` images.

    Args:
        target: As `fe_gradcam.explain` takes it.
        count: N.
        names: Names of classes.

    Raises:
        ArgumentError: It is of no accepted form, or its length is not the number of images.
        UnknownNameError: It names a class that `names` does not hold.
    """
    if target is None:
        return ClassTarget(np.full((count, 1), TOP_CLASS, np.int64))
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
        raise ArgumentError(f"target={target!r} holds a negative class id; class ids count from 0.")
    return ClassTarget(ids[:, None])


def class_id_of(given: int | str, names: ClassNames | None) -> int:
    """The id of a class given by its id or name.

    Raises:
        UnknownNameError: There is no class of that name.
        ArgumentError: There are several.
    """
    if not isinstance(given, str):
        return int(given)
    ids: dict[str, list[int]] = {}
    for class_id, name in names_by_id(names).items():
        ids.setdefault(name, []).append(class_id)
    if len(ids.get(given, ())) > 1:
        raise ArgumentError(
            f"target={given!r} is the name of {len(ids[given])} classes: pass the id, one of "
            f"{', '.join(map(str, ids[given]))}."
        )
    if given not in ids:
        known = f"Classes: {', '.join(ids)}." if ids else "No names are known: pass class_names, or the id."
        raise UnknownNameError(f"target={given!r} is no class{nearest(given, ids)} {known}")
    return ids[given][0]


def names_by_id(names: ClassNames | None) -> dict[int, str]:
    """Names of classes by id.

    Raises:
        ArgumentError: They are no sequence of names, and no mapping from ids to names.
    """
    if names is None:
        return {}
    given: Any = names
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    if isinstance(given, (Sequence, np.ndarray)):
        pairs = [(at, str(name) if isinstance(name, np.str_) else name) for at, name in enumerate(given)]
    known = isinstance(given, (Mapping, Sequence, np.ndarray)) and not isinstance(given, (str, bytes))
    if not known or not all(_is_id(class_id) and isinstance(name, str) for class_id, name in pairs):
        raise ArgumentError(
            f"class_names={names!r} is not accepted. Accepted: a sequence of names in the order of the class ids, or a "
            "dict {class id: name}."
        )
    return {int(class_id): name for class_id, name in pairs}


def target_name(target: Target, names: ClassNames | None = None) -> str:
    """What a target is called: a class by its name or id, a callable by its own name."""
    if target is None:
        return "pred"
    if isinstance(target, (str, TargetSpec)):
        return target if isinstance(target, str) else target.name
    if _is_id(target):
        return names_by_id(names).get(int(target), str(int(target)))
    if callable(target):
        return getattr(target, "__name__", type(target).__name__)
    return "given classes"


def _contrast(target: Contrast, count: int, names: ClassNames | None) -> ClassTarget:
    first = TOP_CLASS if target.of is None else class_id_of(target.of, names)
    others = [class_id_of(one, names) for one in target._others()]
    if first >= 0 and first in others:
        raise ArgumentError("target holds a class against itself; name another class in against.")
    others = others or [TOP_CLASS - place for place in range(target.rivals)]
    row = np.array([first, *others], np.int64)
    weight = -float(target.strength) / len(others)
    return ClassTarget(np.tile(row, (count, 1)), (1.0, *[weight] * len(others)))


def _mask(given: Any, count: int) -> NDArray[np.float32] | None:
    if given is None:
        return None
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    try:
        mask = np.asarray(given)
    except ValueError:  # a ragged list
        mask = np.empty(0, object)
    if mask.dtype.kind not in "biuf" or mask.ndim < 2 or not np.isfinite(mask).all():
        raise ArgumentError(
            f"mask has shape {mask.shape} and dtype {mask.dtype}. Accepted: bools or finite weights of shape (h, w) or "
            "(N, h, w), at the size of the segmentation."
        )
    if mask.shape[0] != count or mask.ndim == 2:
        mask = np.broadcast_to(mask, (count, *mask.shape))
    return mask.astype(np.float32)


def _as_ids(target: Any, count: int) -> NDArray[np.int64]:
    try:
        ids = np.asarray(target)
    except Exception:  # a tensor on a GPU, a ragged list: named below
        ids = np.empty(0, object)
    if ids.ndim == 0 and ids.dtype.kind in "iu":
        ids = np.full(count, ids)
    if ids.dtype.kind not in "iu" or ids.shape != (count,):
        raise ArgumentError(f"target={target!r} is not accepted for {count} image(s). Accepted: {ACCEPTED}.")
    return ids.astype(np.int64)


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _check_whole(name: str, value: object) -> None:
    if not _is_id(value) or value < 1:
        raise ArgumentError(f"{name}={value!r} is not accepted. Accepted: an integer from 1.")
