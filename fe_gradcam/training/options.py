"""The arguments of the trace, checked as early as they can be."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import ArgumentError, CamWarning, UnknownNameError, nearest
from fe_gradcam.explaining.views import PLAIN, smoothing
from fe_gradcam.methods import CamMethod, get_method, is_pair
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.types import Needs, TargetSpec


def key(name: str, value: Any, *, optional: bool = True) -> Any:
    """A key of the batch, or None where that is accepted."""
    if not (isinstance(value, str) and value) and not (optional and value is None):
        raise ArgumentError(f"{name}={value!r} is not accepted. Accepted: a key of the batch, a string.")
    return value


def whole(name: str, value: Any, least: int, none: str = "") -> int:
    """An integer that is not below `least`; `none` says what None would mean, where that is accepted elsewhere."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ArgumentError(f"{name}={value!r} is not accepted. Accepted: an integer from {least}{none}.")
    return int(value)


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ArgumentError(f"{name}={value!r} is not accepted. Accepted: a number from 0 to 1.")
    return float(value)


def per_channel(name: str, value: Any) -> Any:
    """A number or one per channel, of a standard deviation none of them 0; None is accepted."""
    if value is None:
        return None
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.ndim > 1 or not np.isfinite(numbers).all() or (name == "std" and not (numbers > 0).all()):
        positive = " above 0" if name == "std" else ""
        raise ArgumentError(f"{name}={value!r} is not accepted. Accepted: a number{positive}, or one per channel.")
    return value


def folder(value: Any) -> Path | None:
    """A path, made absolute; None is accepted."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise ArgumentError(f"save_dir={value!r} is not accepted. Accepted: a path, or None.")
    return Path(value).expanduser().resolve()


def make_folder(path: Path) -> None:
    """Makes a folder that files can be written to.

    Raises:
        ArgumentError: That is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        possible = os.access(path, os.W_OK | os.X_OK)
    except OSError:
        possible = False
    if not possible:
        raise ArgumentError(
            f"save_dir={str(path)!r} is no folder that can be written to. Pass another, or make it one."
        )


def mapping(label_mapping: Any) -> Mapping[str, Any] | None:
    """A mapping of class names, or None."""
    if label_mapping is not None and not isinstance(label_mapping, Mapping):
        raise ArgumentError(
            f"label_mapping is a {type(label_mapping).__name__}. Accepted: a dict {{class name: class id}}, or None."
        )
    if label_mapping and all(isinstance(name, Integral) for name in label_mapping):
        raise ArgumentError(
            f"label_mapping={dict(label_mapping)!r} has numbers for names. Accepted: {{class name: class id}}, as "
            "FastEstimator has it: turn it round, {name: id for id, name in ...}."
        )
    return label_mapping


def file_name(text: str) -> str:
    """The text with whatever does not belong into a file's name replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def named_targets(
    targets: Any, names: Mapping[int, str], ids: Mapping[str, int], *, labels: bool, model: bool
) -> list[tuple[str, Any]]:
    """The targets with the names that they go by.

    Args:
        targets: As the trace takes them.
        names: Names of classes by id.
        ids: Ids of classes by name.
        labels: Whether the true classes are known.
        model: Whether there is a model to ask.

    Returns:
        Pairs of a name, each once, and a target; "label" stands for the true classes.
    """
    given = list(targets) if isinstance(targets, (list, tuple)) else [targets]
    if not given:
        raise ArgumentError("targets is empty; pass 'pred', 'label', a class id, a class name or a callable.")
    if not model and given != ["pred"]:
        raise ArgumentError(
            f"targets={targets!r} goes with model=: gradients under a key were taken of one target already. Pass it to "
            "the LayerGradientOp as target=."
        )
    counts: dict[str, int] = {}
    unique = []
    for name, target in (named_target(target, names, ids, labels=labels) for target in given):
        counts[name] = counts.get(name, 0) + 1
        unique.append((name if counts[name] == 1 else f"{name} {counts[name]}", target))
    return unique


def named_target(target: Any, names: Mapping[int, str], ids: Mapping[str, int], *, labels: bool) -> tuple[str, Any]:
    """One target with its name."""
    if target is None or (isinstance(target, str) and target == "pred"):
        return "pred", None
    if isinstance(target, str) and target == "label":
        if not labels:
            raise ArgumentError("targets='label' needs labels= with the key of the true classes.")
        return "label", "label"
    if isinstance(target, TargetSpec):
        resolve_target(target, 1, names)
        return target.name, target
    if isinstance(target, Integral) and not isinstance(target, bool) and int(target) >= 0:
        return names.get(int(target), str(int(target))), int(target)
    if isinstance(target, str):
        if target in ids:
            return target, ids[target]
        raise UnknownNameError(
            f"targets={target!r} is neither 'pred' nor 'label' nor a class of label_mapping{nearest(target, ids)} "
            f"Classes: {', '.join(ids) or 'none, as label_mapping is not given'}."
        )
    if callable(target):
        return re.sub(r"\W+", "_", getattr(target, "__name__", type(target).__name__)).strip("_"), target
    raise ArgumentError(
        f"targets={target!r} is not accepted. Accepted: 'pred', 'label', a class id, a class name of label_mapping, "
        "Rank, Contrast, OutputValue, Segmentation, a callable, or a list of these."
    )


def methods_of(given: Any, n_components: int, *, model: bool) -> list[CamMethod]:
    """The methods asked for, those with components as often as components are shown.

    Args:
        given: As the trace takes them.
        n_components: How many components are shown.
        model: Whether there is a model to ask.
    """
    several = [given] if isinstance(given, str) or is_pair(given) else given
    if not isinstance(several, (list, tuple)) or not several:
        raise ArgumentError(
            f"methods={given!r} is not accepted. Accepted: a name, a pair ('score_cam', {{parameter: value}}), or "
            "a list of these, with at least one."
        )
    methods: list[CamMethod] = []
    for method in map(get_method, several):
        if not model and Needs.PROBE in method.needs:
            raise ArgumentError(
                f"methods: {method.name!r} asks the model again, and of gradients under a key there is none at "
                "hand. Pass model= instead of grads=."
            )
        expands = "component" in method.parameters and "component" not in method.given
        methods.append(method)
        if expands:
            more = range(2, n_components + 1)
            methods += [replace(method, given={**method.given, "component": number}) for number in more]
    if len({method.label for method in methods}) < len(methods):
        raise ArgumentError(f"methods={given!r} holds a method twice.")
    return methods


def check_source(model: Any, grads: str | None, activations: str | None) -> None:
    """Raises ArgumentError unless there is one place that gradients come from, and warns of gradients alone."""
    if model is not None and (grads is not None or activations is not None):
        raise ArgumentError(
            "model and grads (or activations) are both given. Pass model=, and the trace takes the gradients "
            "itself, or grads= and activations= with the keys that a LayerGradientOp writes."
        )
    if model is None and grads is None:
        raise ArgumentError(
            "model is not given, and neither is grads. Pass model= with the model to explain; or grads= and "
            "activations= with the keys that a LayerGradientOp writes."
        )
    if model is not None:
        backend_for(model)
    elif activations is None:
        warnings.warn(
            "GradCAM is given grads without activations: it draws the gradients averaged over the channels, as "
            "FastEstimator's own trace does. That is no Grad-CAM, and is flat under global average pooling. Pass "
            "activations= (LayerGradientOp puts both out) or model=.",
            CamWarning,
            stacklevel=4,
        )


def check_keyed(*, layer: Any, model_output: Any, reshape: Any, smooth: Any, track: Any, atlas: Any) -> None:
    """Raises ArgumentError where gradients under a key are given what needs a model."""
    if layer is not None:
        raise ArgumentError("layer goes with model=; of gradients under a key, pass it to the LayerGradientOp.")
    if model_output is not None or reshape is not None:
        raise ArgumentError("model_output and reshape go with model=; keys hold maps that were taken already.")
    if smoothing(smooth)[0] != [PLAIN]:
        raise ArgumentError(
            f"smooth={smooth!r} shows the model other views of the images, and of gradients under a key there is "
            "no model at hand. Pass model= instead of grads=, or smooth='eigen'."
        )
    for name, value in (("track", track), ("atlas", atlas)):
        if value:
            raise ArgumentError(
                f"{name}={value!r} explains images with the model, and of gradients under a key there is none at hand. "
                "Pass model= instead of grads=."
            )
