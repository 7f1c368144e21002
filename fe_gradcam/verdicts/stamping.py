"""Stamps and their controls: text in a script, or a picture of the user's own, and how they are laid over pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, in_short, nearest
from fe_gradcam.files import FilePath
from fe_gradcam.spec.arrays import array_of, listed
from fe_gradcam.verdicts.lettering import lettering

TEXT_STAMPS = {"chinese": "捷径捷径捷径", "cyrillic": "Образец текста", "date": "2026-11-27 10:45"}
"""The stamps that need no file, by name: white text in one line."""

LATIN = ("Shortcut text", "Sample letters")
"""The controls of the text stamps: two, so that they can be held against each other."""

BLOCKS = 4
"""A stamp that is shuffled has so many blocks along its shorter side."""

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
"""The shares of red, green and blue in a grey value; source: ITU-R BT.601."""

StampSpec: TypeAlias = "str | Sequence[str] | Mapping[str, Any] | None"
"""What `fe_gradcam.react` takes as stamps."""


@dataclass(frozen=True, eq=False)
class Ink:
    """What is laid over a picture: (h, w, 4) float32 from 0 to 1, the colours times the cover, and the cover."""

    values: NDArray[np.float32]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        height, width = self.values.shape[:2]
        return height, width

    def resized(self, height: int, width: int) -> Ink:
        """The same in another size."""
        how = cv2.INTER_AREA if height * width < self.size[0] * self.size[1] else cv2.INTER_LINEAR
        return Ink(np.asarray(cv2.resize(self.values, (width, height), interpolation=how), np.float32))

    def within(self, height: float, width: float) -> Ink:
        """The same, as large as it fits into a frame in its own form."""
        times = min(height / self.size[0], width / self.size[1])
        return self.resized(*(max(1, round(side * times)) for side in self.size))

    def centred(self, height: int, width: int) -> Ink:
        """The same, as large as it fits, in the middle of a transparent frame."""
        inside, values = self.within(height, width), np.zeros((height, width, 4), np.float32)
        top, left = (height - inside.size[0]) // 2, (width - inside.size[1]) // 2
        values[top : top + inside.size[0], left : left + inside.size[1]] = inside.values
        return Ink(values)

    def shuffled(self, generator: np.random.Generator) -> Ink:
        """The same pixels in another order: blocks change places; what is left over at two borders stays."""
        side = max(1, min(self.size) // BLOCKS)
        down, across = self.size[0] // side, self.size[1] // side
        inner, values = (slice(down * side), slice(across * side)), self.values.copy()
        blocks = values[inner].reshape(down, side, across, side, 4).swapaxes(1, 2).reshape(-1, side, side, 4)
        again = generator.permutation(blocks).reshape(down, across, side, side, 4).swapaxes(1, 2)
        values[inner] = again.reshape(down * side, across * side, 4)
        return Ink(values)

    def over(self, pictures: Tensor, place: tuple[float, float], opacity: float, colours: Colours) -> None:
        """Lays it over pictures (N, C, H, W) in place; of the free room `place` lies to the left and above, 0 to 1."""
        (high, wide), (height, width) = self.size, pictures.shape[2:]
        top, left = round(place[1] * (height - high)), round(place[0] * (width - wide))
        colour = self.values[..., :3] if pictures.shape[1] == 3 else (self.values[..., :3] @ GREY_WEIGHTS)[..., None]
        tint, cover = (torch.from_numpy(one.transpose(2, 0, 1).copy()) for one in (colour, self.values[..., 3:]))
        tint, cover = tint.to(pictures), cover.to(pictures)
        own = tint * (colours.white - colours.black) + cover * colours.black
        under = pictures[:, :, top : top + high, left : left + wide]
        under.copy_(under * (1 - opacity * cover) + opacity * own)


@dataclass(frozen=True, eq=False)
class Colours:
    """Which of the model's numbers are black and white, by channel, (C, 1, 1); `said` says how they were found."""

    black: Tensor
    white: Tensor
    said: str

    @classmethod
    def of(cls, pictures: Tensor, mean: ArrayLike | None, std: ArrayLike | None, *, floats: bool = True) -> Colours:
        """The colours of pictures (N, C, H, W), which were integers if `floats` is False; see `fe_gradcam.react`."""
        low, high = float(pictures.min()), float(pictures.max())
        if mean is not None or std is not None:
            shift, factor = _per_channel("mean", mean, 0.0, pictures), _per_channel("std", std, 1.0, pictures)
            reach = 255 if (pictures * factor + shift).max() > 2 else 1
            return cls(-shift / factor, (reach - shift) / factor, "black and white by mean and std")
        for reach in (1, 255) if floats else (255,):
            if low >= 0 and (reach / 2 if floats else 0) <= high <= reach:
                black = torch.zeros_like(pictures[0, :, :1, :1])
                return cls(black, black + reach, f"black is 0 and white {reach}")
        said = (
            "black and white are the smallest and the largest number of each channel, for mean= and std= are not given"
        )
        return cls(pictures.amin((0, 2, 3))[:, None, None], pictures.amax((0, 2, 3))[:, None, None], said)

    def shown(self, image: Tensor) -> NDArray[np.uint8]:
        """An image (C, H, W) as a picture (H, W, 3)."""
        shares = (image - self.black) / (self.white - self.black).clamp(min=1e-12)
        return np.asarray((shares.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


@dataclass(frozen=True, eq=False)
class Stamp:
    """A stamp, its controls of the same size, and what both are in words."""

    name: str
    ink: Ink
    controls: tuple[Ink, ...]
    said: str


def stamp_of(name: str, given: Any, frame: tuple[float, float], font: FilePath | None, seed: int) -> Stamp | str:
    """A stamp that fits into a frame, in pixels high and wide, or why there is none.

    `given` is a user's picture, or a pair of it and its control; None stands for the text stamp of that name.

    Raises:
        ArgumentError: The picture, the control or the font cannot be read.
    """
    if given is None:
        text = TEXT_STAMPS[name]
        letters = lettering("".join((text, *LATIN)), font)
        if letters is None:
            return f"no font here has the letters of {text!r}; pass font= with a file that has"
        ink, *others = (_white(letters.mask(one)) for one in (text, *LATIN))
        ink = ink.within(*frame)
        said = f"{text!r} against {' and '.join(map(repr, LATIN))}, white, in {letters.name}"
        return Stamp(name, ink, tuple(one.centred(*ink.size) for one in others), said)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        ink, other = _read(name, given[0]).within(*frame), _read(name, given[1])
        return Stamp(name, ink, (other.resized(*ink.size),), "against a control of your own")
    ink, generator = _read(name, given).within(*frame), np.random.default_rng(seed)
    controls = ink.shuffled(generator), ink.shuffled(generator)
    if any(np.array_equal(one.values, ink.values) for one in controls):
        return "it looks the same with its pixels shuffled; pass a pair (stamp, control)"
    return Stamp(name, ink, controls, "against its own pixels, shuffled in blocks in two ways")


def stamps_by_name(asked: StampSpec) -> Iterator[tuple[str, Any]]:
    """The stamps that are asked for, each with its name; None stands for a text stamp.

    Raises:
        ArgumentError: It is neither names nor a dict, or is empty.
        UnknownNameError: There is no text stamp of that name.
    """
    names = list(TEXT_STAMPS) if asked is None else [asked] if isinstance(asked, str) else asked
    if isinstance(names, (list, tuple)) and all(isinstance(one, str) for one in names):
        names = dict.fromkeys(names)
    if not isinstance(names, Mapping):
        raise ArgumentError(
            f"stamps is a {type(asked).__name__}. Accepted: None, a name or a list of names "
            f"({', '.join(TEXT_STAMPS)}), or a dict {{name: picture}}."
        )
    if not len(names):
        raise ArgumentError("stamps is empty; at least one stamp is needed.")
    for name in listed("stamps", names, "a dict {name: picture}."):
        given = names[name]
        if given is None and name not in TEXT_STAMPS:
            said = f" is no text stamp{nearest(name, TEXT_STAMPS)} Accepted: {', '.join(TEXT_STAMPS)}; or a dict "
            raise UnknownNameError(Argument("stamps", in_short(name)), f"{said}{{name: picture}}.")
        yield name, given


PICTURE = (
    "a picture (h, w, 3), or (h, w, 4) with its opacity, of bytes or of floats from 0 to 1; a file's path; or a pair "
    "(stamp, control)."
)
"""What a stamp may be."""


def _white(cover: NDArray[np.uint8]) -> Ink:
    return Ink(np.repeat(cover[..., None].astype(np.float32) / 255, 4, 2))


def _read(name: str, given: Any) -> Ink:
    array = given
    if isinstance(given, (str, Path)):
        try:
            with Image.open(given) as image:
                array = image.convert("RGBA")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ArgumentError(
                f"stamps: the file of {in_short(name)} cannot be read ({error}). Pass a picture's path."
            ) from error
    array = array_of("stamps", array, PICTURE)
    reach = 255 if array.dtype == np.uint8 else 1
    fits = array.ndim == 3 and array.shape[2] in (3, 4) and array.size > 0 and array.dtype.kind in "uf"
    if not fits or not (array.min() >= 0 and array.max() <= reach):
        raise ArgumentError(
            f"stamps: {in_short(name)} has shape {array.shape} and dtype {array.dtype}. Accepted: {PICTURE}"
        )
    values = array.astype(np.float32) / reach
    cover = values[..., 3:] if array.shape[2] == 4 else np.ones((*array.shape[:2], 1), np.float32)
    return Ink(np.concatenate([values[..., :3] * cover, cover], 2))


def _per_channel(name: str, given: ArrayLike | None, default: float, pictures: Tensor) -> Tensor:
    """A number, or one for each channel, as (C, 1, 1)."""
    channels = pictures.shape[1]
    accepted = f"a number{' above 0' * (name == 'std')}, or one for each of the {channels} channels."
    numbers = array_of(name, default if given is None else given, accepted).astype(np.float64).reshape(-1)
    if numbers.size not in (1, channels) or not np.isfinite(numbers).all() or (name == "std" and (numbers <= 0).any()):
        raise ArgumentError(Argument(name, in_short(given)), f" is not accepted. Accepted: {accepted}")
    return torch.from_numpy(np.resize(numbers, channels)).to(pictures)[:, None, None]
