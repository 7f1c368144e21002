"""The nearest of the names there are, for errors that help."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str], count: int = 3) -> str:
    """The end of a sentence: ``"; did you mean 'layer4', 'layer3'?"``, or ``"."`` where none is near."""
    found = get_close_matches(str(name), list(known), n=count, cutoff=0.4)
    return f"; did you mean {', '.join(map(repr, found))}?" if found else "."
