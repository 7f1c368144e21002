"""Files: what is written can be read, and a failure leaves nothing behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fe_gradcam.drawing.picture import encode_png, write_png
from fe_gradcam.errors import ArgumentError
from fe_gradcam.files import write_arrays

PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def read_png(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]


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
