"""The sheet of an epoch, or of `draw`: explained images as the rows of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Role, Row, Text
from fe_gradcam.drawing.pixels import check_per_channel, colormap_lut, overlay, signed_colormap, to_rgb
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.results import as_text
from fe_gradcam.parameters import fraction
from fe_gradcam.types import OF_TARGET, Heatmap

LEFT_TO_RIGHT = "\u200e"
"""Keeps a number behind a name that is written from right to left."""

TARGET_TITLES = {"pred": "inferred class", "label": "true class"}

MOST_ROWS = 200
"""Rows drawn in one grid; beyond that a picture is of no use to a reader, and of harm to the memory."""


@dataclass(frozen=True, eq=False)
class Look:
    """How images and their heat are drawn; see `fe_gradcam.draw`.

    Raises:
        ArgumentError: The weight, the mean or the deviation is none.
        UnknownNameError: There is no such colormap.
    """

    colormap: str = "turbo"
    alpha: float = 0.5
    mean: ArrayLike | None = None
    std: ArrayLike | None = None

    def __post_init__(self) -> None:
        colormap_lut(self.colormap)
        fraction("alpha", self.alpha)
        check_per_channel("mean", self.mean)
        check_per_channel("std", self.std)

    def pictures(self, images: ArrayLike, *, channels_first: bool) -> NDArray[np.uint8]:
        """The images as pictures (N, H, W, 3); see `to_rgb`. Three or one channels are found where they stand."""
        array = np.asarray(images)
        if array.ndim == 4:
            fits = [array.shape[axis] in (1, 3) for axis in (1, 3)]
            channels_first = fits[0] if fits[0] != fits[1] else channels_first
        return to_rgb(array, channels_first=channels_first, mean=self.mean, std=self.std)


def compose_grid(
    parts: Sequence[Explained], names: Mapping[int, str], look: Look, title: str, *, numbered: bool = False
) -> Grid:
    """The grid of one or several datasets, which have the same columns.

    If it is `numbered`, images without ids are called by their positions in the epoch.
    """
    columns, total = parts[0].in_line, sum(map(len, parts))
    every = islice(((part, at) for part in parts for at in range(len(part))), MOST_ROWS)
    rows = [_row(part, at, names, look, name_dataset=len(parts) > 1, numbered=numbered) for part, at in every]
    heatmap = parts[0].of_layer
    layer = layer_in_words(heatmap)
    smoothed = f"smoothed ({heatmap.smooth})" if heatmap.smooth else ""
    title = ", ".join(filter(None, (title, layer, smoothed)))
    if total > MOST_ROWS:
        title = f"{title}: the first {MOST_ROWS} of {total} images"
    titles = ("image", *(_title(column, columns) for column in columns))
    return replace(bare_grid(parts[0], look), rows=tuple(rows), titles=titles, title=title)


def layer_in_words(heatmap: Heatmap) -> str:
    """As "layer conv3", or "the whole model"."""
    return f"layer {heatmap.layer}" if heatmap.of_layer else f"the {heatmap.layer}"


def bare_grid(part: Explained, look: Look) -> Grid:
    """A grid without rows that says what the heat of these images means."""
    columns = part.in_line
    if columns[0].heatmap.scaling != "none":
        return Grid((), (), look.colormap, _scale_label(columns), (0.0, 1.0))
    units = {column.method: column.unit for column in columns}
    limit = (columns[0].unit if len(units) == 1 else None) or 1.0
    return Grid((), (), signed_colormap(look.colormap), _scale_label(columns), (-limit, limit))


def _title(column: Column, columns: Sequence[Column]) -> str:
    methods, targets = ({getattr(other, name) for other in columns} for name in ("method", "target"))
    target = TARGET_TITLES.get(column.target, column.target)
    if targets == {"pred"}:
        return column.method
    return target if len(methods) == 1 and len(targets) > 1 else f"{column.method}: {target}"


def _scale_label(columns: Sequence[Column]) -> str:
    methods = {column.method: column.heatmap for column in columns}
    shared = f"one scale for {'each method' if len(methods) > 1 else 'the grid'}"
    reach = "each map by itself" if columns[0].unit is None else shared
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
    signed_evidence = heatmap.shows == OF_TARGET and heatmap.scaling == "none"
    return "evidence against (negative) and for (positive)" if signed_evidence else heatmap.shows


def _row(part: Explained, at: int, names: Mapping[int, str], look: Look, *, name_dataset: bool, numbered: bool) -> Row:
    """An image with its heatmaps; a wrong one has those of its true class below those of the inferred one."""
    picture, outline = part.pictures[at], None if part.masks is None else part.masks[at]

    def panel(column: Column) -> Panel:
        if column.target == "label" and column.heatmap.class_ids[at] < 0:
            return Panel(picture, note="not labelled", outline=outline)
        heat = column.heatmap
        drawn = heat_panel(picture, heat.values[at], bool(heat.blank[at]), look, heat.scaling, column.unit)
        return replace(drawn, outline=outline)

    below: tuple[Panel | None, ...] = ()
    aside: tuple[Text, ...] = ()
    of_true = [column for column in part.columns if column.shown is not None and column.shown[at]]
    if of_true:
        by_method = {column.method: panel(column) for column in of_true}
        below = (None, *(by_method.get(one.method) if one.target == "pred" else None for one in part.in_line))
        true = int(of_true[0].heatmap.class_ids[at])
        aside = (Text("note", "the true class:"), _class_text("class", part, at, true, names))
    texts = texts_of(part, at, names, name_dataset=name_dataset, numbered=numbered)
    panels = (Panel(picture, outline=outline), *map(panel, part.in_line))
    return Row(tuple(texts), bool(part.wrong[at]), panels, below, aside)


def texts_of(
    part: Explained, at: int, names: Mapping[int, str], *, name_dataset: bool = False, numbered: bool = False
) -> list[Text]:
    """What stands beside an image: which it is, its true class, and the inferred one."""
    texts = []
    if part.ids is not None:
        texts.append(Text("id", as_text(part.ids[at])))
    elif numbered and part.positions is not None:
        texts.append(Text("id", f"#{part.positions[at]}"))
    if name_dataset and part.ds_id:
        texts.append(Text("note", part.ds_id))
    if part.labels is not None:
        label = int(part.labels[at])
        texts.append(Text("label", names.get(label, str(label)) if label >= 0 else "not labelled"))
    if part.predictions is not None:
        texts.append(_class_text("prediction", part, at, int(part.predictions[at]), names))
    return texts


def _class_text(role: Role, part: Explained, at: int, class_id: int, names: Mapping[int, str]) -> Text:
    """A class with its probability."""
    table = part.probabilities
    number = "" if table is None or class_id >= table.shape[1] else f"{float(table[at, class_id]):.0%}"
    return Text(role, names.get(class_id, str(class_id)) + LEFT_TO_RIGHT, number)


def heat_panel(
    picture: NDArray[np.uint8],
    heat: NDArray[np.float32],
    blank: bool,
    look: Look,
    scaling: str,
    unit: float | None = None,
) -> Panel:
    """A picture (H, W, 3) with its heat (h, w) stretched over it; if it is blank, a note: no evidence.

    Where several signed maps have one scale, `unit` stands for the ends of the colormap.
    """
    signed = scaling == "none"
    if blank and not (signed and np.any(heat)):
        return Panel(picture, note="no evidence")
    if heat.shape != picture.shape[:2]:
        heat = np.asarray(cv2.resize(heat, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return Panel(overlay(picture, heat, colormap=look.colormap, alpha=look.alpha, signed=signed, limit=unit))
