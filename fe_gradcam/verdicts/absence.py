"""Whether a network tells a class without an object by the absence: "healthy", "good part".

Such a class is told by the right thing if nothing but the missing object tells it. Two questions are asked, each with a
control that is changed in the same way:

- Images of other classes whose object is filled in must become this class (`becomes`). Two controls: the same holes in
  this class's own images leave these as they are (`own`), and the same holes beside the objects of the other classes
  leave those as they were (`sham`).
- Objects pasted into this class's images must turn the answer away (`stays`: the share that is told to be of this class
  even so). Control: the same objects in the surroundings of other classes (`elsewhere`).

The class is accused if the answer to one question differs from its control by GAP, and an exact test says that this is
no chance. A network that looks for a sign in the images of the class fails the first question, and often the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.verdicts.atlas import FEWEST, TRIED
from fe_gradcam.verdicts.donors import Pools, Swaps, chance_of
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.surroundings import CHANCE, GAP, UNHURT, affordable, too_few_rows, untested
from fe_gradcam.verdicts.swap import MARGIN, ground_of
from fe_gradcam.verdicts.verdict import Evidence, Trial

INTO = 2
"""Into how many images of the class each object is pasted, and into how many of other classes."""

EACH = 3 + 2 * INTO
"""How many images are asked for each object: three with holes, and those that it is pasted into."""


def absence(inquiry: Inquiry, classes: Sequence[int]) -> dict[int, Evidence]:
    """Tests whether classes without an object are told by its absence.

    Args:
        inquiry: Images, answers and masks. An empty mask means that there is no object.
        classes: Those to test; classes with an object are passed over.

    Returns:
        The evidence for each class without an object. The figures are becomes, own, sham, stays, elsewhere, and
        p_becomes and p_stays, the results of the exact tests.
    """
    if inquiry.masks is None:
        return {}
    pools = Pools(inquiry, inquiry.masks)
    return {one: _tested(pools, one) for one in classes if pools.is_empty(one)}


@dataclass(frozen=True, eq=False)
class _Filled:
    """Images that a hole was filled in, all in one way.

    Attributes:
        rows: (n,) the images.
        pictures: (n, C, H, W), with the holes.
        holes: (n, H, W).
        probabilities: (n, C) for the pictures.
        as_meant: (n,) whether the answer is the one that would be right.
    """

    rows: NDArray[np.int64]
    pictures: NDArray[np.float32]
    holes: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    as_meant: NDArray[np.bool_]

    @property
    def share(self) -> float:
        return float(self.as_meant.mean()) if len(self.rows) else float("nan")


@dataclass(frozen=True, eq=False)
class _Answered:
    """The answers to both questions, and to their controls; see the module."""

    class_id: int
    becomes: _Filled
    own: _Filled
    sham: _Filled
    pasted: Swaps

    @property
    def figures(self) -> dict[str, float]:
        meant = [int(one.as_meant.sum()) for one in (self.own, self.becomes)]
        return {
            "becomes": self.becomes.share,
            "own": self.own.share,
            "sham": self.sham.share,
            "stays": self.pasted.share(own=True),
            "elsewhere": self.pasted.share(own=False),
            "p_becomes": chance_of([(meant[0], len(self.own.rows), meant[1], len(self.becomes.rows))]),
            "p_stays": chance_of(self.pasted.counts()),
        }


def _tested(pools: Pools, class_id: int) -> Evidence:
    why = too_few_rows(pools, class_id)
    if why is not None:
        return untested("absence", why)
    generator = np.random.default_rng((pools.inquiry.seed, class_id, EACH))
    objects = np.array([row for row in pools.others(class_id, TRIED, generator) if pools.masks[row].any()], np.int64)
    if len(objects) < FEWEST:
        why = f"Only {len(objects)} images of other classes have an object that could be used, and {FEWEST} are needed."
        return untested("absence", why)
    rows = affordable(pools.inquiry, objects, EACH)
    if isinstance(rows, str):
        return untested("absence", rows)
    return _evidence(pools, _answered(pools, class_id, rows, generator))


def _answered(pools: Pools, class_id: int, rows: NDArray[np.int64], generator: np.random.Generator) -> _Answered:
    empty = generator.permutation(np.resize(pools.of(class_id), len(rows)))
    holes = pools.masks[rows]
    moved = ((row, _beside(hole, generator)) for row, hole in zip(rows, holes, strict=True))
    beside = [(row, hole) for row, hole in moved if hole is not None]
    pairs, own = [], []
    for row in rows:
        into = generator.permutation(pools.of(class_id))[:INTO]
        others = [one for one in pools.others(class_id, INTO + 1, generator) if one != row][:INTO]
        pairs += [(int(row), int(donor)) for donor in (*into, *others)]
        own += [True] * len(into) + [False] * len(others)
    return _Answered(
        class_id,
        _filled(pools, rows, holes, class_id),
        _filled(pools, empty, holes, class_id),
        _filled(pools, np.array([row for row, _ in beside], np.int64), np.array([hole for _, hole in beside]), None),
        pools.swaps(class_id, pairs, own=own),
    )


def _filled(pools: Pools, rows: NDArray[np.int64], holes: NDArray[np.bool_], class_id: int | None) -> _Filled:
    """Images with holes, and whether they are told to be of a class; None: of that of which they were told to be."""
    inquiry, given = pools.inquiry, pools.grounds.pictures
    pictures = [ground_of(given[row], hole) for row, hole in zip(rows, holes, strict=True)]
    made = np.stack(pictures) if pictures else given[:0]
    answers = inquiry.answers(rows, made)
    told = inquiry.told(answers)
    before = inquiry.told(inquiry.probabilities[rows])
    right = told[:, class_id] if class_id is not None else np.any(told & before, axis=1)
    return _Filled(rows, made, holes, answers, np.asarray(right))


def _beside(mask: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.bool_] | None:
    """A mask (H, W) moved to where its box does not touch the box that it had; None if there is no such place."""
    down, across = np.nonzero(mask)
    top, left, height, width = down.min(), across.min(), np.ptp(down) + 1, np.ptp(across) + 1
    tops, lefts = np.indices((mask.shape[0] - height + 1, mask.shape[1] - width + 1)).reshape(2, -1)
    apart = (np.abs(tops - top) >= height + 2 * MARGIN) | (np.abs(lefts - left) >= width + 2 * MARGIN)
    if not apart.any():
        return None
    at = generator.choice(np.flatnonzero(apart))
    moved = np.zeros_like(mask)
    moved[down - top + tops[at], across - left + lefts[at]] = True
    return moved


def _evidence(pools: Pools, one: _Answered) -> Evidence:
    figures, count = one.figures, len(one.becomes.rows)
    hurt = figures["own"] < UNHURT or figures["sham"] < UNHURT
    least = CHANCE / (2 * len(pools.inquiry.classes))
    fails = figures["own"] - figures["becomes"] >= GAP and figures["p_becomes"] < least
    sticks = figures["stays"] - figures["elsewhere"] >= GAP and figures["p_stays"] < least
    accused = (fails or sticks) and not hurt
    said = (
        f"With the object filled in, {figures['becomes']:.0%} of {count} images of other classes become this class; "
        f"with the same holes, {figures['own']:.0%} of its own stay. With an object pasted in, {figures['stays']:.0%} "
        f"of its images stay. "
    )
    if hurt:
        said = (
            f"Filling in itself disturbs: with holes of the objects' shapes {figures['own']:.0%} of its own images "
            f"stay, and with such holes beside the object {figures['sham']:.0%} of the others keep their class; "
            f"{UNHURT:.0%} of both are needed."
        )
    elif accused:
        said += "So something else than the missing object tells it. This does not show what it is."
    else:
        said += "This does not show that objects of other kinds, or smaller ones, would be seen."
    return Evidence(
        "absence",
        "not tested" if hurt else "tested",
        "absence" if accused else None,
        said,
        figures,
        images=count,
        trials=() if hurt else _trials(pools, one),
        rows=one.becomes.rows[~one.becomes.as_meant] if accused else None,
    )


def _trials(pools: Pools, one: _Answered) -> list[Trial]:
    """Two images with their object filled in, an own one with a hole, and an own one with an object pasted in."""
    inquiry, class_id = pools.inquiry, one.class_id

    def trial(row: int, changed: NDArray[np.float32], after: float, done: str, outline: NDArray[np.bool_]) -> Trial:
        before = float(inquiry.probabilities[row, class_id])
        return Trial(int(row), pools.grounds.pictures[row], changed, before, float(after), done, outline)

    shown = [
        trial(filled.rows[at], filled.pictures[at], filled.probabilities[at, class_id], done, filled.holes[at])
        for filled, done, count in ((one.becomes, "object filled in", 2), (one.own, "the same hole filled in", 1))
        for at in np.argsort(filled.probabilities[:, class_id], kind="stable")[:: 1 if count == 2 else -1][:count]
    ]
    into = np.flatnonzero(one.pasted.own)
    at = int(into[one.pasted.probabilities[into].argmax()])
    row, donor = int(one.pasted.rows[at]), int(one.pasted.donors[at])
    done = f"with the object of an image of class {inquiry.called(pools.classes_of([row])[0])}"
    changed = pools.grounds.swapped(row, donor)
    return [*shown, trial(donor, changed, one.pasted.probabilities[at], done, pools.masks[row])]
