"""Readings of a layer's output worked out by hand, and parts of the image at places of a map."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam.checking.places import hottest, moves, readings, share_of


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
