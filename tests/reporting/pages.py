"""Reading a page as its script does, and what a page is made of."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.reporting.pack import HEAT_LEVELS, PackedHeat
from fe_gradcam.scaling import upsample
from fe_gradcam.verdicts.verdict import Evidence, Trial, Verdict
from tests.heat import heatmap_of


def page_in(path: Path) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="page">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert found
    page: dict[str, Any] = json.loads(found[1])
    return page


def heat_in(said: dict[str, Any]) -> PackedHeat:
    """Heat as it is written down, row by row: the bytes of magnitudes, then a bit for each sign."""
    height, width, stride = said["h"], said["w"], said["stride"]
    rows = [said["data"][at : at + stride] for at in range(0, len(said["data"]), stride)]
    table = np.array([np.frombuffer(b64decode(row), np.uint8) for row in rows]).reshape(len(rows), -1)
    magnitudes = table[:, : height * width].reshape(-1, height, width)
    signs = np.unpackbits(table[:, height * width :], axis=1)[:, : height * width].reshape(-1, height, width)
    up, down, unit = (np.array(said[name], np.float64) for name in ("up", "down", "unit"))
    return PackedHeat(magnitudes, signs.astype(bool), up, down, unit, said["scaling"], tuple(said["size"]))


def maps_of(heat: PackedHeat) -> NDArray[np.float32]:
    """(n, h, w), the signed maps as the page reads them."""
    largest = np.where(heat.negative, -heat.down[:, None, None], heat.up[:, None, None])
    return np.asarray(largest * heat.magnitudes / HEAT_LEVELS, np.float32)


def level_of(heat: PackedHeat, row: int) -> NDArray[np.uint8]:
    """(H, W), the levels of a colour map in which the page draws an image's heat.

    With the map v resized, bilinear and with half-pixel centres: round(255 max(v, 0) / unit) at most 255, the maximum
    taken before resizing; for signed heat round(127.5 + 127.5 v / unit), where 128 is 0.
    """
    signed, values = heat.scaling == "none", torch.from_numpy(maps_of(heat)[row : row + 1])
    resized = upsample(values if signed else values.clamp(min=0), heat.size)[0].numpy().astype(np.float64)
    shares = resized / heat.unit[row]
    levels = HEAT_LEVELS / 2 * (1 + shares) if signed else HEAT_LEVELS * shares
    return np.asarray(np.rint(np.clip(levels, 0, HEAT_LEVELS)), np.uint8)


def levels_in(said: dict[str, Any]) -> NDArray[np.uint8]:
    """(n, H, W)."""
    heat = heat_in(said)
    return np.array([level_of(heat, row) for row in range(len(heat.up))])


def picture_in(url: str) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    encoded = np.frombuffer(b64decode(url.partition(",")[2]), np.uint8)
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


def part(count: int = 3, seed: int = 0, ids: bool = True) -> Explained:
    """Pictures of one grey each, the first of which is told wrongly: a 2 taken for a 1."""
    generator = np.random.default_rng(seed)
    pictures = np.full((count, 8, 8, 3), 0, np.uint8) + np.arange(10, 10 + count, dtype=np.uint8)[:, None, None, None]
    probabilities = np.tile(np.array([[0.1, 0.7, 0.2]], np.float32), (count, 1))
    labels = np.array([2, 1, -1, 1, 1][:count])
    heat = generator.random((count, 4, 4)).astype(np.float32)
    inferred = heatmap_of(heat, 1, scaling="none", confidence=0.7)
    of_label = heatmap_of(heat, np.where(labels >= 0, labels, -1), scaling="none", confidence=float("nan"))
    columns = [
        Column("grad_cam", "pred", inferred),
        Column("grad_cam", "label", of_label, shown=np.array([True, False, False, False, False][:count])),
    ]
    return Explained(pictures, columns, probabilities, labels, [f"p{at}" for at in range(count)] if ids else None)


def trial(row: int, grey: float) -> Trial:
    outline = np.zeros((8, 8), bool)
    outline[2:4, 1:6] = True
    given = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    return Trial(row, given, np.full((1, 8, 8), grey, np.float32), 0.9, 0.2, "corner covered", outline)


def verdict(class_id: int = 1, epoch: int | None = 1) -> Verdict:
    place = Evidence("place", "tested", "place", "The heat stays.", {"plain": 0.9, "gap": float("nan")}, 9)
    place = Evidence(*[getattr(place, name) for name in ("test", "level", "code", "said", "figures", "images")],
                     trials=[trial(0, 0.1), trial(3, 0.2), trial(4, 0.3)])  # fmt: skip
    sign = Evidence("sign", "suspected", "sign", "Alike.", trials=[trial(0, 0.4), trial(1, 0.5), trial(2, 0.6)])
    return Verdict.of(class_id, "dog", [sign, place], 9, epoch)
