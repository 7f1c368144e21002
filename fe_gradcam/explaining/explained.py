"""Images explained by several methods, for several targets, with what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.types import BY_ROW, ByRow, Heatmap


@dataclass(frozen=True, eq=False)
class Column(ByRow):
    """The heatmaps of one method and one target.

    Attributes:
        method: The method's name.
        target: The target's name.
        heatmap: Of N images.
        shown: (N,) which of them are drawn, or None for all.
    """

    method: str
    target: str
    heatmap: Heatmap = field(metadata=BY_ROW)
    shown: NDArray[np.bool_] | None = field(default=None, metadata=BY_ROW)


@dataclass(frozen=True, eq=False)
class Explained(ByRow):
    """The chosen images of one dataset, explained.

    Attributes:
        pictures: (N, H, W, 3) uint8, what is drawn on.
        columns: One for each method and target.
        probabilities: (N, C), or None where they are not known.
        labels: (N,) class ids, or None.
        ids: N names of the images, or None.
        ds_id: The dataset, "" where there is one alone.
        positions: (N,) places of the images in the order of the epoch, or None.
        masks: (N, H, W) where the object is in each picture, or None.
    """

    pictures: NDArray[np.uint8] = field(metadata=BY_ROW)
    columns: list[Column] = field(metadata=BY_ROW)
    probabilities: NDArray[np.float32] | None = field(metadata=BY_ROW)
    labels: NDArray[np.int64] | None = field(metadata=BY_ROW)
    ids: Sequence[Any] | None = field(metadata=BY_ROW)
    ds_id: str = ""
    positions: NDArray[np.int64] | None = field(default=None, metadata=BY_ROW)
    masks: NDArray[np.bool_] | None = field(default=None, metadata=BY_ROW)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """(N,) inferred class ids, or None where the probabilities are not known."""
        return None if self.probabilities is None else self.probabilities.argmax(1).astype(np.int64)

    @property
    def of_layer(self) -> Heatmap:
        """A heatmap that says which layer is explained: of a method that knows one, where there are any."""
        heatmaps = [column.heatmap for column in self.columns]
        return next((heatmap for heatmap in heatmaps if heatmap.of_layer), heatmaps[0])
