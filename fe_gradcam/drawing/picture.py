"""Heatmaps of `fe_gradcam.explain` as one picture, beside the images that they explain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.grid import Grid, checked_cell, draw_grid
from fe_gradcam.drawing.pixels import require_rgb
from fe_gradcam.drawing.sheet import Look, compose_grid
from fe_gradcam.errors import Argument, ArgumentError
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.results import as_text
from fe_gradcam.files import FilePath, checked_path, write_bytes
from fe_gradcam.parameters import checked_text, knows_its_keywords
from fe_gradcam.spec.arrays import array_of, listed
from fe_gradcam.spec.labels import labels_of_images
from fe_gradcam.spec.objects import object_masks
from fe_gradcam.spec.targets import Rank, names_by_id
from fe_gradcam.types import ClassNames, Heatmap

JPEG_ENDINGS = (".jpg", ".jpeg")


class Picture:
    """A picture of heatmaps, drawn on first use; a notebook shows it.

    `rgb` holds the pixels, `png` the bytes of a PNG file, and `save` writes a file.

    Raises:
        ArgumentError: `grid` is no Grid, or `cell` is not accepted.
    """

    def __init__(self, grid: Grid, cell: int | None = None) -> None:
        if not isinstance(grid, Grid):
            raise ArgumentError(
                Argument("grid"), f" is a {type(grid).__name__}. Accepted: a Grid. Pictures are made by draw."
            )
        self.grid, self.cell = grid, checked_cell(cell)

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return draw_grid(self.grid, cell=self.cell)

    @cached_property
    def png(self) -> bytes:
        """The picture as the bytes of a PNG file, for example to answer a web request (``image/png``)."""
        return encode_png(self.rgb)

    def save(self, path: FilePath) -> None:
        """Writes the picture to a file, whole or not at all; missing folders are made.

        Args:
            path: Must end in ``.png``, or in ``.jpg`` or ``.jpeg``, which is smaller and not lossless.

        Raises:
            ArgumentError: The path ends in something else.
        """
        target = Path(path)
        ending = target.suffix.lower()
        if ending not in (".png", *JPEG_ENDINGS):
            ends = f"ends in {target.suffix!r}" if target.suffix else "has no ending"
            raise ArgumentError(
                f"path={str(target)!r} {ends}; a picture is written as .png, .jpg or .jpeg: pass "
                f"{(str(path) or 'picture') + '.png'!r}."
            )
        write_bytes(target, _encoded_jpeg(self.rgb) if ending in JPEG_ENDINGS else self.png)

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
    labels: ArrayLike | Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    class_names: ClassNames | None = None,
    masks: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    title: str = "",
    colormap: str = "turbo",
    alpha: float = 0.5,
    cell: int | None = None,
) -> Picture:
    """Draws heatmaps over the images that they explain: a row for each image, a column for each Heatmap.

    Args:
        images: (N, C, H, W), (N, H, W, C) or (N, H, W), with 1 or 3 channels: the explained images, or other pictures
            of the same scenes; `fe_gradcam.drawing.pixels.to_rgb` says how they are shown.
        heatmaps: One Heatmap or a list, of the same N images and with the same scaling, as `explain` and
            `explain_many` return them.
        labels: (N,) true class ids, or names of `class_names`, or (N, C) of 0 and 1, of which the first is shown and
            all count as right; -1 or NaN for an image without one. If one of the heatmaps explains the inferred class,
            wrong inferences are framed.
        ids: N names of the images.
        class_names: Names of the classes, in the order of their ids, with one for each that is shown; or {id: name}.
        masks: (N, H, W) where the object is in each image, which is outlined: of integers what is not 0, of floats what
            is 0.5 and more.
        boxes: (N, 4) or (N, M, 4) likewise: left, top, width and height in pixels of the images; of masks and boxes
            the part that they share.
        mean: Mean that the images were normalised with, a number or one per channel, to undo it.
        std: Standard deviation likewise.
        title: What stands above.
        colormap: Any colormap of matplotlib.
        alpha: Weight of the heat, 0 to 1.
        cell: Side of a picture's cell in pixels; see `fe_gradcam.drawing.grid.draw_grid`.

    Raises:
        ArgumentError: `heatmaps` holds no heatmaps, or heatmaps of another number of images or of different scalings.
        UnknownNameError: There is no such colormap or class.

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
    look = Look(colormap, alpha, mean, std)
    part = as_explained(images, heatmaps, look, labels, ids, class_names, masks, boxes)
    return Picture(compose_grid([part], names_by_id(class_names), look, checked_text("title", title)), cell)


def as_explained(
    images: Any,
    heatmaps: Heatmap | Sequence[Heatmap],
    look: Look,
    labels: ArrayLike | Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    class_names: ClassNames | None = None,
    masks: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
) -> Explained:
    """Heatmaps and the images that they explain, checked; the arguments are those of `draw`.

    The probabilities are those of the inferred classes alone, and 0 for all others: no more is known.

    Raises:
        ArgumentError: `heatmaps` holds no heatmaps, or heatmaps of another number of images or of different scalings.
        UnknownNameError: There is no such class.
    """
    if isinstance(images, Heatmap):
        raise ArgumentError("images is a Heatmap: pass the images first, and then the heatmaps.")
    several = [heatmaps] if isinstance(heatmaps, Heatmap) else listed("heatmaps", heatmaps, HEATMAPS)
    array = array_of("images", images, f"{IMAGES}.")
    if array.ndim not in (3, 4) or not array.size:
        raise ArgumentError(f"images has shape {array.shape}. Accepted: {IMAGES}. Add the batch axis: images[None].")
    _check(several, array)
    named = None if ids is None else _ids(ids, len(array))
    names = names_by_id(class_names)
    true = None if labels is None else labels_of_images(labels, len(array), names)
    check_names(class_names, [*(one.class_ids for one in several), *([] if true is None else [true.ids])])
    of_inferred = ("pred", Rank(1).name)
    inferred = next((one for one in several if one.target in of_inferred and (one.class_ids >= 0).all()), None)
    pictures = look.pictures(array, channels_first=False)
    return Explained(
        pictures=pictures,
        columns=[Column(one.method, _named(one.target, names), one) for one in several],
        probabilities=None if inferred is None else _of_inferred(inferred),
        labels=None if true is None else true.ids,
        several=None if true is None else true.several,
        ids=named,
        masks=object_masks(masks, boxes, pictures.shape[1:3], len(array)),
        inferred=None if inferred is None else inferred.class_ids.astype(np.int64),
    )


IMAGES = "(N, C, H, W), (N, H, W, C) or (N, H, W), with 1 or 3 channels"
"""The images of a picture."""

HEATMAPS = "a Heatmap of explain, or a list of them."
"""What is drawn over them."""


def _ids(ids: Any, count: int) -> list[str]:
    """The names of images as text."""
    accepted = "a list with a name for each image."
    given = listed("ids", ids, accepted)
    if len(given) != count:
        raise ArgumentError(f"ids holds {len(given)} names for {count} images; one name for each image is needed.")
    try:
        return [as_text(one) for one in given]
    except Exception as error:  # of the user's object
        said = f" holds what cannot be shown as text ({type(error).__name__}). Accepted: {accepted}"
        raise ArgumentError(Argument("ids"), said) from error


def _named(target: str, names: Mapping[int, str]) -> str:
    """A target with names in the place of class ids: "cat", or "cat against dog"."""
    if not target.isdecimal() and " against " not in target:
        return target
    return re.sub(r"\b\d+\b", lambda found: names.get(int(found[0]), found[0]), target)


def _check(heatmaps: Sequence[Any], images: NDArray[Any]) -> None:
    """Raises ArgumentError unless the heatmaps can stand side by side over the images."""
    wrong = [one for one in heatmaps if not isinstance(one, Heatmap)]
    if not heatmaps or wrong:
        came = f"holds a {type(wrong[0]).__name__}" if wrong else "is empty"
        raise ArgumentError(f"heatmaps {came}. Accepted: {HEATMAPS}")
    if heatmaps[0].values.ndim != 3:
        raise ArgumentError(
            f"heatmaps are of volumes {heatmaps[0].values.shape[1:]}, and only pictures can be drawn. Draw slices, "
            "with dataclasses.replace(heatmap, values=heatmap.values[:, depth], raw=...)."
        )
    counts = {len(one) for one in heatmaps} | {len(images)}
    if len(counts) > 1:
        raise ArgumentError(
            f"images has shape {images.shape}, and heatmaps are of {[len(one) for one in heatmaps]} images. Pass the "
            "images that were explained, with the batch axis."
        )
    if len({one.scaling for one in heatmaps}) > 1:
        raise ArgumentError(
            f"heatmaps have the scalings {[one.scaling for one in heatmaps]}, and a picture has one colour bar. Draw "
            "one picture for each scaling."
        )


def check_names(class_names: Any, shown: Sequence[NDArray[np.int64]]) -> None:
    """Raises ArgumentError where names in the order of the ids are fewer than the classes that are shown."""
    if class_names is None or isinstance(class_names, Mapping):
        return
    highest = max((int(ids.max()) for ids in shown if ids.size), default=-1)
    if highest >= len(class_names):
        raise ArgumentError(
            f"class_names holds {len(class_names)} name{'s' * (len(class_names) != 1)}, and class {highest} is shown. "
            f"Pass at least {highest + 1} names, for the classes from 0, or a dict {{id: name}} of some classes."
        )


def _of_inferred(heatmap: Heatmap) -> NDArray[np.float32]:
    """A table of probabilities (N, C) that holds only those of the inferred classes: only these are shown.

    One that is not known is NaN.
    """
    table = np.zeros((len(heatmap), int(heatmap.class_ids.max()) + 1), np.float32)
    table[np.arange(len(heatmap)), heatmap.class_ids] = heatmap.confidences
    return table


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    r"""A picture (H, W, 3) as the bytes of a PNG file, lossless.

    Raises:
        ArgumentError: `rgb` is not such a picture, or larger than the encoder takes.

    Examples:
        >>> encode_png(np.zeros((2, 2, 3), np.uint8))[:4]
        b'\x89PNG'
    """
    # The fastest level: a grid is written while a training waits for it.
    fastest = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    return _encoded(rgb, ".png", fastest)


def _encoded_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A picture as the bytes of a JPEG file, with full resolution of colour: some letters are red."""
    sharp = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encoded(rgb, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92, *sharp])


def _encoded(rgb: NDArray[np.uint8], ending: str, options: Sequence[int]) -> bytes:
    picture, done, reason = require_rgb("rgb", rgb), False, ""
    try:
        done, encoded = cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        reason = f" ({error})"
    if not done:
        kind = {".png": "PNG", ".jpg": "JPEG"}[ending]
        raise ArgumentError(f"rgb of shape {picture.shape} cannot be encoded as {kind}{reason}; draw fewer rows")
    return bytes(encoded)


def write_png(path: FilePath, rgb: NDArray[np.uint8]) -> None:
    """Writes a picture (H, W, 3) to a file that ends in ``.png``, whole or not at all; see `write_arrays`."""
    write_bytes(checked_path(path, ".png"), encode_png(rgb))
