"""HALCON's operator gen_dl_model_heatmap for trained PyTorch and Keras classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import Argument, ArgumentError, CamError, UnknownNameError, in_short, nearest
from fe_gradcam.explaining.results import heatmap_key, inference_entries
from fe_gradcam.explaining.route import Explanation, explained
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.methods import METHODS, CamMethod
from fe_gradcam.parameters import one_of, whole
from fe_gradcam.spec.arrays import array_of, listed
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.layers import convolution_layer
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.spec.targets import names_by_id, target_name
from fe_gradcam.types import Layer, LayerRef, Method, Target

TRUE_OR_FALSE = {"true": True, "false": False, True: True, False: False}

OWN = ("target_conv_layer", "use_conv_only", "batch_size")
"""Settings that only the operator has."""

SHARED = ("scaling", "class_names", "model_output", "seed", "smooth")
"""Settings that `explain` has too."""


@dataclass(frozen=True, eq=False)
class GenParam:
    """The settings in gen_param, checked; see `gen_dl_model_heatmap`."""

    of_route: Settings
    """Settings that `explain` has too."""
    target_conv_layer: Layer = None
    use_conv_only: str | bool = True
    batch_size: int = 16

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1)
        one_of("use_conv_only", self.use_conv_only, list(TRUE_OR_FALSE))

    @classmethod
    def of(cls, given: Any) -> GenParam:
        """The settings that a user passed."""
        if given is None or (isinstance(given, Sequence) and not len(given)):
            return cls(Settings())
        if not isinstance(given, Mapping):
            raise ArgumentError(f"gen_param is a {type(given).__name__}. Accepted: a dict of settings, or None.")
        given = {key: given[key] for key in listed("gen_param", given, "a dict of settings, or None.")}
        known = (*OWN, *SHARED)
        for key in given:
            if key not in known:
                raise UnknownNameError(
                    f"gen_param has no setting {in_short(key)}{nearest(key, known)} Accepted: {', '.join(known)}."
                )
        values = {**given, "scaling": "none"} if given.get("scaling", "none") is None else dict(given)
        own = {name: values.pop(name) for name in OWN if name in values}
        try:
            return cls(Settings(**values), **own)
        except CamError as error:
            parts = (
                replace(part, name=f"gen_param[{part.name!r}]") if isinstance(part, Argument) else part
                for part in error.args
            )
            raise type(error)(*parts) from None


def gen_dl_model_heatmap(
    dl_model: Any,
    dl_sample: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    heatmap_method: Method = "grad_cam",
    target_classes: Target | Sequence[Target] = (),
    gen_param: Mapping[str, Any] | None = None,
) -> Any:
    """Classifies samples and adds heatmaps to the result, like HALCON's operator of the same name.

    HALCON takes one target class; this function also takes several. What is passed in is not changed.

    Args:
        dl_model: A torch.nn.Module or a tf.keras.Model.
        dl_sample: A dict with an image under "image", in the model's own layout and normalisation but without the
            batch axis: (C, H, W) for PyTorch, (H, W, C) for Keras; a tuple of arrays for a model with several inputs.
            Or a sequence of such dicts, whose images may differ in size. Other keys of the dicts are ignored.
        heatmap_method: Name of a CAM method (`fe_gradcam.METHODS` lists them), or a pair of the name and its
            parameters, as `fe_gradcam.explain` takes it.
        target_classes: A class id, a class name, any other target that `fe_gradcam.explain` takes for one
            image, or a sequence of these; empty for the inferred class, which has the highest confidence.
        gen_param: Settings by name, all optional:

            ``target_conv_layer``: the convolution to explain, by its name or its index, or the layer itself. Default:
            the deepest convolution whose output is larger than 1x1.

            ``use_conv_only``: ``"true"`` (default): the convolution's own output, before an activation
            that is fused into the layer or works in place; ``"false"``: the output of the ReLU that follows,
            directly or behind the batch normalisation.

            ``scaling``: ``"scale_after_relu"`` (default), ``"scale_before_relu"`` or ``"none"``; see
            `fe_gradcam.scaling.scale`.

            ``class_names``: names in the order of the class ids, or {id: name}. Default: the ids.

            ``model_output``: the output that holds the scores, if the model has several; see `fe_gradcam.explain`.

            ``batch_size``: samples per pass, 16 by default. Methods that need variants of them choose by the size.

            ``smooth``, ``seed``: see `fe_gradcam.explain`.

            Values may be HALCON's strings or Python's own (True for ``"true"``, None for ``"none"``).

    Returns:
        A dict for one sample, a list of dicts for a sequence. The keys: ``classification_class_ids``,
        ``classification_class_names`` and ``classification_confidences`` (highest confidence first), and
        ``heatmap_{method}``: {``heatmap_image_class_{id}``: float32 (H, W)}. A target that is no class
        has the key ``heatmap_image_{name}``.

    Raises:
        ArgumentError: A sample, a setting or its value is not accepted; a ValueError.
        UnknownNameError: A method, layer, class or setting does not exist; a KeyError.
        UnsupportedModelError, GradientError: As in `fe_gradcam.explain`.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> result = gen_dl_model_heatmap(net, {"image": torch.rand(1, 8, 8)}, target_classes=[0, 1])
        >>> sorted(result["heatmap_grad_cam"])
        ['heatmap_image_class_0', 'heatmap_image_class_1']
    """
    method = METHODS.find(heatmap_method)
    param = GenParam.of(gen_param)
    targets = _targets(target_classes)
    for target in targets:
        resolve_target(target, 1, param.of_route.class_names)
    several = not isinstance(dl_sample, Mapping)
    if several and (isinstance(dl_sample, (str, bytes)) or not isinstance(dl_sample, Sequence)):
        raise ArgumentError(f"dl_sample is a {type(dl_sample).__name__}. Accepted: a dict, or a sequence of dicts.")
    images = [_image(sample, at) for at, sample in enumerate(dl_sample if several else [dl_sample])]
    layers: dict[Any, LayerRef] = {}
    results: list[dict[str, Any]] = [{} for _ in images]
    for rows in _of_one_size(images, param.batch_size):
        inputs = Inputs.stacked([images[row] for row in rows]).checked()
        if inputs.shapes not in layers:  # which convolution is larger than 1x1 depends on it
            layers[inputs.shapes] = _layer(dl_model, inputs, param)
        ref = layers[inputs.shapes]
        done = explained(dl_model, inputs.given(), param.of_route, methods=[method], layers=[ref], targets=targets)
        for at, row in enumerate(rows):
            results[row] = _result(done, at, method, targets, names_by_id(param.of_route.class_names))
    return results if several else results[0]


def _result(
    done: Explanation, at: int, method: CamMethod, targets: Sequence[Target], names: Mapping[int, str]
) -> dict[str, Any]:
    """The result of one sample; it shares no memory with other results."""
    result = inference_entries(None if done.probabilities is None else done.probabilities[at], names)
    maps: dict[str, NDArray[np.float32]] = {}
    for target, heatmap in zip(targets, done.heatmaps, strict=True):
        first = key = heatmap_key(int(heatmap.class_ids[at]), target_name(target, names))
        count = 1
        while key in maps and heatmap.class_ids[at] < 0:
            count += 1
            key = f"{first}_{count}"
        maps[key] = heatmap.values[at].copy()
    return {**result, f"heatmap_{method.name}": maps}


def _layer(model: Any, inputs: Inputs, param: GenParam) -> LayerRef:
    backend = backend_for(model, param.of_route.model_output)
    layer = param.target_conv_layer
    name = None if layer is None else backend.resolve(layer).name
    return convolution_layer(backend.layers(inputs.rows(slice(1))), name, TRUE_OR_FALSE[param.use_conv_only])


def _image(sample: Any, at: int) -> tuple[Any, ...]:
    """The inputs of a sample as arrays: its image, or several inputs."""
    if not isinstance(sample, Mapping):
        raise ArgumentError(f"dl_sample[{at}] is a {type(sample).__name__}; a dict with the key 'image' is needed.")
    if "image" not in sample:
        raise ArgumentError(f"dl_sample[{at}] has no key 'image'; its keys are: {_in_words(sample) or 'none'}.")
    parts = sample["image"] if isinstance(sample["image"], tuple) else (sample["image"],)
    arrays = tuple(
        part if hasattr(part, "shape") else array_of(f"dl_sample[{at}]['image']", part, "an image.") for part in parts
    )
    if not arrays or len(max((array.shape for array in arrays), key=len)) not in (3, 4):
        raise ArgumentError(
            f"dl_sample[{at}]['image'] has shape {[tuple(array.shape) for array in arrays]}; one image without the "
            "batch axis is needed: (C, H, W) for PyTorch, (H, W, C) for Keras, for volumes with a depth before H."
        )
    return arrays


def _in_words(keys: Any) -> str:
    return ", ".join(map(in_short, listed("dl_sample", keys, "a dict with the key 'image'.")))


def _of_one_size(images: Sequence[tuple[Any, ...]], most: int) -> list[list[int]]:
    """Indices of the samples that go through the model together: of one size and dtype, at most `most` at once."""
    groups: dict[Any, list[int]] = {}
    for row, arrays in enumerate(images):
        groups.setdefault(tuple((tuple(array.shape), str(array.dtype)) for array in arrays), []).append(row)
    return [rows[start : start + most] for rows in groups.values() for start in range(0, len(rows), most)]


TARGETS = "a target, or a list of targets."
"""What target_classes may be."""


def _targets(given: Any) -> list[Target]:
    if isinstance(given, (list, tuple, range)) or (isinstance(given, np.ndarray) and given.ndim):
        entries = listed("target_classes", given, TARGETS)
        return [int(one) if isinstance(one, np.integer) else one for one in entries] or [None]
    return [given]
