"""The methods by name: what each needs, which parameters it takes, and how one is asked for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Annotated, Any, Protocol, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from fe_gradcam.errors import nearest
from fe_gradcam.types import ArgumentError, CamInputs, Method, Needs, UnknownNameError

Rule: TypeAlias = Callable[..., Tensor]
"""Takes CamInputs and keyword-only parameters; returns the signed map (N, *S), or its terms by channel
(N, K, *S), whose sum over the channels is the map."""


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


OF_TARGET = "evidence for the class"
OF_NO_TARGET = "what is active, whatever the class"
UNSIGNED = "how much the class depends on a place, for or against"
AT_RANDOM = "random weights, the baseline"


@dataclass(frozen=True)
class CamMethod:
    """A method: a rule, with the parameters that it was asked for with.

    Attributes:
        name: What users call it.
        rule: The function.
        paper: Its source.
        needs: What it must be given.
        cost: Forward and backward passes for each image, in words.
        shows: What the heat of its maps means, for a legend.
        given: Parameters that were passed, by name; the others have their defaults.
    """

    name: str
    rule: Rule
    paper: str
    needs: Needs
    cost: str = ""
    shows: str = OF_TARGET
    given: Mapping[str, Any] = field(default_factory=dict)

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
        """What the rule takes besides the inputs, by name."""
        hints = get_type_hints(self.rule, include_extras=True) if inspect.isfunction(self.rule) else {}
        found = inspect.signature(self.rule).parameters.values() if hints else ()
        return {
            one.name: _parameter(one.name, one.default, hints[one.name])
            for one in found
            if one.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def terms(self, inputs: CamInputs) -> Tensor:
        """The terms that the map is the sum of, (N, K, *S); of a method that has none, the map itself, K = 1."""
        result = self.rule(inputs, **self.given)
        of_images = inputs.activations.dim() - 1
        return result[:, None] if result.dim() == of_images else result

    def __call__(self, inputs: CamInputs) -> Tensor:
        """The signed map, (N, *S)."""
        return self.terms(inputs).sum(1)


METHODS: dict[str, CamMethod] = {}


def cam_method(
    name: str,
    *,
    paper: str,
    needs: Needs = Needs.ACTIVATIONS | Needs.GRADIENTS,
    cost: str = "1 forward, 1 backward",
    shows: str = OF_TARGET,
) -> Callable[[Rule], Rule]:
    """Registers a rule under a name; its keyword-only arguments become the method's parameters."""

    def register(rule: Rule) -> Rule:
        METHODS[name] = CamMethod(name, rule, paper, needs, cost, shows)
        return rule

    return register


def get_method(method: Method | CamMethod) -> CamMethod:
    """The method of a name, or of a pair of a name and parameters.

    Raises:
        UnknownNameError: There is no such method, or it has no such parameter.
        ArgumentError: A parameter's value is not accepted, or `method` is neither a name nor a pair.
    """
    if isinstance(method, CamMethod):
        return method
    name, given = asked_for(
        "method", method, METHODS, "('score_cam', {parameter: value}); several go to explain_many(methods=[...])."
    )
    return replace(METHODS[name], given=given)


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


def parse_method(text: str) -> Method:
    """A method as it is written in one word: ``score_cam``, or ``smooth_grad_cam_plus_plus:samples=8,noise=0.1``.

    Raises:
        ArgumentError: It is not of that form.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return name
    refused = ArgumentError(
        f"method={text!r} is not accepted. Accepted: a name, or a name with parameters, each once: "
        "smooth_grad_cam_plus_plus:samples=8,noise=0.1"
    )
    given: dict[str, Any] = {}
    for part in rest.split(","):
        parameter, _, value = (piece.strip() for piece in part.partition("="))
        if parameter in given:
            raise refused
        try:
            given[parameter] = json.loads(_JSON.get(value, value))
        except json.JSONDecodeError:  # of no value too
            raise refused from None
    return name, given


_JSON = {"None": "null", "True": "true", "False": "false"}


def _parameter(name: str, default: Any, hint: Any) -> Parameter:
    within = None
    if get_origin(hint) is Annotated:
        hint, within = get_args(hint)
    kinds = get_args(hint) or (hint,)
    kind = next(one for one in kinds if one is not type(None))
    return Parameter(name, default, kind, within, type(None) in kinds)
