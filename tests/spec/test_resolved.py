"""Resolved targets say what they are, and what becomes of them for other rows and other views."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fe_gradcam import ArgumentError, Contrast, OutputValue, Rank, Segmentation
from fe_gradcam.spec.resolved import resolve_target

MASK = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def score(output: Any) -> Any:
    return output[:, 0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (1, {"is_class": True, "of_classes": True}),
        (None, {"is_class": True, "of_classes": True}),
        (Rank(2), {"is_class": True, "of_classes": True}),
        (Contrast(0, 1), {"of_classes": True}),
        (OutputValue(1), {}),
        (Segmentation(1, MASK), {"of_classes": True, "of_pixels": True}),
        (score, {"row_by_row": False, "called": score}),
    ],
)
def test_a_target_says_what_it_is(target: Any, said: dict[str, Any]) -> None:
    resolved = resolve_target(target, 2)
    plain = {"is_class": False, "of_classes": False, "of_pixels": False, "row_by_row": True, "called": None}
    assert {name: getattr(resolved, name) for name in plain} == plain | said


def test_a_region_turns_with_the_image_and_a_class_does_not() -> None:
    region, of_class = resolve_target(Segmentation(1, MASK), 2), resolve_target(1, 2)
    assert_array_equal(region.turned((-1,)).arrays[0], MASK[..., ::-1])
    assert_array_equal(region.rows(slice(1, 2)).arrays[0], MASK[1:])
    assert of_class.turned((-1,)) is of_class


def test_a_target_is_pinned_to_what_it_came_to() -> None:
    inferred = resolve_target(None, 2)
    assert_array_equal(inferred.pinned(np.array([[3], [0]])).arrays[0], [[3], [0]])
    own = resolve_target(Segmentation(1), 2)
    assert own.arrays == ()
    assert_array_equal(own.pinned(MASK > 5).arrays[0], MASK > 5)
    value = resolve_target(OutputValue(1), 2)
    assert value.pinned(None) is value


def test_classes_held_against_themselves_are_counted() -> None:
    target = resolve_target(Contrast(None, [0, 2]), 4)
    assert target.against_itself(np.array([0, 1, 2, 1])) == 2


@pytest.mark.parametrize("target", [None, OutputValue(1), Segmentation(1, MASK), score])
def test_what_a_target_came_to_is_not_overwritten(target: Any) -> None:
    """The same one may be that of several calls."""
    resolved = resolve_target(target, 2)
    for name, value in list(vars(resolved).items()):
        with pytest.raises(FrozenInstanceError):
            setattr(resolved, name, value)


@pytest.mark.parametrize(
    ("target", "inferred", "ranked"),
    [
        (None, True, False),
        (Rank(1), True, False),
        (Rank(2), False, True),
        (1, False, False),
        ([1, 0], False, False),
        (Contrast(), False, True),
        (Contrast(0, 1), False, False),
    ],
)
def test_the_scores_are_sorted_for_ranks_below_the_first_alone(target: Any, inferred: bool, ranked: bool) -> None:
    resolved = resolve_target(target, 2)
    assert (resolved.is_inferred, resolved.ranked) == (inferred, ranked)


@pytest.mark.parametrize(
    ("target", "ids"),
    [(3, [3, 3]), (np.int32(3), [3, 3]), (np.array(3), [3, 3]), ([3, 1], [3, 1]), (np.array([3, 1], np.uint8), [3, 1])],
)
def test_one_class_is_that_of_every_image_and_several_are_theirs(target: Any, ids: list[int]) -> None:
    assert_array_equal(resolve_target(target, 2).arrays[0][:, 0], ids)


@pytest.mark.parametrize("target", [Contrast(0, 0), Contrast(2, 2), Contrast(2, [0, 2]), Contrast("b", ["a", "b"])])
def test_a_class_is_not_held_against_itself(target: Contrast) -> None:
    with pytest.raises(ArgumentError, match="holds a class against itself"):
        resolve_target(target, 2, ["a", "b", "c"])
