"""The methods by name: what each needs, which parameters it takes, and how one is asked for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, get_type_hints

from torch import Tensor

from fe_gradcam.errors import ArgumentError
from fe_gradcam.parameters import _JSON, Parameter, _parameter, asked_for
from fe_gradcam.types import OF_TARGET, CamInputs, Method, Needs

Rule: TypeAlias = Callable[..., Tensor]
"""Takes CamInputs and keyword-only parameters; returns the signed map (N, *S), or its terms by channel
(N, K, *S), whose sum over the channels is the map."""


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
