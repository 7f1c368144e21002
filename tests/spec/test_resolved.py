"""Resolved targets say what they are, and what becomes of them for other rows and other views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fe_gradcam import Contrast, OutputValue, Rank, Segmentation
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
