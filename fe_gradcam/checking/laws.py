"""The tests of a check, each a function that returns what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.checking.cost import megabytes, seconds
from fe_gradcam.checking.differences import nearest
from fe_gradcam.checking.places import Reading, hottest, moves, share_of
from fe_gradcam.checking.result import Finding
from fe_gradcam.checking.subject import NotApplicableError, Subject
from fe_gradcam.methods import METHODS
from fe_gradcam.spec.images import host_rows
from fe_gradcam.types import Needs

ALONE = 1e-3
"""How far the map of an image may be from its map in a batch, as a share of the largest value."""

CLASSES = 6
"""How many classes are put side by side to see whether their scores make the model's output."""

SLOW = 3.0
"""How many times the cost of plain inference is too much for a method of one pass."""

PATCHES = 6
"""How many patches are changed, one after the other, to see whether tokens are shifted."""

PART, GRID = 4, 3
"""A part of the image is as large as a place of the map, or a fourth of a side; nine are changed, one by one."""

FEWEST_PLACES = 9
"""Places of a map below which they are not told apart: a change of the image is seen at most of them."""

SPREAD = 2.0
"""How many times as much as elsewhere a part must be seen at one place for the test to say something."""

SHARP = 2.0
"""How many times as much as at its own token a patch must be seen at another to say that the tokens are shifted."""

NEARLY = 0.75
"""How well parts must fit where they are, as a share of where they fit best."""

CERTAIN = 3.0
"""How many standard errors parts must fit elsewhere better, or it is chance: of maps that change all over by chance
one in five was found to be read wrongly without it, one in a hundred with it."""

READ_OTHERWISE = (
    "Axes or tokens are read in another order: pass reshape=, which makes (N, K, h, w) of the layer's output."
)
"""What to do if places are not where they should be."""

OTHER_WEIGHTS = (0.2, 1.4)
"""What each weight is multiplied by to have others: their squares, and so the size of what they make, stay the same."""

MIXED = 0.1
"""How far the score may differ between two calls, as a share of what noise at the layer does."""


def judged(good: bool, said: str, instead: str, **figures: float) -> Finding:
    """A finding that passed or failed; of one that failed it says what to do."""
    figures = {name: float(figure) for name, figure in figures.items()}
    return Finding("", "passed" if good else "failed", said if good else f"{said} {instead}", figures)


def gradient(subject: Subject) -> Finding:
    """The gradient that the map is made of against central differences of the score."""
    found = nearest(subject, 4, np.random.default_rng(subject.asked["seed"]))
    subject.reading = found.reading
    said = (
        f"{found.count} central differences of the score at the layer ({found.reading.name}, {found.precision}) are "
        f"off by at most {found.grad_cam:.1e} (Grad-CAM) and {found.hires_cam:.1e} (HiRes-CAM) of the largest value."
    )
    instead = "The heatmap is not that of the score. " + (
        "Pass layer= with another layer, or the network itself in place of what wraps it; please report the model."
        if subject.kind == "logits"
        else "Pass a model that returns logits, or layer= with another layer; please report the model."
    )
    if found.agree and not subject.maps("hires_cam").any() and not subject.maps("grad_cam").any():
        raise NotApplicableError("the heatmap is zero everywhere, and so is the slope of the score; see layer matters.")
    return judged(found.agree, said, instead, grad_cam=found.grad_cam, hires_cam=found.hires_cam)


def head(subject: Subject) -> Finding:
    """The softmax or sigmoid of what is explained is what the model puts out."""
    if callable(subject.target) or subject.table is None:
        raise NotApplicableError("there is no table of classes whose scores could be put side by side.")
    if subject.kind == "logits":
        raise NotApplicableError("the model's output is explained as it is: it is no table of probabilities.")
    table = subject.by_class[:, :CLASSES]
    classes = range(table.shape[1])
    scores = np.stack([subject.explained("grad_cam", np.full(len(table), at)).scores for at in classes], 1)
    with np.errstate(divide="ignore"):
        expected = np.log(table)
        if subject.kind == "sigmoid":
            expected -= np.log1p(-table)
    if subject.kind == "softmax":  # it keeps the differences alone
        scores, expected = scores - scores[:, :1], expected - expected[:, :1]
    known = np.isfinite(expected)
    largest = float(np.abs(expected[known]).max(initial=0))
    off = float(np.abs(scores - expected)[known].max(initial=0))
    where = f"found in {subject.logits!r}" if subject.logits else "not found in a layer of their own"
    said = (
        f"The {subject.kind} of the explained scores is the model's output to {off:.1e} in logarithms (logits {where})."
    )
    good = off <= max(1e-2, 8 * subject.rounding) * max(1.0, largest)
    return judged(good, said, "Pass a model that returns logits.", off=off)


def scores(subject: Subject) -> Finding:
    """The scores, classes and confidences against the model's own output."""
    limit, heatmap = max(ALONE, 8 * subject.rounding), subject.heatmap
    if callable(subject.target):
        own = np.asarray(subject.plain.numbers(subject.target(subject.output)), np.float64)
        off = float(np.abs(own - heatmap.scores).max() / max(1.0, np.abs(own).max()))
        said = f"The scores are those of the target to {off:.1e}."
        return judged(off <= limit, said, "The target, or the model, gives another score each time.", off=off)
    if subject.table is None:
        raise NotApplicableError("the model's output is no table of class scores.")
    plainly = subject.asked["score"] == "output" or subject.kind == "logits"
    rows, table = np.arange(len(subject.table)), subject.by_class
    if subject.table.shape[1] == 1 and plainly:
        if subject.asked["score"] == "output":
            raise NotApplicableError("the model puts out one number for two classes.")
        table = np.hstack((-subject.table, subject.table))  # the score of class 1, or against it
    wanted = table.argmax(1) if subject.target is None else subject.ids
    differ = heatmap.class_ids != wanted
    if subject.target is None:  # of equal probabilities any is the highest; logits may tell them apart
        differ &= table[rows, heatmap.class_ids] < table[rows, wanted]
    wrong = int(differ.sum())
    own, shown = table[rows, wanted], heatmap.scores if plainly else heatmap.confidences
    off = float(np.abs(own - shown).max() / max(1.0, np.abs(own).max()))
    named = "scores" if plainly else "confidences"
    said = f"Classes differ for {wrong} of {len(own)} images; {named} are off by {off:.1e}."
    instead = "Pass model_output= with the output that holds the class scores."
    return judged(off <= limit and not wrong, said, instead, off=off, wrong=wrong)


def layer_matters(subject: Subject) -> Finding:
    """The score depends on the layer."""
    output = subject.outputs[-1]
    noise = np.random.default_rng(subject.asked["seed"]).normal(size=output.shape) * (output.std() or 1.0)
    before, same, after = (
        subject.scores(subject.plain, subject.images, lambda output, by=by: output + by) for by in (0, 0, noise)
    )
    moved, by_itself = float(np.abs(after - before).max()), float(np.abs(same - before).max())
    if by_itself > MIXED * moved:
        raise NotApplicableError(
            f"the score differs by {by_itself:.2g} between two calls, and by {moved:.2g} with noise."
        )
    said = f"Noise at the layer, as large as its output, moves the score by {moved:.2g}."
    instead = "Pass layer= with one that the score depends on; list_layers lists them."
    return judged(moved > 0, said, instead, moved=moved)


def places(subject: Subject) -> Finding:
    """A change of a part of the image is seen at that part of the map, and not better at another."""
    random = np.random.default_rng(subject.asked["seed"])
    reading = subject.reading or nearest(subject, 2, random).reading
    if len(subject.outputs[-1].shape) == 3:  # only tokens can be off by some places
        seen_at = _seen_at(subject, reading, random)
        best = max(seen_at, key=lambda by: seen_at[by])
        sharp = seen_at[best] / max(seen_at[0], 1e-3 * seen_at[best], 1e-30)
        if best and sharp > SHARP:
            said = (
                f"A patch is seen {best:+d} in the order of the tokens, {sharp:.1f} times as much as at its own token."
            )
            return judged(False, said, READ_OTHERWISE, shift=best, sharp=sharp)
    if prod(subject.sides) < FEWEST_PLACES:
        raise NotApplicableError(f"the map has {prod(subject.sides)} places, too few to tell them apart.")
    return placed(*(np.stack(one) for one in zip(*_parts(subject, reading, random), strict=True)))


def placed(wanted: NDArray[Any], seen: NDArray[Any]) -> Finding:
    """Where parts of the image (n, *S) are, and what of the map changes with each."""
    axes, moved = tuple(range(1, wanted.ndim)), dict(moves(wanted))
    fits = {name: (one * seen).sum(axes) for name, one in moved.items()}
    where_they_are, best_fit = fits["where they are"], max(fits, key=lambda name: fits[name].sum())
    best = fits[best_fit].sum()
    alone = best / (wanted.mean() * len(wanted))
    if alone < SPREAD:
        raise NotApplicableError(
            f"parts of the image are seen all over the map, {alone:.1f} times as much where they fit best as elsewhere."
        )
    share = where_they_are.sum() / best
    better = (fits[best_fit] - where_they_are)[(moved[best_fit] != wanted).any(axes)]
    if share < NEARLY and better.mean() < CERTAIN * better.std(ddof=1) / len(better) ** 0.5:
        raise NotApplicableError("parts of the image are seen all over the map, each somewhere else.")
    said = (
        f"{len(wanted)} parts of the image are seen {best_fit}, {alone:.1f} times as much as elsewhere; where they are "
        f"fits {share:.0%} as well."
    )
    return judged(share >= NEARLY, said, READ_OTHERWISE, fits=share, alone=alone)


def _seen_at(subject: Subject, reading: Reading, random: np.random.Generator) -> dict[int, float]:
    """How much of a change of a single patch is seen at its own token, and at others by their distance in order."""
    size, sides = tuple(subject.heatmap.values.shape[1:]), subject.sides
    farthest = max(0, min(3, sides[-1] - 2))
    inner = range(farthest, prod(sides) - farthest)
    found = []
    for at in random.choice(inner, min(PATCHES, len(inner)), replace=False):
        corner = np.unravel_index(at, sides)
        starts = [int(place * whole / side) for place, whole, side in zip(corner, size, sides, strict=True)]
        spans = [max(1, whole // side) for whole, side in zip(size, sides, strict=True)]
        heat = _moved(subject, reading, starts, spans, random).mean(0).reshape(-1)
        found.append(heat[at - farthest : at + farthest + 1] / (heat.mean() or 1.0))
    return dict(zip(range(-farthest, farthest + 1), np.mean(found, 0).tolist(), strict=True))


def _moved(
    subject: Subject, reading: Reading, starts: list[int], spans: list[int], random: np.random.Generator
) -> NDArray[Any]:
    """(N, *S) how much the map differs once a part of the image is noise."""
    changed = np.asarray(host_rows(subject.inputs.picture)).copy()
    first = tuple(changed.shape[2:]) == tuple(subject.heatmap.values.shape[1:])
    where = tuple(slice(start, start + span) for start, span in zip(starts, spans, strict=True))
    spread = changed.std() or 1.0
    part = changed[(slice(None),) * (1 + first) + where]
    part[...] = part.mean() + random.normal(size=part.shape) * spread
    after = subject.plain.at(subject.inputs.with_picture(changed).given(), subject.ref)[-1]
    return np.asarray(np.abs(reading.maps(after) - reading.maps(subject.outputs[-1])).sum(1))


def _parts(
    subject: Subject, reading: Reading, random: np.random.Generator
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """(*S) how much of each place lies in a part of the image, and how much the map differs there if that part does."""
    size = tuple(subject.heatmap.values.shape[1:])
    spans = [max(1, min(side // PART, side // places)) for side, places in zip(size, subject.sides, strict=True)]
    counts = [GRID if side > 1 else 1 for side in subject.sides]
    for corner in np.ndindex(*counts):
        at = [int((one + 0.5) / count * side) for one, count, side in zip(corner, counts, subject.sides, strict=True)]
        starts = [int(one * whole / side) for one, whole, side in zip(at, size, subject.sides, strict=True)]
        seen = hottest(_moved(subject, reading, starts, spans, random)).mean(0)
        yield share_of(subject.sides, size, starts, spans), seen


def batch(subject: Subject) -> Finding:
    """A batch against its images one by one."""
    count = len(subject.inputs)
    if count == 1:
        raise NotApplicableError("there is one image; pass two or more.")
    parts = []
    for at in range(count):
        target = None if callable(subject.target) or subject.table is None else subject.ids[at : at + 1]
        parts.append(subject.explained(subject.method, target, subject.inputs.rows(slice(at, at + 1))).raw)
    off = _apart(np.concatenate(parts), subject.heatmap.raw)
    said = f"Maps of a batch and of its images alone differ by {off:.1e} of the largest value."
    instead = "The model mixes the images of a batch, or computes one image in another way than several."
    return judged(off <= max(ALONE, 8 * subject.rounding), said, instead, off=off)


def again(subject: Subject) -> Finding:
    """The same call twice."""
    off = _apart(subject.explained(subject.method).raw, subject.heatmap.raw)
    said = f"The same call a second time differs by {off:.1e} of the largest value."
    return judged(off <= 1e-5, said, "The model draws random numbers, or keeps something between calls.", off=off)


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    largest = float(np.abs(other).max())
    return float(np.abs(one - other).max()) / (largest or 1.0)


def new_weights(subject: Subject) -> Finding:
    """Once the weights are others, the map is that of the new ones."""
    random = np.random.default_rng(subject.asked["seed"])
    with subject.plain.reweighted(lambda shape: random.choice(OTHER_WEIGHTS, shape)) as changed:
        if not changed:
            raise NotApplicableError("the model has no table of weights.")
        target = subject.target if callable(subject.target) else subject.ids
        for layer in (subject.layer, subject.ref):  # with other weights the default layer may be another one
            fresh = Subject(subject.model, subject.inputs, layer, target, subject.method, subject.asked)
            if fresh.ref == subject.ref:
                break
        found = nearest(fresh, 3, random)
        if found.agree and not fresh.maps("hires_cam").any():
            raise NotApplicableError("with other weights the heatmap is zero everywhere.")
    said = f"With other weights the differences are off by {found.off:.1e}."
    instead = "Something of the earlier weights is kept; please report the model."
    return judged(found.agree, said, instead, off=found.off)


def left_as_found(subject: Subject) -> Finding:
    """What can be seen of the model and the random streams is as it was, and the model puts out what it did."""
    changed = subject.left()
    said = f"{len(subject.before)} things of the model and the random streams were compared, and {len(changed)} differ"
    said += f": {', '.join(changed[:3])}." if changed else "."
    instead = "Please report the model; until then explain a copy of it (copy.deepcopy)."
    return judged(not changed, said, instead, changed=len(changed))


def cost(subject: Subject) -> Finding:
    """Time and memory over plain inference."""

    def plain() -> Any:
        return subject.plain.run(subject.images)

    def explained() -> Any:
        return subject.explained(subject.method)

    of_plain, taken = seconds(plain, explained)
    ratio = taken / max(of_plain, 1e-6)
    said = f"{taken * 1000:.1f} ms of CPU time, {ratio:.2f} times plain inference"
    rises = megabytes(plain), megabytes(explained)
    if rises[0] is not None and rises[1] is not None:
        said += f"; memory rises by {rises[1]:.0f} MB, in plain inference by {rises[0]:.0f} MB"
    asks_again = Needs.PROBE in METHODS.find(subject.method).needs
    good = ratio <= SLOW or taken < 0.1 or asks_again
    return judged(good, f"{said}.", "Please report the model.", ratio=ratio, seconds=taken)


TESTS: dict[str, Callable[[Subject], Finding]] = {
    "gradient": gradient,
    "head": head,
    "scores": scores,
    "layer matters": layer_matters,
    "places": places,
    "batch": batch,
    "again": again,
    "new weights": new_weights,
    "left as found": left_as_found,
    "cost": cost,
}
"""The tests by name, in the order of the table."""
