"""The rules that weigh channels by gradients, and how a rule is written: a pure function of the results of one pass.

A are the activations and g their gradients, both (N, K, h, w); y is the score of the target, x the image.
Sums over space are written Σ, sums over channels Σ_k. A rule returns the signed map before the final
ReLU, (N, h, w), or its terms by channel, (N, K, h, w), whose sum is the map. A new method is one function
with the decorator `cam_method`; the keyword-only arguments of the function are the method's parameters. The
trace, `explain`, the operator, the command line and the tests find the method by its name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fe_gradcam.errors import Argument, ArgumentError, UnsupportedModelError
from fe_gradcam.methods.asking import RandomNumbers, chunks_of, probe_of
from fe_gradcam.methods.registry import BY_BOTH, cam_method
from fe_gradcam.parameters import Count, Level
from fe_gradcam.types import CamInputs

NEARLY_ZERO = 1e-6
"""A denominator below this is taken as zero, and so is its term."""

BENT = 1e-3
"""How far a changed score may differ from that of a linear head on the spatial means, relative to the change."""

FLAT = 1e-2
"""How far the gradients of a channel may vary over space and still count as equal, relative to the largest gradient."""

ROUNDINGS_OF_HEAD = 64
"""Further tolerance: so many times the spacing of the model's numbers, relative to the size of the summed terms."""


@cam_method("grad_cam", paper="Selvaraju 2017, arXiv:1610.02391")
def grad_cam(inputs: CamInputs) -> Tensor:
    """Σ_k mean(g_k) A_k: each channel weighted by its gradient averaged over space."""
    return _over_space(_gradients(inputs), "mean") * inputs.activations


@cam_method("hires_cam", paper="Draelos 2020, arXiv:2011.08891")
def hires_cam(inputs: CamInputs) -> Tensor:
    """Σ_k g_k ⊙ A_k: each pixel of the map weighted by its own gradient."""
    return _gradients(inputs) * inputs.activations


@cam_method("grad_cam_elementwise", paper="of pytorch-grad-cam, without a paper")
def grad_cam_elementwise(inputs: CamInputs) -> Tensor:
    """Σ_k relu(g_k ⊙ A_k): hires_cam with only those pixels of each channel that speak for the target."""
    return (_gradients(inputs) * inputs.activations).clamp(min=0)


@cam_method("layer_cam", paper="Jiang 2021, IEEE TIP, doi:10.1109/TIP.2021.3089943")
def layer_cam(inputs: CamInputs) -> Tensor:
    """Σ_k relu(g_k) ⊙ A_k: hires_cam with the positive gradients alone."""
    return _gradients(inputs).clamp(min=0) * inputs.activations


@cam_method("grad_cam_plus_plus", paper="Chattopadhay 2018, arXiv:1710.11063")
def grad_cam_plus_plus(inputs: CamInputs) -> Tensor:
    """Σ_k (Σ relu(g_k) / (2 + g_k Σ A_k)) A_k: positive gradients, with the more weight the smaller g_k Σ A_k is.

    This is the paper's α relu(g) with α = g² / (2 g² + g³ Σ A), with g² cancelled so that it cannot underflow. A term
    is 0 where |2 + g Σ A| is below 1e-6. The paper explains exp(y); the factor exp(y) that this adds to the gradients
    cancels in the scaling. Some implementations add a constant to the denominator; the paper has none.
    """
    gradients = _gradients(inputs)
    share = _one_over(2 + gradients * _over_space(inputs.activations, "sum"))
    return _over_space(share * gradients.clamp(min=0), "sum") * inputs.activations


@cam_method(
    "smooth_grad_cam_plus_plus",
    paper="Omeiza 2019, arXiv:1908.01224",
    needs=BY_BOTH,
    cost="samples forwards and backwards",
)
def smooth_grad_cam_plus_plus(inputs: CamInputs, *, samples: Count = 20, noise: Level = 0.15) -> Tensor:
    """Σ_k (Σ α relu(D1)) A_k with α = D2 / (2 D2 + D3 Σ A): grad_cam_plus_plus of gradients averaged over noisy copies.

    D1, D2 and D3 are the means of g, g² and g³ over the noisy copies of the image; A is that of the clean image.
    Without noise this is grad_cam_plus_plus.

    Args:
        inputs: The results of one pass.
        samples: Number of noisy copies.
        noise: Standard deviation of the noise, as a share of each image's own range.
    """
    probe, numbers = probe_of(inputs), RandomNumbers(inputs)
    flat, largest = probe.images.flatten(1), _gradients(inputs).abs().flatten(1).amax(1)
    size = _aligned(largest.where(largest != 0, 1), inputs.activations)
    sums = torch.zeros(3, *inputs.activations.shape, dtype=torch.float32, device=inputs.activations.device)
    spread = _aligned(noise * (flat.amax(1) - flat.amin(1)), probe.images)

    for rows, which in chunks_of(inputs, samples):
        images = probe.images[rows]
        if noise:
            images += numbers.normal(rows, which, tuple(images.shape[1:])).mul_(spread[rows])
        scaled = probe.gradients(images, rows) / size[rows]  # so that g³ cannot underflow
        for power in (1, 2, 3):
            sums[power - 1].index_add_(0, rows, scaled**power)
    first, second, third = sums / samples
    ratio = size * torch.where(second > 0, third / second.where(second > 0, 1), 0)
    share = _one_over(2 + ratio * _over_space(inputs.activations, "sum")) * (second > 0)
    return _over_space(share * first.clamp(min=0) * size, "sum") * inputs.activations


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


@cam_method("shapley_cam", paper="Cai 2025, arXiv:2501.06261", needs=BY_BOTH, cost="2 forwards, 3 backwards")
def shapley_cam(inputs: CamInputs) -> Tensor:
    """Σ_k mean(g_k - ½ (H A)_k) A_k: grad_cam to second order; H is the Hessian of the score with respect to A.

    If the network behind the layer is piecewise linear, as behind the last map of a ReLU network, H is 0, and this is
    grad_cam.
    """
    curved = _gradients(inputs) - probe_of(inputs).hvp(inputs.activations) / 2
    return _over_space(curved, "mean") * inputs.activations


@cam_method("cam", paper="Zhou 2016, arXiv:1512.04150", needs=BY_BOTH, cost="7 forwards, 1 backward")
def cam(inputs: CamInputs) -> Tensor:
    """Σ_k w_k A_k, w the classifier's weights; for networks that average the layer over space before a linear head.

    The weights are read from the gradient of the score: with such a head it is w_k / (h w) everywhere. Whether the
    head is of this kind is tested by passes with other activations at the layer.

    Raises:
        UnsupportedModelError: The score is not a linear function of the layer's spatial means.
    """
    gradients, maps = _gradients(inputs), inputs.activations
    places = maps[0, 0].numel()
    weights = _over_space(gradients, "sum")
    flat = (gradients - weights / places).abs().flatten(1).amax(1) <= FLAT * gradients.abs().flatten(1).amax(1)
    wrong = ~flat & gradients.flatten(1).isfinite().all(1)
    for other in _trials(maps, inputs):
        wrong = wrong | _is_bent(inputs, gradients, other)
    if bool(wrong.any()):
        raise UnsupportedModelError(
            Argument("method", "'cam'"),
            " needs a network whose score is a linear function of the layer's map averaged over space (global average "
            "pooling, then one linear layer); this model's score is not, at this layer. Use ",
            Argument("method", "'grad_cam'"),
            ", which is defined for every network and equals cam, up to a factor, where cam is defined, or pass ",
            Argument("layer", ""),
            " with the map that is averaged, if there is one.",
        )
    return weights * maps


# --- what the rules share ----------------------------------------------------------------------------------


def _gradients(inputs: CamInputs) -> Tensor:
    if inputs.gradients is None:
        raise ArgumentError("inputs.gradients is None, and this method needs gradients: pass them as (N, K, h, w).")
    return inputs.gradients


def _over_space(maps: Tensor, how: str) -> Tensor:
    """(N, K, 1, 1): the sum or mean over space."""
    axes = tuple(range(2, maps.dim()))
    return maps.sum(axes, keepdim=True) if how == "sum" else maps.mean(axes, keepdim=True)


def _aligned(values: Tensor, maps: Tensor) -> Tensor:
    """(N, K) as (N, K, 1, 1), (N,) as (N, 1, 1, 1): with as many axes as the maps have."""
    return values.reshape(*values.shape, *[1] * (maps.dim() - values.dim()))


def _one_over(denominator: Tensor) -> Tensor:
    """1 / denominator; 0 where the denominator is nearly 0."""
    usable = ~(denominator.abs() < NEARLY_ZERO)
    return torch.where(usable, 1 / denominator.where(usable, 1), 0)


def _trials(maps: Tensor, inputs: CamInputs) -> list[Tensor]:
    """Other activations to test a head with: zero, negated, with pixels shuffled, with channels scaled at random."""
    numbers, flat = RandomNumbers(inputs), maps.flatten(1)
    disordered = flat.gather(1, numbers.uniform(flat.shape[1:]).argsort(1)).reshape(maps.shape)
    factors = [_aligned(numbers.uniform(maps.shape[1:2], draw), maps) * 3 for draw in (1, 2, 3)]
    return [maps * 0, -maps, disordered * 2 + maps, *(maps * factor for factor in factors)]


def _is_bent(inputs: CamInputs, gradients: Tensor, other: Tensor) -> Tensor:
    """(N,): whether the score for other activations differs from what the gradient predicts."""
    probe, maps = probe_of(inputs), inputs.activations
    terms = (gradients * (other - maps)).flatten(1).double()
    asked = probe.score_from(other, torch.arange(len(maps), device=maps.device))
    moved = (asked - inputs.scores).abs()
    rounding = asked.abs() + inputs.scores.abs() + (terms**2).sum(1).sqrt()
    off = (asked - inputs.scores - terms.sum(1)).abs()
    return off > BENT * moved + ROUNDINGS_OF_HEAD * probe.precision * rounding
