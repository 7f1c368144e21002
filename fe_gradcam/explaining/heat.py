"""From the results of the passes to heatmaps: method, smoothing, scaling, and which heatmaps are blank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf, prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.errors import Argument, ArgumentError, CamWarning, warn
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.explaining.views import PLAIN, View, eigen_smoothed
from fe_gradcam.methods.registry import CamMethod
from fe_gradcam.scaling import fuse_maps, scale
from fe_gradcam.types import CamInputs, Heatmap, LayerRef, Scaling

ROUNDING_OF_SUMS = 2.0**-22
"""Two units in the last place of float32, relative to the sum of the terms' magnitudes."""

FLOAT32_MAX = float(np.finfo(np.float32).max)

WHOLE_MODEL = "whole model"
"""The name of the layer if a method explains the whole model."""


class Passes(NamedTuple):
    """The results of the passes for one target at one layer.

    Scores and classes are those of `plain`, the pass of the images as they are; the map is the mean over all views.
    """

    plain: CamInputs
    views: Sequence[tuple[View, CamInputs]]

    @classmethod
    def of(cls, inputs: CamInputs) -> Passes:
        """The results of a single pass."""
        return cls(inputs, [(PLAIN, inputs)])


def heatmap_of(
    passes: Sequence[Passes],
    method: CamMethod,
    layers: Sequence[LayerRef | str],
    size: Sequence[int],
    settings: Settings,
    *,
    target: str = "pred",
    layer_kind: str = "",
) -> Heatmap:
    """The second half of the route: from the results of the passes, for each layer, to the Heatmap at `size`."""
    first = passes[0].plain
    if not method.of_layer:
        layers, passes = [WHOLE_MODEL], passes[:1]
    signed = [_signed_map(one, method, layer, size, settings) for one, layer in zip(passes, layers, strict=True)]
    (raw, blank, evidence), name = signed[0], str(layers[0])
    if len(signed) > 1:
        name = f"{settings.fuse}({', '.join(map(str, layers))})"
        raw = evidence = fuse_maps([one.evidence for one in signed], settings.fuse, size)
        blank = (raw.flatten(1).amax(1) <= 0).cpu().numpy()
    class_ids = first.class_ids.numpy(force=True).astype(np.int64)
    return Heatmap(
        values=numpy32(scale(raw if settings.scaling == "none" else evidence, settings.scaling, size)),
        raw=numpy32(raw),
        class_ids=class_ids,
        scores=numpy32(first.scores),
        confidences=_confidences(class_ids, first.probabilities),
        blank=blank,
        method=method.label,
        layer=name,
        scaling=settings.scaling,
        smooth=settings.smoothed,
        of_layer=method.of_layer,
        shows=method.shows,
        target=target,
        layer_kind=layer_kind if method.of_layer else "",
    )


class _Signed(NamedTuple):
    """A finite signed map.

    Attributes:
        raw: (N, h, w).
        blank: (N,), whether an image has no evidence in it.
        evidence: The map without the positive values of blank maps, which are rounding.
    """

    raw: Tensor
    blank: NDArray[np.bool_]
    evidence: Tensor


def _signed_map(
    passes: Passes, method: CamMethod, layer: LayerRef | str, size: Sequence[int], settings: Settings
) -> _Signed:
    """The signed map of one layer, averaged over the views."""
    if method.of_layer:
        _check_places(passes.plain, layer, size)
    _, eigen = settings.smoothing
    maps, roundings = [], []
    for view, inputs in passes.views:
        terms = method.terms(inputs).float()
        roundings.append(partial(_rounding, inputs, method, terms))
        maps.append(view.back(eigen_smoothed(terms) if eigen else terms.sum(1)))
    raw = torch.stack(maps).mean(0) if len(maps) > 1 else maps[0]
    if not eigen and len(maps) == 1:
        most, tops = _most_rounding(inputs, method, terms, raw)
        if most < inf and not [top for top in tops if 0 < top <= most]:
            return _Signed(raw, np.array([top <= 0 for top in tops]), raw)
    finite = raw.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        told = CamWarning(
            "The activations or gradients of ",
            Argument("layer", repr(str(layer))),
            f" hold NaN or infinite values for {int((~finite).sum())} of {len(raw)} images; the heatmaps of these are "
            "blank. Look for NaN in the images and in the model's weights.",
        )
        warn(told)
        raw = torch.where(finite.reshape(-1, *[1] * (raw.dim() - 1)), raw, raw.new_zeros(()))
    blank = raw.flatten(1).amax(1) <= torch.stack([rounding() for rounding in roundings]).mean(0)
    return _Signed(raw, blank.cpu().numpy(), _without(raw, blank))


def _check_places(inputs: CamInputs, layer: LayerRef | str, size: Sequence[int]) -> None:
    """Raises ArgumentError if the layer has other axes than the images; warns if the map is a single pixel."""
    axes = inputs.activations.dim() - 2
    if axes == len(size) and inputs.activations.shape[2:].numel() > 1:
        return
    named = Argument("layer", repr(str(layer)))
    if axes != len(size):
        said = f" has a map with {axes} axes, and the images have {len(size)}: pass a layer that keeps all axes."
        raise ArgumentError(named, said)
    said = " has a map of one pixel, which says nothing about where. Pass a layer before the pooling."
    warn(CamWarning(named, said))


def values_of(raw: Tensor, blank: Tensor, scaling: Scaling, size: Sequence[int]) -> Tensor:
    """The heatmaps (N, *size) of signed maps (N, *S); positive values of `blank` maps are rounding and are dropped."""
    return scale(raw if scaling == "none" else _without(raw, blank), scaling, size)


def _without(raw: Tensor, blank: Tensor) -> Tensor:
    """The maps, with the positive values of blank maps, which are rounding, set to 0."""
    return torch.where(blank.reshape(-1, *[1] * (raw.dim() - 1)), raw.clamp(max=0), raw)


def numpy32(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a float32 array on the CPU."""
    array: NDArray[np.float32] = (tensor if tensor.dtype is torch.float32 else tensor.float()).numpy(force=True)
    return array


def _rounding(inputs: CamInputs, method: CamMethod, terms: Tensor) -> Tensor:
    """(N,): how large a sum over channels may come out in float32 although it is zero; less than that is no evidence.

    A map of that size is the remainder of terms that cancel. Scaled to [0, 1] it would look like any other map.
    """
    largest = terms.abs().sum(1).flatten(1).amax(1)
    if method.by_gradients and inputs.gradients is not None:  # weights may be rounding too
        gradients = inputs.gradients.abs()
        weights = gradients.maximum(gradients.mean(tuple(range(2, gradients.dim())), keepdim=True))
        largest = largest.maximum((inputs.activations.abs() * weights).sum(1).flatten(1).amax(1))
    return ROUNDING_OF_SUMS * largest.where(largest.isfinite(), largest.new_zeros(()))


def _most_rounding(inputs: CamInputs, method: CamMethod, terms: Tensor, raw: Tensor) -> tuple[float, list[float]]:
    """A number that `_rounding` exceeds in no image, without sums over all terms, and the maximum of each map.

    The number is NaN or infinite if a term may be, or if a sum of terms may overflow. All comes to the host at once.
    """
    looked_at = [terms]
    if method.by_gradients and inputs.gradients is not None:
        looked_at += [inputs.gradients, inputs.activations]
    ends = torch.stack([end for values in looked_at for end in values.aminmax()])
    told: list[float] = torch.cat([ends, raw.flatten(1).amax(1)]).tolist()
    most, *factors = [max(-told[at], told[at + 1]) for at in range(0, len(ends), 2)]
    channels = max(terms.shape[1], inputs.activations.shape[1])
    most = channels * (most + prod(factors) if factors else most)  # NaN stays NaN
    bound = most * ROUNDING_OF_SUMS * (1 + ROUNDING_OF_SUMS * channels)
    return (bound if most < FLOAT32_MAX else inf), told[len(ends) :]


def _confidences(class_ids: NDArray[np.int64], probabilities: Tensor | None) -> NDArray[np.float32]:
    if probabilities is None:
        return np.full(len(class_ids), np.nan, np.float32)
    chosen: NDArray[np.float32] = numpy32(probabilities)[np.arange(len(class_ids)), class_ids]
    chosen[class_ids < 0] = np.nan
    return chosen
