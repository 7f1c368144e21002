"""A filmstrip: the same images over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Row
from fe_gradcam.drawing.sheet import OUTLINED, Look, bare_grid, texts_of, what_is_explained
from fe_gradcam.explaining.explained import Explained

CELL = 112
"""The longer side of a picture in a filmstrip, in pixels."""


TEXT_ROOM_OF_FILM = 110
"""Width of what stands beside the pictures, where the text has 14 pixels: which image it is, and its true class."""

MOST_COLUMNS = 12
"""The most epochs in a filmstrip: with more, its texts could not be read on a page."""


class Frame(NamedTuple):
    """What a filmstrip shows of an epoch: a panel for each image."""

    epoch: int
    panels: Sequence[Panel]


def shown_epochs(count: int) -> list[int]:
    """The epochs that a filmstrip shows out of `count`, from 0: all, or every second, fourth, ... and the last.

    An epoch that is shown stays until it must make room.

    Example:
        >>> shown_epochs(14)
        [0, 2, 4, 6, 8, 10, 12, 13]
    """
    step = 1
    while len(shown := sorted({*range(0, count, step), count - 1})) > MOST_COLUMNS:
        step *= 2
    return shown


def film_grid(
    part: Explained,
    pictures: NDArray[np.uint8],
    frames: Sequence[Frame],
    names: Mapping[int, str],
    look: Look,
    stream: tuple[str, str],
    *,
    numbered: bool = False,
) -> Grid:
    """A row for each picture (N, h, w, 3), a column for each epoch; there is at least one epoch.

    `part` holds the images as they were explained last; the texts beside the pictures and the outlines of the
    objects come from it. `stream` is the mode and the dataset.
    """
    rows = []
    for at, picture in enumerate(pictures):
        texts = (one for one in texts_of(part, at, names, numbered=numbered) if one.role != "prediction")
        outline = None if part.masks is None else part.masks[at]
        panels = (Panel(picture), *(frame.panels[at] for frame in frames))
        rows.append(Row(tuple(texts), False, tuple(replace(panel, outline=outline) for panel in panels)))
    grid, first, last = bare_grid(part, look), frames[0].epoch, frames[-1].epoch
    epochs = f"epochs {first} to {last}" if first < last else f"epoch {first}"
    label = grid.scale_label + OUTLINED * (part.masks is not None)
    return replace(
        grid,
        rows=tuple(rows),
        titles=("image", *(f"epoch {frame.epoch}" for frame in frames)),
        title=", ".join(filter(None, (*stream, epochs))),
        subtitle=what_is_explained(part.columns[:1]),
        scale_label=label,
        text_room=TEXT_ROOM_OF_FILM,
    )
