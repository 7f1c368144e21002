"""The methods by name: what each needs, and how its heat reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from fe_gradcam.parameters import Catalogue, Entry
from fe_gradcam.types import OF_TARGET, CamInputs, Needs

CamRule: TypeAlias = Callable[..., Tensor]
"""Takes CamInputs and keyword-only parameters; returns the signed map (N, *S), or its terms by channel
(N, K, *S), whose sum over the channels is the map."""

OF_NO_TARGET = "what is active, whatever the class"
UNSIGNED = "how much the class depends on a place, for or against"
AT_RANDOM = "random weights, the baseline"


@dataclass(frozen=True)
class CamMethod(Entry):
    """A method: a CamRule, with the parameters that it was asked for with.

    Attributes:
        needs: What it must be given.
        cost: Forward and backward passes for each image, in words.
        shows: What the heat of its maps means, for a legend.
    """

    needs: Needs
    cost: str = ""
    shows: str = OF_TARGET

    def terms(self, inputs: CamInputs) -> Tensor:
        """The terms that the map is the sum of, (N, K, *S); of a method that has none, the map itself, K = 1."""
        result: Tensor = self.rule(inputs, **self.given)
        of_images = inputs.activations.dim() - 1
        return result[:, None] if result.dim() == of_images else result

    def __call__(self, inputs: CamInputs) -> Tensor:
        """The signed map, (N, *S)."""
        return self.terms(inputs).sum(1)


METHODS: Catalogue[CamMethod] = Catalogue(
    CamMethod,
    "method",
    ("ss_cam", {"samples": 8, "noise": 0.1}),
    no_name="; several go to explain_many(methods=[...])",
)


def cam_method(
    name: str,
    *,
    paper: str,
    needs: Needs = Needs.ACTIVATIONS | Needs.GRADIENTS,
    cost: str = "1 forward, 1 backward",
    shows: str = OF_TARGET,
) -> Callable[[CamRule], CamRule]:
    """Registers a rule under a name; its keyword-only arguments become the method's parameters."""

    def register(rule: CamRule) -> CamRule:
        METHODS.add(CamMethod(name, rule, needs, cost, shows, paper=paper))
        return rule

    return register
