"""The atlas of a model's classes: mean picture and mean heat of each class, and the classes told by a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.cards import draw_cards
from fe_gradcam.drawing.grid import Grid, Panel, Row, Text
from fe_gradcam.drawing.picture import Picture, check_names
from fe_gradcam.drawing.pixels import Rgb, overlay
from fe_gradcam.drawing.sheet import Look, layer_in_words
from fe_gradcam.errors import ArgumentError, warn
from fe_gradcam.explaining.views import Smooth
from fe_gradcam.parameters import checked_text, knows_its_keywords
from fe_gradcam.spec.arrays import listed
from fe_gradcam.spec.images import Inputs, host_rows
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.targets import names_by_id
from fe_gradcam.types import ClassNames, Fuse, Heatmap, Images, Layer, Method, Reshape
from fe_gradcam.verdicts.atlas import FEWEST, Atlas, ClassHeat
from fe_gradcam.verdicts.find import inquiry_of, judged
from fe_gradcam.verdicts.places import FIXED, where_in_words
from fe_gradcam.verdicts.verdict import Verdict

MOST_CLASSES = 60
"""At most so many classes are drawn, those with most images."""

LEAST_SPAN = 32
"""A mean picture that spans fewer levels of 255 is stretched as if it spanned this many, or noise would show."""


FELL = (("plain", "kept_same", "own"), ("covered", "kept_other", "becomes"))
"""Figures of a test before and after the change that shows a shortcut."""


class AtlasPicture(Picture):
    """The picture of an atlas, drawn on first use, and the findings; a notebook shows the picture.

    Attributes:
        verdicts: A `Verdict` for each class that was judged.
        alarms: Those of them that accuse: the class is told by something else than the object.
        fixed_place: For each class id, the mean correlation of the heat of two images: 1 if the heat stays at one
            place of the frame, about 0 if it moves over the frame; NaN for fewer than two images with heat.
        images: For each class id, the number of images that were inferred as this class.
    """

    def __init__(self, grid: Grid, atlas: Atlas, verdicts: Sequence[Verdict]) -> None:
        super().__init__(grid)
        every = listed("verdicts", verdicts, "a list of Verdict.")
        if not isinstance(atlas, Atlas) or not all(isinstance(one, Verdict) for one in every):
            raise ArgumentError("AtlasPicture takes a Grid, an Atlas and Verdicts; atlas() makes it.")
        self.verdicts = every
        self.alarms = [one for one in every if one.accuses]
        self.fixed_place = {class_id: one.fixed_place for class_id, one in sorted(atlas.classes.items())}
        self.images = {class_id: one.images for class_id, one in sorted(atlas.classes.items())}

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return draw_cards(self.grid)

    def __repr__(self) -> str:
        return f"AtlasPicture(images={self.images}, alarms={self.alarms})"


@knows_its_keywords(
    methods="method= with one",
    layers="layer=, where a list of layers is fused to one map",
    names="class_names=",
    label_mapping="class_names=, names in the order of their ids or {id: name}",
    labels="no labels: each image counts for the class that it is inferred as",
    mask="masks= with a mask for each image",
    bboxes="boxes=",
    n_samples="so many images",
    cmap="colormap=",
)
def atlas(
    model: Any,
    images: Images,
    *,
    method: Method = "grad_cam",
    layer: Layer = None,
    class_names: ClassNames | None = None,
    masks: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    title: str = "",
    colormap: str = "turbo",
    alpha: float = 0.5,
    batch_size: int | None = None,
    seed: int = 0,
    model_output: ModelOutput = None,
    reshape: Reshape | None = None,
    fuse: Fuse = "mean",
    smooth: Smooth | Sequence[Smooth] | None = None,
) -> AtlasPicture:
    """Draws the mean heat of each class, and judges whether a class is told by something else than the object.

    Each image is explained for its inferred class, and each class is judged as `fe_gradcam.find_shortcuts` judges it:
    a class that is accused is framed in the picture, and `alarms` of the result holds its verdict.

    The model is left as it was; see `fe_gradcam.explain`.

    Args:
        model: A torch.nn.Module or a tf.keras.Model that classifies.
        images: (N, C, H, W) for PyTorch, (N, H, W, C) for Keras, with 1 or 3 channels, as the model takes them; a
            tuple for a model with several inputs, one of them the picture. The test needs at least six images of a
            class; twelve tell more.
        method: A method, as `explain` takes it.
        layer: The layer to explain, as `explain` takes it; the layers of a list are fused.
        class_names: Names of the classes, in the order of their ids or as {id: name}.
        masks: (N, H, W), or with one channel: the object is where integers are not 0, or where floats are 0.5 or
            more. A class is not suspected if its heat stays on the object.
        boxes: (N, 4) or (N, M, 4), used like masks: left, top, width and height in pixels of the images. With masks
            and boxes, the object is where both say so.
        mean: Mean of the normalisation of the images, a number or one per channel; the picture undoes it.
        std: Standard deviation of that normalisation, a number or one per channel.
        title: Text at the beginning of the title line.
        colormap: Any colormap of matplotlib.
        alpha: Weight of the heat, 0 to 1.
        batch_size: Images per pass; None: 32.
        seed: Seed for the choice of the images that are tested, and for methods that draw random numbers.
        model_output: Which of the model's outputs holds the scores, as `explain` takes it.
        reshape: How the layer's output becomes a map, as `explain` takes it.
        fuse: "mean" or "max": how several layers become one map.
        smooth: "augment", "eigen" or both, as `explain` takes them.

    Returns:
        An AtlasPicture: `rgb` (h, w, 3) uint8, `png`, `save(path)`, and `alarms`, `fixed_place` and `images`.

    Raises:
        ArgumentError: An argument is not accepted, or does not fit the images; a ValueError.
        UnknownNameError: No such method, layer, output or colormap; a KeyError.
        UnsupportedModelError: The model cannot be observed, or puts out no classes; a TypeError.
        GradientError: The score depends on the layer, and no gradient reaches the layer; a RuntimeError.

    Warns:
        CamWarning: There are too few images for the inferred classes, so some classes are not tested.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> found = atlas(net, torch.rand(24, 1, 28, 28), class_names=["cat", "dog"])
        >>> sum(found.images.values()), found.alarms
        (24, [])
        >>> found.rgb.shape[2]
        3
    """
    look, names, title = Look(colormap, alpha, mean, std), names_by_id(class_names), checked_text("title", title)
    inputs = Inputs.of(images).checked()
    if len(inputs.picture.shape) != 4:
        raise ArgumentError(
            f"images holds volumes of shape {tuple(inputs.picture.shape)[1:]}, and an atlas shows only pictures. Pass "
            "slices, with a model that takes slices."
        )
    inquiry = inquiry_of(
        model, images, None, masks, boxes, method=method, layer=layer, batch_size=batch_size, seed=seed,
        class_names=class_names, model_output=model_output, reshape=reshape, fuse=fuse, smooth=smooth,
    )  # fmt: skip
    heatmap = inquiry.heatmap
    check_names(class_names, [heatmap.class_ids])
    array = np.asarray(host_rows(inputs.picture))
    pictures = look.pictures(array, channels_first=array.shape[2:] == heatmap.values.shape[1:])
    found = Atlas.of(heatmap, pictures)
    few = found.too_few(len(heatmap), f"atlas: {len(heatmap)} images", "Pass {} images.")
    if few:
        warn(few)
    return atlas_picture(found, heatmap, judged(inquiry), names, title, look)


def atlas_picture(
    atlas: Atlas, heatmap: Heatmap, found: Sequence[Verdict], names: Mapping[int, str], title: str, look: Look
) -> AtlasPicture:
    """The picture of an atlas and its verdicts; `heatmap` is one of its heatmaps, for the words in the title."""
    return AtlasPicture(atlas_grid(atlas, heatmap, found, names, title, look), atlas, found)


def atlas_grid(
    atlas: Atlas, heatmap: Heatmap, found: Sequence[Verdict], names: Mapping[int, str], title: str, look: Look
) -> Grid:
    """A row for each class: its mean picture, its mean heat, and what accuses it, with the place if it is one."""
    by_class = {verdict.class_id: verdict for verdict in found if verdict.accuses}
    # A class that is accused is always drawn, even if it has few images.
    most = sorted(atlas.classes, key=lambda one: (one not in by_class, -atlas.classes[one].images))[:MOST_CLASSES]
    rows = [_row(atlas, class_id, by_class.get(class_id), names, look) for class_id in sorted(most)]
    said = [title, "mean heat of each inferred class"]
    if len(atlas.classes) > len(rows):
        said.append(f"{len(rows)} of {len(atlas.classes)} classes")
    title, subtitle = ", ".join(filter(None, said)), f"{heatmap.method}, {layer_in_words(heatmap)}"
    label = _legend(any(row.wrong for row in rows))
    return Grid(tuple(rows), ("mean image", "mean heat"), look.colormap, label, (0.0, 1.0), title, subtitle)


def _row(atlas: Atlas, class_id: int, accused: Verdict | None, names: Mapping[int, str], look: Look) -> Row:
    one, outline = atlas.classes[class_id], None
    texts = [Text("class", names.get(class_id, f"class {class_id}"))]
    without = f", {one.images - one.warm} without heat" if one.warm < one.images else ""
    texts += [Text("note", f"{one.images} image{'s' * (one.images > 1)}{without}"), Text("note", *_moves(one))]
    if accused is not None:
        box, first = accused.evidence[0].box, accused.evidence[0]
        outline = None if box is None else box.mask(atlas.size)
        told = accused.headline if box is None else f"told by the {where_in_words(box, atlas.size)}"
        texts.append(Text("warning", told))
        before, after = (next((first.figures[key] for key in keys if key in first.figures), None) for keys in FELL)
        if before is not None and after is not None:
            texts.append(Text("warning", "changed:" if box is None else "covered:", f"{before:.2f} → {after:.2f}"))
    picture = stretched(one.picture)
    drawn = overlay(picture, one.heat / (one.heat.max() or 1), colormap=look.colormap, alpha=look.alpha)
    heat = Panel(drawn, note="" if one.warm else "no evidence", outline=outline)
    return Row(tuple(texts), accused is not None, (Panel(picture, outline=outline), heat))


def _moves(one: ClassHeat) -> tuple[str, str]:
    """In words: whether the heat of a class stays at one place, and how strongly."""
    if one.warm < FEWEST:
        return "too few to tell if heat moves", ""
    return ("heat stays in place", f"({one.fixed_place:.2f})") if one.fixed_place >= FIXED else ("heat moves", "")


def _legend(warned: bool) -> str:
    said = (
        "Mean heat of the images that were inferred as the class; 1 is its hottest place. The contrast of the mean "
        "images is stretched. Heat that stays in place (the correlation of two images' heat, 1 at the most) is no "
        "fault where the object stays there too."
    )
    framed = (
        " Framed: changes of the images showed that the class is told by something else than the object; below stand "
        "its probability, or how often it is told, before and after. Outlined: the place, if it is one."
    )
    return said + framed * warned


def stretched(picture: Rgb) -> Rgb:
    """A mean picture with its contrast stretched, so that it can be seen; one hundredth at either end is clipped.

    Example:
        >>> stretched(np.array([[[40] * 3, [60] * 3, [80] * 3]], np.uint8))[0, :, 0].tolist()
        [0, 128, 255]
    """
    low, high = np.percentile(picture, (1, 99))
    share = (picture - low) / max(high - low, LEAST_SPAN)
    return np.asarray(np.rint(share.clip(0, 1) * 255), np.uint8)
