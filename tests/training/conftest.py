"""Folders that other trainings and other accounts share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from fe_gradcam.training.claims import Claim, claimed


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every account may write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def held() -> Callable[[Path, str, str], AbstractContextManager[Claim]]:
    """Holds a name as another training does, in a thread that lives."""

    @contextmanager
    def holding(folder: Path, name: str, mode: str) -> Iterator[Claim]:
        begun, over, found = Event(), Event(), list[Claim]()

        def train() -> None:
            found.append(claimed(folder, name, mode))
            begun.set()
            over.wait()
            found[0].end()

        thread = Thread(target=train)
        thread.start()
        begun.wait()
        yield found[0]
        over.set()
        thread.join()

    return holding
