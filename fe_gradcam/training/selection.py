"""Which images of an epoch are explained: rules that rank them, and a bounded choice of rows, kept on the CPU."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import nearest
from fe_gradcam.training.rows import host_rows
from fe_gradcam.types import ArgumentError, UnknownNameError

SelectName: TypeAlias = Literal[
    "first",
    "random",
    "misclassified",
    "confident_mistakes",
    "least_confident",
    "best",
    "worst",
    "best_and_worst",
]
Select: TypeAlias = "SelectName | Sequence[int]"
"""Which images are explained; see `fe_gradcam.GradCAM`."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the rows of a batch when they are chosen.

    Attributes:
        positions: (B,) places in the order of the epoch, from 0.
        chances: (B,) uniform random numbers in [0, 1), the same at a place in every epoch.
        labels: (B,) true classes, negative where there is none, or None.
        probabilities: (B, C) inferred, or None.
    """

    positions: NDArray[np.int64]
    chances: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None
    probabilities: NDArray[np.float32] | None = None

    @property
    def inferred(self) -> NDArray[np.int64]:
        """(B,) the classes inferred."""
        return np.asarray(self._probabilities.argmax(1), np.int64)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(B,) probabilities of the classes inferred."""
        return np.asarray(self._probabilities.max(1), np.float64)

    @property
    def of_true_class(self) -> NDArray[np.float64]:
        """(B,) probabilities of the true classes, NaN where there is none."""
        known = np.where((self._labels >= 0) & (self._labels < self._probabilities.shape[1]), self._labels, 0)
        chosen = self._probabilities[np.arange(len(known)), known].astype(np.float64)
        return np.where(known == self._labels, chosen, np.nan)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(B,) whether another class was inferred than the true one."""
        return np.asarray((self._labels >= 0) & (self.inferred != self._labels))

    @property
    def _labels(self) -> NDArray[np.int64]:
        if self.labels is None:
            raise ArgumentError("select needs labels= with the key of the true classes.")
        return self.labels

    @property
    def _probabilities(self) -> NDArray[np.float32]:
        if self.probabilities is None:
            raise ArgumentError("select needs preds= with the key of the predictions.")
        return self.probabilities


Priority: TypeAlias = Callable[[Facts], NDArray[np.float64]]
"""Of each row how much it is wanted, the larger the more; NaN where not at all."""


@dataclass(frozen=True)
class Rule:
    """A way to rank the images of an epoch.

    Attributes:
        priority: See Priority.
        needs: Which of the trace's arguments it needs.
        ranked: Whether rows are shown by falling priority; else in the order of the epoch.
    """

    priority: Priority
    needs: tuple[str, ...] = ()
    ranked: bool = False


def _first(facts: Facts) -> NDArray[np.float64]:
    return -facts.positions.astype(np.float64)


RULES: Mapping[str, Rule] = {
    "first": Rule(_first),
    "random": Rule(lambda facts: facts.chances),
    "misclassified": Rule(lambda facts: np.where(facts.wrong, facts.chances, np.nan), ("labels", "preds")),
    "confident_mistakes": Rule(
        lambda facts: np.where(facts.wrong, facts.confidence, np.nan), ("labels", "preds"), ranked=True
    ),
    "least_confident": Rule(lambda facts: -facts.confidence, ("preds",), ranked=True),
    "best": Rule(lambda facts: facts.of_true_class, ("labels", "preds"), ranked=True),
    "worst": Rule(lambda facts: -facts.of_true_class, ("labels", "preds"), ranked=True),
}

BOTH = "best_and_worst"


@dataclass(frozen=True)
class Selection:
    """What is chosen of an epoch.

    Attributes:
        name: Of the rule, or "positions".
        rules: Those that each choose their own, as names of RULES.
        limit: How many rows each rule keeps, of each class where `by_class`; None for all.
        by_class: Whether the limit is for each class: the true one, or the inferred where no labels are given.
        most: How many rows are kept in all; beyond it the least wanted of the class that has most gives way, of several
            such classes the least wanted of all.
        positions: The places asked for, in the order in which they are shown.
        seed: Of the random numbers.
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
        """The trace's arguments that are needed to choose: "labels", "preds"."""
        return {need for rule in self.rules for need in RULES[rule].needs}

    @property
    def of_order_alone(self) -> bool:
        """Whether the places say all, so that batches beyond the last of them need not be looked at."""
        return self.rules == ("first",) and not self.by_class


def selection_of(select: Any, n_samples: int | None, per_class: Any, seed: int, given: Iterable[str]) -> Selection:
    """The selection that the trace's arguments ask for.

    Args:
        select: See `fe_gradcam.GradCAM`.
        n_samples: See there.
        per_class: See there.
        seed: See there.
        given: Which of "labels" and "preds" the trace was given.

    Raises:
        ArgumentError: An argument is not accepted, or one that the rule needs is missing.
        UnknownNameError: There is no such rule.
    """
    if per_class is not None and (isinstance(per_class, bool) or not isinstance(per_class, Integral) or per_class < 1):
        raise ArgumentError(f"per_class={per_class!r} is not accepted. Accepted: None, or an integer from 1.")
    if not isinstance(select, str):
        if per_class is not None:
            raise ArgumentError(
                "per_class goes with a rule by name, such as select='random'; positions are what they are."
            )
        places = _positions(select)
        places = () if n_samples == 0 else places  # which draws nothing, whatever is selected
        return Selection("positions", limit=len(places), positions=places, seed=seed)
    if select not in RULES and select != BOTH:
        raise UnknownNameError(
            f"select={select!r} is not known{nearest(select, [*RULES, BOTH])} Accepted: {', '.join([*RULES, BOTH])}, "
            "or positions in the order of the epoch, as [0, 7, 12]."
        )
    rules = ("best", "worst") if select == BOTH else (select,)
    by_class = per_class is not None or select == BOTH
    limit = n_samples if not by_class else 0 if n_samples == 0 else int(per_class or 1)
    selection = Selection(select, rules, limit, by_class, seed=seed)
    have = set(given)
    missing = sorted(selection.needs - have)
    if missing:
        raise ArgumentError(
            f"select={select!r} needs {' and '.join(f'{name}=' for name in missing)} with the key of the "
            f"{' and of the '.join('true classes' if name == 'labels' else 'predictions' for name in missing)}."
        )
    if by_class and not have & {"labels", "preds"}:
        raise ArgumentError("per_class needs labels= with the key of the true classes, or preds= for those inferred.")
    return selection


def _positions(select: Any) -> tuple[int, ...]:
    try:
        places = [select] if isinstance(select, Integral) else list(select)
    except TypeError:
        places = [None]
    if not places or any(isinstance(one, bool) or not isinstance(one, Integral) or one < 0 for one in places):
        raise ArgumentError(
            f"select={select!r} is not accepted. Accepted: {', '.join([*RULES, BOTH])}, or a list of positions from 0 "
            "in the order of the epoch."
        )
    return tuple(dict.fromkeys(int(one) for one in places))


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an epoch, on the CPU.

    Attributes:
        values: Of each key an array (N, ...), or a list where the batches held lists.
        positions: (N,) their places in the order of the epoch.
        largest_batch: Rows of the largest batch.
    """

    values: Mapping[str, Any]
    positions: NDArray[np.int64]
    largest_batch: int = 1

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


@dataclass(order=True)
class _Kept:
    """A row on a heap: the least wanted first, and of those wanted alike the latest."""

    priority: float
    before: int
    row: dict[str, Any] = field(compare=False)


class Chosen:
    """The chosen rows of an epoch, copied to the CPU; never more of them than the selection keeps.

    Args:
        keys: Which keys of the batch are kept.
        selection: What is chosen.
    """

    def __init__(self, keys: Sequence[str], selection: Selection) -> None:
        self.keys = list(keys)
        self.selection = selection
        self.seen = 0
        self.largest_batch = 1
        self._generator = np.random.default_rng(selection.seed)
        self._wanted = np.array(selection.positions, np.int64)
        self._heaps: dict[tuple[str, int], list[_Kept]] = {}
        self._gave_way: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self._ordered())

    def rows(self) -> Rows:
        """The chosen rows, in the order in which they are shown."""
        ordered = self._ordered()
        positions = np.array([-kept.before for kept in ordered], np.int64)
        return Rows(
            {key: _joined([kept.row[key] for kept in ordered]) for key in self.keys}, positions, self.largest_batch
        )

    @property
    def full(self) -> bool:
        """Whether no row to come can be wanted."""
        if self.selection.limit == 0:
            return True
        if self.selection.positions:
            return self.seen > max(self.selection.positions)
        limit = self.selection.limit
        return self.selection.of_order_alone and limit is not None and self.seen >= limit

    @property
    def missing(self) -> list[int]:
        """The places asked for that the epoch did not reach."""
        return [place for place in self.selection.positions if place >= self.seen]

    def add(
        self,
        batch: Mapping[str, Any],
        labels: NDArray[np.int64] | None = None,
        probabilities: NDArray[np.float32] | None = None,
    ) -> None:
        """Looks at the rows of a batch, and keeps copies of those that are wanted.

        Args:
            batch: Holds the keys.
            labels: (B,) true classes, negative where there is none, or None.
            probabilities: (B, C) inferred, or None.

        Raises:
            ArgumentError: The keys hold different numbers of rows.
        """
        sizes = {key: _rows_in(batch[key], key) for key in self.keys}
        if len(set(sizes.values())) != 1:
            raise ArgumentError(f"The keys of one batch hold different numbers of rows: {sizes}.")
        size = sizes[self.keys[0]]
        positions = np.arange(self.seen, self.seen + size)
        facts = Facts(positions, self._generator.random(size), labels, probabilities)
        self.seen += size
        self.largest_batch = max(self.largest_batch, size)
        groups = self._groups(facts)
        taken: dict[int, dict[str, Any]] = {}
        for rule in self.selection.rules:
            priority = self._priority(rule, facts)
            for group in np.unique(groups[~np.isnan(priority)]):
                for at in self._candidates(rule, int(group), np.where(groups == group, priority, np.nan)):
                    if at not in taken:
                        taken[at] = {key: host_rows(batch[key], slice(at, at + 1)) for key in self.keys}
                    self._keep(rule, int(group), _Kept(float(priority[at]), -int(positions[at]), taken[at]))

    def _groups(self, facts: Facts) -> NDArray[np.int64]:
        if not self.selection.by_class:
            return np.zeros(len(facts.positions), np.int64)
        return facts.inferred if facts.labels is None else facts.labels

    def _priority(self, rule: str, facts: Facts) -> NDArray[np.float64]:
        priority = RULES[rule].priority(facts)
        if self.selection.positions:
            priority = np.where(np.isin(facts.positions, self._wanted), priority, np.nan)
        if self.selection.by_class and facts.labels is not None and self.selection.most is None:
            priority = np.where(facts.labels >= 0, priority, np.nan)
        return priority

    def _candidates(self, rule: str, group: int, priority: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows that may be kept, the most wanted first, and no more than are kept at all."""
        heap, limit = self._heaps.get((rule, group), []), self.selection.limit
        least = self._gave_way.get((rule, group))
        if heap and ((limit is not None and len(heap) >= limit) or self._gives_way(heap)):
            least = heap[0].priority
        if least is not None:
            priority = np.where(priority > least, priority, np.nan)
        order = np.argsort(-priority, kind="stable")  # NaN last, and of equals the first row first
        return order[: np.count_nonzero(~np.isnan(priority))][: self.selection.most if limit is None else limit]

    def _gives_way(self, heap: list[_Kept]) -> bool:
        """Whether no further row is kept in all, and of this class there are as many as of any."""
        sizes = [len(other) for other in self._heaps.values()]
        return self.selection.most is not None and sum(sizes) >= self.selection.most and len(heap) >= max(sizes)

    def _keep(self, rule: str, group: int, kept: _Kept) -> None:
        heap = self._heaps.setdefault((rule, group), [])
        heapq.heappush(heap, kept)
        limit, most = self.selection.limit, self.selection.most
        if limit is not None and len(heap) > limit:
            heapq.heappop(heap)
        if most is not None and sum(map(len, self._heaps.values())) > most:
            largest = max(map(len, self._heaps.values()))
            fullest = [place for place, other in self._heaps.items() if len(other) == largest]
            place = min(fullest, key=lambda one: self._heaps[one][0])
            # What is wanted less in that class would give way too: it need not be copied.
            self._gave_way[place] = heapq.heappop(self._heaps[place]).priority

    def _ordered(self) -> list[_Kept]:
        """The kept rows, each once, in the order in which they are shown."""
        selection = self.selection
        rows: dict[int, _Kept] = {}
        by_class = sorted(self._heaps, key=lambda place: (place[1], selection.rules.index(place[0])))
        for rule, group in by_class:
            for kept in sorted(self._heaps[rule, group], key=lambda one: _shown(one, ranked=RULES[rule].ranked)):
                rows.setdefault(kept.before, kept)
        if selection.positions:
            return [rows[-place] for place in selection.positions if -place in rows]
        return list(rows.values())


def _shown(kept: _Kept, *, ranked: bool) -> tuple[float, int]:
    return (-kept.priority if ranked else 0.0, -kept.before)


def _rows_in(value: Any, key: str) -> int:
    """How many rows a value of a batch has."""
    try:
        return len(value)
    except TypeError:
        raise ArgumentError(
            f"The key {key!r} of the batch holds a single {type(value).__name__} and no rows; a value for each image "
            "is needed. Is it the key that was meant?"
        ) from None


def _joined(parts: list[Any]) -> Any:
    """Rows of one key as one array, or a list where the batches held lists."""
    if parts and isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [one for part in parts for one in part]
