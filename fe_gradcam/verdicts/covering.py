"""Covering a place in images of a class, and other places that are alike: is what is there the cause of the answer?

A place is covered by filling it in from its surroundings (`fe_gradcam.metrics.imputation.interpolated`). It is a cause
if the class's probability falls by FALL or more, and TIMES as much as when other places of the same image are covered
that are as large and hold as much (the deviation of their pixels is within a factor of ALIKE). An image without such
other places is not used: there the place holds all there is, and so is the object.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.metrics.imputation import interpolated
from fe_gradcam.verdicts.atlas import FEWEST, TRIED, Box, sampled
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.verdict import Code, Evidence, Trial

FALL = 0.25
"""A place is a cause only if the mean probability over the images falls by at least this."""

TIMES = 3.0
"""The probability must fall so many times as far as when other places are covered."""

ALIKE = 2.0
"""Another place holds as much if the deviation of its pixels is within this factor."""

OTHERS = 4
"""How many other places are covered in each image: those most similar to the place."""

NO_VARIANCE = 1e-9
"""Rounding of a variance, relative to the largest square of a picture."""

LEFT = "Its test costs more passes than are left: it is left for a later epoch."
"""Said of a class that could not be afforded."""

NOTHING_ELSE = "It could not be tested: the images hold nothing else that could be covered for comparison."
"""Said of a class whose images have no other places that hold as much."""

TRIALS_KEPT = 4
"""The most images of an experiment that are shown."""

ON_OBJECT = 0.5
"""The place is the object if this share of the place lies on the object, or this share of the object in the place."""

Asks: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.floating]]
"""Gets the row of each changed picture's image, (V,), and the pictures, (V, C, H, W); gives (V, K) probabilities."""


@dataclass(frozen=True, eq=False)
class Covered:
    """The probability of a class for n images as they are, and with places covered.

    The first of the K columns is the class alone. There may be a second, the class together with those that share the
    cue: which of them it is, the object says, so the class alone also falls if other places are covered.

    Attributes:
        rows: (n,) the images.
        boxes: The place in each image.
        pictures: (n, C, H, W), the place covered.
        plain: (n, K) for the images as they are.
        covered: (n, K) with the place covered.
        elsewhere: (n, K) with other places covered, the mean over these.
    """

    rows: NDArray[np.int64]
    boxes: Sequence[Box]
    pictures: NDArray[np.float32]
    plain: NDArray[np.float64]
    covered: NDArray[np.float64]
    elsewhere: NDArray[np.float64]

    @property
    def means(self) -> tuple[float, float, float]:
        """The mean probabilities of the class: plain, covered, and covered elsewhere; see `is_shared`."""
        at = int(self.is_shared)
        return float(self.plain[:, at].mean()), float(self.covered[:, at].mean()), float(self.elsewhere[:, at].mean())

    @property
    def is_cause(self) -> bool:
        """Whether the class's probability falls far enough, and far enough beyond the fall for other places."""
        return bool(self._causes.any())

    @property
    def is_shared(self) -> bool:
        """Whether this is so only for the class together with those that share the cue; then `means` are of these."""
        return self.is_cause and not self._causes[0]

    @property
    def _causes(self) -> NDArray[np.bool_]:
        plain = self.plain.mean(0)
        falls, elsewhere = plain - self.covered.mean(0), plain - self.elsewhere.mean(0)
        return np.asarray((falls[0] >= FALL) & (falls >= np.maximum(FALL, TIMES * elsewhere)))

    def trials(self, given: NDArray[np.float32], done: str) -> list[Trial]:
        """The images where the class's probability falls farthest; see `trials_of`."""
        plain, covered = self.plain[:, 0], self.covered[:, 0]
        outlines = [box.mask((given.shape[2], given.shape[3])) for box in self.boxes]
        return trials_of(given, self.rows, self.pictures, plain, covered, outlines, done, covered - plain)


def trials_of(
    given: NDArray[np.float32],
    rows: NDArray[np.int64],
    changed: NDArray[np.float32],
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    outlines: Sequence[NDArray[np.bool_]],
    done: str,
    order: NDArray[np.floating],
) -> list[Trial]:
    """The images of an experiment that show it best, TRIALS_KEPT at most.

    Args:
        given: (N, C, H, W), the images as they are.
        rows: (n,), which of them were changed.
        changed: (n, C, H, W).
        before: (n,), the probabilities of the class.
        after: (n,), the same for the changed images.
        outlines: Where each was changed, (H, W).
        done: What was done, in a few words.
        order: (n,), the image with the smallest number comes first.
    """
    return [
        Trial(int(rows[at]), given[rows[at]], changed[at], float(before[at]), float(after[at]), done, outlines[at])
        for at in np.argsort(order, kind="stable")[:TRIALS_KEPT]
    ]


class Covering:
    """What is covered in each image: its place, and other places that hold as much.

    Args:
        pictures: (N, C, H, W).
        boxes: The place, for each row that is tested; rows without another place that holds as much are left out.

    Attributes:
        places: For each row that is left, the place and the others.
    """

    def __init__(self, pictures: NDArray[np.float32], boxes: Mapping[int, Box]) -> None:
        self._pictures = pictures
        others = {row: alike(pictures[row], box) for row, box in boxes.items()}
        self.places = {row: [boxes[row], *few] for row, few in others.items() if few}

    @property
    def cost(self) -> int:
        """How many images have to be asked."""
        return sum(map(len, self.places.values()))

    def asked(self, plain: NDArray[np.floating], asks: Asks) -> Covered:
        """Covers and asks; `plain`, (N, K), are the probabilities for the images as they are."""
        size = (self._pictures.shape[2], self._pictures.shape[3])
        every = np.stack(
            [interpolated(self._pictures[row], one.mask(size)) for row, few in self.places.items() for one in few]
        )
        counts, rows = [len(few) for few in self.places.values()], np.array(list(self.places), np.int64)
        starts = np.cumsum([0, *counts[:-1]])
        answers = np.asarray(asks(np.repeat(rows, counts), every), np.float64)
        elsewhere = np.stack([part[1:].mean(0) for part in np.split(answers, starts[1:])])
        boxes = [few[0] for few in self.places.values()]
        return Covered(rows, boxes, every[starts], plain[rows].astype(np.float64), answers[starts], elsewhere)

    def asked_of(self, inquiry: Inquiry, class_id: int, sharing: Collection[int] = ()) -> Covered:
        """The same of an inquiry; `sharing` are other classes that have the place. With sigmoids each is by itself.

        Args:
            inquiry: Whose images the pictures are.
            class_id: The class.
            sharing: The other classes.
        """
        together = [[class_id], [class_id, *sharing]] if sharing and not inquiry.several else [[class_id]]

        def read(table: NDArray[np.float32]) -> NDArray[np.floating]:
            return np.stack([table[:, classes].sum(1) for classes in together], 1)

        return self.asked(read(inquiry.probabilities), lambda rows, changed: read(inquiry.answers(rows, changed)))


def first_cause(
    inquiry: Inquiry, class_id: int, tries: Iterable[Mapping[int, Box]], sharing: Collection[int] = ()
) -> Covered | str:
    """Covers places one after the other until one is the cause; if none is, the one that makes most difference.

    Args:
        inquiry: The images.
        class_id: The class.
        tries: Each the place for every row that is tested.
        sharing: Other classes that have the place.

    Returns:
        Why nothing was covered, in a sentence, if FEWEST images could not be tested or passes are used up.
    """
    best: Covered | None = None
    for boxes in tries:
        covering = Covering(inquiry.pictures, boxes)
        if len(covering.places) < FEWEST:
            continue
        if not inquiry.affords(covering.cost):
            return best or LEFT
        done = covering.asked_of(inquiry, class_id, sharing)
        if done.is_cause:
            return done
        if best is None or done.covered[:, 0].mean() < best.covered[:, 0].mean():
            best = done
    return best or NOTHING_ELSE


def frequent(inquiry: Inquiry) -> list[int]:
    """The classes that FEWEST images or more are told to be of, those with most images first."""
    counts = {class_id: len(inquiry.rows_of(class_id)) for class_id in inquiry.classes}
    return sorted((one for one in counts if counts[one] >= FEWEST), key=lambda one: (-counts[one], one))


def sample(inquiry: Inquiry, class_id: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """At most TRIED images of a class that have heat, (n,), and their heat (n, h, w)."""
    rows, heat = inquiry.rows_of(class_id), inquiry.heat_of(class_id)
    warm = np.flatnonzero(heat.any((1, 2)))
    taken = warm[sampled(rows[warm], TRIED, inquiry.seed)]
    return rows[taken], heat[taken]


def too_few(test: Code, count: int) -> Evidence | None:
    """What a test finds of a class of which so many images have heat, if these are too few."""
    if count >= FEWEST:
        return None
    return Evidence(test, "not tested", None, f"{count} images with heat; {FEWEST} are needed.", images=count)


def by_covering(
    inquiry: Inquiry,
    class_id: int,
    code: Code,
    said: str,
    place: str,
    tries: Sequence[Mapping[int, Box]],
    figures: Mapping[str, float],
    sharing: Collection[int],
) -> Evidence:
    """What covering finds of a class that is suspected; see `first_cause`.

    Args:
        inquiry: The images.
        class_id: The class.
        code: What the class is accused of, which is the name of the test too.
        said: Why it is suspected, in a sentence.
        place: What is covered, in words.
        tries: The place for every row that is tested, several one after the other.
        figures: What was found so far.
        sharing: Other classes that have the place.
    """
    figures, rows = {**figures, "sharing": float(len(sharing))}, np.array(list(tries[0]), np.int64)
    done = first_cause(inquiry, class_id, tries, sharing)
    if done == LEFT:
        return Evidence(code, "not tested", None, f"{said} {LEFT}", figures, len(rows), rows=rows)
    box = tries[0][int(rows[0])] if len(set(tries[0].values())) == 1 else None
    if isinstance(done, str):
        return Evidence(code, "suspected", code, f"{said} {done}", figures, len(rows), box=box, rows=rows)
    plain, covered, elsewhere = done.means
    figures |= {"plain": plain, "covered": covered, "covered_elsewhere": elsewhere}
    whose = "the class"
    if done.is_shared:
        whose = f"the class and those that share it ({inquiry.called(*sharing)}), taken together,"
    said = (
        f"{said} With {place} covered in {len(done.rows)} images, the probability of {whose} falls from {plain:.2f} to "
        f"{covered:.2f}; with other places of the same size and similar contrast covered, to {elsewhere:.2f}."
    )
    trials = done.trials(inquiry.pictures, f"{place.removeprefix('the ')} covered")
    found, box = code if done.is_cause else None, done.boxes[0] if box else None
    return Evidence(code, "tested", found, said, figures, len(done.rows), trials, box, done.rows)


def doubted(evidence: Evidence, why: str = "") -> Evidence:
    """Evidence that no longer accuses, as it is not known what is the object; `why` are further sentences before."""
    doubt = f"{why} An object that always looks the same would show this too: pass masks= or boxes= to tell them apart."
    return replace(evidence, level="suspected", said=evidence.said + doubt)


def on_object(boxes: Mapping[int, Box], masks: NDArray[np.bool_]) -> bool:
    """Whether the places, by row, are the object; masks (N, H, W), where empty ones say nothing."""
    shares = []
    for row, box in boxes.items():
        if masks[row].any():
            inside = masks[row][box.slices].sum()
            shares.append((inside / (box.width * box.height), inside / masks[row].sum()))
    return len(shares) > 0 and bool((np.mean(shares, 0) >= ON_OBJECT).any())


def alike(picture: NDArray[np.float32], box: Box) -> list[Box]:
    """Other places of a picture (C, H, W) that do not touch `box`, are as large, and hold about as much."""
    height, width = picture.shape[1:]
    inside = picture[:, box.slices[0], box.slices[1]]
    # A flat mark has no deviation inside, so the pixels around it count too.
    border = (0, 0) if (inside != inside[:, :1, :1]).any() else (max(1, box.height // 4), max(1, box.width // 4))
    corners = np.meshgrid(_starts(height, box.height), _starts(width, box.width), indexing="ij")
    tops, lefts = (ends.ravel() for ends in corners)
    apart = (abs(tops - box.top) >= box.height) | (abs(lefts - box.left) >= box.width)
    tops, lefts = np.append(box.top, tops[apart]), np.append(box.left, lefts[apart])
    content, *others = deviations(picture, tops, lefts, (box.height, box.width), border)
    if not content > 0:
        return []
    with np.errstate(divide="ignore"):
        unlike = np.abs(np.log(np.array(others) / content))
    nearest = [at for at in np.argsort(unlike, kind="stable")[:OTHERS] if unlike[at] <= np.log(ALIKE)]
    return [Box(int(lefts[1 + at]), int(tops[1 + at]), box.width, box.height) for at in nearest]


def deviations(
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
