"""The grid of an epoch as one raster: a row for each image, what was inferred beside it, a colour bar below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.pixels import Rgb, colormap_lut, require_rgb
from fe_gradcam.drawing.text import Weight, fitted, text_mask, text_width, without_middle, wrapped
from fe_gradcam.errors import ArgumentError

Colour: TypeAlias = tuple[int, int, int]

INK, GREY, RED, WHITE = (26, 26, 26), (110, 110, 110), (200, 16, 32), (255, 255, 255)
MARGIN, GAP = 14, 6
TITLE_SIZE, HEAD_SIZE, TEXT_SIZE, SMALL_SIZE = 17, 14, 14, 12
LINE = 20
"""Height of a line of text in a row's cell, in pixels."""

NARROWEST_TEXT, WIDEST_TEXT = 70, 190
BAR_WIDTH, BAR_HEIGHT = 160, 12
FRAME = 3
HEAD_LINES = 5
"""Lines of a column's title: a method with its parameters, and a target."""

Role: TypeAlias = Literal["id", "label", "prediction", "class", "note", "warning"]

CROSSED: tuple[str, Weight, Colour] = ("✗ inferred: ", "bold", RED)
"""How a prediction is written that is wrong."""

ROLES: dict[Role, tuple[str, Weight, Colour]] = {
    "id": ("", "regular", GREY),
    "label": ("true: ", "bold", INK),
    "prediction": ("inferred: ", "regular", INK),
    "class": ("", "bold", INK),
    "note": ("", "regular", GREY),
    "warning": ("", "regular", RED),
}
"""What stands before a text, and how both are written."""


class Text(NamedTuple):
    """A text of a row: words, which are cut where they are too long, and a number behind, which never is."""

    role: Role
    words: str
    number: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row.

    Attributes:
        note: Written on a dark band over the picture, such as "no evidence".
        outline: (H, W) bool: the border of what is True is drawn; any size, stretched over the picture.
        framed: Whether a frame is drawn within the picture's edges.
        caption: Written below the picture.
    """

    rgb: Rgb
    note: str = ""
    outline: NDArray[np.bool_] | None = None
    framed: bool = False
    caption: Text | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """What is shown of one image.

    Attributes:
        texts: What stands beside the pictures.
        wrong: Whether the prediction is: then the row is framed and its prediction crossed.
        panels: The pictures, one for each title of the grid.
        below: A second line of pictures, each under the one that it belongs to or None; empty where there is none.
        aside: What stands in the second line in the place of the image.
    """

    texts: tuple[Text, ...]
    wrong: bool
    panels: tuple[Panel, ...]
    below: tuple[Panel | None, ...] = ()
    aside: tuple[Text, ...] = ()

    @property
    def every_panel(self) -> list[Panel]:
        """The pictures of both lines."""
        return [*self.panels, *(panel for panel in self.below if panel is not None)]


@dataclass(frozen=True, eq=False)
class Grid:
    """At least one row, a title for each column of pictures, and a colour bar below.

    Attributes:
        scale_label: What the colour bar means.
        scale_range: The numbers at its two ends.
    """

    rows: tuple[Row, ...]
    titles: tuple[str, ...]
    colormap: str
    scale_label: str
    scale_range: tuple[float, float]
    title: str = ""


def draw_grid(grid: Grid, *, cell: int | None = None) -> Rgb:
    """Draws a grid as a raster (H, W, 3), at the size that it needs.

    Args:
        grid: What is drawn.
        cell: Side of a picture's cell in pixels, from 16. None: pictures of 160 to 256 px are shown 1:1, smaller ones
            enlarged by a whole number, larger ones shrunk to 256.

    Raises:
        ArgumentError: There are no rows, or a row has not one panel for each title.
    """
    _check(grid, cell)
    layout = _Layout(grid, cell or _cell_side(grid))
    canvas: Rgb = np.full((layout.height, layout.width, 3), 255, np.uint8)
    title = fitted(grid.title, layout.width - 2 * MARGIN, TITLE_SIZE, "bold")
    _write(canvas, (MARGIN, MARGIN - 2), [_Line(title, "bold")], TITLE_SIZE)
    for x, head in zip(layout.lefts, layout.heads, strict=True):
        _write(canvas, (x, layout.top), [_Line(line, "bold") for line in head], HEAD_SIZE)
    for number, row in enumerate(grid.rows):
        _draw_row(canvas, row, layout, number)
    _draw_bar(canvas, grid, layout.bar_top, layout.label, layout.label_corner)
    return canvas


def _check(grid: Grid, cell: int | None) -> None:
    if not grid.rows or not grid.titles:
        counts = f"{len(grid.rows)} rows and {len(grid.titles)} titles"
        raise ArgumentError(f"grid has {counts}; at least one of each is needed.")
    for number, row in enumerate(grid.rows):
        if len(row.panels) != len(grid.titles):
            panels = f"{len(row.panels)} panels for {len(grid.titles)} titles"
            raise ArgumentError(f"grid.rows[{number}] has {panels}; one for each is needed.")
        for panel in row.every_panel:
            require_rgb("panel.rgb", panel.rgb)
    if cell is not None and cell < 16:
        raise ArgumentError(f"cell={cell!r} is too small; accepted are None and whole pixels from 16.")


def _cell_side(grid: Grid) -> int:
    largest: int = max(max(panel.rgb.shape[:2]) for row in grid.rows for panel in row.every_panel)
    return min(largest, 256) if largest >= 160 else largest * max(1, round(176 / largest))


class _Cells(Protocol):
    """What a picture is drawn into: its longer side, and width and height of a cell."""

    side: int
    cell: tuple[int, int]


class _Layout:
    """Where everything stands on the canvas, in pixels: of each row its top, its texts and those of its second line."""

    def __init__(self, grid: Grid, side: int) -> None:
        panels = [panel for row in grid.rows for panel in row.every_panel]
        widths, heights = zip(*(_shown(panel, side) for panel in panels), strict=True)
        self.side, self.cell = side, (max(widths), max(heights))
        self.line_height = self.cell[1] + LINE * any(panel.caption for panel in panels)

        whole = [line for row in grid.rows for line in _lines(row.texts, None, wrong=row.wrong)]
        widest = max((text_width(line.text, TEXT_SIZE, "bold") for line in whole), default=0)
        room = int(np.clip(widest, NARROWEST_TEXT, WIDEST_TEXT)) if whole else 0
        self.texts = [_lines(row.texts, room, wrong=row.wrong) for row in grid.rows]
        self.asides = [_lines(row.aside, self.cell[0] - 2 * GAP, most=3) for row in grid.rows]

        left = MARGIN + (room + 2 * GAP if room else 0)
        self.lefts = [left + column * (self.cell[0] + GAP) for column in range(len(grid.titles))]
        self.right = self.lefts[-1] + self.cell[0]
        self.width = max(self.right, MARGIN + BAR_WIDTH) + MARGIN
        self.heads = [wrapped(title, self.cell[0], HEAD_SIZE, "bold", most=HEAD_LINES) for title in grid.titles]
        self.top = MARGIN + (TITLE_SIZE + 14 if grid.title else 0)

        self.tops = [self.top + max(map(len, self.heads)) * LINE + 4]
        least = max(map(len, self.texts)) * LINE + 2 * FRAME
        gap = GAP + 2 * FRAME * any(row.wrong for row in grid.rows)  # two frames do not touch
        for row, aside in zip(grid.rows, self.asides, strict=True):
            second = GAP + max(self.line_height, len(aside) * LINE) if row.below else 0
            self.tops.append(self.tops[-1] + max(self.line_height + second, least) + gap)
        self.bar_top = self.tops.pop() + 4

        self.label, self.label_corner, bottom = _label_of_bar(grid, self.width, self.bar_top)
        self.height = bottom + MARGIN


def _label_of_bar(grid: Grid, width: int, top: int) -> tuple[list[str], tuple[int, int], int]:
    """The colour bar's label, its corner, and where bar and label end: it stands beside the bar if there is room."""
    beside, above = MARGIN + BAR_WIDTH + 16, 0
    room, corner = width - beside - MARGIN, (beside, top - 2)
    if room < 220 and text_width(grid.scale_label, SMALL_SIZE) > room:
        room, above = width - 2 * MARGIN, BAR_HEIGHT + 2 + LINE
        corner = MARGIN, top + above
    label = wrapped(grid.scale_label, room, SMALL_SIZE, most=8)
    return label, corner, top + max(BAR_HEIGHT + 18, above + LINE * len(label))


class _Line(NamedTuple):
    text: str
    weight: Weight = "regular"
    colour: Colour = INK


def _lines(texts: Sequence[Text], width: int | None, *, wrong: bool = False, most: int = 2) -> list[_Line]:
    """Texts as lines of a width, if there is one; a name takes `most` of them, and a number is never cut off."""
    lines = []
    for text in texts:
        caption, weight, colour = CROSSED if wrong and text.role == "prediction" else ROLES[text.role]
        name = f"{caption}{text.words}".rstrip()
        pieces = [f"{name} {text.number}".rstrip()]
        if width is not None and text_width(pieces[0], TEXT_SIZE, weight) > width:
            of_file = text.role == "id"
            cut = [without_middle(name, width, TEXT_SIZE)] if of_file else wrapped(name, width, TEXT_SIZE, weight, most)
            pieces = [*cut, *filter(None, [text.number])]
        lines += [_Line(piece, weight, colour) for piece in pieces]
    return lines


def _shown(panel: Panel, side: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side is `side`."""
    height, width = panel.rgb.shape[:2]
    factor = side / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _write(
    canvas: Rgb, corner: tuple[int, int], lines: Sequence[_Line], size: int = TEXT_SIZE, step: int = LINE
) -> None:
    """Writes lines of text below each other, from an upper left corner (x, y); what lies outside is cut off."""
    x = corner[0]
    for y, line in zip(count(corner[1], step), lines):
        mask = text_mask(line.text, size, line.weight)[: max(0, canvas.shape[0] - y), : max(0, canvas.shape[1] - x)]
        region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
        share = mask[..., None].astype(np.float32) / 255
        region[:] = (region * (1 - share) + np.array(line.colour, np.float32) * share + 0.5).astype(np.uint8)


def _draw_row(canvas: Rgb, row: Row, layout: _Layout, number: int) -> None:
    top, left, aside = layout.tops[number], layout.lefts[0], layout.asides[number]
    below = top + layout.line_height + GAP
    bottom = below + max(layout.cell[1], len(aside) * LINE) if row.below else top + layout.cell[1]
    _write(canvas, (MARGIN, top), layout.texts[number])
    for y, line in zip(count((below + bottom - len(aside) * LINE) // 2, LINE), aside):
        # At the right, beside the heat that it is said of.
        x = left + layout.cell[0] - GAP - text_width(line.text, TEXT_SIZE, line.weight)
        _write(canvas, (x, y), [line])
    for y, panels in ((top, row.panels), (below, row.below)):
        for x, panel in zip(layout.lefts, panels, strict=False):
            if panel is not None:
                _draw_panel(canvas, panel, (x, y), layout)
    if row.wrong:
        _draw_frame(canvas[top - FRAME : bottom + FRAME, left - FRAME : layout.right + FRAME])


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
        _draw_outline(region, panel.outline)
    if panel.note:
        _draw_note(region, panel.note)
    if panel.framed:
        _draw_frame(region)
    if panel.caption is not None:
        _draw_caption(canvas, panel.caption, (corner[0], corner[1] + layout.cell[1]), layout.cell[0])


def _draw_caption(canvas: Rgb, caption: Text, corner: tuple[int, int], width: int) -> None:
    number = f" {caption.number}" if caption.number else ""
    room, words = width - text_width(number, SMALL_SIZE), caption.words
    if text_width(words, SMALL_SIZE) > room:
        words = fitted(words, max(room - 2, 16), SMALL_SIZE)
    line = f"{words}{number}"
    left = corner[0] + max(0, width - text_width(line, SMALL_SIZE)) // 2
    _write(canvas, (left, corner[1]), [_Line(line)], SMALL_SIZE)


def _draw_outline(region: Rgb, outline: NDArray[np.bool_]) -> None:
    """The border of what is True: white between dark, so that it is seen on any picture."""
    height, width = region.shape[:2]
    mask = np.asarray(cv2.resize(outline.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    padded, square = np.pad(mask, 2), np.ones((3, 3), np.uint8)
    line = cv2.dilate(padded, square) - padded
    region[cv2.dilate(line, square)[2:-2, 2:-2] > 0] = INK
    region[line[2:-2, 2:-2] > 0] = WHITE


def _draw_frame(region: Rgb) -> None:
    """A frame within the edges of a region."""
    inside = region[FRAME:-FRAME, FRAME:-FRAME].copy()
    region[:] = RED
    region[FRAME:-FRAME, FRAME:-FRAME] = inside


def _draw_note(region: Rgb, note: str) -> None:
    height = min(LINE + 4, region.shape[0])
    band = region[-height:]
    band[:] = band // 4
    line = fitted(note, region.shape[1] - 8, TEXT_SIZE)
    x = max(0, (region.shape[1] - text_width(line, TEXT_SIZE)) // 2)
    _write(band, (x, max(0, (height - LINE) // 2)), [_Line(line, colour=WHITE)])


def _draw_bar(canvas: Rgb, grid: Grid, top: int, label: Sequence[str], corner: tuple[int, int]) -> None:
    under = top + BAR_HEIGHT + 2
    colours = colormap_lut(grid.colormap)[np.linspace(0, 255, BAR_WIDTH).round().astype(int)]
    canvas[top : top + BAR_HEIGHT, MARGIN : MARGIN + BAR_WIDTH] = colours
    low, high = (f"{number:.3g}" for number in grid.scale_range)
    numbers = [(0, low), (BAR_WIDTH // 2 - 4, "0" * (grid.scale_range[0] < 0))]
    for x, number in (*numbers, (BAR_WIDTH - text_width(high, SMALL_SIZE), high)):
        _write(canvas, (MARGIN + x, under), [_Line(number)], SMALL_SIZE)
    _write(canvas, corner, [_Line(line, colour=GREY) for line in label], SMALL_SIZE, LINE - 3)
