"""The metrics that a trace logs: which, under what keys, and their values for the images of an epoch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastestimator.summary.system import System
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError
from fe_gradcam.integrations.fastestimator.keyed import KeyedSource
from fe_gradcam.metrics.measure import METRICS, Metric, MetricSpec
from fe_gradcam.parameters import several
from fe_gradcam.training.rows import Rows
from fe_gradcam.training.source import ModelSource
from fe_gradcam.types import Heatmap

Values = Mapping[str, NDArray[np.float32]]
"""By key, a value (N,) for each image, NaN where it has none."""

FOLLOWED = ("drift", "overlap")
"""Metrics of two epochs: how far the heat of the same images has moved."""


@dataclass(frozen=True, eq=False)
class Measures:
    """What is measured of an epoch.

    Attributes:
        metrics: Of one epoch.
        two_epochs: Names of FOLLOWED.
        methods: Labels of the methods that are measured.
        prefix: Of the keys.
    """

    metrics: Sequence[Metric]
    two_epochs: Sequence[str]
    methods: Sequence[str]
    prefix: str

    @property
    def keys(self) -> list[str]:
        """The keys that are logged."""
        names = [*(metric.name for metric in self.metrics), *self.two_epochs]
        return [self.key(name, method) for method in self.methods for name in names]

    def key(self, name: str, method: str) -> str:
        """The key of a metric of a method."""
        method = method.replace("=-", "=minus ")
        of_method = f"_{re.sub(r'[^A-Za-z0-9]+', '_', method).strip('_')}" if len(self.methods) > 1 else ""
        return f"{self.prefix}_{name}{of_method}"

    def of(
        self,
        source: ModelSource | KeyedSource,
        rows: Rows,
        heatmaps: Mapping[str, Heatmap],
        places: NDArray[np.bool_] | None,
        system: System,
    ) -> dict[str, NDArray[np.float32]]:
        """The metrics of the heatmaps of some rows, which are given by method."""
        values: dict[str, NDArray[np.float32]] = {}
        if self.metrics:
            for method, heatmap in heatmaps.items():
                measured = source.measured(rows, heatmap, self.metrics, places, system)
                values |= {self.key(name, method): found for name, found in measured.items()}
        return values

    def followed(self, compared: Mapping[str, Mapping[str, Any]]) -> dict[str, NDArray[np.float32]]:
        """The metrics of two epochs, which are given by method and name, under their keys."""
        return {self.key(name, method): found[name] for method, found in compared.items() for name in self.two_epochs}


def measures_of(
    metrics: MetricSpec | Sequence[MetricSpec], prefix: str, methods: Sequence[str], given: Collection[str]
) -> Measures:
    """What the trace's `metrics` ask for.

    Args:
        metrics: See `fe_gradcam.GradCAM`.
        prefix: Of the keys.
        methods: Labels of the methods.
        given: Which of "model", "places" and "track" the trace was given.

    Raises:
        ArgumentError: A metric is named twice, or needs what the trace was not given.
        UnknownNameError: There is no such metric.
    """
    named = several(metrics)
    if not isinstance(named, (list, tuple)):
        raise ArgumentError(
            f"metrics={metrics!r} is not accepted. Accepted: a name, a pair ('deletion', {{parameter: value}}), or a "
            f"list of these: {', '.join([*METRICS, *FOLLOWED])}."
        )
    two_epochs = [name for name in named if isinstance(name, str) and name in FOLLOWED]
    found = [METRICS.find(spec, also=FOLLOWED) for spec in named if not (isinstance(spec, str) and spec in FOLLOWED)]
    names = [*(metric.name for metric in found), *two_epochs]
    if len(set(names)) < len(names):
        raise ArgumentError(f"metrics={metrics!r} names a metric twice, and each is logged under its name.")
    if two_epochs and "track" not in given:
        raise ArgumentError(f"metrics: {two_epochs[0]!r} compares the same images in two epochs. Pass track=True too.")
    for metric in found:
        if metric.needs == "place" and "places" not in given:
            raise ArgumentError(f"metrics: {metric.name!r} needs masks= or boxes= with the key of where the object is.")
        if metric.needs != "place" and "model" not in given:
            raise ArgumentError(f"metrics: {metric.name!r} asks the model. Pass model= instead of grads=.")
    measures = Measures(found, two_epochs, methods, prefix)
    if len(set(measures.keys)) < len(measures.keys):
        raise ArgumentError(
            f"metrics of the methods {list(methods)} would be logged under the same keys: {measures.keys}."
        )
    return measures
