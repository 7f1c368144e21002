"""Heatmaps of activations and gradients that stand under keys of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastestimator.schedule.schedule import get_current_items
from fastestimator.summary.system import System
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.explained import Column
from fe_gradcam.explaining.heat import Passes, heatmap_of
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.integrations.fastestimator.op import LayerGradientOp
from fe_gradcam.methods import CamMethod
from fe_gradcam.metrics.measure import Metric, measure
from fe_gradcam.training import options as arguments
from fe_gradcam.training.rows import Rows, probabilities_of
from fe_gradcam.training.source import Found, Labels, Places, by_name
from fe_gradcam.types import CamInputs, Heatmap, Needs

MEAN_GRADIENT = CamMethod(
    "mean_gradient",
    lambda inputs: inputs.activations.mean(1),
    Needs.ACTIVATIONS,
    paper="the map of FastEstimator's own GradCAM",
)
"""What is drawn of gradients alone: their mean over the channels, which is no Grad-CAM."""


@dataclass(frozen=True, eq=False)
class KeyedSource:
    """Takes activations and gradients from the batch.

    Attributes:
        images: Key of the images.
        grads: Key of the gradients.
        activations: Key of the activations, or None: then the gradients alone are drawn.
        preds: Key of the predictions, or None.
        labels: Key of the true classes, or None.
        methods: What is drawn, side by side.
        names: Names of classes by id.
        settings: See Settings.
    """

    images: str
    grads: str
    activations: str | None
    preds: str | None
    labels: str | None
    methods: Sequence[CamMethod]
    names: Mapping[int, str]
    settings: Settings

    def explain(self, rows: Rows, labels: Labels, system: System, *, trial: bool = False) -> Found:
        """The heatmaps of what was put into the batches; `trial` changes nothing."""
        op = self._op(system)
        images, channels_last = np.asarray(rows[self.images]), system.network.target_type == "tf"
        probabilities = self.probabilities(rows[self.preds], system) if self.preds is not None else None
        target, class_ids = self._target(op, probabilities, labels, len(rows))
        gradients = _map_of(rows, self.grads, channels_last=channels_last)
        alone = self.activations is None
        inputs = CamInputs(
            activations=gradients if alone else _map_of(rows, str(self.activations), channels_last=channels_last),
            gradients=None if alone else gradients,
            scores=torch.full((len(rows),), torch.nan),
            class_ids=torch.from_numpy(class_ids),
            probabilities=None if probabilities is None else torch.from_numpy(probabilities),
            images=images,
            seed=self.settings.seed,
        )
        methods = [MEAN_GRADIENT] if alone else self.methods
        height, width = images.shape[1:3] if channels_last else images.shape[2:4]
        place = (self.activations or self.grads) if op is None else op.place
        passes = [Passes.of(inputs)]
        maps = [heatmap_of(passes, method, [place], (height, width), self.settings) for method in methods]
        return [
            Column(method.label, target, heatmap) for method, heatmap in zip(methods, maps, strict=True)
        ], probabilities

    def measured(
        self, rows: Rows, heatmap: Heatmap, metrics: Sequence[Metric], places: Places, system: System
    ) -> dict[str, NDArray[np.float32]]:
        """Metrics of place of the heatmaps of some rows, by name: a value for each."""
        values = measure(None, np.asarray(rows[self.images]), heatmap, metrics, places=places)
        return by_name(values, metrics)

    def probabilities(self, preds: Any, system: System) -> NDArray[np.float32]:
        """The probabilities (N, C) that predictions under a key stand for."""
        op = self._op(system)
        known = None if op is None or self.preds not in op.outputs else op.puts_out_probabilities
        return probabilities_of(preds, str(self.preds), known)

    def _op(self, system: System) -> LayerGradientOp | None:
        """The op of the network that writes our gradients, or None where another does."""
        for op in get_current_items(system.network.ops, run_modes=system.mode):
            if isinstance(op, LayerGradientOp) and self.grads in op.outputs:
                return op
        return None

    def _target(
        self, op: LayerGradientOp | None, probabilities: NDArray[np.float32] | None, labels: Labels, count: int
    ) -> tuple[str, NDArray[np.int64]]:
        """What the gradients under a key were taken of: its name and the class ids, -1 where they are not known."""
        unknown = np.full(count, -1, np.int64)
        if op is None:
            return self.grads, unknown
        if op.target is None:
            return "pred", unknown if probabilities is None else probabilities.argmax(1).astype(np.int64)
        if isinstance(op.target, str):
            return ("label", labels) if op.target == self.labels and labels is not None else (op.target, unknown)
        name, target = arguments.named_target(op.target, self.names, {}, labels=False)
        return name, np.full(count, target, np.int64) if isinstance(target, int) else unknown


def _map_of(rows: Rows, key: str, *, channels_last: bool) -> torch.Tensor:
    values = np.asarray(rows[key])
    if values.ndim != 4:
        raise ArgumentError(
            f"The key {key!r} holds an array of shape {values.shape}; (N, K, h, w), or (N, h, w, K) on TensorFlow, "
            "is needed, as LayerGradientOp puts it out."
        )
    maps = torch.from_numpy(values).float()
    return maps.movedim(-1, 1) if channels_last else maps
