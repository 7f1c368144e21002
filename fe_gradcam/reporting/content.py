"""What a page shows, in the form in which its script reads it: plain dicts and lists, without NaN."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fe_gradcam
from fe_gradcam.drawing.pixels import signed_colormap
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.explaining.results import as_text
from fe_gradcam.reporting.entries import (
    Entry,
    Shown,
    atlas_entry,
    codes,
    column_entry,
    known_id,
    numbered,
    of_true_class,
    verdict_entry,
)
from fe_gradcam.reporting.pack import colours, numbers, picture_url
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.verdict import Verdict

FORMAT = 1
"""The version of the form."""

COLORMAPS = ("turbo", "viridis", "cividis", "gray")
"""The colormaps that a reader may choose; cividis is for colour-blind readers too."""

PICTURE_MOST = 512
"""The most pixels of a picture's longer side."""

HEAT_MOST = 64
"""The longest side of a map that is kept over many epochs; maps of the whole model are larger at first."""

LIBRARIES = ("torch", "tensorflow", "keras", "numpy", "fastestimator")


@dataclass(eq=False)
class PageDataset:
    """One dataset of a page: each image once, and what each epoch says of them.

    Attributes:
        size: (H, W) of the heatmaps.
        images: Id, label, further true classes and picture of each image.
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

        What the epoch must not show, pictures or ids, is taken from earlier epochs too.

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
            before["verdicts"] = [one | {"evidence": []} for one in before["verdicts"]]
        which = [self._place_of(key, part, at, shown) for at, key in enumerate(_keys(part))]
        for at, image in enumerate(self.images):  # those of a resumed training may have been asked for otherwise
            image["src"] = image["src"] if shown.pictures and at in which else None
            image["id"] = image["id"] if part.ids is not None else None
        self.epochs.append(
            {
                "epoch": epoch,
                "images": which,
                "predictions": None if part.predictions is None else list(map(known_id, part.predictions.tolist())),
                "confidences": None if part.probabilities is None else numbers(part.probabilities.max(1)),
                "true": numbers(of_true_class(part)),
                "metrics": {name: numbers(values) for name, values in (metrics or {}).items()},
                "columns": [column_entry(column, shown.most) for column in part.columns],
                "verdicts": [verdict_entry(one, shown) for one in verdicts],
                "atlas": None if atlas is None or not atlas.classes else atlas_entry(atlas),
            }
        )

    def _place_of(self, key: str, part: Explained, at: int, shown: Shown) -> int:
        """The index of an image; one that is not known yet is added."""
        if key not in self.keys:
            self.keys.append(key)
            self.images.append({"id": None if part.ids is None else as_text(part.ids[at]), "src": None})
        entry = self.images[place := self.keys.index(key)]
        entry["label"] = None if part.labels is None else known_id(int(part.labels[at]))
        entry.pop("also", None)
        if part.several is not None:
            entry["also"] = [int(one) for one in np.flatnonzero(part.several[at]) if one != entry["label"]]
        if shown.pictures and entry["src"] is None:
            entry["src"] = picture_url(part.pictures[at], PICTURE_MOST)
        return place

    def state(self) -> Entry:
        """The dataset in plain containers, by attribute; what is added later does not change them."""
        images, epochs = ([dict(one) for one in entries] for entries in (self.images, self.epochs))
        return {"size": self.size, "images": images, "keys": list(self.keys), "epochs": epochs}

    def to_dict(self, name: str, pictures: dict[str, int]) -> Entry:
        """The dataset as the page has it; pictures of experiments are replaced by their numbers in `pictures`."""
        every, epochs = list(range(len(self.images))), list(self.epochs)
        epochs = [one | {"images": None if one["images"] == every else one["images"]} for one in epochs]
        for last in epochs[-1:]:
            last["verdicts"] = [numbered(one, pictures) for one in last["verdicts"]]
        return {"name": name, "size": list(self.size), "images": self.images, "epochs": epochs}


@dataclass(eq=False)
class Page:
    """A page.

    Attributes:
        title: Its title.
        mode: The mode, such as "eval", or "".
        names: Names of the classes by id.
        look: How pictures and heat are drawn at first.
        datasets: The datasets by name; "" if there is one.
        curves: Numbers over the epochs; see `fe_gradcam.training.pages`.
        says: How to read numbers, by key.
        asked: What was asked for: methods, targets, layer, versions.
        left_out: Numbers of epochs that were left out.
        notes: Sentences on what the page lacks.
    """

    title: str
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
            "mode": self.mode,
            "version": f"fe_gradcam {fe_gradcam.__version__}",
            "class_names": {str(class_id): name for class_id, name in sorted(self.names.items())},
            "colormaps": {name: colours(name) for name in colormaps},
            "colormap": self.look.colormap,
            "alpha": self.look.alpha,
            "signed": colours(signed_colormap(self.look.colormap)),
            "codes": codes(),
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
