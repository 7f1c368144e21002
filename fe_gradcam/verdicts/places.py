"""Whether a network recognises a class by a place of the frame instead of by the object: a test by cause.

Heat at one place of the frame in all images of a class is not a fault in itself: in registered images (X-rays, parts
in a fixture) the object never moves. So a class is suspected only if its heat stays at one place (FIXED), the place is
small (LARGEST), and the heat of other classes leaves that place alone (APART): classes of registered objects share
their parts too much for that. If masks or boxes say where the object is, a place on the object is not suspected.

A suspected class is accused if the place is the cause. The place is covered, as it is or with a border of one place of
the layer's map, that is, filled in from its surroundings (`fe_gradcam.metrics.imputation.interpolated`). The class is
accused if its probability falls by FALL or more, and TIMES as much as when other places of the same image are covered
that are as large and hold as much (the deviation of their pixels is within a factor of ALIKE). An image without such
other places is not used: there the suspected place holds all there is, and so is the object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label

from fe_gradcam.metrics.asked import Asked
from fe_gradcam.metrics.imputation import interpolated
from fe_gradcam.types import Heatmap, Images
from fe_gradcam.verdicts.atlas import FEWEST, Atlas, Box

FIXED = 0.5
"""A class is suspected if its fixed-place score is at least this."""

LARGEST = 0.2
"""The largest share of the frame that a suspected place may have."""

APART = 4.0
"""The class's share of heat in the place must be at least so many times that of the other classes. For the mark in the
corner of `benchmarks/shortcut.py` it is 10 to 60 times, for parts of digits that are all in the middle up to 2."""

FALL = 0.25
"""A place is a cause only if the mean probability over the images falls by at least this."""

TIMES = 3.0
"""The probability must fall so many times as far as when other places are covered."""

ALIKE = 2.0
"""Another place holds as much if the deviation of its pixels is within this factor."""

OTHERS = 4
"""How many other places are covered in each image: those most similar to the suspected place."""

NO_VARIANCE = 1e-9
"""Rounding of a variance, relative to the largest square of a picture."""

TRIED = 16
"""The most images of a class that are tested."""

ON_OBJECT = 0.5
"""The place is the object if this share of the place lies on the object, or this share of the object in the place."""


@dataclass(frozen=True)
class Alarm:
    """A class that the network seems to recognise by a place instead of the object.

    Attributes:
        class_id: The class.
        box: The place, in pixels of the images.
        size: (H, W) of the images.
        images: How many images with heat the class has.
        fixed_place: See `fe_gradcam.verdicts.atlas.ClassHeat`.
        share: Share of the class's heat that lies in the place, 0 to 1.
        share_of_others: Share of the other classes' heat that lies in the place, 0 to 1.
        tried: In how many images the place was covered.
        plain: Mean probability of the class in these images.
        covered: The same mean with the place covered.
        covered_elsewhere: The same mean with other places covered.
    """

    class_id: int
    box: Box
    size: tuple[int, int]
    images: int
    fixed_place: float
    share: float
    share_of_others: float
    tried: int
    plain: float
    covered: float
    covered_elsewhere: float

    def text(self, names: Mapping[int, str] | None = None) -> str:
        """The finding in words; `names` are the names of the classes by id."""
        name, box = (names or {}).get(self.class_id, str(self.class_id)), self.box
        height, width = self.size
        return (
            f"class {name!r} may be told by a place instead of the object. In {self.images} images its heat stays in "
            f"the {where_in_words(box, self.size)} (pixels {box.left} to {box.left + box.width - 1} across, {box.top} "
            f"to {box.top + box.height - 1} down, of {width} x {height}): the place has {self.share:.0%} of this heat, "
            f"and {self.share_of_others:.0%} of the other classes' heat. Tested on {self.tried} images: with that "
            f"place covered, the probability of the class falls from {self.plain:.2f} to {self.covered:.2f}; with "
            f"other places of the same size and similar contrast covered, to {self.covered_elsewhere:.2f}. Look at "
            "what is there only in images of this class: a mark, a text, a border. If it is the object itself or its "
            "own sign, all is well: pass masks= or boxes= to silence this."
        )

    def text_again(self, names: Mapping[int, str]) -> str:
        """The finding in short, for a class that had a warning before."""
        name, where = names.get(self.class_id, str(self.class_id)), where_in_words(self.box, self.size)
        return (
            f"class {name!r} still: with the {where} covered, its probability falls from {self.plain:.2f} to "
            f"{self.covered:.2f}; with other places covered, to {self.covered_elsewhere:.2f}."
        )


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


def suspects(atlas: Atlas, masks: Mapping[int, NDArray[np.bool_]] | None = None) -> dict[int, Box]:
    """The classes whose heat stays at a small place where other classes have little heat.

    `masks` may say, for each class, where the object is in the images of the class, (N, H, W).
    """
    found = {}
    for class_id, one in atlas.classes.items():
        box = place_of(one.heat)
        if one.warm < FEWEST or box is None or not one.fixed_place >= FIXED:
            continue
        small = box.width * box.height <= LARGEST * atlas.size[0] * atlas.size[1]
        own, others = shares_in(atlas, class_id, box)
        apart = others is not None and own >= APART * others
        if small and apart and not (masks and class_id in masks and _is_object(box, masks[class_id])):
            found[class_id] = box
    return found


def shares_in(atlas: Atlas, class_id: int, box: Box) -> tuple[float, float | None]:
    """The share of a class's heat that lies in a box, and the mean of this share over the other classes.

    The latter is None if no other class has FEWEST images with heat: then there is nothing to compare with.
    """
    warm = [one for other, one in atlas.classes.items() if other != class_id and one.warm]
    others = [float(one.heat[box.slices].sum()) for one in warm] if any(one.warm >= FEWEST for one in warm) else []
    return float(atlas.classes[class_id].heat[box.slices].sum()), float(np.mean(others)) if others else None


def _is_object(box: Box, masks: NDArray[np.bool_]) -> bool:
    known = masks[masks.any((1, 2))]
    inside = known[:, box.slices[0], box.slices[1]].sum((1, 2))
    shares = inside / (box.width * box.height), inside / known.sum((1, 2))
    return len(known) > 0 and any(share.mean() >= ON_OBJECT for share in shares)


def alarms(
    model: Any,
    images: Images,
    heatmap: Heatmap,
    atlas: Atlas,
    *,
    masks: NDArray[np.bool_] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    model_output: Any = None,
) -> list[Alarm]:
    """The alarms: classes that are suspected, and accused because covering the place makes the probability fall.

    Heatmap and atlas belong to the images (N, ...), each explained for its inferred class; masks (N, H, W) say where
    the objects are; the seed chooses the images that are tested.
    """
    ids, generator = heatmap.class_ids, np.random.default_rng(seed)
    by_class = None if masks is None else {int(one): masks[ids == one] for one in np.unique(ids)}
    asked = Asked(model, images, heatmap, batch_size, seed, model_output)
    found = []
    for class_id, box in suspects(atlas, by_class).items():
        rows = generator.permutation(np.flatnonzero((ids == class_id) & ~heatmap.blank))[:TRIED]
        wider = [_widened(box, heatmap, half) for half in (0, 1)]
        tests = (_tested(asked, heatmap, atlas, class_id, place, rows) for place in dict.fromkeys([box, *wider]))
        alarm = next((one for one in tests if one is not None), None)
        if alarm is not None:
            found.append(alarm)
    return found


def _widened(box: Box, heatmap: Heatmap, half: int) -> Box:
    """The place with a border as wide as one place of the layer's map: the cause of its heat may lie beside it.

    With `half` 1 the border also grows by half the size of the place: a place inside a larger mark would be filled
    in from the mark, which would restore it.
    """
    _, height, width = heatmap.values.shape
    down, across = (-(-side // of) for side, of in zip((height, width), heatmap.raw.shape[1:], strict=True))
    down, across = down + half * (box.height // 2), across + half * (box.width // 2)
    left, top = max(0, box.left - across), max(0, box.top - down)
    right, bottom = min(width, box.left + box.width + across), min(height, box.top + box.height + down)
    return Box(left, top, right - left, bottom - top)


def _tested(
    asked: Asked, heatmap: Heatmap, atlas: Atlas, class_id: int, box: Box, rows: NDArray[np.int64]
) -> Alarm | None:
    """The alarm, if covering the place is what makes the probability of the class fall."""
    pictures = asked.picture.cpu().numpy()
    elsewhere = {int(row): _alike(pictures[row], box) for row in rows}
    places = {row: (box, *others) for row, others in elsewhere.items() if others}
    if len(places) < FEWEST:
        return None
    versions = [(row, interpolated(pictures[row], one.mask(atlas.size))) for row, few in places.items() for one in few]
    every = torch.from_numpy(np.stack([version for _, version in versions])).to(asked.picture.device)
    of = torch.tensor([row for row, _ in versions]).to(every.device)
    answers = asked(of, lambda at: every[at]).double().numpy()
    by_image = np.split(answers, np.cumsum([len(few) for few in places.values()])[:-1])
    plain = float(heatmap.confidences[list(places)].mean(dtype=np.float64))
    covered = float(np.mean([one[0] for one in by_image]))
    covered_elsewhere = float(np.mean([one[1:].mean() for one in by_image]))
    if plain - covered < max(FALL, TIMES * (plain - covered_elsewhere)):
        return None
    one, (share, of_others) = atlas.classes[class_id], shares_in(atlas, class_id, box)
    found = one.warm, one.fixed_place, share, of_others or 0.0
    return Alarm(class_id, box, atlas.size, *found, len(places), plain, covered, covered_elsewhere)


def _alike(picture: NDArray[np.float32], box: Box) -> list[Box]:
    """Other places of a picture (C, H, W) that do not touch `box`, are as large, and hold about as much."""
    height, width = picture.shape[1:]
    inside = picture[:, box.slices[0], box.slices[1]]
    # A flat mark has no deviation inside, so the pixels around it count too.
    border = (0, 0) if (inside != inside[:, :1, :1]).any() else (max(1, box.height // 4), max(1, box.width // 4))
    corners = np.meshgrid(_starts(height, box.height), _starts(width, box.width), indexing="ij")
    tops, lefts = (ends.ravel() for ends in corners)
    apart = (abs(tops - box.top) >= box.height) | (abs(lefts - box.left) >= box.width)
    tops, lefts = np.append(box.top, tops[apart]), np.append(box.left, lefts[apart])
    content, *others = _deviations(picture, tops, lefts, (box.height, box.width), border)
    if not content > 0:
        return []
    with np.errstate(divide="ignore"):
        unlike = np.abs(np.log(np.array(others) / content))
    nearest = [at for at in np.argsort(unlike, kind="stable")[:OTHERS] if unlike[at] <= np.log(ALIKE)]
    return [Box(int(lefts[1 + at]), int(tops[1 + at]), box.width, box.height) for at in nearest]


def _deviations(
    picture: NDArray[np.float32],
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
    size: tuple[int, int],
    border: tuple[int, int],
) -> NDArray[np.float64]:
    """(P,) the deviation of the pixels in P places of one size with a border, as the mean over the channels.

    Cumulative sums over rows and columns are used, so that many places cost little.
    """
    top, bottom = (tops - border[0]).clip(0), (tops + size[0] + border[0]).clip(None, picture.shape[1])
    left, right = (lefts - border[1]).clip(0), (lefts + size[1] + border[1]).clip(None, picture.shape[2])
    centred = picture.astype(np.float64) - picture.mean((1, 2), dtype=np.float64, keepdims=True)

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.pad(values.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        inside = sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left] + sums[:, top, left]
        return np.asarray(inside / ((bottom - top) * (right - left)))

    variances = (means(centred**2) - means(centred) ** 2).clip(0)
    # A rest of sums that cancel counts as 0.
    variances[variances < NO_VARIANCE * (centred**2).max((1, 2))[:, None]] = 0
    return np.asarray(np.sqrt(variances).mean(0))


def _starts(size: int, side: int) -> list[int]:
    """Where places of a side may begin along an axis: a third of a side apart, the last one at the end of the axis."""
    return sorted({*range(0, size - side + 1, max(1, side // 3)), size - side})
