"""Heat and pictures as text inside a page: heat as bytes at the size of the layer, each picture once.

A page holds heat at the layer's size, and its script resizes and colours what is looked at, within one level of 255 of
`Heatmap.values`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.drawing.pixels import Rgb, colormap_lut, shrunk
from fe_gradcam.scaling import upsample
from fe_gradcam.types import Heatmap, Scaling

HEAT_LEVELS = 255
"""A byte of heat says how many of so many parts of the largest value a value has."""

MOST_ABOVE = 1.9
"""A map's largest value may be so many times that of the heatmap; beyond, half a level of the map is a whole one of the
heatmap, as in images that are hardly larger than the map. Then the map is stored at the size of the image."""

OFF_BY = 1e-3
"""Heat that is further off the heat made from its map, relative to the largest, was changed by somebody: it is stored
as it is. Devices round differently."""

LOSSLESS_SIDE = 64
"""Pictures up to this side are stored without loss: there, that is smaller."""

JPEG_QUALITY = 80
"""Of larger pictures: 10 to 13 kB at 224 pixels."""


@dataclass(frozen=True, eq=False)
class PackedHeat:
    """Signed maps of n images as bytes: for each place a magnitude, then the signs, a bit for each place.

    Attributes:
        magnitudes: (n, h, w) uint8; 255 means `up`, or `down` if the sign is negative.
        negative: (n, h, w) bool.
        up: (n,) the largest value of each map, or 0.
        down: (n,) the largest magnitude of its negative values, or 0.
        unit: (n,) the value that is drawn as 1.
        size: (H, W) of the heatmaps.
    """

    magnitudes: NDArray[np.uint8]
    negative: NDArray[np.bool_]
    up: NDArray[np.float64]
    down: NDArray[np.float64]
    unit: NDArray[np.float64]
    scaling: Scaling
    size: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """The heat as the page has it; each row of `data` has `stride` characters, and can be decoded by itself."""
        count, height, width = self.magnitudes.shape
        signs = np.packbits(self.negative.reshape(count, height * width), axis=1)
        rows = np.concatenate([self.magnitudes.reshape(count, height * width), signs], axis=1)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 3)))
        said: dict[str, Any] = {"h": height, "w": width, "scaling": self.scaling, "size": list(self.size)}
        said |= {"stride": rows.shape[1] // 3 * 4, "data": b64encode(rows.tobytes()).decode("ascii")}
        return said | {name: numbers(getattr(self, name)) for name in ("up", "down", "unit")}


def packed(heatmap: Heatmap, unit: float | None = None, most: int | None = None) -> PackedHeat:
    """Heatmaps as bytes.

    Args:
        heatmap: Of pictures, not of volumes.
        unit: The value that is drawn as 1 if several heatmaps share one scale; None: each by itself.
        most: The longest side of maps that are kept as they are; larger ones are shrunk. None: any.
    """
    raw, scaling, blank = heatmap.raw, heatmap.scaling, heatmap.blank[:, None, None]
    size, signed = (int(heatmap.values.shape[1]), int(heatmap.values.shape[2])), heatmap.scaling == "none"
    if raw.ndim == 3 and len(raw) == len(heatmap.values) and bool(np.isfinite(raw).all()):
        if not signed:
            raw = np.where(blank, np.minimum(raw, 0), raw)  # what is positive there is rounding
        resized, units = _resized(raw, scaling, size, unit)
        again = resized if signed else resized / units[:, None, None].astype(np.float32)
        off, largest = np.abs(again - heatmap.values).max(initial=0), np.abs(heatmap.values).max(initial=0)
        if off <= OFF_BY * largest:
            if most is not None and max(raw.shape[1:]) > most and len(raw):
                raw = np.stack([shrunk(one, most) for one in raw])
                return _bytes_of(raw, _resized(raw, scaling, size, unit)[1], scaling, size)
            return _fitting(raw, resized, units, scaling, size)
    values = np.nan_to_num(heatmap.values if signed else np.where(blank, 0, heatmap.values), posinf=0, neginf=0)
    raw = values if signed or unit is None else values * np.float32(unit)
    units = _resized(raw, scaling, size, unit if signed or unit is not None else 1.0)[1]
    return _bytes_of(raw, units, scaling, size)


def of_maps(raw: NDArray[np.float32], scaling: Scaling, size: tuple[int, int]) -> PackedHeat:
    """Signed maps (n, h, w) as bytes, each scaled by itself; see `packed`."""
    return _fitting(raw, *_resized(raw, scaling, size, None), scaling, size)


def _resized(
    raw: NDArray[np.float32], scaling: Scaling, size: Sequence[int], unit: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The maps at the size of the images, (n, H, W), without negative values unless they are signed, and the units."""
    if not len(raw):
        return np.zeros((0, *size), np.float32), np.zeros(0)
    signed = scaling == "none"
    maps = torch.from_numpy(np.ascontiguousarray(raw))
    resized: NDArray[np.float32] = upsample(maps if signed else maps.clamp(min=0), size).numpy()
    if unit is not None:
        return resized, np.full(len(raw), unit, np.float64)
    tops = np.abs(raw).max((1, 2)) if scaling == "scale_before_relu" else np.abs(resized).max((1, 2))
    return resized, np.where(tops > 0, tops, 1).astype(np.float64)


def _fitting(
    raw: NDArray[np.float32],
    resized: NDArray[np.float32],
    units: NDArray[np.float64],
    scaling: Scaling,
    size: tuple[int, int],
) -> PackedHeat:
    """The maps as bytes, at the size of the images if bytes would be too coarse at that of the layer."""
    too_coarse = scaling != "none" and len(raw) > 0 and (raw.max((1, 2)) > MOST_ABOVE * units).any()
    return _bytes_of(resized if too_coarse else raw, units, scaling, size)


def _bytes_of(raw: NDArray[np.float32], unit: NDArray[Any], scaling: Scaling, size: tuple[int, int]) -> PackedHeat:
    exact = raw.astype(np.float64)
    up, down = exact.max((1, 2), initial=0), np.abs(exact.min((1, 2), initial=0))
    largest = np.where(exact < 0, down[:, None, None], up[:, None, None])
    magnitudes = np.rint(HEAT_LEVELS * np.abs(exact) / np.where(largest > 0, largest, 1)).astype(np.uint8)
    return PackedHeat(magnitudes, exact < 0, up, down, np.asarray(unit, np.float64), scaling, size)


def picture_url(picture: Rgb, side: int) -> str:
    """A picture (H, W, 3) as a data URL, shrunk so that its longer side is at most `side`.

    Example:
        >>> picture_url(np.zeros((8, 8, 3), np.uint8), 64)[:23]
        'data:image/webp;base64,'
    """
    bgr = cv2.cvtColor(shrunk(picture, side), cv2.COLOR_RGB2BGR)
    if max(bgr.shape[:2]) <= LOSSLESS_SIDE:
        kind, ending, options = "webp", ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100: without loss
    else:
        kind, ending, options = "jpeg", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(ending, bgr, options)
    return f"data:image/{kind};base64,{b64encode(encoded.tobytes()).decode('ascii')}"


def colours(colormap: str) -> str:
    """The 256 colours of a colormap of matplotlib, three bytes each, as base64."""
    return b64encode(colormap_lut(colormap).tobytes()).decode("ascii")


def number(value: float) -> float | None:
    """A number with five digits; None for NaN and infinity, which JSON does not know."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def numbers(values: NDArray[Any]) -> list[float | None]:
    """Numbers (N,) with five digits each."""
    return [number(one) for one in values.tolist()]
