"""Colormaps, pictures of images, and overlays: what they mean, by reference and by property."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.interpolate import PchipInterpolator

from fe_gradcam.drawing.pixels import colormap_lut, overlay, require_rgb, signed_colormap, smooth_heat, to_rgb
from fe_gradcam.errors import ArgumentError, UnknownNameError

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def brightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float).sum(axis=-1)


def test_a_colormap_runs_from_its_low_to_its_high_colour() -> None:
    gray = colormap_lut("gray")
    assert gray.shape == (256, 3) and gray.dtype == np.uint8
    np.testing.assert_allclose(gray[:, 0], np.arange(256), atol=1)  # matplotlib rounds down
    with pytest.raises(ValueError, match="read-only"):
        gray[0] = 1


def test_an_unknown_colormap_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'viridiss'.*did you mean 'viridis'"):
        colormap_lut("viridiss")
    with pytest.raises(ArgumentError, match="colormap is a int"):
        colormap_lut(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given_name", "drawn"), [("turbo", "RdBu_r"), ("coolwarm", "coolwarm"), ("PiYG_r", "PiYG_r")])
def test_a_signed_map_is_drawn_on_a_diverging_colormap(given_name: str, drawn: str) -> None:
    assert signed_colormap(given_name) == drawn


def test_bytes_are_shown_as_they_are_in_either_layout() -> None:
    batch = PHOTO[None]
    np.testing.assert_array_equal(to_rgb(batch, channels_first=False), batch)
    np.testing.assert_array_equal(to_rgb(batch.transpose(0, 3, 1, 2), channels_first=True), batch)
    grey = to_rgb(batch[..., 0], channels_first=True)
    np.testing.assert_array_equal(grey, np.repeat(batch[..., :1], 3, axis=3))


@pytest.mark.parametrize("divisor", [1.0, 255.0])
def test_floats_of_a_picture_give_the_picture_of_its_bytes(divisor: float) -> None:
    floats = (PHOTO[None] / divisor).astype(np.float32)
    np.testing.assert_array_equal(to_rgb(floats, channels_first=False), PHOTO[None])


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_mean_and_std_undo_the_normalisation(scale: float) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]) * scale, np.array([0.229, 0.224, 0.225]) * scale
    dark = (PHOTO // 4)[None]  # by its own range it would be stretched
    normalised = ((dark / 255 * scale - mean) / std).astype(np.float32)
    np.testing.assert_array_equal(to_rgb(normalised, channels_first=False, mean=mean, std=std), dark)
    first = normalised.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(to_rgb(first, channels_first=True, mean=mean, std=std), dark)


def test_a_normalised_image_is_stretched_over_the_whole_range() -> None:
    shown = to_rgb(np.linspace(-2.1, 2.6, 12).reshape(1, 3, 4), channels_first=True)
    assert shown.min() == 0 and shown.max() == 255
    assert (np.diff(shown[..., 0].ravel().astype(int)) > 0).all()


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [([0.50, 0.52, 0.54], [0, 128, 255]), ([np.nan, -3.0, np.inf, 1.0, -np.inf], [0, 0, 0, 255, 0])],
)
def test_a_faint_image_is_stretched_and_what_is_not_finite_is_its_minimum(pixels: list, expected: list) -> None:
    assert to_rgb(np.array([[pixels]]), channels_first=True)[0, 0, :, 0].tolist() == expected


@given(
    images=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.int64, np.uint8, np.uint64, np.bool_]),
        st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3])),
    ),
    denormalise=st.booleans(),
)
def test_any_images_give_pictures_each_on_its_own(images: np.ndarray, denormalise: bool) -> None:
    kwargs: dict[str, Any] = {"mean": 0.5, "std": 2.0} if denormalise else {}
    before = images.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        shown = to_rgb(images, channels_first=False, **kwargs)
        alone = [to_rgb(image[None], channels_first=False, **kwargs)[0] for image in images]
    assert shown.shape == (*images.shape[:3], 3) and shown.dtype == np.uint8
    for one, picture in zip(alone, shown, strict=True):
        np.testing.assert_array_equal(one, picture)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("images", "kwargs", "message"),
    [
        (np.zeros((2, 4, 5, 5)), {}, r"4 channels .*display="),
        (np.zeros((2, 5, 5, 3)), {}, r"5 channels .*channels_first=True"),
        (np.zeros((5, 5)), {}, r"shape \(5, 5\).*images\[None\]"),
        (np.zeros((1, 3, 5, 5), complex), {}, "dtype complex128"),
        (np.zeros((1, 3, 5, 5)), {"mean": [1, 2]}, r"mean=\[1, 2\].*3 channels"),
        (np.zeros((1, 3, 5, 5)), {"std": "x"}, "std='x' is not accepted. Accepted: a number above 0"),
        (np.zeros((1, 3, 5, 5)), {"std": np.nan}, "std=nan"),
    ],
)
def test_images_that_cannot_be_shown_say_what_to_do(images: np.ndarray, kwargs: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        to_rgb(images, channels_first=True, **kwargs)


@pytest.mark.parametrize("colormap", ["turbo", "jet", "viridis", "inferno", "gray"])
def test_the_hottest_place_is_nearest_to_the_last_colour(colormap: str) -> None:
    heat = np.linspace(0, 1, 24 * 32).reshape(24, 32)
    grey = np.full((24, 32, 3), 128, np.uint8)
    shown = overlay(grey, heat, colormap=colormap).astype(float)
    last = colormap_lut(colormap)[-1].astype(float)
    away = np.abs(shown - last).sum(axis=-1)
    assert away[23, 31] == away.min()
    np.testing.assert_allclose(shown[23, 31], 0.25 * 128 + 0.75 * last, atol=1)  # rounding


def test_on_a_rising_colormap_hotter_is_brighter() -> None:
    heat = np.linspace(0, 1, 24 * 32).reshape(24, 32)
    shown = brightness(overlay(np.zeros((24, 32, 3), np.uint8), heat, colormap="gray"))
    assert (np.diff(shown.ravel()) >= 0).all() and shown[-1, -1] > shown[0, 0]


def test_a_place_without_evidence_shows_the_picture() -> None:
    np.testing.assert_array_equal(overlay(PHOTO, np.zeros((24, 32))), PHOTO)
    np.testing.assert_array_equal(overlay(PHOTO, np.zeros((24, 32)), signed=True), PHOTO)


@given(
    heat=hnp.arrays(st.sampled_from([np.float32, np.float64]), (24, 32)),
    alpha=st.floats(0, 1),
    signed=st.booleans(),
)
def test_any_heat_gives_a_picture(heat: np.ndarray, alpha: float, signed: bool) -> None:
    shown = overlay(PHOTO, heat, alpha=alpha, signed=signed)
    assert shown.shape == PHOTO.shape and shown.dtype == np.uint8
    np.testing.assert_array_equal(overlay(PHOTO, heat, alpha=0, signed=signed), PHOTO)
    only = overlay(PHOTO, heat, alpha=1, signed=signed)
    np.testing.assert_array_equal(only, overlay(255 - PHOTO, heat, alpha=1, signed=signed))


def test_heat_beyond_its_range_is_clipped_and_nan_is_cold() -> None:
    heat = np.array([[-5.0, np.nan, 7.0, np.inf]])
    picture = PHOTO[:1, :4]
    np.testing.assert_array_equal(overlay(picture, heat), overlay(picture, np.array([[0.0, 0.0, 1.0, 1.0]])))


def test_signed_evidence_is_symmetric_about_zero() -> None:
    grey = np.full((1, 2, 3), 128, np.uint8)
    shown = overlay(grey, np.array([[-2.0, 2.0]]), signed=True, alpha=1.0)
    np.testing.assert_array_equal(shown[0], colormap_lut("RdBu_r")[[0, 255]])
    weak = overlay(grey, np.array([[-0.5, 2.0]]), signed=True, alpha=1.0)
    assert brightness(weak)[0, 0] > brightness(shown)[0, 0]  # nearer to the white middle


def test_a_limit_shared_by_several_maps_keeps_a_weak_one_weak() -> None:
    grey, heat = np.full((1, 2, 3), 128, np.uint8), np.array([[-0.5, 1.0]])
    own = overlay(grey, heat, signed=True, alpha=1.0)
    shared = overlay(grey, heat, signed=True, alpha=1.0, limit=10.0)
    np.testing.assert_array_equal(own, overlay(grey, heat, signed=True, alpha=1.0, limit=1.0))
    assert (brightness(shared) > brightness(own)).all()


@pytest.mark.parametrize(
    ("heat", "kwargs", "message"),
    [
        (np.zeros((7, 7)), {}, r"heat has shape \(7, 7\).*\(24, 32\).*upsample"),
        (np.zeros((24, 32), object), {}, "dtype object"),
        (np.zeros((24, 32)), {"alpha": 1.5}, "alpha=1.5 is not accepted"),
        (np.zeros((24, 32)), {"alpha": np.nan}, "alpha=nan"),
        (np.zeros((24, 32)), {"alpha": "x"}, "alpha='x' is not accepted"),
    ],
)
def test_an_overlay_that_cannot_be_drawn_says_what_to_do(heat: np.ndarray, kwargs: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        overlay(PHOTO, heat, **kwargs)


@pytest.mark.parametrize("picture", [None, PHOTO[..., 0], PHOTO.astype(float), PHOTO[:0]])
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^image .*\(H, W, 3\)"):
        require_rgb("image", picture)


# --- heat drawn smoothly -----------------------------------------------------------------------------------

MAPS = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-8, 8, width=32))


def pchip(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By SciPy, of a map whose borders are repeated."""

    def along(values: np.ndarray, length: int, axis: int) -> np.ndarray:
        count = values.shape[axis]
        padded = np.take(values, np.clip(np.arange(-2, count + 2), 0, count - 1), axis)
        at = (np.arange(length) + 0.5) * count / length - 0.5
        return PchipInterpolator(np.arange(-2, count + 2), padded, axis)(at)

    given = maps.astype(np.float64)
    rows_first = along(along(given, size[1], 1), size[0], 0)
    return (rows_first + along(along(given, size[0], 0), size[1], 1)) / 2


@given(maps=MAPS)
def test_smooth_heat_is_the_monotone_cubic_of_both_orders(maps: np.ndarray) -> None:
    np.testing.assert_allclose(smooth_heat(maps, (23, 40)), pchip(maps, (23, 40)), atol=2e-5)  # float32 of 8


@given(maps=MAPS, factor=st.sampled_from([1, 3, 5, 9]))
def test_smooth_heat_keeps_what_was_measured_and_exceeds_it_nowhere(maps: np.ndarray, factor: int) -> None:
    """At an odd multiple of the size the middle of a place is a pixel."""
    heat = smooth_heat(maps, (maps.shape[0] * factor, maps.shape[1] * factor))
    np.testing.assert_allclose(heat[factor // 2 :: factor, factor // 2 :: factor], maps, atol=1e-5)
    assert heat.min() >= maps.min() and heat.max() <= maps.max()


@given(maps=MAPS)
def test_smooth_heat_turns_with_the_map(maps: np.ndarray) -> None:
    heat = smooth_heat(maps, (30, 36))
    np.testing.assert_allclose(smooth_heat(maps.T, (36, 30)), heat.T, atol=1e-5)
    np.testing.assert_allclose(smooth_heat(maps[::-1], (30, 36)), heat[::-1], atol=1e-5)
    np.testing.assert_allclose(smooth_heat(np.stack([maps, -maps]), (30, 36)), np.stack([heat, -heat]), atol=1e-5)


def test_smooth_heat_has_no_edge_at_the_places_of_the_map() -> None:
    """The slope changes there by what it changes between any two pixels; the bilinear one makes a step."""
    maps = np.random.default_rng(3).random((7, 7)).astype(np.float32)
    fine = 7 * 201
    bends = np.abs(np.diff(smooth_heat(maps, (7, fine)).astype(np.float64), 2)) * 201  # changes of slope, by place
    at = 201 * np.arange(7) + 99  # of the second differences, those whose middle is the middle of a place
    bilinear = cv2.resize(maps, (fine, 7), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    edges = np.abs(np.diff(bilinear, 2)) * 201
    assert edges[:, at].max() > 0.5
    assert bends[:, at].max() < 0.06


def test_smooth_heat_of_equal_places_is_level_and_a_step_stays_between_its_places() -> None:
    assert (smooth_heat(np.full((3, 4), 0.25), (30, 40)) == 0.25).all()
    step = smooth_heat(np.array([[0, 0, 1, 1]], np.float32), (1, 40))[0]
    assert (step[:15] == 0).all() and (step[25:] == 1).all()
    assert (np.diff(step[14:26]) > 0).all()


def test_smooth_heat_of_large_numbers_is_that_of_small_ones_on_another_scale() -> None:
    small = np.array([[0, 1, 0, 0.5]], np.float32)
    assert np.isfinite(smooth_heat(small * np.float32(1e30), (4, 16))).all()
    np.testing.assert_allclose(
        smooth_heat(small * np.float32(1e30), (4, 16)) / 1e30, smooth_heat(small, (4, 16)), rtol=1e-5
    )
