"""The atlas of the classes, and the warnings about classes that seem to be told by a place."""

from __future__ import annotations

import warnings
from typing import cast

from fe_gradcam.drawing.atlas import AtlasPicture, atlas_picture
from fe_gradcam.errors import CamWarning
from fe_gradcam.metrics.measure import summary
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.options import Options
from fe_gradcam.training.rows import Rows
from fe_gradcam.training.selection import Selection
from fe_gradcam.training.source import ModelSource
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.places import Alarm


class VerdictsProduct(Product):
    """The atlas, made if it is asked for."""

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
        """Makes an atlas of each dataset, and tests its suspected classes.

        How much the heat stays at one place is a result, but it is not logged: it is no fault by itself, and readers of
        the log would take it for an alarm.
        """
        pictures: dict[str, AtlasPicture] = {}
        fixed: dict[str, float] = {}
        counts: dict[str, float] = {}
        every: list[Alarm] = []
        for dataset, rows in epoch.rows(self.name).items():
            pictures[dataset], atlas = self._atlas_of(epoch, rows, dataset)
            found = pictures[dataset].alarms
            fixed[dataset] = atlas.fixed_place
            self._say_if_few(epoch, atlas, dataset)
            if atlas.tells:
                counts[dataset] = len(found)
            every += found
            self._say(epoch, found, dataset)
        fixed_place, shortcuts, atlas_key, alarms_key = self.keys
        epoch.show(atlas_key, pictures, f"atlas_epoch_{epoch.number:03d}")
        if (of_all := summary(list(fixed.values()))) is not None:
            epoch.put(fixed_place, {dataset: one for dataset, one in fixed.items() if one == one}, of_all)
        epoch.put(alarms_key, {}, every)
        epoch.log_number(shortcuts, len(every) if counts else None, counts)

    def _atlas_of(self, epoch: Epoch, rows: Rows, dataset: str) -> tuple[AtlasPicture, Atlas]:
        source = cast(ModelSource, epoch.reader.source)  # an atlas needs a model, not keys
        options, heatmap = epoch.options, source.of_inferred_class(rows)
        atlas = Atlas.of(heatmap, epoch.reader.pictures(rows))
        found = source.alarms(rows, heatmap, atlas, epoch.reader.masks(rows))
        title, names = epoch.title(dataset), options.classes.names
        return atlas_picture(atlas, heatmap, found, names, title, options.look), atlas

    def _say_if_few(self, epoch: Epoch, atlas: Atlas, dataset: str) -> None:
        """Warns once if there are too few images for the test for shortcuts."""
        stream, wanted = (epoch.mode, dataset), epoch.options.atlas
        said = f"GradCAM ({epoch.options.name!r}): atlas={wanted} images"
        few = atlas.too_few(wanted, said, "Pass atlas={}.")
        if few and stream not in self._told_of_few:
            self._told_of_few.add(stream)
            warnings.warn(few, CamWarning, stacklevel=2)

    def _say(self, epoch: Epoch, found: list[Alarm], dataset: str) -> None:
        """Says in the log which classes seem to be told by a place; at length only the first time."""
        names = epoch.options.classes.names
        for alarm in found:
            accused = (epoch.mode, dataset, alarm.class_id)
            text = alarm.text_again(names) if accused in self._accused else alarm.text(names)
            self._accused.add(accused)
            of = f"{epoch.options.name!r}, {dataset}" if dataset else repr(epoch.options.name)
            epoch.messages.append(f"GradCAM ({of}): {text}")
