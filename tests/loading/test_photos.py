"""Photos of every kind, read as a network takes them; and which files are meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fe_gradcam.loading.photos import PhotoError, Preparation, image_files, read_photo, unique_names
from tests.models.squares import squares


@pytest.mark.parametrize("size", [(7, 5), (5, 7), (64, 64), (1, 3)])
@pytest.mark.parametrize("photo_size", [(41, 60), (60, 41), (1, 1), (333, 2)])
def test_every_photo_comes_to_size(tmp_path: Path, size: tuple[int, int], photo_size: tuple[int, int]) -> None:
    Image.new("RGB", photo_size, (10, 20, 30)).save(tmp_path / "photo.png")
    read = read_photo(tmp_path / "photo.png", Preparation(size))
    left, top, right, bottom = read.box
    assert read.picture.shape == (*size, 3)
    assert (read.picture == [10, 20, 30]).all()
    assert 0 <= left < right <= photo_size[0]
    assert 0 <= top < bottom <= photo_size[1]
    assert left == 0 or top == 0
    assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0])


def test_photos_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    Image.fromarray(squares((16, 32))).save(tmp_path / "turned.png", exif=exif)
    read = read_photo(tmp_path / "turned.png", Preparation((32, 16)))
    assert read.size == (32, 16)
    assert read.picture[4, 12].tolist() == [255, 0, 0], "red, at the upper left, comes to the upper right"


CLEAR = Image.new("P", (4, 4), 0)
CLEAR.info["transparency"] = 0

MODES = {
    "grey": (Image.new("L", (4, 4), 100), "png", [100] * 3),
    "bits": (Image.new("1", (4, 4), 1), "png", [255] * 3),
    "16 bits": (Image.fromarray(np.full((4, 4), 100 * 257, np.uint16)), "png", [100] * 3),
    "16 bits in TIFF": (Image.fromarray(np.full((4, 4), 65535, np.uint16)), "tif", [255] * 3),
    "integers": (Image.fromarray(np.full((4, 4), 100 * 257, np.int32)), "tif", [100] * 3),
    "half transparent": (Image.new("RGBA", (4, 4), (255, 0, 0, 102)), "png", [255, 153, 153]),
    "transparent grey": (Image.new("LA", (4, 4), (0, 0)), "png", [255] * 3),
    "palette": (Image.new("RGB", (4, 4), (9, 99, 199)).quantize(4), "png", [9, 99, 199]),
    "palette with a transparent entry": (CLEAR, "png", [255] * 3),
    "cmyk": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "tif", [255, 0, 0]),
}


@pytest.mark.parametrize(("photo", "suffix", "expected"), MODES.values(), ids=MODES)
def test_pixels_of_every_kind(tmp_path: Path, photo: Image.Image, suffix: str, expected: list[int]) -> None:
    path = tmp_path / f"photo.{suffix}"
    photo.save(path)
    assert read_photo(path, Preparation((4, 4))).picture[1, 2].tolist() == expected
    grey = read_photo(path, Preparation((4, 4), channels=1)).picture[1, 2]
    assert grey.tolist() == [round(float(np.dot(expected, [0.299, 0.587, 0.114])))] * 3


def test_what_cannot_be_read_is_told_with_a_reason(tmp_path: Path) -> None:
    Image.fromarray(squares((64, 64))).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "floats.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "large.tif")
    reasons = {
        "cut.jpg": "(?i)truncated", "text.png": "no image", "empty.png": "no image", "floats.tif": "floating-point",
        "large.tif": "beyond 16 bits", "gone.png": "No such file",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(PhotoError, match=reason):
            read_photo(tmp_path / name, Preparation((4, 4)))


def test_folders_give_their_images_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "below/c.png", ".git/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(squares()).save(folder / name, "PNG")
    a, b, c = (folder / name for name in ("a.JPG", "b.png", "below/c.png"))
    assert image_files([folder]) == [a, b]
    assert image_files([folder], recursive=True) == [a, b, c]
    assert image_files([b, folder]) == [b, a]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match=r"another folder, or look below it with recursive=\.$"):
        image_files([folder, tmp_path / "empty"])


def test_names_are_free_of_each_other() -> None:
    paths = [Path(name) for name in ("a/x.png", "a/x.jpg", "b/a_x.png", "b/y.png", "c/A_X.png")]
    names = unique_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[3] == "y"
