"""The options that several commands share, and how their texts are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class MethodOption(click.Option):
    """An option whose help names the methods there are, which are imported for that alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Its line of the help."""
        from fe_gradcam.methods import METHODS

        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("METHODS", ", ".join(METHODS)))


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """(H, W) of "H" or "HxW"."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", text.strip())
    size = found and (int(found[1]), int(found[2] or found[1]))
    if not size or min(size) < 1:
        raise click.BadParameter(f"{text!r} is no size. Accepted: one side as 224, or height and width as 192x256.")
    return size


def numbers(ctx: click.Context, param: click.Parameter, text: str) -> tuple[float, ...]:
    """The numbers of "0.5" or "0.485,0.456,0.406"."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise click.BadParameter(f"{text!r} is not accepted. Accepted: one number, or one per channel: 0.5,0.5,0.5.")
    if param.name == "std" and 0 in numbers:
        raise click.BadParameter("0 is no standard deviation; pixels are divided by it.")
    return numbers


def model_options(command: Command) -> Command:
    """The model and what it takes: the same for every command that loads one."""
    for option in reversed(
        [
            click.argument("model"),
            click.option(
                "--weights",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="Weights to load into the model. PyTorch: a state dict (.pt, .pth), also a checkpoint that holds "
                "it under state_dict, model_state_dict or model, or .safetensors; nothing but tensors is unpickled. "
                "Keras: .h5, .keras. Default: the model as it is.",
            ),
            click.option(
                "--size",
                callback=_size,
                metavar="H[xW]",
                help="Height and width of the model's images. Default: what the model says; PyTorch models seldom do.",
            ),
            click.option(
                "--channels",
                type=click.Choice(["1", "3"]),
                callback=lambda ctx, param, text: None if text is None else int(text),
                help="1 for grey images, 3 for RGB. Default: what the model says by its input or first convolution, "
                "else 3.",
            ),
            click.option(
                "--device",
                metavar="NAME",
                help="PyTorch: cpu, cuda, cuda:1. Default: cuda where there is one, else cpu.",
            ),
        ]
    ):
        command = option(command)
    return command
