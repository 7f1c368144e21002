"""A model's inputs: which of them is the picture, how rows and pictures are taken of them, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from fe_gradcam import ArgumentError
from fe_gradcam.spec.images import Inputs

NUMBERS = np.arange(6, dtype=np.float32).reshape(3, 2)
PICTURES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 1, 4, 5)


@pytest.mark.parametrize("images", [PICTURES, torch.from_numpy(PICTURES)])
def test_a_single_input_is_the_picture_and_given_as_it_is(images: Any) -> None:
    inputs = Inputs.of(images).checked()
    assert inputs.given() is images
    assert inputs.picture is images
    assert len(inputs) == 3
    assert inputs.shapes == ((1, 4, 5),)
    assert inputs.size(channels_first=True) == (4, 5)
    assert inputs.size(channels_first=False) == (1, 4)


@pytest.mark.parametrize("packed", [tuple, list])
def test_of_several_the_first_with_axes_of_space_is_the_picture(packed: Any) -> None:
    inputs = Inputs.of(packed([NUMBERS, PICTURES, PICTURES + 1]))
    assert inputs.picture is PICTURES
    assert isinstance(inputs.given(), tuple)
    some = inputs.rows(slice(1, None))
    assert_array_equal(some.parts[0], NUMBERS[1:])
    assert_array_equal(some.picture, PICTURES[1:])
    other = inputs.with_picture(PICTURES + 7)
    assert_array_equal(other.picture, PICTURES + 7)
    assert other.parts[0] is NUMBERS


@pytest.mark.parametrize("channels_first", [True, False])
def test_other_pictures_take_the_other_inputs_of_their_rows_along(channels_first: bool) -> None:
    pictures = PICTURES if channels_first else PICTURES.transpose(0, 2, 3, 1)
    inputs = Inputs.of((NUMBERS, pictures)).in_torch()
    seen = inputs.seen(channels_first=channels_first)
    assert_array_equal(seen, PICTURES.astype(np.float32))
    rows = torch.tensor([2, 0, 2])
    asked = inputs.asked(seen[rows] + 0.4, rows, channels_first=channels_first)
    assert_array_equal(asked.parts[0], NUMBERS[[2, 0, 2]])
    assert_array_equal(asked.picture, pictures[[2, 0, 2]])  # bytes again, rounded


def test_samples_are_stacked_in_their_own_framework() -> None:
    tracked = torch.ones(1, 4, 5, requires_grad=True)
    stacked = Inputs.stacked([(NUMBERS[0], tracked), (NUMBERS[1], tracked)])
    assert_array_equal(stacked.parts[0], NUMBERS[:2])
    assert stacked.picture.shape == (2, 1, 4, 5)
    assert not stacked.picture.requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.png", r"images holds shapes \[\(\)\]"),
        ((), r"images holds shapes \[\]"),
        ((NUMBERS, PICTURES[:2]), r"images holds shapes \[\(3, 2\), \(2, 1, 4, 5\)\]"),
        (NUMBERS, r"images has shape \(3, 2\).*Add the batch axis"),
        (PICTURES[:0], "images is empty"),
    ],
)
def test_what_is_no_batch_of_images_is_named(images: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Inputs.of(images).checked()
