"""From the signed map of a method to the heatmap: the scalings and the upsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch.nn.functional as F

from fe_gradcam.names import nearest
from fe_gradcam.types import ArgumentError, Scaling

if TYPE_CHECKING:
    from torch import Tensor

SCALINGS: tuple[Scaling, ...] = get_args(Scaling)


def check_scaling(scaling: object) -> None:
    """Raises ArgumentError where `scaling` is none of SCALINGS."""
    if scaling not in SCALINGS:
        raise ArgumentError(
            f"scaling={scaling!r} is not known{nearest(scaling, SCALINGS)} Accepted: {', '.join(SCALINGS)}."
        )


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at `size` (H, W): bilinear, half-pixel centres, borders repeated."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)


def scale(raw: Tensor, scaling: Scaling, size: tuple[int, int]) -> Tensor:
    """The heatmaps of signed maps, each image by itself.

    ``scale_after_relu``: ReLU at the size of the layer, upsampled, divided by the maximum: the
    hottest place is 1 and 0 stays 0. ``scale_before_relu``: divided by the largest magnitude at the
    size of the layer, ReLU, upsampled: where evidence against the target is the stronger, the
    evidence for it stays well below 1. ``none``: upsampled, signed, as it is.

    Args:
        raw: Finite signed maps, (N, h, w).
        scaling: One of SCALINGS.
        size: (H, W) of the heatmaps.

    Returns:
        (N, H, W), within [0, 1] for the two ReLU scalings.
    """
    check_scaling(scaling)
    if scaling == "none":
        return upsample(raw, size).clone()
    if scaling == "scale_before_relu":
        return upsample((raw / _largest(raw.abs())).clamp(min=0), size)
    heat = upsample(raw.clamp(min=0), size)
    return heat.div_(_largest(heat))


def _largest(maps: Tensor) -> Tensor:
    """The maximum of each map, (N, 1, 1); 1 where that is 0, so that a map of zeros stays one."""
    largest = maps.flatten(1).amax(1)[:, None, None]
    return largest.where(largest > 0, largest.new_ones(()))
