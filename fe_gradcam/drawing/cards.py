"""The rows of a grid as cards beside each other, in a shape that fits a screen: texts, pictures, warnings."""

from __future__ import annotations

from math import ceil, log
from typing import NamedTuple

import numpy as np

from fe_gradcam.drawing.canvas import TEXT_SIZE, Line, Sizes, draw_frame, write
from fe_gradcam.drawing.grid import (
    GAP,
    MARGIN,
    PAGE,
    TEXT_ON_PAGE,
    Grid,
    _draw_bar,
    _draw_panel,
    _label_of_bar,
    _lines,
    _shown,
)
from fe_gradcam.drawing.pixels import Rgb
from fe_gradcam.drawing.text import wrapped

SHAPE = 1.4
"""Width over height that the layout aims at."""

BETWEEN = 26
"""Pixels between cards, enough that the frames of two neighbours do not touch."""

NARROWEST = 640
"""The smallest width of the picture in pixels: title and legend need it."""

LETTERS = 17
"""The text grows with the picture, up to a card's width divided by this."""

AROUND = 150
"""About the height of title, heads and colour bar."""

SIDES = ((4, 224), (8, 160))
"""Number of cards, and the side of a picture in pixels up to that number; for more cards it is LEAST_SIDE."""

LEAST_SIDE = 128


def draw_cards(grid: Grid) -> Rgb:
    """Draws a grid as a raster (H, W, 3): its rows as cards, line by line, with warnings below the pictures.

    Rows have at least one picture and no second line; pictures have no captions. A row that is wrong is framed with
    its texts.
    """
    layout = _Cards(grid)
    canvas: Rgb = np.full((layout.height, layout.width, 3), 255, np.uint8)
    sizes, text = layout.sizes, (layout.sizes.text, layout.sizes.line)
    write(canvas, (MARGIN, MARGIN - 2), layout.title, sizes.title, sizes.line + 4)
    write(canvas, (MARGIN, layout.subtitle_top), layout.subtitle, *text)
    for column in range(layout.across):
        for at, head in enumerate(layout.heads):
            x = layout.left_of(column) + at * (layout.cell[0] + GAP)
            write(canvas, (x, layout.top), [Line(line, "bold") for line in head], *text)
    for number, row in enumerate(grid.rows):
        left, line = layout.left_of(number % layout.across), layout.lines[number // layout.across]
        write(canvas, (left, line.top), layout.above[number], *text)
        for at, panel in enumerate(row.panels):
            _draw_panel(canvas, panel, (left + at * (layout.cell[0] + GAP), line.pictures), layout)
        write(canvas, (left, line.below), layout.below[number], *text)
        if row.wrong:
            edge, bottom = GAP + sizes.frame, line.below + len(layout.below[number]) * sizes.line
            draw_frame(canvas[line.top - edge : bottom + edge, left - edge : left + layout.card + edge], sizes.frame)
    _draw_bar(canvas, grid, layout.bar_top, layout.label, layout.label_corner, sizes)
    return canvas


class _CardLine(NamedTuple):
    """Where a line of cards has its texts, its pictures and the texts below the pictures, and where it ends."""

    top: int
    pictures: int
    below: int
    bottom: int


class _Cards:
    """Where everything stands on the canvas, in pixels."""

    def __init__(self, grid: Grid) -> None:
        count = len(grid.rows)
        self.side: int = next((side for most, side in SIDES if count <= most), LEAST_SIDE)
        widths, heights = zip(*(_shown(panel, self.side) for row in grid.rows for panel in row.panels), strict=True)
        self.cell: tuple[int, int] = max(widths), max(heights)
        self.card: int = len(grid.titles) * (self.cell[0] + GAP) - GAP
        self._write_with(Sizes(), grid)
        self.across = min(range(1, count + 1), key=self._unlike_the_shape)
        self.width = max(self._width(self.across), NARROWEST)
        grown = min(ceil(self.width * TEXT_ON_PAGE / PAGE), self.card // LETTERS)
        self._write_with(Sizes(max(TEXT_SIZE, grown)), grid)
        sizes, room = self.sizes, self.width - 2 * MARGIN
        self.title = [Line(one, "bold") for one in wrapped(grid.title, room, sizes.title, "bold", most=3)]
        self.subtitle = [Line(one) for one in wrapped(grid.subtitle, room, sizes.text, most=3)]
        self.heads = [wrapped(title, self.cell[0], sizes.text, "bold") for title in grid.titles]
        self.subtitle_top = MARGIN + len(self.title) * (sizes.line + 4)
        self.top = self.subtitle_top + len(self.subtitle) * sizes.line + 8
        first = self.top + max(map(len, self.heads)) * sizes.line + GAP + sizes.frame
        self.lines = self._lines_from(first, self.across)
        self.bar_top = self.lines[-1].bottom + GAP + 2 * sizes.frame + 4
        self.label, self.label_corner, bottom = _label_of_bar(grid, self.width, self.bar_top, sizes)
        self.height = bottom + MARGIN

    def _write_with(self, sizes: Sizes, grid: Grid) -> None:
        """Sets the texts above and below the pictures in letters of a size."""
        self.sizes = sizes
        self.above, self.below = (
            [_lines([one for one in row.texts if (one.role == "warning") is w], self.card, sizes) for row in grid.rows]
            for w in (False, True)
        )

    def left_of(self, column: int) -> int:
        """The left edge of a column of cards."""
        return MARGIN + column * (self.card + BETWEEN)

    def _width(self, across: int) -> int:
        return 2 * MARGIN + across * (self.card + BETWEEN) - BETWEEN

    def _lines_from(self, top: int, across: int) -> list[_CardLine]:
        lines: list[_CardLine] = []
        for start in range(0, len(self.above), across):
            above, below = (
                max(map(len, one[start : start + across])) * self.sizes.line for one in (self.above, self.below)
            )
            pictures = top + above + 2
            bottom = pictures + self.cell[1] + 2
            lines.append(_CardLine(top, pictures, bottom, bottom + below))
            top = lines[-1].bottom + BETWEEN
        return lines

    def _unlike_the_shape(self, across: int) -> float:
        """How far the picture is from SHAPE with `across` cards in a line, and how much of it stays empty."""
        lines = self._lines_from(0, across)
        shape = self._width(across) / (lines[-1].bottom + AROUND)
        return abs(log(shape / SHAPE)) + 1 - len(self.above) / (across * len(lines))
