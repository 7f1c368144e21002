"""Stamps, their controls, and how they lie over pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fe_gradcam import ArgumentError, UnknownNameError
from fe_gradcam.verdicts import lettering, stamping
from fe_gradcam.verdicts.stamping import TEXT_STAMPS, Colours, Ink, Stamp, stamp_of, stamps_by_name

ONE = torch.ones(3, 1, 1)
PLAIN = Colours(0 * ONE, ONE, "")


def ink(height: int, width: int, seed: int = 0) -> Ink:
    return Ink(np.random.default_rng(seed).random((height, width, 4), np.float32))


def made(given: Any, frame: tuple[float, float] = (40, 40), name: str = "mine") -> Stamp:
    found = stamp_of(name, given, frame, None, 0)
    assert isinstance(found, Stamp), found
    return found


def laid(one: Ink, place: tuple[float, float], opacity: float, colours: Colours = PLAIN, fill: float = 0.2) -> Any:
    pictures = torch.full((2, len(colours.black), 10, 20), fill)
    one.over(pictures, place, opacity, colours)
    return pictures.numpy()


def test_ink_covers_its_place_and_nothing_else() -> None:
    white = Ink(np.ones((4, 6, 4), np.float32))
    found = laid(white, (1, 0.5), 0.5)
    assert_allclose(found[:, :, 3:7, 14:], 0.6, rtol=1e-6)  # half of 0.2, half of 1
    found[:, :, 3:7, 14:] = 0.2
    assert_allclose(found, 0.2, rtol=1e-6)


def test_ink_that_is_half_transparent_counts_half() -> None:
    red = Ink(np.tile(np.array([0.5, 0, 0, 0.5], np.float32), (10, 20, 1)))  # red times the cover
    found = laid(red, (0, 0), 0.8)
    assert_allclose(found[0, :, 5, 5], [0.2 * 0.6 + 0.4, 0.2 * 0.6, 0.2 * 0.6], rtol=1e-6)


def test_ink_lies_in_the_numbers_of_the_model() -> None:
    """Normalised before or after, a picture with ink is the same."""
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.1])[:, None, None]
    one = ink(5, 7)
    one.values[..., :3] *= one.values[..., 3:]
    normalised = torch.full((1, 3, 10, 20), 0.2).sub(mean).div(std)
    one.over(normalised, (0.3, 0.7), 0.6, Colours.of(normalised, mean.flatten(), std.flatten()))
    assert_allclose((normalised * std + mean)[0].numpy(), laid(one, (0.3, 0.7), 0.6)[0], atol=1e-6)


def test_a_grey_picture_gets_grey_ink() -> None:
    green = Ink(np.tile(np.array([0, 1, 0, 1], np.float32), (10, 20, 1)))
    assert_allclose(laid(green, (0, 0), 1, Colours(0 * ONE[:1], ONE[:1], "")), 0.587, rtol=1e-6)


def test_a_stamp_is_as_large_as_it_fits_in_its_own_form() -> None:
    assert ink(10, 30).within(40, 60).size == (20, 60)
    assert ink(30, 10).within(40, 60).size == (40, 13)
    middle = Ink(np.ones((10, 10, 4), np.float32)).centred(6, 20)
    assert middle.size == (6, 20) and middle.values[:, 7:13].all() and middle.values.sum() == 6 * 6 * 4


def test_shuffled_ink_has_the_same_pixels_block_by_block() -> None:
    one = ink(9, 14)  # blocks of 2: 4 x 7, and a row that is left over
    found = one.shuffled(np.random.default_rng(1))
    assert not np.array_equal(found.values, one.values)
    assert np.array_equal(found.values[8:], one.values[8:])

    def blocks(of: Ink) -> list[bytes]:
        inner = of.values[:8]
        return sorted(inner[y : y + 2, x : x + 2].tobytes() for y in range(0, 8, 2) for x in range(0, 14, 2))

    assert blocks(found) == blocks(one)


def test_a_stamp_of_ones_own_has_two_shuffled_controls_or_the_one_that_is_given() -> None:
    picture = np.random.default_rng(0).random((20, 20, 3))
    first, second = made(picture).controls
    assert first.size == second.size == (40, 40) and not np.array_equal(first.values, second.values)
    (own,) = made((picture, np.zeros((5, 5, 3)))).controls
    assert own.size == (40, 40) and not own.values[..., :3].any() and (own.values[..., 3] == 1).all()


def test_a_stamp_that_looks_the_same_shuffled_says_so() -> None:
    assert "pass a pair" in str(stamp_of("flat", np.ones((8, 8, 3)), (8, 8), None, 0))


def test_a_file_is_read_with_its_opacity_and_bytes_are_floats(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 4), np.uint8)
    cv2.imwrite(str(tmp_path / "logo.png"), picture[..., [2, 1, 0, 3]])
    by_file, by_bytes, by_floats = (made(one) for one in (tmp_path / "logo.png", picture, picture / 255))
    assert_allclose(by_file.ink.values, by_bytes.ink.values)
    assert_allclose(by_floats.ink.values, by_bytes.ink.values, atol=1e-6)
    clear = np.dstack([np.ones((12, 12, 3)), np.zeros((12, 12))])
    assert not made((clear, picture)).ink.values.any()  # white that is transparent


@pytest.mark.parametrize(
    "given", [np.ones((4, 4)), np.ones((4, 4, 2)), np.full((4, 4, 3), 2.0), np.ones((4, 4, 3), int), 3]
)
def test_what_is_no_picture_is_an_error(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"stamps: 'mine' has shape .* Accepted"):
        stamp_of("mine", given, (8, 8), None, 0)


def test_a_file_that_is_no_picture_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"stamps: the file of 'mine' cannot be read"):
        stamp_of("mine", "none.png", (8, 8), None, 0)


def test_text_and_its_controls_are_of_one_size_and_one_font(monkeypatch: pytest.MonkeyPatch) -> None:
    font = lettering.lettering("Образец текстаShortcut text")
    assert font is not None
    monkeypatch.setattr(stamping, "lettering", lambda text, _: font)
    found = made(None, (100, 200), "cyrillic")
    assert found.ink.size[1] == 200 and font.name in found.said
    for one in found.controls:
        assert one.size == found.ink.size
        assert one.values[..., 3].any(0).sum() > 120 or one.values[..., 3].any(1).sum() == one.size[0]
    monkeypatch.setattr(stamping, "lettering", lambda text, _: None)
    assert "no font here has the letters of 'Образец текста'" in str(stamp_of("cyrillic", None, (9, 9), None, 0))


def test_stamps_are_named_or_given() -> None:
    assert dict(stamps_by_name(None)) == dict.fromkeys(TEXT_STAMPS)
    assert dict(stamps_by_name("date")) == {"date": None}
    assert dict(stamps_by_name(["date", "chinese"])) == {"date": None, "chinese": None}
    assert dict(stamps_by_name({"chinese": None, "mine": "logo.png"})) == {"chinese": None, "mine": "logo.png"}
    with pytest.raises(UnknownNameError, match=r"stamps='chines' is no text stamp; did you mean 'chinese'\?"):
        list(stamps_by_name("chines"))
    for wrong in ([], {}, 3, [3], np.ones((4, 4, 3))):
        with pytest.raises(ArgumentError, match=r"stamps is an? \w+\. Accepted|stamps is empty"):
            list(stamps_by_name(wrong))  # type: ignore[arg-type]


COLOURS = {
    "unit": (torch.tensor([0.1, 0.9]), {}, 0, 1, "black is 0 and white 1"),
    "bytes": (torch.tensor([3.0, 200.0]), {}, 0, 255, "black is 0 and white 255"),
    "range": (torch.tensor([-0.5, 1.5]), {}, -0.5, 1.5, "smallest and the largest"),
    "mean and std": (torch.tensor([-1.0, 1.0]), {"mean": 0.5, "std": 0.5}, -1, 1, "by mean and std"),
    "mean of bytes": (torch.tensor([-1.0, 1.0]), {"mean": 128, "std": 64}, -2, 127 / 64, "by mean and std"),
    "std alone": (torch.tensor([0.0, 3.0]), {"std": 0.25}, 0, 4, "by mean and std"),
}


@pytest.mark.parametrize("inquiry", COLOURS)
def test_black_and_white_are_found(inquiry: str) -> None:
    values, how, black, white, said = COLOURS[inquiry]
    found = Colours.of(values.reshape(1, 1, 1, 2).expand(2, 3, 4, 2), how.get("mean"), how.get("std"))
    assert_allclose([*found.black.flatten(), *found.white.flatten()], [black] * 3 + [white] * 3)
    assert said in found.said
    assert_allclose(found.shown(found.white.expand(3, 2, 2)), 255)


def test_dark_bytes_are_bytes() -> None:
    found = Colours.of(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2), None, None, floats=False)
    assert (found.black.item(), found.white.item()) == (0, 255)


@pytest.mark.parametrize("how", [{"std": 0}, {"mean": [1, 2]}, {"mean": float("nan")}, {"std": [1, 1, -1]}])
def test_a_normalisation_that_is_none_is_an_error(how: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"{next(iter(how))}=.* is not accepted.* 3 channels"):
        Colours.of(torch.rand(1, 3, 4, 4), how.get("mean"), how.get("std"))
