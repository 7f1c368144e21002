"""Covering places of images, and which other places hold as much."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from fe_gradcam.verdicts.atlas import Box
from fe_gradcam.verdicts.covering import alike, deviations


def test_the_deviations_of_places_are_those_of_each_by_itself() -> None:
    """Sums over all above and to the left, against NumPy's own; cut off at the frame, and exactly 0 where flat."""
    picture = np.random.default_rng(4).normal(3, 1, (3, 17, 23)).astype(np.float32)
    picture[:, 5:9, 6:12] = 7.5
    tops, lefts = np.array([0, 5, 13, 2]), np.array([0, 7, 18, 9])
    for border in ((0, 0), (2, 3)):
        found = deviations(picture, tops, lefts, (4, 5), border)
        for top, left, value in zip(tops, lefts, found, strict=True):
            rows = slice(max(0, top - border[0]), top + 4 + border[0])
            columns = slice(max(0, left - border[1]), left + 5 + border[1])
            assert_allclose(value, picture[:, rows, columns].std((1, 2), dtype=np.float64).mean(), atol=1e-6)
    assert deviations(picture, tops[1:2], lefts[1:2], (4, 5), (0, 0)) == 0


def test_places_alike_hold_as_much_and_lie_apart() -> None:
    picture = np.zeros((1, 12, 20), np.float32)
    picture[0, 8:12, 16:20:2] = 1  # the place: stripes
    picture[0, 0:4, 0:4:2] = 1  # as much
    picture[0, 0:4, 8:12] = np.eye(4) * 0.1  # too little
    assert alike(picture, Box(16, 8, 4, 4))[0] == Box(0, 0, 4, 4)
    assert all(abs(other.left - 16) >= 4 or abs(other.top - 8) >= 4 for other in alike(picture, Box(16, 8, 4, 4)))
    assert alike(np.zeros((1, 12, 20), np.float32), Box(16, 8, 4, 4)) == []
