"""The grid in the form that FastEstimator's traces take: a GridDisplay with a raster of its own."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
from fastestimator.util.base_util import FigureFE, in_notebook
from fastestimator.util.img_data import BatchDisplay, GridDisplay
from numpy.typing import NDArray
from plotly.graph_objects import Image

from fe_gradcam.drawing.grid import Row
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.files import write_bytes


class HeatmapGrid(GridDisplay):
    """A picture of heatmaps in the form that the host takes.

    The columns hold the pictures line by line; if an image has two lines, the second begins with the image again.

    Attributes:
        grid: The grid that is drawn.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture, self.grid = picture, picture.grid
        columns = [
            BatchDisplay(image=[rgb for row in self.grid.rows for rgb in _lines(row, at)], title=title)
            for at, title in enumerate(self.grid.titles)
        ]
        super().__init__(columns=columns)

    @property
    def raster(self) -> NDArray[np.uint8]:
        """The picture, (H, W, 3) uint8 RGB, drawn on first use."""
        return self.picture.rgb

    def prepare(self) -> FigureFE:
        """A plotly figure of the raster; shown or written as an image, it is the raster itself."""
        return RasterFigure.of(self.picture)

    def show(
        self, save_path: str | None = None, verbose: bool = True, scale: int = 1, interactive: bool = False
    ) -> None:
        """Shows the grid, or saves it: to a PNG at the size that the grid needs, to HTML with plotly.

        Args:
            save_path: Where to save the grid; None shows it on the screen or in the notebook.
            verbose: Whether to print where the grid was saved.
            scale: As in FastEstimator's displays; it has no effect on a raster, which is saved at its own size.
            interactive: Whether plotly shows the grid; by default a notebook gets the picture.
        """
        if save_path is not None and Path(save_path).suffix.lower() == ".png":
            if verbose:
                print(f"Saving to {Path(save_path)}")
            self.picture.save(save_path)
        else:
            self.prepare().show(save_path=save_path, verbose=verbose, scale=scale, interactive=interactive)


def _lines(row: Row, at: int) -> list[NDArray[np.uint8]]:
    """The pictures of a row in one column: one, or two if the row has a second line."""
    second = [row.below[at] or row.panels[0]] if row.below else []
    return [panel.rgb for panel in (row.panels[at], *second)]


class RasterFigure(FigureFE):
    """A plotly figure of one picture, which is saved and shown without drawing it anew."""

    @classmethod
    def of(cls, picture: Picture) -> RasterFigure:
        """The figure of a picture."""
        height, width = picture.rgb.shape[:2]
        source = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
        figure = cls(Image(source=source, hoverinfo="skip"))
        figure.update_layout(width=width, height=height, margin={"l": 0, "r": 0, "t": 0, "b": 0})
        figure.update_xaxes(visible=False).update_yaxes(visible=False)
        figure.__dict__["_png"] = picture.png
        return figure

    def to_image(self, format: str | None = None, *args: Any, **kwargs: Any) -> bytes:
        """The picture as PNG bytes; plotly makes other formats."""
        png: bytes = self.__dict__["_png"]
        return png if format in (None, "png") else bytes(super().to_image(format, *args, **kwargs))

    def write_image(self, file: Any, *args: Any, **kwargs: Any) -> None:
        """Writes the picture: a PNG as it is, other formats through plotly."""
        if isinstance(file, (str, os.PathLike)) and Path(file).suffix.lower() == ".png":
            write_bytes(file, self.__dict__["_png"])
        else:
            super().write_image(file, *args, **kwargs)

    def show(
        self, save_path: str | None = None, verbose: bool = True, scale: int = 1, interactive: bool = False
    ) -> None:
        """As HeatmapGrid.show."""
        if save_path is None and not interactive and in_notebook():
            from IPython.display import Image as Picture
            from IPython.display import display

            display(Picture(self.__dict__["_png"]))
        else:
            super().show(save_path=save_path, verbose=verbose, scale=scale, interactive=interactive)
