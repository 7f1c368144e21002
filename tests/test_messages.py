"""What users read: every message is one that was reviewed, and says its subject first."""

from __future__ import annotations

import ast
import difflib

from tests.messages import FILE, PACKAGE, every_message, messages_of

SOURCE = """
MORE = "see docs"
class Net:
    def build(self, layer):
        if layer is None:
            said = "is none"
            raise ArgumentError(Argument("layer"), f" {said}; {MORE}.")
        said = f"is a {type(layer).__name__}"
        if layer == 3:
            said = "is three"
        raise UnknownNameError(f"layer={layer!r} {said}: {len(layer):.2f}")
def warned(kind):
    warnings.warn(f"{kind} is odd", CamWarning, stacklevel=2)
    raise type(kind)(*parts)
"""


def test_a_message_is_read_as_its_parts_make_it() -> None:
    assert messages_of(SOURCE) == [
        ("Net.build", "ArgumentError", "layer is none; see docs."),
        (
            "Net.build",
            "UnknownNameError",
            "layer={layer!r} [is a {type(layer).__name__} | is three]: {len(layer):.2f}",
        ),
        ("warned", "CamWarning", "{kind} is odd"),
    ]


def test_every_message_is_the_one_that_was_reviewed() -> None:
    now, reviewed = every_message().splitlines(), FILE.read_text("utf-8").splitlines()
    changed = "\n".join(difflib.unified_diff(reviewed, now, "messages.txt", "the code", lineterm="", n=2))
    assert not changed, f"Reread what changed, then run: python -m tests.messages\n{changed}"


def test_no_message_and_no_docstring_begins_with_of() -> None:
    found = [line for line in every_message().splitlines() if line.startswith("    Of ")]
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                docstring = ast.get_docstring(node) or ""
                found += [f"{path.name}: {docstring}"] if docstring.startswith("Of ") else []
    assert not found
