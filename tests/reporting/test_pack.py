"""Heat as bytes: levels within one of 255 of `Heatmap.values`; pictures as data URLs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fe_gradcam.explaining.explained import Column, Explained, with_shared_scale
from fe_gradcam.explaining.heat import values_of
from fe_gradcam.reporting.pack import colours, number, of_maps, packed, picture_url
from fe_gradcam.scaling import SCALINGS
from fe_gradcam.types import Heatmap, Scaling
from tests.heat import heatmap_of
from tests.reporting.pages import heat_in, level_of, levels_in, maps_of, picture_in

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def made(raw: NDArray[np.float32], scaling: Scaling, size: tuple[int, int], blank: bool = False) -> Heatmap:
    blanks = torch.full((len(raw),), blank)
    values = values_of(torch.from_numpy(raw), blanks, scaling, size).numpy()
    return heatmap_of(values, raw=raw, scaling=scaling, blank=blank)


def wanted(values: NDArray[np.float32], scaling: str, unit: float | NDArray[np.float32]) -> NDArray[np.float64]:
    """Exact levels, not rounded, of heatmaps; `unit` is the end of the scale of signed ones."""
    exact = values.astype(np.float64)
    return 127.5 + 127.5 * exact / unit if scaling == "none" else 255 * exact


def ends(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 1, 1), the largest magnitude of each heatmap; 1 if that is 0."""
    tops = np.abs(values).max((1, 2), keepdims=True)
    return np.where(tops > 0, tops, 1)


@pytest.mark.parametrize("scaling", SCALINGS)
@given(SIDES, st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 99), st.floats(1e-12, 1e12))
def test_levels_are_within_one_of_the_heatmap_whatever_the_sizes(
    scaling: Scaling, layer: tuple[int, int], size: tuple[int, int], seed: int, unit: float
) -> None:
    raw = (np.random.default_rng(seed).normal(size=(3, *layer)) * unit).astype(np.float32)
    raw[1] = -np.abs(raw[1])
    heatmap = made(raw, scaling, size)
    found = levels_in(json.loads(json.dumps(packed(heatmap).to_dict())))
    exact = wanted(heatmap.values, scaling, ends(heatmap.values))
    assert found.shape == heatmap.values.shape
    assert np.abs(found - np.rint(exact)).max() <= 1


@pytest.mark.parametrize("scaling", SCALINGS)
@given(SIDES, st.integers(0, 99))
def test_heatmaps_that_share_a_scale_keep_it(scaling: Scaling, layer: tuple[int, int], seed: int) -> None:
    raw = np.random.default_rng(seed).normal(size=(2, *layer)).astype(np.float32)
    raw[1] *= 0.1
    heatmap = made(raw, scaling, (20, 31))
    pictures = np.zeros((2, 20, 31, 3), np.uint8)
    (part,) = with_shared_scale([Explained(pictures, [Column("grad_cam", "pred", heatmap)], None, None, None)])
    (column,) = part.columns
    found = levels_in(packed(column.heatmap, column.unit).to_dict())
    assert column.unit is not None
    exact = wanted(column.heatmap.values, scaling, column.unit)
    assert np.abs(found - np.rint(exact.clip(0, 255))).max() <= 1
    if scaling != "none" and exact[0].max() > 254:
        assert found[1].max() < 128


def test_a_map_of_four_places_by_hand() -> None:
    """Twice as wide: between the middles of two places lie a quarter and three quarters of the way."""
    heat = packed(made(np.array([[[0.0, 4.0, -2.0, 2.0]]], np.float32), "scale_before_relu", (1, 8)))
    assert heat.magnitudes[0, 0].tolist() == [0, 255, 255, 128]
    assert heat.negative[0, 0].tolist() == [False, False, True, False]
    assert (heat.up[0], heat.down[0], heat.unit[0]) == (4, 2, 4)
    assert maps_of(heat)[0, 0] == pytest.approx([0, 4, -2, 2], abs=4 / 255)
    quarters = np.array([0, 1, 3, 3, 1, 0.5, 1.5, 2]) / 4
    assert np.abs(level_of(heat, 0)[0] - 255 * quarters).max() <= 1


def test_each_row_is_text_of_its_own() -> None:
    """9 magnitudes and 2 bytes of signs are 11 bytes; with one of padding they are 16 characters."""
    raw = np.array([np.eye(3), -np.eye(3)], np.float32)
    said = of_maps(raw, "none", (9, 9)).to_dict()
    assert (said["h"], said["w"], said["size"], said["stride"], len(said["data"])) == (3, 3, [9, 9], 16, 32)
    assert np.array_equal(maps_of(heat_in(said)), raw)
    assert (said["up"], said["down"], said["unit"]) == ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_no_images_have_no_rows(scaling: Scaling) -> None:
    heatmap = made(np.ones((2, 3, 3), np.float32), scaling, (9, 9)).rows(np.array([False, False]))
    for most in (None, 2):
        said = packed(heatmap, most=most).to_dict()
        assert (said["data"], said["up"]) == ("", []) and said["stride"] > 0


def test_what_is_positive_in_a_blank_map_is_not_shown() -> None:
    raw = np.array([[[1e-9, -3.0], [-1.0, 1e-9]]], np.float32)
    for scaling in SCALINGS:
        heatmap = made(raw, scaling, (8, 8), blank=True)
        heat = packed(heatmap)
        assert (level_of(heat, 0).max() == 0) == (scaling != "none")
        assert heat.magnitudes.shape == (1, 2, 2)
        assert maps_of(heat).min() == pytest.approx(-3)
        changed = packed(replace(heatmap, values=np.ones((1, 8, 8), np.float32)))
        assert (level_of(changed, 0).max() == 0) == (scaling != "none")


@pytest.mark.parametrize(("side", "stored"), [(5, 5), (8, 4)])
def test_a_map_whose_peak_is_between_pixels_is_stored_at_their_size(side: int, stored: int) -> None:
    """Of a peak among 4 places, 5 pixels see 0.7 ** 2 at the most, and 8 pixels 0.75 ** 2: above 1 / 1.9."""
    raw = np.zeros((1, 4, 4), np.float32)
    raw[0, 2, 2] = 1
    assert packed(made(raw, "scale_after_relu", (side, side))).magnitudes.shape == (1, stored, stored)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_heatmap_that_somebody_changed_is_stored_as_it_is(scaling: Scaling) -> None:
    heatmap = made(np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32), scaling, (12, 12))
    changed = replace(heatmap, values=heatmap.values[:, ::-1] * np.float32([[[0.5]], [[0.25]]]))
    heat = packed(changed)
    assert heat.magnitudes.shape == (2, 12, 12)
    exact = wanted(changed.values, scaling, ends(changed.values))
    assert np.abs(np.array([level_of(heat, row) for row in range(2)]) - np.rint(exact)).max() <= 1


@pytest.mark.parametrize("scaling", SCALINGS)
def test_values_of_other_code_that_are_no_numbers_count_as_no_heat(scaling: Scaling) -> None:
    values = np.array([[[0.5, np.nan], [np.inf, 1.0]]], np.float32)
    said = packed(heatmap_of(values, raw=values, scaling=scaling)).to_dict()
    (levels,) = levels_in(json.loads(json.dumps(said, allow_nan=False)))
    assert levels.tolist() == ([[192, 128], [128, 255]] if scaling == "none" else [[128, 0], [0, 255]])


def test_a_large_map_is_shrunk_if_it_may_not_be_kept() -> None:
    raw = np.zeros((1, 60, 100), np.float32)
    raw[0, 12:24, 20:40] = 7
    heat = packed(made(raw, "scale_after_relu", (60, 100)), most=50)
    assert heat.magnitudes.shape == (1, 30, 50)
    levels = level_of(heat, 0)
    assert levels.shape == (60, 100)
    assert levels[14:22, 22:38].min() == 255 and levels[30:].max() == 0
    assert packed(made(raw, "scale_after_relu", (60, 100))).magnitudes.shape == (1, 60, 100)


@pytest.mark.parametrize(("side", "kind", "off"), [(64, "webp", 0), (65, "jpeg", 12)])
def test_a_picture_is_a_data_url_and_small_ones_lose_nothing(side: int, kind: str, off: int) -> None:
    across = np.linspace(0, 255, side).astype(np.uint8)
    picture = np.stack([np.tile(across, (side, 1)), np.tile(across, (side, 1)).T, np.full((side, side), 90)], -1)
    url = picture_url(picture.astype(np.uint8), 100)
    assert url.startswith(f"data:image/{kind};base64,")
    assert np.abs(picture_in(url).astype(int) - picture).max() <= off


def test_a_large_picture_is_shrunk() -> None:
    assert picture_in(picture_url(np.zeros((300, 600, 3), np.uint8), 200)).shape == (100, 200, 3)


def test_colours_and_numbers() -> None:
    assert len(colours("gray")) == 1024  # 768 bytes
    assert colours("gray").startswith("AAAAAQEBAgIC")
    assert [number(one) for one in (1 / 3, float("nan"), float("inf"), 123456.0)] == [0.33333, None, None, 123460.0]
