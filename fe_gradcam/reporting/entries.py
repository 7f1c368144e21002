"""Parts of a page as plain dicts and lists, without NaN: heat, the atlas, a verdict with its experiments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.sheet import Look
from fe_gradcam.drawing.verdicts import trial_pictures
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.reporting.pack import number, of_maps, packed, picture_url
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.verdict import ACCUSING, BOUNDS, HEADLINES, PAGE_OF_VERDICTS, Trial, Verdict

Entry: TypeAlias = dict[str, Any]
"""A part of the page."""

TRIAL_MOST = 192
"""The most pixels of the longer side of an experiment's pictures."""

OTHERS_SHOWN = 2
"""How many images of an experiment are shown that does not decide the verdict."""


@dataclass(frozen=True)
class Shown:
    """What of the images a page may hold.

    Attributes:
        pictures: Whether it holds pictures; without them it shows heat alone.
        look: How images become pictures.
        most: The longest side of maps that are kept as they are; None: any.
    """

    pictures: bool = True
    look: Look = field(default_factory=Look)
    most: int | None = None


def of_true_class(part: Explained) -> NDArray[np.float64]:
    """(N,) the probability of the true class, of several the first; NaN if it is not known."""
    found = np.full(len(part), np.nan)
    if part.labels is None:
        return found
    if part.probabilities is not None:
        rows = np.flatnonzero((part.labels >= 0) & (part.labels < part.probabilities.shape[1]))
        found[rows] = part.probabilities[rows, part.labels[rows]]
        found[found == 0] = np.nan  # a table of what `report` was given holds the inferred classes alone
    for column in part.columns:
        its = (column.heatmap.class_ids == part.labels) & (part.labels >= 0) & np.isfinite(column.heatmap.confidences)
        found[its] = column.heatmap.confidences[its]
    return found


def known_id(class_id: int) -> int | None:
    """A class, or None for one that is not known."""
    return None if class_id < 0 else class_id


def column_entry(column: Column, most: int | None) -> Entry:
    """A column; one that is not always shown has heat of the images alone for which it is."""
    heatmap = column.heatmap if column.shown is None else column.heatmap.rows(column.shown)
    return {
        "method": column.method,
        "target": column.target,
        "layer": heatmap.layer if heatmap.of_layer else None,
        "class_ids": column.heatmap.class_ids.tolist(),
        "shown": None if column.shown is None else column.shown.tolist(),
        "heat": packed(heatmap, column.unit, most).to_dict(),
    }


def atlas_entry(atlas: Atlas) -> Entry:
    """The mean heat of each class, in the order of the ids."""
    classes = sorted(atlas.classes.items())
    maps = np.stack([one.mean for _, one in classes]).astype(np.float32)
    heat = of_maps(maps, "scale_after_relu", atlas.size)
    entries = [
        {"class_id": class_id, "images": one.images, "fixed_place": number(one.fixed_place)}
        for class_id, one in classes
    ]
    return {"classes": entries, "heat": heat.to_dict()}


def verdict_entry(verdict: Verdict, shown: Shown) -> Entry:
    """A verdict with its evidence; pictures of experiments are data URLs."""
    whose = ("class_id", "name", "code", "level", "accuses", "headline", "images", "epoch")
    said: Entry = {name: getattr(verdict, name) for name in whose}
    said["group"] = "wrong" if verdict.code in ACCUSING else "passed" if verdict.code == "no_shortcut" else "none"
    said["evidence"] = [
        {
            "test": one.test,
            "level": one.level,
            "code": one.code,
            "said": one.said,
            "figures": {name: number(value) for name, value in one.figures.items()},
            "images": one.images,
            "trials": [_trial(trial, shown) for trial in list(one.trials)[: OTHERS_SHOWN if at else None]],
        }
        for at, one in enumerate(verdict.evidence)
    ]
    return said


def _trial(trial: Trial, shown: Shown) -> Entry:
    urls: list[str | None] = [None, None]
    if shown.pictures and trial.given.shape[0] in (1, 3):
        urls = [picture_url(one, TRIAL_MOST) for one in trial_pictures(trial, shown.look)]
    box = None
    if trial.outline is not None and trial.outline.any():
        down, across = np.nonzero(trial.outline)
        left, top = int(across.min()), int(down.min())
        box = [left, top, int(across.max()) + 1 - left, int(down.max()) + 1 - top]
    said: Entry = {"done": trial.done, "before": number(trial.before), "after": number(trial.after)}
    return said | {"given": urls[0], "changed": urls[1], "box": box}


def numbered(verdict: Entry, pictures: dict[str, int]) -> Entry:
    """The entry with numbers in `pictures` for the pictures of its experiments."""

    def of_trial(trial: Entry) -> Entry:
        urls = {side: trial[side] for side in ("given", "changed") if trial[side] is not None}
        return trial | {side: pictures.setdefault(url, len(pictures)) for side, url in urls.items()}

    evidence = [one | {"trials": [of_trial(trial) for trial in one["trials"]]} for one in verdict["evidence"]]
    return verdict | {"evidence": evidence}


def codes() -> Entry:
    """Every code with what it says, the most specific accusation first."""
    return {
        code: {"headline": HEADLINES[code], "bounds": BOUNDS[code], "page": f"{PAGE_OF_VERDICTS}#{code}"}
        for code in dict.fromkeys([*ACCUSING, *HEADLINES])
    }
