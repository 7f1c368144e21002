"""Where a picture stands in another."""

from __future__ import annotations

import numpy as np


def places_of(part: np.ndarray, whole: np.ndarray) -> list[tuple[int, int]]:
    """The rows and columns where it begins, where all its pixels are there."""
    height, width = part.shape[:2]
    corners = (whole[: len(whole) - height + 1, : whole.shape[1] - width + 1] == part[0, 0]).all(2)
    corners &= (whole[height - 1 :, width - 1 :] == part[-1, -1]).all(2)
    return [(y, x) for y, x in np.argwhere(corners) if np.array_equal(whole[y : y + height, x : x + width], part)]
