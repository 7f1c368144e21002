"""Whether a class without an object is told by its absence: hand-made networks whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam.verdicts.absence import EACH, _beside, absence
from fe_gradcam.verdicts.inquiry import Inquiry
from tests.verdicts.coloured import (
    BLUE,
    BY_ABSENCE,
    BY_COLOUR,
    GREEN,
    MARK,
    NONE,
    NONE_BY_MARK,
    NOTHING,
    OBJECT,
    RED,
    inquiry_of,
    network,
    scenes,
)

COUNT = 12
FOUR = [one for one in (RED, GREEN, BLUE, NONE) for _ in range(COUNT)]


def inquiry(weights: Any, bias: Any, classes: list[int] = FOUR, **more: Any) -> Inquiry:
    images, masks = scenes(classes, [NONE])
    return inquiry_of(network(weights, bias), images, masks, labels=np.array(classes), **more)


def test_a_class_told_by_absence_is_not_accused_sign_or_no_sign() -> None:
    of = inquiry(BY_COLOUR, BY_ABSENCE)
    every = absence(of, of.classes)
    assert list(every) == [NONE]  # the others have objects
    evidence = every[NONE]
    assert (evidence.level, evidence.code, evidence.images) == ("tested", None, 16)
    assert_allclose(
        [evidence.figures[name] for name in ("becomes", "own", "sham", "stays", "elsewhere")], [1, 1, 1, 0, 0]
    )
    assert_allclose([evidence.figures[name] for name in ("p_becomes", "p_stays")], 1)
    assert of.asked == EACH * 16


def test_a_class_told_by_a_sign_fails_both_questions() -> None:
    """Without the mark an image is RED, if nothing else is seen; with it NONE, whatever is pasted in."""
    evidence = absence(inquiry(NONE_BY_MARK, NOTHING), [NONE])[NONE]
    assert evidence.accuses and evidence.code == "absence"
    assert_allclose(
        [evidence.figures[name] for name in ("becomes", "own", "sham", "stays", "elsewhere")], [0, 1, 1, 1, 0]
    )
    # of 32 images with holes just the 16 own ones are kept; of each object's 4 pictures just the 2 in own surroundings
    assert evidence.figures["p_becomes"] == pytest.approx(1 / 601080390)
    assert evidence.figures["p_stays"] == pytest.approx(6.0**-16)
    assert evidence.rows is not None and len(evidence.rows) == 16 and max(evidence.rows) < 3 * COUNT


@pytest.mark.parametrize(
    ("mark", "nothing", "becomes", "stays"), [(5, 0, 0, 0), (10, 2.5, 1, 1)], ids=["the first", "the second"]
)
def test_one_question_alone_accuses(mark: float, nothing: float, becomes: float, stays: float) -> None:
    """A sign that an object outdoes, as RED's bias breaks the tie or GREEN and BLUE have 6; and one beside absence."""
    weights = [[6, 0, 0, 0], [0, 6, 0, 0], [0, 0, 6, 0], [0, 0, 0, mark]]
    evidence = absence(inquiry(weights, (0.5, 0, 0, nothing)), [NONE])[NONE]
    assert_allclose([evidence.figures[name] for name in ("becomes", "stays")], [becomes, stays])
    assert evidence.accuses


def test_a_network_that_any_hole_disturbs_is_not_accused() -> None:
    """The sign is where the others have their object, so each hole covers it: it may be a part of the good thing."""
    images, masks = scenes(FOUR)
    place = np.zeros((24, 24), bool)
    place[8 : 8 + MARK, 8 : 8 + MARK] = True
    for image, mask, one in zip(images, masks, FOUR, strict=True):
        image[:, mask] = 0.25
        image[:, place] = 1 if one == NONE else 1.5 * np.eye(3)[one][:, None]
        mask[:] = place & (one != NONE)
    evidence = absence(inquiry_of(network(NONE_BY_MARK), images, masks), [NONE])[NONE]
    assert evidence.figures["own"] == 0
    assert (evidence.level, evidence.code) == ("not tested", None) and "Filling in itself disturbs" in evidence.said


def test_the_trials_show_the_pictures_and_what_was_said_of_them() -> None:
    of = inquiry(BY_COLOUR, BY_ABSENCE)
    trials = absence(of, [NONE])[NONE].trials
    assert [trial.done for trial in trials[:3]] == ["object filled in"] * 2 + ["the same hole filled in"]
    assert trials[3].done[:-1] == "with the object of an image of class "
    for trial in trials:
        assert_array_equal(trial.given, of.pictures[trial.row])
        assert trial.before == pytest.approx(of.probabilities[trial.row, NONE])
        assert trial.after == pytest.approx(of.answers([trial.row], trial.changed[None])[0, NONE], abs=1e-5)
    assert [trial.row >= 3 * COUNT for trial in trials] == [False, False, True, True]
    assert [trial.after > 0.5 for trial in trials] == [True, True, True, False]


def test_what_cannot_be_tested_says_why() -> None:
    few = [RED] * COUNT + [NONE] * 5
    assert "there are 5" in absence(inquiry(BY_COLOUR, BY_ABSENCE, few), [NONE])[NONE].said
    lonely = [RED] * 5 + [NONE] * COUNT
    assert "Only 5 images of other classes" in absence(inquiry(BY_COLOUR, BY_ABSENCE, lonely), [NONE])[NONE].said
    poor = absence(inquiry(BY_COLOUR, BY_ABSENCE, most=EACH * 12 - 1), [NONE])[NONE]
    assert poor.level == "not tested" and f"later epoch: {EACH * 12} more" in poor.said
    images, _ = scenes(FOUR)
    assert absence(inquiry_of(network(BY_COLOUR, BY_ABSENCE), images, None), [NONE]) == {}


def test_classes_may_be_left_out() -> None:
    of = inquiry(BY_COLOUR, BY_ABSENCE, accused=[RED, GREEN, BLUE])
    assert "Only 0 images" in absence(of, [NONE])[NONE].said


@given(st.integers(0, 18), st.integers(0, 18), st.integers(0, 99))
def test_a_hole_beside_the_object_has_its_shape_and_does_not_touch_it(top: int, left: int, seed: int) -> None:
    mask = np.zeros((24, 24), bool)
    mask[top : top + OBJECT, left : left + OBJECT] = np.random.default_rng(seed).random((OBJECT, OBJECT)) < 0.5
    mask[top, left] = mask[top + OBJECT - 1, left + OBJECT - 1] = True
    moved = _beside(mask, np.random.default_rng(seed))
    assert moved is not None and moved.sum() == mask.sum()
    rows, columns = np.nonzero(moved)
    assert_array_equal(
        moved[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1],
        mask[top : top + OBJECT, left : left + OBJECT],
    )
    assert max(abs(rows.min() - top), abs(columns.min() - left)) >= OBJECT + 4  # two rims of two pixels


def test_an_object_that_leaves_no_place_beside_it_has_no_hole_there() -> None:
    mask = np.zeros((24, 24), bool)
    mask[4:20, 4:20] = True
    assert _beside(mask, np.random.default_rng(0)) is None
