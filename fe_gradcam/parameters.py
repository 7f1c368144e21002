"""Parameters, and catalogues of what is asked for by a name: methods, metrics, selections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Protocol, TypeAlias, get_args, get_origin

import numpy as np

from fe_gradcam.errors import ArgumentError, UnknownNameError, nearest


@dataclass(frozen=True)
class Within:
    """The numbers that a parameter accepts: from `least` to `most`, both included; None has no bound."""

    least: float
    most: float | None = None

    def __str__(self) -> str:
        return f"from {self.least:g}" if self.most is None else f"from {self.least:g} to {self.most:g}"


Count: TypeAlias = Annotated[int, Within(1)]


Fraction: TypeAlias = Annotated[float, Within(0, 1)]


Level: TypeAlias = Annotated[float, Within(0)]


OptionalCount: TypeAlias = Annotated[int | None, Within(1)]


Value: TypeAlias = float | None


LARGEST = float(np.finfo(np.float64).max)
"""The largest number there is."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name: What it is called.
        default: Its value where none is given.
        kind: bool, int or float.
        within: The numbers that are accepted, or None for any finite one.
        optional: Whether None is accepted.
    """

    name: str
    default: Any
    kind: type
    within: Within | None = None
    optional: bool = False

    @property
    def accepted(self) -> str:
        """In words, what it accepts."""
        number = {bool: "True or False", int: "an integer", float: "a number"}[self.kind]
        return " ".join(filter(None, (number, str(self.within or ""), "or None" * self.optional)))

    def accepts(self, value: Any) -> bool:
        """Whether `value` is one of its values."""
        if value is None or self.kind is bool:
            return self.optional if value is None else isinstance(value, (bool, np.bool_))
        number: Any = Integral if self.kind is int else Real
        if isinstance(value, bool) or not isinstance(value, number) or not abs(value) <= LARGEST:
            return False
        bounds = self.within or Within(-LARGEST)
        return bool(bounds.least <= value <= (LARGEST if bounds.most is None else bounds.most))

    def plain(self, value: Any) -> Any:
        """An accepted value with NumPy's integers, which overflow, as Python's own."""
        return value if value is None or self.kind is float else self.kind(value)


class Parametric(Protocol):
    """What is asked for by a name, and takes parameters."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What it takes, by name."""


def asked_for(kind: str, asked: Any, table: Mapping[str, Parametric], accepted_pair: str) -> tuple[str, dict[str, Any]]:
    """What a name, or a pair of a name and parameters, asks for: the name, and the parameters as Python's own.

    Args:
        kind: What is named, such as "method".
        asked: A name or a pair.
        table: What there is, by name.
        accepted_pair: The end of the error that says what is accepted: an example of a pair, and what else helps.

    Raises:
        UnknownNameError: There is no such name, or it has no such parameter.
        ArgumentError: A parameter's value is not accepted, or `asked` is neither a name nor a pair.
    """
    name, given = asked if is_pair(asked) else (asked, {})
    if not isinstance(name, str):
        raise ArgumentError(f"{kind}={asked!r} is not accepted. Accepted: a name, or a pair {accepted_pair}")
    if name not in table:
        raise UnknownNameError(f"{kind}={name!r} is not known{nearest(name, table)} Accepted: {', '.join(table)}.")
    known = table[name].parameters
    for parameter, value in given.items():
        if parameter not in known:
            accepted = ", ".join(known) or f"none, this {kind} has no parameters"
            raise UnknownNameError(
                f"{kind}={name!r} has no parameter {parameter!r}{nearest(parameter, known)} Accepted: {accepted}."
            )
        if not known[parameter].accepts(value):
            raise ArgumentError(
                f"{kind}={name!r}: {parameter}={value!r} is not accepted. Accepted: {known[parameter].accepted}."
            )
    return name, {parameter: known[parameter].plain(value) for parameter, value in given.items()}


def is_pair(method: Any) -> bool:
    """Whether it is a method with its parameters: a pair of a name and a dict."""
    return isinstance(method, (tuple, list)) and len(method) == 2 and isinstance(method[1], Mapping)


_JSON = {"None": "null", "True": "true", "False": "false"}


def _parameter(name: str, default: Any, hint: Any) -> Parameter:
    within = None
    if get_origin(hint) is Annotated:
        hint, within = get_args(hint)
    kinds = get_args(hint) or (hint,)
    kind = next(one for one in kinds if one is not type(None))
    return Parameter(name, default, kind, within, type(None) in kinds)
