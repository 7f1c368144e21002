"""A quick form of ``python -m tests.fuzzing``: hostile arguments end in a result or in one of our errors."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import fe_gradcam
from tests.fuzzing import valid
from tests.fuzzing.calls import Subject, ending, fuzz, subjects
from tests.fuzzing.hostile import ENOUGH, Boundless, Trap, TrapError, endless

QUICK = 12
"""Calls of each subject; the full run has hundreds, and thousands of `explain`."""

SUBJECTS = {one.name: one for one in subjects()}


def test_all_that_is_public_is_called() -> None:
    called = {name.partition(".")[0] for name in SUBJECTS}
    left_out = set(fe_gradcam.__all__) - called
    assert all(issubclass(getattr(fe_gradcam, name), BaseException) for name in left_out)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_call_without_a_hostile_argument_ends_in_a_result(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write a file

    class Never(random.Random):
        """Chooses the first, and no more than is needed."""

        def random(self) -> float:
            return 0.5

    subject = SUBJECTS[name]
    assert ending(subject, valid.call_of(Never(), name, subject.signature)) == ("result", "")


@pytest.mark.parametrize("name", SUBJECTS)
def test_hostile_arguments_end_in_a_result_or_in_our_errors(name: str, tmp_path: Path) -> None:
    assert fuzz(SUBJECTS[name], QUICK * (10 if name == "explain" else 1), 0, tmp_path).faults == []


def test_the_same_on_keras(tmp_path: Path) -> None:
    assert fuzz(SUBJECTS["explain"], QUICK, 0, tmp_path, valid.keras_model()).faults == []


def of(called: object) -> Subject:
    """A function of one argument."""
    import inspect

    return Subject("own", called, inspect.signature(called))  # type: ignore[arg-type]


def test_an_error_that_is_not_ours_is_a_fault() -> None:
    def fails(value: object) -> None:
        raise TypeError("not ours")

    def says_nothing(value: object) -> None:
        raise fe_gradcam.ArgumentError("\x1b[2J")

    def reads_on(value: object) -> None:
        list(endless())

    assert ending(of(fails), {"value": 1})[0] == "TypeError"
    assert ending(of(says_nothing), {"value": 1})[0] == "unreadable"
    assert ending(of(reads_on), {"value": 1})[0] == "HungError"
    assert ending(of(repr), {"obj": Trap()})[0] == "TrapError"
    assert ending(of(len), {"obj": "abc"}) == ("result", "")


def test_the_error_of_a_users_own_is_none() -> None:
    def raises(value: object) -> None:
        raise valid.OwnError("own")

    def wraps(value: object) -> None:
        try:
            raises(value)
        except valid.OwnError as error:
            raise ValueError("by a framework") from error

    assert ending(of(raises), {"value": 1})[0] == ending(of(wraps), {"value": 1})[0] == "own"


def test_hostile_values_do_what_they_are_for() -> None:
    for look in (str, len, iter, bool, float, list):
        with pytest.raises(TrapError):
            look(Trap())
    assert len(Boundless()) == 0
    assert len(list(iter(Boundless()))) == ENOUGH + 1
