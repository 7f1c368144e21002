"""Errors and warnings: messages made of parts, so that Python and the command line each write arguments their way."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


@dataclass(frozen=True)
class Argument:
    """An argument inside a message: the name alone, ``layer``, or with the value that was given, ``layer='conv'``.

    An empty value makes ``layer=``, which names an argument that the user is to pass.
    """

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"

    def told(self, words: Mapping[str, str]) -> str:
        """The argument as its reader would write it: ``--layer 'conv'``."""
        return f"{words[self.name]} {self.value or ''}".rstrip() if self.name in words else str(self)


LIST_LAYERS = Argument("fe_gradcam.list_layers(model, images)")
"""A function that messages name in the same way."""


class Told:
    """A message of parts: text, and arguments as data."""

    args: tuple[str | Argument, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    @property
    def argument(self) -> str | None:
        """The argument that the message is about: the first `Argument` among its parts."""
        return next((part.name for part in self.args if isinstance(part, Argument)), None)

    def told(self, words: Mapping[str, str]) -> str:
        """The message, with the arguments under the names that `words` has for them."""
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
    """The score depends on the layer, and yet no gradient reaches the layer."""


class HostError(CamError, ImportError):
    """FastEstimator cannot be used as things are; the message says what to install, or to import first."""


class NoHostError(CamError, AttributeError):
    """As HostError, raised when a name of the package is looked up: to Python the name then does not exist."""


class CamWarning(Told, UserWarning):
    """Something was shown that a user should know about before trusting it."""


def nearest(name: object, known: Iterable[str], count: int = 3) -> str:
    """The end of a sentence: ``"; did you mean 'layer4', 'layer3'?"``, or ``"."`` if no known name is near."""
    found = get_close_matches(str(name), list(known), n=count, cutoff=0.4)
    return f"; did you mean {', '.join(map(repr, found))}?" if found else "."


def in_one_line(error: BaseException) -> str:
    """An exception of other code: its class, its message in short, and the line of the user's code that raised it."""
    said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    said = f"{said[:500]} ..." if len(said) > 500 else said
    said = f"{type(error).__name__}{': ' if said else ''}{said}"
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.is_relative_to(folder) for folder in [*libraries, Path(__file__).parent]):
            return f"{said} ({file}, line {frame.lineno})"
    return said
