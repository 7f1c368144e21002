"""Cards beside each other: the shape of the picture, and where everything stands."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fe_gradcam.drawing.cards import NARROWEST, draw_cards
from fe_gradcam.drawing.grid import RED, Grid, Panel, Row, Text
from tests.drawing.places import places_of


def grid_of(count: int, *, wrong: tuple[int, ...] = (), size: tuple[int, int] = (64, 64)) -> Grid:
    """Cards whose two pictures are all of one colour each, no two alike."""
    rows = []
    for at in range(count):
        warning = (Text("warning", "told by the lower right corner?"),) if at in wrong else ()
        colours = (
            np.zeros((2, *size, 3), np.uint8) + np.array([[3 * at + 1, 90, 40], [3 * at + 1, 40, 90]])[:, None, None]
        )
        texts = (Text("class", f"class {at}"), Text("note", "7 images"), *warning)
        rows.append(Row(texts, at in wrong, tuple(Panel(one.astype(np.uint8)) for one in colours)))
    return Grid(tuple(rows), ("mean image", "mean heat"), "turbo", "what it means", (0.0, 1.0), "a title")


def corner_of(canvas: NDArray[np.uint8], panel: Panel, side: int = 128) -> tuple[int, int]:
    """Where a picture stands, of one colour, whose side is known."""
    rows, columns = np.nonzero((canvas == panel.rgb[0, 0]).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (side, side)
    return int(rows.min()), int(columns.min())


@pytest.mark.parametrize(("count", "across"), [(1, 1), (2, 2), (3, 2), (10, 4), (25, 5), (60, 8)])
def test_cards_make_a_picture_that_fits_a_screen(count: int, across: int) -> None:
    grid = grid_of(count)
    canvas = draw_cards(grid)
    side = 224 if count <= 4 else 128
    firsts = [corner_of(canvas, row.panels[0], side) for row in grid.rows]
    assert len({column for _, column in firsts}) == across
    assert firsts == sorted(firsts)  # line by line
    shape = canvas.shape[1] / canvas.shape[0]
    assert 1 < shape < (1.7 if count != 2 else 2.5)  # two stand in one line
    assert canvas.shape[1] >= NARROWEST


def test_both_pictures_of_a_card_stand_side_by_side_and_all_of_a_line_at_one_height() -> None:
    grid = grid_of(10, wrong=(2,))
    canvas = draw_cards(grid)
    corners = [[corner_of(canvas, panel) for panel in row.panels] for row in grid.rows]
    for (top, left), (other_top, other_left) in corners:
        assert other_top == top
        assert left + 128 < other_left < left + 128 + 20
    assert len({pair[0][0] for pair in corners[:4]}) == 1


def test_a_frame_holds_a_card_with_its_warning_and_touches_no_other() -> None:
    grid = grid_of(10, wrong=(1, 2, 5))
    canvas = draw_cards(grid)
    red = (canvas == RED).all(-1)
    for number in (1, 2, 5):
        (top, left), (_, right) = (corner_of(canvas, panel) for panel in grid.rows[number].panels)
        middle = (left + right + 128) // 2
        above = np.flatnonzero(red[:top, middle])[-1]
        below = top + 128 + np.flatnonzero(red[top + 128 :, left : right + 128].all(1))[0]
        assert top - above > 2 * 20  # the two lines of text are inside
        assert below - (top + 128) > 20  # and so is the warning
        assert red[above:below, :left].any(1).all()
    for row in grid.rows:  # no frame runs over a picture
        for panel in row.panels:
            corner_of(canvas, panel)


def test_pictures_that_are_not_square_keep_their_shape() -> None:
    grid = grid_of(6, size=(32, 64))
    canvas = draw_cards(grid)
    rows, columns = np.nonzero((canvas == grid.rows[0].panels[0].rgb[0, 0]).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (80, 160)
    assert len(places_of(np.full((80, 160, 3), grid.rows[5].panels[1].rgb[0, 0]), canvas)) == 1
