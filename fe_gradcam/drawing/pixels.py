"""Pictures as plain arrays: colormaps, from a network's images to pictures, heat laid over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, in_short, nearest
from fe_gradcam.parameters import fraction
from fe_gradcam.spec.arrays import array_of

Rgb: TypeAlias = NDArray[np.uint8]
"""A picture, (H, W, 3), red first, 0 to 255."""

DIVERGING = "PiYG PRGn BrBG PuOr RdGy RdBu RdYlBu RdYlGn Spectral coolwarm bwr seismic berlin managua vanimo"
"""Colormaps of matplotlib whose middle is pale and stands for 0."""


def require_rgb(name: str, picture: Any) -> Rgb:
    """The picture as it is; raises ArgumentError unless it is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(picture, np.ndarray):
        raise ArgumentError(f"{name} is a {type(picture).__name__}; pass a NumPy array (H, W, 3) of uint8")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ArgumentError(
            f"{name} has shape {picture.shape} and dtype {picture.dtype}; (H, W, 3) uint8 with at least one pixel "
            "is needed: convert it with to_rgb() first"
        )
    return picture


def colormap_lut(name: str) -> Rgb:
    """The colours of a matplotlib colormap from its low end to its high end, (256, 3), read-only.

    Raises:
        ArgumentError: `name` is no string.
        UnknownNameError: There is no such colormap; the message lists the nearest.

    Examples:
        >>> colormap_lut("gray")[[0, 255]].tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    if not isinstance(name, str):
        such = "pass the name of a matplotlib colormap, such as 'turbo'"
        raise ArgumentError(f"colormap is a {type(name).__name__}; {such}")
    return _lut_of("".join(name))


@lru_cache(maxsize=64)
def _lut_of(name: str) -> Rgb:
    from matplotlib import colormaps

    if name not in colormaps:
        raise UnknownNameError(
            Argument("colormap", in_short(name)),
            f" is no colormap of matplotlib{nearest(name, colormaps, 4)} Accepted: any of list(matplotlib.colormaps).",
        )
    lut: Rgb = np.array(colormaps[name](np.linspace(0.0, 1.0, 256), bytes=True)[:, :3], dtype=np.uint8)
    lut.setflags(write=False)
    return lut


def signed_colormap(colormap: str) -> str:
    """The colormap for a signed map: the given one if it is diverging, else ``"RdBu_r"``."""
    return colormap if colormap.removesuffix("_r") in DIVERGING.split() else "RdBu_r"


def to_rgb(
    images: NDArray[Any],
    *,
    channels_first: bool,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Turns images, as a network takes them, into pictures. Each image is treated on its own.

    - uint8 is shown as it is; so are other integers within 0..255; bool is shown as black and white.
    - Floats without `mean` and `std`: an image within [0, 1] or within [0, 255] that spans at least half of that
      range is a picture already, and is shown without stretching. Any other is stretched from its minimum (black)
      to its maximum (white), as are integers beyond 0..255.
    - Floats with `mean` or `std`: ``x * std + mean``, shown without stretching if that lies within [0, 1], or
      within [0, 255] and exceeds 2 somewhere; up to 5 % beyond an end is clipped. Any other image is stretched.
    - A NaN or infinite pixel is shown as the image's minimum; a constant image that would be stretched is black.

    Args:
        images: (N, C, H, W), (N, H, W, C) or (N, H, W), with C of 1 or 3; bool, integer or float.
        channels_first: Whether the channels are axis 1; else they are the last axis. Not used for (N, H, W).
        mean: One number, or one per channel, that the normalisation subtracted; 0 if only `std` is given.
        std: One number, or one per channel, that the normalisation divided by; 1 if only `mean` is given.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        ArgumentError: The shape, the number of channels or the dtype is another.

    Examples:
        >>> to_rgb(np.array([[[-1.0, 0.0, 3.0]]]), channels_first=True)[0, 0, :, 0].tolist()
        [0, 64, 255]
    """
    array = np.asarray(images)
    if array.dtype.kind not in "buif":
        raise ArgumentError(f"images have dtype {array.dtype}; accepted are bool, integer and float arrays")
    if array.ndim not in (3, 4):
        raise ArgumentError(
            f"images have shape {array.shape}; accepted are (N, C, H, W), (N, H, W, C) and (N, H, W): "
            "a single image needs the batch axis, images[None]"
        )
    if array.ndim == 3:
        array = array[..., None]
    elif channels_first:
        array = array.transpose(0, 2, 3, 1)
    channels = array.shape[3]
    if channels not in (1, 3):
        raise ArgumentError(
            f"images have {channels} channels (shape {np.shape(images)}, channels_first={channels_first}); only 1 or "
            "3 can be shown: pass display= with the key of a picture, choose channels, or correct channels_first"
        )
    shift = _per_channel("mean", mean, channels, 0.0)
    factor = _per_channel("std", std, channels, 1.0)
    denormalise = array.dtype.kind == "f" and (mean is not None or std is not None)
    result = np.empty((*array.shape[:3], 3), np.uint8)
    for picture, image in zip(result, array, strict=True):
        if image.size:
            values = image.astype(np.float64) * factor + shift if denormalise else image
            picture[...] = _to_bytes(values, denormalised=denormalise)
    return result


def check_per_channel(name: str, value: Any) -> None:
    """Raises ArgumentError unless the value is a number, or one per channel, or None; above 0 for "std"."""
    above = " above 0" if name == "std" else ""
    accepted = f"a number{above}, or one per channel."
    numbers = array_of(name, 0 if value is None else value, accepted).astype(np.float64)
    if numbers.ndim > 1 or not np.isfinite(numbers).all() or (above and value is not None and not (numbers > 0).all()):
        raise ArgumentError(f"{name}={in_short(value)} is not accepted. Accepted: {accepted}")


def _per_channel(name: str, value: ArrayLike | None, channels: int, default: float) -> NDArray[np.float64]:
    check_per_channel(name, value)
    numbers = array_of(name, default if value is None else value, "").astype(np.float64).reshape(-1)
    if numbers.size not in (1, channels):
        fitting = f"images of {channels} channel{'s' * (channels > 1)}; pass one number, or one for each channel"
        raise ArgumentError(f"{name}={in_short(value)} does not fit {fitting}")
    return numbers


def _to_bytes(image: NDArray[Any], *, denormalised: bool) -> Rgb:
    """One image (H, W, C) of any real dtype, by the rules of `to_rgb`."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "b":
        return np.asarray(np.where(image, 255, 0), np.uint8)
    values = image.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, values[finite].min() if finite.any() else 0.0)
    low, high = float(values.min()), float(values.max())
    if denormalised:
        unit = low >= -0.05 and high <= 1.05
        byte = low >= -12.75 and 2 < high <= 267.75
    elif image.dtype.kind == "f":
        unit = low >= 0 and high <= 1 and high - low >= 0.5
        byte = low >= 0 and high <= 255 and high - low >= 127.5
    else:
        unit, byte = False, low >= 0 and high <= 255
    if unit:
        values *= 255.0
    elif not byte:
        # Halves, so that the span of the largest floats does not overflow.
        span = high / 2 - low / 2
        values = (values / 2 - low / 2) / span * 255.0 if span > 0 else np.zeros_like(values)
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def shrunk(picture: NDArray[Any], side: int) -> NDArray[Any]:
    """A picture or map, shrunk so that its longer side is at most `side`."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return np.array(picture)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def smooth_heat(maps: NDArray[Any], size: Sequence[int]) -> NDArray[np.float32]:
    """Maps (..., h, w) drawn smoothly at a size (H, W): bilinear maps show an edge at each row and column.

    The result is the mean of two interpolations with monotone cubics (PCHIP): along the rows and then the columns, and
    the other way round; half-pixel centres and repeated borders, as in `fe_gradcam.scaling.upsample`. At the middle of
    a place the value is that of the map, and between places it lies between their values, so nothing exceeds the map;
    at the rows and columns of the map the slope makes no step.

    Source: Fritsch and Butland 1984, doi:10.1137/0905021.

    Args:
        maps: Finite numbers.
        size: At least the size of the maps; a smaller size leaves out places.

    Examples:
        >>> smooth_heat(np.array([[0, 32]]), (1, 4)).tolist()
        [[0.0, 5.0, 27.0, 32.0]]
    """
    given, (height, width) = np.asarray(maps, np.float32), size
    unit = np.abs(given).max(initial=0) or np.float32(1)  # products of steps must not overflow
    given = given / unit
    one = _across(_across(given, width).swapaxes(-1, -2), height).swapaxes(-1, -2)
    other = _across(_across(given.swapaxes(-1, -2), height).swapaxes(-1, -2), width)
    low, high = given.min((-1, -2), keepdims=True), given.max((-1, -2), keepdims=True)
    heat: NDArray[np.float32] = np.clip((one + other) / 2, low, high) * unit
    return heat


def _across(maps: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """The maps with their last axis interpolated to another length."""
    steps = np.diff(maps, axis=-1, prepend=maps[..., :1], append=maps[..., -1:])
    before, behind = steps[..., :-1], steps[..., 1:]
    # The harmonic mean of the steps at both sides, 0 at a peak or the border.
    rises = np.sign(before) * np.sign(behind) > 0
    slopes = 2 * before * (behind / np.where(rises, before + behind, 1)) * rises
    of_values, of_slopes = _hermite(maps.shape[-1], length)
    return np.asarray(maps @ of_values + slopes @ of_slopes, np.float32)


@lru_cache(maxsize=64)
def _hermite(places: int, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weights of the values and of the slopes at the places in each of `length` values, (places, length)."""
    at = np.clip((np.arange(length) + 0.5) * places / length - 0.5, 0, places - 1)
    first = np.minimum(at.astype(int), max(places - 2, 0))
    second, t, column = np.minimum(first + 1, places - 1), at - first, np.arange(length)
    of_values, of_slopes = np.zeros((2, places, length), np.float32)
    np.add.at(of_values, (first, column), (1 + 2 * t) * (1 - t) ** 2)
    np.add.at(of_values, (second, column), t * t * (3 - 2 * t))
    np.add.at(of_slopes, (first, column), t * (1 - t) ** 2)
    np.add.at(of_slopes, (second, column), t * t * (t - 1))
    return of_values, of_slopes


def overlay(
    image: NDArray[Any],
    heat: NDArray[Any],
    *,
    colormap: str = "turbo",
    alpha: float = 0.5,
    signed: bool = False,
    limit: float | None = None,
) -> Rgb:
    """Lays a heatmap over the picture that it explains.

    With the strength v of a pixel, in [0, 1], its colour c from the colormap, and the picture p::

        weight = 1 - (1 - alpha) ** (2 v)        ->  (1 - weight) * p + weight * c

    A hotter place is more opaque: at alpha 0.5 a cold place shows the picture as it is, a place of strength 0.5
    shows half of each, and the hottest place is three quarters the last colour of the colormap.
    ``alpha=0`` leaves the picture unchanged; ``alpha=1`` shows only the colours, except where v is 0.

    Args:
        image: (H, W, 3) uint8.
        heat: (H, W), clipped to [0, 1]; with `signed` in any range. NaN counts as 0.
        colormap: Any colormap of matplotlib.
        alpha: How strongly the heatmap is shown, 0 to 1.
        signed: Draw positive and negative evidence: the map is divided by its largest magnitude and drawn
            symmetrically about 0 on a diverging colormap (see `signed_colormap`), with v the magnitude.
        limit: With `signed`, the magnitude at the ends of the colormap; by default the largest magnitude of
            the map.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ArgumentError: The shapes do not fit, or alpha is outside 0 to 1.
        UnknownNameError: There is no such colormap.
    """
    picture = require_rgb("image", image)
    heat = np.asarray(heat)
    if heat.dtype.kind not in "buif" or heat.shape != picture.shape[:2]:
        raise ArgumentError(
            f"heat has shape {heat.shape} and dtype {heat.dtype}; real numbers of shape {picture.shape[:2]}, the size "
            "of the image, are needed: upsample the map first"
        )
    alpha = fraction("alpha", alpha)
    values = np.nan_to_num(heat.astype(np.float64), nan=0.0)
    colours, strength = colormap_lut(colormap), np.linspace(0.0, 1.0, 256)
    if signed:
        largest = float(np.abs(values).max()) if limit is None else limit
        values = 0.5 + 0.5 * (values / largest) if largest > 0 else np.full_like(values, 0.5)
        colours = colormap_lut(signed_colormap(colormap))
        # 0 lies between the two middle levels; both are cold.
        strength = (np.abs(np.arange(256) * 2.0 - 255.0) - 1.0) / 254.0
    level = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    weight = np.ones(256) if alpha == 1.0 else 1.0 - (1.0 - alpha) ** (2.0 * strength)
    kept = np.repeat((1.0 - weight).astype(np.float32), 3).reshape(1, 256, 3)
    added = (weight[:, None] * colours + 0.5).astype(np.float32)[None]
    levels = cv2.merge([level] * 3)
    blended = np.asarray(cv2.LUT(levels, kept), np.float32)  # tables that are looked up take half of NumPy's time
    blended *= picture
    blended += cv2.LUT(levels, added)
    return blended.astype(np.uint8)
