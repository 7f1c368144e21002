"""Targets as users write them: which score of the model is explained.

y_a is the class score of class a; by default this is its logit (see `fe_gradcam.explain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeGuard

import numpy as np

from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, in_short, nearest
from fe_gradcam.parameters import LARGEST_WHOLE, level, one_of, whole
from fe_gradcam.spec.arrays import listed
from fe_gradcam.types import ClassNames, Target, TargetSpec

MOST_RANKS = 1_000_000
"""The most targets that are made at once."""


@dataclass(frozen=True)
class Rank(TargetSpec):
    """The class with the `place`-th highest score in each image; an integer from 1, or else an ArgumentError."""

    place: int

    def __post_init__(self) -> None:
        whole("place", self.place, 1)

    @property
    def name(self) -> str:
        """For example "top 2"."""
        return f"top {self.place}"


def top_k(count: int) -> list[Rank]:
    """Targets for the `count` classes with the highest scores, the highest first: ``explain_many(targets=top_k(3))``.

    Example:
        >>> [target.name for target in top_k(3)]
        ['top 1', 'top 2', 'top 3']
    """
    return [Rank(rank) for rank in range(1, whole("count", count, 1, most=MOST_RANKS) + 1)]


@dataclass(frozen=True)
class Contrast(TargetSpec):
    """Why class a and not class b: y_a - strength * mean of y_b over the classes b.

    With `strength` 1 and one class b, the score is the log odds of a against b (twice the log odds if the model has a
    single logit z: its class scores are z and -z). With several similar classes b and a strength below 1 it is the
    score of Finer-CAM (Zhang 2025, arXiv:2501.11309), which explains y_c - γ y_d, averaged over the classes d, by any
    CAM method. The paper chooses the classes d by their similarity to c; here, if none are named, they are the classes
    with the highest scores in the image besides c.

    Attributes:
        of: The class a: an id, a name, or None for the inferred class.
        against: The class b: an id, a name, a sequence of these, or None for the `rivals` classes with the highest
            scores besides a.
        strength: γ, a number from 0; with 0 the score is y_a alone.
        rivals: How many classes b there are if `against` is None, from 1. Other values raise an ArgumentError.
    """

    of: int | str | None = None
    against: int | str | Sequence[int | str] | None = None
    strength: float = 1.0
    rivals: int = 1

    def __post_init__(self) -> None:
        whole("rivals", self.rivals, 1)
        level("strength", self.strength)
        others = self.against
        if isinstance(others, (Sequence, np.ndarray)) and not isinstance(others, str):
            object.__setattr__(
                self, "against", tuple(listed("against", others, "a class, a list of classes, or None."))
            )
        for one in (*(() if self.of is None else (self.of,)), *self._others()):
            if not isinstance(one, str) and not _is_id(one):
                raise ArgumentError(f"Contrast: {in_short(one)} is no class. Accepted: an id from 0, a name or None.")
        if self.against is not None and not self._others():
            raise ArgumentError("against is empty. Accepted: a class, a list of classes, or None for the top rivals.")

    def _others(self) -> tuple[int | str, ...]:
        if self.against is None:
            return ()
        return self.against if isinstance(self.against, tuple) else (self.against,)

    @property
    def name(self) -> str:
        """For example "3 against 5"."""
        others = " and ".join(map(str, self._others())) or "its rival" + ("s" if self.rivals > 1 else "")
        return f"{'top class' if self.of is None else self.of} against {others}"


@dataclass(frozen=True)
class OutputValue(TargetSpec):
    """One column of the model's output as it is, for models without classes: regression.

    Attributes:
        index: The column of the output (N, C), from 0; 0 if there is only one.
        sign: 1 to explain what raises the value; -1 to explain what lowers it.
    """

    index: int = 0
    sign: int = 1

    def __post_init__(self) -> None:
        whole("index", self.index, 0)
        one_of("sign", self.sign, (1, -1))

    @property
    def name(self) -> str:
        """For example "output 0"."""
        return f"output {self.index}" if self.sign > 0 else f"output {self.index}, falling"


@dataclass(frozen=True, eq=False)
class Segmentation(TargetSpec):
    """A class within a region of a segmentation: the sum of the class's scores over the pixels of a mask.

    Source: Vinogradova 2020 (Seg-Grad-CAM), arXiv:2002.11434.

    Attributes:
        class_id: The class, an id or a name.
        mask: Bools or weights, (h, w) or (N, h, w), for volumes with a depth before h: at the size of the model's
            output, which may be smaller than the image. None: the pixels that the model assigns to the class; an
            image without such pixels has no evidence.
    """

    class_id: int | str
    mask: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.class_id, str) and not _is_id(self.class_id):
            raise ArgumentError(
                f"class_id={in_short(self.class_id)} is not accepted. Accepted: a class id from 0, or a name."
            )

    @property
    def name(self) -> str:
        """For example "3 in its pixels"."""
        return f"{self.class_id} in {'its pixels' if self.mask is None else 'the mask'}"


def class_id_of(given: int | str, names: ClassNames | None) -> int:
    """The id of a class that is given by its id or its name; a name of several classes is an error."""
    if not isinstance(given, str):
        return int(given)
    known = names_by_id(names)
    ids = [class_id for class_id, name in known.items() if name == given]
    if len(ids) > 1:
        said = f" is the name of {len(ids)} classes: pass the id, one of {', '.join(map(str, ids))}."
        raise ArgumentError(Argument("target", in_short(given)), said)
    if not ids:
        others = list(dict.fromkeys(known.values()))
        named = Argument("target", in_short(given)), f" is no class{nearest(given, others)} "
        if others:
            raise UnknownNameError(*named, f"Classes: {', '.join(others)}.")
        raise UnknownNameError(*named, "No names are known. Pass ", Argument("class_names"), ", or the id.")
    return ids[0]


NAMES = "a sequence of names in the order of the class ids, or a dict {id: name}."
"""What names of classes may be."""


def names_by_id(names: ClassNames | None) -> dict[int, str]:
    """Names of classes by id."""
    if names is None:
        return {}
    given: Any = names
    known = isinstance(given, (Mapping, Sequence, np.ndarray)) and not isinstance(given, (str, bytes))
    try:
        named = given.items() if isinstance(given, Mapping) else enumerate(listed("class_names", given, NAMES))
        pairs = [(at, str(name) if isinstance(name, np.str_) else name) for at, name in named]
    except Exception:  # of the user's object
        known, pairs = False, []
    if not known or not all(_is_id(class_id) and isinstance(name, str) for class_id, name in pairs):
        raise ArgumentError(
            Argument("class_names", in_short(names)),
            f" is not accepted. Accepted: {NAMES}",
        )
    return {int(class_id): name for class_id, name in pairs}


def target_name(target: Target, names: ClassNames | None = None) -> str:
    """The name of a target: a class has its name or id, a callable its own name."""
    if target is None:
        return "pred"
    if isinstance(target, (str, TargetSpec)):
        return target if isinstance(target, str) else target.name
    if _is_id(target):
        return names_by_id(names).get(int(target), str(int(target)))
    if callable(target):
        return getattr(target, "__name__", type(target).__name__)
    return "given classes"


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= LARGEST_WHOLE
