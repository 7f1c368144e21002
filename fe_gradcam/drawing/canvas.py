"""Marks on a raster: lines of text, frames, outlines and notes, at sizes that go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.pixels import Rgb
from fe_gradcam.drawing.text import Weight, fitted, text_mask, text_width, wrapped

Colour: TypeAlias = tuple[int, int, int]

INK, GREY, RED, AMBER, WHITE = (26, 26, 26), (110, 110, 110), (200, 16, 32), (176, 96, 0), (255, 255, 255)

TEXT_SIZE, TITLE_SIZE, SMALL_SIZE = 14, 17, 12
LINE, FRAME = 20, 3
BAR_WIDTH, BAR_HEIGHT = 160, 12

SMALLEST_NOTE = 8
"""The smallest size of the letters of a note, in pixels."""


@dataclass(frozen=True)
class Sizes:
    """Sizes in pixels that grow with the size of the text; for the usual text size they are the constants above.

    Attributes:
        text: Size of the letters beside the pictures and above the columns.
    """

    text: int = TEXT_SIZE

    def of(self, usual: int) -> int:
        """The size that is `usual` when the text has its usual size."""
        return round(usual * self.text / TEXT_SIZE)

    @property
    def title(self) -> int:
        """The letters of the title."""
        return self.of(TITLE_SIZE)

    @property
    def small(self) -> int:
        """The letters below the pictures and at the colour bar."""
        return self.of(SMALL_SIZE)

    @property
    def line(self) -> int:
        """The distance from one line of text to the next."""
        return self.of(LINE)

    @property
    def frame(self) -> int:
        """The width of the line of a frame."""
        return self.of(FRAME)

    @property
    def bar(self) -> tuple[int, int]:
        """Width and height of the colour bar."""
        return self.of(BAR_WIDTH), self.of(BAR_HEIGHT)


class Line(NamedTuple):
    """A line of text, and how it is written."""

    text: str
    weight: Weight = "regular"
    colour: Colour = INK


def write(canvas: Rgb, corner: tuple[int, int], lines: Sequence[Line], size: int = TEXT_SIZE, step: int = LINE) -> None:
    """Writes lines of text, `step` below each other, from an upper left corner (x, y); what lies outside is cut off."""
    x = corner[0]
    for y, line in zip(count(corner[1], step), lines):
        mask = text_mask(line.text, size, line.weight)[: max(0, canvas.shape[0] - y), : max(0, canvas.shape[1] - x)]
        region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
        share = mask[..., None].astype(np.float32) / 255
        region[:] = (region * (1 - share) + np.array(line.colour, np.float32) * share + 0.5).astype(np.uint8)


def draw_outline(region: Rgb, outline: NDArray[np.bool_]) -> None:
    """Draws the border of the True pixels: white between dark lines, so that it is seen on any picture."""
    height, width = region.shape[:2]
    mask = np.asarray(cv2.resize(outline.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    padded, square = np.pad(mask, 2), np.ones((3, 3), np.uint8)
    line = cv2.dilate(padded, square) - padded
    region[cv2.dilate(line, square)[2:-2, 2:-2] > 0] = INK
    region[line[2:-2, 2:-2] > 0] = WHITE


def draw_frame(region: Rgb, width: int = FRAME, *, unsure: bool = False) -> None:
    """A frame within the edges of a region: a red line, or, where the answer was unsure, dashes of amber on white."""
    edge = np.ones(region.shape[:2], bool)
    edge[width:-width, width:-width] = False
    if unsure:
        ys, xs = (np.arange(side) % (6 * width) < 4 * width for side in region.shape[:2])
        lines = np.zeros_like(edge)
        lines[:width] = lines[-width:] = xs
        lines[:, :width] |= ys[:, None]
        lines[:, -width:] |= ys[:, None]
        region[edge] = WHITE
        edge &= lines
    region[edge] = AMBER if unsure else RED


def draw_note(region: Rgb, note: str, sizes: Sizes) -> None:
    """Draws a note on a dark band at the foot of a region, if needed in smaller letters and on two lines."""
    width, size = region.shape[1] - 4, sizes.text
    lines = [note]
    while text_width(note, size) > width and size > SMALLEST_NOTE:
        lines = wrapped(note, width, size)
        if len(lines) > 1 and all(text_width(word, size) <= width for word in note.split()):
            break
        size -= 1
        lines = [note]
    lines = [fitted(line, width, size) for line in lines]
    step = sizes.line - sizes.text + size
    height = min(step * len(lines) + 4, region.shape[0])
    band = region[-height:]
    band[:] = band // 4
    for y, line in zip(count(max(0, (height - step * len(lines)) // 2), step), lines):
        x = max(0, (region.shape[1] - text_width(line, size)) // 2)
        write(band, (x, y), [Line(line, colour=WHITE)], size)
