"""An object in the surroundings of another image: numbers worked by hand, and laws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam.verdicts import swap
from fe_gradcam.verdicts.swap import Grounds, drawn_donors, fills_frame, ground_of, pasted, swappable


def box(top: int, left: int, side: int, size: int = 16) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_an_object_fades_over_two_pixels() -> None:
    image, ground, mask = np.full((1, 1, 5), 9, np.float32), np.zeros((1, 1, 5), np.float32), np.zeros((1, 5), bool)
    mask[0, 0] = True
    assert_allclose(pasted(image, mask, ground)[0, 0], [9, 6, 3, 0, 0], atol=1e-6)
    assert_array_equal(pasted(image, ~mask & False, ground), ground)


def test_what_fades_is_within_the_rim_that_is_filled_in() -> None:
    """So an object pasted over its own ground hides its own rim, and not the one of a donor of the same shape."""
    assert swap.FEATHER <= swap.MARGIN


def test_the_ground_keeps_nothing_of_the_object_and_all_that_is_far_from_it() -> None:
    columns = np.broadcast_to(np.arange(16, dtype=np.float32), (2, 16, 16))
    mask = box(6, 6, 4)
    image = np.where(mask, np.float32(1000), columns)
    ground = ground_of(image, mask)
    assert_allclose(ground, columns, atol=1e-3 * 15)  # a plane is its own mean of neighbours
    far = ~box(4, 4, 8)
    assert_array_equal(ground[:, far], image[:, far])
    assert ground_of(image, mask & False) is image


def test_a_rim_around_a_mask_that_is_too_small_goes_too() -> None:
    image = np.where(box(5, 5, 6), np.float32(7), np.float32(1))[None]
    assert_allclose(ground_of(image, box(6, 6, 4)), 1, atol=1e-3)


def test_each_ground_is_filled_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(swap, "ground_of", lambda image, mask: asked.append(image) or image * 0)
    pictures, masks = np.ones((3, 1, 16, 16), np.float32), np.stack([box(2, 2, 3)] * 3)
    grounds = Grounds(pictures, masks)
    for row in (0, 2, 0):
        assert grounds.swapped(row, 1)[0, 15, 15] == 0
        assert grounds.swapped(row, 1)[0, 3, 3] == 1
    assert len(asked) == 1
    assert grounds.swapped(1, 1) is not None and len(asked) == 1
    assert_array_equal(grounds.swapped(1, 1), pictures[1])


def test_who_can_get_other_surroundings() -> None:
    masks = np.stack([box(2, 2, 3), box(0, 0, 16), box(0, 0, 0), box(1, 1, 13)])
    assert [fills_frame(mask) for mask in masks] == [False, True, False, True]  # 15 x 15 of 16 x 16 are 88 %
    assert swappable(masks).tolist() == [0]
    assert swappable(masks, empty="no object").tolist() == [0, 2]


def test_donors_are_any_of_the_givers_but_not_oneself() -> None:
    rows, givers = np.arange(6), np.array([1, 3, 5])
    drawn = np.stack([drawn_donors(rows, givers, np.random.default_rng(seed)) for seed in range(600)])
    for row in rows:
        found, counts = np.unique(drawn[:, row], return_counts=True)
        assert found.tolist() == [one for one in givers if one != row]
        assert_allclose(counts, 600 / len(found), rtol=0.25)  # 4 deviations of 200 of 600


def test_without_a_donor_an_image_stays_as_it_is() -> None:
    generator = np.random.default_rng(0)
    assert drawn_donors(np.array([4]), np.array([4]), generator).tolist() == [4]
    assert drawn_donors(np.array([2, 4]), np.array([], int), generator).tolist() == [2, 4]
