"""How faithful heatmaps are to the model, image by image; `fe_gradcam.metrics.rules` holds the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.metrics.asked import Asked
from fe_gradcam.metrics.own import own_heatmap
from fe_gradcam.metrics.rules import METRICS, Again, Case, Metric, MetricSpec
from fe_gradcam.parameters import knows_its_keywords, several, whole
from fe_gradcam.spec.arrays import listed
from fe_gradcam.spec.objects import object_masks
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.types import ClassNames, Heatmap, Images, Target


@knows_its_keywords(
    metric="metrics= with a name or a list of names",
    heatmaps="heatmap, the third argument, one at a time",
    bboxes="boxes=",
    mask="masks= with a mask for each image",
)
def measure(
    model: Any,
    images: Images,
    heatmap: Heatmap | ArrayLike,
    metrics: MetricSpec | Sequence[MetricSpec | Metric] = ("deletion", "insertion"),
    *,
    target: Target = None,
    masks: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    class_names: ClassNames | None = None,
    batch_size: int = 32,
    seed: int = 0,
    model_output: ModelOutput = None,
    again: Again | None = None,
    places: ArrayLike | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The values of metrics for heatmaps, image by image; `summary` gives their mean, the figure that papers report.

    The model is left as it was: weights, modes, random streams. Images are changed in the model's own normalisation,
    where 0 is often the mean colour.

    Args:
        model: A torch.nn.Module or a tf.keras.Model; None if no metric needs it.
        images: The images of the heatmaps, as `fe_gradcam.explain` takes them; of several inputs, only the one that
            is drawn on is changed.
        heatmap: What `explain` returned. Or an array that other code made, (N, h, w) of any size, (N, d, h, w) for
            volumes: it is stretched to the images (bilinear), and negative values count as 0.
        metrics: Names of `METRICS`, or pairs of a name and parameters, ``("deletion", {"steps": 16})``.
        target: The class that an array of your own explains: None for the inferred class of each image, a class id, a
            name of `class_names`, or (N,) class ids. A Heatmap holds its own classes and takes no target.
        masks: (N, H, W), where the object is in each image, for the metrics that need it: integers other than 0, or
            floats from 0.5. An image without an object has no value.
        boxes: (N, 4) or (N, M, 4), the same in the form of boxes: left, top, width and height in pixels of the images.
            With both, the object is where a mask and a box overlap.
        class_names: Names of the classes: a sequence in the order of the ids, or {id: name}.
        batch_size: The most images per pass, from 1. One of them is an unchanged image, so 1 means two images.
        seed: Seed of random numbers, from 0. The numbers of an image do not depend on the other images, and the global
            random streams are not touched.
        model_output: See `fe_gradcam.explain`.
        again: For ``"sanity"``, a function that explains the same images again with the model as it is then:
            ``lambda: explain(model, images, target=heatmap.class_ids)``. For an array it returns an array like it.
        places: The earlier name of `masks`.

    Returns:
        {label: (N,) float32}; the label is the metric's name with the parameters given. NaN: the image has no value.
        The class of an image is that in `heatmap.class_ids`; without a class, metrics of its probability have no value.

    Raises:
        UnknownNameError: A metric or a parameter does not exist; a KeyError.
        ArgumentError: An argument is not accepted, is missing, or does not fit the others; a ValueError.
        UnsupportedModelError: The model cannot be observed, or returns no classes; a TypeError.

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
    asked_for = listed("metrics", several(metrics), "a name, a pair of a name and parameters, or a list of these.")
    chosen = [METRICS.find(one) for one in asked_for]
    seed, batch_size = whole("seed", seed, 0), whole("batch_size", batch_size, 1)
    if masks is not None and places is not None:
        raise ArgumentError("masks and places are both given, and mean the same. Pass only masks=.")
    masks = places if masks is None else masks
    for one in chosen:
        if one.needs == "place" and masks is None and boxes is None:
            raise ArgumentError(
                f"masks and boxes are not given, and metric={one.name!r} needs to know where the object is: pass "
                "masks= with (N, H, W) or boxes= with (N, 4)."
            )
        if one.needs == "again" and again is None:
            raise ArgumentError(
                f"again is not given, and metric={one.name!r} explains the images once more: pass "
                "again=lambda: explain(model, images, target=heatmap.class_ids)."
            )
    if model is None and any(one.needs != "place" for one in chosen):
        names = [one.name for one in chosen if one.needs != "place"]
        raise ArgumentError(f"model is None, and metrics {names} need it: pass the model that was explained.")
    if not isinstance(heatmap, Heatmap):
        how: dict[str, Any] = {"batch_size": batch_size, "model_output": model_output, "class_names": class_names}
        heatmap = own_heatmap(heatmap, model, images, target, **how)
    elif target is not None:
        raise ArgumentError("target goes with an array of your own; a Heatmap holds its own classes: leave target out.")
    asked = None if model is None else Asked(model, images, heatmap, batch_size, seed, model_output)
    inside = None
    if any(one.needs == "place" for one in chosen):
        inside = object_masks(masks, boxes, heatmap.values.shape[1:], len(heatmap))
    case = Case(heatmap, cast(Asked, asked), inside, again)
    found: dict[str, NDArray[np.float32]] = {}
    for one in chosen:
        no_class = (heatmap.class_ids < 0) & (one.needs == "model")
        found[one.label] = np.where(no_class, np.nan, one(case)).astype(np.float32)
    return found


def summary(values: ArrayLike) -> float | None:
    """The mean of one metric over the images that have a value, or None if no image has one."""
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    return float(finite.mean()) if finite.size else None
