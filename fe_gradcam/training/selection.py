"""Which images of an epoch are explained: rules that rank them, and the choice that a user makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError, in_short
from fe_gradcam.parameters import Catalogue, Entry, whole
from fe_gradcam.spec.labels import inferred_of, is_wrong

SelectName: TypeAlias = Literal[
    "first", "random", "misclassified", "confident_mistakes", "least_confident", "best", "worst", "best_and_worst"
]

Select: TypeAlias = "SelectName | Sequence[int]"
"""Which images are explained; see `fe_gradcam.GradCAM`."""


@dataclass(frozen=True, eq=False)
class Facts:
    """The facts about the rows of a batch from which rows are chosen.

    Attributes:
        positions: (B,) positions in the order of the epoch, from 0.
        chances: (B,) uniform random numbers in [0, 1), the same at a position in every epoch.
        labels: (B,) true classes, negative for a row without one, or None.
        probabilities: (B, C) inferred probabilities, or None.
        several: (B, C) all true classes, if rows have several, or None.
    """

    positions: NDArray[np.int64]
    chances: NDArray[np.float64]
    labels: Any = None
    probabilities: Any = None
    several: Any = None

    @property
    def inferred(self) -> NDArray[np.int64]:
        """(B,) the inferred classes, -1 where the probabilities are NaN."""
        return inferred_of(self.probabilities)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(B,) probabilities of the inferred classes."""
        return np.asarray(self.probabilities.max(1), np.float64)

    @property
    def of_true_class(self) -> NDArray[np.float64]:
        """(B,) probabilities of the true classes, the highest of several; NaN for a row without one."""
        known = np.where((self.labels >= 0) & (self.labels < self.probabilities.shape[1]), self.labels, 0)
        chosen = self.probabilities[np.arange(len(known)), known].astype(np.float64)
        if self.several is not None:
            width = min(self.several.shape[1], self.probabilities.shape[1])
            of_each = np.where(self.several[:, :width], self.probabilities[:, :width], -np.inf)
            chosen = np.maximum(chosen, of_each.max(1))
        return np.where(known == self.labels, chosen, np.nan)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(B,) whether the inferred class is no true one."""
        return is_wrong(self.inferred, self.labels, self.several)


@dataclass(frozen=True)
class Ranking(Entry):
    """A way to rank the images of an epoch: it gives each a priority, larger is more wanted; NaN if not at all.

    Attributes:
        needs: Which of the trace's arguments it needs.
        ranked: Whether rows are shown by falling priority; else in the order of the epoch.
    """

    needs: tuple[str, ...] = ()
    ranked: bool = False

    def __call__(self, facts: Facts) -> NDArray[np.float64]:
        """(B,) the priority of each row."""
        return np.asarray(self.rule(facts, **self.given), np.float64)


_TRUTH = ("labels", "preds")

RULES: Catalogue[Ranking] = Catalogue(
    Ranking, "select", ("first", {}), unknown=", or positions in the order of the epoch, as [0, 7, 12]"
)
RULES.add(
    Ranking("first", lambda facts: -facts.positions),
    Ranking("random", lambda facts: facts.chances),
    Ranking("misclassified", lambda facts: np.where(facts.wrong, facts.chances, np.nan), _TRUTH),
    Ranking("confident_mistakes", lambda facts: np.where(facts.wrong, facts.confidence, np.nan), _TRUTH, ranked=True),
    Ranking("least_confident", lambda facts: -facts.confidence, ("preds",), ranked=True),
    Ranking("best", lambda facts: facts.of_true_class, _TRUTH, ranked=True),
    Ranking("worst", lambda facts: -facts.of_true_class, _TRUTH, ranked=True),
)

BOTH = "best_and_worst"

LARGEST_POSITION = 2**63
"""Positions are below this."""


@dataclass(frozen=True)
class Selection:
    """Which rows of an epoch are chosen.

    Attributes:
        name: The name of the rule, or "positions".
        rules: Names of RULES; each of them chooses rows of its own.
        limit: How many rows each rule keeps, with `by_class` of each class; None for all.
        by_class: Whether the limit is for each class: the true class, or the inferred class without labels.
        most: How many rows are kept in all. Beyond that, the class with most rows drops the one of lowest priority; if
            several classes have as many, the lowest priority of them all is dropped.
        positions: The requested positions, in the order in which the rows are shown.
        seed: The seed of the random numbers.
    """

    name: str = "first"
    rules: tuple[str, ...] = ("first",)
    limit: int | None = None
    by_class: bool = False
    most: int | None = None
    positions: tuple[int, ...] = ()
    seed: int = 0

    @property
    def needs(self) -> set[str]:
        """The arguments of the trace that the choice needs: "labels", "preds"."""
        return {need for rule in self.rules for need in RULES[rule].needs}


def selection_of(select: Any, n_samples: int | None, per_class: Any, seed: int, given: Iterable[str]) -> Selection:
    """The selection that the arguments of `fe_gradcam.GradCAM` ask for; `given` says which keys there are.

    Raises:
        ArgumentError: An argument is not accepted, or one that the rule needs is missing.
        UnknownNameError: There is no such rule.
    """
    if n_samples is not None:
        n_samples = whole("n_samples", n_samples, 0, none=", or None for all")
    if per_class is not None:
        per_class = whole("per_class", per_class, 1, none=", or None")
    if not isinstance(select, str):
        if per_class is not None:
            raise ArgumentError(
                "per_class needs a rule by name, such as select='random', and select holds positions. Leave one out."
            )
        places = _positions(select)
        places = () if n_samples == 0 else places  # n_samples=0 draws nothing, whatever is selected
        return Selection("positions", limit=len(places), positions=places, seed=seed)
    rules = ("best", "worst") if select == BOTH else (RULES.find(select, also=[BOTH]).name,)
    by_class = per_class is not None or select == BOTH
    limit = n_samples if not by_class else 0 if n_samples == 0 else per_class or 1
    selection = Selection(select, rules, limit, by_class, seed=seed)
    given = set(given)
    missing = sorted(selection.needs - given)
    if missing:
        raise ArgumentError(
            f"select={in_short(select)} needs {' and '.join(f'{name}=' for name in missing)} with the key of the "
            f"{' and of the '.join('true classes' if name == 'labels' else 'predictions' for name in missing)}."
        )
    if by_class and not given & {"labels", "preds"}:
        raise ArgumentError("per_class needs labels= (the key of the true classes) or preds= (that of predictions).")
    return selection


def _positions(select: Any) -> tuple[int, ...]:
    try:
        places = [select] if isinstance(select, Integral) else list(select)
    except TypeError:
        places = [None]
    if not places or any(isinstance(one, bool) or not isinstance(one, Integral) or one < 0 for one in places):
        raise ArgumentError(
            f"select={in_short(select)} is not accepted. Accepted: {', '.join([*RULES, BOTH])}, or a list of positions "
            "from 0 in the order of the epoch."
        )
    found = tuple(dict.fromkeys(int(one) for one in places))
    if max(found) >= LARGEST_POSITION:
        raise ArgumentError(
            f"select holds the position {max(found)}, and no epoch has so many images. Accepted: positions from 0 in "
            "the order of the epoch, below 2**63."
        )
    return found
