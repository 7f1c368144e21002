"""Scalings and upsampling: hand-worked numbers and what must hold for any map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose

from fe_gradcam.errors import ArgumentError
from fe_gradcam.scaling import SCALINGS, scale, upsample

MAP = torch.tensor([[[-4.0, 2.0], [0.0, 1.0]]])


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("scale_after_relu", [[0, 1], [0, 0.5]]),
        ("scale_before_relu", [[0, 0.5], [0, 0.25]]),
        ("none", [[-4, 2], [0, 1]]),
    ],
)
def test_hand_worked_numbers_of_a_map_that_is_left_as_it_was(scaling: str, expected: list[list[float]]) -> None:
    raw = MAP.clone()
    assert_allclose(scale(raw, scaling, (2, 2))[0], expected)
    assert torch.equal(raw, MAP)


def test_bilinear_with_half_pixel_centres() -> None:
    assert_allclose(upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4))[0, 0], [0, 0.25, 0.75, 1])


def test_after_relu_scales_what_is_left_after_upsampling() -> None:
    """A lone peak is lowered by the interpolation; the hottest place is 1 all the same."""
    peak = torch.zeros(1, 3, 3)
    peak[0, 1, 1] = 5
    assert upsample(peak, (4, 4)).max() < 5
    assert scale(peak, "scale_after_relu", (4, 4)).max() == 1


@pytest.mark.parametrize(("scaling", "raw"), [("scale_after_relu", [-100.0, 1.0]), ("scale_before_relu", [-4.0, 4.0])])
def test_relu_comes_before_the_upsampling(scaling: str, raw: list[float]) -> None:
    """Beside a strong negative place a weak positive one keeps its evidence."""
    assert_allclose(scale(torch.tensor([[raw]]), scaling, (1, 4))[0, 0], [0, 0.25, 0.75, 1])


MAPS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@pytest.mark.parametrize("scaling", SCALINGS)
@given(maps=MAPS, height=st.integers(1, 9), width=st.integers(1, 9))
def test_range_and_zero(scaling: str, maps: np.ndarray, height: int, width: int) -> None:
    values = scale(torch.from_numpy(maps.copy()), scaling, (height, width)).numpy()
    assert values.shape == (len(maps), height, width)
    assert np.isfinite(values).all()
    if scaling != "none":
        assert values.min() >= 0
        assert values.max() <= 1
        assert not values[maps.max((1, 2)) <= 0].any()
    if scaling == "scale_after_relu":
        assert (values.max((1, 2)) == 1)[values.max((1, 2)) > 0].all()


def test_each_image_by_itself() -> None:
    one, other = scale(torch.cat([MAP, 1000 * MAP]), "scale_after_relu", (2, 2))
    assert_allclose(one, other)


def test_unknown_scaling() -> None:
    with pytest.raises(ArgumentError, match=r"scaling='scale_after' is not known; did you mean 'scale_after_relu'"):
        scale(MAP, "scale_after", (2, 2))
