"""The options of the commands, and how their texts are read."""

# ruff: noqa: RUF009 - these calls make fields, as `dataclasses.field` does

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

HELP = {
    "--weights": "Weights to load into the model. PyTorch: a state dict (.pt, .pth), also a checkpoint that holds "
    "one under state_dict, model_state_dict or model, or .safetensors; only tensors are unpickled. "
    "Keras: .h5, .keras. Default: the model as it is.",
    "--size": "Height and width of the model's images. Default: as the model says; few PyTorch models say it.",
    "--channels": "1 for grey images, 3 for RGB. Default: as the model's input or first convolution says, else 3.",
    "--device": "PyTorch: cpu, cuda, cuda:1. Default: cuda if there is one, else cpu.",
    "--recursive": "Also take images in folders below the named ones. Default: no.",
    "--fit": "crop: fill the size and cut off the rest on both sides; stretch: distort.",
    "--value-range": "Pixels before --mean and --std: unit in [0, 1], byte in [0, 255].",
    "--mean": "Subtracted from the pixels; one number, or one per channel.",
    "--std": "The pixels are then divided by this: (x - mean) / std.",
    "--method": "The method that makes the heatmap; may be repeated. With parameters: "
    'smooth_grad_cam_plus_plus:samples=8,noise=0.1; "fe-gradcam methods" lists them. Accepted: METHODS.',
    "--layer": "The layer that is explained, by name or index; if repeated, one heatmap fused from all. "
    '"fe-gradcam layers" lists them. Default: the last layer that puts out a map.',
    "--fuse": "How the heatmaps of several layers become one.",
    "--smooth": "augment: the mean over flipped and scaled views of the image; eigen: the pattern that the channels "
    "of a map share; may be repeated. Default: neither.",
    "--seed": "Seed of the methods that draw random numbers.",
    "--class": "The class that is explained; may be repeated. An id; a name of --class-names; top3 for the three "
    "highest classes; A:B for why A and not B (without A: the inferred class; without B: its closest rival). "
    "Default: the inferred class.",
    "--class-names": "Names of the classes: a text file with a name per line, in the order of the ids, or JSON, a "
    "list or {id: name}. Default: the ids.",
    "--scaling": "scale_after_relu: the hottest place of each heatmap is 1; scale_before_relu: less than 1 if the "
    "evidence against the class is stronger; none: signed and not scaled.",
    "--colormap": "Any colormap of matplotlib.",
    "--alpha": "How strongly the heat covers the picture.",
    "--model-output": "The output that holds the class scores, by name or position, if the model has several. "
    "Default: the one that clearly does.",
    "--batch-size": "Images per pass. Methods that make changed copies of them choose by the size.",
    "--output": "The folder for the results; a missing folder is made.",
    "--report": "Also write report.html, a page with all images, at most 200, to filter, sort and open large. It needs "
    "only a browser. Default: no.",
    "--quiet": "No progress bar. Default: one on stderr, in a terminal.",
}


class MethodOption(click.Option):
    """An option whose help lists the methods; they are imported only for the help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The line of the option in the help."""
        from fe_gradcam.methods import METHODS

        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("METHODS", ", ".join(METHODS)))


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """(H, W) from "H" or "HxW"."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", text.strip())
    size = found and (int(found[1]), int(found[2] or found[1]))
    if not size or min(size) < 1:
        raise click.BadParameter(f"{text!r} is no size. Accepted: one side as 224, or height and width as 192x256.")
    return size


def _numbers(ctx: click.Context, param: click.Parameter, text: str) -> tuple[float, ...]:
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


def _option(default: Any = None, *, flag: str = "", cls: type[click.Option] = click.Option, **more: Any) -> Any:
    """A field that an option fills; the option's help is in HELP; a default is shown if there is one."""
    shown = {} if default is None else {"default": default, "show_default": True}

    def make(name: str) -> click.Option:
        called = flag or f"--{name.replace('_', '-')}"
        return cls([called, name], help=HELP[called], **shown, **more)

    return field(metadata={"make": make})


def _argument(**more: Any) -> Any:
    return field(metadata={"make": lambda name: click.Argument([name], **more)})


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class ModelRequest:
    """The model and its inputs: the same arguments for every command that loads a model."""

    model: str = _argument()
    weights: Path | None = _option(type=_FILE)
    size: tuple[int, int] | None = _option(callback=_size, metavar="H[xW]")
    channels: int | None = _option(type=click.Choice(["1", "3"]), callback=lambda ctx, param, text: text and int(text))
    device: str | None = _option(metavar="NAME")


@dataclass(frozen=True)
class PhotoRequest(ModelRequest):
    """How image files become inputs of the model."""

    fit: Any = _option("crop", type=click.Choice(["crop", "stretch"]))
    value_range: Any = _option("unit", type=click.Choice(["unit", "byte"]))
    mean: tuple[float, ...] = _option("0", callback=_numbers, metavar="X[,X,X]")
    std: tuple[float, ...] = _option("1", callback=_numbers, metavar="X[,X,X]")


@dataclass(frozen=True)
class CheckRequest(PhotoRequest):
    """The arguments of "fe-gradcam check"."""

    images: tuple[Path, ...] = _argument(nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
    methods: tuple[str, ...] = _option(["grad_cam"], flag="--method", cls=MethodOption, multiple=True, metavar="NAME")
    layers: tuple[str, ...] = _option(flag="--layer", multiple=True, metavar="NAME")
    seed: int = _option(0, type=click.IntRange(0), metavar="N")
    model_output: str | None = _option(metavar="NAME")


@dataclass(frozen=True)
class Request(PhotoRequest):
    """The arguments of "fe-gradcam explain"."""

    images: tuple[Path, ...] = _argument(nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
    recursive: bool = _option(is_flag=True)
    methods: tuple[str, ...] = _option(["grad_cam"], flag="--method", cls=MethodOption, multiple=True, metavar="NAME")
    layers: tuple[str, ...] = _option(flag="--layer", multiple=True, metavar="NAME")
    fuse: Any = _option("mean", metavar="[mean|max]")
    smooth: tuple[Any, ...] = _option(type=click.Choice(["augment", "eigen"]), multiple=True)
    seed: int = _option(0, type=click.IntRange(0), metavar="N")
    classes: tuple[str, ...] = _option(flag="--class", multiple=True, metavar="CLASS")
    class_names: Path | None = _option(type=_FILE)
    scaling: Any = _option("scale_after_relu", metavar="NAME")
    colormap: str = _option("turbo", metavar="NAME")
    alpha: float = _option(0.5, type=click.FloatRange(0, 1), metavar="0..1")
    model_output: str | None = _option(metavar="NAME")
    batch_size: int = _option(8, type=click.IntRange(1), metavar="N")
    output: Path = _option("fe_gradcam_output", type=click.Path(file_okay=False, path_type=Path))
    report: bool = _option(is_flag=True)
    quiet: bool = _option(is_flag=True)


def parameters_of(request: type[ModelRequest]) -> list[click.Parameter]:
    """The parameters of a command, which fill a request."""
    return [one.metadata["make"](one.name) for one in fields(request)]
