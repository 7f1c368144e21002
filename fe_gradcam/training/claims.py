"""Claims on names of files: of two trainings that write to one folder at once, each has names of its own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import current_thread
from weakref import WeakValueDictionary, finalize

from filelock import BaseFileLock, FileLock, Timeout

from fe_gradcam.files import of_this_process

CLAIMS: WeakValueDictionary[str, Claim] = WeakValueDictionary()
"""The claims of this process, by lock file."""

MOST_CLAIMS = 1000
"""How many names are tried; if all are taken, the last one is shared."""

HOLDER = re.compile(r"(\d+)\n([\w.-]+)\n([0-9a-f]{16}-\d+)\n", re.A)
"""What a lock file says of its process: number, computer, and the beginning of its temporary files."""


class Claim:
    """The right of a training to the files of a folder that begin with a name; it ends with the process at the latest.

    Attributes:
        stem: The beginning of the names of its files: the name asked for, or one with ``~2``, ``~3``, ... behind it.
        others: Who holds the names before, in words.
    """

    def __init__(self, stem: str, others: Sequence[str], path: Path, lock: BaseFileLock | None) -> None:
        self.stem, self.others = stem, list(others)
        self._path, self._lock, self._whose = path, lock, (os.getpid(), current_thread())
        self._freed = finalize(self, _free, lock, path)
        if lock is not None:
            CLAIMS[str(path)] = self

    def end(self) -> None:
        """Ends the claim and removes its lock file; what has ended already stays as it is."""
        self._freed()

    def handed_on(self, others: Sequence[str]) -> Claim | None:
        """The claim of a later training of the same thread; None if this training may still go on elsewhere."""
        process, thread = self._whose
        if process != os.getpid() or (thread is not current_thread() and thread.is_alive()):
            return None
        return Claim(self.stem, others, self._path, self._lock) if self._freed.detach() else None


def claimed(folder: Path, name: str, mode: str) -> Claim:
    """Claims the files ``{name}_{mode}_...`` of a folder for one training; if another holds the name, the next one.

    The lock file ``.{name}_{mode}.lock`` keeps other processes and other threads from the name. It dies with its
    process, and who claims the name next removes what that process was writing when it was killed. Where there are no
    locks, as on some network file systems, the name is taken without one. A training before of the same thread has
    ended, however it did, so its name is taken over.

    Args:
        folder: An existing folder.
        name: A name as `fe_gradcam.files.file_name` gives it.
        mode: The mode, such as "eval".
    """
    others: list[str] = []
    for number in range(1, MOST_CLAIMS + 1):
        stem = name if number == 1 else f"{name}~{number}"
        path = folder / f".{stem}_{mode}.lock"
        own = CLAIMS.get(str(path))
        if own is not None and (claim := own.handed_on(others)) is not None:
            return claim
        holder = _holder(path)
        try:
            lock = _locked(path)
        except Timeout:
            others.append(f"process {holder[1]} on {holder[2]}" if holder else f"the holder of {path}")
            continue
        except (OSError, NotImplementedError, RuntimeError, ValueError):
            if holder is None:
                with suppress(OSError):
                    path.unlink()
            break
        if holder and holder[3] != of_this_process():
            _clear(folder, holder[3])
        computer = re.sub("[^A-Za-z0-9_.-]", "_", socket.gethostname()) or "_"
        with suppress(OSError), open(path, "w", encoding="ascii", opener=_plainly) as file:
            file.write(f"{os.getpid()}\n{computer}\n{of_this_process()}\n")
        return Claim(stem, others, path, lock)
    return Claim(stem, others, path, None)


def _locked(path: Path) -> BaseFileLock:
    """A lock on the file, at once or not at all.

    Raises:
        Timeout: Somebody has it, or it belongs to an account that lets no other lock it.
    """
    lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except PermissionError as error:
        if path.exists():
            raise Timeout(str(path)) from error
        raise
    return lock


def _holder(path: Path) -> re.Match[str] | None:
    """What a lock file says of its process."""
    try:
        with open(path, encoding="ascii", opener=_plainly) as file:
            return HOLDER.fullmatch(file.read(1000))
    except (OSError, ValueError):
        return None


def _plainly(path: str, flags: int) -> int:
    """Opens a file, but neither follows a link nor waits for somebody at the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _clear(folder: Path, beginning: str) -> None:
    """Removes the temporary files of a process that has died."""
    with suppress(OSError):
        for path in folder.glob(f".{beginning}-*.tmp"):
            path.unlink()


def _free(lock: BaseFileLock | None, path: Path) -> None:
    """Frees a name; a lock file of somebody else stays, and a fork frees no name of its parent."""
    if lock is None:
        return
    holder = _holder(path)
    with suppress(OSError):
        if holder and holder[3] == of_this_process():
            path.unlink()
    with suppress(OSError, RuntimeError):
        lock.release()
