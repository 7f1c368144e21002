"""Changed copies of a module, made by Cosmic Ray, and a draw of them that stays the same while the code does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

LEFT_OUT = (
    r"_(BitOr|BitXor|BitAnd|LShift|RShift)(_|$)|Operator_Is(Not)?_|_Is(Not)?$|USub_Not|UAdd|RemoveDecorator|NoOp"
    r"|VariableReplacer|VariableInserter"
)
"""What changes annotations, which nothing runs, or ends at once in a TypeError, as bits of floats do; `==` into `is`;
what asks for arguments."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        module: Its path from the root, as "fe_gradcam/metrics/area.py".
        operator: Cosmic Ray's name of the change, as "core/NumberReplacer".
        occurrence: The number of this change among those of the operator in the module.
        line: Where it stands, from 1.
        text: That line.
    """

    module: str
    operator: str
    occurrence: int
    line: int
    text: str

    def source(self, original: str) -> str:
        """The changed module."""
        changed = mutate_code(original, get_operator(self.operator)(), self.occurrence)
        assert changed is not None, self
        return str(changed)

    def is_python(self, original: str) -> bool:
        """Whether it can be run: the star of `*, name` is no product."""
        try:
            compile(self.source(original), self.module, "exec")
        except SyntaxError:
            return False
        return True

    def lines(self, original: str) -> list[str]:
        """The lines that are taken out, with a "-" before them, and those that come in, with a "+"."""
        diff = list(unified_diff(original.splitlines(), self.source(original).splitlines(), n=0, lineterm=""))
        return [line for line in diff[2:] if line[0] in "+-"]


def mutants(root: Path, module: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    source = (root / module).read_text("utf-8")
    nodes, lines = list(ast_nodes(get_ast(source))), source.splitlines()
    for name in operator_names():
        if re.search(LEFT_OUT, name):
            continue
        operator = get_operator(name)()
        places = [place for node in nodes for place, _ in operator.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(places):
            yield Mutant(module, name, occurrence, line, lines[line - 1])


def drawn(root: Path, room: str, count: int, seed: int) -> list[Mutant]:
    """Some mutants of a room, one a line at most, drawn by a hash of the line and the change."""

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.module} {mutant.text} {mutant.operator}".encode()).hexdigest()

    def rank_of_line(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.module} {mutant.text}".encode()).hexdigest()

    paths = sorted((root / "fe_gradcam" / room).rglob("*.py"))
    found = [one for path in paths for one in mutants(root, path.relative_to(root).as_posix()) if path.stat().st_size]
    by_line: dict[tuple[str, int], Mutant] = {}
    for mutant in sorted(found, key=rank):
        by_line.setdefault((mutant.module, mutant.line), mutant)
    ranked = sorted(by_line.values(), key=rank_of_line)
    return list(islice((one for one in ranked if one.is_python((root / one.module).read_text("utf-8"))), count))
