"""Parameters, and catalogues of rules that are found by name: methods, metrics, rules of selection."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from fe_gradcam.errors import Argument, ArgumentError, UnknownArgumentError, UnknownNameError, in_short, nearest

LARGEST_NUMBER = float(np.finfo(np.float64).max)

LARGEST_WHOLE = 2**63 - 1
"""The largest integer that arrays hold, and so the largest that any parameter takes."""


@dataclass(frozen=True)
class Within:
    """The finite numbers that a parameter accepts, both bounds included."""

    least: float = -LARGEST_NUMBER
    most: float = LARGEST_NUMBER

    def __str__(self) -> str:
        least = f" from {self.least:g}" * (self.least > -LARGEST_NUMBER)
        return least + f" to {self.most:g}" * (self.most < LARGEST_NUMBER)


Count: TypeAlias = Annotated[int, Within(1)]
Fraction: TypeAlias = Annotated[float, Within(0, 1)]
Level: TypeAlias = Annotated[float, Within(0)]
OptionalCount: TypeAlias = Annotated[int | None, Within(1)]
Value: TypeAlias = float | None


@dataclass(frozen=True)
class Parameter:
    """A parameter that a rule takes besides its inputs.

    Attributes:
        kind: bool, int or float.
        others: Accepted values that are no numbers: words, None.
        several: Whether the parameter takes a tuple of such values.
    """

    name: str
    default: Any
    kind: type
    within: Within = Within()
    others: tuple[str | None, ...] = ()
    several: bool = False

    @classmethod
    def of(cls, name: str, default: Any, hint: Any) -> Parameter:
        """The parameter that an annotation describes, such as Count, or a float or some words."""
        inside = (one for one in get_args(hint) if get_origin(one) is Annotated)
        hint = next(inside, hint)  # Python 3.10 reads one whose default is None as Optional
        hint, accepted = get_args(hint) if get_origin(hint) is Annotated else (hint, Within())
        within, words = (accepted, ()) if isinstance(accepted, Within) else (Within(), accepted)
        kinds = get_args(hint) or (hint,)
        kind = next(one for one in kinds if one in (bool, int, float))
        others = (*words, *[None] * (type(None) in kinds))
        return cls(name, default, kind, within, others, several=get_origin(hint) is tuple)

    @property
    def accepted(self) -> str:
        """What the parameter accepts, in words."""
        number = {bool: "True or False", int: "an integer", float: "a number"}[self.kind]
        one = " or ".join([f"{number}{self.within}", *map(repr, self.others)])
        return f"several, each {one}" if self.several else one

    def accepts(self, value: Any) -> bool:
        """Whether the parameter accepts `value`."""
        if self.several:
            return isinstance(value, (tuple, list)) and len(value) > 0 and all(map(self._accepts_one, value))
        return self._accepts_one(value)

    def _accepts_one(self, value: Any) -> bool:
        if value is None or isinstance(value, str):
            return value in self.others
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, (bool, np.bool_))
        if self.kind is int and not (isinstance(value, Integral) and int(value) <= LARGEST_WHOLE):
            return False
        number: Any = value
        return isinstance(value, Real) and bool(self.within.least <= number <= self.within.most)

    def plain(self, value: Any) -> Any:
        """An accepted value, with NumPy's integers, which overflow, turned into Python's own."""
        if isinstance(value, (tuple, list)):
            return tuple(map(self.plain, value))
        return value if value is None or isinstance(value, str) or self.kind is float else self.kind(value)


def whole(name: str, value: Any, least: int, none: str = "", most: float = LARGEST_NUMBER) -> int:
    """The value as an integer from `least` to `most`, or ArgumentError; `none` says what else the caller accepts."""
    return int(_checked(Parameter(name, least, int, Within(least, most)), value, none))


def fraction(name: str, value: Any) -> float:
    """The value as a number from 0 to 1, or ArgumentError."""
    return float(_checked(Parameter(name, 0, float, Within(0, 1)), value))


def level(name: str, value: Any) -> float:
    """The value as a finite number from 0, or ArgumentError."""
    return float(_checked(Parameter(name, 0, float, Within(0)), value))


def flag(name: str, value: Any) -> bool:
    """The value as True or False, or ArgumentError."""
    return bool(_checked(Parameter(name, False, bool), value))


def checked_text(name: str, value: Any) -> str:
    """The value as text, or ArgumentError."""
    if not isinstance(value, str):
        raise ArgumentError(Argument(name, in_short(value)), " is not accepted. Accepted: a string.")
    return "".join(value)


def one_of(name: str, value: Any, accepted: Collection[Any]) -> None:
    """Raises ArgumentError unless the value is one of `accepted`; 1 does not count as True."""
    if type(value) is str and value in accepted:
        return
    of_kind = [one for one in accepted if isinstance(value, (bool, str)) == isinstance(one, (bool, str))]
    if not isinstance(value, (str, Real)) or not any(value == one for one in of_kind):
        said = f" is not known{nearest(value, map(str, accepted))} Accepted: {', '.join(map(repr, accepted))}."
        raise ArgumentError(Argument(name, in_short(value)), said)


def _checked(parameter: Parameter, value: Any, more: str = "") -> Any:
    if not parameter.accepts(value):
        most = f", at most {LARGEST_WHOLE}" * (isinstance(value, Integral) and int(value) > LARGEST_WHOLE)
        said = f" is not accepted. Accepted: {parameter.accepted}{most}{more}."
        raise ArgumentError(Argument(parameter.name, in_short(value)), said)
    return value


@dataclass(frozen=True)
class Entry:
    """A rule that is found by its name, with the parameters that were given for it.

    Attributes:
        rule: The function; its keyword-only arguments are the parameters.
        given: The parameters that were given, by name; the others keep their defaults.
    """

    name: str
    rule: Callable[..., Any]
    paper: str = field(default="", kw_only=True)
    given: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def label(self) -> str:
        """The name, with the parameters that were given."""
        said = ", ".join(f"{name}={value}" for name, value in self.given.items())
        return f"{self.name}({said})" if said else self.name

    @property
    def summary(self) -> str:
        """The first line of the rule's docstring."""
        return (self.rule.__doc__ or "").strip().partition("\n")[0]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters that the rule takes besides its inputs, by name."""
        hints = get_type_hints(self.rule, include_extras=True)
        found = inspect.signature(self.rule).parameters.values()
        kept = (one for one in found if one.kind is inspect.Parameter.KEYWORD_ONLY)
        return {one.name: Parameter.of(one.name, one.default, hints[one.name]) for one in kept}

    def with_parameters(self: E, **given: Any) -> E:
        """The same entry with further parameters, which the caller has checked."""
        return replace(self, given={**self.given, **given})


E = TypeVar("E", bound=Entry)
R = TypeVar("R", bound=Callable[..., Any])


@dataclass(eq=False, repr=False)
class Catalogue(dict[str, E]):
    """Entries by name, in the order in which they were added.

    Attributes:
        entry: The class of the entries.
        kind: What an entry is, as errors call it: "method".
        example: A name and parameters, shown in errors that say what is accepted.
        no_name: What the error adds if something else than a name was given.
        unknown: What the error adds if the name is unknown.
    """

    entry: type[E]
    kind: str
    example: tuple[str, Mapping[str, Any]]
    no_name: str = ""
    unknown: str = ""

    def register(self, name: str, **facts: Any) -> Callable[[R], R]:
        """A decorator that adds a rule under a name; `facts` are the other fields of its entry."""

        def register(rule: R) -> R:
            self.add(self.entry(name, rule, **facts))
            return rule

        return register

    def add(self, *entries: E) -> None:
        """Adds entries under their names."""
        self.update({entry.name: entry for entry in entries})

    def find(self, asked: Any, also: Iterable[str] = ()) -> E:
        """The entry for a name, or for a pair of a name and parameters; an entry is returned as it is.

        `also` holds further names that the caller knows, for the error.

        Raises:
            UnknownNameError: There is no such name, or the rule has no such parameter.
            ArgumentError: A parameter's value is not accepted, or `asked` is neither a name nor a pair.
        """
        if type(asked) is str and asked in self:
            return self[asked]
        if isinstance(asked, self.entry):
            return asked
        name, given = asked if is_pair(asked) else (asked, {})
        try:
            given = dict(given)
        except Exception:  # of a mapping of the user
            name = None
        if not isinstance(name, str):
            said = f" is not accepted. Accepted: a name, or a pair {self.example}{self.no_name}."
            raise ArgumentError(Argument(self.kind, in_short(asked)), said)
        named = Argument(self.kind, in_short(name))
        if name not in self:
            known = [*self, *also]
            accepted = f"{', '.join(known)}{self.unknown}"
            raise UnknownNameError(named, f" is not known{nearest(name, known)} Accepted: {accepted}.")
        if not given:
            return self[name]
        parameters = self[name].parameters
        for key, value in given.items():
            if key not in parameters:
                accepted = ", ".join(parameters) or f"none, this {self.kind} has no parameters"
                said = f" has no parameter {in_short(key)}{nearest(key, parameters)} Accepted: {accepted}."
                raise UnknownNameError(named, said)
            if not parameters[key].accepts(value):
                said = f": {key}={in_short(value)} is not accepted. Accepted: {parameters[key].accepted}."
                raise ArgumentError(named, said)
        return self[name].with_parameters(**{key: parameters[key].plain(value) for key, value in given.items()})

    def parse(self, text: str) -> str | tuple[str, dict[str, Any]]:
        """One word, such as ``score_cam`` or ``is_cam:samples=8``, in the form that `find` takes.

        Raises:
            ArgumentError: The text is not of that form.
        """
        name, colon, rest = text.partition(":")
        if not colon:
            return name
        given: dict[str, Any] = {}
        for part in rest.split(","):
            key, _, value = (piece.strip() for piece in part.partition("="))
            try:
                new = {key: json.loads(_JSON.get(value, value))}
            except json.JSONDecodeError:  # also if there is no value
                new = {}
            if not new or key in given:
                word = f"{self.example[0]}:" + ",".join(f"{key}={value}" for key, value in self.example[1].items())
                said = f" is not accepted. Accepted: a name, or a name with parameters, each once: {word}"
                raise ArgumentError(Argument(self.kind, in_short(text)), said)
            given |= new
        return name, given


_JSON = {"None": "null", "True": "true", "False": "false"}


def is_pair(asked: Any) -> bool:
    """Whether `asked` is a name with its parameters: a pair of a name and a dict."""
    return isinstance(asked, (tuple, list)) and len(asked) == 2 and isinstance(asked[1], Mapping)


def several(asked: Any) -> Any:
    """What is asked for, as a list: a single name, pair or entry becomes a list of one."""
    return [asked] if isinstance(asked, (str, Entry)) or is_pair(asked) else asked


P = ParamSpec("P")
Returned = TypeVar("Returned")


def knows_its_keywords(**meant: str) -> Callable[[Callable[P, Returned]], Callable[P, Returned]]:
    """Decorates a function: if a keyword is passed that the function does not have, an error says which one is meant.

    Args:
        meant: What to pass instead of a keyword of another function or package: ``methods="method= with one"``.

    Raises:
        UnknownArgumentError: When the function is called with an unknown keyword; a ValueError and a TypeError.
    """

    def checked(function: Callable[P, Returned]) -> Callable[P, Returned]:
        own = [name for name in inspect.signature(function).parameters if name != "self"]
        called = function.__qualname__.partition(".")[0]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Returned:
            for name in kwargs:
                if name not in own:
                    hint = f"; pass {meant[name]}." if name in meant else nearest(name, own)
                    raise UnknownArgumentError(
                        f"{called} has no argument {in_short(name)}{hint} It has: {', '.join(own)}."
                    )
            return function(*args, **kwargs)

        return call

    return checked


C = TypeVar("C", bound=type)


def class_knows_its_keywords(**meant: str) -> Callable[[C], C]:
    """The same for the arguments of a class; see `knows_its_keywords`."""

    def checked(made: C) -> C:
        made.__init__ = knows_its_keywords(**meant)(made.__init__)  # type: ignore[misc]
        return made

    return checked
