"""The rules that run the model on other images, or with other activations at the layer; and a random baseline."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from fe_gradcam.errors import ArgumentError
from fe_gradcam.methods.asking import RandomNumbers, probe_of, scores_of, without_rounding
from fe_gradcam.methods.gradients import NEARLY_ZERO, _aligned
from fe_gradcam.methods.registry import AT_RANDOM, BY_ASKING, cam_method
from fe_gradcam.parameters import Count, Level, OptionalCount, Value
from fe_gradcam.scaling import upsample
from fe_gradcam.types import CamInputs, Needs

Vary: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Gets masks (B, *S) within [0, 1], rows and variants, both (B,), and returns other masks of any values; it may write
to those that it got."""

PATCHES_PER_SIDE = 8
"""How many patches of `occlusion` fit side by side along the shorter side of the image, if no size is given."""


def _by_masks(inputs: CamInputs, samples: int, vary: Vary | None = None) -> Tensor:
    """softmax_k(scores of the image under masks of A_k, averaged over the samples) A_k; `vary` changes the masks."""
    probe, maps = probe_of(inputs), inputs.activations
    channels = maps.shape[1]
    size = tuple(probe.images.shape[2:])

    def ask(rows: Tensor, which: Tensor) -> Tensor:
        masks = _unit(upsample(maps[rows, which % channels], size))
        if vary is not None:
            masks = vary(masks, rows, which)
        return probe.score(probe.images[rows].mul_(masks[:, None]), rows)  # what is indexed so is a copy

    scores = scores_of(inputs, channels * samples, ask)
    means = scores.reshape(len(maps), samples, channels).mean(1)
    flat = maps.flatten(2)
    constant = flat.amax(2) - flat.amin(2) <= NEARLY_ZERO * flat.abs().amax(2)
    tells = without_rounding(means - means.mean(1, keepdim=True), means, inputs)
    if channels == 1:
        tells = without_rounding(inputs.scores[:, None] - means, means, inputs)
    says_nothing = (tells == 0).all(1) | constant.all(1)
    weights = means.where(~constant, -torch.inf).softmax(1)
    return _aligned(weights.where(~says_nothing[:, None], 0), maps) * maps


@cam_method(
    "score_cam", paper="Wang 2020, arXiv:1910.01279", needs=BY_ASKING, cost="K forwards, K the layer's channels"
)
def score_cam(inputs: CamInputs) -> Tensor:
    """Σ_k softmax_k(y(x ⊙ norm(up A_k))) A_k: each channel weighted by the score of the image under its mask.

    The mask is brought to [0, 1] after the upsampling; a constant channel has weight 0. The paper's baseline
    term cancels in the softmax. If no mask changes the score, there is no evidence, and the map is zero.
    """
    return _by_masks(inputs, 1)


@cam_method("ss_cam", paper="Wang 2020, arXiv:2006.14255", needs=BY_ASKING, cost="samples K forwards")
def ss_cam(inputs: CamInputs, *, samples: Count = 8, noise: Level = 0.2) -> Tensor:
    """score_cam with scores averaged over noisy masks, before the softmax.

    The noise is added to the mask in [0, 1], and nothing is rescaled afterwards: its deviation is the same share of the
    mask's range on every layer, and its mean over many samples is the mask of score_cam. The paper says σ = 2. Its
    authors' code adds (2 / range)² to a map that is not rescaled, so that the share hangs on the units of the layer:
    with a range of 1 it is 4, with a range of 10 it is 0.004. A share of the range does not, so it is the parameter;
    the default is the most that SmoothGrad, from which the noise comes, advises (0.1 to 0.2). The paper takes 35
    samples. Without noise this is score_cam.

    Args:
        inputs: The results of one pass.
        samples: Number of noisy masks for each channel.
        noise: Standard deviation of the noise, as a share of each mask's own range.
    """
    numbers, channels = RandomNumbers(inputs), inputs.activations.shape[1]

    def vary(masks: Tensor, rows: Tensor, which: Tensor) -> Tensor:
        # one pattern of noise per sample, whatever the order of the channels
        return masks.add_(numbers.normal(rows, which // channels, tuple(masks.shape[1:])).mul_(noise))

    return _by_masks(inputs, samples, vary if noise else None)


@cam_method("is_cam", paper="Naidu 2020, arXiv:2010.03023", needs=BY_ASKING, cost="samples K forwards")
def is_cam(inputs: CamInputs, *, samples: Count = 10) -> Tensor:
    """score_cam with scores averaged over mask · i / samples for i = 1 … samples, before the softmax.

    With one sample this is score_cam.

    Args:
        inputs: The results of one pass.
        samples: Number of steps on the way from an image of zeros to the masked image.
    """
    channels = inputs.activations.shape[1]

    def vary(masks: Tensor, rows: Tensor, which: Tensor) -> Tensor:
        return masks.mul_(_aligned((which // channels + 1).float() / samples, masks))

    return _by_masks(inputs, samples, vary)


@cam_method(
    "ablation_cam",
    paper="Desai 2020, WACV, doi:10.1109/WACV45572.2020.9093360",
    needs=BY_ASKING,
    cost="K forwards, of the part behind the layer where the rest can be kept",
)
def ablation_cam(inputs: CamInputs) -> Tensor:
    """Σ_k ((y - y with A_k set to 0) / |y|) A_k: each channel weighted by the share of the score lost without it.

    The divisor is 1 where y is 0. Some implementations set a channel to a small number; here it is set to 0.
    """
    probe, maps = probe_of(inputs), inputs.activations

    def ask(rows: Tensor, which: Tensor) -> Tensor:
        changed = maps[rows]
        changed[torch.arange(len(rows), device=maps.device), which] = 0
        return probe.score_from(changed, rows)

    scores = scores_of(inputs, maps.shape[1], ask, by_image=True)
    drops = without_rounding(inputs.scores[:, None] - scores, scores, inputs)
    divisor = inputs.scores.abs()
    return _aligned(drops / divisor.where(divisor != 0, 1)[:, None], maps) * maps


@cam_method("occlusion", paper="Zeiler 2014, arXiv:1311.2901", needs=Needs.PROBE, cost="one forward per patch")
def occlusion(
    inputs: CamInputs, *, patch: OptionalCount = None, stride: OptionalCount = None, fill: Value = None
) -> Tensor:
    """Drop of the score when a patch of the image is covered; each pixel has the mean over the patches that cover it.

    The map has the size of the image and does not depend on the layer.

    Args:
        inputs: The results of one pass.
        patch: Side of the patch in pixels; None: an eighth of the shorter side of the image, rounded up.
        stride: Pixels from one patch to the next; the last patch ends at the border. None: half the patch, rounded up.
        fill: Value that covers a patch, in the range of the model's input; None: the mean of each channel of the image.
    """
    probe = probe_of(inputs)
    images, size = probe.images, tuple(probe.images.shape[2:])
    patch = -(-min(size) // PATCHES_PER_SIDE) if patch is None else patch
    sides = tuple(min(patch, side) for side in size)
    stride = -(-patch // 2) if stride is None else stride
    if stride > patch:
        raise ArgumentError(f"stride={stride} is larger than patch={patch} and skips pixels. Pass a smaller stride.")
    starts = [sorted({*range(0, whole - side, stride), whole - side}) for whole, side in zip(size, sides, strict=True)]
    corners = list(product(*starts))
    if len(corners) == 1:
        raise ArgumentError(
            f"patch={patch} covers the whole image of {size}, so all pixels would be equal. Pass a smaller patch."
        )
    cover = images.flatten(2).mean(2) if fill is None else images.new_full(images.shape[:2], fill)

    firsts = torch.tensor(corners, device=images.device)

    def ask(rows: Tensor, which: Tensor) -> Tensor:
        covered = torch.ones(len(rows), 1, *size, dtype=torch.bool, device=images.device)
        for axis, (whole, side) in enumerate(zip(size, sides, strict=True)):
            behind = torch.arange(whole, device=images.device) - firsts[which, axis, None]
            covered &= ((behind >= 0) & (behind < side)).reshape(
                -1, 1, *(whole if at == axis else 1 for at in range(len(size)))
            )
        return probe.score(torch.where(covered, _aligned(cover[rows], images), images[rows]), rows)

    scores = scores_of(inputs, len(corners), ask)
    drops = without_rounding(inputs.scores[:, None] - scores, scores, inputs)
    total, times = images.new_zeros(len(images), *size), images.new_zeros(1, *size)
    for at, corner in enumerate(corners):
        area = (slice(None), *(slice(start, start + side) for start, side in zip(corner, sides, strict=True)))
        total[area].add_(_aligned(drops[:, at], total))
        times[area].add_(1)
    return total / times


@cam_method(
    "random_cam",
    paper="the baseline that a method must beat, without a paper",
    needs=Needs.ACTIVATIONS,
    cost="1 forward",
    shows=AT_RANDOM,
)
def random_cam(inputs: CamInputs) -> Tensor:
    """Σ_k u_k A_k with u uniform within [-1, 1): activations alone, whatever the score; a baseline."""
    maps = inputs.activations
    return _aligned(RandomNumbers(inputs).uniform(maps.shape[1:2]), maps) * maps


def _unit(masks: Tensor) -> Tensor:
    """Masks (B, *S) scaled to [0, 1], in place; constant masks become 0."""
    least, most = masks.flatten(1).aminmax(dim=1)
    spread = most - least
    return masks.sub_(_aligned(least, masks)).div_(_aligned(spread.where(spread != 0, 1), masks))
