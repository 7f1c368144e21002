"""Arguments that the host would refuse without saying which: keys, modes, datasets, and what it cannot write down."""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar

from fastestimator.util import traceability_util
from fastestimator.util.base_util import Flag

from fe_gradcam.errors import Argument, ArgumentError, CamError, in_short
from fe_gradcam.spec.arrays import listed

MODES = ("train", "eval", "test", "infer")
"""The modes of the host."""


def checked_key(name: str, value: Any) -> str:
    """A key of the batch.

    Raises:
        ArgumentError: It is no text, or one that the host does not take as a key.
    """
    is_key = isinstance(value, str) and value != "" and not set(":;") & set(value) and value.count("|") < 2
    if not is_key or not value.partition("|")[0]:
        said = " is not accepted. Accepted: one key of the batch, a string without ':', ';' and a second '|'."
        raise ArgumentError(Argument(name, in_short(value)), said)
    return str(value)


def checked_modes(mode: Any) -> list[str] | None:
    """The modes, as the host takes them, or None for all.

    Raises:
        ArgumentError: There is no such mode, or some are named and others excluded.
    """
    return _named(
        "mode", mode, f"one or several of {', '.join(MODES)}; with '!' in front, all but these; None for all.", MODES
    )


def checked_datasets(ds_id: Any) -> list[str] | None:
    """The ids of datasets, as the host takes them, or None for all.

    Raises:
        ArgumentError: It is no text, or some are named and others excluded.
    """
    return _named("ds_id", ds_id, "one or several ids of datasets; with '!' in front, all but these; None for all.")


def _named(name: str, value: Any, accepted: str, known: tuple[str, ...] = ()) -> list[str] | None:
    if value is None:
        return None
    words = [value] if isinstance(value, str) else listed(name, value, accepted)
    of_text = all(isinstance(one, str) and one.removeprefix("!") and not set(":;|") & set(one) for one in words)
    if not of_text or (known and not {one.removeprefix("!") for one in words} <= {*known}):
        raise ArgumentError(Argument(name, in_short(value)), f" is not accepted. Accepted: {accepted}")
    if len({one.startswith("!") for one in words}) > 1:
        said = f" names some and excludes others. Accepted: {accepted}"
        raise ArgumentError(Argument(name, in_short(value)), said)
    return words


C = TypeVar("C", bound=type)


def says_what_cannot_be_recorded(made: C) -> C:
    """Decorates a class above the host's `traceable`, which writes down the arguments of what it makes.

    An argument that it cannot write down (a list that holds itself, an object that cannot be shown as text) is then an
    ArgumentError that names it.
    """
    init = made.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except CamError:
            raise
        except Exception as error:
            given = inspect.signature(init).bind(self, *args, **kwargs).arguments
            for name, value in given.items():
                if name != "self" and not _can_be_recorded(value):
                    said = f" is a {type(value).__name__} that FastEstimator cannot write down, as it does with all "
                    said += f"arguments of {made.__name__} ({type(error).__name__}). Pass a plain value."
                    raise ArgumentError(Argument(name), said) from error
            raise

    made.__init__ = checked  # type: ignore[misc]
    return made


def _can_be_recorded(value: Any) -> bool:
    try:
        traceability_util._trace_value(value, {}, ret_ref=Flag())
    except Exception:
        return False
    return True
