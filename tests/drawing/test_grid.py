"""The grid raster and its text: what a reader must be able to see in it."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fe_gradcam.drawing import text
from fe_gradcam.drawing.grid import (
    AMBER,
    INK,
    RED,
    TEXT_ROOM,
    UNSURE_LEGEND,
    WRONG_LEGEND,
    Grid,
    Panel,
    Row,
    Text,
    draw_grid,
)
from fe_gradcam.drawing.pixels import colormap_lut
from fe_gradcam.drawing.text import fitted, text_mask, wrapped
from fe_gradcam.errors import ArgumentError
from tests.drawing.places import places_of

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
ENLARGED = np.kron(PICTURE, np.ones((6, 6, 1), np.uint8))
"""As it is drawn."""


def row(
    wrong: bool = False,
    note: str = "",
    name: str = "cat",
    panels: int = 2,
    picture: np.ndarray = PICTURE,
    unsure: bool = False,
) -> Row:
    texts = (Text("id", "a.png"), Text("label", name), Text("prediction", name, "(87%)"))
    return Row(texts, wrong, tuple(Panel(picture, note if at else "") for at in range(panels)), unsure=unsure)


def bare(*texts: Text, panels: tuple[Panel, ...] = (Panel(PICTURE),), **more: Any) -> Grid:
    """A row without a title."""
    return Grid((Row(texts, False, panels, **more),), ("image",), "turbo", "s", (0.0, 1.0))


def grid(*rows: Row, titles: tuple[str, ...] = ("image", "grad_cam"), title: str = "eval, epoch 1") -> Grid:
    return Grid(rows, titles, "turbo", "evidence for the class", (0.0, 1.0), title)


def differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    assert one.shape == other.shape
    return (one != other).any(2)


def reds(picture: np.ndarray) -> np.ndarray:
    return (picture == np.array(RED)).all(2)


def times(part: np.ndarray, whole: np.ndarray) -> int:
    """How often a picture stands in another."""
    return len(places_of(part, whole))


def test_pictures_stand_in_it_as_they_are() -> None:
    """Enlarged by a whole number, pixel for pixel; 224 px 1:1; and no frame covers them."""
    assert times(ENLARGED, draw_grid(grid(row()))) == 2
    large = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert times(large, draw_grid(grid(row(wrong=True, picture=large), row(picture=large)))) == 4


def test_a_wrong_prediction_is_seen_at_a_glance_in_colour_and_in_grey() -> None:
    right, wrong = draw_grid(grid(row())), draw_grid(grid(row(wrong=True)))
    assert reds(right).sum() == 0
    assert reds(wrong).sum() > 1000
    height = min(right.shape[0], wrong.shape[0])
    in_grey = wrong[:height, -200:].mean(2) - right[:height, -200:].mean(2)
    assert (np.abs(in_grey) > 80).sum() > 500  # the frame is dark too
    assert times(_inked("✗", RED), wrong) >= 1


def test_a_guess_is_told_from_a_mistake_in_colour_and_without() -> None:
    """Amber for red, and dashes for a line, a question mark for the cross."""
    mistake, guess = (draw_grid(grid(row(wrong=True, unsure=unsure))) for unsure in (False, True))
    ambers = (guess == np.array(AMBER)).all(2)
    assert reds(guess).sum() == 0 == (mistake == np.array(AMBER)).all(2).sum()
    assert ambers.sum() > 500
    left = 14 + TEXT_ROOM + 12 - 3
    line, dashes = (
        one[left : left + 2 * 192 + 12]
        for one in (reds(mistake)[_top(reds(mistake), left)], ambers[_top(ambers, left)])
    )
    assert line.all()
    changes = np.flatnonzero(np.diff(dashes.astype(int)))
    assert len(changes) > 20 and np.diff(changes).max() <= 12  # dashes of 12 px, and 6 px between
    assert times(_inked("✗", RED), mistake) == 1 and times(_inked("✗", AMBER), guess) == 0
    assert times(_inked("? inferred: cat (87%)", AMBER), guess) == 1


def _top(marked: np.ndarray, left: int) -> int:
    """The row at which a frame begins."""
    return int(np.flatnonzero(marked[:, left:].sum(1) > 150)[0])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([row()], []), ([row(wrong=True)], [WRONG_LEGEND]), ([row(wrong=True, unsure=True)], [UNSURE_LEGEND]),
     ([row(), row(wrong=True, unsure=True), row(wrong=True)], [WRONG_LEGEND, UNSURE_LEGEND])],
)  # fmt: skip
def test_frames_are_explained_where_there_are_any(rows: list[Row], expected: list[str]) -> None:
    drawn = draw_grid(grid(*rows))
    said = [one for one in (WRONG_LEGEND, UNSURE_LEGEND) if times(_inked(one, INK, 12, "regular"), drawn)]
    assert said == expected


@pytest.mark.parametrize("cell", [48, 64, 94, 95, 112, 192])
def test_a_note_is_whole_in_cells_of_any_size(cell: int) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    drawn = draw_grid(bare(panels=(Panel(black, note="no evidence"),)), cell=cell)
    white = (255, 255, 255)

    def is_there(*lines: str) -> bool:
        return any(
            all(times(_inked(line, white, size, "regular", 0), drawn) == 1 for line in lines) for size in range(8, 15)
        )

    assert is_there("no evidence") or is_there("no", "evidence")


def test_the_head_of_a_narrow_column_is_whole() -> None:
    drawn = draw_grid(grid(row()), cell=48)
    assert any(times(_inked("image", INK, size), drawn) for size in range(10, 15))


def test_a_number_stands_behind_the_last_line_of_a_long_name_where_it_fits() -> None:
    name = "Lophophorus impejanus minor"
    drawn = draw_grid(bare(Text("class", name, "(87%)")))
    assert times(_inked("minor (87%)", INK), drawn) == 1


def test_title_and_subtitle_take_the_lines_that_they_need() -> None:
    short = draw_grid(grid(row()))
    with_both = draw_grid(replace(grid(row()), subtitle="grad_cam, layer features.5 (ReLU), map 7 x 7"))
    assert times(_inked("grad_cam, layer features.5 (ReLU), map 7 x 7", INK, 14, "regular"), with_both) == 1
    assert len(with_both) == len(short) + 20
    words = "a title of many words, of which none is cut off where there are lines left for them "
    long, other = (draw_grid(grid(row(), title=words + end)) for end in ("in all", "at all"))
    assert len(long) == len(short) + 24
    assert differing(long, other).sum() > 10


def _inked(
    letter: str, colour: tuple[int, int, int], size: int = 14, weight: Any = "bold", ground: int = 255
) -> np.ndarray:
    """The letter as it stands on white or black, cut to its ink."""
    mask = text_mask(letter, size, weight)
    share = mask[..., None].astype(np.float32) / 255
    picture = (ground * (1 - share) + np.array(colour, np.float32) * share + 0.5).astype(np.uint8)
    ys, xs = np.nonzero(mask)
    return picture[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def test_a_note_is_written_over_its_panel_alone() -> None:
    plain, note, other = (draw_grid(grid(row(note=note))) for note in ("", "no evidence", "nothing found"))
    changed = differing(plain, note)
    assert changed.sum() > 500
    assert np.nonzero(changed)[1].min() > changed.shape[1] // 2
    assert differing(note, other).sum() > 50


def test_the_colour_bar_runs_through_the_colormap_from_left_to_right() -> None:
    drawn, lut = draw_grid(grid(row())), colormap_lut("turbo")
    rows = np.flatnonzero((drawn[:, 14] == lut[0]).all(1))
    assert len(rows) == 12
    assert np.array_equal(drawn[rows[0], [14 + 159, 14 + 80]], lut[[255, 128]])


def test_the_ends_of_a_long_file_name_and_of_what_the_colour_bar_means_are_kept() -> None:
    name = "a_long_folder_name/of_a_patient/with_many_scans/slice_004"
    assert differing(*(draw_grid(bare(Text("id", f"{name}{end}.png"))) for end in "12")).sum() > 5
    words = "mean heat of the images, 1 where the class has most; 1 where it is at one place in all of them, 0 where "
    ends = [draw_grid(replace(grid(row()), scale_label=words + end)) for end in ("it moves", "it never")]
    assert differing(*ends).sum() > 20


@pytest.mark.parametrize("part", ["label", "prediction", "id", "title", "column", "scale"])
def test_every_text_is_drawn(part: str) -> None:
    def with_text(word: str) -> np.ndarray:
        texts = {"label": "cat", "prediction": "cat", "id": "one", "title": "t", "column": "c", "scale": "s"}
        texts[part] = word
        one = bare(*(Text(role, texts[role]) for role in ("id", "label", "prediction")))
        return draw_grid(replace(one, titles=(texts["column"],), scale_label=texts["scale"], title=texts["title"]))

    assert differing(with_text("dog"), with_text("god")).sum() > 20


def test_names_are_never_run_over_the_pictures() -> None:
    """However long: the row is higher then, and what does not fit ends in an ellipsis."""
    long = draw_grid(grid(row(name="Lophophorus impejanus " * 8)))
    assert long.shape[1] == 14 + TEXT_ROOM + 12 + 2 * 198 - 6 + 14
    assert times(ENLARGED, long) == 2


@pytest.mark.parametrize("columns", [1, 3, 7])
def test_the_width_is_the_same_whatever_is_said(columns: int) -> None:
    """So that the pictures of all epochs lie over each other; with a note, a frame, a second line too."""
    titles = ("image",) * columns
    shown = [
        row(name="x", panels=columns),
        row(name="Lophophorus impejanus " * 8, wrong=True, panels=columns),
        row(note="no evidence", wrong=True, unsure=True, panels=columns),
        replace(row(panels=columns), below=(None,) * columns, aside=(Text("class", "dog", "(3%)"),)),
    ]
    widths = {draw_grid(grid(one, titles=titles, title=title)).shape[1] for one in shown for title in ("t", "t " * 400)}
    assert len(widths) == 1


@pytest.mark.parametrize("columns", [1, 2, 4, 6])
def test_text_can_be_read_where_the_picture_is_as_wide_as_a_page(columns: int) -> None:
    """At 800 px of width it has 12 px, the small one 10; in no picture less than 14 and 12."""
    large = np.full((224, 224, 3), 90, np.uint8)
    shown = grid(row(picture=large, panels=columns, wrong=True), titles=("image",) * columns)
    drawn = draw_grid(shown)
    head = drawn[:160, -237:]  # that of the last column
    (size,) = [one for one in range(10, 40) if times(_inked("image", INK, one), head)]
    assert size == max(14, np.ceil(12 * drawn.shape[1] / 800))
    assert times(_inked("eval, epoch 1", INK, round(17 * size / 14)), drawn[:80, :500]) == 1
    small = _inked(WRONG_LEGEND, INK, round(12 * size / 14), "regular")
    assert times(small, drawn[-100:, :700]) == 1
    assert times(_inked("✗", RED, size), drawn[:, :300]) == 1


def test_in_columns_too_narrow_for_it_the_text_stays_small() -> None:
    """With 25 columns no title would fit at the size that a page asks for."""
    drawn = draw_grid(grid(row(panels=25), titles=("epoch 12",) * 25), cell=84)
    assert times(_inked("epoch 12", INK), drawn) == 25


@pytest.mark.parametrize("where", ["texts", "aside", "caption"])
def test_the_confidence_stays_whatever_the_length_of_the_name(where: str) -> None:
    def with_number(number: str) -> np.ndarray:
        said = Text("prediction", "a very long name of a class indeed, and more", number)
        panels = (Panel(PICTURE, caption=said if where == "caption" else None),)
        if where == "aside":
            return draw_grid(bare(below=(None,), aside=(said,)))
        return draw_grid(bare(*(said,) * (where == "texts"), panels=panels))

    assert differing(with_number("87%"), with_number("13%")).sum() > 10


def test_a_second_line_stands_under_the_first_within_the_frame() -> None:
    """The image is not repeated, and a right row beside it is no higher than before."""
    two_lines = replace(row(wrong=True), below=(None, Panel(255 - PICTURE)), aside=(Text("class", "dog", "3%"),))
    one_line, drawn = (draw_grid(grid(first, row())) for first in (row(wrong=True), two_lines))
    assert len(drawn) - len(one_line) == 6 * 32 + 6
    assert times(255 - ENLARGED, drawn) == 1
    assert times(ENLARGED, drawn) == 4
    corners = np.argwhere(reds(drawn))
    assert np.ptp(corners[:, 0][corners[:, 1] > 200]) + 1 == 2 * 6 * 32 + 6 + 6  # both lines, and 3 px around


@pytest.mark.parametrize("cell", [40, None])
def test_what_a_second_line_says_stands_within_the_frame_however_small_the_cell(cell: int | None) -> None:
    """At the right, beside the heat, half-way up; the frame grows where the words need it."""
    said, side = (Text("note", "the true class:"), Text("class", "dog", "3%")), cell or 192
    drawn = draw_grid(grid(replace(row(wrong=True), below=(None, Panel(PICTURE)), aside=said)), cell=cell)
    frame = reds(drawn)
    frame[:, : frame.sum(0).argmax()] = False  # the prediction, which is red too
    (top, left), (bottom, _) = np.argwhere(frame).min(0), np.argwhere(frame).max(0)
    empty = drawn[top + 3 + side + 6 : bottom - 2, left + 3 : left + 3 + side]
    ys, xs = np.nonzero((empty < 120).all(2))
    above, below = ys.min(), len(empty) - 1 - ys.max()
    assert len(empty) == side if cell is None else len(empty) > side
    assert above > 2 and below > 2 and abs(above - below) <= 4
    assert xs.min() >= 0 and 6 <= side - xs.max() <= 10


def test_frames_of_neighbours_are_apart() -> None:
    lines = reds(draw_grid(grid(row(wrong=True), row(wrong=True)))).sum(1) > 300
    assert np.diff(np.flatnonzero(lines)).tolist() == [1, 1, 193, 1, 1, 7, 1, 1, 193, 1, 1]  # 3 px, 6 px between


@pytest.mark.parametrize("count", [1, 20, 120])
@pytest.mark.parametrize("shape", [(28, 28), (9, 50), (700, 300), (120, 40), (1, 1)])
def test_any_number_of_rows_and_any_size(count: int, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 90, np.uint8)
    drawn = draw_grid(grid(*[row(picture=picture)] * count))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] > count * 20
    assert drawn.shape[1] < 2000
    assert draw_grid(bare(panels=(Panel(picture),))).shape[1] >= 160  # the colour bar, which may be wider


def test_cells_have_the_shape_of_the_pictures() -> None:
    flat = np.full((50, 200, 3), 90, np.uint8)
    drawn = draw_grid(grid(row(picture=flat, wrong=True)))
    assert drawn.shape[0] < 260
    assert times(flat, drawn) == 2


def test_without_texts_the_pictures_stand_at_the_left() -> None:
    assert draw_grid(bare()).shape[1] == 14 + 192 + 14
    assert draw_grid(bare(Text("label", ""))).shape[1] == 14 + TEXT_ROOM + 12 + 192 + 14


def test_mistakes_are_named() -> None:
    with pytest.raises(ArgumentError, match="grid has 0 rows and 2 titles"):
        draw_grid(grid())
    with pytest.raises(ArgumentError, match=r"grid\.rows\[0\] has 1 panels for 2 titles"):
        draw_grid(grid(row(panels=1)))
    with pytest.raises(ArgumentError, match="cell=3 is too small"):
        draw_grid(grid(row()), cell=3)
    with pytest.raises(ArgumentError, match=r"panel\.rgb has shape"):
        draw_grid(grid(row(picture=PICTURE[..., 0])))


SCRIPTS = ["cat", "κύκλος", "чашка", "قطة", "חתול", "猫", "犬", "고양이", "ขนม", "कुत्ता", "😀"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_any_script_gives_ink_of_its_own(name: str) -> None:
    assert text_mask(name, 14).max() > 200
    assert not any(np.array_equal(text_mask(name, 14), text_mask(other, 14)) for other in SCRIPTS if other != name)


def test_what_no_font_has_is_written_as_its_code_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_system_font_with", lambda point: None)
    monkeypatch.setattr(text, "text_width", text.text_width.__wrapped__)  # the caches know the fonts of the machine
    mask = text_mask.__wrapped__
    assert [run for run, _, _ in text._runs("a猫", 14, "regular")] == ["a", "U+732B "]
    assert mask("猫", 14).shape[1] > mask("a", 14).shape[1]
    assert mask("猫", 14).shape != mask("犬犬", 14).shape


def test_a_system_font_is_taken_where_it_has_the_character(monkeypatch: pytest.MonkeyPatch) -> None:
    bold, regular = text._dejavu("bold"), text._dejavu("regular")
    monkeypatch.setattr(text, "_system_font_with", lambda point: bold)
    runs = [(run, path) for run, path, _ in text._runs("a猫b", 14, "regular")]
    assert runs == [("a", regular), ("猫b", bold)]


@pytest.mark.parametrize("word", ["", " ", "\n", "a\tb\x00c", "\ud800", "é", "e\u0301"])
def test_odd_text_raises_nothing(word: str) -> None:
    assert text_mask(word, 14).ndim == 2
    assert isinstance(fitted(word, 50, 14), str)


def test_fitted_and_wrapped_keep_within_the_width() -> None:
    name = "Egyptian cat, seen from the left, asleep"
    short, lines = fitted(name, 100, 14), wrapped(name, 120, 14, most=2)
    assert fitted("cat", 200, 14) == "cat"
    assert short.endswith("…")
    assert name.startswith(short[:-1])
    assert text_mask(short, 14).shape[1] <= 100
    assert len(lines) == 2
    assert all(text_mask(line, 14).shape[1] <= 120 for line in lines)
    assert wrapped("two words", 500, 14) == ["two words"]


def test_titles_that_were_wrapped_leave_no_pictures_behind() -> None:
    """Each epoch has a title of its own."""
    words = " ".join(["eval, score_cam for the inferred class"] * 5)
    wrapped(words, 1200, 26, "bold")
    tracemalloc.start()
    try:
        for epoch in range(50):
            wrapped(f"epoch {epoch}: {words}", 1200, 26, "bold")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2**20
