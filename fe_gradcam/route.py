"""The one route: images through a backend, a method and a scaling to heatmaps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.backends import backend_for
from fe_gradcam.backends._shared import Backend, as_tuple, picture_of
from fe_gradcam.methods import CamMethod, get_method
from fe_gradcam.outputs import ModelOutput
from fe_gradcam.scaling import check_fuse, check_scaling, fuse_maps, scale
from fe_gradcam.targets import TOP_CLASS, ClassTarget, RegionTarget, ResolvedTarget, resolve_target
from fe_gradcam.types import (
    ArgumentError,
    CamInputs,
    CamWarning,
    ClassNames,
    Fuse,
    Heatmap,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Needs,
    Reshape,
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
    class_names: ClassNames | None = None,
    model_output: ModelOutput = None,
    reshape: Reshape | None = None,
    fuse: Fuse = "mean",
) -> Heatmap:
    """Heatmaps of what a model looks at.

    The model is called in inference mode and left as it was: weights, gradients, batch-norm
    statistics, training flags, hooks and random streams.

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        images: A batch in the model's own layout and normalisation: (N, C, H, W) for PyTorch,
            (N, H, W, C) for Keras; of volumes (N, C, D, H, W) or (N, D, H, W, C). NumPy or the
            framework's tensor. A tuple for several inputs: the map is drawn on the first with an image's
            axes; of a layer that is called several times, for several inputs too, the last call counts.
        method: Name of a CAM method; `fe_gradcam.METHODS` holds them.
        layer: The layer whose output is explained: its name, its index (in ``named_modules()``;
            for Keras in the flattened layers, as FastEstimator's ``intermediate_layers``), or the
            module or Keras layer itself. None: the last map larger than 1x1 before a pooling, behind
            the activation function that directly takes it up; of a transformer the last
            normalisation layer whose tokens of the image the score depends on. A list of layers: one map fused of
            theirs.
        target: What is explained. None: the class each image is inferred as; an int: that class; a
            name of `class_names`; an integer array (N,): one class per image; `Rank`, `Contrast`,
            `OutputValue` or `Segmentation`; a callable: gets the model's output and returns (N,)
            scores, in the framework's tensors.
        scaling: ``"scale_after_relu"``, ``"scale_before_relu"`` or ``"none"``; see
            `fe_gradcam.scaling.scale`.
        score: ``"logit"``: the class score before the softmax or sigmoid, found automatically;
            ``"output"``: the model's output as it is.
        batch_size: Images per pass; None takes all at once.
        seed: For the methods that draw random numbers; the global streams are not touched.
        class_names: Names of the classes, in the order of their ids or {id: name}.
        model_output: Of a model that returns several outputs (a tuple, a dict, a dataclass, a Keras model
            with several): the name or position of the one that holds the scores. None takes the one called
            "logits" or "out", or the only one of a fitting shape.
        reshape: Makes a map (N, K, h, w) of the layer's output as a torch tensor, where tokens are not
            recognised; it may move, split and leave out, and the gradients go the same way.
        fuse: ``"mean"`` or ``"max"``: how several layers become one map; see
            `fe_gradcam.scaling.fuse_maps`.

    Returns:
        A Heatmap with values of shape (N, H, W), of volumes (N, D, H, W).

    Raises:
        ArgumentError: An argument is not accepted; a ValueError.
        UnknownNameError: No such method, layer, class or output; a KeyError.
        UnsupportedModelError: The model cannot be observed, or its output does not plainly hold what the
            target asks for; a TypeError.
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
        class_names=class_names,
        model_output=model_output,
        reshape=reshape,
        fuse=fuse,
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
    class_names: ClassNames | None = None,
    model_output: ModelOutput = None,
    reshape: Reshape | None = None,
    fuse: Fuse = "mean",
) -> list[Heatmap]:
    """Heatmaps for several methods, layers and targets; one forward pass per layer serves them all.

    Args:
        model: See `explain`, as for the other arguments.
        images: See `explain`.
        methods: Names of methods.
        layers: Layers, each as `explain` takes it; a list among them is fused.
        targets: Targets, each as `explain` takes it; ``targets=top_k(3)`` for the three highest classes.
        scaling: See `explain`.
        score: See `explain`.
        batch_size: See `explain`.
        seed: See `explain`.
        class_names: See `explain`.
        model_output: See `explain`.
        reshape: See `explain`.
        fuse: See `explain`.

    Returns:
        One Heatmap for each combination: methods outermost, then layers, targets innermost.

    Raises:
        ArgumentError, UnknownNameError, UnsupportedModelError, GradientError: As `explain`.
    """
    return explained(
        model,
        images,
        methods=methods,
        layers=layers,
        targets=targets,
        scaling=scaling,
        score=score,
        batch_size=batch_size,
        seed=seed,
        class_names=class_names,
        model_output=model_output,
        reshape=reshape,
        fuse=fuse,
    ).heatmaps


def list_layers(model: Any, images: Images, *, model_output: ModelOutput = None) -> list[LayerInfo]:
    """The layers that a forward pass of `images` completes, in that order, with their shapes.

    The one where ``layer=None`` explains says so (`LayerInfo.default`).

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        images: A batch as the model takes it; one image is enough.
        model_output: See `explain`.
    """
    backend = backend_for(model, model_output)
    infos = backend.layers(images)
    if any(info.spatial for info in infos):
        name = backend.resolve(None, images).name
        last = max(at for at, info in enumerate(infos) if info.name == name)
        infos[last] = replace(infos[last], default=True)
    return infos


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
    *,
    methods: Sequence[str],
    layers: Sequence[Layer],
    targets: Sequence[Target],
    scaling: Scaling,
    score: Score = "logit",
    batch_size: int | None = None,
    seed: int = 0,
    class_names: ClassNames | None = None,
    model_output: ModelOutput = None,
    reshape: Reshape | None = None,
    fuse: Fuse = "mean",
) -> Explanation:
    """The heatmaps of `explain_many`, and the inference that came with them."""
    for name, given in (("methods", methods), ("layers", layers), ("targets", targets)):
        if isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray)):
            raise ArgumentError(f"{name}={given!r} is not accepted. Accepted: a list, of one or several.")
        if not len(given):
            raise ArgumentError(f"{name} is empty; at least one is needed.")
    rules = [get_method(name) for name in methods]
    check_scaling(scaling)
    check_fuse(fuse)
    if score not in SCORES:
        raise ArgumentError(f"score={score!r} is not known. Accepted: {', '.join(SCORES)}.")
    count = _count(images)
    step = _step(batch_size, count)
    resolved = [resolve_target(target, count, class_names) for target in targets]
    of_pixels = any(isinstance(target, RegionTarget) for target in resolved)
    backend = backend_for(model, model_output, reshape, of_pixels=of_pixels)
    check_reshape(reshape, layers)
    places = [_places(backend, layer, images) for layer in layers]
    size = backend.image_size(images)
    gradients = any(Needs.GRADIENTS in rule.needs for rule in rules)
    parts: dict[tuple[int, int, int], list[Heatmap]] = {}
    probabilities: list[NDArray[np.float32]] = []
    for start in range(0, count, step):
        rows = slice(start, start + step)
        chunk, chunk_targets = _rows(images, rows), [target.rows(rows) for target in resolved]
        for at_layer, refs in enumerate(places):
            passes = [backend.run(chunk, ref, chunk_targets, gradients=gradients, score=score) for ref in refs]
            if at_layer == 0:
                for target, inputs in zip(chunk_targets, passes[0], strict=True):
                    _warn_of_itself(target, inputs)
                probabilities += [numpy32(p) for p in (passes[0][0].probabilities,) if p is not None]
            for at_method, rule in enumerate(rules):
                for at_target, of_layers in enumerate(zip(*passes, strict=True)):
                    heatmap = heatmap_of(of_layers, rule, refs, scaling, size, fuse)
                    parts.setdefault((at_method, at_layer, at_target), []).append(heatmap)
    heatmaps = [_joined(parts[place]) for place in sorted(parts)]
    return Explanation(heatmaps, np.concatenate(probabilities) if probabilities else None)


def check_reshape(reshape: Reshape | None, layers: Sequence[Layer]) -> None:
    """Raises ArgumentError where a reshape is given for a layer that is not."""
    every = [one for layer in layers for one in (layer if isinstance(layer, (list, tuple)) else (layer,))]
    if reshape is not None and any(layer is None for layer in every):
        raise ArgumentError("reshape is given without layer; pass layer= with the one whose output it makes a map of.")


def _warn_of_itself(target: ResolvedTarget, inputs: CamInputs) -> None:
    """Says where the class that others are held against is one of these others."""
    if not isinstance(target, ClassTarget) or target.is_class or inputs.logits is None:
        return
    ids = torch.from_numpy(target.class_ids).to(inputs.logits.device)
    first = torch.where(ids[:, :1] == TOP_CLASS, inputs.logits.argmax(1, keepdim=True), ids[:, :1])
    count = int((ids[:, 1:] == first).any(1).sum())
    if count:
        warnings.warn(
            f"target holds a class against itself in {count} of {len(ids)} images, which are inferred as a class of "
            "against: their heatmaps show nothing of it. Contrast(None, None) takes the closest rival of each.",
            CamWarning,
            stacklevel=2,
        )


def heatmap_of(
    inputs: Sequence[CamInputs],
    method: CamMethod,
    layers: Sequence[LayerRef | str],
    scaling: Scaling,
    size: Sequence[int],
    fuse: Fuse = "mean",
) -> Heatmap:
    """The second half of the route: from what the passes yielded, one for each layer, to the Heatmap at `size`."""
    signed = [_signed_map(one, method, layer, size) for one, layer in zip(inputs, layers, strict=True)]
    (raw, blank), name = signed[0], str(layers[0])
    if len(signed) > 1:
        name = f"{fuse}({', '.join(map(str, layers))})"
        raw = fuse_maps([_without(one, nothing) for one, nothing in signed], fuse, size)
        blank = raw.flatten(1).amax(1) <= 0
    first = inputs[0]
    return Heatmap(
        values=numpy32(scale(raw if scaling == "none" else _without(raw, blank), scaling, size)),
        raw=numpy32(raw),
        class_ids=first.class_ids.cpu().numpy().astype(np.int64),
        scores=numpy32(first.scores),
        confidences=_confidences(first),
        blank=blank.cpu().numpy(),
        method=method.name,
        layer=name,
        scaling=scaling,
    )


def _signed_map(
    inputs: CamInputs, method: CamMethod, layer: LayerRef | str, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The signed map (N, h, w) of one layer, finite, and which images (N,) have no evidence in it."""
    if inputs.activations.dim() != len(size) + 2:
        raise ArgumentError(
            f"layer={str(layer)!r} has a map with {inputs.activations.dim() - 2} axes, and the images have "
            f"{len(size)}: pass a layer that keeps all of them."
        )
    if inputs.activations[0, 0].numel() == 1:
        warnings.warn(
            f"layer={str(layer)!r} has one place alone: its map says nothing about where. Pass a layer before the "
            "places are pooled.",
            CamWarning,
            stacklevel=2,
        )
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
    return raw, raw.flatten(1).amax(1) <= _rounding(inputs)


def _without(raw: Tensor, blank: Tensor) -> Tensor:
    """The maps without the positive values of those that are blank, which are rounding."""
    return torch.where(blank.reshape(-1, *[1] * (raw.dim() - 1)), raw.clamp(max=0), raw)


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
    weights = gradients.maximum(gradients.mean(tuple(range(2, gradients.dim())), keepdim=True))
    largest = (inputs.activations.abs() * weights).sum(1).flatten(1).amax(1)
    return ROUNDING * largest.where(largest.isfinite(), largest.new_zeros(()))


def _places(backend: Backend, layer: Layer, images: Images) -> list[LayerRef]:
    """The places that one entry of `layers` names: one, or several to be fused."""
    if not isinstance(layer, (list, tuple)):
        return [backend.resolve(layer, images)]
    if not layer:
        raise ArgumentError("layer is an empty list. Accepted: a layer, or a list of at least one.")
    return [backend.resolve(one, images) for one in layer]


def _confidences(inputs: CamInputs) -> NDArray[np.float32]:
    ids = inputs.class_ids
    if inputs.probabilities is None:
        return np.full(len(ids), np.nan, np.float32)
    chosen = inputs.probabilities.gather(1, ids.clamp(min=0)[:, None])[:, 0]
    return numpy32(torch.where(ids < 0, torch.nan, chosen))


def _count(images: Images) -> int:
    parts = as_tuple(images)
    shapes = [tuple(getattr(part, "shape", ())) for part in parts]
    if not shapes or any(len(shape) < 1 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ArgumentError(
            f"images holds shapes {shapes}; an array (N, C, H, W) or (N, H, W, C) as the model takes it is needed, or "
            "a tuple of arrays with the same N for a model with several inputs."
        )
    shape = tuple(picture_of(images).shape)
    if len(shape) not in (4, 5):
        raise ArgumentError(
            f"images has shape {shape}; (N, C, H, W) for PyTorch or (N, H, W, C) for Keras is needed, of volumes "
            "with a depth before H. Add the batch axis to a single image: images[None]."
        )
    if shape[0] == 0:
        raise ArgumentError("images is empty; at least one image is needed.")
    return int(shape[0])


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
