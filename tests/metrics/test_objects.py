"""Where the object is, of boxes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fe_gradcam import ArgumentError
from fe_gradcam.metrics.objects import masks_of_boxes


def test_masks_of_boxes() -> None:
    boxes = [
        [[1, 0, 2, 1, 7], [3, 1, 1, 5, 7]],
        [[0, 0, 0, 3, 7], [0.6, 0.4, 1, 1, 7]],
        [[0, 0, 2, -1, 7], [np.nan] * 5],
    ]
    expected = [[[0, 1, 1, 0], [0, 0, 0, 1]], [[0, 1, 0, 0], [0, 0, 0, 0]], np.zeros((2, 4))]
    assert_array_equal(masks_of_boxes(boxes, (2, 4)), np.array(expected, bool))
    with pytest.raises(ArgumentError, match=r"boxes has shape \(1, 4\)"):
        masks_of_boxes([[0, 0, 1, 1]], (2, 4))
