"""The grid of an epoch as one raster: a row for each image, the inference beside it, a colour bar below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil
from numbers import Integral
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.canvas import (
    AMBER,
    GREY,
    INK,
    RED,
    TEXT_SIZE,
    Colour,
    Line,
    Sizes,
    draw_frame,
    draw_note,
    draw_outline,
    write,
)
from fe_gradcam.drawing.pixels import Rgb, colormap_lut, require_rgb
from fe_gradcam.drawing.text import ELLIPSIS, Weight, fitted, text_width, without_middle, wrapped
from fe_gradcam.errors import ArgumentError, in_short
from fe_gradcam.parameters import whole

MARGIN, GAP = 14, 6

TEXT_ROOM = 200
"""Width of the texts beside the pictures, in pixels, at text size 14; it does not depend on the names."""

PAGE = 800
"""The width of a picture on a page, in pixels; its text must be readable there."""

TEXT_ON_PAGE = 12
"""Size of the text on a page; the text at the colour bar has size 10."""

TEXTS_IN_CELL = 6
"""The text grows with the picture up to this part of a column's width."""

SMALLEST_HEAD = 10
"""The smallest size of a column's title, in pixels."""

HEAD_LINES = 5
"""The most lines of a column's title: a method with its parameters, and a target."""

TITLE_LINES = 3
"""The most lines of the title, and of the subtitle below it."""

Role: TypeAlias = Literal["id", "label", "prediction", "class", "note", "warning", "doubt"]

CROSSED: tuple[str, Weight, Colour] = ("✗ inferred: ", "bold", RED)
"""How a wrong prediction is written."""

DOUBTED: tuple[str, Weight, Colour] = ("? inferred: ", "bold", AMBER)
"""How a wrong prediction is written if it was unsure."""

ROLES: dict[Role, tuple[str, Weight, Colour]] = {
    "id": ("", "regular", GREY),
    "label": ("true: ", "bold", INK),
    "prediction": ("inferred: ", "regular", INK),
    "class": ("", "bold", INK),
    "note": ("", "regular", GREY),
    "warning": ("", "regular", RED),
    "doubt": ("", "regular", AMBER),
}
"""The mark before a text of each role, with weight and colour of both."""

WRONG_LEGEND = "✗ another class was inferred than the true one"
UNSURE_LEGEND = "? another class was inferred, with a probability below 50%: unsure"


class Text(NamedTuple):
    """A text of a row: words, which are cut if they are too long, then a number, which is never cut."""

    role: Role
    words: str
    number: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row.

    Attributes:
        note: Written on a dark band over the picture, such as "no evidence".
        outline: (H, W) bool of any size, stretched over the picture: the border of its True pixels is drawn.
        framed: Whether a frame is drawn within the picture's edges.
        unsure: Whether that frame marks an unsure answer.
        caption: Written below the picture.
    """

    rgb: Rgb
    note: str = ""
    outline: NDArray[np.bool_] | None = None
    framed: bool = False
    caption: Text | None = None
    unsure: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """The row of one image.

    Attributes:
        texts: The texts beside the pictures.
        wrong: Whether the prediction is wrong: then the row is framed and its prediction has a cross.
        panels: The pictures, one for each title of the grid.
        below: A second line of pictures: for each panel the picture under it, or None; empty if there is no line.
        aside: The text in the second line, below the image.
        unsure: Whether a wrong prediction was unsure: then the row has another frame and mark.
    """

    texts: tuple[Text, ...]
    wrong: bool
    panels: tuple[Panel, ...]
    below: tuple[Panel | None, ...] = ()
    aside: tuple[Text, ...] = ()
    unsure: bool = False

    @property
    def every_panel(self) -> list[Panel]:
        """The pictures of both lines."""
        return [*self.panels, *(panel for panel in self.below if panel is not None)]


@dataclass(frozen=True, eq=False)
class Grid:
    """At least one row, a title for each column of pictures, and a colour bar below if the pictures show heat.

    Attributes:
        scale_label: What the colour bar means; empty: there is none.
        scale_range: The numbers at its two ends.
        subtitle: What stands below the title in smaller letters.
        text_room: Width of what stands beside the pictures; see TEXT_ROOM.
    """

    rows: tuple[Row, ...]
    titles: tuple[str, ...]
    colormap: str
    scale_label: str
    scale_range: tuple[float, float]
    title: str = ""
    subtitle: str = ""
    text_room: int = TEXT_ROOM


def draw_grid(grid: Grid, *, cell: int | None = None) -> Rgb:
    """Draws a grid as a raster (H, W, 3), at the size that the grid needs.

    The width depends only on the columns, and the text grows with the width, so that the text can be read when the
    picture is as wide as a page.

    Args:
        grid: The grid to draw.
        cell: Side of a picture's cell in pixels, from 16. None: pictures of 160 to 256 px are shown 1:1, smaller ones
            enlarged by a whole number, larger ones shrunk to 256.

    Raises:
        ArgumentError: There are no rows, or a row does not have one panel for each title.
    """
    _check(grid, cell)
    layout = _Layout(grid, cell or _cell_side(grid))
    canvas: Rgb = np.full((layout.height, layout.width, 3), 255, np.uint8)
    sizes = layout.sizes
    write(canvas, (MARGIN, MARGIN - 2), layout.title, sizes.title, sizes.line + 4)
    write(canvas, (MARGIN, layout.subtitle_top), layout.subtitle, sizes.text, sizes.line)
    for x, head in zip(layout.lefts, layout.heads, strict=True):
        write(canvas, (x, layout.top), [Line(line, "bold") for line in head], layout.head_size, sizes.line)
    for number, row in enumerate(grid.rows):
        _draw_row(canvas, row, layout, number)
    _draw_bar(canvas, grid, layout.bar_top, layout.label, layout.label_corner, sizes)
    _draw_legends(canvas, layout)
    return canvas


def _check(grid: Grid, cell: int | None) -> None:
    if not grid.rows or not grid.titles:
        counts = f"{len(grid.rows)} rows and {len(grid.titles)} titles"
        raise ArgumentError(f"grid has {counts}; at least one of each is needed.")
    for number, row in enumerate(grid.rows):
        if len(row.panels) != len(grid.titles):
            panels = f"{len(row.panels)} panels for {len(grid.titles)} titles"
            raise ArgumentError(f"grid.rows[{number}] has {panels}; one panel for each title is needed.")
        for panel in row.every_panel:
            require_rgb("panel.rgb", panel.rgb)
    checked_cell(cell)


MOST_CELL = 10_000
"""Pixels: a picture of more is no picture for a screen."""


def checked_cell(cell: Any) -> int | None:
    """The side of a cell in pixels, or None; raises ArgumentError if it is something else, or too small."""
    if isinstance(cell, Integral) and not isinstance(cell, bool) and int(cell) < 16:
        raise ArgumentError(f"cell={in_short(cell)} is too small. Accepted: None, or whole pixels from 16.")
    return None if cell is None else whole("cell", cell, 16, none=", or None", most=MOST_CELL)


def _cell_side(grid: Grid) -> int:
    return shown_side(max((panel.rgb for row in grid.rows for panel in row.every_panel), key=_longer))


def shown_side(picture: Rgb) -> int:
    """The longer side of a picture in a grid without a given size of cells; see `draw_grid`."""
    longer = _longer(picture)
    return min(longer, 256) if longer >= 160 else longer * max(1, round(176 / longer))


def _longer(picture: Rgb) -> int:
    height, width = picture.shape[:2]
    return int(max(height, width))


class _Cells(Protocol):
    """The cells of pictures: the longer side of a picture, width and height of a cell, and the sizes of letters."""

    side: int
    cell: tuple[int, int]
    sizes: Sizes


class _Layout:
    """The positions on the canvas in pixels: for each row its top, its texts and the texts of its second line."""

    def __init__(self, grid: Grid, side: int) -> None:
        panels = [panel for row in grid.rows for panel in row.every_panel]
        widths, heights = zip(*(_shown(panel, side) for panel in panels), strict=True)
        self.side, self.cell = side, (max(widths), max(heights))
        with_texts = any(row.texts for row in grid.rows)
        text_room = grid.text_room if with_texts else 0
        self.sizes = sizes = Sizes(_text_size(self.cell[0], len(grid.titles), text_room))
        room = sizes.of(text_room)

        left = MARGIN + (room + 2 * GAP if room else 0)
        self.lefts = [left + column * (self.cell[0] + GAP) for column in range(len(grid.titles))]
        self.right = self.lefts[-1] + self.cell[0]
        self.width = max(self.right, MARGIN + sizes.bar[0]) + MARGIN

        whole = self.width - 2 * MARGIN
        self.title = [Line(line, "bold") for line in _wrapped(grid.title, whole, sizes.title, "bold")]
        self.subtitle = [Line(line) for line in _wrapped(grid.subtitle, whole, sizes.text)]
        self.subtitle_top = MARGIN + (sizes.line + 4) * len(self.title)
        self.top = self.subtitle_top + sizes.line * len(self.subtitle) + (self.subtitle_top > MARGIN) * sizes.line // 3
        self.head_size, self.heads = _heads(grid.titles, self.cell[0], sizes.text)

        self.texts = [_lines(row.texts, room, sizes, wrong=row.wrong, unsure=row.unsure) for row in grid.rows]
        self.asides = [_lines(row.aside, self.cell[0] - 2 * GAP, sizes, most=3) for row in grid.rows]
        self.line_height = self.cell[1] + sizes.line * any(panel.caption for panel in panels)
        self.tops = [self.top + max(map(len, self.heads)) * sizes.line + 4]
        least = max(map(len, self.texts)) * sizes.line + 2 * sizes.frame
        gap = GAP + 2 * sizes.frame * any(row.wrong for row in grid.rows)  # two frames do not touch
        for row, aside in zip(grid.rows, self.asides, strict=True):
            second = GAP + max(self.line_height, len(aside) * sizes.line) if row.below else 0
            self.tops.append(self.tops[-1] + max(self.line_height + second, least) + gap)
        self.bar_top = self.tops.pop() + 4

        self.label, self.label_corner, bottom = _label_of_bar(grid, self.width, self.bar_top, sizes)
        self.legend_top = bottom + GAP
        self.legends = [
            (unsure, wrapped(said, whole - 3 * sizes.line, sizes.small, most=4))
            for unsure, said in ((False, WRONG_LEGEND), (True, UNSURE_LEGEND))
            if any(row.wrong and row.unsure == unsure for row in grid.rows)
            or any(panel.framed and panel.unsure == unsure for panel in panels)
        ]
        legend = sum(sizes.line * len(lines) + GAP for _, lines in self.legends)
        self.height = self.legend_top - GAP * (not legend) + legend + MARGIN


def _label_of_bar(grid: Grid, width: int, top: int, sizes: Sizes) -> tuple[list[str], tuple[int, int], int]:
    """The colour bar's label, its corner, and where bar and label end; the label is beside the bar if there is room."""
    if not grid.scale_label:
        return [], (MARGIN, top), top - GAP
    (bar_width, bar_height), above = sizes.bar, 0
    beside = MARGIN + bar_width + 16
    room, corner = width - beside - MARGIN, (beside, top - 2)
    if room < sizes.of(220) and text_width(grid.scale_label, sizes.small) > room:
        room, above = width - 2 * MARGIN, bar_height + 2 + sizes.line
        corner = MARGIN, top + above
    label = wrapped(grid.scale_label, room, sizes.small, most=8)
    return label, corner, top + max(bar_height + sizes.line, above + sizes.line * len(label))


def _text_size(cell: int, columns: int, text_room: int) -> int:
    """That of a picture of so many columns: it grows with the width, of which the texts are a part."""
    growth = TEXT_ON_PAGE / PAGE
    fixed = 2 * MARGIN + columns * (cell + GAP) - GAP + bool(text_room) * 2 * GAP
    size = ceil(growth * fixed / (1 - growth * text_room / TEXT_SIZE))
    return max(TEXT_SIZE, min(size, cell // TEXTS_IN_CELL))


def _heads(titles: Sequence[str], width: int, size: int) -> tuple[int, list[list[str]]]:
    """The titles of columns in lines, and the size of their letters: smaller if a title would be cut off otherwise."""
    smallest = min(size, SMALLEST_HEAD)
    for one in range(size, smallest - 1, -1):
        heads = [wrapped(title, width, one, "bold", HEAD_LINES) for title in titles]
        whole = all(ELLIPSIS not in line for head in heads for line in head)
        if whole or one == smallest:
            break
    return one, heads


def _wrapped(text: str, width: int, size: int, weight: Weight = "regular") -> list[str]:
    return wrapped(text, width, size, weight, TITLE_LINES) if text.strip() else []


def _lines(
    texts: Sequence[Text], width: int, sizes: Sizes, *, wrong: bool = False, unsure: bool = False, most: int = 2
) -> list[Line]:
    """Texts as lines of a given width; a name takes at most `most` lines, and a number is never cut off."""
    size, lines = sizes.text, list[Line]()
    for text in texts:
        caption, weight, colour = ROLES[text.role]
        if wrong and text.role == "prediction":
            caption, weight, colour = DOUBTED if unsure else CROSSED
        name = f"{caption}{text.words}".rstrip()
        pieces = [f"{name} {text.number}".rstrip()]
        if text_width(pieces[0], size, weight) > width:
            of_file = text.role == "id"
            pieces = [without_middle(name, width, size)] if of_file else wrapped(name, width, size, weight, most)
            together = f"{pieces[-1]} {text.number}".rstrip()
            fits = text_width(together, size, weight) <= width
            pieces = [*pieces[:-1], together] if fits else [*pieces, *filter(None, [text.number])]
        lines += [Line(piece, weight, colour) for piece in pieces]
    return lines


def _shown(panel: Panel, side: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side is `side`."""
    height, width = panel.rgb.shape[:2]
    factor = side / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _draw_row(canvas: Rgb, row: Row, layout: _Layout, number: int) -> None:
    top, left, aside, sizes = layout.tops[number], layout.lefts[0], layout.asides[number], layout.sizes
    below = top + layout.line_height + GAP
    bottom = below + max(layout.cell[1], len(aside) * sizes.line) if row.below else top + layout.cell[1]
    write(canvas, (MARGIN, top), layout.texts[number], sizes.text, sizes.line)
    for y, line in zip(count((below + bottom - len(aside) * sizes.line) // 2, sizes.line), aside):
        # At the right, beside the heat that it describes.
        x = left + layout.cell[0] - GAP - text_width(line.text, sizes.text, line.weight)
        write(canvas, (x, y), [line], sizes.text)
    for y, panels in ((top, row.panels), (below, row.below)):
        for x, panel in zip(layout.lefts, panels, strict=False):
            if panel is not None:
                _draw_panel(canvas, panel, (x, y), layout)
    if row.wrong:
        frame = sizes.frame
        around = canvas[top - frame : bottom + frame, left - frame : layout.right + frame]
        draw_frame(around, frame, unsure=row.unsure)


def _draw_panel(canvas: Rgb, panel: Panel, corner: tuple[int, int], layout: _Cells) -> None:
    (width, height), longer = _shown(panel, layout.side), max(panel.rgb.shape[:2])
    picture = panel.rgb
    if picture.shape[:2] != (height, width):
        enlarges = cv2.INTER_NEAREST if layout.side >= 2 * longer else cv2.INTER_CUBIC
        way = cv2.INTER_AREA if layout.side < longer else enlarges
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=way), np.uint8)
    x, y = corner[0] + (layout.cell[0] - width) // 2, corner[1] + (layout.cell[1] - height) // 2
    region = canvas[y : y + height, x : x + width]
    region[:] = picture
    if panel.outline is not None:
        draw_outline(region, panel.outline)
    if panel.note:
        draw_note(region, panel.note, layout.sizes)
    if panel.framed:
        draw_frame(region, layout.sizes.frame, unsure=panel.unsure)
    if panel.caption is not None:
        below = corner[0], corner[1] + layout.cell[1]
        _draw_caption(canvas, panel.caption, below, layout.cell[0], layout.sizes.small)


def _draw_caption(canvas: Rgb, caption: Text, corner: tuple[int, int], width: int, size: int) -> None:
    number = f" {caption.number}" if caption.number else ""
    room, words = width - text_width(number, size), caption.words
    if text_width(words, size) > room:
        words = fitted(words, max(room - 2, 16), size)
    line = f"{words}{number}"
    left = corner[0] + max(0, width - text_width(line, size)) // 2
    write(canvas, (left, corner[1]), [Line(line)], size)


def _draw_bar(canvas: Rgb, grid: Grid, top: int, label: Sequence[str], corner: tuple[int, int], sizes: Sizes) -> None:
    """The colour bar with its label, if it has one; see `_label_of_bar`."""
    if not grid.scale_label:
        return
    (width, height), small = sizes.bar, sizes.small
    colours = colormap_lut(grid.colormap)[np.linspace(0, 255, width).round().astype(int)]
    canvas[top : top + height, MARGIN : MARGIN + width] = colours
    low, high = (f"{number:.3g}" for number in grid.scale_range)
    numbers = [(0, low), (width // 2 - 4, "0" * (grid.scale_range[0] < 0))]
    for x, number in (*numbers, (width - text_width(high, small), high)):
        write(canvas, (MARGIN + x, top + height + 2), [Line(number)], small)
    write(canvas, corner, [Line(line, colour=GREY) for line in label], small, sizes.line - 3)


def _draw_legends(canvas: Rgb, layout: _Layout) -> None:
    """Draws what the frames mean, if there are any."""
    sizes, y, swatch = layout.sizes, layout.legend_top, 2 * layout.sizes.line
    for unsure, said in layout.legends:
        draw_frame(canvas[y : y + sizes.line - 4, MARGIN : MARGIN + swatch], sizes.frame, unsure=unsure)
        lines = [Line(line) for line in said]
        write(canvas, (MARGIN + swatch + sizes.line // 2, y), lines, sizes.small, sizes.line)
        y += sizes.line * len(said) + GAP
