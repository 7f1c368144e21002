"""Heatmaps of given values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.types import Heatmap


def heatmap_of(
    values: NDArray[np.float32],
    class_ids: ArrayLike = 0,
    *,
    raw: NDArray[np.float32] | None = None,
    blank: ArrayLike = False,
    confidence: float = 1,
    **more: Any,
) -> Heatmap:
    """As `explain` returns them."""
    given = {"method": "grad_cam", "layer": "conv3", "scaling": "scale_after_relu", **more}
    count = len(values)
    return Heatmap(
        values=values,
        raw=values if raw is None else raw,
        class_ids=np.full(count, class_ids, np.int64),
        scores=np.ones(count, np.float32),
        confidences=np.full(count, confidence, np.float32),
        blank=np.full(count, blank),
        **given,
    )
