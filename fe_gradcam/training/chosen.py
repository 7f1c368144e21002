"""The chosen rows of an epoch: limited in number, and on the CPU."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.spec.images import host_rows
from fe_gradcam.training.rows import Rows
from fe_gradcam.training.selection import RULES, Facts, Selection


@dataclass(order=True)
class _Kept:
    """A row on a heap: the lowest priority first, among equals the latest row; `before` is minus its position."""

    priority: float
    before: int
    row: dict[str, Any] = field(compare=False)


RAGGED = ("boxes",)
"""Parts of which rows may have different shapes: so many boxes as there are objects."""


class Chosen:
    """The chosen rows of an epoch, copied to the CPU; never more of them than the selection keeps.

    Args:
        called: The names of parts of the batches in errors, if they differ from the parts' own names.
    """

    def __init__(self, selection: Selection, called: Mapping[str, str] | None = None) -> None:
        self.keys, self._called = list[str](), dict(called or {})
        self.selection = selection
        self.seen = 0
        self.largest_batch = 1
        self._generator = np.random.default_rng(selection.seed)
        self._wanted = np.array(selection.positions, np.int64)
        self._heaps: dict[tuple[str, int], list[_Kept]] = {}
        self._gave_way: dict[tuple[str, int], float] = {}
        self._shapes: dict[str, tuple[int, ...] | None] = {}

    def __len__(self) -> int:
        return len(self._ordered())

    def rows(self) -> Rows:
        """The chosen rows, in the order in which they are shown."""
        ordered = self._ordered()
        values = {key: _joined(key, [kept.row[key] for kept in ordered]) for key in self.keys}
        return Rows(values, np.array([-kept.before for kept in ordered], np.int64), self.largest_batch, self.seen)

    @property
    def full(self) -> bool:
        """Whether no later row can be chosen."""
        selection = self.selection
        if selection.limit == 0:
            return True
        if selection.positions:
            return self.seen > max(selection.positions)
        if selection.rules != ("first",) or selection.by_class:
            return False
        return selection.limit is not None and self.seen >= selection.limit

    @property
    def missing(self) -> list[int]:
        """The requested positions that the epoch did not reach."""
        return [position for position in self.selection.positions if position >= self.seen]

    def add(
        self,
        batch: Mapping[str, Any],
        labels: NDArray[np.int64] | None = None,
        probabilities: NDArray[np.float32] | None = None,
        several: NDArray[np.bool_] | None = None,
    ) -> None:
        """Looks at the rows of a batch, and keeps copies of those that are chosen.

        Args:
            batch: Parts with rows; every batch needs the parts of the first batch.
            labels: (B,) true classes, negative for a row without one, or None.
            probabilities: (B, C) inferred probabilities, or None.
            several: (B, C) all true classes, if rows have several, or None.

        Raises:
            ArgumentError: The parts hold different numbers of rows, or rows of another shape than those that are kept;
                then no row of the batch is kept, and the positions of later rows are what they would be.
        """
        keys = self.keys or list(batch)
        called = {key: self._called.get(key, key) for key in keys}
        missing = [called[key] for key in keys if key not in batch]
        if missing:
            self.seen += max((_rows_in(part, key) for key, part in batch.items()), default=0)
            raise ArgumentError(f"This batch holds no {' and no '.join(missing)}, which the first batch held.")
        sizes = {called[key]: _rows_in(batch[key], called[key]) for key in keys}
        if len(set(sizes.values())) != 1:
            said = ", ".join(f"{called} {count}" for called, count in sizes.items())
            raise ArgumentError(f"One batch holds different numbers of rows: {said}.")
        size = next(iter(sizes.values()))
        positions = np.arange(self.seen, self.seen + size)
        facts = Facts(positions, self._generator.random(size), labels, probabilities, several)
        self.seen += size
        shapes = {key: _shape_of_rows(batch[key]) for key in keys if key not in RAGGED}
        if not self._heaps:
            self.keys, self._shapes = keys, shapes
        differing = [key for key, shape in shapes.items() if shape != self._shapes[key]]
        others = ", ".join(f"{called[key]} {shapes[key]}, not {self._shapes[key]}" for key in differing)
        self.largest_batch = max(self.largest_batch, size)
        groups = np.zeros(size, np.int64)
        if self.selection.by_class:
            groups = facts.inferred if labels is None else labels
        taken: dict[int, dict[str, Any]] = {}
        for rule in self.selection.rules:
            priority = self._priority(rule, facts)
            for group in np.unique(groups[~np.isnan(priority)]):
                place = rule, int(group)
                for at in self._candidates(place, np.where(groups == group, priority, np.nan)):
                    if at not in taken:
                        if others:
                            raise ArgumentError(f"Rows of this batch have other shapes than those before: {others}.")
                        taken[at] = {key: host_rows(batch[key], slice(at, at + 1)) for key in self.keys}
                    self._keep(place, _Kept(float(priority[at]), -int(positions[at]), taken[at]))

    def _priority(self, rule: str, facts: Facts) -> NDArray[np.float64]:
        priority = RULES[rule](facts)
        if self.selection.positions:
            priority = np.where(np.isin(facts.positions, self._wanted), priority, np.nan)
        if self.selection.by_class and facts.labels is not None and self.selection.most is None:
            priority = np.where(facts.labels >= 0, priority, np.nan)
        return priority

    def _candidates(self, place: tuple[str, int], priority: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows that may be kept, the highest priority first, and no more than can be kept at all."""
        heap, limit = self._heaps.get(place, []), self.selection.limit
        least = self._gave_way.get(place)
        if heap and ((limit is not None and len(heap) >= limit) or self._gives_way(heap)):
            least = heap[0].priority
        if least is not None:
            priority = np.where(priority > least, priority, np.nan)
        order = np.argsort(-priority, kind="stable")  # NaN last; among equals the first row first
        return order[: np.count_nonzero(~np.isnan(priority))][: self.selection.most if limit is None else limit]

    def _gives_way(self, heap: list[_Kept]) -> bool:
        """Whether the total limit is reached, and no class has more rows than this one."""
        sizes = [len(other) for other in self._heaps.values()]
        return self.selection.most is not None and sum(sizes) >= self.selection.most and len(heap) >= max(sizes)

    def _keep(self, place: tuple[str, int], kept: _Kept) -> None:
        heap = self._heaps.setdefault(place, [])
        heapq.heappush(heap, kept)
        limit, most = self.selection.limit, self.selection.most
        if limit is not None and len(heap) > limit:
            heapq.heappop(heap)
        if most is not None and sum(map(len, self._heaps.values())) > most:
            place = min(self._heaps, key=lambda one: (-len(self._heaps[one]), self._heaps[one][:1]))
            # A row of lower priority in that class would be dropped too: it need not be copied.
            self._gave_way[place] = heapq.heappop(self._heaps[place]).priority

    def _ordered(self) -> list[_Kept]:
        """The kept rows, each once, in the order in which they are shown."""
        selection = self.selection
        rows: dict[int, _Kept] = {}
        for place in sorted(self._heaps, key=lambda place: (place[1], selection.rules.index(place[0]))):
            ranked = RULES[place[0]].ranked
            for kept in sorted(self._heaps[place], key=lambda one: (-one.priority * ranked, -one.before)):
                rows.setdefault(kept.before, kept)
        if selection.positions:
            return [rows[-place] for place in selection.positions if -place in rows]
        return list(rows.values())


def _rows_in(value: Any, called: str) -> int:
    try:
        return len(value)
    except TypeError:
        raise ArgumentError(
            f"{called} holds a single {type(value).__name__} and no rows; a value for each image is needed. Is it the "
            "right key?"
        ) from None


def _shape_of_rows(values: Any) -> tuple[int, ...] | None:
    """The shape of a row of an array; None for a list."""
    shape = getattr(values, "shape", None)
    return None if shape is None else tuple(int(side) for side in shape[1:])


def _joined(key: str, parts: list[Any]) -> Any:
    """Rows of one part as one array, or as a list if the batches held lists; fewer boxes get empty ones."""
    if parts and isinstance(parts[0], np.ndarray):
        if key in RAGGED and parts[0].ndim == 3:
            most = max(one.shape[1] for one in parts)
            parts = [np.pad(one, ((0, 0), (0, most - one.shape[1]), (0, 0))) for one in parts]
        return np.concatenate(parts)
    return [one for part in parts for one in part]
