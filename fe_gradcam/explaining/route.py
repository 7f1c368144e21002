"""The one route: images through a backend, a method and a scaling to heatmaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.backends.errors import NotCalledError
from fe_gradcam.backends.interrupts import LetThrough
from fe_gradcam.backends.protocol import Backend, Query
from fe_gradcam.errors import Argument, ArgumentError, CamWarning, in_short, warn
from fe_gradcam.explaining.heat import Passes, heatmap_of, numpy32
from fe_gradcam.explaining.probe import ModelProbe
from fe_gradcam.explaining.settings import Settings, settings_of
from fe_gradcam.explaining.views import Smooth
from fe_gradcam.methods import METHODS, CamMethod
from fe_gradcam.parameters import knows_its_keywords, several
from fe_gradcam.spec.arrays import listed
from fe_gradcam.spec.images import Inputs, in_torch
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.resolved import ResolvedTarget, resolve_target
from fe_gradcam.spec.targets import target_name
from fe_gradcam.types import (
    CamInputs,
    ClassNames,
    Fuse,
    Heatmap,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Method,
    Reshape,
    Scaling,
    Score,
    Target,
)

OF_OTHERS = {
    "class_id": "target= with the class id",
    "device": "nothing: the model is asked where it is",
    "class_idx": "target= with the class id",
    "label_mapping": "class_names=, names in the order of their ids or {id: name}",
    "names": "class_names=",
    "target_layer": "layer=",
    "input_tensor": "images, the second argument",
    "reshape_transform": "reshape=",
}
"""Arguments of other functions and packages, and what they are called here."""

SEVERAL = ", or call explain_many, which takes several"


@knows_its_keywords(
    **OF_OTHERS,
    methods=f"method= with one{SEVERAL}",
    layers=f"layer=, which fuses a list of layers into one map{SEVERAL}",
    target_layers="layer=, which fuses a list of layers into one map",
    targets=f"target= with one{SEVERAL}",
    labels="target= with the class ids, (N,)",
)
def explain(
    model: Any,
    images: Images,
    *,
    method: Method = "grad_cam",
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
    smooth: Smooth | Sequence[Smooth] | None = None,
    progress: bool = True,
) -> Heatmap:
    """Heatmaps of what a model looks at: by one method, at one layer, for one target per image.

    The model runs in inference mode and is left as it was: weights, gradients, batch-norm
    statistics, training flags, hooks and random streams.

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        images: A batch in the model's own layout and normalisation, a NumPy array or a tensor of the framework:
            (N, C, H, W) for PyTorch, (N, H, W, C) for Keras; for volumes (N, C, D, H, W) or (N, D, H, W, C). For
            several inputs a tuple: the heatmap belongs to the first input with the axes of an image. If a layer is
            called several times in a pass, for example once for each input, the last call counts.
        method: Name of a CAM method (`fe_gradcam.METHODS` lists them), or a pair of the name and its parameters,
            ``("smooth_grad_cam_plus_plus", {"samples": 8})``.
        layer: The layer whose output is explained: its name, its index (in ``named_modules()``; for Keras in the
            flattened layers, as in FastEstimator's ``intermediate_layers``), or the module or Keras layer itself.
            None: the last map larger than 1x1 before a pooling, taken behind the activation function applied directly
            to it; in a transformer, the last normalisation layer with image tokens that the score depends on. A list
            of layers: one map, fused from the maps of all.
        target: What is explained. None: the inferred class of each image. An int: this class. A str: the class of
            this name in `class_names`. An integer array (N,): one class per image. `Rank`, `Contrast`, `OutputValue`
            or `Segmentation`. A callable: gets the model's output and returns scores (N,), as framework tensors.
        scaling: ``"scale_after_relu"``, ``"scale_before_relu"`` or ``"none"``; see `fe_gradcam.scaling.scale`.
        score: ``"logit"``: the class score before the softmax or sigmoid, which is found automatically;
            ``"output"``: the model's output as it is.
        batch_size: Images per pass, from 1. None: all images at once, and of the variants that a method makes of them
            as many as have 200,000 pixels together, but at most 64, on a GPU 6.4 million and 256; fewer on a CPU, from
            4, where a layer's output is large. It bounds the memory of every method, whatever the number of channels.
        seed: Seed of the methods that draw random numbers, from 0. The numbers of an image do not depend on the other
            images, and the global random streams are not touched.
        class_names: Names of the classes: a sequence in the order of the ids, or {id: name}.
        model_output: If the model returns several outputs (a tuple, a dict, a dataclass, a Keras model with several):
            the name or position of the one that holds the scores. None: the one called "logits" or "out", or the only
            one of a fitting shape.
        reshape: Turns the layer's output, a torch tensor, into a map (N, K, h, w), if its tokens are not
            recognised. It may move, split and drop values; the gradients are reshaped by the same function.
        fuse: How the maps of several layers become one: ``"mean"`` or ``"max"``; see `fe_gradcam.scaling.fuse_maps`.
        smooth: ``"augment"`` (or an `fe_gradcam.Augment`): the mean over flipped and scaled views of the image,
            six passes. ``"eigen"``: the first principal component of the map's terms by channel. Both: a tuple.
        progress: Whether a progress bar is shown in a terminal if a method takes longer than a few seconds.

    Returns:
        A Heatmap with values of shape (N, H, W), or (N, D, H, W) for volumes.

    Raises:
        ArgumentError: An argument is not accepted; a ValueError.
        UnknownNameError: A method, layer, class or output does not exist; a KeyError.
        UnsupportedModelError: The model cannot be observed, or it is not certain which part of its output holds what
            the target needs; a TypeError.
        GradientError: The score depends on the layer, but no gradient reaches the layer; a RuntimeError.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 10))
        >>> explain(net, torch.rand(2, 1, 28, 28)).values.shape
        (2, 28, 28)
    """
    settings = settings_of(scaling, score, batch_size, seed, class_names, model_output, reshape, fuse, smooth, progress)
    return explained(model, images, settings, methods=(method,), layers=(layer,), targets=(target,)).heatmaps[0]


@knows_its_keywords(
    **OF_OTHERS,
    method="methods= with a list, as ['grad_cam']",
    layer="layers= with a list, as ['layer4']",
    target_layers="layers=",
    target="targets= with a list, as [3]",
    labels="targets= with a list that holds the class ids (N,), as [labels]",
)
def explain_many(
    model: Any,
    images: Images,
    *,
    methods: Sequence[Method] = ("grad_cam",),
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
    smooth: Smooth | Sequence[Smooth] | None = None,
    progress: bool = True,
) -> list[Heatmap]:
    """Heatmaps for several methods, layers and targets; all methods and targets share one forward pass per layer.

    `methods`, `layers` and `targets` are lists of what `explain` takes; a list inside `layers` is fused into one map.
    ``targets=top_k(3)`` explains the three highest classes. The other arguments are those of `explain`.

    Returns:
        A list with one Heatmap for each combination, ordered by method, then by layer, then by target.

    Raises:
        ArgumentError, UnknownNameError, UnsupportedModelError, GradientError: As in `explain`.
    """
    settings = settings_of(scaling, score, batch_size, seed, class_names, model_output, reshape, fuse, smooth, progress)
    return explained(model, images, settings, methods=methods, layers=layers, targets=targets).heatmaps


@knows_its_keywords()
def list_layers(model: Any, images: Images, *, model_output: ModelOutput = None) -> list[LayerInfo]:
    """The layers of a model with the shapes of their outputs, in the order in which a forward pass completes them.

    `LayerInfo.default` is True for the layer that ``layer=None`` explains.

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        images: A batch as the model takes it; one image is enough.
        model_output: See `explain`.

    Raises:
        ArgumentError, UnsupportedModelError: As in `explain`.
    """
    backend = backend_for(model, model_output)
    inputs = Inputs.of(images).checked()
    infos = backend.layers(inputs)
    if any(info.spatial for info in infos):
        name = backend.resolve(None, inputs).name
        last = max(at for at, info in enumerate(infos) if info.name == name)
        infos[last] = replace(infos[last], default=True)
    return infos


class Explanation(NamedTuple):
    """The heatmaps of `explain_many`, and the inferred probabilities (N, C) if the output is a table of classes."""

    heatmaps: list[Heatmap]
    probabilities: NDArray[np.float32] | None


def explained(
    model: Any,
    images: Images,
    settings: Settings,
    *,
    methods: Sequence[Method | CamMethod],
    layers: Sequence[Layer],
    targets: Sequence[Target],
) -> Explanation:
    """The heatmaps of `explain_many`, and the inferred probabilities."""
    methods = _entries("methods", several(methods))
    layers, targets = _entries("layers", layers), _entries("targets", targets)
    rules = [METHODS.find(method) for method in methods]
    inputs = Inputs.of(images).checked()
    resolved = [resolve_target(target, len(inputs), settings.class_names) for target in targets]
    of_pixels = any(target.of_pixels for target in resolved)
    backend = backend_for(model, settings.model_output, settings.reshape, of_pixels=of_pixels)
    check_reshape(settings.reshape, layers)
    with backend.held(), LetThrough():
        try:
            return _explained(backend, inputs, settings, rules, layers, targets, resolved)
        except NotCalledError:  # the default layer of a forward that went another way; no module was replaced
            if None not in layers or not backend.forget_defaults():
                raise
        return _explained(backend, inputs, settings, rules, layers, targets, resolved)


def _entries(name: str, given: Any) -> list[Any]:
    """The entries of a list."""
    if not isinstance(given, (Sequence, np.ndarray)):
        raise ArgumentError(f"{name}={in_short(given)} is not accepted. Accepted: {ENTRIES}")
    entries = listed(name, given, ENTRIES)
    if not entries:
        raise ArgumentError(f"{name} is empty; at least one entry is needed.")
    return entries


ENTRIES = "a list, with one entry or several."
"""What `explain_many` takes for each of its lists."""


def _explained(
    backend: Backend,
    inputs: Inputs,
    settings: Settings,
    rules: Sequence[CamMethod],
    layers: Sequence[Layer],
    targets: Sequence[Target],
    resolved: Sequence[ResolvedTarget],
) -> Explanation:
    refs_of = [_refs(backend, layer, inputs, resolved[0]) for layer in layers]
    size, count = backend.image_size(inputs), len(inputs)
    step = count if settings.batch_size is None else int(settings.batch_size)
    called = [target_name(target, settings.class_names) for target in targets]
    kinds = [", ".join(dict.fromkeys(backend.kind_of(ref) for ref in refs)) for refs in refs_of]
    parts: dict[tuple[int, int, int], list[Heatmap]] = {}
    probabilities: list[NDArray[np.float32]] = []
    for start in range(0, count, step):
        rows = slice(start, start + step)
        chunk, chunk_targets = inputs, resolved
        if step < count:
            chunk, chunk_targets = inputs.rows(rows), [target.rows(rows) for target in resolved]
        for at_layer, refs in enumerate(refs_of):
            passes = [_passes(backend, chunk, ref, chunk_targets, rules, settings) for ref in refs]
            if at_layer == 0:
                for target, its in zip(chunk_targets, passes[0], strict=True):
                    _warn_of_itself(target, its.plain)
                probabilities += [numpy32(p) for p in (passes[0][0].plain.probabilities,) if p is not None]
            for at_method, rule in enumerate(rules):
                for at_target, of_layers in enumerate(zip(*passes, strict=True)):
                    named = {"target": called[at_target], "layer_kind": kinds[at_layer]}
                    heatmap = heatmap_of(of_layers, rule, refs, size, settings, **named)
                    parts.setdefault((at_method, at_layer, at_target), []).append(heatmap)
    heatmaps = [Heatmap.joined(parts[key]) for key in sorted(parts)]
    if len(probabilities) > 1:
        probabilities = [np.concatenate(probabilities)]
    return Explanation(heatmaps, probabilities[0] if probabilities else None)


def _passes(
    backend: Backend,
    inputs: Inputs,
    layer: LayerRef,
    targets: Sequence[ResolvedTarget],
    rules: Sequence[CamMethod],
    settings: Settings,
) -> list[Passes]:
    """For each target, the results of the passes: one of the images as they are, and those of their views."""
    gradients = any(rule.by_gradients for rule in rules)
    asks = any(rule.asks for rule in rules)
    views, _ = settings.smoothing

    def passed(seen: Inputs, of: Sequence[ResolvedTarget]) -> list[CamInputs]:
        query = Query(layer, of, settings.score, gradients)
        found = backend.run(seen, query)
        if not asks:  # random_cam draws numbers too
            return [replace(one, seed=settings.seed) for one in found] if settings.seed else found
        return [
            replace(one, seed=settings.seed, probe=ModelProbe(backend, seen, query, one, settings)) for one in found
        ]

    plain = passed(inputs, targets)
    by_view = []
    for view in views:
        of = plain
        if not view.is_plain:  # what is explained stays what it is for the images themselves
            picture = view.of(in_torch(inputs.picture), channels_first=backend.channels_first)
            of = passed(inputs.with_picture(picture), [one.pinned.turned(view.axes) for one in plain])
        by_view.append((view, of))
    return [Passes(one, [(view, of[at]) for view, of in by_view]) for at, one in enumerate(plain)]


def check_reshape(reshape: Reshape | None, layers: Sequence[Layer]) -> None:
    """Raises ArgumentError if `reshape` is given, but a layer is not."""
    every = [one for layer in layers for one in (layer if isinstance(layer, (list, tuple)) else (layer,))]
    if reshape is not None and any(layer is None for layer in every):
        raise ArgumentError("reshape is given without layer; pass layer= with the layer whose output it reshapes.")


def _warn_of_itself(target: ResolvedTarget, inputs: CamInputs) -> None:
    """Warns if the inferred class is held against itself in some images."""
    if target.kind != "classes" or target.is_class or inputs.logits is None:
        return
    count = target.against_itself(inputs.logits.argmax(1).cpu().numpy())
    if count:
        told = CamWarning(
            Argument("target"),
            f" holds the inferred class against itself in {count} of {len(inputs.logits)} images; their heatmaps say "
            "nothing about that class. Contrast(None, None) takes the closest rival in each image instead.",
        )
        warn(told)


def _refs(backend: Backend, layer: Layer, inputs: Inputs, target: ResolvedTarget) -> list[LayerRef]:
    """The places that one entry of `layers` names: one place, or several to be fused."""
    if not isinstance(layer, (list, tuple)):
        return [backend.resolve(layer, inputs, target)]
    if not layer:
        raise ArgumentError("layer is an empty list. Accepted: a layer, or a list with at least one layer.")
    return [backend.resolve(one, inputs, target) for one in layer]
