"""Whether a class is told by nothing local, and whether heat is an artefact of the map.

Nothing local: in each image of a class the hottest HOTTEST of the pixels are covered by other parts of the same image,
and, if masks or boxes say where it is, the object too. What is still told then is not told by a place: stripes, a
texture, a tint. (Filling in smoothly would take a fine texture away.) Some network tells every image without an object
to be of one class, and some classes have objects so large that they outlive it. So the class is held against the
others: the rate at which it is kept, less the median rate at which they are, and less the rate at which their images
become this class, which a share SHARE_IT of the other classes may exceed: they may have the same cue. It is accused if
both leave KEPT or more. Without masks or boxes the hottest part may have missed the object. So a class that is kept is
asked the other way round: what is everywhere is in the hottest part too, which must tell it alone (TOLD_ALONE).

An artefact: heat at one small place of the frame in most classes (WIDELY times the heat that the place would have if
heat were the same everywhere), and with this place covered the probability changes by NOTHING at the most. So is the
heat that the zeros at the border of a convolution make. It accuses nobody: the network does not look there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam.metrics.imputation import interpolated
from fe_gradcam.verdicts.atlas import FEWEST, Atlas, Box, Upsampling
from fe_gradcam.verdicts.covering import LEFT, frequent, sample, too_few, trials_of
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.places import COMPARED, LARGEST, atlas_of, place_of, where_in_words
from fe_gradcam.verdicts.verdict import Code, Evidence, Level, Trial

HOTTEST, SHIFTS, COARSE = 0.3, 4, 64
"""The share of the pixels that is covered, by how many parts of the image, and the side at which these are chosen."""

KEPT = 0.5
"""A class is told by nothing local if it is kept so much more often than the other classes."""

HELD = 8
"""The fewest other classes that a class is held against, if there are so many and passes are left."""

SHARE_IT = 0.25
"""The share of the other classes that may have the same cue: what their images become is not looked at."""

MOST_FILLED = 0.9
"""An image of which more would be covered, object and all, is not used."""

TOLD_ALONE = 0.6
"""Without masks, so much of the images must be told with all but the hottest part covered: stripes and textures came to
0.69 and more, clean networks whose heat lay beside the object to 0 to 0.4, rarely more."""

SURELY_KEPT = 0.8
"""Without masks, where the hottest part may miss the object, a class is accused from this difference on; cues all over
the frame came to 0.86 and more, one clean net to 0.69."""

WIDELY = 4.0
"""A place has an artefact if it has so many times the heat that is its due, in more than half of the classes."""

NOTHING = 0.05
"""The largest mean change of the probability that counts as none."""


@dataclass(frozen=True, eq=False)
class FilledIn:
    """Images of one class with a part of each covered, and what the network says of them.

    Attributes:
        rows: (n,) the images.
        where: (n, H, W), what was covered.
        pictures: (n, C, H, W), covered.
        answers: (n, C), the probabilities.
    """

    rows: NDArray[np.int64]
    where: NDArray[np.bool_]
    pictures: NDArray[np.float32]
    answers: NDArray[np.float32]

    def trials(self, inquiry: Inquiry, class_id: int, done: str) -> list[Trial]:
        """The images whose probability of the class is the highest."""
        after, before = self.answers[:, class_id], inquiry.probabilities[self.rows, class_id]
        return trials_of(inquiry.pictures, self.rows, self.pictures, before, after, list(self.where), done, -after)


def nothing_local(inquiry: Inquiry, classes: Sequence[int]) -> dict[int, Evidence]:
    """What covering the hottest part of the images finds of some classes.

    Args:
        inquiry: The images; what its `affords` denies is left for later.
        classes: The classes to test. If these are few, others are covered too, to hold them against.

    Returns:
        An Evidence for each of the classes, with the code "nothing_local" if it is still told.
    """
    more = [one for one in frequent(inquiry) if one not in classes][: max(0, HELD + 1 - len(classes))]
    filled = {class_id: _hottest_filled(inquiry, class_id) for class_id in (*classes, *more)}
    return {class_id: _kept(inquiry, filled, class_id) for class_id in classes}


def hottest(heat: NDArray[np.float32], upsampling: Upsampling, share: float) -> NDArray[np.bool_]:
    """(H, W), True in the hottest `share` of the pixels of heat (h, w).

    Pixels without heat follow in the order of their distance, by blurred heat: so what is taken holds together.
    """
    full = upsampling.of(heat.astype(np.float64))
    around = cv2.GaussianBlur(full, (0, 0), max(full.shape) / 6, borderType=cv2.BORDER_REPLICATE)
    order = np.lexsort((-around.ravel(), -full.ravel()))
    taken = np.zeros(full.size, bool)
    taken[order[: round(share * full.size)]] = True
    return taken.reshape(full.shape)


def patched(image: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image (C, H, W) with its missing pixels (H, W) covered by other parts of it, whose texture goes on there.

    The whole image is shifted, round its borders, so that as many missing pixels as possible lie under others; SHIFTS
    times, and what is left then is filled in from its surroundings.
    """
    covered, left, coarse = image.copy(), missing.copy(), max(1, min(missing.shape) // COARSE)
    few = missing[::coarse, ::coarse]
    steps = tuple(slice(None, None, max(1, side // 16)) for side in few.shape)
    spectrum = np.fft.rfft2(few).conj()
    for _ in range(SHIFTS):
        # How many pixels stay under missing ones, for every shift at once: a correlation round the borders.
        stay = np.rint(np.fft.irfft2(np.fft.rfft2(left[::coarse, ::coarse]) * spectrum, few.shape))[steps]
        shift = np.unravel_index(stay.argmin(), stay.shape)
        best = tuple(int(at) * one.step * coarse for at, one in zip(shift, steps, strict=True))
        taken = left & ~np.roll(missing, best, (0, 1))
        covered[:, taken] = np.roll(image, best, (1, 2))[:, taken]
        left &= ~taken
    return interpolated(covered, left)


def _hottest_filled(inquiry: Inquiry, class_id: int) -> FilledIn | None:
    """None if it is not afforded; images of which too much would be covered are left out."""
    rows, heat = sample(inquiry, class_id)
    down, across = inquiry.heatmap.raw.shape[1:]
    upsampling = Upsampling((down, across), inquiry.size)
    where = np.array([hottest(one, upsampling, HOTTEST) for one in heat], bool).reshape(len(rows), *inquiry.size)
    if inquiry.masks is not None:
        where |= inquiry.masks[rows]
        fits = where.mean((1, 2)) <= MOST_FILLED
        rows, where = rows[fits], where[fits]
    if not inquiry.affords(len(rows)):
        return None
    return _filled(inquiry, rows, where, patched)


def _filled(
    inquiry: Inquiry,
    rows: NDArray[np.int64],
    where: NDArray[np.bool_],
    fill: Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]],
) -> FilledIn:
    given = inquiry.pictures
    pictures = [fill(given[row], one) for row, one in zip(rows, where, strict=True)]
    every = np.array(pictures, np.float32).reshape(len(rows), *given.shape[1:])
    return FilledIn(rows, where, every, inquiry.answers(rows, every))


def _kept(inquiry: Inquiry, filled: dict[int, FilledIn | None], class_id: int) -> Evidence:
    own = filled[class_id]
    if own is None:
        return Evidence("nothing_local", "not tested", None, LEFT)
    count = len(own.rows)
    if few := too_few("nothing_local", count):
        return few
    kept_by_others, become = [], []
    for other, one in filled.items():
        if other != class_id and one is not None:
            told = inquiry.told(one.answers)
            apart = ~inquiry.told(inquiry.probabilities[one.rows])[:, class_id]
            if apart.sum() >= FEWEST:
                kept_by_others.append(told[:, other].mean())
                become.append(told[apart, class_id].mean())
    if not become:
        left = any(one is None for one in filled.values())
        why = LEFT if left else "There is no other class to hold it against."
        return Evidence("nothing_local", "not tested", None, why, images=count)
    kept = float(inquiry.told(own.answers)[:, class_id].mean())
    others, becomes = float(np.median(kept_by_others)), float(np.quantile(become, 1 - SHARE_IT))
    figures = {"kept": kept, "kept_by_others": others, "others_become": becomes}
    gap = kept - max(others, becomes)
    known = inquiry.masks is not None
    level: Level = "suspected" if not known and KEPT <= gap < SURELY_KEPT else "tested"
    code: Code | None = "nothing_local" if gap >= KEPT else None
    what = f"the hottest {HOTTEST:.0%} of the pixels{' and the object' * known} covered"
    said = (
        f"With {what}, {kept:.0%} of {count} images are still told to be of the class; other classes keep {others:.0%} "
        f"of theirs (median), and {becomes:.0%} or fewer of their images become this class (in three quarters of them)."
    )
    if code and not known:
        if not inquiry.affords(count):
            return Evidence("nothing_local", "suspected", code, f"{said} {LEFT}", figures, count, rows=own.rows)
        alone = inquiry.told(_filled(inquiry, own.rows, ~own.where, patched).answers)[:, class_id].mean()
        figures["told_alone"] = float(alone)
        said += f" With all other pixels covered instead, {alone:.0%} are."
        if alone < TOLD_ALONE:
            said += " So the hottest pixels missed what tells it, and what tells it is local."
            return Evidence("nothing_local", "tested", None, said, figures, count)
    trials = own.trials(inquiry, class_id, what)
    return Evidence("nothing_local", level, code, said, figures, count, trials, rows=own.rows)


def artefacts(inquiry: Inquiry, classes: Sequence[int]) -> dict[int, Evidence]:
    """Whether heat at one place of the frame in most classes means nothing.

    Args:
        inquiry: The images; what its `affords` denies is left for later.
        classes: The classes to test. Others, COMPARED at most, help to find the place.

    Returns:
        An Evidence for each of the classes, with the code "artefact" if it has this heat and it means nothing.
    """
    atlas = atlas_of(inquiry, classes)
    place = _common_place(atlas)
    return {class_id: _artefact(inquiry, atlas, place, class_id) for class_id in classes}


def _common_place(atlas: Atlas) -> Box | None:
    """The small place that is hot in more than half of the classes, or None."""
    compared = atlas.largest(COMPARED)
    if len(compared) < 2:
        return None
    box = place_of(atlas.upsampling.of(np.median([atlas.classes[one].mean for one in compared], 0)))
    if box is None or _due(atlas, box) > LARGEST:
        return None
    shares = atlas.shares_in(compared, [box])[:, 0]
    return box if (shares >= WIDELY * _due(atlas, box)).mean() > 0.5 else None


def _due(atlas: Atlas, box: Box) -> float:
    """The share of the frame that a place has."""
    return box.width * box.height / (atlas.size[0] * atlas.size[1])


def _artefact(inquiry: Inquiry, atlas: Atlas, place: Box | None, class_id: int) -> Evidence:
    rows, _ = sample(inquiry, class_id)
    if few := too_few("artefact", len(rows)):
        return few
    if place is None:
        return Evidence("artefact", "tested", None, "No place of the frame is hot in most classes.", images=len(rows))
    share, due, where = (
        float(atlas.shares_in([class_id], [place])[0, 0]),
        _due(atlas, place),
        where_in_words(place, inquiry.size),
    )
    figures = {"share": share, "due": due}
    hot = f"Most classes have heat in the {where} ({share:.0%} of this one's, on {due:.0%} of the frame)."
    if share < WIDELY * due:
        said = f"Most classes have heat in the {where}, this one has not."
        return Evidence("artefact", "tested", None, said, figures, len(rows), box=place)
    if not inquiry.affords(len(rows)):
        return Evidence("artefact", "not tested", None, f"{hot} {LEFT}", figures, len(rows), box=place)
    done = _filled(inquiry, rows, np.repeat(place.mask(inquiry.size)[None], len(rows), 0), interpolated)
    changes = np.abs(done.answers[:, class_id] - inquiry.probabilities[rows, class_id])
    figures |= {"change": float(changes.mean())}
    nothing = changes.mean() <= NOTHING
    said = f"{hot} With this place covered in {len(rows)} images, the probability changes by {changes.mean():.2f}" + (
        ": this heat is of the map, as zeros at the border of a convolution make it, not of what the network looks at."
        if nothing
        else ": so this heat means something."
    )
    trials = done.trials(inquiry, class_id, f"{where} covered")
    return Evidence(
        "artefact", "tested", "artefact" if nothing else None, said, figures, len(rows), trials, box=place, rows=rows
    )
