"""Heatmaps made from activations and gradients under keys of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fastestimator.schedule.schedule import get_current_items
from fastestimator.summary.system import System
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import ArgumentError, warn
from fe_gradcam.explaining.explained import Column
from fe_gradcam.explaining.heat import Passes, heatmap_of
from fe_gradcam.explaining.views import PLAIN, smoothing
from fe_gradcam.integrations.fastestimator.op import LayerGradientOp
from fe_gradcam.methods import CamMethod
from fe_gradcam.metrics.measure import measure
from fe_gradcam.metrics.rules import Metric
from fe_gradcam.spec.labels import inferred_of
from fe_gradcam.training.options import Classes, Options, named_target
from fe_gradcam.training.rows import Rows, probabilities_of
from fe_gradcam.training.source import Found, Labels, Masks, Several
from fe_gradcam.types import CamInputs, Heatmap, Needs

MEAN_GRADIENT = CamMethod(
    "mean_gradient",
    lambda inputs: inputs.activations.mean(1),
    Needs.ACTIVATIONS,
    paper="the map of FastEstimator's own GradCAM",
)
"""The map that is drawn if there are only gradients: their mean over the channels, which is no Grad-CAM."""


class KeyedSource:
    """Takes activations and gradients from the batch; see `fe_gradcam.training.source.Source`.

    Args:
        keys: The keys of "grads", "activations" and the other parts of the batch; without activations, only the
            gradients are drawn.
        system: Gives the state of the training.
        layer: Must be None; the op takes the layer.

    Raises:
        ArgumentError: An argument needs a model.
    """

    def __init__(
        self, keys: Mapping[str, str], options: Options, system: Callable[[], System], layer: Any = None
    ) -> None:
        settings = options.settings
        if layer is not None:
            raise ArgumentError("layer needs model=. With gradients under a key, pass layer= to the LayerGradientOp.")
        if settings.model_output is not None or settings.reshape is not None:
            raise ArgumentError("model_output and reshape need model=. Leave them out with grads=.")
        if smoothing(settings.smooth)[0] != [PLAIN]:
            raise ArgumentError(
                f"smooth={settings.smooth!r} shows the model other views of the images, and with gradients under a key "
                "there is no model to ask. Pass model= instead of grads=, or smooth='eigen'."
            )
        for name, value in (("track", options.track), ("atlas", options.atlas)):
            if value:
                raise ArgumentError(
                    f"{name}={value!r} explains images with the model, and with gradients under a key there is no "
                    "model to ask. Pass model= instead of grads=."
                )
        self._keys, self._options, self._system = keys, options, system

    @property
    def channels_last(self) -> bool:
        """See Source."""
        return bool(self._system().network.target_type == "tf")

    @property
    def reads_as_probabilities(self) -> bool | None:
        """See Source; known if our op wrote the predictions."""
        op = self._op()
        return None if op is None or self._keys.get("preds") not in op.outputs else op.puts_out_probabilities

    def explain(self, rows: Rows, labels: Labels, several: Several = None, *, trial: bool = False) -> Found:
        """See Source; `trial` changes nothing."""
        op, settings, alone = self._op(), self._options.settings, "activations" not in self._keys
        images, preds, probabilities = np.asarray(rows["images"]), rows.get("preds"), None
        if preds is not None:
            probabilities = probabilities_of(preds, f"preds={self._keys['preds']!r}", self.reads_as_probabilities)
        target, class_ids = self._target(op, probabilities, labels, len(rows))
        gradients = self._maps(rows, "grads")
        inputs = CamInputs(
            activations=gradients if alone else self._maps(rows, "activations"),
            gradients=None if alone else gradients,
            scores=torch.full((len(rows),), torch.nan, dtype=torch.float32),
            class_ids=torch.from_numpy(class_ids),
            probabilities=None if probabilities is None else torch.from_numpy(probabilities),
            images=images,
            seed=settings.seed,
        )
        size = images.shape[1:3] if self.channels_last else images.shape[2:4]
        layer = self._keys["grads" if alone else "activations"] if op is None else op.place
        methods = [MEAN_GRADIENT] if alone else self._options.rules
        heatmaps = [heatmap_of([Passes.of(inputs)], method, [layer], size, settings) for method in methods]
        return [Column(heatmap.method, target, heatmap) for heatmap in heatmaps], probabilities

    def measured(
        self, rows: Rows, heatmap: Heatmap, metrics: Sequence[Metric], masks: Masks
    ) -> Mapping[str, NDArray[np.float32]]:
        """See Source; only metrics that do not ask the model."""
        return measure(None, np.asarray(rows["images"]), heatmap, metrics, masks=masks)

    def _op(self) -> LayerGradientOp | None:
        """The LayerGradientOp that writes our gradients, or None if another op writes them."""
        system = self._system()
        for op in get_current_items(system.network.ops, run_modes=system.mode):
            if isinstance(op, LayerGradientOp) and self._keys["grads"] in op.outputs:
                return op
        return None

    def _target(
        self, op: LayerGradientOp | None, probabilities: NDArray[np.float32] | None, labels: Labels, count: int
    ) -> tuple[str, NDArray[np.int64]]:
        """The target of the gradients under a key: its name, and the class ids, -1 where they are not known."""
        unknown = np.full(count, -1, np.int64)
        if op is None:
            return self._keys["grads"], unknown
        if op.target is None:
            return "pred", unknown if probabilities is None else inferred_of(probabilities)
        if isinstance(op.target, str):
            own = labels if op.target == self._keys.get("labels") else None
            return (op.target, unknown) if own is None else ("label", own)
        name, target = named_target(op.target, Classes(names=self._options.classes.names), labels=False)
        return name, np.full(count, target, np.int64) if isinstance(target, int) else unknown

    def _maps(self, rows: Rows, name: str) -> torch.Tensor:
        """The maps under a key, (N, K, h, w)."""
        values = np.asarray(rows[name])
        if values.ndim != 4:
            raise ArgumentError(
                f"The key {self._keys[name]!r} holds an array of shape {values.shape}; (N, K, h, w), or (N, h, w, K) "
                "on TensorFlow, is needed, as LayerGradientOp writes it."
            )
        maps = torch.from_numpy(values).float()
        return maps.movedim(-1, 1) if self.channels_last else maps


def check_source(model: Any, grads: str | None, activations: str | None) -> None:
    """Raises ArgumentError unless gradients have exactly one source, and warns if there are only gradients."""
    if model is not None and (grads is not None or activations is not None):
        raise ArgumentError(
            "model and grads (or activations) are both given. Pass only model=, and the trace computes the gradients "
            "itself; or only grads= and activations=, with the keys that a LayerGradientOp writes."
        )
    if model is None and grads is None:
        raise ArgumentError(
            "model and grads are both missing. Pass model= with the model to explain; or grads= and "
            "activations= with the keys that a LayerGradientOp writes."
        )
    if model is not None:
        backend_for(model)
    elif activations is None:
        warn(
            "GradCAM got grads without activations, so it draws the gradients averaged over the channels, as "
            "FastEstimator's own trace does. That is no Grad-CAM, and the map is flat before global average pooling. "
            "Pass activations= (LayerGradientOp writes both) or model=.",
            stacklevel=4,
        )
