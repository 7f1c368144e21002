"""HALCON's operator gen_dl_model_heatmap for trained PyTorch and Keras classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import ArgumentError, UnknownNameError, nearest
from fe_gradcam.explaining.results import heatmap_key, inference_entries
from fe_gradcam.explaining.route import Explanation, explained
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.explaining.views import smoothing
from fe_gradcam.methods import METHODS, CamMethod
from fe_gradcam.parameters import whole
from fe_gradcam.scaling import SCALINGS, check_scaling
from fe_gradcam.spec.images import as_tuple
from fe_gradcam.spec.layers import convolution_layer
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.spec.targets import names_by_id, target_name
from fe_gradcam.types import Layer, LayerRef, Method, Scaling, Target

AT_ONCE = 16
"""Samples in one pass, where gen_param does not say."""

TRUE_OR_FALSE = {"true": True, "false": False, True: True, False: False}


@dataclass(frozen=True, eq=False)
class _Settings:
    """What gen_param says, checked."""

    target_conv_layer: Layer = None
    use_conv_only: bool = True
    scaling: Scaling = "scale_after_relu"
    class_names: Any = None
    model_output: Any = None
    batch_size: int = AT_ONCE
    seed: int = 0
    smooth: Any = None


def gen_dl_model_heatmap(
    dl_model: Any,
    dl_sample: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    heatmap_method: Method = "grad_cam",
    target_classes: Target | Sequence[Target] = (),
    gen_param: Mapping[str, Any] | None = None,
) -> Any:
    """Infers samples with a classifier and adds heatmaps to the result, as HALCON's operator of this name.

    Where HALCON takes one target class, several are taken here. Nothing that is passed in is changed.

    Args:
        dl_model: A torch.nn.Module or a tf.keras.Model.
        dl_sample: A dict that holds an image under "image", in the model's own layout and normalisation
            without the axis of the batch: (C, H, W) for PyTorch, (H, W, C) for Keras; a tuple of arrays
            for a model with several inputs. Or a sequence of such dicts, whose images may differ in size.
            What else they hold is not looked at.
        heatmap_method: Name of a CAM method, `fe_gradcam.METHODS` holds them; or a pair of the name and its
            parameters, as `fe_gradcam.explain` takes it.
        target_classes: A class id, a class name, any other target that `fe_gradcam.explain` takes for one
            image, or a sequence of these; empty for the class inferred with the highest confidence.
        gen_param: Settings by name, all of which may be left out:

            ``target_conv_layer``: the convolution to explain, by name, index or itself. Default: the
            deepest convolution whose output is larger than 1x1.

            ``use_conv_only``: ``"true"`` (default): the convolution's own output, before an activation
            that is fused into the layer or works in place; ``"false"``: the ReLU that follows it,
            directly or behind its batch normalisation.

            ``scaling``: ``"scale_after_relu"`` (default), ``"scale_before_relu"`` or ``"none"``; see
            `fe_gradcam.scaling.scale`.

            ``class_names``: names in the order of the class ids, or {id: name}. Default: the ids.

            ``model_output``: of a model with several outputs the one that holds the scores; see
            `fe_gradcam.explain`.

            ``batch_size``: samples in one pass, 16 by default; of the variants that a method makes of them 32.

            ``smooth``, ``seed``: as `fe_gradcam.explain` takes them.

            Values may be HALCON's strings or Python's own (True for ``"true"``, None for ``"none"``).

    Returns:
        For one dict a dict, for a sequence a list of dicts: ``classification_class_ids``,
        ``classification_class_names`` and ``classification_confidences`` (by falling confidence), and
        ``heatmap_{method}``: {``heatmap_image_class_{id}``: float32 (H, W)}. A target that is no class
        stands under ``heatmap_image_{name}``.

    Raises:
        ArgumentError: A sample, a setting or its value is not accepted; a ValueError.
        UnknownNameError: No such method, layer, class or setting; a KeyError.
        UnsupportedModelError, GradientError: As `fe_gradcam.explain`.

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
    settings = _settings(gen_param)
    targets = _targets(target_classes)
    for target in targets:
        resolve_target(target, 1, settings.class_names)
    several = not isinstance(dl_sample, Mapping)
    images = [_image(sample, at) for at, sample in enumerate(_samples(dl_sample))]
    places: dict[Any, LayerRef] = {}
    results: list[dict[str, Any]] = [{} for _ in images]
    for rows in _of_one_size(images, settings.batch_size):
        batch = tuple(_stacked([images[row][part] for row in rows]) for part in range(len(images[rows[0]])))
        packed = batch if len(batch) > 1 else batch[0]
        size = tuple(tuple(part.shape[1:]) for part in batch)
        if size not in places:  # which convolution is larger than 1x1 depends on it
            places[size] = _place(dl_model, packed, settings)
        of_route = Settings(
            scaling=settings.scaling,
            seed=settings.seed,
            class_names=settings.class_names,
            model_output=settings.model_output,
            smooth=settings.smooth,
        )
        done = explained(dl_model, packed, of_route, methods=[method], layers=[places[size]], targets=targets)
        for at, row in enumerate(rows):
            results[row] = _result(done, at, method, targets, settings)
    return results if several else results[0]


def _result(
    done: Explanation, at: int, method: CamMethod, targets: Sequence[Target], settings: _Settings
) -> dict[str, Any]:
    """The result of one sample, which shares no memory with others."""
    probabilities = None if done.probabilities is None else done.probabilities[at]
    names = names_by_id(settings.class_names)
    result = inference_entries(probabilities, names)
    maps: dict[str, NDArray[np.float32]] = {}
    for target, heatmap in zip(targets, done.heatmaps, strict=True):
        key = heatmap_key(int(heatmap.class_ids[at]), target_name(target, names))
        maps[_unused(key, maps) if heatmap.class_ids[at] < 0 else key] = heatmap.values[at].copy()
    return {**result, f"heatmap_{method.name}": maps}


def _unused(key: str, taken: Mapping[str, Any]) -> str:
    count, name = 1, key
    while name in taken:
        count += 1
        name = f"{key}_{count}"
    return name


def _place(model: Any, images: Any, settings: _Settings) -> LayerRef:
    backend = backend_for(model, settings.model_output)
    layer = settings.target_conv_layer
    name = None if layer is None else backend.resolve(layer, images).name
    return convolution_layer(backend.layers(tuple(part[:1] for part in as_tuple(images))), name, settings.use_conv_only)


def _samples(given: Any) -> list[Any]:
    if isinstance(given, Mapping):
        return [given]
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise ArgumentError(f"dl_sample is a {type(given).__name__}. Accepted: a dict, or a sequence of dicts.")
    return list(given)


def _image(sample: Any, at: int) -> tuple[Any, ...]:
    """The image of a sample, or its several inputs, each an array."""
    if not isinstance(sample, Mapping):
        raise ArgumentError(f"dl_sample[{at}] is a {type(sample).__name__}; a dict with the key 'image' is needed.")
    if "image" not in sample:
        raise ArgumentError(
            f"dl_sample[{at}] has no key 'image'; its keys are: {', '.join(map(str, sample)) or 'none'}."
        )
    parts = sample["image"] if isinstance(sample["image"], tuple) else (sample["image"],)
    arrays = tuple(part if hasattr(part, "shape") else np.asarray(part) for part in parts)
    if not arrays or len(max((array.shape for array in arrays), key=len)) not in (3, 4):
        raise ArgumentError(
            f"dl_sample[{at}]['image'] has shape {[tuple(array.shape) for array in arrays]}; one image without the "
            "axis of the batch is needed: (C, H, W) for PyTorch, (H, W, C) for Keras, of volumes with a depth before H."
        )
    return arrays


def _of_one_size(images: Sequence[tuple[Any, ...]], most: int) -> list[list[int]]:
    """Which samples go together: those whose images have one size and dtype, at the most so many at once."""
    groups: dict[Any, list[int]] = {}
    for row, arrays in enumerate(images):
        groups.setdefault(tuple((tuple(array.shape), str(array.dtype)) for array in arrays), []).append(row)
    return [rows[start : start + most] for rows in groups.values() for start in range(0, len(rows), most)]


def _stacked(arrays: Sequence[Any]) -> Any:
    """Images of one size as a batch, in their own framework."""
    first = arrays[0]
    if isinstance(first, np.ndarray):
        return np.stack(arrays)
    if hasattr(first, "detach"):
        import torch

        return torch.stack([array.detach() for array in arrays])
    return np.stack([array.numpy() for array in arrays])


def _targets(given: Any) -> list[Target]:
    if isinstance(given, (list, tuple, np.ndarray, range)):
        return [int(one) if isinstance(one, np.integer) else one for one in given] or [None]
    return [given]


def _settings(gen_param: Mapping[str, Any] | None) -> _Settings:
    if gen_param is None or (isinstance(gen_param, Sequence) and not len(gen_param)):
        return _Settings()
    if not isinstance(gen_param, Mapping):
        raise ArgumentError(f"gen_param is a {type(gen_param).__name__}. Accepted: a dict of settings, or None.")
    values = {}
    for key, value in gen_param.items():
        if key not in _READERS:
            raise UnknownNameError(
                f"gen_param has the key {key!r}, which is not known{nearest(key, _READERS)} Accepted: "
                f"{', '.join(_READERS)}."
            )
        values[key] = _READERS[key](value)
    return _Settings(**values)


def _as_it_is(value: Any) -> Any:
    return value


def _conv_only(value: Any) -> bool:
    if not isinstance(value, (str, bool)) or value not in TRUE_OR_FALSE:
        raise ArgumentError(f"gen_param['use_conv_only']={value!r} is not accepted. Accepted: 'true', 'false'.")
    return TRUE_OR_FALSE[value]


def _scaling(value: Any) -> Scaling:
    value = "none" if value is None else value
    try:
        check_scaling(value)
    except ArgumentError:
        raise ArgumentError(
            f"gen_param['scaling']={value!r} is not accepted{nearest(value, SCALINGS)} Accepted: {', '.join(SCALINGS)}."
        ) from None
    scaling: Scaling = value
    return scaling


def _class_names(value: Any) -> Any:
    names_by_id(value)
    return value


def _smooth(value: Any) -> Any:
    smoothing(value)
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "target_conv_layer": _as_it_is,
    "use_conv_only": _conv_only,
    "scaling": _scaling,
    "class_names": _class_names,
    "model_output": _as_it_is,
    "batch_size": lambda value: whole("gen_param['batch_size']", value, 1),
    "seed": lambda value: whole("seed", value, 0),
    "smooth": _smooth,
}
