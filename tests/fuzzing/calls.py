"""Calls of all that is public with hostile arguments, and how each ended."""

from __future__ import annotations

import inspect
import os
import random
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

import fe_gradcam
from fe_gradcam.errors import CamError
from tests.fuzzing import hostile, valid

SECONDS = 10
"""After so long a call counts as one that hangs."""


MODELS = ("torch/nn/modules/module.py", "keras/src/engine/training.py", "keras/src/utils/traceback_utils.py")
"""Files of the frameworks that call a model."""


@dataclass(frozen=True)
class Subject:
    """Something public that is called: a function, a class, or the method of an object."""

    name: str
    called: Callable[..., Any]
    signature: inspect.Signature
    constructs: bool = False


@dataclass
class Tally:
    """How the calls of one subject ended: how many in a result, refused, in the user's own error, and otherwise."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, str]] = field(default_factory=list)
    """What was called and how it ended, of those that ended otherwise."""


def subjects() -> list[Subject]:
    """All that `fe_gradcam.__all__` names and that takes arguments; of catalogues, the look-up of an entry."""
    found = []
    for name in fe_gradcam.__all__:
        value = getattr(fe_gradcam, name)
        if inspect.isclass(value) and issubclass(value, BaseException):
            continue  # takes the parts of a message
        if callable(value):
            found.append(Subject(name, value, inspect.signature(value), inspect.isclass(value)))
        else:
            asked, *_ = inspect.signature(value.find).parameters.values()
            found.append(Subject(f"{name}.find", value.find, inspect.Signature([asked])))
    return found


def hostile_call(draw: random.Random, subject: Subject, model: Any = None) -> tuple[dict[str, Any], list[str]]:
    """A call that is accepted, with one or two of its arguments replaced; and the names of these."""
    given = valid.call_of(draw, subject.name, subject.signature)
    if model is not None:
        given["model"] = model
        given = {name: _channels_last(value) for name, value in given.items()}
    names = list(subject.signature.parameters)
    replaced = draw.sample(names, min(len(names), draw.choice((1, 1, 2))))
    for name in replaced:
        parameter = subject.signature.parameters[name]
        made = valid.values_for(subject.name, parameter)
        given[name] = hostile.one(draw, draw.choice(made))
    return given, replaced


def _channels_last(value: Any) -> Any:
    is_picture = isinstance(value, np.ndarray) and value.shape == valid.PICTURES.shape
    return np.moveaxis(value, 1, -1) if is_picture else value


def ending(subject: Subject, given: dict[str, Any], seconds: float = SECONDS) -> tuple[str, str]:
    """How a call ends: "result", "refused", "own", or else a fault, with where it was raised."""
    positional = [
        given.pop(name)
        for name, parameter in subject.signature.parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and name in given
    ]
    try:
        with warnings.catch_warnings(), _limited(seconds), redirect_stdout(StringIO()), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = subject.called(*positional, **given)
            if isinstance(result, fe_gradcam.Picture) and not subject.constructs:
                assert result.rgb.size
    except CamError as error:
        return ("refused", "") if _can_be_read(error) else ("unreadable", _where(error))
    except valid.OwnError:
        return "own", ""
    except (Exception, hostile.HungError) as error:
        kind = _kind(error)
        return kind, "" if kind == "own" else _where(error)
    return "result", ""


def _kind(error: BaseException) -> str:
    """The user's own error: raised by what was handed over, also if Keras wraps it, or raised inside the model."""
    if _inside_the_model(error):
        return "own"
    while error.__cause__ is not None and not isinstance(error, valid.OwnError):
        error = error.__cause__
    return "own" if isinstance(error, valid.OwnError) else type(error).__name__


def _inside_the_model(error: BaseException) -> bool:
    """Whether it was raised in a call of the model, by an operation of its own, which we may have handed on."""
    behind: list[str] = []
    for frame in traceback.extract_tb(error.__traceback__):
        ours = "/fe_gradcam/" in frame.filename and frame.name != "__torch_function__"
        behind = [] if ours else [*behind, frame.filename]
    by_us = bool(behind) and "/fe_gradcam/" in behind[-1] and not isinstance(error, RuntimeError)
    return any(file.endswith(MODELS) for file in behind) and not by_us


def _can_be_read(error: CamError) -> bool:
    """Whether the message is text of a bearable length, without what moves a terminal's cursor."""
    said = str(error)
    return 0 < len(said) < 5_000 and not any(ord(letter) < 32 and letter != "\n" for letter in said)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "fe_gradcam" in one.filename and "tests" not in one.filename]
    last = own[-1] if own else frames[-1]
    try:
        said = str(error)[:160].replace("\n", " ")
    except Exception:
        said = "(cannot be said)"
    return f"{last.filename.rpartition('fe_gradcam/')[2]}:{last.lineno} {last.name}: {said!a}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends what does not come back."""

    def hung(*given: object) -> None:
        raise hostile.HungError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(subject: Subject, count: int, seed: int, folder: Path, model: Any = None, seconds: float = SECONDS) -> Tally:
    """Calls a subject so many times, each call from a seed of its own, with `folder` as the current folder."""
    tally, before = Tally(), Path.cwd()
    inner = folder / "a" / "b" / "c"
    inner.mkdir(parents=True, exist_ok=True)
    os.chdir(inner)
    try:
        for at in range(count):
            given, replaced = hostile_call(random.Random(f"{seed} {subject.name} {at}"), subject, model)
            shown = ", ".join(f"{name}={_shown(given[name])}" for name in replaced)
            end, where = ending(subject, given, seconds)
            tally.ends[end if end in ("result", "refused", "own") else "fault"] += 1
            if where:
                tally.faults.append((f"{subject.name}[{at}]({shown})", f"{end} at {where}"))
    finally:
        os.chdir(before)
    return tally


def _shown(value: Any) -> str:
    try:
        return ascii(value)[:120].replace("\n", " ")
    except Exception:
        return f"<{type(value).__name__}>"
