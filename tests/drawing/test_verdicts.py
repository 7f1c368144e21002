"""The sheet of verdicts: which classes stand on it, and what beside their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fe_gradcam import ArgumentError, draw_verdicts
from fe_gradcam.drawing.verdicts import MOST_VERDICTS, TRIALS_SHOWN
from fe_gradcam.verdicts.verdict import Evidence, Trial, Verdict


def trial(**more: Any) -> Trial:
    given, changed = np.zeros((3, 20, 30), np.float32), np.zeros((3, 20, 30), np.float32)
    given[:, 5:9, 5:9] = changed[:, 12:15, 3:6] = 1
    return Trial(0, given, changed, 0.98, 0.124, "corner covered", **more)


def verdict(class_id: int, code: Any, level: Any = "tested", trials: int = 1) -> Verdict:
    found = Evidence("place", level, code, "Said.", {"kept_other": 0.125, "gap": 0.5}, 12, [trial()] * trials)
    return Verdict.of(class_id, f"class {class_id}", [found], 12)


def words(row: Any) -> list[str]:
    return [f"{text.words} {text.number}".strip() for text in row.texts]


def test_those_accused_stand_first_then_those_suspected_and_the_others_are_named() -> None:
    found = [verdict(0, None), verdict(1, "sign", "suspected"), verdict(2, "place"), verdict(3, None, "not tested")]
    picture = draw_verdicts(found, title="eval")
    grid = picture.grid
    assert [words(row)[0] for row in grid.rows] == ["class 2", "class 1"]
    figures = ["12 images, tested", "told, other surroundings: 0.12", "shown: corner covered"]
    assert words(grid.rows[0])[1:] == ["told by a place of the frame", *figures]
    assert [text.role for text in grid.rows[0].texts][1] == "warning"
    assert [text.role for text in grid.rows[1].texts][1] == "doubt"
    assert grid.title == "eval, what each class is told by"
    assert grid.subtitle == "No shortcut found: class 0. Not judged: class 3."
    assert grid.scale_label == ""
    assert picture.rgb.ndim == 3


def test_each_image_stands_as_given_and_as_changed_with_its_probabilities() -> None:
    (row,) = draw_verdicts([verdict(2, "place", trials=2)]).grid.rows
    assert [panel.caption.number for panel in row.panels] == ["98%", "12%"] * 2
    given, changed = row.panels[0].rgb, row.panels[1].rgb
    assert given.shape == changed.shape == (20, 30, 3)
    assert given[6, 6].tolist() == changed[13, 4].tolist() == [255] * 3
    assert given[13, 4].tolist() == changed[6, 6].tolist() == [0] * 3


def test_images_that_are_missing_leave_white_and_there_are_never_more_than_fit() -> None:
    rows = draw_verdicts([verdict(0, "place", trials=9), verdict(1, "sign", trials=1)]).grid.rows
    assert {len(row.panels) for row in rows} == {2 * TRIALS_SHOWN}
    assert (rows[1].panels[2].rgb == 255).all()
    many = draw_verdicts([verdict(at, "place") for at in range(MOST_VERDICTS + 2)]).grid
    assert len(many.rows) == MOST_VERDICTS
    assert many.title == f"what each class is told by, {MOST_VERDICTS} of {MOST_VERDICTS + 2} classes"


def test_if_nothing_is_found_all_classes_are_drawn() -> None:
    grid = draw_verdicts([verdict(0, None), verdict(1, None, trials=0)]).grid
    assert [words(row)[1] for row in grid.rows] == ["no shortcut found"] * 2
    assert grid.subtitle == ""
    assert draw_verdicts([verdict(1, None, trials=0)]).rgb.size


@pytest.mark.parametrize("given", [[], [3], verdict(0, None)])
def test_what_is_no_list_of_verdicts_is_an_error(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"verdicts=.* Accepted: a list of at least one Verdict"):
        draw_verdicts(given)
