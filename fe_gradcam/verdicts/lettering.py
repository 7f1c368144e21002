"""Text as masks, in a font that has its letters: one that is named, one that OpenCV carries, or one of the system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fe_gradcam.errors import Argument, ArgumentError, in_short
from fe_gradcam.files import FilePath

SYSTEM_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSerifCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "uming.ttc"),
    *("DroidSansFallbackFull.ttf", "msyh.ttc", "simsun.ttc", "PingFang.ttc", "STHeiti Light.ttc", "DejaVuSans.ttf"),
)
"""Font files, most with Chinese letters, that Pillow looks for in the folders of the system."""

LETTER = 160
"""Size in pixels at which text is drawn; masks are made smaller afterwards."""

NO_LETTER = "\U0010ffff"
"""A code point that no font has: it is drawn as a missing letter is."""


@dataclass(frozen=True)
class Lettering:
    """A font: its name, and what draws a line of text with it, 0 to 255."""

    name: str
    drawn: Callable[[str], NDArray[np.uint8]]

    def mask(self, text: str) -> NDArray[np.uint8]:
        """The line cut to its letters."""
        drawn = self.drawn(text)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        return drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    def has(self, text: str) -> bool:
        """Whether the font has all letters; those that it lacks are drawn alike."""
        missing = self.drawn(NO_LETTER)
        return all(not np.array_equal(self.drawn(letter), missing) for letter in {*text} - {" ", "?"})


def lettering(text: str, font: FilePath | None = None) -> Lettering | None:
    """A font with all letters of the text, or None if there is none.

    With `font`, the path of a font file, no other font is taken. Without it, the font that OpenCV carries (from release
    5 on) is tried, and then SYSTEM_FONTS.

    Raises:
        ArgumentError: The font file cannot be read.
    """
    if font is None:
        return next((one for one in _fonts() if one.has(text)), None)
    try:
        named = _of_file(os.fspath(font))
    except (OSError, TypeError, ValueError) as error:
        said = f" cannot be read ({error}). Pass the path of a .ttf, .otf or .ttc."
        raise ArgumentError(Argument("font", in_short(font)), said) from error
    return named if named.has(text) else None


def _fonts() -> Iterator[Lettering]:
    if hasattr(cv2, "FontFace"):
        yield Lettering("the font that OpenCV carries", _by_opencv)
    for name in SYSTEM_FONTS:
        try:
            found = _of_file(name)
        except OSError:
            continue
        yield found


def _by_opencv(text: str) -> NDArray[np.uint8]:
    opencv: Any = cv2  # releases before 5 have no fonts
    canvas = _canvas(text)
    opencv.putText(canvas, text, (LETTER // 2, LETTER * 4 // 3), 255, opencv.FontFace("uni"), LETTER, 400)
    return canvas


def _of_file(path: FilePath) -> Lettering:
    font = ImageFont.truetype(str(path), LETTER)

    def drawn(text: str) -> NDArray[np.uint8]:
        image = Image.fromarray(_canvas(text))
        ImageDraw.Draw(image).text((LETTER // 2, LETTER // 4), text, fill=255, font=font)
        return np.array(image)

    return Lettering(Path(path).name, drawn)


def _canvas(text: str) -> NDArray[np.uint8]:
    return np.zeros((2 * LETTER, (len(text) + 1) * LETTER), np.uint8)
