"""Image files as networks take them: found in folders, read, turned upright, cut to size, normalised."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fe_gradcam.errors import Argument, CamError
from fe_gradcam.files import unused

Fit: TypeAlias = Literal["crop", "stretch"]
"""How a photo is brought to the size of the network: its centre is cut out, or all of it is stretched."""

ValueRange: TypeAlias = Literal["unit", "byte"]
"""The range of pixels before the normalisation: [0, 1] or [0, 255]."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The files that are taken from a folder; a file that is named itself may end in anything."""


class PhotoError(CamError):
    """A file that cannot be read as an image; the message is only the reason."""


@dataclass(frozen=True)
class Preparation:
    """The preparation of a photo for a network.

    Attributes:
        size: (H, W) of the network's images, whose channels are 1 or 3.
        mean: One number, or one per channel, that is subtracted from the pixels.
        std: One number, or one per channel, that the result is divided by.
    """

    size: tuple[int, int]
    channels: int = 3
    fit: Fit = "crop"
    value_range: ValueRange = "unit"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a photo of this size that the network sees: left, top, right, bottom.

        Example:
            >>> Preparation((224, 224)).box(300, 450)
            (75.0, 0.0, 375.0, 300.0)
        """
        if self.fit == "stretch":
            return 0.0, 0.0, float(width), float(height)
        high, wide = self.size
        if width * high > height * wide:
            kept_width, kept_height = height * wide / high, float(height)
        else:
            kept_width, kept_height = float(width), width * high / wide
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        return left, top, left + kept_width, top + kept_height

    def inputs(self, pictures: NDArray[np.uint8], *, channels_first: bool) -> NDArray[np.float32]:
        """Pictures (N, H, W, 3) as the network takes them, (N, C, H, W) or (N, H, W, C)."""
        values = pictures[..., : self.channels].astype(np.float32)
        if self.value_range == "unit":
            values /= np.float32(255)
        values = np.asarray((values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32), np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if channels_first else values


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as the network sees it.

    Attributes:
        picture: (H, W, 3) uint8, before the normalisation; for a network with one channel, the grey values three times.
        size: (H, W) of the file's image, upright.
        box: The part of that image that the network sees: left, top, right, bottom.
    """

    path: Path
    picture: NDArray[np.uint8]
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def read_photo(path: Path, preparation: Preparation) -> Photo:
    """Reads a photo and cuts it to size.

    The photo is turned as its EXIF entry says. Transparent parts are shown on white. Values of 16 bits are divided by
    257, so that white stays white. An animation gives its first picture.

    Raises:
        PhotoError: The file cannot be read, for any reason.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise PhotoError("it is no regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large photos and of faults that it mends
            with Image.open(path) as file:
                image = _plain(ImageOps.exif_transpose(file) or file, preparation.channels)
        width, height = image.size
        box = preparation.box(height, width)
        image = image.resize(preparation.size[::-1], Image.Resampling.BILINEAR, box)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError("it is no image, or its format is not known") from None
    except Exception as error:  # decoders of broken files raise anything
        raise PhotoError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
    return Photo(path, np.array(image.convert("RGB")), (height, width), box)


def image_files(given: Sequence[Path], *, recursive: bool = False, without: Path | None = None) -> list[Path]:
    """The files to read, each once: those that are named, and for each folder its image files, sorted.

    `recursive` includes subfolders. Files in the folder `without` are left out, unless they are named themselves.

    Raises:
        PhotoError: A folder holds no image file.
    """
    files: dict[Path, Path] = {}
    for path in given:
        found = list(_in_folder(path, recursive, without)) if path.is_dir() else [path]
        if not found:
            said = f"{str(path)!r} holds no image file ({' '.join(IMAGE_SUFFIXES)}). Name files, or another folder"
            raise PhotoError(said, *[", or look below it with ", Argument("recursive", "")] * (not recursive), ".")
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its stem; equal stems get the folder in front, and a number if that is not enough.

    Example:
        >>> unique_names([Path("a/cat.png"), Path("b/cat.png"), Path("a/dog.png"), Path("a/cat.jpg")])
        ['a_cat', 'b_cat', 'dog', 'a_cat_2']
    """
    counts = Counter(path.stem.casefold() for path in paths)
    taken = {stem for stem, count in counts.items() if count == 1}
    alone = [path.stem.casefold() in taken for path in paths]
    return [
        path.stem if free else unused(f"{path.resolve().parent.name}_{path.stem}", taken)
        for path, free in zip(paths, alone, strict=True)
    ]


def _in_folder(folder: Path, recursive: bool, without: Path | None) -> Iterator[Path]:
    excluded = None if without is None else without.resolve()
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        if excluded is None or not path.resolve().is_relative_to(excluded):
            yield path


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """The image with 8 bits for each of 1 or 3 channels, without transparency."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _of_16_bits(image)
    if image.mode == "F":
        raise PhotoError("its pixels are floating-point numbers, whose range is not known")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PhotoError("its pixels are integers beyond 16 bits, whose range is not known")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
