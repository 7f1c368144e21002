"""The methods by name: what each method needs, and what its heat means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fe_gradcam.parameters import Catalogue, Entry
from fe_gradcam.types import OF_TARGET, CamInputs, Needs

BY_GRADIENTS = Needs.ACTIVATIONS | Needs.GRADIENTS
BY_ASKING = Needs.ACTIVATIONS | Needs.PROBE
BY_BOTH = BY_GRADIENTS | Needs.PROBE

OF_NO_TARGET = "what is active, whatever the class"
UNSIGNED = "how much the class depends on a place, for or against"
AT_RANDOM = "random weights, the baseline"


@dataclass(frozen=True)
class CamMethod(Entry):
    """A method. Its rule takes CamInputs and returns the signed map (N, *S), or its terms by channel (N, K, *S).

    Attributes:
        needs: What the rule needs.
        cost: Forward and backward passes for each image, in words.
        shows: What the heat means, for a legend.
    """

    needs: Needs = BY_GRADIENTS
    cost: str = "1 forward, 1 backward"
    shows: str = OF_TARGET

    @cached_property
    def of_layer(self) -> bool:
        """Whether it explains a layer; if not, it explains the whole model."""
        return Needs.ACTIVATIONS in self.needs

    @cached_property
    def by_gradients(self) -> bool:
        """Whether it needs gradients."""
        return Needs.GRADIENTS in self.needs

    @cached_property
    def asks(self) -> bool:
        """Whether it asks the model again."""
        return Needs.PROBE in self.needs

    def terms(self, inputs: CamInputs) -> Tensor:
        """The terms by channel that sum to the map, (N, K, *S); for a method without terms the map itself, K = 1."""
        result: Tensor = self.rule(inputs, **self.given)
        return result if result.dim() == inputs.activations.dim() else result[:, None]

    def __call__(self, inputs: CamInputs) -> Tensor:
        """The signed map, (N, *S)."""
        return self.terms(inputs).sum(1)


METHODS: Catalogue[CamMethod] = Catalogue(
    CamMethod, "method", ("ss_cam", {"samples": 8, "noise": 0.1}), no_name="; several go to explain_many(methods=[...])"
)
cam_method = METHODS.register
