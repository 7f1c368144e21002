"""True classes of rows: ids read from labels of any form, and the warning if rows have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fe_gradcam.errors import ArgumentError, nearest, warn
from fe_gradcam.spec.labels import WITHOUT_A_CLASS, ReadLabels, read_labels, words_of
from fe_gradcam.training.options import Classes

SHOWN = 5
"""How many of the wrong values a message shows."""

QUOTE = "'"

COUNTS_FROM_ONE = " If your ids count from 1, subtract 1."
"""What to do about labels of which one is the number of classes."""

FORMS = (
    "class ids (N,) or (N, 1), or a table (N, C) are needed: of 0 and 1, or of values from 0 to 1 of which those from "
    "0.5 are true classes."
)
"""The forms of labels that are accepted, for messages."""


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

    def read(self, values: Any) -> ReadLabels:
        """The true classes of labels of any form; see `fe_gradcam.spec.labels.read_labels`.

        Raises:
            ArgumentError: The labels have no such form.
        """
        found = self._read(values)
        if found.faults and not self._told:
            self._told = True
            warn(
                f"GradCAM ({self._owner!r}): {self._called} holds no true class in {_share(found)}. Such rows are "
                f"shown as not labelled.{self._range()}{self._advice(found)}"
            )
        return found

    def check(self, values: Any) -> None:
        """Checks the labels of the first batch; a single one that is no class is no reason to end a training.

        Raises:
            ArgumentError: No label can be read, or they count from 1, so that all of them are wrong.
        """
        found = self._read(values)
        odd = [fault for fault in found.faults if fault not in WITHOUT_A_CLASS]
        if self._from_one(found) and len(odd) > 1:
            raise ArgumentError(
                f"{self._called} holds ids up to {self.count}, and none that is 0.{self._range()}{COUNTS_FROM_ONE}"
            )
        if len(odd) < 2 or (found.ids >= 0).any():
            return
        if self._classes.ids and all(fault.startswith("'") for fault in odd):
            raise ArgumentError(
                f"{self._called} holds names that label_mapping lacks in {_share(found, odd)}"
                f"{nearest(odd[0].strip(QUOTE), self._classes.ids)}{self._names()}"
            )
        raise ArgumentError(
            f"{self._called} holds no true class in {_share(found, odd)}.{self._range()} Accepted: class ids that "
            "count from 0, and -1 for a row without a class. Is it the right key?"
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
            raise ArgumentError(f"{said}{COUNTS_FROM_ONE}")
        if 2 * len(beyond) > len(self._classes.ids):
            raise ArgumentError(f"{said} Pass {{class name: class id}} with ids of this model.")
        self._told_of_names = True
        warn(f"GradCAM ({self._owner!r}): {said} Their names are not shown.")

    def _range(self) -> str:
        """A sentence for messages that says which ids the model has."""
        return "" if self.count is None else f" The model has {self.count} classes, ids 0 to {self.count - 1}."

    def _names(self) -> str:
        """A sentence for messages that says which names there are."""
        return f" label_mapping has: {', '.join(map(repr, self._classes.ids))}."

    def _advice(self, found: ReadLabels) -> str:
        """A sentence for the warning: what the labels may be instead."""
        if self._from_one(found):
            return COUNTS_FROM_ONE
        words = [fault for fault in found.faults if fault.startswith(QUOTE)]
        return self._names() if words else ""

    def _from_one(self, found: ReadLabels) -> bool:
        """Whether ids seem to count from 1; see `_from_one`."""
        odd = {fault for fault in found.faults if fault not in WITHOUT_A_CLASS}
        return (
            self.count is not None and odd == {str(self.count)} and _from_one({*found.ids[found.ids >= 0], self.count})
        )

    def _read(self, values: Any) -> ReadLabels:
        found = read_labels(values, self.count, self._classes.ids)
        if found is not None:
            return found
        try:
            labels = np.asarray(values)
        except ValueError:
            raise ArgumentError(f"{self._called} holds a ragged list; {FORMS}") from None
        words = words_of(labels)
        if words is not None:
            some = list(dict.fromkeys(words))
            shown = ", ".join(map(repr, some[:SHOWN])) + ", ..." * (len(some) > SHOWN)
            raise ArgumentError(
                f"{self._called} holds strings ({shown}); class ids are needed. Pass label_mapping={{name: id}} too, "
                "or pass a key with class ids."
            )
        raise ArgumentError(f"{self._called} holds an array of shape {labels.shape} and dtype {labels.dtype}; {FORMS}")


def _from_one(ids: set[int]) -> bool:
    """Whether ids seem to count from 1: none is 0, and at least half of the ids up to the largest occur."""
    return min(ids) >= 1 and 2 * len(ids) >= max(ids)


def _share(found: ReadLabels, faults: Sequence[str] | None = None) -> str:
    """As ``"2 of 5 rows (-1, nan)"``."""
    told = found.faults if faults is None else faults
    some = list(dict.fromkeys(told))
    return f"{len(told)} of {len(found.ids)} rows ({', '.join(some[:SHOWN])}{', ...' * (len(some) > SHOWN)})"
