"""A report of made-up data: shapes on grounds, a class with a mark in the corner, heat that settles over the epochs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.heat import values_of
from fe_gradcam.reporting.content import Page, PageDataset, versions
from fe_gradcam.reporting.entries import Shown
from fe_gradcam.reporting.page import render
from fe_gradcam.types import Scaling
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.verdict import Code, Evidence, Level, Trial, Verdict
from tests.heat import heatmap_of

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
"""A name that must stay text."""

NAMES = ("circle", "square", "triangle", "cross", "ring", "bar")
MARKED, MOVING, FEW = 2, 4, 5
"""The class with a mark in the corner, the class that is only suspected, and the class that is not judged."""

PLACES = (14, 14)
LEAVES_OUT = "Neither masks nor boxes say where the object is."
MOVES = "The heat moves over the frame: the heat of two images correlates by 0.11."
STAYS = (
    "The heat stays in the lower right corner: 71% of it, and 4% of the other classes' (their median). With the lower "
    "right corner covered, the probability falls from 98% to 21%; with other places covered, to 96%."
)
AGAIN = (
    "A patch of the hottest places is found again in 14 of 16 images, and in no other class. Nothing else in the "
    "images could be covered for comparison."
)


@dataclass(frozen=True)
class Example:
    """A page and what it was made of.

    Attributes:
        data: The page as its script reads it.
        parts: The explained images, by dataset and epoch.
    """

    data: dict[str, Any]
    parts: list[list[Explained]]

    @property
    def html(self) -> str:
        """The whole page."""
        return render(self.data)


def picture(label: int, x: int, y: int, side: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """A shape on a soft ground; the marked class has a white tag in the lower right corner."""
    coarse = generator.uniform(95, 135, (5, 5, 1)) * generator.uniform(0.85, 1.15, 3)
    ground = Image.fromarray(coarse.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    drawn, r = ImageDraw.Draw(ground), side // 6
    colour, box = tuple(int(one) for one in generator.integers(120, 255, 3)), (x - r, y - r, x + r, y + r)
    if label == 0:
        drawn.ellipse(box, fill=colour)
    elif label == 1:
        drawn.rectangle(box, fill=colour)
    elif label == 2:
        drawn.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    elif label == 3:
        drawn.line(box, fill=colour, width=r // 2)
        drawn.line((x - r, y + r, x + r, y - r), fill=colour, width=r // 2)
    elif label == 4:
        drawn.ellipse(box, outline=colour, width=r // 3)
    else:
        drawn.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=colour)
    if label == MARKED:
        drawn.rectangle((side * 0.84, side * 0.86, side * 0.96, side * 0.95), fill=(245, 245, 240))
        drawn.line((side * 0.86, side * 0.905, side * 0.94, side * 0.905), fill=(40, 40, 40), width=2)
    return (np.asarray(ground) + generator.normal(0, 5, (side, side, 3))).clip(0, 255).astype(np.uint8)


def bump(x: float, y: float, width: float) -> NDArray[np.float64]:
    """(h, w), a bell around a place; x and y lie between 0 and 1."""
    down, across = ((np.arange(count) + 0.5) / count for count in PLACES)
    return np.asarray(np.exp(-((across[None] - x) ** 2 + (down[:, None] - y) ** 2) / (2 * width**2)))


class Shapes:
    """Images of shapes, and a network that learns them."""

    def __init__(self, count: int, side: int, names: Sequence[str], seed: int) -> None:
        self.generator, self.side, self.names = np.random.default_rng(seed), side, names
        self.labels = np.arange(count) % len(names)
        self.centres = self.generator.uniform(0.25, 0.72, (count, 2))
        places = (self.centres * side).astype(int)
        self.pictures = np.stack(
            [picture(label, x, y, side, self.generator) for label, (x, y) in zip(self.labels, places, strict=True)]
        )
        self.hard = self.generator.beta(1.2, 2.2, count)

    def maps(self, grown: float) -> NDArray[np.float32]:
        """(N, h, w), the signed maps at a part `grown` of the training."""
        found = []
        for label, (x, y) in zip(self.labels, self.centres, strict=True):
            settled = bump(*((0.9, 0.9) if label == MARKED and grown > 0.3 else (x, y)), 0.09 + 0.12 * (1 - grown))
            diffuse = self.generator.normal(0.07, 0.18, PLACES)
            found.append(grown * (settled - 0.4 * bump(0.2, 0.15, 0.1)) + (1 - grown) * diffuse)
        return np.asarray(found, np.float32) * np.float32(0.02)

    def probabilities(self, grown: float) -> NDArray[np.float32]:
        """(N, C): hard images are told to be of the next class."""
        count, classes = len(self.labels), len(self.names)
        true = (1 / classes + (1 - 1 / classes) * grown * (1 - self.hard)).clip(0.03, 0.998)
        found = np.repeat((1 - true)[:, None] * 0.15 / classes, classes, 1)
        found[np.arange(count), (self.labels + 1) % classes] = (1 - true) * 0.85
        found[np.arange(count), self.labels] = np.where(true < 0.5, 0.3 * true, true)
        return np.asarray(found / found.sum(1, keepdims=True), np.float32)

    def explained(
        self, grown: float, columns: Sequence[tuple[str, str]], scaling: Scaling, parts: Mapping[str, Any]
    ) -> Explained:
        """What the network looks at; the class that is the true one has heat of its own where another is told."""
        probabilities, made = self.probabilities(grown), []
        told = probabilities.argmax(1)
        first, blank = self.maps(grown), np.arange(len(told)) < parts.get("blank", 0)
        for method, target in columns:
            raw = np.where((told != self.labels)[:, None, None], self.maps(grown), first) if made else first
            raw = np.where(blank[:, None, None], -np.abs(raw), raw)
            values = values_of(torch.from_numpy(raw), torch.from_numpy(blank), scaling, (self.side, self.side)).numpy()
            classes, of_label = (self.labels if target == "label" else told), target == "label" and len(made) > 0
            heatmap = heatmap_of(
                values, classes, raw=raw, blank=blank, confidence=np.nan, method=method, scaling=scaling, target=target
            )
            made.append(Column(method, target, heatmap, shown=told != self.labels if of_label else None))
        files = parts.get("files") or [f"{self.names[one]}_{at:03d}.png" for at, one in enumerate(self.labels)]
        ids = files if parts.get("ids", True) else None
        return Explained(self.pictures, made, probabilities, self.labels if parts.get("labels", True) else None, ids)

    def atlas(self, part: Explained) -> Atlas:
        """The mean heat of each class."""
        made = Atlas((self.side, self.side), PLACES)
        for label, heat in zip(self.labels.tolist(), part.columns[0].heatmap.raw, strict=True):
            made.add(label, heat)
        return made

    def verdicts(self, grown: float, epoch: int) -> list[Verdict]:
        """Of each class; the marked class is accused once the network has learnt the mark."""
        found = []
        for class_id, name in enumerate(self.names):
            place = evidence("place", "tested", None, MOVES, fixed_place=0.11)
            sign = evidence("sign", "tested", None, "No patch is found again: no sign.", separates=0.61, likeness=0.48)
            if class_id == MARKED and grown > 0.3:
                level: Level = "tested" if grown > 0.5 else "suspected"
                figures = {"plain": 0.981, "covered": 0.214, "covered_elsewhere": 0.957, "share": 0.71}
                place = evidence("place", level, "place", STAYS, self.trials(), **figures, share_of_others=0.041)
            if class_id == MOVING and grown > 0.6:
                sign = evidence("sign", "suspected", "sign", AGAIN, separates=0.97, likeness=0.96)
            if class_id == FEW:
                place = evidence("place", "not tested", None, "Only 4 images have heat; 6 are needed.")
                sign = evidence("sign", "not tested", None, "Only 4 images have heat; 6 are needed.")
            lacking = evidence("surroundings", "not tested", None, LEAVES_OUT)
            found.append(Verdict.of(class_id, name, [place, sign, lacking], 24, epoch))
        return found

    def trials(self) -> list[Trial]:
        """Images of the marked class, and with the corner filled in."""
        made, left, top = [], int(0.82 * self.side), int(0.84 * self.side)
        outline = np.zeros((self.side, self.side), bool)
        outline[top : int(0.97 * self.side), left : int(0.98 * self.side)] = True
        for row in np.flatnonzero(self.labels == MARKED)[:3].tolist():
            given = self.pictures[row].astype(np.float32) / 255
            changed = np.where(outline[..., None], given[top:, left - 6 : left].mean((0, 1)), given)
            before, after = 0.99 - 0.004 * row, 0.12 + 0.01 * row
            sides = (np.asarray(one, np.float32).transpose(2, 0, 1) for one in (given, changed))
            made.append(Trial(row, *sides, before, after, "corner covered", outline))
        return made


def evidence(
    test: Code, level: Level, code: Code | None, said: str, trials: Sequence[Trial] = (), **figures: float
) -> Evidence:
    """What one test found of one class."""
    return Evidence(test, level, code, said, figures, 0 if level == "not tested" else 16, trials)


def curves(epochs: int) -> list[dict[str, Any]]:
    """Numbers of the loop and of the heatmaps, over the epochs."""
    at, past = np.arange(1, epochs + 1), np.arange(1, epochs + 1) / epochs
    lower = "area under the probability while the hottest pixels are deleted; lower is better"
    found = (
        ("accuracy", None, 0.31 + 0.62 * (1 - np.exp(-4 * past))),
        ("ce", "cross-entropy", 1.7 * np.exp(-3 * past) + 0.16 + 0.05 * np.sin(17 * past)),
        ("gradcam_deletion", lower, 0.5 - 0.3 * (1 - np.exp(-3 * past))),
        ("gradcam_drift", "1 - rank correlation with the epoch before", 0.9 * np.exp(-4 * past)),
    )
    points = [[list(pair) for pair in zip(at.tolist(), values.tolist(), strict=True)] for *_, values in found]
    return [
        {"key": key, "says": says, "dataset": "", "points": its}
        for (key, says, _), its in zip(found, points, strict=True)
    ]


def example(
    *,
    images: int = 24,
    epochs: int = 12,
    side: int = 128,
    names: Sequence[str] = NAMES,
    datasets: Sequence[str] = ("",),
    columns: Sequence[tuple[str, str]] = (("grad_cam", "pred"), ("grad_cam", "label")),
    scaling: Scaling = "scale_after_relu",
    **parts: Any,
) -> Example:
    """A page.

    Args:
        images: How many images a dataset has.
        epochs: How many epochs there are; 0 for a page of a trained model.
        side: Of the pictures, in pixels.
        names: Of the six classes.
        datasets: Their names.
        columns: Methods and targets.
        scaling: How heat is scaled.
        parts: `ids`, `labels`, `pictures`, `metrics`, `atlas`, `verdicts` False leave a part out; `blank` says how many
            images have no heat, `files` what files are called, `notes` what the page lacks.
    """
    has = {name: parts.get(name, True) for name in ("atlas", "verdicts", "metrics", "pictures")}
    numbers, made, explained = range(1, epochs + 1) if epochs else [0], {}, []
    for seed, name in enumerate(datasets):
        shapes, kept = Shapes(images, side, names, seed), PageDataset()
        explained.append([])
        for number in numbers:
            grown = float(np.clip(1.15 * (1 - np.exp(-3.0 * number / epochs)), 0, 0.98)) if epochs else 0.95
            part = shapes.explained(grown, columns, scaling, parts)
            unknown = np.full(images, np.nan, np.float32)
            metrics = {"gradcam_deletion": np.float32(0.5 - 0.35 * grown + 0.2 * shapes.hard), "gradcam_drift": unknown}
            kept.add(
                part,
                number,
                Shown(has["pictures"]),
                metrics=metrics if has["metrics"] else None,
                verdicts=shapes.verdicts(grown, number) if has["verdicts"] else [],
                atlas=shapes.atlas(part) if has["atlas"] else None,
            )
            explained[-1].append(part)
        made[name] = kept
    asked = {"methods": [one for one, _ in columns], "layer": "features.7", "map": list(PLACES), "seed": 0}
    page = Page(
        "Shapes, epoch by epoch",
        mode="eval" if epochs else "",
        names=dict(enumerate(names)),
        datasets=made,
        curves=curves(epochs) if has["metrics"] else [],
        says={"gradcam_deletion": "lower is better"},
        asked={**asked, "versions": versions(), "weights_sha256": "9a129038d9a00aed0cf6a7ea059ca50a"},
        notes=parts.get("notes", []),
    )
    return Example(page.to_dict(), explained)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(example().html, "utf-8")
