"""The page of a training: one HTML file with all epochs, written anew after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fe_gradcam.backends.weights import weights_sha256
from fe_gradcam.errors import warn
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.reporting.content import HEAT_MOST, Page, PageDataset, asked_of
from fe_gradcam.reporting.entries import Entry, Shown
from fe_gradcam.reporting.page import LARGE, in_megabytes, write_page
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.history import History
from fe_gradcam.training.options import Options
from fe_gradcam.training.pages import KeptPage, Past

ADVICE = (
    "some browsers open it slowly. Pass a lower n_samples=, fewer methods=, frequency=2, or report={'pictures': False}."
)
"""What to do about a large page."""


class ReportProduct(Product):
    """The page, made if it is asked for."""

    name = "report"

    def __init__(self, options: Options) -> None:
        self.keys = [f"{options.name}_report"] if options.report is not None else []
        self._options, self._own, self._told = options, set[str](), set[str]()
        self._pages: dict[str, Page] = {}
        self._paths: dict[str, Path] = {}

    def make(self, epoch: Epoch) -> None:
        """Adds the epoch to what the page keeps, and writes the page."""
        parts, kept = epoch.parts, epoch.history.pages.setdefault(epoch.mode, KeptPage())
        shown = Shown(self._options.report.pictures, self._options.look, HEAT_MOST)
        metrics, classes = epoch.found.get("metrics", {}), epoch.found.get("atlas", {})
        for part in parts:
            dataset, found = kept.datasets.setdefault(part.ds_id, PageDataset()), classes.get(part.ds_id)
            more = {} if found is None else {"verdicts": found.verdicts, "atlas": found.atlas}
            dataset.add(part, epoch.number, shown, metrics=metrics.get(part.ds_id), **more)
        kept.curves.of_epoch(epoch.number, {**epoch.log, **_numbers_of(epoch)})
        kept.curves.add(epoch.past)
        self._own |= set(epoch.logged)
        self._pages[epoch.mode] = self._page(epoch, parts, kept)
        path = self._paths[epoch.mode] = epoch.folder.file(epoch.mode, "report", ".html")
        self._write(epoch.mode, kept)
        epoch.put(self.keys[0], {}, str(path))
        epoch.files.setdefault(self.name, []).append(path)

    def end(self, history: History, past: Mapping[str, Past]) -> None:
        """Writes a page anew if the loop knows more numbers by now."""
        for mode, values in past.items():
            if mode in self._pages and history.pages[mode].curves.add(values):
                self._write(mode, history.pages[mode])

    def _page(self, epoch: Epoch, parts: Sequence[Explained], kept: KeptPage) -> Page:
        options = self._options
        return Page(
            options.report.title or f"{options.name}, {epoch.mode}",
            epoch.mode,
            options.classes.names,
            options.look,
            kept.datasets,
            says={**epoch.says, f"{options.name}_shortcuts": "classes that tests accuse"},
            asked=_asked(epoch, parts),
            left_out=kept.left_out,
            notes=list(_notes(options, parts)),
        )

    def _write(self, mode: str, kept: KeptPage) -> None:
        """Writes the page of a mode; a large one is warned of once."""
        page, path = self._pages[mode], self._paths[mode]
        page.curves = kept.curves.entries(self._own, page.says)
        size = write_page(path, page)
        kept.left_out = page.left_out
        if size > LARGE and mode not in self._told:
            self._told.add(mode)
            warn(f"GradCAM ({self._options.name!r}): {path.name} has {in_megabytes(page, size)}; {ADVICE}")


def _numbers_of(epoch: Epoch) -> dict[str, Any]:
    """What the products logged, of all datasets together and of each."""
    found: dict[str, Any] = {}
    for key, put in epoch.logged.items():
        found |= {key: put.of_all} | {f"{key}|{dataset}": value for dataset, value in put.by_dataset.items()}
    return found


def _asked(epoch: Epoch, parts: Sequence[Explained]) -> Entry:
    """What the trace was asked for, and of which weights the last epoch shows heat."""
    options, model = epoch.options, getattr(epoch.reader.source, "model", None)
    said = {"select": options.selection.name, "images": sum(map(len, parts)), "seed": options.settings.seed}
    return asked_of(parts) | said | {"weights_sha256": None if model is None else weights_sha256(model)}


def _notes(options: Options, parts: Sequence[Explained]) -> Iterator[str]:
    """What the page lacks, in sentences."""
    if not options.report.pictures:
        yield "Pictures are not included."
    if not options.atlas:
        yield "No class was judged, as atlas=True was not passed."
    if options.ignore:
        yield f"Verdicts that were not looked for: {', '.join(options.ignore)}."
    for column in parts[0].columns:
        size = column.heatmap.raw.shape[1:]
        if max(size) > HEAT_MOST and column.shown is None:
            yield f"Heat of {column.method} is kept at {HEAT_MOST} pixels of {max(size)}."
