"""The same images over the epochs: a filmstrip, and how far the heat has moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Row
from fe_gradcam.errors import ArgumentError
from fe_gradcam.metrics.measure import overlap_of_hottest, rank_correlation
from fe_gradcam.training.rows import Rows
from fe_gradcam.types import Heatmap

Place = tuple[str, str]
"""A mode and a dataset."""

MOST_EPOCHS = 24
"""Columns of a filmstrip; beyond that every second epoch is left out, and the last is always there."""

MOST_IMAGES = 24
"""Rows of a filmstrip."""

FRAME_SIDE = 128
"""The longer side of a kept picture in pixels, at the most."""

CELL = 112
"""The longer side of a picture in a filmstrip, in pixels."""


@dataclass(eq=False)
class Frame:
    """What a filmstrip keeps of an epoch.

    Attributes:
        epoch: Its number.
        pictures: For each image (h, w, 3) uint8, the heat laid over it.
        notes: What stands on each, such as "no evidence".
        wrong: Whether the prediction was.
        captions: The predictions.
        method: Whose heat it is.
    """

    epoch: int
    pictures: list[NDArray[np.uint8]]
    notes: list[str]
    wrong: list[bool]
    captions: list[str]
    method: str


@dataclass(eq=False)
class Follower:
    """What is kept from epoch to epoch.

    Attributes:
        rows: The images that are followed.
        frames: Those of the filmstrips, the oldest first.
        heat: The last heat (N, H, W) of each method.
    """

    rows: dict[Place, Rows] = field(default_factory=dict)
    frames: dict[Place, list[Frame]] = field(default_factory=dict)
    heat: dict[tuple[str, str, str], NDArray[np.float32]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forgets all, for a training that starts."""
        self.rows, self.frames, self.heat = {}, {}, {}

    def state(self) -> dict[str, Any]:
        """All of it in plain containers, for a training that is resumed."""
        return {
            "rows": {
                place: (dict(rows.values), rows.positions, rows.largest_batch) for place, rows in self.rows.items()
            },
            "frames": {
                place: [
                    (frame.epoch, frame.pictures, frame.notes, frame.wrong, frame.captions, frame.method)
                    for frame in frames
                ]
                for place, frames in self.frames.items()
            },
            "heat": dict(self.heat),
        }

    def restore(self, state: Mapping[str, Any], keys: Collection[str] = ()) -> None:
        """Takes up what `state` gave, all of it or, where something raises, nothing.

        Args:
            state: What was saved.
            keys: What is needed of each image now.

        Raises:
            ArgumentError: The images that were saved lack one of the keys.
        """
        rows = {place: Rows(*parts) for place, parts in state["rows"].items()}
        frames = {place: [Frame(*parts) for parts in every] for place, every in state["frames"].items()}
        heat = dict(state["heat"])
        missing = sorted({key for one in rows.values() for key in keys if key not in one.values})
        if missing:
            raise ArgumentError(f"The images that were followed were saved without {', '.join(map(repr, missing))}.")
        self.rows, self.frames, self.heat = rows, frames, heat

    def compared(self, place: Place, heatmaps: Mapping[str, Heatmap]) -> dict[str, dict[str, Any]]:
        """Of each method that was there in the epoch before, how its heat differs: "drift" and "overlap", (N,) each."""
        found = {}
        for method, heatmap in heatmaps.items():
            key = (*place, method)
            now, before = np.maximum(heatmap.values, 0), self.heat.get(key)
            if before is not None and before.shape == now.shape:
                warm = (before.max((1, 2)) > 0) & (now.max((1, 2)) > 0)  # of blank heat nothing can be said
                found[method] = {
                    "drift": np.where(warm, 1 - rank_correlation(before, now), np.nan).astype(np.float32),
                    "overlap": np.where(warm, overlap_of_hottest(before, now), np.nan).astype(np.float32),
                }
            self.heat[key] = now
        return found

    def add(self, place: Place, epoch: int, grid: Grid, method: str) -> None:
        """Keeps what the grid of an epoch shows of its first heatmaps."""
        rows = grid.rows[:MOST_IMAGES]
        frame = Frame(
            epoch,
            [_small(row.panels[1].rgb) for row in rows],
            [row.panels[1].note for row in rows],
            [row.wrong for row in rows],
            [_said(row) for row in rows],
            method,
        )
        before = [one for one in self.frames.get(place, []) if one.epoch < epoch]
        kept = [one for one in before if len(one.pictures) == len(rows) and one.method == method]
        self.frames[place] = _thinned([*kept, frame])

    def film(self, place: Place, grid: Grid) -> Grid:
        """The filmstrip: a row for each image, a column for each epoch that is kept."""
        frames = self.frames[place]
        rows = tuple(
            Row(
                texts=tuple(text for text in row.texts if text[0] != "prediction"),
                wrong=False,
                panels=(row.panels[0], *(_panel(frame, at) for frame in frames)),
            )
            for at, row in enumerate(grid.rows[:MOST_IMAGES])
        )
        titles = (grid.titles[0], *(f"epoch {frame.epoch}" for frame in frames))
        of = f"{place[0]}, {place[1]}" if place[1] else place[0]
        title = f"{of}, epochs {frames[0].epoch} to {frames[-1].epoch}, {frames[-1].method}"
        return replace(grid, rows=rows, titles=titles, title=title)


def _panel(frame: Frame, at: int) -> Panel:
    return Panel(frame.pictures[at], note=frame.notes[at], framed=frame.wrong[at], caption=frame.captions[at])


def _said(row: Row) -> str:
    """The prediction of a row, and its confidence in brackets."""
    name, _, confidence = dict(row.texts).get("prediction", "").rpartition(" ")
    return f"{name} ({confidence})" if name else confidence


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    factor = FRAME_SIDE / max(height, width)
    if factor >= 1:
        return picture.copy()
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _thinned(frames: list[Frame]) -> list[Frame]:
    """At most MOST_EPOCHS frames, equally far apart in epochs, and the last.

    Where there are more every second one goes; and the one that was the last goes where it is off their steps.
    """
    if len(frames) > 3 and (frames[-2].epoch - frames[0].epoch) % (frames[1].epoch - frames[0].epoch):
        frames = [*frames[:-2], frames[-1]]
    return frames if len(frames) <= MOST_EPOCHS else [*frames[:-1:2], frames[-1]]
