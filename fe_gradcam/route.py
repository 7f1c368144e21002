"""The one route: images through a backend, a method and a scaling to heatmaps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.backends import backend_for
from fe_gradcam.methods import CamMethod, get_method
from fe_gradcam.scaling import check_scaling, scale
from fe_gradcam.targets import resolve_target
from fe_gradcam.types import (
    ArgumentError,
    CamInputs,
    CamWarning,
    Heatmap,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Needs,
    Scaling,
    Score,
    Target,
)

ROUNDING = 2.0**-22
"""Two units in the last place of float32, relative to the sum of the terms' magnitudes."""

SCORES: tuple[Score, ...] = ("logit", "output")


def explain(
    model: Any,
    images: Images,
    *,
    method: str = "grad_cam",
    layer: Layer = None,
    target: Target = None,
    scaling: Scaling = "scale_after_relu",
    score: Score = "logit",
    batch_size: int | None = None,
    seed: int = 0,
) -> Heatmap:
    """Heatmaps of what a model looks at.

    The model is called in inference mode and left as it was: weights, gradients, batch-norm
    statistics, training flags, hooks and random streams.

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        images: A batch in the model's own layout and normalisation: (N, C, H, W) for PyTorch,
            (N, H, W, C) for Keras; NumPy or the framework's tensor. A tuple for several inputs.
        method: Name of a CAM method; `fe_gradcam.METHODS` holds them.
        layer: The layer whose output is explained: its name, its index (in ``named_modules()``;
            for Keras in the flattened layers, as FastEstimator's ``intermediate_layers``), or the
            module or Keras layer itself. None: the last output larger than 1x1, behind the
            activation function that directly takes it up.
        target: What is explained. None: the class each image is inferred as; an int: that class;
            an integer array (N,): one class per image; a callable: gets the model's output and
            returns (N,) scores, in the framework's tensors.
        scaling: ``"scale_after_relu"``, ``"scale_before_relu"`` or ``"none"``; see
            `fe_gradcam.scaling.scale`.
        score: ``"logit"``: the class score before the softmax or sigmoid, found automatically;
            ``"output"``: the model's output as it is.
        batch_size: Images per pass; None takes all at once.
        seed: For the methods that draw random numbers; the global streams are not touched.

    Returns:
        A Heatmap with values of shape (N, H, W).

    Raises:
        ArgumentError: An argument is not accepted; a ValueError.
        UnknownNameError: No such method or layer; a KeyError.
        UnsupportedModelError: The model cannot be observed, or its output is no tensor of class
            scores; a TypeError.
        GradientError: The score depends on the layer, and no gradient reaches it; a RuntimeError.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 10))
        >>> explain(net, torch.rand(2, 1, 28, 28)).values.shape
        (2, 28, 28)
    """
    (heatmap,) = explain_many(
        model,
        images,
        methods=(method,),
        layers=(layer,),
        targets=(target,),
        scaling=scaling,
        score=score,
        batch_size=batch_size,
        seed=seed,
    )
    return heatmap


def explain_many(
    model: Any,
    images: Images,
    *,
    methods: Sequence[str] = ("grad_cam",),
    layers: Sequence[Layer] = (None,),
    targets: Sequence[Target] = (None,),
    scaling: Scaling = "scale_after_relu",
    score: Score = "logit",
    batch_size: int | None = None,
    seed: int = 0,
) -> list[Heatmap]:
    """Heatmaps for several methods, layers and targets; one forward pass per layer serves them all.

    Args:
        model: See `explain`, as for the other arguments.
        images: See `explain`.
        methods: Names of methods.
        layers: Layers, each as `explain` takes it.
        targets: Targets, each as `explain` takes it.
        scaling: See `explain`.
        score: See `explain`.
        batch_size: See `explain`.
        seed: See `explain`.

    Returns:
        One Heatmap for each combination: methods outermost, then layers, targets innermost.

    Raises:
        ArgumentError, UnknownNameError, UnsupportedModelError, GradientError: As `explain`.
    """
    return explained(model, images, methods, layers, targets, scaling, score, batch_size, seed).heatmaps


def list_layers(model: Any, images: Images) -> list[LayerInfo]:
    """The layers that a forward pass of `images` completes, in that order, with their shapes.

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        images: A batch as the model takes it; one image is enough.
    """
    return backend_for(model).layers(images)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the route yields.

    Attributes:
        heatmaps: Methods outermost, then layers, targets innermost.
        probabilities: (N, C) of the inference, or None where the output is no table of classes.
    """

    heatmaps: list[Heatmap]
    probabilities: NDArray[np.float32] | None


def explained(
    model: Any,
    images: Images,
    methods: Sequence[str],
    layers: Sequence[Layer],
    targets: Sequence[Target],
    scaling: Scaling,
    score: Score = "logit",
    batch_size: int | None = None,
    seed: int = 0,
) -> Explanation:
    """The heatmaps of `explain_many`, and the inference that came with them."""
    rules = [get_method(name) for name in methods]
    check_scaling(scaling)
    if score not in SCORES:
        raise ArgumentError(f"score={score!r} is not known. Accepted: {', '.join(SCORES)}.")
    for name, given in (("methods", methods), ("layers", layers), ("targets", targets)):
        if not len(given):
            raise ArgumentError(f"{name} is empty; at least one is needed.")
    count = _count(images)
    step = _step(batch_size, count)
    for target in targets:
        resolve_target(target, count)
    backend = backend_for(model)
    refs = [backend.resolve(layer, images) for layer in layers]
    size = backend.image_size(images)
    gradients = any(Needs.GRADIENTS in rule.needs for rule in rules)
    parts: dict[tuple[int, int, int], list[Heatmap]] = {}
    probabilities: list[NDArray[np.float32]] = []
    for start in range(0, count, step):
        rows = slice(start, start + step)
        chunk = _rows(images, rows)
        chunk_targets = [_target_rows(target, rows) for target in targets]
        for at_layer, ref in enumerate(refs):
            passed = backend.run(chunk, ref, chunk_targets, gradients=gradients, score=score)
            if at_layer == 0:
                probabilities += [numpy32(p) for p in (passed[0].probabilities,) if p is not None]
            for at_method, rule in enumerate(rules):
                for at_target, inputs in enumerate(passed):
                    heatmap = heatmap_of(inputs, rule, ref, scaling, size)
                    parts.setdefault((at_method, at_layer, at_target), []).append(heatmap)
    heatmaps = [_joined(parts[place]) for place in sorted(parts)]
    return Explanation(heatmaps, np.concatenate(probabilities) if probabilities else None)


def heatmap_of(
    inputs: CamInputs, method: CamMethod, layer: LayerRef | str, scaling: Scaling, size: tuple[int, int]
) -> Heatmap:
    """The second half of the route: from what a pass yielded to the Heatmap at `size` (H, W)."""
    raw = method.rule(inputs).float()
    finite = raw.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        warnings.warn(
            f"The activations or gradients of layer={str(layer)!r} hold NaN or infinite values for "
            f"{int((~finite).sum())} of {len(raw)} images: their heatmaps are left blank.",
            CamWarning,
            stacklevel=2,
        )
        raw = torch.where(finite.reshape(-1, *[1] * (raw.dim() - 1)), raw, raw.new_zeros(()))
    blank = raw.flatten(1).amax(1) <= _rounding(inputs)
    evidence = raw if scaling == "none" else torch.where(blank[:, None, None], raw.clamp(max=0), raw)
    return Heatmap(
        values=numpy32(scale(evidence, scaling, size)),
        raw=numpy32(raw),
        class_ids=inputs.class_ids.cpu().numpy().astype(np.int64),
        scores=numpy32(inputs.scores),
        confidences=_confidences(inputs),
        blank=blank.cpu().numpy(),
        method=method.name,
        layer=str(layer),
        scaling=scaling,
    )


def numpy32(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a float32 array on the CPU."""
    return tensor.detach().float().cpu().numpy()


def _rounding(inputs: CamInputs) -> Tensor:
    """(N,) how large a sum over channels may come out of float32 where it is zero: no evidence is below that.

    A map of that size is what is left of terms that cancel, and scaled to [0, 1] it would look like any other.
    """
    if inputs.gradients is None:
        return torch.zeros_like(inputs.scores)
    gradients = inputs.gradients.abs()
    weights = gradients.maximum(gradients.mean((2, 3), keepdim=True))
    largest = (inputs.activations.abs() * weights).sum(1).flatten(1).amax(1)
    return ROUNDING * largest.where(largest.isfinite(), largest.new_zeros(()))


def _confidences(inputs: CamInputs) -> NDArray[np.float32]:
    ids = inputs.class_ids
    if inputs.probabilities is None:
        return np.full(len(ids), np.nan, np.float32)
    chosen = inputs.probabilities.gather(1, ids.clamp(min=0)[:, None])[:, 0]
    return numpy32(torch.where(ids < 0, torch.nan, chosen))


def _count(images: Images) -> int:
    parts = images if isinstance(images, (tuple, list)) else (images,)
    shapes = [tuple(getattr(part, "shape", ())) for part in parts]
    if not shapes or any(len(shape) < 1 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ArgumentError(
            f"images holds shapes {shapes}; an array (N, C, H, W) or (N, H, W, C) as the model takes it is needed, or "
            "a tuple of arrays with the same N for a model with several inputs."
        )
    if len(shapes[0]) != 4:
        raise ArgumentError(
            f"images has shape {shapes[0]}; (N, C, H, W) for PyTorch or (N, H, W, C) for Keras is needed. Add the "
            "batch axis to a single image: images[None]."
        )
    if shapes[0][0] == 0:
        raise ArgumentError("images is empty; at least one image is needed.")
    return int(shapes[0][0])


def _step(batch_size: int | None, count: int) -> int:
    if batch_size is None:
        return count
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size!r} is not accepted. Accepted: None or an integer from 1.")
    return int(batch_size)


def _rows(images: Images, rows: slice) -> Images:
    if isinstance(images, (tuple, list)):
        return tuple(part[rows] for part in images)
    return images[rows]


def _target_rows(target: Target, rows: slice) -> Target:
    if target is None or callable(target) or np.ndim(target) == 0:
        return target
    return np.asarray(target)[rows]


def _joined(parts: list[Heatmap]) -> Heatmap:
    """The heatmaps of consecutive chunks as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Heatmap(
        values=np.concatenate([part.values for part in parts]),
        raw=np.concatenate([part.raw for part in parts]),
        class_ids=np.concatenate([part.class_ids for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        confidences=np.concatenate([part.confidences for part in parts]),
        blank=np.concatenate([part.blank for part in parts]),
        method=first.method,
        layer=first.layer,
        scaling=first.scaling,
    )
