"""The grid of an epoch: images with their heatmaps, the results as dicts, and all arrays."""

from __future__ import annotations

from fe_gradcam.drawing.picture import Picture
from fe_gradcam.drawing.sheet import compose_grid
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.explaining.results import compose_arrays, compose_results
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.options import Options


class GridProduct(Product):
    """The grid, which is always made."""

    name = "grid"

    def __init__(self, options: Options) -> None:
        self.keys = [options.name, f"{options.name}_results"]

    def make(self, epoch: Epoch) -> None:
        """Makes a grid of each dataset, and one of all."""
        parts, names, name = epoch.parts, epoch.options.classes.names, f"epoch_{epoch.number:03d}"
        pictures = {part.ds_id: self._picture(epoch, [part], part.ds_id) for part in parts}
        of_all = self._picture(epoch, parts) if len(parts) > 1 else None
        results = {part.ds_id: compose_results([part], names, epoch.number, epoch.mode) for part in parts}
        epoch.put(self.keys[1], results, [one for of_part in results.values() for one in of_part])
        epoch.show(self.keys[0], pictures, name, of_all)
        for part in parts:
            dataset = part.ds_id if len(parts) > 1 else ""
            epoch.save(compose_arrays(part, epoch.number, epoch.mode), name, dataset)

    def _picture(self, epoch: Epoch, parts: list[Explained], dataset: str = "") -> Picture:
        options = epoch.options
        title, numbered = epoch.title(dataset), options.selection.name != "first"
        if numbered:
            title += f", {options.selection.name.replace('_', ' ')}" + " when first seen" * options.track
        return Picture(compose_grid(parts, options.classes.names, options.look, title, numbered=numbered))
