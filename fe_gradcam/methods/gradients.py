"""The CAM rules: pure functions from what one pass yields to the signed map.

A is the activations and g their gradients, both (N, K, h, w); y is the score of the target, x the image.
Sums over space are written Σ, sums over channels Σ_k. A rule returns the signed map before the final
ReLU, (N, h, w), or its terms by channel, (N, K, h, w), whose sum is the map. A new method is one function
here with the decorator `cam_method`; its keyword-only arguments are the method's parameters. The trace,
`explain`, the operator, the command line and the tests find it by its name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fe_gradcam.errors import ArgumentError
from fe_gradcam.methods.asking import RandomNumbers
from fe_gradcam.methods.registry import AT_RANDOM, cam_method
from fe_gradcam.types import CamInputs, Needs

NEARLY_ZERO = 1e-6
"""A denominator below this is taken as zero, and so is its term."""


# --- weights from gradients --------------------------------------------------------------------------------


@cam_method("grad_cam", paper="Selvaraju 2017, arXiv:1610.02391")
def grad_cam(inputs: CamInputs) -> Tensor:
    """Σ_k mean(g_k) A_k: each channel weighted by its gradient averaged over space."""
    return _over_space(_gradients(inputs), "mean") * inputs.activations


@cam_method("hires_cam", paper="Draelos 2020, arXiv:2011.08891")
def hires_cam(inputs: CamInputs) -> Tensor:
    """Σ_k g_k ⊙ A_k: each place weighted by its own gradient."""
    return _gradients(inputs) * inputs.activations


@cam_method("grad_cam_elementwise", paper="of pytorch-grad-cam, without a paper")
def grad_cam_elementwise(inputs: CamInputs) -> Tensor:
    """Σ_k relu(g_k ⊙ A_k): each place of each channel by itself, where it speaks for the target."""
    return (_gradients(inputs) * inputs.activations).clamp(min=0)


@cam_method("layer_cam", paper="Jiang 2021, IEEE TIP, doi:10.1109/TIP.2021.3089943")
def layer_cam(inputs: CamInputs) -> Tensor:
    """Σ_k relu(g_k) ⊙ A_k: as hires_cam, with the positive gradients alone."""
    return _gradients(inputs).clamp(min=0) * inputs.activations


@cam_method("grad_cam_plus_plus", paper="Chattopadhay 2018, arXiv:1710.11063")
def grad_cam_plus_plus(inputs: CamInputs) -> Tensor:
    """Σ_k (Σ relu(g_k) / (2 + g_k Σ A_k)) A_k: positive gradients, the more the rarer they are in their channel.

    The paper's α relu(g) with α = g² / (2 g² + g³ Σ A), cancelled so that g² cannot underflow; a term is 0
    where |2 + g Σ A| is below 1e-6. The paper's factor exp(y), of the exponential it puts behind the score,
    cancels in the scaling. Some implementations add a constant to the denominator; the paper has none.
    """
    gradients = _gradients(inputs)
    share = _one_over(2 + gradients * _over_space(inputs.activations, "sum"))
    return _over_space(share * gradients.clamp(min=0), "sum") * inputs.activations


@cam_method("xgrad_cam", paper="Fu 2020, arXiv:2008.02312")
def xgrad_cam(inputs: CamInputs) -> Tensor:
    """Σ_k (Σ g_k A_k / Σ A_k) A_k: gradients averaged with the activations as weights.

    A weight is 0 where |Σ A_k| is below 1e-6 of Σ |A_k|.
    """
    maps = inputs.activations
    total, magnitude = _over_space(maps, "sum"), _over_space(maps.abs(), "sum")
    usable = total.abs() > NEARLY_ZERO * magnitude
    weights = _over_space(_gradients(inputs) * maps, "sum") / total.where(usable, 1)
    return weights.where(usable | ~total.isfinite(), 0) * maps


@cam_method(
    "random_cam",
    paper="the baseline that a method must beat, without a paper",
    needs=Needs.ACTIVATIONS,
    cost="1 forward",
    shows=AT_RANDOM,
)
def random_cam(inputs: CamInputs) -> Tensor:
    """Σ_k u_k A_k with u uniform within [-1, 1): what activations alone look like, whatever the score."""
    numbers = RandomNumbers(inputs)
    channels = inputs.activations.shape[1]
    weights = torch.stack([numbers.uniform(row, (channels,)) for row in range(len(inputs.activations))])
    return _as_weights(weights.to(inputs.activations.device), inputs) * inputs.activations


# --- what the rules share ----------------------------------------------------------------------------------


def _gradients(inputs: CamInputs) -> Tensor:
    if inputs.gradients is None:
        raise ArgumentError("inputs.gradients is None, and this method weighs by gradients: pass (N, K, h, w).")
    return inputs.gradients


def _over_space(maps: Tensor, how: str) -> Tensor:
    """(N, K, 1, 1): the sum or mean over the places."""
    axes = tuple(range(2, maps.dim()))
    return maps.sum(axes, keepdim=True) if how == "sum" else maps.mean(axes, keepdim=True)


def _as_weights(weights: Tensor, inputs: CamInputs) -> Tensor:
    """(N, K) as (N, K, 1, 1)."""
    return weights.reshape(*weights.shape, *[1] * (inputs.activations.dim() - 2))


def _one_over(denominator: Tensor) -> Tensor:
    """1 / denominator, 0 where that is nearly 0."""
    usable = ~(denominator.abs() < NEARLY_ZERO)
    return torch.where(usable, 1 / denominator.where(usable, 1), 0)
