"""Covering places of images, and which other places hold as much."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from fe_gradcam.verdicts.atlas import Box
from fe_gradcam.verdicts.covering import (
    LEFT,
    NOTHING_ELSE,
    TRIED,
    Covered,
    Covering,
    alike,
    by_covering,
    deviations,
    first_cause,
    on_object,
    sample,
)
from fe_gradcam.verdicts.verdict import Evidence
from tests.verdicts.scenes import CORNER, GREEN, READS_THE_CORNER, READS_THE_OBJECT, inquiry_of, scenes, weights


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


def covered(plain: list[float], place: list[float], elsewhere: list[float]) -> Covered:
    """Of one image."""
    parts = [np.array([one]) for one in (plain, place, elsewhere)]
    return Covered(np.array([0]), [Box(0, 0, 1, 1)], np.zeros((1, 1, 2, 2), np.float32), *parts)


def test_a_place_is_a_cause_by_its_fall_and_by_that_of_other_places() -> None:
    assert covered([0.9], [0.6], [0.81]).is_cause  # 0.3 is more than 3 times 0.09
    assert not covered([0.9], [0.6], [0.79]).is_cause  # 3 times 0.11
    assert not covered([0.9], [0.66], [0.9]).is_cause  # 0.24
    assert not covered([0.9], [0.6], [0.81]).is_shared


def test_a_shared_cue_is_a_cause_for_the_classes_together() -> None:
    """Which of them it is, the object says: covering it moves the answer within them."""
    shared = covered([0.9, 1], [0.1, 0.2], [0.5, 0.98])
    assert (shared.is_cause, shared.is_shared) == (True, True)
    assert shared.means == (1, 0.2, 0.98)
    assert covered([0.9, 1], [0.1, 0.2], [0.9, 0.98]).means == (0.9, 0.1, 0.9)  # the class alone says it too
    assert not covered([0.9, 1], [0.8, 0.2], [0.5, 0.98]).is_cause  # this class does not need it


def test_covering_asks_for_the_class_and_for_those_that_share_its_place() -> None:
    inquiry, corner = inquiry_of(scenes(), READS_THE_CORNER), Box(*CORNER, 4, 4)
    covering = Covering(inquiry.pictures, dict.fromkeys(range(12, 20), corner))
    done = covering.asked_of(inquiry, GREEN, [2])
    assert inquiry.asked == covering.cost == 8 * 5
    assert_allclose(done.plain, np.stack([inquiry.probabilities[12:20, 1], inquiry.probabilities[12:20, 1:].sum(1)], 1))
    assert_allclose(done.covered, [[1 / 3, 2 / 3]] * 8, atol=0.01)  # nothing is left that the network looks at
    assert_allclose(done.elsewhere.mean(0), done.plain.mean(0), atol=0.01)
    assert done.boxes == [corner] * 8
    assert covering.asked_of(inquiry, GREEN).plain.shape == (8, 1)


def test_the_first_place_that_is_a_cause_is_taken_else_what_makes_most_difference() -> None:
    inquiry = inquiry_of(scenes(), READS_THE_CORNER)
    aside, corner, beyond = (
        dict.fromkeys(range(12, 24), box) for box in (Box(0, 28, 4, 4), Box(28, 28, 4, 4), Box(24, 24, 8, 8))
    )
    done = first_cause(inquiry, GREEN, [aside, corner, beyond])
    assert isinstance(done, Covered)
    assert done.boxes[0] == Box(28, 28, 4, 4)
    nothing = first_cause(inquiry_of(scenes(), READS_THE_OBJECT), GREEN, [corner])
    assert isinstance(nothing, Covered)
    assert not nothing.is_cause
    assert "later epoch" in str(first_cause(inquiry_of(scenes(), READS_THE_CORNER, most=9), GREEN, [corner]))
    assert "nothing else" in str(first_cause(inquiry, GREEN, [dict.fromkeys(range(12, 17), Box(28, 28, 4, 4))]))


def test_what_covering_found_is_tested_or_suspected_or_left() -> None:
    def found(parts: Any, rows: range, **more: Any) -> Evidence:
        boxes = dict.fromkeys(rows, Box(28, 28, 4, 4))
        return by_covering(
            inquiry_of(scenes(), parts, **more), GREEN, "place", "It is hot.", "the corner", [boxes], {}, []
        )

    cause, harmless = found(READS_THE_CORNER, range(12, 24)), found(READS_THE_OBJECT, range(12, 24))
    assert (cause.level, cause.code, cause.figures["sharing"]) == ("tested", "place", 0)
    assert (harmless.level, harmless.code) == ("tested", None)
    assert cause.figures["covered"] < cause.figures["covered_elsewhere"] < cause.figures["plain"] + 0.01
    left = found(READS_THE_CORNER, range(12, 24), most=9)
    assert (left.level, left.code, left.said) == ("not tested", None, f"It is hot. {LEFT}")
    alone = found(READS_THE_CORNER, range(12, 17))  # too few that have other places alike
    assert (alone.level, alone.code, alone.said) == ("suspected", "place", f"It is hot. {NOTHING_ELSE}")


def test_at_most_so_many_images_with_heat_are_sampled_whatever_their_order() -> None:
    inquiry = inquiry_of(scenes(TRIED + 4), READS_THE_CORNER)
    rows, heat = sample(inquiry, GREEN)
    assert len(rows) == len(set(rows.tolist())) == TRIED
    assert set(rows.tolist()) < set(inquiry.rows_of(GREEN).tolist())
    assert_allclose(heat, np.maximum(inquiry.heatmap.raw[rows], 0))
    inquiry = inquiry_of(scenes(), READS_THE_CORNER)
    inquiry.heatmap.blank[12:20] = True  # what is left of their heat is rounding
    assert set(sample(inquiry, GREEN)[0].tolist()) == set(range(20, 24))
    cold = inquiry_of(scenes(), weights((0, 0, 0), (0, 0, 0), (0, 2, 0)))  # told by the bias alone
    assert len(cold.rows_of(GREEN)) == 36
    assert len(sample(cold, GREEN)[0]) == 0


def test_a_place_on_the_object_is_the_object() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :4, :4] = True
    masks[1, :4, 4:] = True
    inside = {0: Box(0, 0, 4, 2), 1: Box(4, 0, 4, 2)}
    assert on_object(inside, masks)  # wherever each lies
    assert not on_object(dict.fromkeys((0, 1), Box(0, 6, 2, 2)), masks)
    assert on_object(inside | {2: Box(0, 6, 2, 2)}, masks)  # where the object is not known, nothing is said
    assert not on_object({2: Box(0, 0, 2, 2)}, masks)
    assert on_object({0: Box(0, 0, 8, 8)}, masks)  # all of the object in the place
