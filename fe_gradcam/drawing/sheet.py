"""From the heatmaps of an epoch to what the trace hands out: the grid, the results, the arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Row
from fe_gradcam.drawing.pixels import overlay, signed_colormap
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.results import as_text
from fe_gradcam.scaling import upsample
from fe_gradcam.types import OF_TARGET, Heatmap

LEFT_TO_RIGHT = "\u200e"
"""Keeps a number behind a name that is written from right to left."""


TARGET_TITLES = {"pred": "inferred class", "label": "true class"}


WHERE_WRONG = "true class, where another was inferred"


MOST_ROWS = 200
"""Rows drawn in one grid; beyond that a picture is of no use to a reader, and of harm to the memory."""


@dataclass(frozen=True)
class Look:
    """How the grid is drawn.

    Attributes:
        colormap: A colormap of matplotlib.
        alpha: Weight of the heat over the picture, 0 to 1.
        shared_scale: Whether all heatmaps of the grid have one scale.
    """

    colormap: str = "turbo"
    alpha: float = 0.5
    shared_scale: bool = False


def with_shared_scale(parts: Sequence[Explained]) -> list[Explained]:
    """The same heatmaps scaled by the largest of their method, so that magnitudes compare."""
    columns = [column for part in parts for column in part.columns]
    if columns[0].heatmap.scaling == "none":
        return list(parts)
    largest = _largest_by_method(columns, _divisor)
    return [
        replace(part, columns=[replace(c, heatmap=_divided(c.heatmap, largest[c.method])) for c in part.columns])
        for part in parts
    ]


def _largest_by_method(columns: Sequence[Column], measure: Callable[[Heatmap], float]) -> dict[str, float]:
    """Of each method the largest measure of its heatmaps, 1 where that is 0; two methods have no unit in common."""
    found: dict[str, float] = {}
    for column in columns:
        found[column.method] = max(found.get(column.method, 0.0), measure(column.heatmap))
    return {method: largest or 1.0 for method, largest in found.items()}


def _upsampled_evidence(heatmap: Heatmap) -> NDArray[np.float32]:
    """The positive part of the signed maps at the size of the images, not scaled."""
    positive = torch.from_numpy(heatmap.raw).clamp(min=0)
    return upsample(positive, (heatmap.values.shape[1], heatmap.values.shape[2])).numpy()


def _divisor(heatmap: Heatmap) -> float:
    if heatmap.scaling == "scale_before_relu":
        return float(np.abs(heatmap.raw).max())
    return float(_upsampled_evidence(heatmap).max())


def _divided(heatmap: Heatmap, divisor: float) -> Heatmap:
    return replace(heatmap, values=_upsampled_evidence(heatmap) / np.float32(divisor))


def compose_grid(
    parts: Sequence[Explained], names: Mapping[int, str], look: Look, title: str, *, numbered: bool = False
) -> Grid:
    """The grid of one or several datasets.

    Args:
        parts: The datasets, at least one, with the same columns.
        names: Names of classes by id.
        look: How it is drawn.
        title: What stands above it.
        numbered: Whether images without ids are called by their places in the order of the epoch.
    """
    parts = _drawn(parts)
    columns = parts[0].columns
    signed = columns[0].heatmap.scaling == "none"
    limits: dict[str, float] = {}
    if signed and look.shared_scale:
        every = [column for part in parts for column in part.columns]
        limits = _largest_by_method(every, lambda heatmap: float(np.abs(heatmap.values).max()))
    total = sum(len(part) for part in parts)
    several = len(parts) > 1
    places = islice(((part, at) for part in parts for at in range(len(part))), MOST_ROWS)
    rows = [_row(part, at, names, look, limits, name_dataset=several, numbered=numbered) for part, at in places]
    title = ", ".join(filter(None, (title, _where(parts[0]))))
    limit = next(iter(limits.values())) if len(limits) == 1 else 1.0
    if total > MOST_ROWS:
        title = f"{title}: the first {MOST_ROWS} of {total} images"
    return Grid(
        rows=tuple(rows),
        titles=("image", *(_title(column, columns) for column in columns)),
        colormap=signed_colormap(look.colormap) if signed else look.colormap,
        scale_label=_scale_label(columns, look.shared_scale),
        scale_range=(-limit, limit) if signed else (0.0, 1.0),
        title=title,
    )


def _drawn(parts: Sequence[Explained]) -> list[Explained]:
    """The datasets without the columns in which nothing is drawn."""
    drawn = [at for at in range(len(parts[0].columns)) if any(_is_drawn(part.columns[at]) for part in parts)]
    return [replace(part, columns=[part.columns[at] for at in drawn]) for part in parts]


def _is_drawn(column: Column) -> bool:
    return column.shown is None or bool(column.shown.any())


def _title(column: Column, columns: Sequence[Column]) -> str:
    methods = {other.method for other in columns}
    targets = {other.target for other in columns}
    target = TARGET_TITLES.get(column.target, column.target) if column.shown is None else WHERE_WRONG
    if len(targets) == 1 and column.target == "pred":
        return column.method
    return target if len(methods) == 1 and len(targets) > 1 else f"{column.method}: {target}"


def _where(part: Explained) -> str:
    heatmap = part.of_layer
    said = f"layer {heatmap.layer}" if heatmap.of_layer else f"the {heatmap.layer}"
    return f"{said}, smoothed ({heatmap.smooth})" if heatmap.smooth else said


def _scale_label(columns: Sequence[Column], shared: bool) -> str:
    methods = {column.method: column.heatmap for column in columns}
    reach = f"one scale for {'each method' if len(methods) > 1 else 'the grid'}" if shared else "each map by itself"
    meant: dict[str, list[str]] = {}
    for method, heatmap in methods.items():
        meant.setdefault(_shows(heatmap), []).append(method)
    # What most methods show goes first, and without their names.
    usual = [_shows(heatmap) for heatmap in methods.values() if heatmap.shows == OF_TARGET][:1]
    said = usual + [f"{', '.join(names)}: {sense}" for sense, names in meant.items() if sense not in usual]
    sense = next(iter(meant)) if len(meant) == 1 else "; ".join(said)
    return f"{sense}, {reach} (scaling: {columns[0].heatmap.scaling})"


def _shows(heatmap: Heatmap) -> str:
    """What the heat means, in words."""
    signed = heatmap.shows == OF_TARGET and heatmap.scaling == "none"
    return "evidence against (negative) and for (positive)" if signed else heatmap.shows


def _row(
    part: Explained,
    at: int,
    names: Mapping[int, str],
    look: Look,
    limits: Mapping[str, float],
    *,
    name_dataset: bool,
    numbered: bool,
) -> Row:
    texts: list[tuple[str, str]] = []
    if part.ids is not None:
        texts.append(("id", as_text(part.ids[at])))
    elif numbered and part.positions is not None:
        texts.append(("id", f"#{part.positions[at]}"))
    if name_dataset and part.ds_id:
        texts.append(("note", part.ds_id))
    wrong = False
    if part.labels is not None:
        label = int(part.labels[at])
        texts.append(("label", names.get(label, str(label)) if label >= 0 else "not labelled"))
    if part.predictions is not None and part.probabilities is not None:
        prediction = int(part.predictions[at])
        confidence = float(part.probabilities[at, prediction])
        name = names.get(prediction, str(prediction))
        texts.append(("prediction", f"{name}{LEFT_TO_RIGHT} {confidence:.0%}"))
        wrong = part.labels is not None and 0 <= int(part.labels[at]) != prediction
    picture = part.pictures[at]
    panels = [Panel(picture)]
    for column in part.columns:
        if column.shown is not None and not column.shown[at]:
            panels.append(Panel(np.full_like(picture, 255)))
        elif column.target == "label" and column.heatmap.class_ids[at] < 0:
            panels.append(Panel(picture, note="not labelled"))
        else:
            panels.append(_panel(picture, column.heatmap, at, look, limits.get(column.method)))
    if part.masks is not None:
        shown = [column.shown is None or bool(column.shown[at]) for column in part.columns]
        panels = [
            replace(panel, outline=part.masks[at]) if drawn else panel
            for panel, drawn in zip(panels, [True, *shown], strict=True)
        ]
    return Row(texts=tuple(texts), wrong=wrong, panels=tuple(panels))


def _panel(picture: NDArray[np.uint8], heatmap: Heatmap, at: int, look: Look, limit: float | None) -> Panel:
    heat = heatmap.values[at]
    signed = heatmap.scaling == "none"
    if heatmap.blank[at] and not (signed and np.any(heat)):
        return Panel(picture, note="no evidence")
    height, width = picture.shape[:2]
    if heat.shape != (height, width):
        heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    return Panel(overlay(picture, heat, colormap=look.colormap, alpha=look.alpha, signed=signed, limit=limit))
