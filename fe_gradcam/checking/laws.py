"""The tests of a check, each a function that returns what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.checking.case import Case, NotApplicableError
from fe_gradcam.checking.cost import megabytes, seconds
from fe_gradcam.checking.differences import nearest
from fe_gradcam.checking.places import Reading, hottest, moves, share_of
from fe_gradcam.checking.result import Finding
from fe_gradcam.methods import METHODS
from fe_gradcam.spec.images import host_rows
from fe_gradcam.types import Needs

OFF = 0.03
"""How far differences of the score may be from the heatmap, as a share of its largest value."""

ALONE = 1e-3
"""How far the map of an image may be from its map in a batch, as a share of the largest value."""

CLASSES = 6
"""How many classes are put side by side to see whether their scores make the model's output."""

SLOW = 3.0
"""How many times the cost of plain inference is too much for a method of one pass."""

PART, GRID = 4, 3
"""A part of the image is a fourth of each side; nine of them are changed, one after the other."""

SPREAD = 1.5
"""How many times as much as elsewhere a part must be seen at one place for the test to say something."""

NEARLY = 0.9
"""How well parts must fit where they are, as a share of where they fit best."""


def judged(good: bool, said: str, instead: str, **figures: float) -> Finding:
    """A finding that passed or failed; of one that failed it says what to do."""
    figures = {name: float(figure) for name, figure in figures.items()}
    return Finding("", "passed" if good else "failed", said if good else f"{said} {instead}", figures)


def gradient(case: Case) -> Finding:
    """The gradient that the map is made of against central differences of the score."""
    if not case.maps("hires_cam").any() and not case.maps("grad_cam").any():
        raise NotApplicableError("the heatmap is zero everywhere; see layer matters.")
    found = nearest(case, case.readings, 4, np.random.default_rng(case.asked["seed"]))
    said = (
        f"{found.count} central differences of the score at the layer ({found.reading.name}, {found.precision}) are "
        f"off by {found.grad_cam:.1e} (Grad-CAM) and {found.hires_cam:.1e} (HiRes-CAM) of the largest value (median)."
    )
    instead = (
        "The heatmap is not that of the score. Pass layer= with another layer, or the network itself in place of what "
        "wraps it; please report the model."
    )
    good = found.off <= max(OFF, 8 * case.rounding)
    return judged(good, said, instead, grad_cam=found.grad_cam, hires_cam=found.hires_cam)


def head(case: Case) -> Finding:
    """The softmax or sigmoid of what is explained is what the model puts out."""
    if callable(case.target) or case.table is None or case.table.shape[1] == 1:
        raise NotApplicableError("there is no table of classes whose scores could be put side by side.")
    if case.kind == "logits":
        raise NotApplicableError("the model's output is explained as it is: it is no table of probabilities.")
    classes = range(min(case.table.shape[1], CLASSES))
    scores = np.stack([case.explained("grad_cam", np.full(len(case.table), at)).scores for at in classes], 1)
    with np.errstate(divide="ignore"):
        expected = np.log(case.table[:, : len(classes)])
        if case.kind == "sigmoid":
            expected -= np.log1p(-case.table[:, : len(classes)])
    if case.kind == "softmax":  # it keeps the differences alone
        scores, expected = scores - scores[:, :1], expected - expected[:, :1]
    known = np.isfinite(expected)
    largest = float(np.abs(expected[known]).max(initial=0))
    off = float(np.abs(scores - expected)[known].max(initial=0))
    where = f"found in {case.logits!r}" if case.logits else "not found in a layer of their own"
    said = f"The {case.kind} of the explained scores is the model's output to {off:.1e} in logarithms (logits {where})."
    good = off <= max(1e-2, 8 * case.rounding) * max(1.0, largest)
    return judged(good, said, "Pass a model that returns logits.", off=off)


def scores(case: Case) -> Finding:
    """The scores, classes and confidences against the model's own output."""
    limit = max(ALONE, 8 * case.rounding)
    if callable(case.target):
        own = np.asarray(case.plain.numbers(case.target(case.output)), np.float64)
        off = float(np.abs(own - case.heatmap.scores).max() / max(1.0, np.abs(own).max()))
        said = f"The scores are those of the target to {off:.1e}."
        return judged(off <= limit, said, "The target, or the model, gives another score each time.", off=off)
    if case.table is None or case.table.shape[1] == 1:
        raise NotApplicableError("the model's output is no table with several classes.")
    wrong = int((case.heatmap.class_ids != case.ids).sum())
    own = case.table[np.arange(len(case.ids)), case.ids]
    plainly = case.asked["score"] == "output" or case.kind == "logits"
    shown = case.heatmap.scores if plainly else case.heatmap.confidences
    off = float(np.abs(own - shown).max() / max(1.0, np.abs(own).max()))
    named = "scores" if plainly else "confidences"
    said = f"Classes differ for {wrong} of {len(own)} images; {named} are off by {off:.1e}."
    instead = "Pass model_output= with the output that holds the class scores."
    return judged(off <= limit and not wrong, said, instead, off=off, wrong=wrong)


def layer_matters(case: Case) -> Finding:
    """The score depends on the layer."""
    output = case.outputs[-1]
    noise = np.random.default_rng(case.asked["seed"]).normal(size=output.shape) * (output.std() or 1.0)
    before = case.scores(case.plain, case.images, lambda output: output)
    after = case.scores(case.plain, case.images, lambda output: output + noise)
    moved = float(np.abs(after - before).max())
    said = f"Noise at the layer, as large as its output, moves the score by {moved:.2g}."
    instead = "Pass layer= with one that the score depends on; list_layers lists them."
    return judged(moved > 1e-6 * max(1.0, float(np.abs(before).max())), said, instead, moved=moved)


def places(case: Case) -> Finding:
    """A change of a part of the image is seen at that part of the map, and not better at another."""
    reading = nearest(case, case.readings, 2, np.random.default_rng(case.asked["seed"])).reading
    wanted, seen = (np.stack(one) for one in zip(*_parts(case, reading), strict=True))
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


def _parts(case: Case, reading: Reading) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """(*S) how much of each place lies in a part of the image, and how much the map differs there if that part does."""
    picture, before = np.asarray(host_rows(case.inputs.picture)), reading.maps(case.outputs[-1])
    size = tuple(case.heatmap.values.shape[1:])
    first = tuple(picture.shape[2:]) == size
    random = np.random.default_rng(case.asked["seed"])
    spans = [max(1, side // PART) for side in size]
    counts = [GRID if side > 1 else 1 for side in case.sides]
    for corner in np.ndindex(*counts):
        starts = [
            int((at + 0.5) / count * (side - span + 1))
            for at, count, side, span in zip(corner, counts, size, spans, strict=True)
        ]
        where = tuple(slice(start, start + span) for start, span in zip(starts, spans, strict=True))
        changed = picture.copy()
        part = changed[(slice(None),) * (1 + first) + where]
        part[...] = part.mean() + random.normal(size=part.shape) * (picture.std() or 1.0)
        after = case.plain.at(case.inputs.with_picture(changed).given(), case.ref)[-1]
        yield share_of(case.sides, size, starts, spans), hottest(np.abs(reading.maps(after) - before).sum(1)).mean(0)


def batch(case: Case) -> Finding:
    """A batch against its images one by one."""
    count = len(case.inputs)
    if count == 1:
        raise NotApplicableError("there is one image; pass two or more.")
    parts = []
    for at in range(count):
        target = None if callable(case.target) or case.table is None else case.ids[at : at + 1]
        parts.append(case.explained(case.method, target, case.inputs.rows(slice(at, at + 1))).raw)
    off = _apart(np.concatenate(parts), case.heatmap.raw)
    said = f"Maps of a batch and of its images alone differ by {off:.1e} of the largest value."
    instead = "The model mixes the images of a batch, or computes one image in another way than several."
    return judged(off <= max(ALONE, 8 * case.rounding), said, instead, off=off)


def again(case: Case) -> Finding:
    """The same call twice."""
    off = _apart(case.explained(case.method).raw, case.heatmap.raw)
    said = f"The same call a second time differs by {off:.1e} of the largest value."
    return judged(off <= 1e-5, said, "The model draws random numbers, or keeps something between calls.", off=off)


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    largest = float(np.abs(other).max())
    return float(np.abs(one - other).max()) / (largest or 1.0)


def new_weights(case: Case) -> Finding:
    """Once the weights are others, the map is that of the new ones."""
    if not case.maps("hires_cam").any():
        raise NotApplicableError("the heatmap is zero everywhere; see layer matters.")
    with case.plain.reweighted() as changed:
        if not changed:
            raise NotApplicableError("the model has no table of weights.")
        target = case.target if callable(case.target) else case.ids
        fresh = Case(case.model, case.inputs, case.layer, target, case.method, case.asked)
        if fresh.ref != case.ref:
            raise NotApplicableError(f"with other weights the default layer is {str(fresh.ref)!r}.")
        found = nearest(fresh, fresh.readings, 2, np.random.default_rng(case.asked["seed"]))
    said = f"With other weights the differences are off by {found.off:.1e}."
    instead = "Something of the earlier weights is kept; please report the model."
    return judged(found.off <= max(OFF, 8 * case.rounding), said, instead, off=found.off)


def left_as_found(case: Case) -> Finding:
    """What can be seen of the model and the random streams is as it was."""
    changed = [name for name in case.before if case.before[name] != case.after.get(name)]
    said = f"{len(case.before)} things of the model and the random streams were compared, and {len(changed)} differ"
    said += f": {', '.join(changed[:3])}." if changed else "."
    instead = "Please report the model; until then explain a copy of it (copy.deepcopy)."
    return judged(not changed, said, instead, changed=len(changed))


def cost(case: Case) -> Finding:
    """Time and memory over plain inference."""

    def plain() -> Any:
        return case.plain.run(case.images)

    def explained() -> Any:
        return case.explained(case.method)

    of_plain, taken = seconds(plain, explained)
    ratio = taken / max(of_plain, 1e-6)
    said = f"{taken * 1000:.1f} ms of CPU time, {ratio:.2f} times plain inference"
    rises = megabytes(plain), megabytes(explained)
    if rises[0] is not None and rises[1] is not None:
        said += f"; memory rises by {rises[1]:.0f} MB, in plain inference by {rises[0]:.0f} MB"
    asks_again = Needs.PROBE in METHODS.find(case.method).needs
    good = ratio <= SLOW or taken < 0.1 or asks_again
    return judged(good, f"{said}.", "Please report the model.", ratio=ratio, seconds=taken)


TESTS: dict[str, Callable[[Case], Finding]] = {
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
