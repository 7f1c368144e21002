"""The filmstrip: the rows that are followed over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.film import CELL, Frame, film_grid, shown_epochs
from fe_gradcam.drawing.grid import Panel
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.drawing.sheet import SURE, Look, class_text, heat_panel
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.history import Record
from fe_gradcam.training.options import Options


class FilmProduct(Product):
    """The filmstrip, made if images are followed."""

    name = "film"

    def __init__(self, options: Options) -> None:
        self.keys = [f"{options.name}_film"] if options.track else []
        self._frames: dict[Record, Frame] = {}

    def make(self, epoch: Epoch) -> None:
        """Makes a filmstrip of each dataset, with one more column."""
        options, films, drawn = epoch.options, {}, dict[Record, Frame]()
        names, numbered = options.classes.names, options.selection.name != "first"
        for part in epoch.parts:
            followed = epoch.followed(part.ds_id)
            if followed is not None and followed.pictures is not None:
                records = [followed.records[at] for at in shown_epochs(len(followed.records))]
                for one in records:  # past epochs stay as they are
                    drawn[one] = self._frames.get(one) or _frame(one, part, followed.pictures, names, options.look)
                frames = [drawn[one] for one in records]
                stream = (epoch.mode, part.ds_id)
                grid = film_grid(part, followed.pictures, frames, names, options.look, stream, numbered=numbered)
                films[part.ds_id] = Picture(grid, CELL)
        alive = {record for followed in epoch.history.streams.values() for record in followed.records}
        self._frames = {record: frame for record, frame in (self._frames | drawn).items() if record in alive}
        if films:
            epoch.show(self.keys[0], films, "film")


def _frame(record: Record, part: Explained, pictures: NDArray[np.uint8], names: Mapping[int, str], look: Look) -> Frame:
    """The film's column for an epoch: heat over each picture, framed if the inferred class is wrong."""
    heat, size = record.heat, (pictures.shape[1], pictures.shape[2])
    values = heat.values(size if max(heat.size) > max(size) else None)
    maps = heat.maps if heat.raw.shape[1:] != heat.size else None  # at the size of the image it is drawn as it is
    panels = []
    for at, picture in enumerate(pictures):
        caption = None
        if record.predictions is not None and record.confidences is not None:
            caption = class_text("prediction", int(record.predictions[at]), float(record.confidences[at]), names)
        raw = None if maps is None else maps[at]
        panel = heat_panel(picture, values[at], bool(heat.blank[at]), look, heat.scaling, heat.unit, raw)
        if heat.target == "label" and part.labels is not None and part.labels[at] < 0:
            panel = Panel(picture, note="not labelled")
        wrong = bool(record.wrong[at])
        unsure = wrong and record.confidences is not None and float(record.confidences[at]) < SURE
        panels.append(replace(panel, framed=wrong, unsure=unsure, caption=caption))
    return Frame(record.epoch, panels)
