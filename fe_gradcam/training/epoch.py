"""Where what a trace makes is put: the epoch's data, its log, and files; for each dataset and for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastestimator.util.data import Data
from numpy.typing import NDArray

from fe_gradcam.drawing.picture import write_png
from fe_gradcam.files import write_arrays
from fe_gradcam.integrations.fastestimator.display import HeatmapGrid
from fe_gradcam.metrics.measure import summary
from fe_gradcam.training.options import file_name


@dataclass(frozen=True)
class Writer:
    """Writes under the keys that the host's other traces expect: ``key``, and ``key|ds_id`` of a dataset with a name.

    Attributes:
        prefix: Of the files' names.
        folder: Where files are put, or None for no files.
    """

    prefix: str
    folder: Path | None

    def put(self, data: Data, key: str, of_datasets: Mapping[str, Any], of_all: Any) -> None:
        """Writes values that are not for the log."""
        data.write_without_log(key, of_all)
        for ds_id, value in of_datasets.items():
            if ds_id:
                data.write_without_log(f"{key}|{ds_id}", value)

    def show(
        self,
        data: Data,
        key: str,
        pictures: Mapping[str, HeatmapGrid],
        mode: str,
        name: str,
        of_all: HeatmapGrid | None = None,
    ) -> None:
        """Writes a picture of each dataset, and saves it.

        Args:
            data: Of the epoch.
            key: Where the pictures stand.
            pictures: By dataset.
            mode: Of the epoch.
            name: Of the files, behind prefix and mode; a dataset's id follows where there are several.
            of_all: What stands under `key` itself; None for the picture of the first dataset.
        """
        self.put(data, key, pictures, of_all or next(iter(pictures.values())))
        for ds_id, picture in pictures.items():
            path = self.path(mode, name, ds_id if len(pictures) > 1 else "")
            if path is not None:
                write_png(path.with_name(path.name + ".png"), picture.raster)

    def save(self, arrays: Mapping[str, NDArray[Any]], mode: str, name: str, ds_id: str = "") -> None:
        """Saves arrays beside the pictures."""
        path = self.path(mode, name, ds_id)
        if path is not None:
            write_arrays(path.with_name(path.name + ".npz"), arrays)

    def log(self, data: Data, key: str, of_datasets: Mapping[str, NDArray[np.float32]]) -> None:
        """Logs the mean of a value over images, four digits of it: of all, and of each dataset with a name."""
        values = {f"{key}|{ds_id}": found for ds_id, found in of_datasets.items() if ds_id}
        if of_datasets:
            values[key] = np.concatenate(list(of_datasets.values()))
        for name, found in values.items():
            mean = summary(found)
            if mean is not None:
                data.write_with_log(name, float(f"{mean:.4g}"))

    def path(self, mode: str, name: str, ds_id: str) -> Path | None:
        """Of a file, without its ending; None where none is wanted."""
        if self.folder is None:
            return None
        return self.folder / file_name("_".join(filter(None, (self.prefix, mode, name, ds_id))))
