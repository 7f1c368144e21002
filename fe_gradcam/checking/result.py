"""What a check of a model found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, Literal

Outcome = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        name: What was tested.
        outcome: ``"passed"``, ``"failed"`` or ``"not applicable"``.
        said: What was seen, and what to pass instead if it failed, or why it does not apply.
        figures: The numbers behind it, by name.
    """

    name: str
    outcome: Outcome
    said: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """What `check_model` found.

    Attributes:
        model: The name of the model's class.
        layer: The place that was explained.
        map: The size of its map, (h, w) or (d, h, w).
        findings: One for each test, in order.
    """

    model: str
    layer: str
    map: tuple[int, ...]
    findings: Sequence[Finding]

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return all(one.outcome != "failed" for one in self.findings)

    def __getitem__(self, name: str) -> Finding:
        """The finding of this name."""
        return next(one for one in self.findings if one.name == name)

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists, texts and numbers."""
        findings = [
            {"name": one.name, "outcome": one.outcome, "said": one.said, "figures": dict(one.figures)}
            for one in self.findings
        ]
        return {
            "model": self.model,
            "layer": self.layer,
            "map": list(self.map),
            "passed": self.passed,
            "findings": findings,
        }

    def __str__(self) -> str:
        """A table for the terminal."""
        width = max(len(one.name) for one in self.findings)
        lines = [f"{self.model}, explained at {self.layer!r}, a map of {' x '.join(map(str, self.map))}"]
        for one in self.findings:
            first, *rest = wrap(one.said, 110 - width - 20) or [""]
            lines.append(f"  {one.name:<{width}}  {one.outcome:<14}  {first}")
            lines += [" " * (width + 20) + line for line in rest]
        failed = sum(one.outcome == "failed" for one in self.findings)
        tested = sum(one.outcome != "not applicable" for one in self.findings)
        lines.append(f"{failed} of {tested} tests failed." if failed else f"All {tested} tests that apply passed.")
        return "\n".join(lines)

    __repr__ = __str__
