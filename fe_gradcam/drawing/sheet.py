"""The sheet of an epoch, or of `draw`: explained images as the rows of a grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.grid import Grid, Panel, Role, Row, Text, shown_side
from fe_gradcam.drawing.pixels import check_per_channel, colormap_lut, overlay, signed_colormap, smooth_heat, to_rgb
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.results import as_text
from fe_gradcam.parameters import fraction
from fe_gradcam.types import OF_TARGET, Heatmap

Map: TypeAlias = NDArray[np.float32]
"""Heat, (h, w)."""

OUTLINED = "; outlined: where the object is"
"""What stands in the legend of a picture with outlines."""

LEFT_TO_RIGHT = "\u200e"
"""Keeps a number behind a name that is written from right to left."""

TARGET_TITLES = {"pred": "inferred class", "label": "true class"}

OTHER_WORDS = {
    "top 1": "highest class",
    "top 2": "second class",
    "top 3": "third class",
    "top class against its rival": "highest against second class",
}
"""Targets whose names are said in other words in a picture."""

SURE = 0.5
"""A wrong answer with a probability below this counts as a guess, and is drawn as unsure."""

AGREES_WITHIN = 1e-3
"""How far heat may be off the heat made from its map, relative to the largest: devices round differently."""

MOST_ROWS = 200
"""The most rows in one grid: a larger picture helps no reader and costs memory."""


@dataclass(frozen=True, eq=False)
class Look:
    """How images and their heat are drawn; see `fe_gradcam.draw`.

    Raises:
        ArgumentError: The weight, the mean or the standard deviation is not accepted.
        UnknownNameError: There is no such colormap.
    """

    colormap: str = "turbo"
    alpha: float = 0.5
    mean: ArrayLike | None = None
    std: ArrayLike | None = None

    def __post_init__(self) -> None:
        colormap_lut(self.colormap)
        object.__setattr__(self, "alpha", fraction("alpha", self.alpha))
        check_per_channel("mean", self.mean)
        check_per_channel("std", self.std)

    def pictures(self, images: ArrayLike, *, channels_first: bool) -> NDArray[np.uint8]:
        """The images as pictures (N, H, W, 3); see `to_rgb`. The axis of one or three channels is found here."""
        array = np.asarray(images)
        if array.ndim == 4:
            fits = [array.shape[axis] in (1, 3) for axis in (1, 3)]
            channels_first = fits[0] if fits[0] != fits[1] else channels_first
        return to_rgb(array, channels_first=channels_first, mean=self.mean, std=self.std)


def compose_grid(
    parts: Sequence[Explained], names: Mapping[int, str], look: Look, title: str, *, numbered: bool = False
) -> Grid:
    """The grid of one or several datasets, which have the same columns.

    With `numbered`, images without ids are named by their positions in the epoch.
    """
    columns, total = parts[0].in_line, sum(map(len, parts))
    rows: list[Row] = []
    for part in parts:
        part = part.rows(slice(0, MOST_ROWS - len(rows)))
        several = len(parts) > 1
        rows += [_row(part, at, names, look, name_dataset=several, numbered=numbered) for at in range(len(part))]
    if total > MOST_ROWS:
        title = f"{title}: the first {MOST_ROWS} of {total} images".removeprefix(": ")
    titles = ("image", *(_title(column, columns) for column in columns))
    grid, outlined = bare_grid(parts[0], look), OUTLINED * any(part.masks is not None for part in parts)
    label, subtitle = grid.scale_label + outlined, what_is_explained(columns)
    return replace(grid, rows=tuple(rows), titles=titles, title=title, subtitle=subtitle, scale_label=label)


def bare_grid(part: Explained, look: Look) -> Grid:
    """A grid without rows that says what the heat of these images means."""
    columns = part.in_line
    if columns[0].heatmap.scaling != "none":
        return Grid((), (), look.colormap, _scale_label(columns), (0.0, 1.0))
    units = {column.method: column.unit for column in columns}
    limit = (columns[0].unit if len(units) == 1 else None) or 1.0
    return Grid((), (), signed_colormap(look.colormap), _scale_label(columns), (-limit, limit))


def what_is_explained(columns: Sequence[Column]) -> str:
    """What all columns have in common, in words: the method, the target, and the layer with the size of its map."""
    methods, targets, layers = _differing(columns)
    heat = columns[0].method if len(methods) == 1 else "" if len(targets) > 1 else "heat"
    target = f" for {_target_text(columns[0].target, ' the')}".replace("  ", " ") if len(targets) == 1 else ""
    heatmap = max((column.heatmap for column in columns), key=lambda one: one.of_layer)
    smoothed = f"smoothed ({heatmap.smooth})" if heatmap.smooth and not _smoothed_apart(columns) else ""
    layer = layer_in_words(heatmap) if len(layers) == 1 else ""
    return ", ".join(filter(None, (f"{heat}{target}".strip(), layer, smoothed)))


def layer_in_words(heatmap: Heatmap) -> str:
    """As ``layer features.5 (ReLU), map 7 x 7``; the kind of layer is named if the name ends in a number."""
    if not heatmap.of_layer:
        return f"the {heatmap.layer}"
    name, plus, behind = heatmap.layer.partition(" + ")
    number = re.search(r"(?<!\w)\d+(?![\w.])", name)
    kind = f" ({heatmap.layer_kind})" if number and heatmap.layer_kind else ""
    size = " x ".join(map(str, heatmap.raw.shape[1:]))
    fused = name.startswith(("mean(", "max("))  # the map of several layers has the size of the image
    return f"layer {name}{kind}{plus}{behind}" + f", map {size}" * (not fused)


def _differing(columns: Sequence[Column]) -> tuple[set[str], set[str], set[str]]:
    """The methods, targets and layers of the columns; a method that explains the whole model has no layer."""
    layers = {column.heatmap.layer for column in columns if column.heatmap.of_layer}
    return {one.method for one in columns}, {one.target for one in columns}, layers or {columns[0].heatmap.layer}


def _smoothed_apart(columns: Sequence[Column]) -> bool:
    """Whether the columns differ in how they were smoothed."""
    return len({column.heatmap.smooth for column in columns}) > 1


def _target_text(target: str, article: str = "") -> str:
    """A target in words; a class without a name is said to be one."""
    words = (TARGET_TITLES | OTHER_WORDS).get(target)
    if words is not None:
        return f"{article} {words}".strip()
    return f"class {target}" if target.isdecimal() else target


def _title(column: Column, columns: Sequence[Column]) -> str:
    """The head of a column: how it differs from the other columns, or the method if it does not differ."""
    methods, targets, layers = _differing(columns)
    apart = _smoothed_apart(columns)
    alone = len(methods) == 1 and (len(targets) > 1 or len(layers) > 1 or apart)
    said = [] if alone else [column.method]
    if targets != {"pred"} and not (alone and len(targets) == 1):
        said.append(_target_text(column.target))
    if len(layers) > 1:
        said.append(layer_in_words(column.heatmap))
    if apart:
        said.append(f"smoothed ({column.heatmap.smooth})" if column.heatmap.smooth else "not smoothed")
    return ": ".join(said)


def _scale_label(columns: Sequence[Column]) -> str:
    methods = {column.method: column.heatmap for column in columns}
    shared = f"one scale for {'each method' if len(methods) > 1 else 'the grid'}"
    reach = "each map by itself" if columns[0].unit is None else shared
    meant: dict[str, list[str]] = {}
    for method, heatmap in methods.items():
        meant.setdefault(_shows(heatmap), []).append(method)
    # The meaning of most methods goes first, without their names.
    usual = [_shows(heatmap) for heatmap in methods.values() if heatmap.shows == OF_TARGET][:1]
    said = usual + [f"{', '.join(names)}: {sense}" for sense, names in meant.items() if sense not in usual]
    sense = next(iter(meant)) if len(meant) == 1 else "; ".join(said)
    return f"{sense}, {reach} (scaling: {columns[0].heatmap.scaling})"


def _shows(heatmap: Heatmap) -> str:
    """What the heat means, in words."""
    signed_evidence = heatmap.shows == OF_TARGET and heatmap.scaling == "none"
    return "evidence against (negative) and for (positive)" if signed_evidence else heatmap.shows


def _row(part: Explained, at: int, names: Mapping[int, str], look: Look, *, name_dataset: bool, numbered: bool) -> Row:
    """An image with its heatmaps; if it is wrong, those of its true class are below those of the inferred class."""
    picture, outline = part.pictures[at], None if part.masks is None else part.masks[at]
    large = _enlarged(picture)

    def panel(column: Column) -> Panel:
        if column.target == "label" and column.heatmap.class_ids[at] < 0:
            return Panel(picture, note="not labelled", outline=outline)
        heat, raw = column.heatmap, layer_map(column, at)
        shown = picture if raw is None else large
        drawn = heat_panel(shown, heat.values[at], bool(heat.blank[at]), look, heat.scaling, column.unit, raw)
        if drawn.note:
            drawn = replace(drawn, rgb=picture)
        return replace(drawn, outline=outline, caption=_caption(column, at, names))

    drawn = [panel(column) for column in part.columns]
    in_line = [one for one, column in zip(drawn, part.columns, strict=True) if column.shown is None]
    below: tuple[Panel | None, ...] = ()
    aside: tuple[Text, ...] = ()
    of_true = {
        column.method: (column, one)
        for column, one in zip(part.columns, drawn, strict=True)
        if column.shown is not None and column.shown[at]
    }
    if of_true:
        under = (of_true[one.method][1] if one.target == "pred" else None for one in part.in_line)
        below = (None, *under)
        true = int(next(iter(of_true.values()))[0].heatmap.class_ids[at])
        aside = (Text("note", "the true class:"), class_text("class", true, _probability(part, at, true), names))
    texts = texts_of(part, at, names, name_dataset=name_dataset, numbered=numbered)
    unsure = is_unsure(part, at)
    if unsure:
        texts.append(Text("doubt", "unsure"))
    panels = (Panel(picture, outline=outline), *in_line)
    return Row(tuple(texts), bool(part.wrong[at]), panels, below, aside, unsure)


def _enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture, enlarged to about the size in a grid, so that heat over it is as smooth as over a large one."""
    (height, width), factor = picture.shape[:2], shown_side(picture) // max(picture.shape[:2])
    if factor >= 4 and factor % 2 == 0:  # half that size: nobody sees the steps, and the files are much smaller
        factor //= 2
    if factor <= 1:
        return picture
    size = width * factor, height * factor
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def is_unsure(part: Explained, at: int) -> bool:
    """Whether a wrong answer had a probability below SURE."""
    if not part.wrong[at] or part.probabilities is None:
        return False
    return float(part.probabilities[at].max()) < SURE


def _caption(column: Column, at: int, names: Mapping[int, str]) -> Text | None:
    """The explained class, if it differs from image to image and is written nowhere else, as the second highest."""
    class_id, confidence = int(column.heatmap.class_ids[at]), float(column.heatmap.confidences[at])
    if column.target in TARGET_TITLES or class_id < 0 or column.target in (names.get(class_id), str(class_id)):
        return None
    name = names.get(class_id, f"class {class_id}")
    return Text("class", name + LEFT_TO_RIGHT, "" if np.isnan(confidence) else f"({confidence:.0%})")


def texts_of(
    part: Explained, at: int, names: Mapping[int, str], *, name_dataset: bool = False, numbered: bool = False
) -> list[Text]:
    """The texts beside an image: its name, its true class, and its inferred class."""
    texts = []
    if part.ids is not None:
        called = [as_text(one) for one in part.ids]
        plain = all(any(map(str.isalpha, one)) and one not in names.values() for one in called)
        texts.append(Text("id", called[at] if plain else f"id {called[at]}"))  # else it would look like a class
    elif numbered and part.positions is not None:
        texts.append(Text("id", f"image {part.positions[at]}"))
    if name_dataset and part.ds_id:
        texts.append(Text("note", part.ds_id))
    if part.labels is not None:
        label = int(part.labels[at])
        texts.append(Text("label", names.get(label, str(label)) if label >= 0 else "not labelled"))
    if part.predictions is not None:
        inferred = int(part.predictions[at])
        texts.append(class_text("prediction", inferred, _probability(part, at, inferred), names))
    return texts


def class_text(role: Role, class_id: int, probability: float, names: Mapping[int, str]) -> Text:
    """A class with its probability, unless that is NaN; below 0 no class was inferred, as all probabilities are NaN."""
    if class_id < 0:
        return Text(role, "none", "(NaN)")
    number = "" if np.isnan(probability) else f"({probability:.0%})"
    return Text(role, names.get(class_id, str(class_id)) + LEFT_TO_RIGHT, number)


def _probability(part: Explained, at: int, class_id: int) -> float:
    """The probability of a class of an image; NaN if it is not known."""
    table = part.probabilities
    return float(table[at, class_id]) if table is not None and class_id < table.shape[1] else np.nan


def heat_panel(
    picture: NDArray[np.uint8],
    heat: NDArray[np.float32],
    blank: bool,
    look: Look,
    scaling: str,
    unit: float | None = None,
    raw: NDArray[np.float32] | None = None,
) -> Panel:
    """A picture (H, W, 3) with its heat (h, w) stretched over it; if the heat is blank, a note: no evidence.

    If several maps share one scale, `unit` is the value at the end of the colormap. `raw` is the signed map at the size
    of the layer; if it is given, the heat is made from it anew and smoothly; see `smooth_heat`.
    """
    signed = scaling == "none"
    if blank and not (signed and np.any(heat)):
        return Panel(picture, note="no evidence")
    height, width = picture.shape[:2]
    if raw is not None and raw.shape[0] <= height and raw.shape[1] <= width:
        heat = _scaled(raw, scaling, unit, lambda given: smooth_heat(given, (height, width)))
    elif heat.shape != (height, width):
        heat = _bilinear(heat, (height, width))
    return Panel(overlay(picture, heat, colormap=look.colormap, alpha=look.alpha, signed=signed, limit=unit))


def _scaled(raw: Map, scaling: str, unit: float | None, upsampled: Callable[[Map], Map]) -> Map:
    """The heatmap of a signed map (h, w); see `fe_gradcam.scaling.scale` and `with_shared_scale`.

    This is NumPy, map by map: while a training runs, each small step of torch may wait for its threads.
    """
    if scaling == "none":
        return upsampled(raw)
    evidence, largest = np.maximum(raw, 0), float(np.abs(raw).max()) or 1.0
    if unit is not None:
        return np.asarray(upsampled(evidence) / np.float32(unit))
    if scaling == "scale_before_relu":
        return upsampled(evidence / np.float32(largest))
    heat = upsampled(evidence)
    return np.asarray(heat / (heat.max() or np.float32(1)))


def _bilinear(heat: Map, size: tuple[int, ...]) -> Map:
    """As `fe_gradcam.scaling.upsample`."""
    return np.asarray(cv2.resize(heat, size[::-1], interpolation=cv2.INTER_LINEAR))


def layer_map(column: Column, at: int) -> Map | None:
    """The map (h, w) from which the heat of an image can be drawn anew, or None if the heat is drawn as it is.

    None is returned if the map already has the size of the image, or if the heat does not follow from the map because
    somebody changed the heat.
    """
    heatmap = column.heatmap
    size = heatmap.values.shape[1:]
    if heatmap.raw.ndim != 3 or len(heatmap.raw) != len(heatmap.values) or heatmap.raw.shape[1:] == size:
        return None
    raw, values = heatmap.raw[at], heatmap.values[at]
    again = _scaled(raw, heatmap.scaling, column.unit, lambda given: _bilinear(given, size))
    within = AGREES_WITHIN * float(np.abs(values).max(initial=0))
    return raw if float(np.abs(again - values).max(initial=0)) <= within else None
