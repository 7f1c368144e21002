"""Pixels filled in from their neighbours."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from fe_gradcam import ArgumentError
from fe_gradcam.metrics import imputation
from fe_gradcam.metrics.imputation import NEIGHBOURS, blurred, falling, filled, interpolated, replaced


def by_loops(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The imputation as its definition says it, one equation after the other."""
    places = [tuple(place) for place in np.argwhere(missing)]
    system, sums = np.zeros((len(places), len(places))), np.zeros((len(places), len(image)))
    for at, (row, column) in enumerate(places):
        for (down, right), weight in NEIGHBOURS.items():
            other = (row + down, column + right)
            if 0 <= other[0] < missing.shape[0] and 0 <= other[1] < missing.shape[1]:
                system[at, at] += weight
                if missing[other]:
                    system[at, places.index(other)] -= weight
                else:
                    sums[at] += weight * image[(slice(None), *other)]
    filled_in = image.copy()
    filled_in[:, missing] = np.linalg.solve(system, sums).T
    return filled_in


@pytest.mark.parametrize("at_once", [0, 1000])
@given(arrays(bool, (7, 9)), st.integers(0, 100))
def test_the_imputation_solves_its_equations(at_once: int, missing: np.ndarray, seed: int) -> None:
    """In steps, which end within 1e-4 of the range, and at once."""
    missing[3, 4] = False
    image = np.random.default_rng(seed).normal(size=(2, 7, 9)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imputation, "SOLVED_AT_ONCE", at_once)
        found = interpolated(image, missing)
    assert_array_equal(found[:, ~missing], image[:, ~missing])
    assert_allclose(found, by_loops(image, missing), atol=1e-5 if at_once else 1e-3)


def test_a_pixel_by_hand() -> None:
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3) ** 2
    middle, corner = np.zeros((2, 3, 3), bool)
    middle[1, 1] = corner[0, 0] = True
    assert_allclose(interpolated(image, middle)[0, 1, 1], (4 + 16 + 36 + 64) / 6 + (1 + 9 + 49 + 81) / 12, rtol=1e-5)
    assert_allclose(interpolated(image, corner)[0, 0, 0], 0.4 * 4 + 0.4 * 16 + 0.2 * 25, rtol=1e-5)


def test_a_ramp_is_filled_in_as_it_was_and_so_is_a_constant() -> None:
    rows, columns = np.mgrid[:60, :80].astype(np.float32)
    ramp, missing = np.stack([rows + 2 * columns, 7 - rows]), np.zeros((60, 80), bool)
    missing[5:50, 8:70] = True
    assert_allclose(interpolated(ramp, missing), ramp, atol=0.02)  # of a range of 217
    assert_array_equal(interpolated(np.full((3, 60, 80), 0.7, np.float32), ~missing), np.float32(0.7))
    assert_array_equal(interpolated(ramp, np.zeros_like(missing)), ramp)
    with pytest.raises(ArgumentError, match="missing is True everywhere"):
        interpolated(ramp, np.ones_like(missing))


def test_what_pixels_are_replaced_by() -> None:
    images = torch.rand(2, 3, 20, 8)
    assert_allclose(filled(images, "mean"), images.mean((2, 3))[:, :, None, None].expand_as(images), rtol=1e-6)
    assert_array_equal(filled(images, -1), -torch.ones_like(images))
    for image, blurry in zip(images.numpy(), blurred(images).numpy(), strict=True):
        expected = cv2.GaussianBlur(image.transpose(1, 2, 0), (11, 11), 5.0)
        assert_allclose(blurry.transpose(1, 2, 0), expected, atol=1e-6)


def test_pixels_are_ranked_by_their_heat_and_those_of_equal_heat_by_the_ties() -> None:
    heat = np.array([[[1, 3, -1], [3, 0, 3]], [[0, 0, 0], [0, 0, 0]]], np.float32)
    ties = np.array([[[9, 5, 9], [2, 9, 7]], [[3, 1, 2], [0, 5, 4]]])
    assert_array_equal(falling(heat, ties), [[[3, 1, 5], [0, 4, 2]], [[3, 1, 2], [0, 5, 4]]])


@pytest.mark.parametrize(
    ("steps", "expected", "versions"),
    [(4, [18.5 / 60, 56.5 / 60], 5 + 2), (2, [10.5 / 30, 28.5 / 30], 3 + 2), (1, [15 / 30, 29 / 30], 2 + 2)],
)
def test_pixels_are_replaced_the_hottest_first(steps: int, expected: list[float], versions: int) -> None:
    """By hand: pixels of ones that weigh 8, 4, 2 and 1 fifteenths, taken away one by one; trapezia.

    In the second image the last goes first, and the others become what they are, so that there is nothing to ask.
    """
    images, asked = torch.ones(2, 1, 2, 2), []
    replacements, places = torch.zeros(2, 1, 2, 2), torch.tensor([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])
    replacements[1] = torch.tensor([[1, 1], [1, 0]])

    def ask(rows: torch.Tensor, make: Any) -> torch.Tensor:
        asked.extend(rows.tolist())
        return (make(torch.arange(len(rows))) * torch.tensor([[8, 4], [2, 1]]) / 15).sum((1, 2, 3))

    assert_allclose(replaced(ask, images, replacements, places, steps), expected, rtol=1e-6)
    assert len(asked) == versions
