"""Heatmaps of `fe_gradcam.explain` as one picture, beside the images that they explain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.grid import Grid, draw_grid
from fe_gradcam.drawing.pixels import require_rgb
from fe_gradcam.drawing.sheet import Look, compose_grid
from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.files import FilePath, checked_path, write_bytes
from fe_gradcam.parameters import knows_its_keywords
from fe_gradcam.spec.images import host_rows
from fe_gradcam.types import ClassNames, Heatmap


class Picture:
    """The picture of a grid, drawn when it is first looked at; a notebook shows it."""

    def __init__(self, grid: Grid, cell: int | None = None) -> None:
        self.grid, self.cell = grid, cell

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return draw_grid(self.grid, cell=self.cell)

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        return encode_png(self.rgb)

    def save(self, path: FilePath) -> None:
        """Writes it to a file that ends in ``.png``, whole or not at all; folders that are missing are made."""
        write_bytes(checked_path(path, ".png"), self.png)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Picture({self.rgb.shape[1]} x {self.rgb.shape[0]} pixels)"


@knows_its_keywords(
    names="class_names=",
    label_mapping="class_names=, names in the order of their ids or {id: name}",
    cmap="colormap=",
    heatmap="heatmaps, the second argument",
)
def draw(
    images: Any,
    heatmaps: Heatmap | Sequence[Heatmap],
    *,
    labels: ArrayLike | None = None,
    ids: Sequence[Any] | None = None,
    class_names: ClassNames | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    title: str = "",
    colormap: str = "turbo",
    alpha: float = 0.5,
    cell: int | None = None,
) -> Picture:
    """Draws heatmaps over the images that they explain: a row for each image, a column for each Heatmap.

    Args:
        images: (N, C, H, W), (N, H, W, C) or (N, H, W), with 1 or 3 channels: what was explained, or other pictures
            of the same; see `fe_gradcam.drawing.pixels.to_rgb` for how they are shown.
        heatmaps: One or several, of the same N images and with the same scaling, as `explain` and `explain_many`
            return them.
        labels: (N,) true class ids; with them wrong inferences are framed, where a heatmap is that of the inferred
            class.
        ids: N names of the images.
        class_names: Names of the classes, in the order of their ids or {id: name}.
        mean: Mean that the images were normalised with, a number or one per channel, to undo it.
        std: Standard deviation likewise.
        title: What stands above.
        colormap: Any colormap of matplotlib.
        alpha: Weight of the heat, 0 to 1.
        cell: Side of a picture's cell in pixels; see `fe_gradcam.drawing.grid.draw_grid`.

    Raises:
        ArgumentError: The heatmaps are of another number of images, or of different scalings, or no heatmaps.
        UnknownNameError: There is no such colormap.

    Example:
        >>> import torch
        >>> from fe_gradcam import explain
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 10))
        >>> images = torch.rand(2, 1, 28, 28)
        >>> draw(images, explain(net, images)).rgb.shape[2]
        3
    """
    several = [heatmaps] if isinstance(heatmaps, Heatmap) else list(heatmaps)
    array = np.asarray(host_rows(images))
    _check(several, array)
    look = Look(colormap, alpha, mean, std)
    inferred = next((one for one in several if one.target == "pred" and (one.class_ids >= 0).all()), None)
    part = Explained(
        pictures=look.pictures(array, channels_first=False),
        columns=[Column(one.method, one.target, one) for one in several],
        probabilities=None if inferred is None else _of_inferred(inferred),
        labels=None if labels is None else np.asarray(labels, np.int64).reshape(-1),
        ids=ids,
    )
    names = class_names if hasattr(class_names, "items") else enumerate(class_names or ())
    if labels is not None and np.shape(labels) not in ((len(array),), (len(array), 1)):
        needed = f"({len(array)},), a class id for each image, is needed."
        raise ArgumentError(f"labels has shape {np.shape(labels)}; {needed}")
    return Picture(compose_grid([part], dict(names), look, title), cell)  # type: ignore[arg-type]


def _check(heatmaps: Sequence[Any], images: NDArray[Any]) -> None:
    """Raises ArgumentError unless the heatmaps can stand side by side over the images."""
    if not heatmaps or not all(isinstance(one, Heatmap) for one in heatmaps):
        accepted = "a Heatmap of explain, or a list of them."
        raise ArgumentError(f"heatmaps={heatmaps!r} is not accepted. Accepted: {accepted}")
    if heatmaps[0].values.ndim != 3:
        raise ArgumentError(
            f"heatmaps are of volumes {heatmaps[0].values.shape[1:]}, and what is drawn are pictures: draw slices, "
            "with dataclasses.replace(heatmap, values=heatmap.values[:, depth], raw=...)."
        )
    counts = {len(one) for one in heatmaps} | {len(images)}
    if len(counts) > 1:
        raise ArgumentError(
            f"images has shape {images.shape}, and heatmaps are of {[len(one) for one in heatmaps]} images: the same "
            "images are needed, with the batch axis."
        )
    if len({one.scaling for one in heatmaps}) > 1:
        raise ArgumentError(
            f"heatmaps have the scalings {[one.scaling for one in heatmaps]}, and a picture has one colour bar: draw "
            "each scaling by itself."
        )


def _of_inferred(heatmap: Heatmap) -> NDArray[np.float32]:
    """A table of probabilities (N, C) that holds those of the inferred classes, which are what is shown."""
    table = np.zeros((len(heatmap), int(heatmap.class_ids.max()) + 1), np.float32)
    table[np.arange(len(heatmap)), heatmap.class_ids] = np.maximum(np.nan_to_num(heatmap.confidences), 1e-30)
    return table


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    r"""A picture (H, W, 3) as the bytes of a PNG file, lossless.

    Raises:
        ArgumentError: It is no such picture, or larger than the encoder takes.

    Examples:
        >>> encode_png(np.zeros((2, 2, 3), np.uint8))[:4]
        b'\x89PNG'
    """
    picture = require_rgb("rgb", rgb)
    # The fastest level: a grid is written while a training waits for it.
    options, done, reason = [cv2.IMWRITE_PNG_COMPRESSION, 1], False, ""
    try:
        done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        reason = f" ({error})"
    if not done:
        raise ArgumentError(f"rgb of shape {picture.shape} cannot be encoded as PNG{reason}; draw fewer rows")
    return bytes(encoded)


def write_png(path: FilePath, rgb: NDArray[np.uint8]) -> None:
    """Writes a picture (H, W, 3) to a file that ends in ``.png``, whole or not at all; see `write_arrays`."""
    write_bytes(checked_path(path, ".png"), encode_png(rgb))
