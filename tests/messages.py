"""Every message of the package, read from its code: ``python -m tests.messages`` writes them to messages.txt.

A reviewer reads that file from top to bottom; `tests/test_messages.py` holds it against the code. What a message takes
from the moment stands in braces, as in the code; of several wordings each stands in brackets.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fe_gradcam

PACKAGE = Path(fe_gradcam.__file__).parent
FILE = Path(__file__).with_name("messages.txt")

SAYS = {"say": "says", "refuse": "BadParameter", "_refused": "ArgumentError", "warn": "warning"}
"""Functions that take a message, and what becomes of it."""

OF_OTHERS = {"BadParameter", "UsageError", "ClickException"}
"""Errors of the library of the command line."""

HEAD = """\
Every message of the package, by file and function: errors, warnings, and what the command line says.
Written by "python -m tests.messages"; a change here is a change of what users read: reread it as one of them.
"""


def every_message() -> str:
    """The whole file."""
    parts = [HEAD]
    for path in sorted(PACKAGE.rglob("*.py")):
        found = [f"{where}: {kind}\n    {text}\n" for where, kind, text in messages_of(path.read_text("utf-8"))]
        if found:
            name = path.relative_to(PACKAGE).as_posix()
            parts += [f"{name}\n{'-' * len(name)}", *found]
    return "\n".join(parts)


def messages_of(source: str) -> list[tuple[str, str, str]]:
    """Of one file, for each message: the function that makes it, what it is, and its text."""
    return _Reader(ast.parse(source)).found


class _Reader:
    """Walks a module; knows where it is: the function, and the statements around."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[str, str, str]] = []
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        in_order = sorted((node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.Call)), key=_line)
        self._assigned = [node for node in in_order if isinstance(node, (ast.Assign, ast.AnnAssign))]
        for node in in_order:
            if isinstance(node, ast.Call):
                self._read(node)

    def _read(self, call: ast.Call) -> None:
        name, arguments = _name(call), call.args
        kind = SAYS.get(name, name)
        if name == "warn" and len(arguments) > 1:
            kind, arguments = ast.unparse(arguments[1]), arguments[:1]
        is_message = name in SAYS or name in OF_OTHERS or name.endswith(("Error", "Warning"))
        passes_one_on = any(isinstance(one, ast.Call) and _is_ours(_name(one)) for one in arguments)
        text = "".join(self._text(one) for one in arguments[-1 if name == "_refused" else 0 :])
        if name == "refuse":
            text = " | ".join(self._text(one) for one in arguments[:2])
        if is_message and not passes_one_on and any(map(str.isalpha, _outside_braces(text))):
            self.found.append((self._function_of(call), kind, text))

    def _around(self, node: ast.AST) -> list[ast.AST]:
        """The node and all that it stands in, the innermost first."""
        found = [node]
        while found[-1] in self._parents:
            found.append(self._parents[found[-1]])
        return found

    def _function_of(self, node: ast.AST) -> str:
        names = [one.name for one in self._around(node) if isinstance(one, (ast.FunctionDef, ast.ClassDef))]
        return ".".join(reversed(names)) or "module"

    def _text(self, node: ast.expr, seen: tuple[str, ...] = ()) -> str:
        """An expression as the text that it makes."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(self._text(one, seen) for one in node.values)
        if isinstance(node, ast.FormattedValue):
            return self._formatted(node, seen)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._text(node.left, seen) + self._text(node.right, seen)
        if isinstance(node, ast.Call) and _name(node) == "Argument":
            name, *value = (self._text(one, seen) for one in node.args)
            return f"{name}={value[0]}" if value else name
        if isinstance(node, ast.Starred):
            return self._text(node.value, seen)
        if isinstance(node, (ast.Tuple, ast.List)):
            return "".join(self._text(one, seen) for one in node.elts)
        if isinstance(node, ast.Name) and node.id not in seen and (values := self._values(node)):
            return self._any_of(values, (*seen, node.id))
        return f"{{{ast.unparse(node)}}}"

    def _formatted(self, node: ast.FormattedValue, seen: tuple[str, ...]) -> str:
        """A value inside a text; a name that stands for a text is that text."""
        value, plain = node.value, node.conversion == -1 and node.format_spec is None
        values = self._values(value) if isinstance(value, ast.Name) and value.id not in seen else []
        if plain and values and all(isinstance(one, (ast.JoinedStr, ast.Constant)) for one in values):
            return self._any_of(values, (*seen, value.id))  # type: ignore[attr-defined]
        spec = f":{ast.unparse(node.format_spec)[2:-1]}" if node.format_spec is not None else ""
        return f"{{{ast.unparse(value)}{'' if node.conversion == -1 else f'!{chr(node.conversion)}'}{spec}}}"

    def _any_of(self, values: list[ast.expr], seen: tuple[str, ...]) -> str:
        texts = list(dict.fromkeys(self._text(one, seen) for one in values))
        return texts[0] if len(texts) == 1 else f"[{' | '.join(texts)}]"

    def _values(self, name: ast.Name) -> list[ast.expr]:
        """What a name may stand for there: what it was given last in any case, and since then perhaps."""
        around = self._around(name)
        scope = next((one for one in around if isinstance(one, ast.FunctionDef)), around[-1])
        found: list[ast.expr] = []
        for node in self._assigned:
            value = _given(node, name.id)
            own = [one for one in self._around(node) if isinstance(one, ast.FunctionDef)][:1] in ([scope], [])
            if value is not None and own and node.lineno < name.lineno:
                certain = self._parents[node] in around and self._branch(node) == self._branch_towards(node, around)
                found = [value] if certain else [*found, value]
        return found

    def _branch(self, node: ast.AST) -> str:
        return next(
            field for field, value in ast.iter_fields(self._parents[node]) if value is node or _has(value, node)
        )

    def _branch_towards(self, node: ast.AST, around: list[ast.AST]) -> str:
        return self._branch(around[around.index(self._parents[node]) - 1])


def _line(node: ast.stmt | ast.Call) -> int:
    return node.lineno


def _has(value: object, node: ast.AST) -> bool:
    return isinstance(value, list) and any(one is node for one in value)


def _given(node: ast.Assign | ast.AnnAssign, name: str) -> ast.expr | None:
    """What a name is given by an assignment."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name) and target.id == name:
            return node.value
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for one, its in zip(target.elts, node.value.elts, strict=False):  # a starred part has no text
                if isinstance(one, ast.Name) and one.id == name:
                    return its
    return None


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_ours(name: str) -> bool:
    return name.endswith(("Error", "Warning")) or name in OF_OTHERS


def _outside_braces(text: str) -> Iterator[str]:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth == 0:
            yield character


if __name__ == "__main__":
    FILE.write_text(every_message(), "utf-8")
    print(f"{FILE.name}: {len(every_message().splitlines())} lines")
