"""The atlas of the classes, and the warnings of those that seem to be told by a place."""

from __future__ import annotations

import warnings
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.atlas import atlas_grid
from fe_gradcam.drawing.film import CELL
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.errors import CamWarning
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.options import Options
from fe_gradcam.training.rows import Rows
from fe_gradcam.training.selection import Selection
from fe_gradcam.training.source import ModelSource
from fe_gradcam.verdicts.atlas import FEWEST, Atlas
from fe_gradcam.verdicts.places import Alarm


class VerdictsProduct(Product):
    """Asked for where images are wanted for it."""

    name = "atlas"

    def __init__(self, options: Options) -> None:
        endings = ("fixed_place", "shortcuts", "atlas", "alarms") if options.atlas else ()
        self.keys = [f"{options.name}_{ending}" for ending in endings]
        self.logged = self.keys[:2]
        by_class = bool({"labels", "preds"} & options.given)
        limit, most = (None, options.atlas) if by_class else (options.atlas, None)
        self.selection = Selection("random", ("random",), limit, by_class, most, seed=options.settings.seed)
        self._accused: set[tuple[str, str, int]] = set()
        self._told_of_few: set[tuple[str, str]] = set()

    def make(self, epoch: Epoch) -> None:
        """An atlas of each dataset, and what the test of its suspects found."""
        pictures: dict[str, Picture] = {}
        fixed: dict[str, NDArray[np.float32]] = {}
        counts: dict[str, float] = {}
        every: list[Alarm] = []
        for dataset, rows in epoch.rows(self.name).items():
            pictures[dataset], atlas, found = self._atlas_of(epoch, rows, dataset)
            fixed[dataset] = np.array([atlas.fixed_place], np.float32)
            if self._has_enough(epoch, atlas, dataset):
                counts[dataset] = len(found)
            every += found
            self._say(epoch, found, dataset)
        fixed_place, shortcuts, atlas_key, alarms_key = self.keys
        epoch.show(atlas_key, pictures, f"atlas_epoch_{epoch.number}")
        epoch.log_mean(fixed_place, fixed)
        epoch.put(alarms_key, {}, every)
        epoch.log_number(shortcuts, len(every) if counts else None, counts)

    def _atlas_of(self, epoch: Epoch, rows: Rows, dataset: str) -> tuple[Picture, Atlas, list[Alarm]]:
        source = cast(ModelSource, epoch.reader.source)  # of keys no atlas is drawn
        options, pictures = epoch.options, epoch.reader.pictures(rows)
        heatmap = source.of_inferred_class(rows)
        height, width = heatmap.values.shape[1:]
        if pictures.shape[1:3] != (height, width):
            pictures = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in pictures])
        atlas = Atlas.of(heatmap, pictures)
        found = source.alarms(rows, heatmap, atlas, epoch.reader.masks(rows))
        warned = {alarm.class_id: alarm.box for alarm in found}
        title = f"{epoch.title(dataset)}: the classes"
        grid = atlas_grid(atlas, options.classes.names, title, heatmap.method, options.look, warned)
        return Picture(grid, CELL), atlas, found

    def _has_enough(self, epoch: Epoch, atlas: Atlas, dataset: str) -> bool:
        """Whether a class has the images that a test for shortcuts needs; says once where there cannot be enough."""
        stream, classes, wanted = (epoch.mode, dataset), len(atlas.classes), epoch.options.atlas
        if wanted < FEWEST * classes and stream not in self._told_of_few:
            self._told_of_few.add(stream)
            warnings.warn(
                f"GradCAM ({epoch.options.name!r}): atlas={wanted} images are too few for {classes} classes; a class "
                f"with fewer than {FEWEST} is not tested for shortcuts. Pass atlas={2 * FEWEST * classes}.",
                CamWarning,
                stacklevel=2,
            )
        return any(one.warm >= FEWEST for one in atlas.classes.values())

    def _say(self, epoch: Epoch, found: list[Alarm], dataset: str) -> None:
        """Says in the log which classes seem to be told by a place; at length when it is the first time."""
        names = epoch.options.classes.names
        for alarm in found:
            accused = (epoch.mode, dataset, alarm.class_id)
            text = alarm.text_again(names) if accused in self._accused else alarm.text(names)
            self._accused.add(accused)
            of = f"{epoch.options.name!r}, {dataset}" if dataset else repr(epoch.options.name)
            epoch.messages.append(f"GradCAM ({of}): {text}")
