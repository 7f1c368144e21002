"""Who gives surroundings, and the exact test: against an enumeration of all ways."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fe_gradcam.verdicts.donors import Pools, Swaps, chance_of
from tests.verdicts.coloured import BLUE, BY_ABSENCE, BY_COLOUR, GREEN, NONE, RED, inquiry_of, network, scenes


def enumerated(counts: list[tuple[int, int, int, int]]) -> float:
    """Of all ways in which each image's kept pictures may be spread, the share with as many in own surroundings."""
    seen = sum(one[0] for one in counts)
    each = [
        [sum(at < own for at in chosen) for chosen in combinations(range(own + other), kept_own + kept_other)]
        for kept_own, own, kept_other, other in counts
    ]
    sums = [sum(ways) for ways in product(*each)]
    return sum(one >= seen for one in sums) / len(sums)


def test_the_chance_worked_by_hand() -> None:
    """Two of two kept in own surroundings and none of two in others: 1 way of 6; twice, 1 of 36."""
    assert chance_of([(2, 2, 0, 2)]) == pytest.approx(1 / 6)
    assert chance_of([(2, 2, 0, 2)] * 2) == pytest.approx(1 / 36)
    assert chance_of([(4, 4, 0, 4)] * 6) == pytest.approx(70**-6)
    assert chance_of([(4, 4, 4, 4)] * 6) == pytest.approx(1)  # all are kept: nothing can be said
    assert chance_of([]) == 1


def test_a_chance_is_at_most_1_however_the_sums_round() -> None:
    """None is kept in own surroundings, so any number is as many or more."""
    sums = [chance_of([(0, own, kept, 7)] * 5) for own in range(1, 6) for kept in range(1, 7)]
    assert_allclose(sums, 1)
    assert max(sums) == 1


@pytest.mark.parametrize(
    "counts", [[(3, 4, 1, 4)], [(1, 2, 2, 3), (3, 4, 0, 2)], [(4, 4, 1, 3), (2, 4, 2, 4), (0, 1, 1, 2)]]
)
def test_the_chance_is_that_of_an_enumeration(counts: list[tuple[int, int, int, int]]) -> None:
    assert chance_of(counts) == pytest.approx(enumerated(counts))


def test_the_chance_is_never_too_small_if_surroundings_make_no_difference() -> None:
    """A p of at most 0.05 comes in at most 5 % of trials, up to 3 deviations of 400."""
    generator = np.random.default_rng(0)
    kept = generator.random((400, 8, 2, 4)) < generator.random((400, 8, 1, 1))
    chances = [chance_of([(*map(int, (own.sum(), 4, other.sum(), 4)),) for own, other in one]) for one in kept]
    assert np.mean(np.array(chances) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_shares_are_means_over_images_not_over_pictures() -> None:
    """Image 1: 1 of 1 kept; image 2: 0 of 3."""
    kept = np.array([True, False, False, False])
    rows = np.array([1, 2, 2, 2])
    swaps = Swaps(rows, rows, np.ones(4, bool), kept, ~kept, kept.astype(np.float32))
    assert swaps.share(own=True) == 0.5
    assert np.isnan(swaps.share(own=False))
    assert swaps.share(own=True, of="followed") == 0.5
    assert (swaps + swaps).counts() == [(2, 2, 0, 0), (0, 6, 0, 0)]
    both = Swaps(rows, rows, np.array([True, True, False, False]), kept, ~kept, kept.astype(np.float32))
    assert (both.share(own=True), both.share(own=False)) == (0.5, 0)  # image 1 has none in surroundings of others


CLASSES = [RED] * 4 + [GREEN] * 4 + [BLUE] * 20 + [NONE] * 4


def pools(**more: object) -> Pools:
    images, masks = scenes(CLASSES)
    masks[1] = True  # fills the frame
    masks[5] = False  # is missing
    return Pools(inquiry_of(network(BY_COLOUR, BY_ABSENCE), images, masks, **more), masks)


def test_images_that_can_be_used() -> None:
    its = pools()
    assert sorted(its.of(RED)) == [0, 2, 3]
    assert sorted(its.of(GREEN)) == [4, 6, 7]
    assert len(its.of(BLUE)) == 16
    assert its.is_empty(NONE) and not its.is_empty(GREEN)
    assert sorted(its.of(NONE)) == [28, 29, 30, 31]
    assert its.count(GREEN) == 4


def test_donors_are_of_as_many_classes_as_can_be_and_those_without_an_object_come_last() -> None:
    its, labels = pools(), np.array(CLASSES)
    for seed in range(20):
        found = its.others(RED, 8, np.random.default_rng(seed))
        assert set(labels[found[:2]]) == set(labels[found[2:4]]) == set(labels[found[4:6]]) == {GREEN, BLUE}
        assert len(set(found)) == 8 and set(labels[found[6:]]) == {BLUE}
    assert labels[its.others(RED, 99, np.random.default_rng(0))].tolist()[-4:] == [NONE] * 4


def test_classes_may_be_left_out_as_donors() -> None:
    found = pools(accused=[BLUE, NONE]).others(RED, 99, np.random.default_rng(0))
    assert sorted(found) == [4, 6, 7]


def test_an_image_that_is_also_of_the_class_is_no_donor() -> None:
    images, masks = scenes([RED] * 2 + [GREEN] * 2)
    labels = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]])
    inquiry = inquiry_of(network(BY_COLOUR), images, masks, labels=labels)
    assert Pools(inquiry, masks).others(RED, 9, np.random.default_rng(0)) == [3]


def test_an_answer_that_goes_to_the_class_of_the_donor_has_followed() -> None:
    """A colour-blind network: GREEN is told by the mark, and all else is RED."""
    images, masks = scenes([RED, GREEN], marked=[GREEN])
    inquiry = inquiry_of(network([[0, 0, 0, 0], [0, 0, 0, 10]], (0.5, 0)), images, masks)
    swaps = Pools(inquiry, masks).swaps(RED, [(0, 1)], own=[False])
    assert swaps.kept.tolist() == [False] and swaps.followed.tolist() == [True]
    assert Pools(inquiry, masks).swaps(GREEN, [(1, 0)], own=[False]).followed.tolist() == [True]
    assert inquiry.asked == 2
