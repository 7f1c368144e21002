"""The nearest of the names there are, for errors that help."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str], count: int = 3) -> str:
    """The end of a sentence: ``"; did you mean 'layer4', 'layer3'?"``, or ``"."`` where none is near."""
    found = get_close_matches(str(name), list(known), n=count, cutoff=0.4)
    return f"; did you mean {', '.join(map(repr, found))}?" if found else "."


class CamError(Exception):
    """Any error that this package raises on purpose."""


class ArgumentError(CamError, ValueError):
    """An argument has a value that is not accepted."""


class UnknownNameError(CamError, KeyError):
    """A name (of a layer, a method, a class) that does not exist; the message lists the nearest."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnsupportedModelError(CamError, TypeError):
    """A model, or an output of one, that cannot be explained as it is."""


class GradientError(CamError, RuntimeError):
    """The score depends on the layer, and yet no gradient reaches it."""


class CamWarning(UserWarning):
    """Something was shown that a user should know about before trusting it."""
