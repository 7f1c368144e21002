"""Images explained by several methods, for several targets, with labels, names and other data of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.scaling import upsample
from fe_gradcam.spec.labels import inferred_of, is_wrong
from fe_gradcam.types import BY_ROW, ByRow, Heatmap


@dataclass(frozen=True, eq=False)
class Column(ByRow):
    """The heatmaps of one method and one target.

    Attributes:
        shown: (N,) bool, in the column of the true class: True where another class was inferred, so that both heatmaps
            are drawn. None: all heatmaps are drawn.
        unit: The value that is drawn as 1 if all heatmaps of the method share one scale, or None.
    """

    method: str
    target: str
    heatmap: Heatmap = field(metadata=BY_ROW)
    shown: NDArray[np.bool_] | None = field(default=None, metadata=BY_ROW)
    unit: float | None = None


@dataclass(frozen=True, eq=False)
class Explained(ByRow):
    """The chosen images of one dataset, explained.

    Attributes:
        pictures: (N, H, W, 3) uint8, the pictures under the heatmaps.
        columns: One for each method and target.
        probabilities: (N, C).
        labels: (N,) class ids.
        ids: N names of the images.
        ds_id: The dataset; "" if there is only one.
        positions: (N,) positions of the images in the order of the epoch.
        masks: (N, H, W), where the object is in each picture.
        several: (N, C), all true classes of each image, if images have several; `labels` holds the first.
        inferred: (N,) inferred class ids, where the probabilities do not tell them.
    """

    pictures: NDArray[np.uint8] = field(metadata=BY_ROW)
    columns: list[Column] = field(metadata=BY_ROW)
    probabilities: NDArray[np.float32] | None = field(metadata=BY_ROW)
    labels: NDArray[np.int64] | None = field(metadata=BY_ROW)
    ids: Sequence[Any] | None = field(metadata=BY_ROW)
    ds_id: str = ""
    positions: NDArray[np.int64] | None = field(default=None, metadata=BY_ROW)
    masks: NDArray[np.bool_] | None = field(default=None, metadata=BY_ROW)
    several: NDArray[np.bool_] | None = field(default=None, metadata=BY_ROW)
    inferred: NDArray[np.int64] | None = field(default=None, metadata=BY_ROW)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """(N,) inferred class ids, -1 where the probabilities are NaN; None if they are not known."""
        if self.inferred is not None or self.probabilities is None:
            return self.inferred
        return inferred_of(self.probabilities)

    @property
    def of_layer(self) -> Heatmap:
        """A heatmap that names the explained layer: that of a method which uses a layer, if there is one."""
        return max((column.heatmap for column in self.columns), key=lambda heatmap: heatmap.of_layer)

    @property
    def in_line(self) -> list[Column]:
        """The columns in which every heatmap is drawn."""
        return [column for column in self.columns if column.shown is None]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(N,): whether the inferred class is no true one; False if one of them is not known."""
        if self.labels is None or self.predictions is None:
            return np.zeros(len(self), bool)
        return is_wrong(self.predictions, self.labels, self.several)


def with_shared_scale(parts: Sequence[Explained]) -> list[Explained]:
    """The same heatmaps, divided by the largest value of their method, so that magnitudes can be compared.

    Signed heatmaps keep their values; `Column.unit` holds the largest magnitude.
    """
    columns = [column for part in parts for column in part.columns]
    signed = columns[0].heatmap.scaling == "none"
    units: dict[str, float] = {}  # two methods have no scale in common
    for column in columns:
        units[column.method] = max(units.get(column.method, 0.0), _largest(column.heatmap))

    def shared(column: Column) -> Column:
        unit, heatmap = units[column.method] or 1.0, column.heatmap
        if not signed:
            values = evidence(heatmap.raw, heatmap.values.shape[1:]) / np.float32(unit)
            heatmap = replace(heatmap, values=values)
        return replace(column, heatmap=heatmap, unit=unit)

    return [replace(part, columns=[shared(column) for column in part.columns]) for part in parts]


def evidence(raw: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """The positive part of signed maps (N, h, w), upsampled to (H, W) and not scaled."""
    return upsample(torch.from_numpy(raw).clamp(min=0), size).numpy()


def _largest(heatmap: Heatmap) -> float:
    """The largest value of a heatmap before it was scaled."""
    if heatmap.scaling == "scale_after_relu":
        return float(evidence(heatmap.raw, heatmap.values.shape[1:]).max())
    return float(np.abs(heatmap.values if heatmap.scaling == "none" else heatmap.raw).max())
