"""The list of mutants that live, each with the reason why: survivors.txt beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("survivors.txt")


@dataclass(frozen=True)
class Survivor:
    """A change that no test sees.

    Attributes:
        module: The changed file's path from the root.
        lines: Lines taken out, with a "-" before them, and those that come in, with a "+".
        reason: Why none does.
    """

    module: str
    lines: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return "\n".join([self.module, *self.lines, self.reason]) + "\n"


def survivors(text: str) -> list[Survivor]:
    """Reads the list: blocks of a path, the lines of the change and a reason, with an empty line between them."""
    found = []
    for block in text.split("\n\n"):
        module, *rest = block.strip("\n").split("\n")
        lines = tuple(line for line in rest if line[:1] in ("+", "-"))
        if lines:
            found.append(Survivor(module, lines, " ".join(rest[len(lines) :])))
    return found
