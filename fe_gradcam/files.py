"""Files: their names, and writing them whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import ArgumentError

FilePath: TypeAlias = "str | os.PathLike[str]"


def file_name(text: str) -> str:
    """The text, with characters that do not belong in a file's name replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def write_bytes(path: FilePath, data: bytes) -> None:
    """Writes bytes to a file, whole or not at all; see `write_arrays`."""
    _write_whole(Path(path), lambda file: file.write(data))


def write_arrays(path: FilePath, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes named arrays to an .npz file that `numpy.load` reads, whole or not at all.

    The file appears under its name only when it is complete: it is written in the same folder under another name and
    then renamed. So a reader never meets half a file, and after an error there is no new file and an old file is
    unchanged. The file gets the permissions of any new file, or those of the file that it replaces. Arrays
    are not compressed; equal arrays make equal files.

    Args:
        path: Must end in ``.npz``. Missing folders are made; a file that exists is replaced.
        arrays: Arrays of numbers, bools or strings, by name.

    Raises:
        ArgumentError: The path does not end in ``.npz``, a name is not text, or an array holds Python objects.
        OSError: The file cannot be written; the message names the path.
    """
    target = checked_path(path, ".npz")
    members: dict[str, NDArray[Any]] = {}
    for name, value in arrays.items():
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"arrays for {target} has the name {name!r}; pass names that are text and not empty")
        array = np.asanyarray(value)
        if array.dtype.hasobject:
            holds = f"holds Python objects (shape {array.shape})"
            raise ArgumentError(f"arrays[{name!r}] for {target} {holds}; pass numbers, bools or strings of one shape")
        members[name] = array

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in members.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    _write_whole(target, write)


def checked_path(path: FilePath, suffix: str) -> Path:
    """The path, checked to end in `suffix`."""
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise ArgumentError(f"path={str(target)!r} does not end in {suffix}; pass {str(target) + suffix!r}")
    return target


def _write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under another name in the same folder and renames it; leaves nothing behind if that fails."""
    # If the path is a symbolic link, the file that it points to is replaced, not the link.
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as file:
                write(file)
            if place.exists():
                beside.chmod(stat.S_IMODE(place.stat().st_mode))
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        said = f"{error.strerror or error}: nothing was written. Check the folder and the free disk space"
        raise OSError(error.errno, said, str(path)) from error
