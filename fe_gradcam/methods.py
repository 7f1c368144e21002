"""The CAM rules: pure functions from what one pass yields to the signed map, and their registry.

A is the activations and g their gradients, both (N, K, h, w); sums over space are written Σ, sums
over channels Σ_k. Every rule returns the signed map, (N, h, w), before the final ReLU. A new method
is one function here with the decorator `cam_method`; the trace, `explain` and the tests find it by
its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fe_gradcam.names import nearest
from fe_gradcam.types import ArgumentError, CamInputs, Needs, UnknownNameError


@dataclass(frozen=True)
class CamMethod:
    """A registered rule.

    Attributes:
        name: What users call it.
        rule: The function.
        paper: Its source.
        needs: What it must be given besides the activations.
    """

    name: str
    rule: Callable[[CamInputs], Tensor]
    paper: str
    needs: Needs

    @property
    def summary(self) -> str:
        """The first line of the rule's docstring."""
        return (self.rule.__doc__ or "").strip().partition("\n")[0]


METHODS: dict[str, CamMethod] = {}


def cam_method(
    name: str, *, paper: str, needs: Needs = Needs.GRADIENTS
) -> Callable[[Callable[[CamInputs], Tensor]], Callable[[CamInputs], Tensor]]:
    """Registers a rule under a name."""

    def register(rule: Callable[[CamInputs], Tensor]) -> Callable[[CamInputs], Tensor]:
        METHODS[name] = CamMethod(name, rule, paper, needs)
        return rule

    return register


def get_method(name: str) -> CamMethod:
    """The method of that name.

    Raises:
        UnknownNameError: There is none; the message lists those there are.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise UnknownNameError(f"method={name!r} is not known{nearest(name, METHODS)} Accepted: {', '.join(METHODS)}.")
    return METHODS[name]


def _gradients(inputs: CamInputs) -> Tensor:
    if inputs.gradients is None:
        raise ArgumentError("inputs.gradients is None, and this method weighs by gradients: pass (N, K, h, w).")
    return inputs.gradients


@cam_method("grad_cam", paper="Selvaraju 2017, arXiv:1610.02391")
def grad_cam(inputs: CamInputs) -> Tensor:
    """Σ_k mean(g_k) A_k: each channel weighted by its gradient averaged over space."""
    gradients = _gradients(inputs)
    weights = gradients.mean(tuple(range(2, gradients.dim())))
    return _weighted_sum(weights, inputs.activations)


@cam_method("hires_cam", paper="Draelos 2020, arXiv:2011.08891")
def hires_cam(inputs: CamInputs) -> Tensor:
    """Σ_k g_k ⊙ A_k: each place weighted by its own gradient."""
    return (_gradients(inputs) * inputs.activations).sum(1)


@cam_method("layer_cam", paper="Jiang 2021, IEEE TIP, doi:10.1109/TIP.2021.3089943")
def layer_cam(inputs: CamInputs) -> Tensor:
    """Σ_k relu(g_k) ⊙ A_k: as hires_cam, with the positive gradients alone."""
    return (_gradients(inputs).clamp(min=0) * inputs.activations).sum(1)


def _weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Σ_k w_k A_k for weights (N, K) and activations (N, K, *S); returns (N, *S)."""
    return torch.einsum("nk,nk...->n...", weights, activations)
