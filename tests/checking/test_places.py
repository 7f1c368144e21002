"""Readings of a layer's output worked out by hand, and parts of the image at places of a map."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam.checking.laws import placed
from fe_gradcam.checking.places import hottest, moves, readings, share_of
from fe_gradcam.checking.subject import NotApplicableError


def test_readings_of_tokens_channels_first_and_last() -> None:
    tokens = np.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    behind, before = readings((7, 3), (2, 3), None)
    assert_array_equal(behind.maps(tokens)[1, 2], tokens[1, 1:, 2].reshape(2, 3))
    assert_array_equal(before.maps(tokens)[1, 2], tokens[1, :6, 2].reshape(2, 3))
    (first,) = readings((5, 2, 3), (2, 3), None)
    (last,) = readings((2, 3, 5), (2, 3), None)
    output = np.random.default_rng(0).random((2, 2, 3, 5))
    assert_array_equal(last.maps(output), np.moveaxis(output, -1, 1))
    assert_array_equal(first.maps(last.maps(output)), last.maps(output))
    assert not list(readings((4, 3), (2, 3), None))


def test_what_is_spread_is_read_back_and_zero_elsewhere() -> None:
    reading = next(readings((7, 3), (2, 3), None))
    values = np.random.default_rng(0).random((2, 3, 2, 3))
    spread = reading.spread(values)
    assert spread.shape == (2, 7, 3) and not spread[:, 0].any()
    assert_array_equal(reading.maps(spread), values)


def test_a_reshape_is_a_reading() -> None:
    (own,) = readings((7, 3), (3, 2), lambda output: output[:, 1:].movedim(-1, 1).unflatten(2, (2, 3)).transpose(2, 3))
    tokens = np.arange(7 * 3.0).reshape(1, 7, 3)
    assert_array_equal(own.maps(tokens)[0, 1], tokens[0, 1:, 1].reshape(2, 3).T)


def test_how_much_of_a_place_lies_in_a_part() -> None:
    """Eight pixels are four places of two; a part from pixel 1 to 4 holds half of the first and all of the second."""
    assert_allclose(share_of((4,), (8,), (1,), (3,)), [0.5, 1, 0, 0])
    assert_allclose(share_of((2, 4), (4, 8), (0, 1), (2, 3)), [[0.5, 1, 0, 0], [0, 0, 0, 0]])


def test_the_hottest_fourth_sums_to_one() -> None:
    heat = np.array([[[1.0, 1, 1, 1], [1, 1, 1, 9]], [[2, 2, 2, 2], [2, 2, 2, 2]]])
    assert_allclose(hottest(heat), [[[0, 0, 0, 0], [0, 0, 0, 1]], np.zeros((2, 4))])


def test_moves_are_those_of_their_names() -> None:
    """Numbers in column order, read as if they were in row order, go on in the next row."""
    found = dict(moves(np.arange(6.0).reshape(1, 2, 3)))
    assert_array_equal(found["where they are"][0], [[0, 1, 2], [3, 4, 5]])
    assert_array_equal(found["turned over along axis 2"][0], [[2, 1, 0], [5, 4, 3]])
    assert_array_equal(found["with the axes in the order (2, 1)"][0], [[0, 3, 1], [4, 2, 5]])
    assert len(found) == 4
    assert len(dict(moves(np.zeros((1, 2, 3, 4))))) == 1 + 3 + 5


def outcome_of(wanted: np.ndarray, heat: np.ndarray) -> str:
    """What is said of parts that each change two maps; heat is (n, 2, *S)."""
    try:
        return placed(wanted, np.stack([hottest(one).mean(0) for one in heat])).outcome
    except NotApplicableError:
        return "not applicable"


@pytest.mark.parametrize("sides", [(7, 7), (8, 8), (4, 9)])
def test_parts_that_are_seen_anywhere_say_nothing_and_a_wrong_reading_is_told(sides: tuple[int, int]) -> None:
    """Seen by chance at some places, as behind dilated convolutions with random weights: one in five was called wrong.

    A map that sees each part a little blurred, and noise besides, is told if it is turned over, and not else.
    """
    random, found = np.random.default_rng(0), Counter[str]()
    at = [[int((one + 0.5) / 3 * side) for one, side in zip(part, sides, strict=True)] for part in np.ndindex(3, 3)]
    wanted = np.zeros((9, *sides))
    for one, place in zip(wanted, at, strict=True):
        one[tuple(place)] = 1
    for _ in range(150):
        noise = random.exponential(size=(9, 2, *sides))
        found[outcome_of(wanted, noise**2)] += 1
        away = [np.square(np.indices(sides) - np.reshape(place, (2, 1, 1))).sum(0) for place in at]
        right = np.exp(-np.stack(away) / 2)[:, None] + 0.1 * noise
        assert outcome_of(wanted, right) == "passed"
        assert outcome_of(wanted, right[:, :, ::-1]) == outcome_of(wanted, right[:, :, :, ::-1]) == "failed"
    assert found["failed"] <= 3
