"""What a page shows, in the form in which its script reads it: plain dicts and lists, without NaN."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fe_gradcam
from fe_gradcam.drawing.pixels import signed_colormap
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.drawing.verdicts import trial_pictures
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.results import as_text
from fe_gradcam.reporting.pack import colours, number, numbers, of_maps, packed, picture_url
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.verdict import ACCUSING, BOUNDS, HEADLINES, PAGE_OF_VERDICTS, Trial, Verdict

Entry: TypeAlias = dict[str, Any]
"""A part of the page."""

FORMAT = 1
"""The version of the form."""

COLORMAPS = ("turbo", "viridis", "cividis", "gray")
"""The colormaps that a reader may choose; cividis is for colour-blind readers too."""

PICTURE_MOST = 512
"""The most pixels of a picture's longer side."""

TRIAL_MOST = 192
"""The same of the pictures of an experiment."""

HEAT_MOST = 64
"""The longest side of a map that is kept over many epochs; maps of the whole model are larger at first."""

OTHERS_SHOWN = 2
"""How many images of an experiment are shown that does not decide the verdict."""

LIBRARIES = ("torch", "tensorflow", "keras", "numpy", "fastestimator")


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


@dataclass(eq=False)
class PageDataset:
    """One dataset of a page: each image once, and what each epoch says of them.

    Attributes:
        size: (H, W) of the heatmaps.
        images: Id, label and picture of each image.
        keys: A key for each image, by which it is known again.
        epochs: The epochs, the oldest first.
    """

    size: tuple[int, int] = (0, 0)
    images: list[Entry] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    epochs: list[Entry] = field(default_factory=list)

    def add(
        self,
        part: Explained,
        epoch: int,
        shown: Shown,
        *,
        metrics: Mapping[str, NDArray[np.float32]] | None = None,
        verdicts: Sequence[Verdict] = (),
        atlas: Atlas | None = None,
    ) -> None:
        """Adds an epoch behind those before it; images that it does not have lose their pictures.

        Args:
            part: The explained images.
            epoch: The number of the epoch.
            shown: What the page may hold.
            metrics: The values (N,) of metrics, by name.
            verdicts: What is known of the classes after this epoch.
            atlas: The mean heat of each class.
        """
        height, width = part.columns[0].heatmap.values.shape[1:]
        if self.size != (height, width):
            self.size, self.images, self.keys, self.epochs = (int(height), int(width)), [], [], []
        self.epochs = [one for one in self.epochs if one["epoch"] < epoch]
        for before in self.epochs[-1:]:
            before["verdicts"] = [one | {"text": "", "evidence": []} for one in before["verdicts"]]
        which = [self._place_of(key, part, at, shown) for at, key in enumerate(_keys(part))]
        for at in set(range(len(self.images))) - set(which):
            self.images[at]["src"] = None
        self.epochs.append(
            {
                "epoch": epoch,
                "images": which,
                "predictions": None if part.predictions is None else part.predictions.tolist(),
                "confidences": None if part.probabilities is None else numbers(part.probabilities.max(1)),
                "true": numbers(of_true_class(part)),
                "metrics": {name: numbers(values) for name, values in (metrics or {}).items()},
                "columns": [_column(column, shown.most) for column in part.columns],
                "verdicts": [verdict_entry(one, shown) for one in verdicts],
                "atlas": None if atlas is None or not atlas.classes else _atlas(atlas),
            }
        )

    def _place_of(self, key: str, part: Explained, at: int, shown: Shown) -> int:
        """The index of an image; one that is not known yet is added."""
        if key not in self.keys:
            self.keys.append(key)
            self.images.append({"id": None if part.ids is None else as_text(part.ids[at]), "src": None})
        entry = self.images[place := self.keys.index(key)]
        entry["label"] = None if part.labels is None or part.labels[at] < 0 else int(part.labels[at])
        if shown.pictures and entry["src"] is None:
            entry["src"] = picture_url(part.pictures[at], PICTURE_MOST)
        return place

    def to_dict(self, name: str, pictures: dict[str, int]) -> Entry:
        """The dataset as the page has it; pictures of experiments are replaced by their numbers in `pictures`."""
        every, epochs = list(range(len(self.images))), list(self.epochs)
        epochs = [one | {"images": None if one["images"] == every else one["images"]} for one in epochs]
        for last in epochs[-1:]:
            last["verdicts"] = [_numbered(one, pictures) for one in last["verdicts"]]
        return {"name": name, "size": list(self.size), "images": self.images, "epochs": epochs}


@dataclass(eq=False)
class Page:
    """A page.

    Attributes:
        title: Its title.
        name: The name of the trace, or "".
        mode: The mode, such as "eval", or "".
        names: Names of the classes by id.
        datasets: The datasets by name; "" if there is one.
        curves: Numbers over the epochs; see `fe_gradcam.training.pages`.
        says: How to read numbers, by key.
        asked: What was asked for: methods, targets, layer, versions.
        left_out: Numbers of epochs that were left out.
        notes: Sentences on what the page lacks.
    """

    title: str
    name: str = ""
    mode: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    look: Look = field(default_factory=Look)
    datasets: dict[str, PageDataset] = field(default_factory=dict)
    curves: Sequence[Entry] = ()
    says: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> Entry:
        """The page as its script reads it."""
        pictures: dict[str, int] = {}
        measured = {key for its in self.datasets.values() for one in its.epochs for key in one["metrics"]}
        colormaps = dict.fromkeys([self.look.colormap, *COLORMAPS])
        datasets = [one.to_dict(name, pictures) for name, one in self.datasets.items()]
        return {
            "format": FORMAT,
            "title": self.title,
            "name": self.name,
            "mode": self.mode,
            "version": f"fe_gradcam {fe_gradcam.__version__}",
            "class_names": {str(class_id): name for class_id, name in sorted(self.names.items())},
            "colormaps": {name: colours(name) for name in colormaps},
            "colormap": self.look.colormap,
            "alpha": self.look.alpha,
            "signed": colours(signed_colormap(self.look.colormap)),
            "codes": _codes(),
            "notes": [*self._of_epochs(), *self.notes],
            "metrics": {key: words for key, words in self.says.items() if key in measured},
            "curves": list(self.curves),
            "asked": dict(self.asked),
            "datasets": datasets,
            "pictures": list(pictures),
        }

    def thin(self, excess: int) -> bool:
        """Leaves out the oldest epochs, so many that about `excess` characters are saved; whether any could be."""
        oldest = [(one["epoch"], its) for its in self.datasets.values() for one in its.epochs[:-1]]
        left_out: set[int] = set()
        for epoch, dataset in sorted(oldest, key=lambda one: one[0]):
            if excess <= 0 and epoch not in left_out:
                break
            excess -= len(json.dumps(dataset.epochs.pop(0)))
            left_out.add(epoch)
        self.left_out = sorted({*self.left_out, *left_out})
        return bool(left_out)

    def _of_epochs(self) -> list[str]:
        if not self.left_out:
            return []
        first, last = self.left_out[0], self.left_out[-1]
        which = f"Epoch {first} was" if first == last else f"Epochs {first} to {last} were"
        return [f"{which} left out, as the page would have been too large. The curves have all epochs."]


def _keys(part: Explained) -> list[str]:
    """For each image something by which it is known again; the same image may be there twice."""
    found: list[str] = []
    for at, picture in enumerate(part.pictures):
        called = "" if part.ids is None else as_text(part.ids[at])
        key = blake2b(np.ascontiguousarray(picture).tobytes() + called.encode(), digest_size=8).hexdigest()
        found.append(f"{key} {sum(one.startswith(key) for one in found)}")
    return found


def of_true_class(part: Explained) -> NDArray[np.float64]:
    """(N,) the probability of the true class, NaN if it is not known."""
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


def _column(column: Column, most: int | None) -> Entry:
    heatmap = column.heatmap if column.shown is None else column.heatmap.rows(column.shown)
    return {
        "method": column.method,
        "target": column.target,
        "layer": heatmap.layer if heatmap.of_layer else None,
        "class_ids": column.heatmap.class_ids.tolist(),
        "shown": None if column.shown is None else column.shown.tolist(),
        "heat": packed(heatmap, column.unit, most).to_dict(),
    }


def _atlas(atlas: Atlas) -> Entry:
    classes = sorted(atlas.classes.items())
    maps = np.stack([one.mean for _, one in classes]).astype(np.float32)
    heat = of_maps(maps, "scale_after_relu", atlas.size, np.array([one.warm == 0 for _, one in classes]))
    entries = [
        {"class_id": class_id, "images": one.images, "fixed_place": number(one.fixed_place)}
        for class_id, one in classes
    ]
    return {"classes": entries, "heat": heat.to_dict()}


def verdict_entry(verdict: Verdict, shown: Shown) -> Entry:
    """A verdict with its evidence; pictures of experiments are data URLs."""
    said: Entry = {
        name: getattr(verdict, name) for name in ("class_id", "name", "code", "level", "accuses", "headline")
    }
    said |= {name: getattr(verdict, name) for name in ("text", "images", "epoch", "tests")}
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
    said: Entry = {"row": int(trial.row), "done": trial.done, "before": number(trial.before)}
    return said | {"after": number(trial.after), "given": urls[0], "changed": urls[1], "box": box}


def _numbered(verdict: Entry, pictures: dict[str, int]) -> Entry:
    """The entry with numbers in `pictures` for the pictures of its experiments."""

    def numbered(trial: Entry) -> Entry:
        urls = {side: trial[side] for side in ("given", "changed") if trial[side] is not None}
        return trial | {side: pictures.setdefault(url, len(pictures)) for side, url in urls.items()}

    evidence = [one | {"trials": [numbered(trial) for trial in one["trials"]]} for one in verdict["evidence"]]
    return verdict | {"evidence": evidence}


def _codes() -> Entry:
    """Every code with what it says, the most specific accusation first."""
    return {
        code: {"headline": HEADLINES[code], "bounds": BOUNDS[code], "page": f"{PAGE_OF_VERDICTS}#{code}"}
        for code in dict.fromkeys([*ACCUSING, *HEADLINES])
    }


def asked_of(parts: Iterable[Explained]) -> Entry:
    """What heatmaps say of how they were made, and the versions of what made them."""
    columns = [column for part in parts for column in part.columns]
    heatmap = max((column.heatmap for column in columns), key=lambda one: one.of_layer)
    return {
        "methods": list(dict.fromkeys(column.method for column in columns)),
        "targets": list(dict.fromkeys(column.target for column in columns)),
        "layer": heatmap.layer,
        "map": list(heatmap.raw.shape[1:]),
        "scaling": heatmap.scaling,
        "smooth": heatmap.smooth,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of this package, of Python, and of the libraries that are loaded."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in LIBRARIES}
    known = {name: str(version) for name, version in loaded.items() if version is not None}
    return {"fe_gradcam": fe_gradcam.__version__, "python": platform.python_version()} | known
