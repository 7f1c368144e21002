"""Whether a network recognises a class by a place of the frame instead of by the object: a test by cause.

Heat at one place of the frame in all images of a class is not a fault in itself: in registered images (X-rays, parts
in a fixture) the object never moves. So a class is suspected only if its heat stays at one place (FIXED), the place is
small (LARGEST), and the heat of other classes leaves that place alone (APART): classes of registered objects share
their parts too much for that. The class is held against the median of the other classes, not the mean, so that a mark
on some of the classes hides none of them. If masks or boxes say where the object is, a place on the object is not
suspected.

A suspected class is accused if the place is the cause (`fe_gradcam.verdicts.covering`): the place is covered, as it is
or with a border of one place of the layer's map. If it is not known where the object is, the place must also stand by
itself (`fe_gradcam.verdicts.isolation`) in what the mean picture of the class has and those of other classes have not:
a part of an object that is always at one place does not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from fe_gradcam.verdicts.atlas import FEWEST, Atlas, Box, Upsampling
from fe_gradcam.verdicts.covering import by_covering, doubted, frequent, on_object, sample, too_few
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.isolation import CONTINUES, around, continues, largest_sign, shrunk_size, shrunk_to
from fe_gradcam.verdicts.verdict import Evidence

FIXED = 0.5
"""A class is suspected if its fixed-place score is at least this."""

LARGEST = 0.2
"""The largest share of the frame that a suspected place may have."""

APART = 4.0
"""The class's share of heat in the place must be at least so many times that of the other classes. For the mark in the
corner of `benchmarks/shortcut.py` it is 10 to 60 times, for parts of digits that are all in the middle up to 2."""

COMPARED, COMPARED_LABELS = 100, 12
"""The most classes that a class is held against, those with most images; so the work grows as the classes do. With
sigmoids they are fewer, as the heat of each label takes a pass of its own."""


def where_in_words(box: Box, size: tuple[int, int]) -> str:
    """The position of a place in the frame, in words: "lower right corner", "upper edge", "middle"."""
    down, across = (box.top + box.height / 2) / size[0], (box.left + box.width / 2) / size[1]
    row = "upper" if down < 1 / 3 else "lower" if down > 2 / 3 else ""
    column = "left" if across < 1 / 3 else "right" if across > 2 / 3 else ""
    if row and column:
        return f"{row} {column} corner"
    return f"{row or column} edge" if row or column else "middle"


def place_of(heat: NDArray[np.float64]) -> Box | None:
    """The box around the hottest place, where the heat is at least half the maximum; None if there is no heat."""
    if not heat.max() > 0:
        return None
    regions, _ = label(heat >= 0.5 * heat.max())
    rows, columns = np.nonzero(regions == regions[np.unravel_index(int(heat.argmax()), heat.shape)])
    return Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)


def suspects(atlas: Atlas, classes: Collection[int] | None = None) -> dict[int, Box]:
    """The classes whose heat stays at a small place where other classes have little heat; None: any class."""
    compared = atlas.largest(COMPARED + 1)
    found = {one: _suspected(atlas, one, compared) for one in (atlas.classes if classes is None else classes)}
    return {class_id: box for class_id, box in found.items() if isinstance(box, Box)}


def _suspected(atlas: Atlas, class_id: int, compared: Sequence[int]) -> Box | str:
    """The place, or in words why the class is not suspected."""
    one = atlas.classes[class_id]
    if not (one.warm >= FEWEST and one.fixed_place >= FIXED):
        return f"The heat moves over the frame: the heat of two images correlates by {one.fixed_place:.2f}."
    box = place_of(one.heat)
    if box is None or box.width * box.height > LARGEST * atlas.size[0] * atlas.size[1]:
        return "The heat stays in place, but over so much of the frame that it may well be the object."
    own, others = shares_in(atlas, class_id, box, compared)
    where = where_in_words(box, atlas.size)
    if others is None:
        return f"The heat stays in the {where}; there is no other class to hold it against."
    if own < APART * others:
        return f"The heat stays in the {where}, with {own:.0%} of it, where other classes have {others:.0%} of theirs."
    return box


def shares_in(atlas: Atlas, class_id: int, box: Box, compared: Sequence[int]) -> tuple[float, float | None]:
    """The share of a class's heat that lies in a box, and the median of this share over the other classes `compared`.

    The latter is None if there is no other class: then there is nothing to compare with.
    """
    others = atlas.shares_in([one for one in compared if one != class_id][:COMPARED], [box])
    return float(atlas.shares_in([class_id], [box])[0, 0]), float(np.median(others)) if len(others) else None


def fixed_places(inquiry: Inquiry, classes: Sequence[int]) -> dict[int, Evidence]:
    """What the test of a place finds of some classes; those of which no image is told are not tested.

    Args:
        inquiry: The images; what its `affords` denies is left for later.
        classes: The classes to test. Others, COMPARED at most, are what they are held against.

    Returns:
        An Evidence for each of the classes, with the code "place" if its place is the cause, or may be.
    """
    atlas = atlas_of(inquiry, classes)
    compared = atlas.largest(COMPARED + 1)
    return {class_id: _evidence(inquiry, atlas, class_id, compared) for class_id in classes}


def atlas_of(inquiry: Inquiry, classes: Sequence[int]) -> Atlas:
    """The atlas, without pictures, of some classes and of those that they are held against: the most frequent ones."""
    down, across = inquiry.heatmap.raw.shape[1:]
    atlas = Atlas(inquiry.size, (down, across))
    compared = frequent(inquiry)[: (COMPARED_LABELS if inquiry.several else COMPARED) + 1]
    for class_id in sorted({*classes, *compared}):
        for heat in inquiry.heat_of(class_id):
            atlas.add(class_id, heat)
    return atlas


def _evidence(inquiry: Inquiry, atlas: Atlas, class_id: int, compared: Sequence[int]) -> Evidence:
    warm = atlas.classes[class_id].warm if class_id in atlas.classes else 0
    if few := too_few("place", warm):
        return few
    figures = {"fixed_place": atlas.classes[class_id].fixed_place}
    if not set(compared) - {class_id}:
        why = "There is no other class to hold it against."
        return Evidence("place", "not tested", None, why, figures, warm)
    box = _suspected(atlas, class_id, compared)
    if isinstance(box, str):
        return Evidence("place", "tested", None, box, figures, warm)
    (own, others), where = shares_in(atlas, class_id, box, compared), where_in_words(box, inquiry.size)
    figures |= {"share": own, "share_of_others": others or 0.0}
    stays = f"The heat stays in the {where}: {own:.0%} of it, and {others:.0%} of the other classes' (their median)."
    rows, _ = sample(inquiry, class_id)
    if inquiry.masks is not None and on_object(dict.fromkeys(inquiry.rows_of(class_id).tolist(), box), inquiry.masks):
        return Evidence("place", "tested", None, f"{stays} There is the object.", figures, warm, box=box)
    shares, least = atlas.shares_in(compared, [box])[:, 0], max(APART * (others or 0.0), own / APART)
    sharing = [one for one, share in zip(compared, shares, strict=True) if share >= least and one != class_id]
    tries = [dict.fromkeys(rows.tolist(), one) for one in _places(box, atlas)]
    made = by_covering(inquiry, class_id, "place", stays, f"the {where}", tries, figures, sharing)
    if inquiry.masks is not None or not made.accuses:
        return made
    against = [one for one in compared if one != class_id]
    made = replace(made, figures={**made.figures, "continues": _continues(inquiry, class_id, box, against)})
    if made.figures["continues"] < CONTINUES:
        return made
    return doubted(made, " What lies around the place goes along with it, as around a part of an object.")


def _continues(inquiry: Inquiry, class_id: int, box: Box, others: Sequence[int]) -> float:
    """How far what tells the class from others, in the mean of the pictures, goes on around a place."""
    size, pictures = shrunk_size(inquiry.size), inquiry.pictures
    means = [shrunk_to(size, pictures[inquiry.rows_of(one)].mean(0)) for one in (class_id, *others)]
    difference, (down, across) = means[0] - np.mean(means[1:], 0), np.divide(size, inquiry.size)
    side = min(max(4, round(box.height * down), round(box.width * across)), *size)
    middle = (box.top + box.height / 2) * down, (box.left + box.width / 2) * across
    top, left = (min(max(0, round(at - side / 2)), of - side) for at, of in zip(middle, size, strict=True))
    largest = max(side, largest_sign(size))
    return continues([around(difference, (top, left), side, largest)], side, largest)


def _places(box: Box, atlas: Atlas) -> list[Box]:
    """The place, with a border as wide as one place of the layer's map, and with a border wider yet."""
    return list(dict.fromkeys([box, *(_widened(box, atlas.upsampling, half) for half in (0, 1))]))


def _widened(box: Box, upsampling: Upsampling, half: int) -> Box:
    """The place with a border as wide as one place of the layer's map: the cause of its heat may lie beside it.

    With `half` 1 the border also grows by half the size of the place: a place inside a larger mark would be filled
    in from the mark, which would restore it.
    """
    height, width = upsampling.size
    down, across = (-(-side // of) for side, of in zip(upsampling.size, upsampling.layer, strict=True))
    down, across = down + half * (box.height // 2), across + half * (box.width // 2)
    left, top = max(0, box.left - across), max(0, box.top - down)
    right, bottom = min(width, box.left + box.width + across), min(height, box.top + box.height + down)
    return Box(left, top, right - left, bottom - top)
