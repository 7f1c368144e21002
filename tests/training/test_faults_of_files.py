"""Faults of files: each costs the pictures that it hits and no training; no file is torn, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fe_gradcam import ArgumentError, CamWarning
from fe_gradcam.training.options import Options
from fe_gradcam.training.selection import selection_of
from fe_gradcam.training.source import ModelSource
from fe_gradcam.training.watcher import Watcher
from tests.models.toys import SmallTorch, small_keras
from tests.reporting.pages import page_in
from tests.trainings import KilledError, Killer, build, dataset, estimator, failing, gradcam, printed, read_png

NOBODY = 65534
"""An account that owns nothing."""

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, or becomes another account")

ALL = [
    "gradcam_eval_epoch_{:03d}.npz",
    "gradcam_eval_epoch_{:03d}.png",
    "gradcam_eval_film.png",
    "gradcam_eval_report.html",
]
"""The files of an epoch."""


def watched(framework: str, folder: Path, **how: Any) -> Watcher:
    """A network of the framework with grid, film and page; it is not trained."""
    model = SmallTorch().eval() if framework == "torch" else small_keras()
    given = {"model", "labels"}
    how = {"selection": selection_of("first", 3, None, 0, given), "track": True, "report": True, **how}
    options = Options(given, save_dir=folder, **how)
    return Watcher(ModelSource(model, options), options)


def one_epoch(watcher: Watcher, framework: str, number: int) -> Any:
    watcher.begin_epoch(number)
    data = dataset(framework, 6, seed=number)
    watcher.see(np.stack([data[at]["x"] for at in range(6)]), np.arange(6) % 5)
    return watcher.end_epoch()


def files_of(*numbers: int) -> list[str]:
    return sorted({name.format(number) for number in numbers for name in ALL})


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def assert_whole(folder: Path) -> None:
    """Every file under a name that is not hidden can be read to its end."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(np.isfinite(arrays[name]).all() for name in arrays if name.endswith(".raw"))
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82") and read_png(path).ndim == 3
        else:
            assert path.read_text("utf-8").rstrip().endswith("</html>") and page_in(path)["datasets"]


# --- full, read-only, gone --------------------------------------------------------------------------------


@contextmanager
def no_large_file(folder: Path) -> Iterator[None]:
    """No file may be longer than 300 bytes: the system refuses what is written beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Folder and files may not be written to; root becomes another account, as permissions do not bind it."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o777)


@contextmanager
def a_file_instead(folder: Path) -> Iterator[None]:
    """In the place of the folder stands a file."""
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.write_text("no folder")
    try:
        yield
    finally:
        assert folder.read_text() == "no folder"
        folder.unlink()
        kept.rename(folder)


@contextmanager
def folders_instead(folder: Path) -> Iterator[None]:
    """In the place of each file of the next epoch stands a folder."""
    kept = folder.with_name("kept")
    kept.mkdir()
    for name in files_of(2):
        if (folder / name).exists():
            (folder / name).rename(kept / name)
        (folder / name).mkdir()
    try:
        yield
    finally:
        for name in files_of(2):
            (folder / name).rmdir()
        for path in kept.iterdir():
            path.rename(folder / path.name)
        kept.rmdir()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_large_file, "File too large"),
        (read_only, "Permission denied"),
        (a_file_instead, "Not a directory|File exists"),
        (folders_instead, "Is a directory"),
    ],
)
def test_an_epoch_that_cannot_write_is_warned_of_and_the_next_one_writes(
    framework: str, shared: Path, fault: Callable[[Path], Any], said: str
) -> None:
    folder = shared / "heat"
    watcher = watched(framework, folder)
    watcher.begin(modes=["eval"])
    one_epoch(watcher, framework, 1)
    before = {name: (folder / name).read_bytes() for name in files_of(1)}
    with fault(folder), pytest.warns(CamWarning, match=f"{said}.*nothing was written; check the folder") as caught:
        epoch = one_epoch(watcher, framework, 2)
    failed = [str(one.message).partition("; the training goes on")[0] for one in caught]
    assert failed == [
        f"GradCAM ('gradcam') could not make the {name} of this epoch" for name in ("grid", "film", "report")
    ]
    assert {"gradcam", "gradcam_results", "gradcam_film"} <= set(epoch.values)  # the loop gets them all the same
    assert {name: (folder / name).read_bytes() for name in files_of(1)} == before
    assert left_in(folder) == sorted([".gradcam_eval.lock", *files_of(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_epoch(watcher, framework, 3)
        watcher.end()
    assert left_in(folder) == files_of(1, 3)
    assert_whole(folder)
    assert [one["epoch"] for one in page_in(folder / "gradcam_eval_report.html")["datasets"][0]["epochs"]] == [1, 2, 3]


def test_a_folder_that_is_removed_is_made_anew(framework: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "heat"
    watcher = watched(framework, folder)
    watcher.begin(modes=["eval"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in (1, 2):
            one_epoch(watcher, framework, number)
            shutil.rmtree(folder.parent)
        one_epoch(watcher, framework, 3)
        watcher.end()
    assert left_in(folder) == files_of(3)
    assert_whole(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@ROOT_ONLY
def test_a_disk_that_is_full(framework: str, disk: Path) -> None:
    watcher = watched(framework, disk, report=False)
    watcher.begin(modes=["eval"])
    names = [name for name in files_of(1, 3) if "report" not in name]
    one_epoch(watcher, framework, 1)
    with (disk / "of others").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(bytes(4096)):
            pass
    with pytest.warns(CamWarning, match="No space left on device: nothing was written"):
        one_epoch(watcher, framework, 2)
    assert left_in(disk) == sorted([".gradcam_eval.lock", "of others", *(name for name in names if "003" not in name)])
    (disk / "of others").unlink()
    one_epoch(watcher, framework, 3)
    watcher.end()
    assert left_in(disk) == names
    assert_whole(disk)


@ROOT_ONLY
def test_a_file_system_that_becomes_read_only(framework: str, disk: Path) -> None:
    watcher = watched(framework, disk)
    watcher.begin(modes=["eval"])
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)
    try:
        with pytest.warns(CamWarning, match="Read-only file system: nothing was written"):
            assert one_epoch(watcher, framework, 1).values
        watcher.end()
        with pytest.raises(ArgumentError, match="no folder that can be written to"):
            watched(framework, disk).begin(modes=["eval"])
    finally:
        subprocess.run(["umount", disk], check=True)
    assert left_in(disk) == [".gradcam_eval.lock"]  # it could not be removed, and keeps nobody out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = watched(framework, disk)
        again.begin(modes=["eval"])
        one_epoch(again, framework, 1)
        again.end()
    assert left_in(disk) == files_of(1)


def test_a_folder_without_permission_is_an_error_before_the_first_step(shared: Path) -> None:
    (shared / "heat").mkdir()
    watchers = [watched("torch", shared / "heat"), watched("torch", shared / "heat" / "new")]
    with read_only(shared / "heat"):
        for watcher in watchers:
            with pytest.raises(
                ArgumentError, match=r"save_dir='.*' is no folder that can be written to\. Pass another"
            ):
                watcher.begin(modes=["eval"])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_every_other_error_of_the_system_is_a_warning_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    watcher = watched("torch", tmp_path)
    watcher.begin(modes=["eval"])
    monkeypatch.setattr(Path, "replace", failing(OSError(code, os.strerror(code))))
    with pytest.warns(CamWarning, match=f"{os.strerror(code)}: nothing was written"):
        assert one_epoch(watcher, "torch", 1).values
    watcher.end()
    assert not left_in(tmp_path)


# --- killed -----------------------------------------------------------------------------------------------


KILLED = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from fe_gradcam.files import write_arrays, write_bytes
from fe_gradcam.training.folder import Folder

where, generator = Path(sys.argv[1]), np.random.default_rng(0)

def train(pipe):
    folder = Folder(where)
    folder.begin(["eval"])
    os.write(pipe, folder.file("eval", "film", ".png").name.encode())
    while True:
        for number in range(256):
            arrays = {"a": np.full(300_000, number), "b": np.full(9, number)}
            write_arrays(folder.file("eval", "epoch_001", ".npz"), arrays)
            write_bytes(folder.file("eval", "report", ".html"), bytes([number]) * 1_000_000)

torn, halves, most, names = [], 0, 0, set()
for _ in range(50):
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        train(write)
    names.add(os.read(read, 100).decode())
    time.sleep(generator.uniform(0, 0.03))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    left = len(list(where.glob(".*.tmp")))
    halves, most = halves + left, max(most, left)
    for path in where.glob("[!.]*"):
        if path.suffix == ".html":
            data = path.read_bytes()
            torn += [path.name] * (len(data) != 1_000_000 or len(set(data)) != 1)
        else:
            with np.load(path) as arrays:
                torn += [path.name] * (len({*arrays["a"].tolist(), *arrays["b"].tolist()}) != 1)
folder = Folder(where)
folder.begin(["eval"])
after = sorted(path.name for path in where.iterdir())
folder.end()
print(json.dumps({"torn": torn, "halves": halves, "most": most, "names": sorted(names), "after": after}))
"""


def test_killed_fifty_times_at_random_moments(tmp_path: Path) -> None:
    """Each training goes on under the same names, and takes away what the one before was writing."""
    said = printed(KILLED, str(tmp_path))
    assert said["torn"] == []
    assert 5 < said["halves"] <= 50  # what the kill hit in the midst
    assert said["most"] <= 1
    assert said["names"] == ["gradcam_eval_film.png"]
    assert said["after"] == [".gradcam_eval.lock", "gradcam_eval_epoch_001.npz", "gradcam_eval_report.html"]
    assert left_in(tmp_path) == said["after"][1:]


KILLED_AT = """
import json, os, shutil, signal, sys, warnings
from pathlib import Path
from fe_gradcam import CamWarning, files
from tests.training.test_faults_of_files import assert_whole, left_in, one_epoch, watched

where, whole, found = Path(sys.argv[1]), files._write_whole, []
warnings.simplefilter("error", CamWarning)

def train(last, moment):
    watcher = watched("torch", where, on_error="raise")
    watcher.begin(modes=["eval"])
    one_epoch(watcher, "torch", 1)
    begun = []

    def writing(path, write):
        def killed(file):
            write(file)
            if moment == "in" and len(begun) == last:
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        if moment == "before" and len(begun) == last - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        begun.append(path)
        whole(path, killed)

    files._write_whole = writing
    one_epoch(watcher, "torch", 2)
    watcher.end()

warm = watched("torch", where / "warm")
warm.begin()
one_epoch(warm, "torch", 1)
warm.end()
shutil.rmtree(where / "warm")
for last, moment in [(number, moment) for number in (1, 2, 3, 4) for moment in ("before", "in")] + [(9, "never")]:
    process = os.fork()
    if process == 0:
        train(last, moment)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    if where.is_dir():
        assert_whole(where)
    found.append([last, moment, status, len(list(where.glob(".*.tmp"))), [n for n in left_in(where) if n[0] != "."]])
    for path in where.glob("[!.]*"):
        path.unlink()
print(json.dumps({"found": found, "left": left_in(where)}))
"""


def test_killed_between_any_two_files_and_in_each(tmp_path: Path) -> None:
    """What was there before stays whole, and what comes next does not know of it."""
    said = printed(KILLED_AT, str(tmp_path))
    *killed, (_, _, status, halves, names) = said["found"]
    first, more = files_of(1), ["gradcam_eval_epoch_002.png", "gradcam_eval_epoch_002.npz"]
    for last, moment, signalled, left, found in killed:
        assert signalled == signal.SIGKILL
        assert left == (moment == "in")
        assert found == sorted([*first, *more[: last - 1]])
    assert (status, halves, names) == (0, 0, files_of(1, 2))
    assert said["left"] == []


# --- shared -----------------------------------------------------------------------------------------------


def test_two_trainings_in_one_folder_do_not_touch_each_other(framework: str, tmp_path: Path, held: Any) -> None:
    """Of other names without a word; of the same name with one, and both have all their files."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watchers = [watched(framework, tmp_path, name=name) for name in ("gradcam", "night")]
        for watcher in watchers:
            watcher.begin(modes=["eval"])
        for watcher in watchers:
            one_epoch(watcher, framework, 1)
            watcher.end()
    names = [*files_of(1), *(name.replace("gradcam", "night") for name in files_of(1))]
    assert left_in(tmp_path) == sorted(names)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    with held(tmp_path, "gradcam", "eval"):
        watcher = watched(framework, tmp_path)
        with pytest.warns(CamWarning, match="another training writes under this name") as said:
            watcher.begin(modes=["train", "eval"])
            epoch = one_epoch(watcher, framework, 2)
        assert len(said) == 1
        watcher.end()
    apart = [name.replace("gradcam", "gradcam~2") for name in files_of(2)]
    assert left_in(tmp_path) == sorted([*names, *apart])
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert epoch["gradcam_report"] == str(tmp_path / "gradcam~2_eval_report.html")


@pytest.mark.parametrize("mode", ["eval", "test"])
def test_a_training_says_at_its_start_that_its_names_are_taken(
    framework: str, tmp_path: Path, held: Any, mode: str
) -> None:
    model = build(framework)
    data = {"eval_data": dataset(framework)} if mode == "eval" else {"eval_data": None, "test_data": dataset(framework)}
    fitting = estimator(framework, model, [gradcam(model, save_dir=tmp_path, n_samples=2), Killer(1)], **data)
    with (
        held(tmp_path, "gradcam", mode),
        pytest.warns(CamWarning, match=f"the files of this one begin with gradcam~2_{mode}"),
        pytest.raises(KilledError) if mode == "eval" else nullcontext(),  # in its first epoch
    ):
        fitting.test() if mode == "test" else fitting.fit()
    written = left_in(tmp_path)
    assert [name for name in written if name[0] != "."] == (
        [f"gradcam~2_test_epoch_001.{ending}" for ending in ("npz", "png")] if mode == "test" else []
    )


def test_a_cell_that_is_run_again_and_a_test_behind_it_say_nothing(tmp_path: Path) -> None:
    """The first training is interrupted, and its trace lives on."""
    alive = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=CamWarning)
        for last in (2, None, None):
            model = build("torch")
            traces = [gradcam(model, save_dir=tmp_path, n_samples=2), Killer(last)]
            fitting = estimator("torch", model, traces, epochs=2, test_data=dataset("torch"))
            alive.append(traces)
            with pytest.raises(KilledError) if last else nullcontext():
                fitting.fit()
        fitting.test()
        fitting.fit()
    names = [("eval", 1), ("eval", 2), ("test", 2)]
    expected = [f"gradcam_{mode}_epoch_{number:03d}.{ending}" for mode, number in names for ending in ("npz", "png")]
    assert left_in(tmp_path) == sorted(expected)


def test_two_traces_that_would_write_the_same_files_are_told_before_the_first_step(tmp_path: Path) -> None:
    model = build("torch")
    data = {"day": dataset("torch", 4), "night": dataset("torch", 4, seed=2)}

    def traces(**how: Any) -> list[Any]:
        return [gradcam(model, ds_id=name, n_samples=2, save_dir=tmp_path / folder) for name, folder in how.items()]

    with pytest.raises(ArgumentError, match=r"2 GradCAM traces, which would overwrite each other\. Pass a different"):
        estimator("torch", model, traces(day="a", night="a"), eval_data=data).fit()
    estimator("torch", model, traces(day="a", night="b"), eval_data=data).fit()
    for folder in ("a", "b"):
        assert left_in(tmp_path / folder) == [f"gradcam_eval_epoch_001.{ending}" for ending in ("npz", "png")]


# --- names ------------------------------------------------------------------------------------------------


def test_names_of_users_lose_no_file(tmp_path: Path) -> None:
    model = build("torch")
    outputs = ["热图", "图表", "a b", "a_b", "x" * 300]
    datasets = {name: dataset("torch", 2, seed=at) for at, name in enumerate(["猫", "犬", "d d", "d_d", "y" * 300])}
    traces = [gradcam(model, outputs=name, n_samples=1, save_dir=tmp_path) for name in outputs]
    estimator("torch", model, traces, eval_data=datasets).fit()
    written = left_in(tmp_path)
    assert len(written) == 2 * len(outputs) * len(datasets)
    assert {"热图_eval_epoch_001_猫.png", "图表_eval_epoch_001_犬.npz", "a_b_eval_epoch_001_d_d.png"} <= set(written)
    pixels = {name: read_png(tmp_path / name).tobytes() for name in written if name.endswith("png")}
    of_one_trace = [pixels[name] for name in pixels if name.startswith("热图")]
    assert all(one != other for one, other in pairwise(sorted(of_one_trace)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "a\0b"}, r"outputs: 'a\\x00b' holds a NUL"),
        ({"save_dir": "a\0b"}, r"save_dir='a\\x00b' is no path"),
    ],
)
def test_a_nul_is_an_error_at_once(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        gradcam(build("torch"), **change)
