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

AGREES_TO = 0.03
"""How far differences of the score may be from the heatmap, as a share of its largest value."""

ALONE = 1e-3
"""How far the map of an image may be from its map in a batch, as a share of the largest value."""

CLASSES = 6
"""How many classes are put side by side to see whether their scores make the model's output."""

SLOW = 3.0
"""How many times the cost of plain inference is too much for a method of one pass."""

PART, GRID = 4, 3
"""A part of the image is as large as a place of the map, or a fourth of a side; nine are changed, one by one."""

FEWEST_PLACES = 9
"""Places of a map below which they are not told apart: a change of the image is seen at most of them."""

SPREAD = 2.0
"""How many times as much as elsewhere a part must be seen at one place for the test to say something."""

NEARLY = 0.4
"""How well parts must fit where they are, as a share of where they fit best: strides may move a map by half a place."""


def judged(good: bool, said: str, instead: str, **figures: float) -> Finding:
    """A finding that passed or failed; of one that failed it says what to do."""
    figures = {name: float(figure) for name, figure in figures.items()}
    return Finding("", "passed" if good else "failed", said if good else f"{said} {instead}", figures)


def gradient(subject: Subject) -> Finding:
    """The gradient that the map is made of against central differences of the score."""
    if not subject.maps("hires_cam").any() and not subject.maps("grad_cam").any():
        raise NotApplicableError("the heatmap is zero everywhere; see layer matters.")
    found = nearest(subject, subject.readings, 4, np.random.default_rng(subject.asked["seed"]))
    said = (
        f"{found.count} central differences of the score at the layer ({found.reading.name}, {found.precision}) are "
        f"off by {found.grad_cam:.1e} (Grad-CAM) and {found.hires_cam:.1e} (HiRes-CAM) of the largest value (median)."
    )
    instead = (
        "The heatmap is not that of the score. Pass layer= with another layer, or the network itself in place of what "
        "wraps it; please report the model."
    )
    good = found.off <= max(AGREES_TO, 8 * subject.rounding)
    return judged(good, said, instead, grad_cam=found.grad_cam, hires_cam=found.hires_cam)


def head(subject: Subject) -> Finding:
    """The softmax or sigmoid of what is explained is what the model puts out."""
    if callable(subject.target) or subject.table is None or subject.table.shape[1] == 1:
        raise NotApplicableError("there is no table of classes whose scores could be put side by side.")
    if subject.kind == "logits":
        raise NotApplicableError("the model's output is explained as it is: it is no table of probabilities.")
    classes = range(min(subject.table.shape[1], CLASSES))
    scores = np.stack([subject.explained("grad_cam", np.full(len(subject.table), at)).scores for at in classes], 1)
    with np.errstate(divide="ignore"):
        expected = np.log(subject.table[:, : len(classes)])
        if subject.kind == "sigmoid":
            expected -= np.log1p(-subject.table[:, : len(classes)])
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
    limit = max(ALONE, 8 * subject.rounding)
    if callable(subject.target):
        own = np.asarray(subject.plain.numbers(subject.target(subject.output)), np.float64)
        off = float(np.abs(own - subject.heatmap.scores).max() / max(1.0, np.abs(own).max()))
        said = f"The scores are those of the target to {off:.1e}."
        return judged(off <= limit, said, "The target, or the model, gives another score each time.", off=off)
    if subject.table is None or subject.table.shape[1] == 1:
        raise NotApplicableError("the model's output is no table with several classes.")
    wrong = int((subject.heatmap.class_ids != subject.ids).sum())
    own = subject.table[np.arange(len(subject.ids)), subject.ids]
    plainly = subject.asked["score"] == "output" or subject.kind == "logits"
    shown = subject.heatmap.scores if plainly else subject.heatmap.confidences
    off = float(np.abs(own - shown).max() / max(1.0, np.abs(own).max()))
    named = "scores" if plainly else "confidences"
    said = f"Classes differ for {wrong} of {len(own)} images; {named} are off by {off:.1e}."
    instead = "Pass model_output= with the output that holds the class scores."
    return judged(off <= limit and not wrong, said, instead, off=off, wrong=wrong)


def layer_matters(subject: Subject) -> Finding:
    """The score depends on the layer."""
    output = subject.outputs[-1]
    noise = np.random.default_rng(subject.asked["seed"]).normal(size=output.shape) * (output.std() or 1.0)
    before = subject.scores(subject.plain, subject.images, lambda output: output)
    after = subject.scores(subject.plain, subject.images, lambda output: output + noise)
    moved = float(np.abs(after - before).max())
    said = f"Noise at the layer, as large as its output, moves the score by {moved:.2g}."
    instead = "Pass layer= with one that the score depends on; list_layers lists them."
    return judged(moved > 1e-6 * float(np.abs(before).max()), said, instead, moved=moved)


def places(subject: Subject) -> Finding:
    """A change of a part of the image is seen at that part of the map, and not better at another."""
    if prod(subject.sides) < FEWEST_PLACES:
        raise NotApplicableError(f"the map has {prod(subject.sides)} places, too few to tell them apart.")
    reading = nearest(subject, subject.readings, 2, np.random.default_rng(subject.asked["seed"])).reading
    wanted, seen = (np.stack(one) for one in zip(*_parts(subject, reading), strict=True))
    fits = {name: float((moved * seen).sum()) for name, moved in moves(wanted)}
    where_they_are, best = fits["where they are"], max(fits, key=lambda name: fits[name])
    alone = fits[best] / (float(wanted.mean()) * len(wanted))
    if alone < SPREAD:
        raise NotApplicableError(
            f"parts of the image are seen all over the map, {alone:.1f} times as much where they fit best as elsewhere."
        )
    said = (
        f"{len(wanted)} parts of the image are seen {best}, {alone:.1f} times as much as elsewhere; where they are "
        f"fits {where_they_are / fits[best]:.0%} as well."
    )
    instead = "Axes or tokens are read in another order: pass reshape=, which makes (N, K, h, w) of the layer's output."
    return judged(where_they_are >= NEARLY * fits[best], said, instead, fits=where_they_are / fits[best], alone=alone)


def _parts(subject: Subject, reading: Reading) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """(*S) how much of each place lies in a part of the image, and how much the map differs there if that part does."""
    picture, before = np.asarray(host_rows(subject.inputs.picture)), reading.maps(subject.outputs[-1])
    size = tuple(subject.heatmap.values.shape[1:])
    first = tuple(picture.shape[2:]) == size
    random = np.random.default_rng(subject.asked["seed"])
    spans = [max(1, min(side // PART, side // places)) for side, places in zip(size, subject.sides, strict=True)]
    counts = [GRID if side > 1 else 1 for side in subject.sides]
    for corner in np.ndindex(*counts):
        at = [int((one + 0.5) / count * side) for one, count, side in zip(corner, counts, subject.sides, strict=True)]
        starts = [int(one * whole / side) for one, whole, side in zip(at, size, subject.sides, strict=True)]
        where = tuple(slice(start, start + span) for start, span in zip(starts, spans, strict=True))
        changed = picture.copy()
        part = changed[(slice(None),) * (1 + first) + where]
        part[...] = part.mean() + random.normal(size=part.shape) * (picture.std() or 1.0)
        after = subject.plain.at(subject.inputs.with_picture(changed).given(), subject.ref)[-1]
        yield share_of(subject.sides, size, starts, spans), hottest(np.abs(reading.maps(after) - before).sum(1)).mean(0)


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
    if not subject.maps("hires_cam").any():
        raise NotApplicableError("the heatmap is zero everywhere; see layer matters.")
    with subject.plain.reweighted() as changed:
        if not changed:
            raise NotApplicableError("the model has no table of weights.")
        target = subject.target if callable(subject.target) else subject.ids
        fresh = Subject(subject.model, subject.inputs, subject.layer, target, subject.method, subject.asked)
        if fresh.ref != subject.ref:
            raise NotApplicableError(f"with other weights the default layer is {str(fresh.ref)!r}.")
        if not fresh.maps("hires_cam").any():
            raise NotApplicableError("with other weights the heatmap is zero everywhere.")
        found = nearest(fresh, fresh.readings, 2, np.random.default_rng(subject.asked["seed"]))
    said = f"With other weights the differences are off by {found.off:.1e}."
    instead = "Something of the earlier weights is kept; please report the model."
    return judged(found.off <= max(AGREES_TO, 8 * subject.rounding), said, instead, off=found.off)


def left_as_found(subject: Subject) -> Finding:
    """What can be seen of the model and the random streams is as it was."""
    changed = [name for name in subject.before if subject.before[name] != subject.after.get(name)]
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
