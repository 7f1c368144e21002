"""Patches that stand by themselves, and parts of something larger: their mean by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from fe_gradcam.verdicts.isolation import CONTINUES, around, continues

SIDE, LARGEST = 8, 14


def crops(count: int, *, stroke: float = 0.0, noise: float = 0.0, at: int = LARGEST) -> list[NDArray[np.float32]]:
    """A square of 6 x 6 pixels, black and white by columns, on grey; with a stroke that crosses the crop; and noise."""
    generator, whole = np.random.default_rng(0), SIDE + 2 * LARGEST
    made = generator.normal(0.5, noise, (count, whole, whole, 1)).astype(np.float32)
    made[:, at + 3 : at + 5] += stroke
    made[:, at + 1 : at + 7, at + 1 : at + 7, 0] = np.arange(6) % 2
    return list(made)


def test_a_sign_on_plain_ground_stands_by_itself() -> None:
    assert continues(crops(3), SIDE, LARGEST) == 0


def test_a_sign_stands_by_itself_though_the_window_cuts_it() -> None:
    """It lies three pixels further: a square that holds it whole is found."""
    assert continues(crops(3, at=LARGEST + 3), SIDE, LARGEST) == 0


@pytest.mark.parametrize("count", [4, 16])
def test_what_lies_around_a_sign_and_varies_cancels_out(count: int) -> None:
    """The mean of n images has noise / sqrt(n), beside the square's contrast of 0.5."""
    expected = 0.2 / np.sqrt(count) / 0.5
    assert continues(crops(count, noise=0.2), SIDE, LARGEST) == pytest.approx(expected, rel=0.2)


def test_a_part_of_an_object_goes_on_around_it() -> None:
    """A stroke of two pixels through the whole crop: of a ring around any square it is a part."""
    assert continues(crops(16, stroke=0.5, noise=0.1), SIDE, LARGEST) > CONTINUES
    assert continues(crops(16, stroke=0.5), SIDE, LARGEST) > CONTINUES


def test_what_stands_by_itself_elsewhere_does_not_count() -> None:
    """A second square in the corner of each crop, far from the window, on a ground without the stroke."""
    with_another = crops(16, stroke=0.5)
    for one in with_another:
        one[3:9, 3:9, 0] = np.arange(6) % 2
    assert continues(with_another, SIDE, LARGEST) > CONTINUES


def test_contrast_does_not_count_only_its_share() -> None:
    faint = [0.1 * one + 3 for one in crops(16, stroke=0.5)]
    assert continues(faint, SIDE, LARGEST) == pytest.approx(continues(crops(16, stroke=0.5), SIDE, LARGEST), rel=1e-3)


def test_without_contrast_nothing_stands_out() -> None:
    assert continues([np.full((36, 36, 3), 0.5, np.float32)], SIDE, LARGEST) == np.inf


def test_a_window_with_its_margin_is_nowhere_beyond_the_frame() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    found = around(picture, (0, 2), 2, 1)[..., 0]
    assert_array_equal(found, [[np.nan] * 4, [1, 2, 3, np.nan], [5, 6, 7, np.nan], [9, 10, 11, np.nan]])


def test_at_the_border_of_the_frame_the_inner_side_counts() -> None:
    """The upper half of each crop lies beyond the frame, in all of them."""
    cut = crops(4, stroke=0.0)
    for one in cut:
        one[: LARGEST - 1] = np.nan
    assert continues(cut, SIDE, LARGEST) == 0


@pytest.mark.parametrize(("away", "counts"), [(0, True), (2, True), (3, True), (4, False), (6, False)])
def test_the_ring_is_a_sixth_of_the_window_wide(away: int, counts: bool) -> None:
    """A patch that fills its window of 24 pixels, and a frame of one pixel so many pixels away from it."""
    side, crop = 24, np.zeros((72, 72, 1), np.float32)
    start, stop = 24 - away - 1, 48 + away + 1
    crop[start:stop, start:stop] = 1
    crop[start + 1 : stop - 1, start + 1 : stop - 1] = 0
    crop[24:48, 24:48, 0] = np.arange(24) % 2
    assert (continues([crop], side, side) > 0.1) == counts
