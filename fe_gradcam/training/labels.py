"""True classes of rows: ids read from labels of any form, and the warning if rows have none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError, CamWarning, nearest
from fe_gradcam.training.options import Classes

UNLABELLED = -1
"""The id of a row without a true class."""

WITHOUT_A_CLASS = (str(UNLABELLED), "nan", "an empty row")
"""How a row is written that plainly has no class; most of a batch may have none, in semi-supervised training."""

SHOWN = 5
"""How many of the wrong values a message shows."""


class TrueClasses:
    """Reads the labels of a training, and warns once if rows have no true class.

    Args:
        owner: The name of the trace, for the warning.
        called: The name of the labels in messages, such as ``"labels='y'"``.
        classes: The classes of label_mapping, for labels that are names.

    Attributes:
        count: How many classes the model has, as soon as that is known.
    """

    def __init__(self, owner: str, called: str, classes: Classes) -> None:
        self._owner, self._called, self._classes = owner, called, classes
        self._told = self._told_of_names = False
        self.count: int | None = None

    def ids(self, values: Any) -> NDArray[np.int64]:
        """Class ids (N,) of labels: ids (N,) or (N, 1), names, or one-hot rows (N, C); -1 for a row without a class.

        A row has no class if its id is negative, NaN or not a class of the model, or if its row (N, C) is empty.

        Raises:
            ArgumentError: The labels have another form, such as multi-hot rows.
        """
        ids, faults = self._read(values)
        if faults and not self._told:
            self._told = True
            warnings.warn(
                f"GradCAM ({self._owner!r}): {self._called} holds no true class in {_share(faults, ids)}. Such rows "
                f"are shown as not labelled.{self._range()}",
                CamWarning,
                stacklevel=2,
            )
        return ids

    def check(self, values: Any) -> None:
        """Checks the labels of the first batch.

        Raises:
            ArgumentError: The labels do not fit the model: most are not one of its classes, or they count from 1.
        """
        ids, faults = self._read(values)
        odd = [fault for fault in faults if fault not in WITHOUT_A_CLASS]
        if self.count is not None and set(odd) == {str(self.count)} and _from_one({*ids[ids >= 0], self.count}):
            raise ArgumentError(
                f"{self._called} holds ids up to {self.count}, and none that is 0.{self._range()} If your ids count "
                "from 1, subtract 1."
            )
        if 2 * len(odd) <= len(ids):
            return
        if self._classes.ids and all(fault.startswith("'") for fault in odd):
            near = nearest(odd[0].strip("'"), self._classes.ids)
            raise ArgumentError(
                f"{self._called} holds names that label_mapping lacks in {_share(odd, ids)}{near} label_mapping has: "
                f"{', '.join(map(repr, self._classes.ids))}."
            )
        raise ArgumentError(
            f"{self._called} holds no true class in {_share(odd, ids)}.{self._range()} Accepted: class ids that count "
            "from 0, and -1 for a row without a class. Is it the right key?"
        )

    def check_names(self) -> None:
        """Checks label_mapping; a few ids that are not classes give a warning.

        Raises:
            ArgumentError: Most of its ids are not classes of the model, or they count from 1.
        """
        if self.count is None or not self._classes.ids or self._told_of_names:
            return
        beyond = {name: at for name, at in self._classes.ids.items() if at >= self.count}
        if not beyond:
            return
        shown = ", ".join(f"{name!r}: {at}" for name, at in list(beyond.items())[:SHOWN])
        said = f"label_mapping has ids that are no classes ({shown}).{self._range()}"
        if set(beyond.values()) == {self.count} and _from_one(set(self._classes.ids.values())):
            raise ArgumentError(f"{said} If your ids count from 1, subtract 1.")
        if 2 * len(beyond) > len(self._classes.ids):
            raise ArgumentError(f"{said} Pass {{class name: class id}} with ids of this model.")
        self._told_of_names = True
        warnings.warn(f"GradCAM ({self._owner!r}): {said} Their names are not shown.", CamWarning, stacklevel=2)

    def _range(self) -> str:
        """A sentence for messages that says which ids the model has."""
        return "" if self.count is None else f" The model has {self.count} classes, ids 0 to {self.count - 1}."

    def _read(self, values: Any) -> tuple[NDArray[np.int64], list[str]]:
        """The ids, and the values of rows without one."""
        labels = np.asarray(values)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        words = _words(labels)
        if words is not None:
            return self._of_names(words)
        if labels.dtype.kind in "biuf" and labels.ndim == 1 and _whole(labels):
            usable = np.isfinite(labels) & (labels >= 0) & (self.count is None or labels < self.count)
            ids = np.full(len(labels), UNLABELLED, np.int64)  # bytes would make 255 of -1
            ids[usable] = labels[usable]
            return ids, [f"{one:g}" for one in labels[~usable]]
        if labels.dtype.kind in "biuf" and labels.ndim == 2 and labels.shape[1]:
            empty = np.isnan(labels.astype(np.float64)).any(1) | (labels == 0).all(1)
            if np.allclose(labels[~empty].sum(1), 1, atol=1e-3):
                ids = np.where(empty[:, None], 0, labels).argmax(1).astype(np.int64)
                beyond = ids >= (self.count or labels.shape[1])
                faults = ["an empty row"] * int(empty.sum()) + [str(one) for one in ids[beyond]]
                return np.where(empty | beyond, UNLABELLED, ids), faults
        raise ArgumentError(
            f"{self._called} holds an array of shape {labels.shape} and dtype {labels.dtype}; class ids (N,) or (N, "
            "1), or one-hot rows (N, C), are needed. Several true classes per image cannot be shown: then leave "
            "labels= out."
        )

    def _of_names(self, words: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
        if not self._classes.ids:
            some = list(dict.fromkeys(words))
            shown = ", ".join(map(repr, some[:SHOWN])) + ", ..." * (len(some) > SHOWN)
            raise ArgumentError(
                f"{self._called} holds strings ({shown}); class ids are needed. Pass label_mapping={{name: id}} too, "
                "or pass a key with class ids."
            )
        ids = np.array([self._classes.ids.get(word, UNLABELLED) for word in words], np.int64)
        usable = (ids >= 0) & (self.count is None or ids < self.count)
        return np.where(usable, ids, UNLABELLED), [
            repr(word) for word, fits in zip(words, usable, strict=True) if not fits
        ]


def _words(labels: NDArray[Any]) -> list[str] | None:
    """Labels that are strings or bytes, as strings; None for other labels."""
    if labels.ndim != 1 or labels.dtype.kind not in "USO" or not len(labels):
        return None
    every = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in labels.tolist()]
    return every if all(isinstance(one, str) for one in every) else None


def _whole(labels: NDArray[Any]) -> bool:
    """Whether all finite labels are whole numbers."""
    finite = labels[np.isfinite(labels)]
    return np.array_equal(finite, np.floor(finite))


def _from_one(ids: set[int]) -> bool:
    """Whether ids seem to count from 1: none is 0, and at least half of the ids up to the largest occur."""
    return min(ids) >= 1 and 2 * len(ids) >= max(ids)


def _share(faults: Sequence[str], ids: NDArray[np.int64]) -> str:
    """As ``"2 of 5 rows (-1, nan)"``."""
    some = list(dict.fromkeys(faults))
    return f"{len(faults)} of {len(ids)} rows ({', '.join(some[:SHOWN])}{', ...' * (len(some) > SHOWN)})"
