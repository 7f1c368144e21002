"""The command line as tests run it, and what it wrote."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fe_gradcam.command import cli
from fe_gradcam.command.written import enlarged
from fe_gradcam.drawing.grid import GAP
from fe_gradcam.loading.models import load_model
from tests.drawing.places import places_of

# Click 8.1 mixes what is printed with what is said, unless it is told; later ones have no such argument.
APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}


def run(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner(**APART).invoke(cli.main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: Any, command: str = "explain") -> str:
    """The message of a run that is refused, on one line."""
    result = run(command, *arguments, code=2)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def colours() -> Any:
    """The net of the current folder, to explain it in Python."""
    return load_model("nets:Colours", device="cpu").model


def results_of(folder: Path) -> dict[str, Any]:
    """Of strict JSON, which knows no NaN."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"), parse_constant=pytest.fail)
    return found


def arrays_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.array(image)


def beside(drawn: np.ndarray, picture: np.ndarray, column: int = 1) -> np.ndarray:
    """What stands so many columns to the right of a picture, which stands once in what is drawn."""
    ((y, x),) = places_of(picture, drawn)
    height, width = picture.shape[:2]
    left = x + column * (width + GAP)
    return drawn[y : y + height, left : left + width]


def overlay_of(path: Path, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture as a file of one heatmap shows it, and the heat over it, which stands beside it."""
    shown = enlarged(picture)
    return shown, beside(pixels(path), shown)


def middles(drawn: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The middle of each square that a pixel of the picture was enlarged to."""
    factor = len(drawn) // len(picture)
    return drawn[factor // 2 :: factor, factor // 2 :: factor]


def heat_of(here: Path, *arguments: Any, output: str = "out") -> dict[str, np.ndarray]:
    run("explain", "nets:Colours", "squares.png", "--size", 16, "--output", output, *arguments)
    return arrays_of(here / output, "squares")
