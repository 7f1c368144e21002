"""What the command line says on stderr: errors and warnings in the words of its options."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

OPTIONS = {
    "target": "--class",
    "layer": "--layer",
    "method": "--method",
    "scaling": "--scaling",
    "fuse": "--fuse",
    "smooth": "--smooth",
    "class_names": "--class-names",
    "model_output": "--model-output",
    "colormap": "--colormap",
    "alpha": "--alpha",
    "model": "MODEL",
}
"""What the arguments of `fe_gradcam.explain`, which its errors name, are called here."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the package refuses as one message in the words of the command line."""
    from fe_gradcam.errors import CamError, UnsupportedModelError

    try:
        yield
    except CamError as error:
        more = " (fe_gradcam.explain in Python takes more kinds of models and targets.)"
        raise click.UsageError(_in_our_words(str(error)) + more * isinstance(error, UnsupportedModelError)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def _in_our_words(message: str) -> str:
    """A message of the package with options for arguments, and commands for functions."""
    names = "|".join(OPTIONS)
    for place in (rf"^({names})[= ]", rf"\b(?!target= )({names})=(?=None|[\s'\[\d-])"):
        message = re.sub(place, lambda found: f"{OPTIONS[found[1]]} ", message)
    message = message.replace("pass class_names", "pass --class-names").replace("  ", " ")
    return message.replace("fe_gradcam.list_layers(model, images)", '"fe-gradcam layers"')


@contextmanager
def plain_warnings() -> Iterator[None]:
    """The package's warnings as one line each, without a place in the code."""
    from fe_gradcam.errors import CamWarning

    with warnings.catch_warnings():
        warnings.simplefilter("default", CamWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **options: Any) -> None:
            if issubclass(category, CamWarning):
                say(f"Warning: {_in_our_words(str(message))}")
            else:
                shown(message, category, *more, **options)

        warnings.showwarning = show
        yield


def say(message: str) -> None:
    """A line on stderr, over what a progress bar left there."""
    click.echo(f"\r\033[K{message}" if sys.stderr.isatty() else message, err=True)


def refuse(what: str, message: str, cause: BaseException | None = None) -> NoReturn:
    """Ends the command: the value of an argument or option is not accepted."""
    raise click.BadParameter(message, param_hint=f"'{what}'") from cause


def told(error: BaseException) -> str:
    """An exception in one line: its class, its message in short, and where it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines)
    said = f"{said[:500]} ..." if len(said) > 500 else said
    return f"{type(error).__name__}{': ' if said else ''}{said}{_where(error)}"


def _where(error: BaseException) -> str:
    """The last place in code that is no library's."""
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        own = file.is_file() and not any(file.is_relative_to(folder) for folder in [*libraries, Path(__file__).parent])
        if own:
            return f" ({file}, line {frame.lineno})"
    return ""
