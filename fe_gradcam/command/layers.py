"""The layers of a model as a table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from fe_gradcam.command.messages import model_errors
from fe_gradcam.loading.models import Geometry, Loaded, in_pixels

if TYPE_CHECKING:
    from fe_gradcam.types import LayerInfo


def layer_table(loaded: Loaded, geometry: Geometry, everything: bool) -> Iterator[str]:
    """The lines of a table of the layers: the maps alone, or everything."""
    import numpy as np

    from fe_gradcam.explaining.route import list_layers

    sides, channels = geometry.size, geometry.channels
    shape = (1, channels, *sides) if loaded.framework == "torch" else (1, *sides, channels)
    with model_errors(loaded.name, shape):
        infos = list_layers(loaded.model, np.random.default_rng(0).random(shape, np.float32))
    shown = [info for info in infos if info.spatial or everything]
    if not shown:
        raise click.UsageError("no layer of MODEL puts out a map larger than 1x1; --all lists them all.")
    indices = _indices(loaded.model)
    table = [["index", "name", "kind", "output", "map", "convolution", "ReLU behind", ""]]
    table += [[str(indices.get(info.name, "-")), *_cells(info)] for info in shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for index, *cells in table:
        rest = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"{index:>{widths[0]}}  {rest}".rstrip()


def _cells(info: LayerInfo) -> list[str]:
    facts = ["yes" if fact else "-" for fact in (info.spatial, info.convolution)]
    relu = "-" if not info.convolution else "yes" if info.relu else "no"
    behind = f", behind its {info.activation}" if info.activation else ""
    arrow = f"<- default{behind}" if info.default else ""
    return [info.name or "(the model)", info.kind, in_pixels(info.shape) or "-", *facts, relu, arrow]


def _indices(model: Any) -> dict[str, int]:
    """What --layer takes for each name."""
    from fe_gradcam.backends import backend_for
    from fe_gradcam.errors import UnknownNameError

    backend, indices = backend_for(model), dict[str, int]()
    for index in count():
        try:
            indices.setdefault(backend.resolve(index, None).name, index)
        except UnknownNameError:
            break
    return indices
