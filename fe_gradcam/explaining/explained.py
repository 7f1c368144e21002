"""Images explained by several methods, for several targets, with what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.types import Heatmap


@dataclass(frozen=True, eq=False)
class Column:
    """The heatmaps of one method and one target.

    Attributes:
        method: The method's name.
        target: The target's name.
        heatmap: Of N images.
        shown: (N,) which of them are drawn, or None for all.
    """

    method: str
    target: str
    heatmap: Heatmap
    shown: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Explained:
    """The chosen images of one dataset, explained.

    Attributes:
        pictures: (N, H, W, 3) uint8, what is drawn on.
        columns: One for each method and target.
        probabilities: (N, C), or None where they are not known.
        labels: (N,) class ids, or None.
        ids: N names of the images, or None.
        ds_id: The dataset, "" where there is one alone.
        positions: (N,) places of the images in the order of the epoch, or None.
        places: (N, H, W) where the object is in each picture, or None.
    """

    pictures: NDArray[np.uint8]
    columns: list[Column]
    probabilities: NDArray[np.float32] | None
    labels: NDArray[np.int64] | None
    ids: Sequence[Any] | None
    ds_id: str = ""
    positions: NDArray[np.int64] | None = None
    places: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """(N,) inferred class ids, or None where the probabilities are not known."""
        return None if self.probabilities is None else self.probabilities.argmax(1).astype(np.int64)
