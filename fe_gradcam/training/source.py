"""Where the heatmaps of a trace come from: a model that is asked, or activations and gradients under keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from fastestimator.summary.system import System
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.explained import Column
from fe_gradcam.explaining.route import Explanation, explained
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.methods import CamMethod
from fe_gradcam.metrics.measure import Metric, measure
from fe_gradcam.training.rows import Rows
from fe_gradcam.types import Heatmap, Layer
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.places import Alarm, alarms

Labels = NDArray[np.int64] | None


Places = NDArray[np.bool_] | None


Found = tuple[list[Column], NDArray[np.float32] | None]
"""The columns of heatmaps, and the probabilities (N, C) where they are known."""


@dataclass(frozen=True, eq=False)
class ModelSource:
    """Asks a model.

    Attributes:
        model: Of either framework.
        keys: Of the images, one for each input of the model.
        layer: As `fe_gradcam.explain` takes it.
        methods: What is drawn, side by side.
        targets: Pairs of a name and a target; "label" stands for the true classes.
        settings: See Settings.
    """

    model: Any
    keys: Sequence[str]
    layer: Layer
    methods: Sequence[CamMethod]
    targets: Sequence[tuple[str, Any]]
    settings: Settings

    def explain(self, rows: Rows, labels: Labels, system: System, *, trial: bool = False) -> Found:
        """The heatmaps of some rows, with the weights that the model has now."""
        images = self.images(rows)
        if images[0].ndim == 5:
            raise ArgumentError(
                f"images={self.keys[0]!r} holds volumes of shape {images[0].shape[1:]}, and a grid draws "
                "pictures. Pass the volumes to fe_gradcam.explain, and draw slices of what it returns."
            )
        with on_network_device(self.model, system):
            known = None if labels is None else np.maximum(labels, 0)
            targets = [known if isinstance(target, str) else target for _, target in self.targets]
            done = self._explained(images, targets, rows.largest_batch, trial=trial)
            places = [(method.label, name) for method in self.methods for name, _ in self.targets]
            columns = [Column(*place, heatmap) for place, heatmap in zip(places, done.heatmaps, strict=True)]
            columns = [_unlabelled_left_out(column, labels) for column in columns]
            if labels is not None and done.probabilities is not None:
                columns = self._with_true_class(columns, images, labels, done.probabilities, rows.largest_batch)
        return columns, done.probabilities

    def measured(
        self, rows: Rows, heatmap: Heatmap, metrics: Sequence[Metric], places: Places, system: System
    ) -> dict[str, NDArray[np.float32]]:
        """Metrics of the heatmaps of some rows, by name: a value for each."""
        images = self.images(rows)
        with on_network_device(self.model, system):
            again = partial(self._again, images, heatmap, rows.largest_batch)
            values = measure(
                self.model, _given(images), heatmap, metrics, places=places, again=again, **self._asking(rows)
            )
        return by_name(values, metrics)

    def of_inferred_class(self, rows: Rows, system: System) -> Heatmap:
        """The heatmaps of some rows by the first method, for the classes that they are inferred as."""
        images = self.images(rows)
        with on_network_device(self.model, system):
            return self._explained(images, [None], rows.largest_batch, methods=self.methods[:1]).heatmaps[0]

    def alarms(self, rows: Rows, heatmap: Heatmap, atlas: Atlas, places: Places, system: System) -> list[Alarm]:
        """The classes that seem to be told by a place; see `fe_gradcam.verdicts.places`."""
        images = self.images(rows)
        with on_network_device(self.model, system):
            return alarms(self.model, _given(images), heatmap, atlas, places=places, **self._asking(rows))

    def images(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """The inputs of the model."""
        return tuple(np.asarray(rows[key]) for key in self.keys)

    def _asking(self, rows: Rows) -> dict[str, Any]:
        """How the model is asked about other pictures of these rows."""
        settings = self.settings
        batch_size = settings.batch_size or rows.largest_batch
        return {"batch_size": batch_size, "seed": settings.seed, "model_output": settings.model_output}

    def _again(self, images: tuple[NDArray[Any], ...], heatmap: Heatmap, largest_batch: int) -> Heatmap:
        """The same classes explained once more by the same method, with the weights that the model then has."""
        method = next(method for method in self.methods if method.label == heatmap.method)
        known = heatmap.class_ids >= 0
        target = np.maximum(heatmap.class_ids, 0) if known.any() else self.targets[0][1]
        return self._explained(images, [target], largest_batch, methods=[method]).heatmaps[0]

    def _explained(
        self,
        images: tuple[NDArray[Any], ...],
        targets: Sequence[Any],
        largest_batch: int,
        *,
        methods: Sequence[CamMethod] | None = None,
        trial: bool = False,
    ) -> Explanation:
        return explained(
            self.model,
            _given(images),
            replace(self.settings, batch_size=self.settings.batch_size or largest_batch, trial=trial),
            methods=methods or self.methods,
            layers=[self.layer],
            targets=targets,
        )

    def _with_true_class(
        self,
        columns: list[Column],
        images: tuple[NDArray[Any], ...],
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        largest_batch: int,
    ) -> list[Column]:
        """Beside the heatmaps of the inferred class those of the true one, which are others where it is wrong."""
        names = [name for name, _ in self.targets]
        if "pred" not in names or "label" in names:
            return columns
        wrong = (labels >= 0) & (labels < probabilities.shape[1]) & (labels != probabilities.argmax(1))
        found: list[Heatmap | None] = [None] * len(self.methods)
        if wrong.any():
            of_wrong = tuple(part[wrong] for part in images)
            found = list(self._explained(of_wrong, [labels[wrong]], largest_batch).heatmaps)
        of_true = dict(zip((method.label for method in self.methods), found, strict=True))
        both = []
        for column in columns:
            both.append(column)
            if column.target == "pred":
                heatmap = _put_in(column.heatmap, of_true[column.method], wrong)
                both.append(_unlabelled_left_out(Column(column.method, "label", heatmap, shown=wrong), labels))
        return both


def by_name(values: Mapping[str, NDArray[np.float32]], metrics: Sequence[Metric]) -> dict[str, NDArray[np.float32]]:
    """Values by a metric's name, where they were by its name with parameters."""
    return {metric.name: values[metric.label] for metric in metrics}


def _given(images: tuple[NDArray[Any], ...]) -> Any:
    """The inputs as `fe_gradcam.explain` takes them: of one input no tuple."""
    return images if len(images) > 1 else images[0]


@contextmanager
def on_network_device(model: Any, system: System) -> Iterator[None]:
    """A PyTorch model on the device that it trains on; the host brings it to the CPU after each epoch."""
    device = getattr(system.network, "device", None)
    first = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    if device is None or first is None or first.device == device:
        yield
        return
    before = first.device
    try:
        model.to(device)
        yield
    finally:
        model.to(before)


def resolved(layer: Layer, model: Any) -> Layer:
    """The place that a layer names, or the places of several; None where the default is to be chosen."""
    if layer is None:
        return None
    backend = backend_for(model)
    if isinstance(layer, (list, tuple)) and layer:
        return [None if one is None else backend.resolve(one, None) for one in layer]
    return backend.resolve(layer, None)


def _unlabelled_left_out(column: Column, labels: NDArray[np.int64] | None) -> Column:
    """The column of the true classes, with nothing shown where an image has none."""
    if column.target != "label" or labels is None or (labels >= 0).all():
        return column
    heatmap, lacks = column.heatmap, labels < 0
    empty = lacks[:, None, None]
    return replace(
        column,
        heatmap=replace(
            heatmap,
            values=np.where(empty, np.float32(0), heatmap.values),
            raw=np.where(empty, np.float32(0), heatmap.raw),
            class_ids=np.where(lacks, -1, heatmap.class_ids),
            confidences=np.where(lacks, np.float32(np.nan), heatmap.confidences),
            blank=heatmap.blank | lacks,
        ),
    )


def _put_in(heatmap: Heatmap, other: Heatmap | None, rows: NDArray[np.bool_]) -> Heatmap:
    """The heatmap with `other` in the given rows, which it has one for each of."""
    if other is None:
        return replace(heatmap, target="label")
    fields = {}
    for name in ("values", "raw", "class_ids", "scores", "confidences", "blank"):
        fields[name] = getattr(heatmap, name).copy()
        fields[name][rows] = getattr(other, name)
    return replace(heatmap, **fields, target="label")


def dummy_inputs(model: Any) -> tuple[NDArray[Any], ...] | None:
    """One image of ones for each input of the model, or None where the shapes are not known."""
    spec = getattr(model, "fe_input_spec", None)
    if spec is not None:
        dummy = spec.get_dummy_input()
        parts = list(dummy) if isinstance(dummy, (list, tuple)) else [dummy]
        if all(isinstance(part, torch.Tensor) for part in parts):
            return tuple(part[:1].cpu().numpy() for part in parts)
        return None
    if isinstance(model, torch.nn.Module):
        return None
    try:
        shapes = model.input_shape
    except AttributeError:
        return None
    shapes = shapes if isinstance(shapes, list) else [shapes]
    if not all(isinstance(shape, tuple) and None not in shape[1:] for shape in shapes):
        return None
    return tuple(np.ones((1, *shape[1:]), np.float32) for shape in shapes)
