"""Claims: of two trainings that live, each has names of its own; one that has ended keeps nobody from its name."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock

from fe_gradcam.files import of_this_process
from fe_gradcam.training import claims
from fe_gradcam.training.claims import Claim, claimed
from tests.trainings import ROOT, failing

HOLDS = """
import sys, time
from pathlib import Path
from fe_gradcam.training.claims import claimed
claim = claimed(Path(sys.argv[1]), "gradcam", "eval")
print(claim.stem, flush=True)
sys.stdin.read()
"""

NOBODY = 65534
"""An account that owns nothing."""


@contextmanager
def another_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds a name of the folder until its input ends, and the name."""
    command = [sys.executable, "-W", "error", "-c", HOLDS, str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.communicate("")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_claim_is_a_file_that_goes_with_it(tmp_path: Path) -> None:
    claim = claimed(tmp_path, "gradcam", "eval")
    assert (claim.stem, claim.others) == ("gradcam", [])
    assert left_in(tmp_path) == [".gradcam_eval.lock"]
    assert (tmp_path / ".gradcam_eval.lock").read_text().split("\n")[::2] == [str(os.getpid()), of_this_process()]
    claim.end()
    claim.end()
    assert not left_in(tmp_path)


def test_other_names_and_modes_are_free(tmp_path: Path) -> None:
    found = [claimed(tmp_path, name, mode) for name in ("gradcam", "Gradcam", "热图") for mode in ("eval", "test")]
    assert [claim.stem for claim in found] == ["gradcam"] * 2 + ["Gradcam"] * 2 + ["热图"] * 2
    assert not any(claim.others for claim in found)


def test_another_process_keeps_its_name_until_it_ends(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, name):
        claim = claimed(tmp_path, "gradcam", "eval")
        assert (name, claim.stem) == ("gradcam", "gradcam~2")
        assert claim.others[0].startswith(f"process {process.pid} on ")
        with another_process(tmp_path) as (_, third):
            assert third == "gradcam~3"
    assert process.returncode == 0
    assert claimed(tmp_path, "gradcam", "eval").stem == "gradcam"
    claim.end()
    gc.collect()
    assert not left_in(tmp_path)


def test_a_killed_process_keeps_nothing_and_what_it_was_writing_goes(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, _):
        *_, beginning, _ = (tmp_path / ".gradcam_eval.lock").read_text().split("\n")
        (tmp_path / f".{beginning}-0123abcd.tmp").write_bytes(b"half")
        (tmp_path / ".0123456789abcdef-1-0123abcd.tmp").write_bytes(b"of another that may live")
        (tmp_path / "gradcam_eval_epoch_001.png").write_bytes(b"whole")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ".gradcam_eval.lock" in left_in(tmp_path)
    claim = claimed(tmp_path, "gradcam", "eval")
    assert (claim.stem, claim.others) == ("gradcam", [])
    claim.end()
    assert left_in(tmp_path) == [".0123456789abcdef-1-0123abcd.tmp", "gradcam_eval_epoch_001.png"]


def test_a_cell_that_is_run_again_takes_its_name_over(tmp_path: Path) -> None:
    """The trace before is alive, as in a notebook, and its training was interrupted or has ended."""
    interrupted = claimed(tmp_path, "gradcam", "eval")
    again = claimed(tmp_path, "gradcam", "eval")
    assert (again.stem, again.others) == ("gradcam", [])
    interrupted.end()
    del interrupted
    gc.collect()
    with another_process(tmp_path) as (_, name):
        assert name == "gradcam~2"
    again.end()
    assert not left_in(tmp_path)


def test_a_claim_goes_with_the_trace_that_had_it(tmp_path: Path) -> None:
    found = [claimed(tmp_path, "gradcam", "eval")]
    found.clear()
    gc.collect()
    assert not left_in(tmp_path)


def test_another_thread_that_lives_keeps_its_name(tmp_path: Path) -> None:
    found: list[Claim] = []

    def train() -> None:
        found.append(claimed(tmp_path, "gradcam", "eval"))
        while len(found) < 2:
            time.sleep(0.001)

    thread = Thread(target=train)
    thread.start()
    while not found:
        time.sleep(0.001)
    found.append(claimed(tmp_path, "gradcam", "eval"))
    thread.join()
    assert [claim.stem for claim in found] == ["gradcam", "gradcam~2"]
    assert claimed(tmp_path, "gradcam", "eval").stem == "gradcam"  # its thread has ended


def test_a_claim_may_end_in_another_thread(tmp_path: Path) -> None:
    claim = claimed(tmp_path, "gradcam", "eval")
    thread = Thread(target=claim.end)
    thread.start()
    thread.join()
    assert claimed(tmp_path, "gradcam", "eval").stem == "gradcam"


def test_a_fork_neither_has_nor_frees_the_names_of_its_parent(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from fe_gradcam.training.claims import claimed
folder = Path(sys.argv[1])
claim = claimed(folder, "gradcam", "eval")
if os.fork() == 0:
    print(claimed(folder, "gradcam", "eval").stem, flush=True)
    claim.end()
    del claim
    sys.exit()
os.wait()
again = claimed(folder, "gradcam", "eval")
print(again.stem, *os.listdir(folder), flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["gradcam~2", "gradcam", ".gradcam_eval.lock"]
    assert not left_in(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_without_locks_the_name_is_taken_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr("fcntl.flock", failing(OSError(code, os.strerror(code))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [claimed(tmp_path, "gradcam", "eval") for _ in range(2)]
    assert [(claim.stem, claim.others) for claim in found] == [("gradcam", [])] * 2
    found[0].end()
    assert not left_in(tmp_path)


def test_a_folder_that_is_gone_or_no_folder_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "gone", tmp_path / "file"):
        assert claimed(folder, "gradcam", "eval").stem == "gradcam"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another account")
def test_a_lock_file_of_another_account_keeps_the_name(shared: Path) -> None:
    """It cannot be seen whether it is held, so nothing of its owner's is written over."""
    lock = shared / ".gradcam_eval.lock"
    lock.touch(0o600)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        claim = claimed(shared, "gradcam", "eval")
    finally:
        os.setresuid(0, 0, 0)
    assert (claim.stem, claim.others) == ("gradcam~2", [f"the holder of {lock}"])


@pytest.mark.parametrize(
    "content",
    ["", "1\nhost", "1\n\x1b[31m\n0123456789abcdef-1\n", "1\nhost\n*-1\n", "1\nhost\n../x-1\n", "\xff" * 2000],
)
def test_what_somebody_else_wrote_to_a_lock_file_is_neither_believed_nor_shown(tmp_path: Path, content: str) -> None:
    lock = tmp_path / ".gradcam_eval.lock"
    lock.write_text(content, "utf-8")
    kept = tmp_path / ".0123456789abcdef-1-0123abcd.tmp"
    kept.write_bytes(b"")
    with FileLock(tmp_path / "other"):
        claim = claimed(tmp_path, "gradcam", "eval")
    assert (claim.stem, claim.others) == ("gradcam", [])
    claim.end()
    assert kept.exists()
    lock.write_text(content, "utf-8")
    with FileLock(lock):
        assert claimed(tmp_path, "gradcam", "eval").others == [f"the holder of {lock}"]


def test_a_link_or_a_pipe_in_the_place_of_a_lock_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".gradcam_eval.lock").symlink_to(victim)
    os.mkfifo(tmp_path / ".gradcam_test.lock")
    for mode in ("eval", "test"):
        claimed(tmp_path, "gradcam", mode).end()
    assert victim.read_text() == "mine"
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        claims._plainly(str(tmp_path / "link"), os.O_WRONLY | os.O_TRUNC)
    assert victim.read_text() == "mine"


def test_a_lock_file_of_somebody_else_stays(tmp_path: Path) -> None:
    """As where a folder was removed in mid-training, and another training made it anew."""
    claim, lock = claimed(tmp_path, "gradcam", "eval"), tmp_path / ".gradcam_eval.lock"
    lock.unlink()
    lock.write_text("1\nelsewhere\n0123456789abcdef-1\n")
    claim.end()
    assert lock.exists()
