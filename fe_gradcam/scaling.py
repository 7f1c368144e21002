"""From the signed map of a method to the heatmap: scaling and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import torch
import torch.nn.functional as F

from fe_gradcam.parameters import one_of
from fe_gradcam.types import Fuse, Scaling

if TYPE_CHECKING:
    from torch import Tensor

SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
FUSES: tuple[Fuse, ...] = get_args(Fuse)


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, h, w) at `size` (H, W): bilinear, half-pixel centres, borders repeated; volumes trilinear."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode=mode, align_corners=False).squeeze(1)


def fuse_maps(maps: Sequence[Tensor], fuse: Fuse, size: Sequence[int]) -> Tensor:
    """Fuses the signed maps of several layers into one.

    Each map is divided by its largest magnitude, so that no layer dominates, and upsampled. The result is the mean
    of the maps or, pixel by pixel, their maximum.

    Args:
        maps: Finite signed maps, each (N, h, w) at the size of its layer.
        fuse: One of FUSES.
        size: (H, W) of the result.

    Returns:
        (N, H, W), within [-1, 1].
    """
    layers = torch.stack([upsample(one / _largest(one.abs()), size) for one in maps])
    return layers.mean(0) if fuse == "mean" else layers.amax(0)


def scale(raw: Tensor, scaling: Scaling, size: Sequence[int]) -> Tensor:
    """Turns signed maps into heatmaps, each image by itself.

    ``scale_after_relu``: ReLU at the size of the layer, then upsampling, then division by the maximum. The hottest
    pixel is 1, and 0 stays 0. ``scale_before_relu``: division by the largest magnitude at the size of the layer, then
    ReLU, then upsampling. If the evidence against the target is the stronger, the evidence for it stays well below 1.
    ``none``: upsampling alone, so values stay signed and unscaled.

    Args:
        raw: Finite signed maps, (N, h, w), or (N, d, h, w) for volumes.
        scaling: One of SCALINGS.
        size: (H, W) of the heatmaps, or (D, H, W) for volumes.

    Returns:
        (N, H, W), within [0, 1] for the two ReLU scalings.
    """
    one_of("scaling", scaling, SCALINGS)
    if scaling == "none":
        return upsample(raw, size).clone()
    if scaling == "scale_before_relu":
        return upsample((raw / _largest(raw.abs())).clamp(min=0), size)
    heat = upsample(raw.clamp(min=0), size)
    return heat.div_(_largest(heat))


def _largest(maps: Tensor) -> Tensor:
    """The maximum of each map, (N, 1, 1); 1 if the maximum is 0, so that a map of zeros stays zero."""
    largest = maps.amax(tuple(range(1, maps.dim())), keepdim=True)
    return largest.masked_fill_(largest == 0, 1)
