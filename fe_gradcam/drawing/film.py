"""A filmstrip: the same images over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Row
from fe_gradcam.drawing.sheet import Look, bare_grid, texts_of
from fe_gradcam.explaining.explained import Explained

CELL = 112
"""The longer side of a picture in a filmstrip, in pixels."""


class Frame(NamedTuple):
    """What a filmstrip shows of an epoch: a panel for each image."""

    epoch: int
    panels: Sequence[Panel]


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
    """A row for each picture (N, h, w, 3), a column for each epoch, of which there is at least one.

    What stands beside the pictures is said by `part`, the images as they were explained last; `stream` is the mode and
    the dataset.
    """
    rows = []
    for at, picture in enumerate(pictures):
        texts = (one for one in texts_of(part, at, names, numbered=numbered) if one.role != "prediction")
        image = Panel(picture, outline=None if part.masks is None else part.masks[at])
        rows.append(Row(tuple(texts), False, (image, *(frame.panels[at] for frame in frames))))
    title = ", ".join(filter(None, stream))
    return replace(
        bare_grid(part, look),
        rows=tuple(rows),
        titles=("image", *(f"epoch {frame.epoch}" for frame in frames)),
        title=f"{title}, epochs {frames[0].epoch} to {frames[-1].epoch}, {part.columns[0].method}",
    )
