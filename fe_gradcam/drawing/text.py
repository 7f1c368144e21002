"""Text in any script as small coverage masks, in the font that matplotlib ships and in fonts of the system.

Pillow, which comes with matplotlib, shapes and draws it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Weight = Literal["regular", "bold"]
ELLIPSIS = "…"


@lru_cache(maxsize=512)
def text_mask(text: str, size: int, weight: Weight = "regular") -> NDArray[np.uint8]:
    """The coverage (height, width) of a line of text, 0 to 255, read-only; the height depends on `size` alone.

    `size` is the size of the font in pixels. Control characters count as spaces; a character that no font on the
    machine has is written as its code point, ``U+732B``.
    """
    from PIL import Image, ImageDraw

    ascent, descent = _font(_dejavu(weight), size).getmetrics()
    mask = Image.new("L", (text_width(text, size, weight), ascent + descent))
    pen, x = ImageDraw.Draw(mask), 0.0
    for run, path, run_size in _runs(text, size, weight):
        font = _font(path, run_size)
        pen.text((x, ascent), run, fill=255, font=font, anchor="ls")
        x += font.getlength(run)
    array = np.array(mask, dtype=np.uint8)
    array.setflags(write=False)
    return array


@lru_cache(maxsize=4096)
def text_width(text: str, size: int, weight: Weight = "regular") -> int:
    """The width of a line of text in pixels, as `text_mask` has it."""
    lengths = [_font(path, run_size).getlength(run) for run, path, run_size in _runs(text, size, weight)]
    return max(1, int(np.ceil(sum(lengths))) + 1)


def fitted(text: str, width: int, size: int, weight: Weight = "regular") -> str:
    """The text, or as much of its beginning as fits into `width` pixels before an ellipsis."""
    text = " ".join(text.split())
    if text_width(text, size, weight) <= width:
        return text

    def cut(kept: int) -> str:
        return text[:kept].rstrip() + ELLIPSIS

    return cut(bisect(range(1, len(text) + 1), width, key=lambda kept: text_width(cut(kept), size, weight)))


def without_middle(name: str, width: int, size: int) -> str:
    """A file's name with an ellipsis for its middle, so that it fits: its end tells it from its neighbours."""

    def cut(kept: int) -> str:
        return f"{name[: kept // 3]}{ELLIPSIS}{name[len(name) - (kept - kept // 3) :]}"

    return cut(max(2, bisect(range(1, len(name) + 1), width, key=lambda kept: text_width(cut(kept), size))))


def shortened(name: str, width: int, size: int) -> str:
    """A file's name, without its middle if it is wider than `width` pixels."""
    return name if text_width(name, size, "bold") <= width else without_middle(name, width, size)


def wrapped(text: str, width: int, size: int, weight: Weight = "regular", most: int = 2) -> list[str]:
    """The text in at most `most` lines of at most `width` pixels; the last one ends in an ellipsis if text is cut.

    A word that is too long is broken after an underscore, a bracket or a comma, if it has one.
    """
    lines: list[str] = []
    words = [word for whole in text.split() for word in _broken(whole, width, size, weight)]
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and text_width(_together(words[: taken + 1]), size, weight) <= width:
            taken += 1
        line = _together(words[:taken])
        if text_width(line, size, weight) > width:
            break
        lines.append(line)
        words = words[taken:]
    return [*lines, fitted(_together(words), width, size, weight)] if words or not lines else lines


_NO_SPACE = "\x00"
"""Ends a piece of a word; the next piece follows without a space."""


def _broken(word: str, width: int, size: int, weight: Weight) -> list[str]:
    """The word, or its pieces if it is too long."""
    if text_width(word, size, weight) <= width:
        return [word]
    *pieces, last = filter(None, re.split(r"(?<=[_(,])", word))
    return [*(piece + _NO_SPACE for piece in pieces), last]


def _together(words: Sequence[str]) -> str:
    return " ".join(words).replace(f"{_NO_SPACE} ", "").replace(_NO_SPACE, "")


def _runs(text: str, size: int, weight: Weight) -> Iterator[tuple[str, Path, int]]:
    """The text in pieces, each of one font: the piece, the font's file and its size."""
    dejavu = current = _dejavu(weight)
    pieces = []
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs"):
            character = " "
        font = _font_with(character, dejavu, current)
        code, small = f"U+{ord(character):04X} ", max(7, round(0.7 * size))
        pieces.append((code, dejavu, small) if font is None else (character, font, size))
        current = font or dejavu
    for (path, font_size), group in groupby(pieces, key=lambda piece: piece[1:]):
        yield "".join(piece for piece, *_ in group), path, font_size


def _font_with(character: str, dejavu: Path, current: Path) -> Path | None:
    """A font that has the character: the one in use, DejaVu, or one of the system."""
    for path in (current, dejavu):
        if ord(character) in _covered(path):
            return path
    ignorable = unicodedata.category(character) in ("Cf", "Mn", "Zs")
    return current if ignorable else _system_font_with(ord(character))


@lru_cache(maxsize=4096)
def _system_font_with(point: int) -> Path | None:
    from matplotlib.font_manager import fontManager

    entries = sorted(fontManager.ttflist, key=lambda entry: (entry.style != "normal", str(entry.weight) != "400"))
    paths = (Path(entry.fname) for entry in entries if "LastResort" not in entry.fname)
    return next((path for path in paths if path.exists() and point in _covered(path)), None)


@lru_cache(maxsize=256)
def _covered(path: Path) -> frozenset[int]:
    """The code points that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):  # a broken font file of the system
        return frozenset()


@lru_cache(maxsize=256)
def _font(path: Path, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=2)
def _dejavu(weight: Weight) -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf" if weight == "bold" else "DejaVuSans.ttf")
