"""The grid of an epoch as one raster: a row for each image, what was inferred beside it, a colour bar below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.pixels import Rgb, colormap_lut, require_rgb
from fe_gradcam.drawing.text import ELLIPSIS, Weight, fitted, text_mask, wrapped
from fe_gradcam.errors import ArgumentError

INK, GREY, RED, WHITE = (26, 26, 26), (110, 110, 110), (200, 16, 32), (255, 255, 255)
MARGIN, GAP = 14, 6
TITLE_SIZE, HEAD_SIZE, TEXT_SIZE, SMALL_SIZE = 17, 14, 14, 12
LINE = 20
"""Height of a line of text in a row's cell, in pixels."""

NARROWEST_TEXT, WIDEST_TEXT = 70, 190
BAR_WIDTH, BAR_HEIGHT = 160, 12
FRAME = 3
CAPTIONS = {"label": "true", "prediction": "inferred"}

HEAD_LINES = 5
"""Lines of a column's title: a method with its parameters, and a target."""


class Text(NamedTuple):
    """A text of a row.

    Attributes:
        role: "id", "label", "prediction", "class", "note" or "warning".
        words: What is cut where it is too long.
        number: What stands behind it, and is never cut.
    """

    role: str
    words: str
    number: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row.

    Attributes:
        rgb: (H, W, 3) uint8.
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
    """What is drawn.

    Attributes:
        rows: One for each image, at least one.
        titles: One for each column of pictures.
        colormap: Of the colour bar.
        scale_label: What the colour bar means.
        scale_range: The numbers at its two ends.
        title: What stands above the grid.
    """

    rows: tuple[Row, ...]
    titles: tuple[str, ...]
    colormap: str
    scale_label: str
    scale_range: tuple[float, float]
    title: str = ""


def draw_grid(grid: Grid, *, cell: int | None = None) -> Rgb:
    """Draws a grid.

    Args:
        grid: What is drawn.
        cell: Side of a picture's cell in pixels, from 16. None: pictures of 160 to 256 px are shown
            1:1, smaller ones enlarged by a whole number, larger ones shrunk to 256.

    Returns:
        (H, W, 3) uint8, at the size that the grid needs.

    Raises:
        ArgumentError: There are no rows, or a row has not one panel for each title.
    """
    _check(grid, cell)
    side = cell or _cell_side(grid)
    text_width = _text_width(grid)
    cell_width, cell_height = _cell(grid, side)
    left = MARGIN + (text_width + 2 * GAP if text_width else 0)
    lefts = [left + column * (cell_width + GAP) for column in range(len(grid.titles))]
    width = max(lefts[-1] + cell_width, MARGIN + BAR_WIDTH) + MARGIN
    heads = [wrapped(title, cell_width, HEAD_SIZE, "bold", most=HEAD_LINES) for title in grid.titles]
    top = MARGIN + (TITLE_SIZE + 14 if grid.title else 0)
    line_height = cell_height + (LINE if any(one.caption for row in grid.rows for one in row.every_panel) else 0)
    least = max(len(_lines(row, text_width)) for row in grid.rows) * LINE + 2 * FRAME
    heights = [max(line_height * (1 + bool(row.below)) + GAP * bool(row.below), least) for row in grid.rows]
    tops = [top + max(map(len, heads)) * LINE + 4]
    for row_height in heights:
        tops.append(tops[-1] + row_height + GAP)
    bar_top = tops.pop() + 4
    label_left, label_lines = _label_place(grid, width)
    bar_room = BAR_HEIGHT + 18 if label_left > MARGIN else BAR_HEIGHT + 22 + LINE * len(label_lines)
    height = bar_top + max(bar_room, LINE * len(label_lines)) + MARGIN

    canvas: Rgb = np.full((height, width, 3), 255, np.uint8)
    title = fitted(grid.title, width - 2 * MARGIN, TITLE_SIZE, "bold")
    write(canvas, (MARGIN, MARGIN - 2), title, TITLE_SIZE, INK, "bold")
    for x, lines in zip(lefts, heads, strict=True):
        for number, line in enumerate(lines):
            write(canvas, (x, top + number * LINE), line, HEAD_SIZE, INK, "bold")
    for row, y in zip(grid.rows, tops, strict=True):
        _write_lines(canvas, _lines(row, text_width), (MARGIN, y))
        _write_lines(canvas, _cut(row.aside, cell_width - 2 * GAP), (left + GAP, y + line_height + 2 * GAP))
        for panels, at in ((row.panels, y), (row.below, y + line_height + GAP)):
            for x, panel in zip(lefts, panels, strict=False):
                if panel is not None:
                    _draw_panel(canvas, panel, (x, at), (cell_width, cell_height), side)
                    _draw_caption(canvas, panel.caption, (x, at + cell_height), cell_width)
        if row.wrong:
            bottom = y + cell_height + (line_height + GAP if row.below else 0)
            _draw_frame(canvas, left, y, lefts[-1] + cell_width, bottom)
    _draw_bar(canvas, grid, bar_top, label_left, label_lines)
    return canvas


def write(
    canvas: Rgb,
    corner: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    weight: Weight = "regular",
) -> None:
    """Writes a line of text onto the canvas, its upper left corner at (x, y); what lies outside is cut off."""
    x, y = corner
    mask = text_mask(text, size, weight)[: max(0, canvas.shape[0] - y), : max(0, canvas.shape[1] - x)]
    place = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    share = mask[..., None].astype(np.float32) / 255
    place[:] = (place * (1 - share) + np.array(colour, np.float32) * share + 0.5).astype(np.uint8)


def _check(grid: Grid, cell: int | None) -> None:
    if not grid.rows or not grid.titles:
        raise ArgumentError(
            f"grid has {len(grid.rows)} rows and {len(grid.titles)} titles; at least one of each is needed."
        )
    for number, row in enumerate(grid.rows):
        if len(row.panels) != len(grid.titles):
            raise ArgumentError(
                f"grid.rows[{number}] has {len(row.panels)} panels for {len(grid.titles)} titles; one for each is "
                "needed."
            )
        for panel in row.every_panel:
            require_rgb("panel.rgb", panel.rgb)
    if cell is not None and cell < 16:
        raise ArgumentError(f"cell={cell!r} is too small; accepted are None and whole pixels from 16.")


def _cell_side(grid: Grid) -> int:
    largest = max(max(panel.rgb.shape[:2]) for row in grid.rows for panel in row.every_panel)
    return min(largest, 256) if largest >= 160 else largest * max(1, round(176 / largest))


def _text_width(grid: Grid) -> int:
    widths = [_width(_line(text, row.wrong), "bold") for row in grid.rows for text in row.texts]
    widest = max(widths, default=0)
    return 0 if widest == 0 else int(np.clip(widest, NARROWEST_TEXT, WIDEST_TEXT))


def _width(line: str, weight: Weight = "regular", size: int = TEXT_SIZE) -> int:
    return int(text_mask(line, size, weight).shape[1])


def _line(text: Text, wrong: bool) -> str:
    caption = f"{CAPTIONS[text.role]}: " if text.role in CAPTIONS else ""
    crossed = "✗ " if wrong and text.role == "prediction" else ""
    return f"{crossed}{caption}{text.words} {text.number}".rstrip()


Line = tuple[str, Weight, tuple[int, int, int]]
"""A text, and how it looks."""


def _write_lines(canvas: Rgb, lines: Sequence[Line], corner: tuple[int, int]) -> None:
    for number, (line, weight, colour) in enumerate(lines):
        write(canvas, (corner[0], corner[1] + number * LINE), line, TEXT_SIZE, colour, weight)


def _lines(row: Row, width: int) -> list[Line]:
    """The lines beside a row's pictures."""
    return _cut(row.texts, width, wrong=row.wrong)


def _cut(texts: Sequence[Text], width: int, *, wrong: bool = False) -> list[Line]:
    """Texts as lines; long names take two, and a number is never cut off."""
    lines: list[Line] = []
    for text in texts:
        crossed = wrong and text.role == "prediction"
        weight: Weight = "bold" if crossed or text.role in ("label", "class") else "regular"
        colour = RED if crossed or text.role == "warning" else GREY if text.role in ("id", "note") else INK
        pieces = [_line(text, wrong)]
        if _width(pieces[0], weight) > width:
            name = _line(text._replace(number=""), wrong)
            pieces = [_middle_cut(name, width)] if text.role == "id" else wrapped(name, width, TEXT_SIZE, weight)
            pieces += [text.number] * bool(text.number)
        lines += [(piece, weight, colour) for piece in pieces]
    return lines


def _middle_cut(name: str, width: int) -> str:
    """A file's name without its middle: the end tells it from its neighbours."""
    kept = len(name)
    while kept > 2 and text_mask(_without_middle(name, kept), TEXT_SIZE).shape[1] > width:
        kept -= 1
    return _without_middle(name, kept)


def _without_middle(name: str, kept: int) -> str:
    head = kept // 3
    return f"{name[:head]}{ELLIPSIS}{name[len(name) - (kept - head) :]}"


def _cell(grid: Grid, side: int) -> tuple[int, int]:
    """Width and height that hold every panel once its longer side is `side`."""
    shown = [_shown(panel, side) for row in grid.rows for panel in row.every_panel]
    return max(width for width, _ in shown), max(height for _, height in shown)


def _shown(panel: Panel, side: int) -> tuple[int, int]:
    height, width = panel.rgb.shape[:2]
    factor = side / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _draw_panel(canvas: Rgb, panel: Panel, corner: tuple[int, int], cell: tuple[int, int], side: int) -> None:
    height, width = panel.rgb.shape[:2]
    factor, shown = side / max(height, width), _shown(panel, side)
    picture = panel.rgb
    if shown != (width, height):
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST if factor >= 2 else cv2.INTER_CUBIC
        picture = np.asarray(cv2.resize(panel.rgb, shown, interpolation=way), np.uint8)
    x, y = corner[0] + (cell[0] - shown[0]) // 2, corner[1] + (cell[1] - shown[1]) // 2
    place = canvas[y : y + shown[1], x : x + shown[0]]
    place[:] = picture
    if panel.outline is not None:
        _draw_outline(place, panel.outline)
    if panel.note:
        _draw_note(place, panel.note)
    if panel.framed:
        inside = place[FRAME:-FRAME, FRAME:-FRAME].copy()
        place[:] = RED
        place[FRAME:-FRAME, FRAME:-FRAME] = inside


def _draw_caption(canvas: Rgb, caption: Text | None, corner: tuple[int, int], width: int) -> None:
    if caption is None:
        return
    number = f" {caption.number}" if caption.number else ""
    room = width - _width(number, size=SMALL_SIZE)
    words = caption.words
    if _width(words, size=SMALL_SIZE) > room:
        words = fitted(words, max(room - 2, 16), SMALL_SIZE)
    line = f"{words}{number}"
    left = corner[0] + max(0, width - _width(line, size=SMALL_SIZE)) // 2
    write(canvas, (left, corner[1]), line, SMALL_SIZE, INK)


def _draw_outline(place: NDArray[np.uint8], outline: NDArray[np.bool_]) -> None:
    """The border of a place: white between dark, so that it is seen on any picture."""
    height, width = place.shape[:2]
    mask = np.asarray(cv2.resize(outline.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    grown = cv2.dilate(np.pad(mask, 2), np.ones((3, 3), np.uint8))
    line = (grown - np.pad(mask, 2)).astype(np.uint8)
    around = cv2.dilate(line, np.ones((3, 3), np.uint8))[2:-2, 2:-2] > 0
    place[around] = INK
    place[line[2:-2, 2:-2] > 0] = WHITE


def _draw_frame(canvas: Rgb, left: int, top: int, right: int, bottom: int) -> None:
    """A frame around the place, outside of it."""
    inside = canvas[top:bottom, left:right].copy()
    canvas[top - FRAME : bottom + FRAME, left - FRAME : right + FRAME] = RED
    canvas[top:bottom, left:right] = inside


def _draw_note(place: NDArray[np.uint8], note: str) -> None:
    height = min(LINE + 4, place.shape[0])
    band = place[-height:]
    band[:] = band // 4
    line = fitted(note, place.shape[1] - 8, TEXT_SIZE)
    x = max(0, (place.shape[1] - text_mask(line, TEXT_SIZE).shape[1]) // 2)
    write(band, (x, max(0, (height - LINE) // 2)), line, TEXT_SIZE, WHITE)


def _label_place(grid: Grid, width: int) -> tuple[int, list[str]]:
    """Where the colour bar's label stands: beside the bar where there is room, else below it."""
    beside = MARGIN + BAR_WIDTH + 16
    room = width - beside - MARGIN
    if room >= 220 or text_mask(grid.scale_label, SMALL_SIZE).shape[1] <= room:
        return beside, wrapped(grid.scale_label, room, SMALL_SIZE, most=2)
    return MARGIN, wrapped(grid.scale_label, width - 2 * MARGIN, SMALL_SIZE, most=4)


def _draw_bar(canvas: Rgb, grid: Grid, top: int, label_left: int, label_lines: list[str]) -> None:
    colours = colormap_lut(grid.colormap)[np.linspace(0, 255, BAR_WIDTH).round().astype(int)]
    canvas[top : top + BAR_HEIGHT, MARGIN : MARGIN + BAR_WIDTH] = colours
    low, high = (f"{number:.3g}" for number in grid.scale_range)
    under = top + BAR_HEIGHT + 2
    write(canvas, (MARGIN, under), low, SMALL_SIZE, INK)
    write(canvas, (MARGIN + BAR_WIDTH - text_mask(high, SMALL_SIZE).shape[1], under), high, SMALL_SIZE, INK)
    if grid.scale_range[0] < 0:
        write(canvas, (MARGIN + BAR_WIDTH // 2 - 4, under), "0", SMALL_SIZE, INK)
    label_top = top - 2 if label_left > MARGIN else under + LINE
    for number, line in enumerate(label_lines):
        write(canvas, (label_left, label_top + number * (LINE - 3)), line, SMALL_SIZE, GREY)
