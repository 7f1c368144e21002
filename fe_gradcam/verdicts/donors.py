"""Which images give an object its new surroundings, and what the network says of the objects there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from math import comb

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.verdicts.atlas import TRIED
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.swap import Grounds, fills_frame

DONORS = 4
"""From how many images of its own class, and from how many of others, an object gets surroundings."""


@dataclass(frozen=True, eq=False)
class Swaps:
    """What a network said of objects in other surroundings, one entry for each changed picture.

    Attributes:
        rows: (V,) the image whose object it is.
        donors: (V,) the image whose surroundings they are.
        own: (V,) whether these are of the class in question.
        kept: (V,) whether the picture is told to be of the class in question.
        followed: (V,) whether it is told to be of the class of the donor.
        probabilities: (V,) of the class in question.
    """

    rows: NDArray[np.int64]
    donors: NDArray[np.int64]
    own: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    followed: NDArray[np.bool_]
    probabilities: NDArray[np.float32]

    def __getitem__(self, which: NDArray[np.bool_]) -> Swaps:
        return Swaps(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def __add__(self, other: Swaps) -> Swaps:
        both = ((getattr(one, name) for one in (self, other)) for name in self.__dataclass_fields__)
        return Swaps(*(np.concatenate(list(parts)) for parts in both))

    @property
    def images(self) -> NDArray[np.int64]:
        """(n,) the images, each once, in order."""
        return np.unique(self.rows)

    def share_of(self, row: int, *, own: bool, of: str = "kept") -> float:
        """The share of an image's pictures that were kept or followed, in surroundings of its own class or others."""
        its = (self.rows == row) & (self.own == own)
        return float(getattr(self, of)[its].mean()) if its.any() else float("nan")

    def share(self, *, own: bool, of: str = "kept") -> float:
        """The mean of `share_of` over the images that have such pictures; NaN if none has."""
        shares = [self.share_of(row, own=own, of=of) for row in np.unique(self.rows[self.own == own])]
        return float(np.mean(shares)) if shares else float("nan")

    def counts(self) -> list[tuple[int, int, int, int]]:
        """For each image: kept in own surroundings, of how many; kept in others, of how many."""
        each = [self[self.rows == row] for row in self.images]
        return [
            (int(one.kept[one.own].sum()), int(one.own.sum()), int(one.kept[~one.own].sum()), int((~one.own).sum()))
            for one in each
        ]


def chance_of(counts: Sequence[tuple[int, int, int, int]]) -> float:
    """The probability that as many or more are kept in own surroundings if these made no difference: exact, one-sided.

    If surroundings make no difference, any of an image's kept pictures is as likely kept as any other. Given how many
    are kept in all, the number among those in own surroundings is hypergeometric, and independent from image to image:
    the distributions convolve.

    Args:
        counts: For each image: kept in own surroundings, of how many; kept in others, of how many.
    """
    whole, seen = np.ones(1), 0
    for kept_own, own, kept_other, other in counts:
        kept = kept_own + kept_other
        ways = [comb(own, among) * comb(other, kept - among) for among in range(min(own, kept) + 1)]
        whole = np.convolve(whole, np.array(ways) / comb(own + other, kept))
        seen += kept_own
    return float(min(whole[seen:].sum(), 1))


class Pools:
    """The images of an inquiry by class, as far as their objects have surroundings, and what the network says of swaps.

    Args:
        inquiry: Its masks say where the objects are.
        masks: (N, H, W), those masks.

    Attributes:
        without: Classes whose images give no surroundings; see `fe_gradcam.verdicts.inquiry.Inquiry`.
    """

    def __init__(self, inquiry: Inquiry, masks: NDArray[np.bool_]) -> None:
        self.inquiry, self.masks, self.without = inquiry, masks, set(inquiry.accused)
        self.grounds = Grounds(inquiry.pictures, masks)
        self._told, self._has_object = inquiry.told(inquiry.probabilities), np.asarray(masks.any((1, 2)))
        self._rows = {one: inquiry.rows_of(one) for one in inquiry.classes}
        self._usable: dict[int, NDArray[np.int64]] = {}
        self._empty = {one: bool(self._has_object[its].mean() <= 0.5) for one, its in self._rows.items() if len(its)}

    def classes_of(self, rows: Sequence[int] | NDArray[np.int64]) -> list[int]:
        """The classes that some of these images are told to be of, in order."""
        return [int(one) for one in np.flatnonzero(self._told[rows].any(0))]

    def count(self, class_id: int) -> int:
        """How many images the class has, with an object or without."""
        return len(self._rows.get(class_id, ()))

    def is_empty(self, class_id: int) -> bool:
        """Whether half of the images of a class or more have empty masks: then it is a class without an object."""
        return self._empty.get(class_id, False)

    def of(self, class_id: int) -> NDArray[np.int64]:
        """(n,) the images of a class that can be used, in an order that the seed draws.

        These are images whose object leaves room around it; in a class without an object those with empty masks. At
        most TRIED, so that few surroundings have to be filled in.
        """
        if class_id not in self._usable:
            generator, empty = np.random.default_rng((self.inquiry.seed, class_id)), self.is_empty(class_id)
            rows = generator.permutation(self._rows.get(class_id, np.zeros(0, np.int64)))
            fitting = (row for row in rows if self._has_object[row] != empty and not fills_frame(self.masks[row]))
            self._usable[class_id] = np.array(list(islice(fitting, TRIED)), np.int64)
        return self._usable[class_id]

    def others(self, class_id: int, count: int, generator: np.random.Generator) -> list[int]:
        """At most `count` images of other classes, drawn from as many classes as can be.

        Images without an object come last: if their class is told by its surroundings, it would pull all objects.
        """
        found: list[int] = []
        for empty in (False, True):
            its = [one for one in self._rows if one not in {class_id, *self.without} and self.is_empty(one) == empty]
            drawn = (generator.permutation(self._apart(int(one), class_id)) for one in generator.permutation(its))
            in_turn = zip_longest(*islice(filter(len, drawn), count))
            found += [int(row) for of_each in in_turn for row in of_each if row is not None and row not in found]
        return found[:count]

    def _apart(self, other: int, class_id: int) -> NDArray[np.int64]:
        """The images of another class that are not of this class too, be it by their labels or by the answers."""
        rows, labels = self.of(other), self.inquiry.labels
        also = self._told[rows, class_id]
        if labels is not None:
            also = also | (labels[rows, class_id] > 0 if labels.ndim == 2 else labels[rows] == class_id)
        return np.asarray(rows[~also])

    def swaps(self, class_id: int, pairs: Sequence[tuple[int, int]], *, own: Sequence[bool]) -> Swaps:
        """What the network says of objects in the surroundings of donors.

        Args:
            class_id: The class in question.
            pairs: The image of the object, and the donor.
            own: Whether the donor is of the class in question.
        """
        rows, donors = (np.array([pair[at] for pair in pairs], np.int64) for at in (0, 1))
        pictures = [self.grounds.swapped(row, donor) for row, donor in pairs]
        answers = self.inquiry.answers(rows, np.stack(pictures) if pictures else self.grounds.pictures[:0])
        told, of_donor = self.inquiry.told(answers), self._told[donors].copy()
        of_donor[:, class_id] = False
        followed = (told & of_donor).any(1)
        return Swaps(rows, donors, np.array(own, bool), told[:, class_id], followed, answers[:, class_id])
