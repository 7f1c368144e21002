"""Arrays of heat that other code made, turned into the Heatmap that is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.backends.protocol import Query
from fe_gradcam.errors import ArgumentError, in_short
from fe_gradcam.scaling import upsample
from fe_gradcam.spec.arrays import array_of
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.types import ClassNames, Heatmap, Images, Target

BROUGHT = "yours"
"""The name of the method and of the layer of such a heatmap."""


def own_heatmap(
    heat: Any,
    model: Any,
    images: Images,
    target: Target,
    *,
    batch_size: int,
    model_output: ModelOutput,
    class_names: ClassNames | None,
) -> Heatmap:
    """An array (N, h, w) as a Heatmap at the size of the images, for the classes that `target` stands for.

    Without a model the size is that of the pictures, and the images have no classes.

    Raises:
        ArgumentError: The array is not finite, or has no map for each image, or the target is no class.
    """
    maps = _checked(heat)
    if model is None:
        shape = np.shape(images)
        if images is not None and (not shape or shape[0] != len(maps)):
            raise ArgumentError(f"heatmap has {len(maps)} maps, and images shape {shape}: pass one map for each image.")
        values = maps if images is None else upsample(torch.from_numpy(maps), _size_of(shape)).numpy()
        return _heatmap(values, maps, np.full(len(maps), -1, np.int64), np.full(len(maps), np.nan, np.float32))
    backend, inputs = backend_for(model, model_output), Inputs.of(images).checked()
    size = backend.image_size(inputs)
    if len(maps) != len(inputs) or maps.ndim != 1 + len(size):
        raise ArgumentError(
            f"heatmap has shape {maps.shape}, and images {tuple(inputs.picture.shape)}. Accepted: one map for each "
            f"image, ({len(inputs)}, {', '.join('dhw'[-len(size) :])}), without an axis of channels."
        )
    resolved = resolve_target(target, len(inputs), class_names)
    if not resolved.is_class:
        raise ArgumentError(
            f"target={in_short(target)} is no class, and metrics need the probability of a class. Accepted: None (the "
            "inferred class), a class id, a class name (with class_names), (N,) class ids, or Rank."
        )
    layer, ids, probabilities = backend.resolve(None, inputs), list[Any](), list[Any]()
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        query = Query(layer, [resolved.rows(rows)], "output", gradients=False)
        (found,) = backend.run(inputs.rows(rows), query)
        ids.append(found.class_ids.cpu())
        if found.probabilities is not None:
            probabilities.append(found.probabilities.cpu().gather(1, ids[-1][:, None])[:, 0])
    confidences = (
        torch.cat(probabilities) if probabilities else torch.full((len(inputs),), torch.nan, dtype=torch.float32)
    )
    values = upsample(torch.from_numpy(maps), size).numpy()
    return _heatmap(values, maps, torch.cat(ids).numpy().astype(np.int64), confidences.float().numpy())


def _size_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W) of images (N, H, W), (N, C, H, W), or (N, H, W, C) with one channel or three; of volumes likewise."""
    if len(shape) == 3:
        return shape[1:]
    last = shape[-1] in (1, 3) and shape[1] not in (1, 3)
    return shape[1:-1] if last else shape[2:]


def _checked(heat: Any) -> NDArray[np.float32]:
    """The array as float32."""
    try:
        maps = array_of("heatmap", heat, "").astype(np.float32)
    except ArgumentError:  # said below
        maps = np.empty(0, np.float32)
    if maps.ndim not in (3, 4) or not len(maps):
        came = f"of shape {maps.shape}" if maps.size else f"a {type(heat).__name__}"
        raise ArgumentError(
            f"heatmap is {came}. Accepted: one Heatmap, as explain returns it, or an array of your own with a map of "
            "any size for each image: (N, h, w), or (N, d, h, w) for volumes."
        )
    if not np.isfinite(maps).all():
        rows = np.flatnonzero(~np.isfinite(maps.reshape(len(maps), -1)).all(1))
        raise ArgumentError(
            f"heatmap holds NaN or infinite values for {len(rows)} of {len(maps)} images, the first of them at "
            f"{rows[0]}: pass finite numbers, 0 for no evidence."
        )
    return maps


def _heatmap(
    values: NDArray[np.float32], raw: NDArray[np.float32], ids: NDArray[np.int64], confidences: NDArray[np.float32]
) -> Heatmap:
    blank = raw.reshape(len(raw), -1).max(1) <= 0
    return Heatmap(values, raw, ids, confidences, confidences, blank, BROUGHT, BROUGHT, "none", target=BROUGHT)
