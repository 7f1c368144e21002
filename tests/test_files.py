"""Files: what is written can be read, and a failure leaves nothing behind."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fe_gradcam.drawing.picture import encode_png, write_png
from fe_gradcam.errors import ArgumentError
from fe_gradcam.files import (
    HASHED,
    NAME_BYTES,
    file_name,
    file_slugs,
    file_stems,
    folds_case,
    of_this_process,
    unused,
    write_arrays,
    write_bytes,
)

PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=40)
"""With lone surrogates, controls, signs of direction, and letters of all scripts."""

ALIKE = st.lists(
    st.sampled_from(["a", "A", "_", " ", ".", "é", "e\u0301", "É", "ß", "ss", "ς", "σ", "猫", "/", "~", "ｅ"])
)
"""Names that some file system, or some rule, takes for one another."""


def taken_for(name: str) -> str:
    """The name as a file system compares it that knows neither capitals nor forms of Unicode."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def read_png(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]


# --- names ------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9_-]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?", fullmatch=True))
@example("gradcam")
@example("night_shift-2.5")
@example("con")
@example("-x")
def test_plain_names_stay_as_they_are(name: str) -> None:
    reserved = "." in name and re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", name.partition(".")[0])
    assert (file_name(name) == name) == (not reserved)


@pytest.mark.parametrize("word", ["热图", "café", "über", "हिन्दी", "ไทย", "עברית", "한국어", "日本語", "чашка", "٣"])
def test_letters_of_any_script_stay_as_they_are(word: str) -> None:
    assert file_name(word) == word
    assert file_name(f"{word} 1").startswith(f"{word}_1~")


@given(TEXTS | ALIKE.map("".join), TEXTS | ALIKE.map("".join))
@example("a b", "a_b")
@example("猫", "犬")
@example("é", "e\u0301")
@example("Día", "día")
@example("Κύκλος", "κύκλος")
@example("straße", "strasse")
@example("\u212a", "k")
@example("a b", "a_b~fbd6ktcx")
@example("x" * 300, "x" * 301)
@example("\ud800", "\ud801")
@example("", "_")
@example(" ", "  ")
@example("a\u200db", "a\u200cb")
@example("\u3164", "\u115f")
@example("猫\ufe0f", "猫")
def test_no_two_names_are_one_file(one: str, other: str) -> None:
    first, second = (file_name(text, 60) for text in (one, other))
    assert (first == second) == (one == other)
    if one != other and not (one.isascii() and other.isascii() and one.casefold() == other.casefold()):
        assert taken_for(first) != taken_for(second)


@given(TEXTS, st.integers(2 * HASHED, NAME_BYTES))
@example("..", 255)
@example("../../etc/passwd", 255)
@example(".hidden", 255)
@example("a.", 255)
@example("con.x", 255)
@example("LPT1.", 255)
@example("C:\\x", 255)
@example("猫" * 300, 255)
@example("a" * 251 + "猫" * 9, 255)
@example("\u202egnp.exe", 255)
@example("a\nb\x1b[31m", 255)
def test_a_name_fits_and_stays_in_its_folder(text: str, most: int) -> None:
    name = file_name(text, most)
    assert 0 < len(name.encode()) <= most
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>| ')
    assert name[0] != "." and name[-1] != "."
    assert not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)\.", name)
    assert unicodedata.normalize("NFC", name) == name
    assert Path("/a", f"{name}_eval.png").resolve().parent == Path("/a")


@pytest.mark.parametrize(
    "sign", ["\u3164", "\ufe0f", "\u034f", "\u200d", "\u202e", "\x1b", "\n", " ", "/", "🐱", "\U000e0100"]
)
def test_signs_and_what_nobody_sees_do_not_stay(sign: str) -> None:
    assert re.fullmatch("a_b~[a-z2-7]{8}", file_name(f"a{sign}b"))
    assert file_slugs([f"a{sign}{sign}b"]) == ["a_b"]


def test_a_long_name_is_cut_with_a_hash_and_can_be_written(tmp_path: Path) -> None:
    for letters in ("x" * 300, "猫" * 300):
        name = file_name(letters, NAME_BYTES - len(".npz"))
        assert name[:80] == letters[:80]
        write_arrays(tmp_path / f"{name}.npz", {"x": 1})
        assert (tmp_path / f"{name}.npz").exists()
    assert file_name("x" * 255) == "x" * 255


def test_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"'a\\x00b' holds a NUL, which no file name can"):
        file_name("a\0b")
    with pytest.raises(ArgumentError, match=r"the name 'a\\x00b'; pass names that are .* without a NUL"):
        write_arrays(tmp_path / "a.npz", {"a\0b": 1})


def test_marked_names_differ_from_those_that_are_not() -> None:
    assert re.fullmatch("day~[a-z2-7]{8}", file_name("day", marked=True))
    assert file_name("Day", marked=True).casefold() != file_name("day", marked=True)


@pytest.mark.parametrize(
    ("labels", "slugs"),
    [
        (["red", "deep blue", "a/b: c", "..x_"], ["red", "deep_blue", "a_b_c", "x"]),
        (["a b", "a_b", "A B", "a  b"], ["a_b", "a_b_2", "A_B_3", "a_b_4"]),
        (["", "///", "\0"], ["class", "class_2", "class_3"]),
        (["猫", "犬", "हिन्दी", "e\u0301", "é"], ["猫", "犬", "हिन्दी", "é", "é_2"]),
        (["x" * 70, "猫" * 70], ["x" * 60, "猫" * 30]),
    ],
)
def test_slugs(labels: list[str], slugs: list[str]) -> None:
    assert file_slugs(labels) == slugs


@given(st.lists(TEXTS, max_size=6), st.integers(40, 200))
@example(["con", "CON.x", ".a", "a\nb", "a\tb"], 200)
@example(["x" * 300, "x" * 299], 50)
def test_stems_of_one_run(stems: list[str], most: int) -> None:
    names = file_stems(stems, most)
    assert len({taken_for(name) for name in names}) == len(stems)
    for name in names:
        assert 0 < len(name.encode()) <= most
        assert name.isprintable() and not set(name) & set('/\\:*?"<>|') and name[0] != "."
        assert not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", name)


def test_stems_of_photos_stay_as_they_are() -> None:
    stems = ["IMG_0001", "my photo (1)", "Straße, nachts", "猫", "a.b"]
    assert file_stems(stems, 100) == stems


def test_an_unused_name_is_taken_once() -> None:
    taken: set[str] = set()
    assert [unused(name, taken) for name in ("É", "e\u0301", "e")] == ["É", "e\u0301_2", "e"]


def test_whether_a_folder_folds_case_is_seen_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Heat" / "2024"
    folder.mkdir(parents=True)
    assert not folds_case(folder)
    monkeypatch.setattr(Path, "samefile", lambda one, other: one.name == "hEAT" and other.name == "Heat")
    assert folds_case(folder)
    assert not folds_case(Path("/"))


# --- whole or not at all ----------------------------------------------------------------------------------


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_png_holds_the_picture_exactly(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(read_png(encode_png(picture)), picture)


def test_a_view_that_is_not_contiguous_is_written_too(tmp_path: Path) -> None:
    view = PHOTO[::2, ::-1]
    write_png(tmp_path / "deep" / "er" / "a.png", view)
    np.testing.assert_array_equal(read_png((tmp_path / "deep" / "er" / "a.png").read_bytes()), view)


def test_arrays_come_back_by_name(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "values": np.arange(6, dtype=np.float32).reshape(2, 3),
        "file": np.array(["Κατσίκα", "日本語"]),  # numpy.savez has an argument of this name
        "blank": [True, False],
        "none": np.empty((0, 4)),
    }
    write_arrays(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert set(read) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)


def test_equal_arrays_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, {"x": np.arange(5)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_new_file_has_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_png(tmp_path / "a.png", PHOTO)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~umask


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.png", tmp_path / "link.png"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_png(link, PHOTO)
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    np.testing.assert_array_equal(read_png(real.read_bytes()), PHOTO)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_halfway_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, existing: bool
) -> None:
    path = tmp_path / "a.npz"
    if existing:
        path.write_bytes(b"old")

    def half(file: Any, array: Any, **_: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(np.lib.format, "write_array", half)
    with pytest.raises(type(error)):
        write_arrays(path, {"x": np.arange(5)})
    assert [entry.name for entry in tmp_path.iterdir()] == (["a.npz"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


def test_a_failure_to_move_the_file_into_place_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match=r"a\.png"):
        write_png(tmp_path / "a.png", PHOTO)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"nothing was written.*file/a\.png"):
        write_png(tmp_path / "file" / "a.png", PHOTO)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"folder\.png"):
        write_png(tmp_path / "folder.png", PHOTO)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: write_png(folder / "a.jpg", PHOTO), r"a\.jpg' does not end in \.png"),
        (lambda folder: write_arrays(folder / "a", {}), r"a' does not end in \.npz"),
        (lambda folder: write_png(folder / "a.png", PHOTO[..., 0]), r"rgb has shape \(20, 30\)"),
        (lambda folder: write_arrays(folder / "a.npz", {"x": [None]}), r"arrays\['x'\].*Python objects"),
        (lambda folder: write_arrays(folder / "a.npz", {"": 1}), r"name ''"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, write: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_the_encoder_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fe_gradcam.drawing.picture.cv2.imencode", lambda *_: (False, None))
    with pytest.raises(ArgumentError, match=r"shape \(20, 30, 3\) cannot be encoded"):
        encode_png(PHOTO)


def test_where_permissions_cannot_be_kept_the_file_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(Path, "chmod", lambda path, mode: (_ for _ in ()).throw(PermissionError(1, "not here")))
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_fork_has_temporary_files_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of_this_process()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert of_this_process() != before
    assert of_this_process().partition("-")[0] == before.partition("-")[0]
