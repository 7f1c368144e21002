"""How faithful heatmaps are to the model, image by image; see `fe_gradcam.metrics.rules` for what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.metrics.asked import Asked
from fe_gradcam.metrics.rules import METRICS, Again, Case, Metric, MetricSpec
from fe_gradcam.parameters import several, whole
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.types import Heatmap, Images


def measure(
    model: Any,
    images: Images,
    heatmap: Heatmap,
    metrics: Sequence[MetricSpec | Metric] = ("deletion", "insertion"),
    *,
    places: ArrayLike | None = None,
    batch_size: int = 32,
    seed: int = 0,
    model_output: ModelOutput = None,
    again: Again | None = None,
) -> dict[str, NDArray[np.float32]]:
    """What metrics say of heatmaps, image by image; `summary` of them is the figure that papers report.

    The model is left as it was: weights, modes, random streams. Pictures are changed in the model's own
    normalisation, where 0 is often the mean colour.

    Args:
        model: A torch.nn.Module or a tf.keras.Model; None, where no metric asks it.
        images: Those of the heatmaps, as `fe_gradcam.explain` takes them; of several inputs the picture alone is
            changed.
        heatmap: What `explain` returned.
        metrics: Names of `METRICS`, or pairs of a name and parameters, ``("deletion", {"steps": 16})``.
        places: (N, *S) bools at the size of the images, where the object is, for the metrics that need it; an image
            without a place has no value. Of boxes: `masks_of_boxes`.
        batch_size: Rows per pass, at most: versions of images, and an image as it is; with 1 these are two.
        seed: Of what is drawn at random, for each image by itself; the global streams are not touched.
        model_output: See `fe_gradcam.explain`.
        again: For ``"sanity"``: explains the same images again with the model as it then is, as
            ``lambda: explain(model, images, target=heatmap.class_ids)``.

    Returns:
        By the metric's label, its name with the parameters given: (N,) float32, NaN where an image has no value;
        the class of each image is that of `heatmap.class_ids`, and one without has none.

    Raises:
        UnknownNameError: No such metric or parameter; a KeyError.
        ArgumentError: An argument is not accepted, is missing, or does not fit the others; a ValueError.
        UnsupportedModelError: The model cannot be observed, or puts out no classes; a TypeError.

    Example:
        >>> import torch
        >>> from fe_gradcam import explain
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 10))
        >>> images = torch.rand(2, 1, 28, 28)
        >>> found = measure(net, images, explain(net, images), ["average_drop", ("deletion", {"steps": 8})])
        >>> {label: values.shape for label, values in found.items()}
        {'average_drop': (2,), 'deletion(steps=8)': (2,)}
    """
    chosen = [METRICS.find(one) for one in several(metrics)]
    seed, batch_size = whole("seed", seed, 0), whole("batch_size", batch_size, 1)
    if not isinstance(heatmap, Heatmap):
        raise ArgumentError(f"heatmap is a {type(heatmap).__name__}. Accepted: one Heatmap, as explain returns it.")
    given = {"place": ("places", places), "again": ("again", again)}
    for one in chosen:
        name, value = given.get(one.needs, ("", ()))
        if value is None:
            raise ArgumentError(f"{name} is None, and metric={one.name!r} needs it: pass {name}=, see measure.")
    if model is None and any(one.needs != "place" for one in chosen):
        names = [one.name for one in chosen if one.needs != "place"]
        raise ArgumentError(f"model is None, and metrics {names} ask it: pass the model that was explained.")
    asked = None if model is None else Asked(model, images, heatmap, batch_size, seed, model_output)
    case = Case(heatmap, cast(Asked, asked), None if places is None else _checked(places, heatmap), again)
    found: dict[str, NDArray[np.float32]] = {}
    for one in chosen:
        no_class = (heatmap.class_ids < 0) & (one.needs == "model")
        found[one.label] = np.where(no_class, np.nan, one(case)).astype(np.float32)
    return found


def summary(values: ArrayLike) -> float | None:
    """The mean of one metric over the images that have a value, or None where none has."""
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    return float(finite.mean()) if finite.size else None


def _checked(places: ArrayLike, heatmap: Heatmap) -> NDArray[np.bool_]:
    """The places as bools, of the heat's shape."""
    masks = np.asarray(places)
    if masks.shape != heatmap.values.shape or masks.dtype != np.bool_:
        raise ArgumentError(
            f"places has shape {masks.shape} and dtype {masks.dtype}; bools of shape {heatmap.values.shape}, that of "
            "the heat, are needed: of boxes masks_of_boxes(boxes, (H, W)), of masks mask > 0."
        )
    return masks
