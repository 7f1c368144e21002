"""What a page keeps of a training: its images with their heat, and numbers over the epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fe_gradcam.reporting.content import PageDataset
from fe_gradcam.reporting.entries import Entry
from fe_gradcam.reporting.pack import number

Past: TypeAlias = Mapping[str, Mapping[int, Any]]
"""Values by key and epoch."""

SPEEDS = re.compile(r"(/sec|\(sec\))( \(train\))?$")
"""Keys of values that say how fast a machine is; the same training would not give the same page."""


def number_of(value: Any) -> float | None:
    """A value of a log as a number: a number, an array or tensor of one, or a value with an error; None otherwise."""
    value = getattr(value, "y", value)
    try:
        found = math.nan if isinstance(value, str) else float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):  # torch says RuntimeError of tensors with several numbers
        return None
    return found if math.isfinite(found) else None


class Curves:
    """Numbers over the epochs, by key.

    Attributes:
        points: {key: {epoch: number}}.
    """

    def __init__(self, points: Mapping[str, Mapping[int, float]] | None = None) -> None:
        self.points: dict[str, dict[int, float]] = {key: dict(its) for key, its in (points or {}).items()}

    def add(self, values: Past) -> bool:
        """Adds values, where they are numbers; returns whether something is new."""
        before = {key: dict(its) for key, its in self.points.items()}
        for key, by_epoch in values.items():
            known = {epoch: number_of(value) for epoch, value in by_epoch.items()} if not SPEEDS.search(key) else {}
            for epoch, value in known.items():
                if value is not None:
                    self.points.setdefault(key, {})[int(epoch)] = value
        return self.points != before

    def of_epoch(self, epoch: int, log: Mapping[str, Any]) -> None:
        """Adds the values of an epoch, and takes off what was there of it and of later ones."""
        for its in self.points.values():
            for later in [one for one in its if one >= epoch]:
                del its[later]
        self.points = {key: its for key, its in self.points.items() if its}
        self.add({key: {epoch: value} for key, value in log.items()})

    def entries(self, own: Collection[str], says: Mapping[str, str]) -> list[Entry]:
        """The curves as a page has them: those of the loop, then `own`.

        Args:
            own: Keys of the products.
            says: How to read the numbers, by key.
        """
        found = []
        for key in sorted(self.points, key=lambda one: (one.partition("|")[0] in own, one)):
            name, _, dataset = key.partition("|")
            points = [[epoch, number(value)] for epoch, value in sorted(self.points[key].items())]
            found.append({"key": name, "says": says.get(name), "dataset": dataset, "points": points})
        return found


@dataclass(eq=False)
class KeptPage:
    """What the page of a mode keeps: images with their heat by dataset, curves, and numbers of epochs left out."""

    datasets: dict[str, PageDataset] = field(default_factory=dict)
    curves: Curves = field(default_factory=Curves)
    left_out: list[int] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """The page in plain containers, for a training that is resumed."""
        datasets = {name: one.state() for name, one in self.datasets.items()}
        return {"datasets": datasets, "curves": self.curves.points, "left_out": self.left_out}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> KeptPage:
        """The page of a state."""
        datasets = {name: PageDataset(**one) for name, one in state["datasets"].items()}
        return cls(datasets, Curves(state["curves"]), list(state["left_out"]))
