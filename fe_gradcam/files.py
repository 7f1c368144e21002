"""Names of files, and writing files whole or not at all."""

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
    """The text as part of a file name: each character but letters, digits, ``_``, ``.`` and ``-`` becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def write_bytes(path: FilePath, data: bytes) -> None:
    """Writes bytes to a file, whole or not at all; see `write_arrays`."""
    _write_whole(Path(path), lambda file: file.write(data))


def write_arrays(path: FilePath, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes named arrays to an .npz file that `numpy.load` reads, whole or not at all.

    The file is written under another name in the same folder and then renamed, so a reader never sees half of it. If an
    error interrupts the writing, no new file is left, and an existing file is not changed. The file gets the usual
    permissions of a new file, or those of the file that it replaces. Arrays are not compressed; equal arrays make
    equal files.

    Args:
        path: A path that ends in ``.npz``. Missing folders are made; an existing file is replaced.
        arrays: Arrays of numbers, bools or strings, by name.

    Raises:
        ArgumentError: The path does not end in ``.npz``, a name is not text, or an array holds Python objects.
        OSError: The file cannot be written; the message names the path.
    """
    target = checked_path(path, ".npz")
    members: dict[str, NDArray[Any]] = {}
    for name, value in arrays.items():
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"arrays for {target} has the name {name!r}; pass names that are strings and not empty")
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
    """The path, or ArgumentError if it does not end in `suffix`."""
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise ArgumentError(f"path={str(target)!r} does not end in {suffix}; pass {str(target) + suffix!r}")
    return target


def _write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under another name in its folder and renames it; leaves nothing behind if that fails."""
    # a symbolic link stays: the file that it points to is replaced
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
        said = f"{error.strerror or error}: nothing was written; check the folder and the free space on the disk"
        raise OSError(error.errno, said, str(path)) from error
