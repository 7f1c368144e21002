"""The metrics that are logged: their choice, their keys, and their values for the images of an epoch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.metrics.rules import METRICS, Metric
from fe_gradcam.parameters import several
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.options import Options

FOLLOWED = ("drift", "overlap")
"""Metrics of two epochs: how far the heat of the same images has moved."""

SAYS = {"drift": "0 where the heat has not moved since the epoch before", "overlap": "1 where it has not moved"}
"""How to read them; neither direction is better."""


class MetricsProduct(Product):
    """The logged metrics, made if metrics are asked for.

    Raises:
        ArgumentError: A metric is named twice, or needs an argument that is not given.
        UnknownNameError: There is no such metric.
    """

    name = "metrics"

    def __init__(self, options: Options) -> None:
        self._prefix, self._methods = options.name, [method.label for method in options.rules]
        self._metrics, self._followed = _checked(options)
        names = [*(metric.name for metric in self._metrics), *self._followed]
        self.keys = self.logged = [self._key(name, method) for method in self._methods for name in names]
        words = {metric.name: f"{metric.better} is better" for metric in self._metrics} | SAYS
        self.says = {self._key(name, method): words[name] for name in names for method in self._methods}
        if len(set(self.keys)) < len(self.keys):
            raise ArgumentError(
                f"metrics of the methods {self._methods} would be logged under the same keys: {self.keys}."
            )

    def make(self, epoch: Epoch) -> None:
        """Logs the mean of each metric over the images, for the first target that is a class."""
        found = {part.ds_id: self._of(epoch, part) for part in epoch.parts}
        epoch.found[self.name] = found
        for key in self.keys:
            epoch.log_mean(key, {dataset: values[key] for dataset, values in found.items() if key in values})

    def _of(self, epoch: Epoch, part: Explained) -> dict[str, NDArray[np.float32]]:
        """The values (N,) of one dataset, by key."""
        of_classes = (column.target for column in part.columns if (column.heatmap.class_ids >= 0).any())
        target = next(of_classes, part.columns[0].target)
        values: dict[str, NDArray[np.float32]] = {}
        for column in part.columns if self._metrics else ():
            if column.target == target:
                rows = epoch.rows()[part.ds_id]
                measured = epoch.reader.source.measured(rows, column.heatmap, self._metrics, part.masks)
                values |= {self._key(one.name, column.method): measured[one.label] for one in self._metrics}
        followed = epoch.followed(part.ds_id)
        moved = followed.moved(target) if followed is not None and self._followed else {}
        for method, compared in moved.items():
            values |= {self._key(name, method): compared[name] for name in self._followed}
        return values

    def _key(self, name: str, method: str) -> str:
        method = method.replace("=-", "=minus ")
        of_method = f"_{re.sub(r'[^A-Za-z0-9]+', '_', method).strip('_')}" if len(self._methods) > 1 else ""
        return f"{self._prefix}_{name}{of_method}"


def _checked(options: Options) -> tuple[list[Metric], list[str]]:
    """The metrics asked for, and the names of those of two epochs."""
    given: Any = options.metrics
    asked = several(given)
    if not isinstance(asked, (list, tuple)):
        raise ArgumentError(
            f"metrics={given!r} is not accepted. Accepted: a name, a pair ('deletion', {{parameter: value}}), or a "
            f"list of these: {', '.join([*METRICS, *FOLLOWED])}."
        )
    followed = [spec for spec in asked if isinstance(spec, str) and spec in FOLLOWED]
    metrics = [METRICS.find(spec, also=FOLLOWED) for spec in asked if spec not in followed]
    names = [*(metric.name for metric in metrics), *followed]
    if len(set(names)) < len(names):
        raise ArgumentError(f"metrics={given!r} names a metric twice, and both would be logged under its name.")
    if followed and not options.track:
        raise ArgumentError(f"metrics: {followed[0]!r} compares the same images in two epochs. Pass track=True too.")
    for metric in metrics:
        if metric.needs == "place" and not {"masks", "boxes"} & options.given:
            raise ArgumentError(f"metrics: {metric.name!r} needs masks= or boxes= with the key of the object's place.")
        if metric.needs != "place" and "model" not in options.given:
            raise ArgumentError(f"metrics: {metric.name!r} asks the model. Pass model= instead of grads=.")
    return metrics, followed
