"""The picture of an atlas: the mean picture and the mean heat of each class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fe_gradcam.drawing.grid import Grid, Panel, Row, Text
from fe_gradcam.drawing.pixels import overlay
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.verdicts.atlas import Atlas, Box

MOST_CLASSES = 60
"""Classes that are drawn, those with most images."""


def atlas_grid(
    atlas: Atlas, names: Mapping[int, str], title: str, method: str, look: Look, warned: Mapping[int, Box]
) -> Grid:
    """A row for each class: its mean picture and its mean heat, and the place that is warned of, if there is one."""
    most = sorted(atlas.classes, key=lambda class_id: -atlas.classes[class_id].images)[:MOST_CLASSES]
    rows = []
    for class_id in sorted(most):
        one = atlas.classes[class_id]
        fixed = "-" if np.isnan(one.fixed_place) else f"{one.fixed_place:.2f}"
        texts = [
            Text("class", names.get(class_id, str(class_id))),
            Text("note", f"{one.images} image{'s' * (one.images > 1)}"),
            Text("note", f"fixed place: {fixed}"),
        ]
        outline = None
        if class_id in warned:
            outline = warned[class_id].mask(atlas.size)
            texts.append(Text("warning", "warning: see log"))
        drawn = overlay(one.picture, one.heat / (one.heat.max() or 1), colormap=look.colormap, alpha=look.alpha)
        heat = Panel(drawn, note="" if one.warm else "no evidence", outline=outline)
        rows.append(Row(tuple(texts), class_id in warned, (Panel(one.picture, outline=outline), heat)))
    if len(atlas.classes) > len(rows):
        title = f"{title}: {len(rows)} of {len(atlas.classes)} classes"
    label = (
        "mean heat of the images inferred as the class, 1 where the class has most; fixed place: 1 where the heat is "
        "at one place in all images, 0 where it moves over the frame"
    )
    return Grid(tuple(rows), ("mean image", f"mean heat, {method}"), look.colormap, label, (0.0, 1.0), title)
