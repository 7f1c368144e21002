"""Errors and warnings. Their messages keep arguments as data, so that the command line can name its own options."""

from __future__ import annotations

import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


@dataclass(frozen=True)
class Argument:
    """An argument inside a message: ``layer`` alone, or with its value as it is shown, ``layer='conv'``.

    An empty value gives ``layer=``, which names an argument that is to be passed.
    """

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"

    def told(self, words: Mapping[str, str]) -> str:
        """The argument under the name that `words` has for it, as on the command line: ``--layer 'conv'``."""
        return f"{words[self.name]} {self.value or ''}".rstrip() if self.name in words else str(self)


LIST_LAYERS = Argument("fe_gradcam.list_layers(model, images)")
"""A function, named in messages in the same way."""


class Told:
    """A message made of parts: text, and arguments as data."""

    args: tuple[str | Argument, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    @property
    def argument(self) -> str | None:
        """The argument that the message is about: the first one that is named as data."""
        return next((part.name for part in self.args if isinstance(part, Argument)), None)

    def told(self, words: Mapping[str, str]) -> str:
        """The message, with arguments under the names that `words` has for them."""
        return "".join(part if isinstance(part, str) else part.told(words) for part in self.args)


class CamError(Told, Exception):
    """Any error that this package raises on purpose."""


class ArgumentError(CamError, ValueError):
    """An argument has a value that is not accepted."""


class UnknownNameError(CamError, KeyError):
    """A name (of a layer, a method, a class) that does not exist; the message lists the nearest."""


class UnknownArgumentError(ArgumentError, TypeError):
    """A keyword that a function does not have; the message says which one is meant."""


class UnsupportedModelError(CamError, TypeError):
    """A model, or an output of one, that cannot be explained as it is."""


class GradientError(CamError, RuntimeError):
    """The score depends on the layer, but no gradient reaches the layer."""


class HostError(CamError, ImportError):
    """FastEstimator cannot be used; the message says what to install, or what to import first."""


class NoHostError(CamError, AttributeError):
    """The same for the look-up of a name of this package: Python then treats the name as one that does not exist."""


class CamWarning(Told, UserWarning):
    """Something that a user should know before trusting what is shown."""


def warn(message: str | CamWarning, stacklevel: int = 2) -> None:
    """Warns of something; inside `warnings_logged`, where warnings are errors, a line of the log stands in.

    Args:
        message: The warning.
        stacklevel: As `warnings.warn` takes it, seen from the caller.
    """
    told = CamWarning(message) if isinstance(message, str) else message
    try:
        warnings.warn(told, stacklevel=stacklevel + 1)
    except CamWarning:
        say = _LOG.get()
        if say is None:
            raise
        say(str(told))


@contextmanager
def warnings_logged(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, `warn` never raises: a training must not end because somebody is told something.

    Args:
        say: Writes a line to the log; called if Python turns a warning into an error, as with ``python -W error``.
    """
    token = _LOG.set(say)
    try:
        yield
    finally:
        _LOG.reset(token)


_LOG: ContextVar[Callable[[str], None] | None] = ContextVar("_LOG", default=None)


def said_by(error: BaseException) -> str:
    """What an exception says; one whose own text cannot be made is named by its class."""
    try:
        return str(error)
    except Exception as failure:
        return f"(its text cannot be made: {type(failure).__name__})"


MOST_SHOWN = 300
"""The most letters of a value in a message."""


def in_short(value: object) -> str:
    """A value in a message: its `repr` on one line, cut if it is long; its type if it cannot say what it is.

    Example:
        >>> in_short("turbi"), len(in_short("a" * 1000))
        ("'turbi'", 304)
    """
    try:
        said = repr(value)
    except Exception:  # of the user's object, or of an integer with thousands of digits
        return f"<{type(value).__name__}>"
    said = " ".join(line.strip() for line in said[: 2 * MOST_SHOWN].splitlines())
    plain = printable(said[:MOST_SHOWN])
    return f"{plain} ..." if len(said) > MOST_SHOWN else plain


def printable(text: str, keep: str = "") -> str:
    r"""The text with all that is no letter escaped, as it may move a terminal's cursor; but what `keep` holds.

    Example:
        >>> printable("a\x1b[2J\nb")
        'a\\x1b[2J\\nb'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else ascii(one)[1:-1] for one in text)


def nearest(name: object, known: Iterable[str], count: int = 3) -> str:
    """The end of a sentence: ``"; did you mean 'layer4', 'layer3'?"``, or ``"."`` if none is near."""
    names, name = list(known), name if type(name) is str else in_short(name)
    written = name[:MOST_SHOWN].lower().replace("++", "_plus_plus").replace("-", "_")  # as Grad-CAM++ is in papers
    found = [one for one in names if one == written] or get_close_matches(name[:MOST_SHOWN], names, n=count, cutoff=0.4)
    return f"; did you mean {', '.join(map(repr, found))}?" if found else "."


def in_one_line(error: BaseException) -> str:
    """An exception of other code: its class, its message in short, and the user's line of code that raised it."""
    said = " ".join(line.strip() for line in said_by(error).splitlines() if line.strip())
    said = f"{said[:500]} ..." if len(said) > 500 else said
    said = f"{type(error).__name__}{': ' if said else ''}{said}"
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.is_relative_to(folder) for folder in [*libraries, Path(__file__).parent]):
            return f"{said} ({file}, line {frame.lineno})"
    return said
