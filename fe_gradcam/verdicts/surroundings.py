"""Whether a network tells a class by what its objects stand in: objects exchange their surroundings.

Each object of a class is pasted into the surroundings of DONORS images of its own class, and of as many of other
classes. The share of these pictures that are still told to be of the class is `kept_same` and `kept_other`. If the
surroundings do not matter, both are alike; pasting itself does the same to both. A class is accused if

- `gap`, kept_same - kept_other, is at least GAP,
- `kept_same` is at least UNHURT, so that pasting leaves most objects as they were,
- and an exact test says that the gap is no chance; see `fe_gradcam.verdicts.donors.chance_of`.

`follow` is the share of the pictures in surroundings of other classes that are told to be of the donor's class.

Images of an accused class pull other objects to their class. So classes are accused one by one, that with the largest
gap first; its images are then left out as donors, and the other classes judged again. What a class is told by itself it
misses in the surroundings of any class that lacks it. So a class that loses in those of a third of the other classes
alone is not accused: these pull, and are suspected themselves. If there are too few other classes for a third, it is
suspected as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.verdicts.atlas import FEWEST, TRIED
from fe_gradcam.verdicts.donors import DONORS, Pools, Swaps, chance_of
from fe_gradcam.verdicts.inquiry import Inquiry
from fe_gradcam.verdicts.verdict import Code, Evidence, Trial

GAP = 0.25
"""The least gap of an accused class."""

LEAVES = 0.1
"""Other surroundings leave a class as it is if its gap is below this; without a cue 99 of 100 are below 0.05."""

UNHURT = 0.7
"""The least share of objects that must still be told in surroundings of their own class."""

CHANCE = 0.01
"""The largest probability that chance alone accuses some class; each class has its part of it."""

TRIED_IF_SHORT = 12
"""How many images of a class are tested if more cannot be afforded."""

FEWEST_LEFT = 2
"""An image is judged if at least so many donors of other classes are left to it."""

FOLLOWS = 0.75
"""If so many answers go to the donor's class, its own object may have been left in part."""

PULLING = 1 / 3
"""The largest share of the other classes whose surroundings may pull, at least one class."""

LEFT_OF_GAP = 1 / 3
"""Without the surroundings that it loses most in, an accused class must keep so much of its gap."""

SHOWN_TRIALS = 3
"""How many images in surroundings of other classes are shown; one in surroundings of its own class stands beside."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """A class, and what the network said of its objects in other surroundings."""

    class_id: int
    swaps: Swaps

    @cached_property
    def kept_same(self) -> float:
        return self.swaps.share(own=True)

    @cached_property
    def kept_other(self) -> float:
        return self.swaps.share(own=False)

    @property
    def gap(self) -> float:
        return self.kept_same - self.kept_other

    @cached_property
    def follow(self) -> float:
        return self.swaps.share(own=False, of="followed")

    @cached_property
    def chance(self) -> float:
        return chance_of(self.swaps.counts())

    def accuses(self, classes: int) -> bool:
        return self.gap >= GAP and self.kept_same >= UNHURT and self.chance < CHANCE / classes


def surroundings(inquiry: Inquiry, classes: Sequence[int]) -> dict[int, Evidence]:
    """Tests whether classes are told by the surroundings of their objects.

    Args:
        inquiry: Images, answers and masks. An image of a class with objects whose mask is empty or fills the frame is
            left out.
        classes: Those to test, the most urgent first: the last ones are left if they cannot be afforded.

    Returns:
        The evidence for each class; classes without an object have none, see `fe_gradcam.verdicts.absence.absence`.
        The figures are kept_same, kept_other, gap, follow and p, the result of the exact test.

    Source: Xiao 2021, arXiv:2006.09994 (the gap between backgrounds); the donors, the test and the thresholds are ours.
    """
    if inquiry.masks is None:
        why = "It is not known where the objects are: pass masks= or boxes=."
        return {one: untested("surroundings", why) for one in classes}
    pools = Pools(inquiry, inquiry.masks)
    found: dict[int, Evidence] = {}
    judged: dict[int, _Judged] = {}
    for class_id in classes:
        if not pools.is_empty(class_id):
            _sort(_tested(pools, class_id), class_id, found, judged)
    accused: dict[int, _Judged] = {}
    while suspects := [
        one for one in judged.values() if one.accuses(len(inquiry.classes)) and not _pullers(pools, one)
    ]:
        one = max(suspects, key=lambda one: (one.gap, -one.chance))
        worst = one.class_id
        accused[worst] = judged.pop(worst)
        pools.without.add(worst)
        for class_id in list(judged):
            _sort(_without_pull(pools, judged.pop(class_id)), class_id, found, judged)
    for class_id, one in accused.items():
        again = _without_pull(pools, one)
        judged[class_id] = one if isinstance(again, str) else again
    pulled = {
        class_id: _pullers(pools, one)
        for class_id, one in judged.items()
        if class_id not in accused and one.accuses(len(inquiry.classes))
    }
    found |= {class_id: _evidence(pools, one, pulled.get(class_id, [])) for class_id, one in judged.items()}
    _suspect(inquiry, pulled, found)
    return {one: found[one] for one in classes if one in found}


def _sort(result: _Judged | str, class_id: int, found: dict[int, Evidence], judged: dict[int, _Judged]) -> None:
    """Puts a result where it belongs: figures to the judged, a reason why there are none to the evidence."""
    if isinstance(result, str):
        found[class_id] = untested("surroundings", result)
    else:
        judged[class_id] = result


def untested(test: Code, why: str) -> Evidence:
    """The evidence for a class that was not tested."""
    return Evidence(test, "not tested", None, why)


def affordable(inquiry: Inquiry, rows: NDArray[np.int64], each: int) -> NDArray[np.int64] | str:
    """As many rows as can be tested with so many questions each, TRIED or else TRIED_IF_SHORT; or why none can be."""
    for count in (TRIED, TRIED_IF_SHORT):
        if inquiry.affords(each * len(rows[:count])):
            return rows[:count]
    return f"It is left for a later epoch: {each * len(rows[:TRIED_IF_SHORT])} more images would have to be asked."


def too_few_rows(pools: Pools, class_id: int) -> str | None:
    """Why a class has too few images to be tested; None if it has enough."""
    count, usable = pools.count(class_id), len(pools.of(class_id))
    if usable >= FEWEST:
        return None
    if usable == count:
        return f"{FEWEST} images that are told to be of it are needed, and there are {count}."
    return (
        f"Only {usable} of its {count} images can be used, and {FEWEST} are needed. The others have no mask or box, or "
        "an object that fills the frame."
    )


def _tested(pools: Pools, class_id: int) -> _Judged | str:
    why = too_few_rows(pools, class_id)
    rows = why or affordable(pools.inquiry, pools.of(class_id), 2 * DONORS)
    if isinstance(rows, str):
        return rows
    generator = np.random.default_rng((pools.inquiry.seed, class_id, DONORS))
    if (donors := len(pools.others(class_id, FEWEST, generator))) < FEWEST:
        return (
            f"Only {donors} images of other classes have surroundings that could be used, and {FEWEST} are needed."
            if donors
            else "No other class has images whose surroundings could be used."
        )
    pairs, own = [], []
    for row in rows:
        alike = [int(one) for one in generator.permutation(pools.of(class_id)) if one != row][:DONORS]
        other = pools.others(class_id, DONORS, generator)
        pairs += [(int(row), donor) for donor in (*alike, *other)]
        own += [True] * len(alike) + [False] * len(other)
    return _Judged(class_id, pools.swaps(class_id, pairs, own=own))


def _without_pull(pools: Pools, one: _Judged) -> _Judged | str:
    """The same class judged without donors of accused classes; the network is asked again if donors run out."""
    class_id, swaps = one.class_id, one.swaps
    left_out = np.concatenate([pools.of(other) for other in pools.without - {class_id}] or [np.zeros(0, np.int64)])
    swaps = swaps[swaps.own | ~np.isin(swaps.donors, left_out)]
    if len(swaps.rows) == len(one.swaps.rows):
        return one
    generator = np.random.default_rng((pools.inquiry.seed, class_id, len(swaps.rows)))
    pairs: list[tuple[int, int]] = []
    for row in swaps.images:
        known = swaps.donors[(swaps.rows == row) & ~swaps.own]
        if len(known) < FEWEST_LEFT:
            more = pools.others(class_id, 2 * DONORS, generator)
            pairs += [(int(row), donor) for donor in more if donor not in known][: DONORS - len(known)]
    if pairs and pools.inquiry.affords(len(pairs)):
        swaps = swaps + pools.swaps(class_id, pairs, own=[False] * len(pairs))
    enough = [row for row in swaps.images if (~swaps.own[swaps.rows == row]).sum() >= FEWEST_LEFT]
    if len(enough) >= FEWEST:
        return _Judged(class_id, swaps[np.isin(swaps.rows, enough)])
    if pairs:
        return f"It is left for a later epoch: {len(pairs)} more images would have to be asked."
    return (
        "The other surroundings are those of classes that are told by their surroundings themselves: "
        f"{pools.inquiry.called(*pools.without)}."
    )


def _pullers(pools: Pools, one: _Judged) -> list[int]:
    """The few classes in whose surroundings alone a class loses; none if it loses in those of other classes too."""
    swaps = one.swaps
    lost = {
        other: 1 - swaps.kept[~swaps.own & np.isin(swaps.donors, pools.of(other))].mean()
        for other in pools.classes_of(swaps.donors[~swaps.own])
        if other != one.class_id
    }
    few = sorted(lost, key=lambda other: -lost[other])[: max(1, int(PULLING * len(lost)))]
    rest = swaps[swaps.own | ~np.isin(swaps.donors, np.concatenate([pools.of(other) for other in few]))]
    if len(few) == len(lost) or _Judged(one.class_id, rest).gap >= LEFT_OF_GAP * one.gap:
        return []
    return sorted(other for other in few if lost[other] >= GAP)


def _suspect(inquiry: Inquiry, pulled: Mapping[int, Sequence[int]], found: dict[int, Evidence]) -> None:
    """Suspects the classes whose surroundings pull others: {the class that loses: those that may pull it}."""
    for other in sorted({one for few in pulled.values() for one in few}):
        if other in found and found[other].code is None:
            lost = inquiry.called(*(one for one, few in pulled.items() if other in few))
            said = f"{found[other].said} Objects of class {lost} are lost in its surroundings: something there pulls."
            found[other] = replace(found[other], level="suspected", code="surroundings", said=said)


def _evidence(pools: Pools, one: _Judged, pullers: Sequence[int]) -> Evidence:
    """What was found of a class that loses in the surroundings of some classes alone, `pullers`, or of all or none."""
    swaps, of_class = one.swaps, one.accuses(len(pools.inquiry.classes))
    others = pools.classes_of(swaps.donors[~swaps.own])
    if pullers and len(pullers) <= PULLING * len(others):
        of_class = False
    figures = {
        "kept_same": one.kept_same,
        "kept_other": one.kept_other,
        "gap": one.gap,
        "follow": one.follow,
        "p": one.chance,
    }
    count, hurt = len(swaps.images), one.kept_same < UNHURT
    shares = [swaps.share_of(row, own=True) - swaps.share_of(row, own=False) for row in swaps.images]
    return Evidence(
        "surroundings",
        "not tested" if hurt else "suspected" if of_class and pullers else "tested",
        "surroundings" if of_class else None,
        _said(pools, one, pullers, hurt=hurt),
        figures,
        images=count,
        trials=() if hurt else _trials(pools, one),
        rows=swaps.images[np.array(shares) > 0.5] if of_class else None,
    )


def _said(pools: Pools, one: _Judged, pullers: Sequence[int], *, hurt: bool) -> str:
    swaps = one.swaps
    if hurt:
        return (
            f"Pasted into the surroundings of other images of its own class, only {one.kept_same:.0%} of its objects "
            f"are still told to be of it, and {UNHURT:.0%} are needed: pasting itself disturbs. If masks or boxes cut "
            "something off the objects, make them rather too large."
        )
    followed = f", and {one.follow:.0%} to be of the class whose surroundings they got" if one.gap >= GAP else ""
    said = (
        f"{len(swaps.images)} of its objects were pasted into the surroundings of {DONORS} images of its own class, "
        f"and of up to {DONORS} of other classes: {one.kept_same:.0%} and {one.kept_other:.0%} of them are still told "
        f"to be of it{followed} (p = {one.chance:.1g}). "
    )
    if pullers:
        where = pools.inquiry.called(*pullers)
        return f"{said}They are lost in the surroundings of class {where} alone: something there may pull."
    if not one.accuses(len(pools.inquiry.classes)):
        return f"{said}This does not show that it is told by the right part of the object."
    if len(pools.classes_of(swaps.donors[~swaps.own])) == 1:
        said += "As all other surroundings are of one class, what tells the two apart may be in either. "
    if one.follow >= FOLLOWS:
        said += "Masks or boxes that cut something off the objects would look the same: make them rather too large. "
    return f"{said}This does not show what in the surroundings tells it, nor whether the object alone would do."


def _trials(pools: Pools, one: _Judged) -> list[Trial]:
    """Images in surroundings of other classes, those that lost most first; and one in surroundings of its own."""
    inquiry, shown = pools.inquiry, []
    before = inquiry.probabilities[one.swaps.rows, one.class_id]
    lost = np.argsort(one.swaps.probabilities - before, kind="stable")
    others = [at for at in lost if not one.swaps.own[at]]
    first = {int(one.swaps.rows[at]): at for at in reversed(others)}  # of each image the one that lost most
    chosen = sorted(first.values(), key=others.index)[:SHOWN_TRIALS]
    same = [at for at in lost[::-1] if one.swaps.own[at] and one.swaps.rows[at] == one.swaps.rows[chosen[0]]][:1]
    for at in [*chosen, *same]:
        row, donor = int(one.swaps.rows[at]), int(one.swaps.donors[at])
        home = one.class_id if one.swaps.own[at] else pools.classes_of([donor])[0]
        shown.append(
            Trial(
                row,
                pools.grounds.pictures[row],
                pools.grounds.swapped(row, donor),
                float(before[at]),
                float(one.swaps.probabilities[at]),
                f"in the surroundings of an image of class {inquiry.called(home)}",
                pools.masks[row],
            )
        )
    return shown
