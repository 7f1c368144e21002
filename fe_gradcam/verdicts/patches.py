"""Whether a class is told by a sign that moves: a look-alike patch where its images are hot, tested by cause.

From half of a class's images the hottest windows are taken, of a side of SIDES_TRIED. The one that is most like a place
in the other images of this half, and least like any in images of other classes, is the template; likeness is the
normalised correlation. The class is suspected if the best match of the template separates the other half from the
images of other classes: the probability that an image of the class matches better (the area under the ROC curve) is
SEPARATES or more. Classes that have the sign too (LEFT_TOGETHER) are left out of it, if they are at most SHARING of the
classes. If masks or boxes say where the object is, a template on the object is not suspected.

A suspected class is accused if the match is the cause (`fe_gradcam.verdicts.covering`): it is covered in each image,
wherever it is. On their own, look-alikes prove nothing: objects of one class look alike too. Without masks or boxes it
must stand by itself (`fe_gradcam.verdicts.isolation`), as parts of objects do not. A small object that always looks the
same cannot be told from a sign: only masks or boxes say that it is the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.verdicts.atlas import FEWEST, TRIED, Box, Upsampling, sampled
from fe_gradcam.verdicts.covering import by_covering, doubted, frequent, on_object, sample, too_few
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.isolation import CONTINUES, around, continues, largest_sign, shrunk_size, shrunk_to
from fe_gradcam.verdicts.verdict import Evidence

SIDES_TRIED = (1 / 8, 1 / 5)
"""Sides of the windows, as shares of the image's shorter side: 1.6 and 4 % of a square frame."""

SEPARATES = 0.95
"""A class is suspected if its images match the template better than those of other classes at least this often."""

LIKE = 0.95
"""The least median correlation of the template with its matches: a sign looks the same, parts of objects vary."""

LEFT_TOGETHER = 0.75
"""A class that is separated less often than this has the sign too."""

SHARING = 1 / 3
"""The largest share of the other classes that may have the sign too."""

CLASSES_TO_TELL = 6
"""Without masks no class is accused of a sign if there are fewer classes than this, or if more than SHARING of them
would be: then the patches may be the objects."""

AGAINST = 160
"""About how many images of other classes are looked at: of fewer classes more images each, FEWEST to TRIED."""

HOT = 2
"""How many hot places of an image are looked at."""

CONTRAST = 4.0
"""A window with so many times less contrast than the template matches not at all: correlation sees no contrast."""

NO_CONTRAST, NO_LACK = 1e-5, 1e-3
"""Rounding of a window's deviation, relative to the largest pixel; the least that a correlation counts as lacking."""

Corner = tuple[int, int]
Windows: TypeAlias = "NDArray[np.float32]"
"""Windows of a picture, (n, s, s, C)."""


@dataclass(frozen=True, eq=False)
class Template:
    """A window that is found again in images of a class.

    Attributes:
        pixels: (s, s, C) of the shrunk picture.
        separates: How often an image of the class matches better than one of the classes that do not share the sign.
        likeness: The median match in images of the class.
        sharing: The classes that have the sign too.
    """

    pixels: NDArray[np.float32]
    separates: float
    likeness: float
    sharing: Sequence[int]

    @property
    def is_sign(self) -> bool:
        """Whether it is found in the class's images alone, and looks the same in them."""
        return self.separates >= SEPARATES and self.likeness >= LIKE


class Searched(NamedTuple):
    """A picture that a template is looked for in: pixels (H, W, C), and the variance of each window of its size."""

    pixels: NDArray[np.float32]
    variances: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: NDArray[np.float32], side: int) -> Searched:
        """A picture for templates of a side."""
        return cls(pixels, variances_of(pixels, side))


def likeness(where: Searched, template: NDArray[np.float32]) -> tuple[float, Corner]:
    """The best normalised correlation of a template (s, s, C) with a window, and the window's first row and column.

    Windows that hold too little contrast count as 0; see CONTRAST.
    """
    found = cv2.matchTemplate(where.pixels, template, cv2.TM_CCOEFF_NORMED)
    least = (cv2.meanStdDev(template)[1] ** 2).sum() / CONTRAST**2
    found[~((where.variances >= least) & (where.variances > 0) & np.isfinite(found))] = 0
    at = int(found.argmax())
    return float(found.flat[at]), (at // found.shape[1], at % found.shape[1])


def variances_of(picture: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """The variance of the pixels in each window of a picture (H, W, C), summed over the channels: (H-s+1, W-s+1)."""
    height, width = picture.shape[:2]
    values = picture - picture.mean((0, 1), dtype=np.float64)
    squares, means = (cv2.boxFilter(one, -1, (side, side), anchor=(0, 0)) for one in (values**2, values))
    variances = (squares - means**2).reshape(height, width, -1).sum(-1)[: height - side + 1, : width - side + 1]
    return np.where(variances > 1e-9 * (values**2).sum(-1).max(), variances, 0)


def separation(own: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The probability that one of `own` is larger than one of `others`; a tie counts as a half.

    Example:
        >>> separation(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        0.875
    """
    above = np.sign(own[:, None] - others[None])
    return float((above.mean() + 1) / 2)


class _Shrunk:
    """The pictures of an inquiry as they are matched, (H, W, C) each, and the heat at their size."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry, self._pictures, self._found = inquiry, inquiry.pictures, dict[tuple[int, int], Searched]()
        self.size = shrunk_size(inquiry.size)
        down, across = inquiry.heatmap.raw.shape[1:]
        self._upsampling = Upsampling((down, across), self.size)

    def picture(self, row: int, side: int) -> Searched:
        """The picture of an image, for templates of a side."""
        if (row, side) not in self._found:
            self._found[row, side] = Searched.of(shrunk_to(self.size, self._pictures[row]), side)
        return self._found[row, side]

    def hot(self, class_id: int, rows: NDArray[np.int64], side: int) -> list[list[Windows]]:
        """For each image of a class, the windows around the hottest one, and those around a second that lies apart."""
        heat = self._inquiry.heat_of(class_id)[np.searchsorted(self._inquiry.rows_of(class_id), rows)]
        return [list(self._hot_in(int(row), one, side)) for row, one in zip(rows, heat, strict=True)]

    def _hot_in(self, row: int, heat: NDArray[np.float32], side: int) -> Iterator[Windows]:
        sums = cv2.boxFilter(self._upsampling.of(heat.astype(np.float64)), -1, (side, side), anchor=(0, 0))
        sums = sums[: self.size[0] - side + 1, : self.size[1] - side + 1].copy()
        half, step, most = side // 2, max(1, side // 8), float(sums.max())
        every = np.lib.stride_tricks.sliding_window_view(self.picture(row, side).pixels, (side, side), (0, 1))
        for _ in range(HOT):
            top, left = (int(one) for one in np.unravel_index(int(sums.argmax()), sums.shape))
            if sums[top, left] > most / 2:
                rows, columns = (slice(max(0, at - half), at + half + 1, step) for at in (top, left))
                around = every[rows, columns].transpose(0, 1, 3, 4, 2)
                yield np.ascontiguousarray(around.reshape(-1, *around.shape[2:]))
                sums[max(0, top - side) : top + side, max(0, left - side) : left + side] = 0

    def likenesses(self, rows: NDArray[np.int64], template: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n,), the best match in each image."""
        return np.array([likeness(self.picture(int(row), len(template)), template)[0] for row in rows])

    def continues(self, rows: NDArray[np.int64], template: NDArray[np.float32]) -> float:
        """How far the template goes on around its matches, in the half of the images that match best."""
        side, largest = len(template), largest_sign(self.size)
        found = [(*likeness(self.picture(int(row), side), template), self.picture(int(row), side)) for row in rows]
        best = sorted(found, key=lambda one: -one[0])[: (len(found) + 1) // 2]
        return continues([around(where.pixels, at, side, largest) for _, at, where in best], side, largest)

    def box(self, row: int, template: NDArray[np.float32], border: float) -> Box:
        """The match in the image itself, with a border that is a share of its side."""
        (height, width), (top, left) = self._inquiry.size, likeness(self.picture(row, len(template)), template)[1]
        down, across = height / self.size[0], width / self.size[1]
        side, more = len(template), border * len(template)
        first, last = max(0, round((top - more) * down)), min(height, round((top + side + more) * down))
        left, right = max(0, round((left - more) * across)), min(width, round((left + side + more) * across))
        return Box(left, first, right - left, last - first)


def look_alikes(inquiry: Inquiry, classes: Sequence[int]) -> dict[int, Evidence]:
    """What the test of a sign finds of some classes; those of which no image is told are not tested.

    Args:
        inquiry: The images; what its `affords` denies is left for later.
        classes: The classes to test.

    Returns:
        An Evidence for each of the classes, with the code "sign" if a look-alike patch is the cause, or may be.
    """
    shrunk, against = _Shrunk(inquiry), _against(inquiry)
    found = {class_id: _best(inquiry, shrunk, against, class_id) for class_id in classes}
    signs = {one: best for one, best in found.items() if isinstance(best, Template) and best.is_sign}
    for class_id, best in found.items():
        if isinstance(best, Template) and not best.is_sign:
            # Its own heat may lie elsewhere, and the sign that it shares with another class count all the same.
            of_others = ((one, other) for one, other in signs.items() if class_id in other.sharing)
            for one, other in of_others:
                sharing = [one, *(each for each in other.sharing if each != class_id)]
                found[class_id] = replace(other, sharing=sharing)
                break
    made = {
        class_id: best if isinstance(best, Evidence) else _evidence(inquiry, shrunk, class_id, best)
        for class_id, best in found.items()
    }
    return made if inquiry.masks is not None else _without_masks(inquiry, made)


def _without_masks(inquiry: Inquiry, made: dict[int, Evidence]) -> dict[int, Evidence]:
    """The evidence, where it is not known what is the object: if that always looks the same, it looks like a sign."""
    accused = sum(one.accuses for one in made.values())
    if len(inquiry.classes) >= CLASSES_TO_TELL and accused <= max(1, SHARING * len(made)):
        return made
    return {class_id: doubted(one) if one.accuses else one for class_id, one in made.items()}


def _against(inquiry: Inquiry) -> dict[int, NDArray[np.int64]]:
    """Images of the most frequent classes, by class: the first of each for choosing templates, the others to judge."""
    most = frequent(inquiry)[: AGAINST // FEWEST + 1]
    each = min(TRIED, max(FEWEST, AGAINST // max(1, len(most) - 1)))
    rows = {one: inquiry.rows_of(one) for one in most}
    return {one: its[sampled(its, each, inquiry.seed)] for one, its in rows.items()}


def _best(
    inquiry: Inquiry, shrunk: _Shrunk, against: Mapping[int, NDArray[np.int64]], class_id: int
) -> Template | Evidence:
    """The best template of a class, or why there is none."""
    rows, _ = sample(inquiry, class_id)
    if few := too_few("sign", len(rows)):
        return few
    own = set(inquiry.rows_of(class_id).tolist())
    others = {one: np.array([row for row in its if row not in own]) for one, its in against.items() if one != class_id}
    others = {one: its for one, its in others.items() if len(its) >= FEWEST}
    if not others:
        return Evidence("sign", "not tested", None, "There is no other class to hold it against.", images=len(rows))
    found = [_template(shrunk, class_id, rows, others, share) for share in SIDES_TRIED]
    return max(found, key=lambda one: (one.is_sign, one.likeness >= LIKE, one.separates))


def _evidence(inquiry: Inquiry, shrunk: _Shrunk, class_id: int, best: Template) -> Evidence:
    rows, _ = sample(inquiry, class_id)
    figures = {"separates": best.separates, "likeness": best.likeness, "sharing": float(len(best.sharing))}
    shared = f" (but for {inquiry.called(*best.sharing)}, which have it too)" if best.sharing else ""
    said = (
        f"The patch that its hot places have most in common is found in its other images rather than in those of other "
        f"classes{shared} with a probability of {best.separates:.2f}"
    )
    if not best.is_sign:
        return Evidence("sign", "tested", None, f"{said}: no sign.", figures, len(rows))
    tries = [{int(row): shrunk.box(int(row), best.pixels, border) for row in rows} for border in (0, 1 / 4)]
    if inquiry.masks is not None and on_object(tries[0], inquiry.masks):
        return Evidence("sign", "tested", None, f"{said}, and it lies on the object.", figures, len(rows))
    made = by_covering(inquiry, class_id, "sign", f"{said}.", "this patch", tries, figures, best.sharing)
    if inquiry.masks is not None or not made.accuses:
        return made
    figures = {**made.figures, "continues": shrunk.continues(rows, best.pixels)}
    made = replace(made, figures=figures)
    if figures["continues"] < CONTINUES:
        return made
    return doubted(made, " What lies around the patch goes along with it, as around a part of an object.")


def _template(
    shrunk: _Shrunk, class_id: int, rows: NDArray[np.int64], others: Mapping[int, NDArray[np.int64]], share: float
) -> Template:
    """The best template of the first half of the images, judged on the second half."""
    side, half = max(4, round(share * min(shrunk.size))), len(rows) // 2
    template = chosen(
        shrunk.hot(class_id, rows[:half], side),
        [shrunk.hot(one, its[: len(its) // 3], side) for one, its in others.items()],
    )
    own = shrunk.likenesses(rows[half:], template)
    by_class = {one: shrunk.likenesses(its[len(its) // 3 :], template) for one, its in others.items()}
    sharing = [one for one, its in by_class.items() if separation(own, its) < LEFT_TOGETHER]
    if len(sharing) > SHARING * len(by_class):
        sharing = []
    apart = np.concatenate([its for one, its in by_class.items() if one not in sharing])
    return Template(template, separation(own, apart), float(np.median(own)), sharing)


def chosen(own: Sequence[Sequence[Windows]], others: Sequence[Sequence[Sequence[Windows]]]) -> NDArray[np.float32]:
    """The window (s, s, C), in the hottest place of some image, that the hot places of the other images share.

    What the best correlation lacks of 1, in the median of the other images, is the least as a share of the same of
    other classes.

    Args:
        own: For each image the windows in its hot places, the hottest place first.
        others: The same of images of other classes, by class.
    """
    first = [places[0] for places in own]
    candidates, bounds = units(np.concatenate(first)), np.cumsum([0, *map(len, first)])

    def lacks(images: Sequence[Sequence[Windows]]) -> NDArray[np.float32]:
        best = [(units(np.concatenate(places)) @ candidates.T).max(0) for places in images if places]
        return 1 - np.array(best, np.float32).reshape(-1, len(candidates))

    again = lacks(own)
    for at, (start, stop) in enumerate(pairwise(bounds)):
        again[at, start:stop] = np.nan  # each finds itself in its own image
    by_class = [np.median(lack, 0) for lack in map(lacks, others) if len(lack)]
    elsewhere = np.median(by_class, 0) if by_class else np.ones(len(candidates))
    best = int((np.nanmedian(again, 0) / np.maximum(elsewhere, NO_LACK)).argmin())
    return np.ascontiguousarray(np.concatenate(first)[best])


def units(windows: Windows) -> NDArray[np.float32]:
    """(n, d), each window less the mean of each channel, and divided by its norm; zeros for a flat window."""
    flat = (windows - windows.mean((1, 2), keepdims=True)).reshape(len(windows), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    least = NO_CONTRAST * np.abs(windows).max() * np.sqrt(flat.shape[1])
    return np.asarray(np.where(norms > least, flat / np.maximum(norms, 1e-30), 0), np.float32)
