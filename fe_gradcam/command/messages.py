"""The messages of the command line on stderr: errors and warnings in the words of its options."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from fe_gradcam.command.options import HELP
from fe_gradcam.errors import LIST_LAYERS, CamError, CamWarning, UnsupportedModelError, in_one_line, printable

OPTIONS = {flag.removeprefix("--").replace("-", "_"): flag for flag in HELP}
OPTIONS |= {"target": "--class", "model": "MODEL", LIST_LAYERS.name: '"fe-gradcam layers"'}
"""The names in the command line of arguments and functions that errors of the package name."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns errors of the package into one message in the words of the command line."""
    try:
        yield
    except CamError as error:
        more = " (fe_gradcam.explain in Python takes more kinds of models and targets.)"
        takes_more = isinstance(error, UnsupportedModelError) and "Keras 3" not in str(error)
        raise click.UsageError(printable(error.told(OPTIONS), keep="\n") + more * takes_more) from error
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise click.ClickException(printable(said)) from error


@contextmanager
def model_errors(name: str, shape: Sequence[int]) -> Iterator[None]:
    """Turns an exception that the model raises into an error of MODEL."""
    try:
        yield
    except CamError:
        raise
    except Exception as error:
        said = f"{name!r} failed on images of shape {tuple(shape)}: {in_one_line(error)}"
        refuse("MODEL", f"{said}. Do --size and --channels fit it?", error)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Prints each warning of the package as one line, without a line of code."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", CamWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, *more: Any, **options: Any) -> None:
            if isinstance(message, CamWarning):
                say(f"Warning: {message.told(OPTIONS)}")
            else:
                shown(message, *more, **options)

        warnings.showwarning = show
        yield


def say(message: str) -> None:
    """Prints a line on stderr, over the rest of a progress bar; what is no letter is escaped."""
    plain = printable(message, keep="\n")
    click.echo(f"\r\033[K{plain}" if sys.stderr.isatty() else plain, err=True)


def tell(message: str) -> None:
    """Prints lines on stdout; what is no letter is escaped, as in the names of files and classes."""
    click.echo(printable(message, keep="\n"))


def refuse(what: str, message: str, cause: BaseException | None = None) -> NoReturn:
    """Ends the command, because the value of an argument or option is not accepted."""
    raise click.BadParameter(printable(message, keep="\n"), param_hint=f"'{what}'") from cause
