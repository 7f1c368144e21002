"""Fonts that have the letters of a text, and the masks that they draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import get_data_path
from numpy.typing import NDArray

from fe_gradcam import ArgumentError
from fe_gradcam.verdicts import lettering as module
from fe_gradcam.verdicts.lettering import Lettering, lettering

DEJAVU = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
HAS_FONTS = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV carries fonts from release 5 on")


def blocks(letters: str) -> Callable[[str], NDArray[np.uint8]]:
    """A font of squares as wide as the letter's place in the alphabet; a letter that it lacks is a line."""

    def drawn(text: str) -> NDArray[np.uint8]:
        canvas = np.zeros((40, 400), np.uint8)
        for at, letter in enumerate(text):
            wide = letters.find(letter) + 2 if letter in letters else 1
            canvas[10:20, 5 + 30 * at : 5 + 30 * at + wide] = 255
        return canvas

    return drawn


def test_a_mask_is_cut_to_its_letters() -> None:
    mask = Lettering("blocks", blocks("abc")).mask("ca")
    assert mask.shape == (10, 32)  # from 5 to 5 + 30 + 2
    assert (mask[:, :4] == 255).all() and not mask[:, 4:30].any() and (mask[:, 30:] == 255).all()


def test_a_font_lacks_a_letter_that_it_draws_as_one_that_no_font_has() -> None:
    font = Lettering("blocks", blocks("abc"))
    assert font.has("a b?")
    assert not font.has("abd")


def test_the_first_font_that_has_all_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = [Lettering(letters, blocks(letters)) for letters in ("ab", "abc", "abcd")]
    monkeypatch.setattr(module, "_fonts", lambda: iter(fonts))
    assert [one.name if one else None for one in map(lettering, ("b", "cab", "d", "e"))] == ["ab", "abc", "abcd", None]


def test_a_font_file_has_its_letters_and_no_other_font_helps_it_out() -> None:
    found = lettering("Образец", DEJAVU)
    assert found is not None and found.name == "DejaVuSans.ttf"
    assert lettering("捷径", DEJAVU) is None


def test_a_file_that_is_no_font_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"font='none\.ttf' cannot be read"):
        lettering("a", "none.ttf")


@HAS_FONTS
def test_opencv_has_chinese_letters_and_lacks_what_no_font_has() -> None:
    found = lettering("捷径 Образец 2026-11-27 Shortcut")
    assert found is not None and found.name == "the font that OpenCV carries"
    assert not found.has("\U0010fffe")
    letters = [found.mask(letter) for letter in "捷径"]
    assert all(0.6 < mask.shape[0] / module.LETTER < 1.2 and 0.1 < (mask > 127).mean() < 0.6 for mask in letters)


def test_without_fonts_of_opencv_those_of_the_system_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    monkeypatch.setattr(module, "SYSTEM_FONTS", ("none.ttf", str(DEJAVU)))
    found = lettering("Образец")
    assert found is not None and found.name == "DejaVuSans.ttf"
    assert lettering("捷径") is None
