"""Names of files, and writing files whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import stat
import unicodedata
import zipfile
from base64 import b32encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import chain, count
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.errors import ArgumentError

FilePath: TypeAlias = "str | os.PathLike[str]"

NAME_BYTES = 255
"""How long the name of a file may be in UTF-8, on every file system in use."""

HASHED = 9
"""How many bytes stand behind a name that was changed: ``~`` and eight letters or digits."""

MOST_LETTERS_OF_SLUG, MOST_BYTES_OF_SLUG = 60, 90
"""How long the name of a class or a method may be in the name of a file."""

UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that nobody sees."""

RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\Z", re.I)
"""Names that Windows keeps for devices, whatever stands behind a dot."""

REFUSED = '<>:"/\\|?*'
"""Signs that some file system refuses."""

_RANDOM = secrets.token_hex(8)
"""What no other process has; a fork has another number."""


# --- names ---------------------------------------------------------------------------------------------------


def file_name(text: str, most: int = NAME_BYTES, *, marked: bool = False) -> str:
    """The text as a part of file names that is followed by ``_``: no two texts give one name on any file system.

    Letters, marks and digits of any script, ``_``, ``-`` and ``.`` are kept; each other character becomes ``_``. A name
    that is changed by this, that is too long, that begins or ends with ``.``, or that a file system could take for
    another (capitals outside ASCII, a form of Unicode that is not NFC), ends with ``~`` and a short hash. ASCII names
    that differ in capitals alone stay as they are.

    Args:
        text: A name that a user gave.
        most: The most bytes in UTF-8, 17 or more.
        marked: Whether the hash stands there in any case.

    Raises:
        ArgumentError: The text holds a NUL.
    """
    if "\0" in text:
        raise ArgumentError(f"{text!r} holds a NUL, which no file name can. Pass a name without it.")
    written = re.sub(r"^\.|\.$", "_", _readable(text))
    if "." in written and RESERVED.match(written.partition(".")[0]):
        written = f"_{written}"
    as_it_is = bool(text) and written == text and (text.isascii() or _folded(text) == text)
    if as_it_is and not marked and len(text.encode()) <= most:
        return text
    return f"{_cut(written, most - HASHED)}~{_hash_of(text)}"


def file_slugs(labels: Iterable[str]) -> list[str]:
    """Labels, such as names of classes, as parts of the file names of one run; equal ones get a number.

    Example:
        >>> file_slugs(["deep blue", "deep/blue", "热图", "..."])
        ['deep_blue', 'deep_blue_2', '热图', 'class']
    """
    taken: set[str] = set()
    runs = (re.sub("\0+", "_", _readable(label, "\0")).strip("_.") for label in labels)
    return [unused(_cut(run[:MOST_LETTERS_OF_SLUG], MOST_BYTES_OF_SLUG) or "class", taken) for run in runs]


def file_stems(stems: Iterable[str], most: int) -> list[str]:
    """Stems of existing files as stems of the files of one run, which keep spaces and signs; equal ones get a number.

    Args:
        stems: The stems; what cannot be printed, or is refused by some file system, becomes ``_``.
        most: The most bytes in UTF-8, 30 or more; a longer stem is cut, with a hash.
    """
    taken: set[str] = set()
    return [unused(_stem(stem, most - len("_1000000")), taken) for stem in stems]


def _stem(text: str, most: int) -> str:
    written = "".join(one if one.isprintable() and one not in REFUSED else "_" for one in text)
    written = re.sub(r"^\.", "_", written) or "_"
    if RESERVED.match(written.partition(".")[0]):
        written = f"_{written}"
    return written if len(written.encode()) <= most else f"{_cut(written, most - HASHED)}~{_hash_of(text)}"


def unused(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if it is taken; it is added to `taken`. Capitals make no difference."""
    free = next(one for one in chain([name], (f"{name}_{at}" for at in count(2))) if _folded(one) not in taken)
    taken.add(_folded(free))
    return free


def folds_case(folder: Path) -> bool:
    """Whether a folder takes names that differ in capitals alone for one; False if that cannot be seen."""
    for path in (folder, *folder.parents):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if other.name != path.name:
            with suppress(OSError, ValueError):
                return other.samefile(path)
            return False
    return False


def _readable(text: str, instead: str = "_") -> str:
    """The text with something instead of each character that is no letter, mark or digit, nor ``_``, ``-`` or ``.``."""
    letters = unicodedata.normalize("NFC", text)
    return "".join(
        one if one in "_-." or (unicodedata.category(one)[0] in "LMN" and not UNSEEN.match(one)) else instead
        for one in letters
    )


def _folded(text: str) -> str:
    """The text as a file system compares it that knows neither capitals nor forms of Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


def _hash_of(text: str) -> str:
    """Eight small letters and digits."""
    return b32encode(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=5).digest()).decode("ascii").lower()


# --- whole or not at all -------------------------------------------------------------------------------------


def of_this_process() -> str:
    """The beginning, behind a dot, of the temporary files of this process."""
    return f"{_RANDOM}-{os.getpid()}"


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
        if not isinstance(name, str) or not name or "\0" in name:
            raise ArgumentError(
                f"arrays for {target} has the name {name!r}; pass names that are strings, not empty and without a NUL"
            )
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
    beside = place.with_name(f".{of_this_process()}-{secrets.token_hex(4)}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as file:
                write(file)
            with suppress(OSError):  # there is no such file yet, or its file system knows no permissions
                beside.chmod(stat.S_IMODE(place.stat().st_mode))
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        said = f"{error.strerror or error}: nothing was written; check the folder and the free space on the disk"
        raise OSError(error.errno, said, str(path)) from error
