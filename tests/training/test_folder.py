"""The folder of a training: names of its files, and what two trainings in one folder are told."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fe_gradcam import ArgumentError, CamWarning
from fe_gradcam.files import NAME_BYTES, file_name
from fe_gradcam.training.folder import Folder
from fe_gradcam.training.options import Options

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=()), min_size=1, max_size=300)


def test_plain_names_give_the_names_that_users_know() -> None:
    folder = Folder(Path("/heat"))
    found = [folder.file("eval", "epoch_001", ".png"), folder.file("eval", "epoch_001", ".npz", "night_2")]
    found += [folder.file("test", "report", ".html")]
    names = ["gradcam_eval_epoch_001.png", "gradcam_eval_epoch_001_night_2.npz", "gradcam_test_report.html"]
    assert found == [Path("/heat") / name for name in names]


@given(NAMES, NAMES, NAMES)
@example("x" * 300, "y" * 300, "y" * 301)
@example("热" * 300, "猫" * 300, "犬" * 300)
@example("..", "../..", "/etc/passwd")
@example("x" * 200, "day", "night")
@example("热图", "a b", "a_b")
def test_each_dataset_has_a_file_of_its_own_that_fits(name: str, one: str, other: str) -> None:
    folder = Folder(Path("/heat"), name)
    files = [folder.file("eval", "experiments_epoch_1000000", ".html", dataset) for dataset in (one, other)]
    assert (files[0] == files[1]) == (one == other)
    for file in files:
        assert file.parent == Path("/heat") and file.resolve() == file
        assert len(file.name.encode()) <= NAME_BYTES


@given(NAMES, NAMES)
def test_each_trace_has_files_of_its_own(one: str, other: str) -> None:
    files = [Folder(Path("/heat"), name).file("eval", "epoch_001", ".png") for name in (one, other)]
    assert (files[0] == files[1]) == (one == other)


def test_datasets_that_differ_in_capitals_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the file system tells them apart they keep their names; elsewhere the later one gets a hash."""
    for folds, second in ((False, "day"), (True, file_name("day", marked=True))):
        monkeypatch.setattr("fe_gradcam.training.folder.folds_case", lambda path, folds=folds: folds)
        folder = Folder(tmp_path)
        folder.begin()
        for _ in range(2):
            found = [folder.file("eval", "film", ".png", dataset).stem for dataset in ("Day", "day", "night")]
            assert found == ["gradcam_eval_film_Day", f"gradcam_eval_film_{second}", "gradcam_eval_film_night"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Folder(None, "a\0b"), r"outputs: 'a\\x00b' holds a NUL"),
        (lambda: Options(save_dir="a\0b"), r"save_dir='a\\x00b' is no path: .*null byte"),
        (lambda: Options(save_dir="~nobody_of_this_name/heat"), r"is no path: .*Pass another"),
    ],
)
def test_what_can_be_in_no_file_name_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_two_folders_of_one_thread_take_the_name_over_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder in [Folder(tmp_path), Folder(tmp_path)]:
            for _ in range(2):
                folder.begin(["eval", "train"])
                assert folder.file("eval", "film", ".png").name == "gradcam_eval_film.png"
    folder.end()
    assert not list(tmp_path.iterdir())


def test_the_names_that_another_training_holds_are_left_to_it(tmp_path: Path, held: Any) -> None:
    folder = Folder(tmp_path, "gradcam")
    with held(tmp_path, "gradcam", "eval"):
        with pytest.warns(CamWarning) as said:
            folder.begin(["train", "eval"])
        (message,) = {str(one.message) for one in said}
        assert "another training writes under this name" in message
        assert "(process " in message and "the files of this one begin with gradcam~2_eval. Pass another" in message
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            folder.claim(["eval", "test"])
    assert folder.file("eval", "epoch_001", ".png").name == "gradcam~2_eval_epoch_001.png"
    assert folder.file("train", "epoch_001", ".png").name == "gradcam_train_epoch_001.png"
    assert len(folder.file("eval", "film", ".png", "猫" * 300).name.encode()) <= NAME_BYTES


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, lambda folder: pickle.loads(pickle.dumps(folder))])
def test_a_copy_has_no_claims(tmp_path: Path, copy: Any) -> None:
    folder = Folder(tmp_path, "a b")
    folder.begin(["eval"])
    other = copy(folder)
    assert other.file("eval", "film", ".png") == folder.file("eval", "film", ".png")
    other.end()
    assert (tmp_path / f".{file_name('a b')}_eval.lock").exists()
    folder.end()
    assert not list(tmp_path.iterdir())


def test_a_mode_stays_in_the_folder_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "heat")
    folder.begin(["../eval"])
    assert [path.name for path in tmp_path.iterdir()] == ["heat"]
    assert folder.file("../eval", "film", ".png").parent == tmp_path / "heat"
    folder.end()


def test_no_folder_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder()
    folder.begin(["eval"])
    folder.end()
    assert not list(tmp_path.iterdir())
