"""The atlas of the classes, and the verdicts on what each class is told by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from fe_gradcam.drawing.atlas import AtlasPicture, atlas_picture
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.drawing.verdicts import MOST_VERDICTS, QUIET, draw_verdicts
from fe_gradcam.errors import warn
from fe_gradcam.metrics.measure import summary
from fe_gradcam.training.epoch import Epoch, Product
from fe_gradcam.training.options import Options
from fe_gradcam.training.rows import Rows
from fe_gradcam.training.selection import Selection
from fe_gradcam.training.source import ENOUGH_ASKED, ModelSource
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.find import judged
from fe_gradcam.verdicts.verdict import Verdict

ONCE = "test"
"""The mode that is not repeated: all classes are judged at once, as none can be left for a later epoch."""


class _Stream:
    """The latest verdict on each class of one mode and dataset."""

    def __init__(self) -> None:
        self.latest: dict[int, Verdict] = {}
        self.told_of_few = self.told_of_left = False
        self.accused: set[tuple[int, str]] = set()

    def due(self) -> list[int]:
        """Classes that were judged before, that longest ago first."""
        return sorted(self.latest, key=lambda one: self.latest[one].epoch or 0)

    def put(self, found: Sequence[Verdict]) -> None:
        """Adds verdicts; images of experiments are kept of those alone that a sheet may show."""
        self.latest |= {one.class_id: one for one in found}
        loud = [one for one in self.latest.values() if one.code not in QUIET]
        kept = {one.class_id for one in sorted(loud, key=lambda one: -(one.epoch or 0))[:MOST_VERDICTS]}
        for class_id, verdict in self.latest.items():
            if class_id not in kept:
                bare = [replace(one, trials=()) for one in verdict.evidence]
                self.latest[class_id] = replace(verdict, evidence=bare)


class FoundOfClasses(NamedTuple):
    """What an epoch shows of the classes of one dataset."""

    picture: AtlasPicture
    atlas: Atlas
    verdicts: list[Verdict]
    now: list[Verdict]
    classes: list[int]


class VerdictsProduct(Product):
    """The atlas and the verdicts, made if they are asked for."""

    name = "atlas"

    def __init__(self, options: Options) -> None:
        endings = ("fixed_place", "shortcuts", "surroundings", "atlas", "verdicts", "alarms", "experiments")
        self.keys = [f"{options.name}_{ending}" for ending in endings if options.atlas]
        self.logged = self.keys[:3]
        by_class = bool({"labels", "preds"} & options.given)
        limit, most = (None, options.atlas) if by_class else (options.atlas, None)
        self.selection = Selection("random", ("random",), limit, by_class, most, seed=options.settings.seed)
        self._streams: dict[tuple[str, str], _Stream] = {}

    def make(self, epoch: Epoch) -> None:
        """Makes an atlas of each dataset, and judges its classes, those first that were not judged for longest.

        How much the heat stays at one place is a result, but it is not logged: it is no fault by itself, and readers of
        the log would take it for an alarm.
        """
        found = {dataset: self._of(epoch, rows, dataset) for dataset, rows in epoch.rows(self.name).items()}
        epoch.found[self.name] = found
        fixed_place, shortcuts, surroundings, atlas_key, verdicts_key, alarms_key, experiments = self.keys
        epoch.show(atlas_key, {one: its.picture for one, its in found.items()}, f"atlas_epoch_{epoch.number:03d}")
        fixed = {dataset: its.atlas.fixed_place for dataset, its in found.items()}
        if (of_all := summary(list(fixed.values()))) is not None:
            epoch.put(fixed_place, {dataset: one for dataset, one in fixed.items() if one == one}, of_all)
        by_dataset = {dataset: its.verdicts for dataset, its in found.items()}
        accused = {dataset: [one for one in its if one.accuses] for dataset, its in by_dataset.items()}
        epoch.put(verdicts_key, by_dataset, [one for its in by_dataset.values() for one in its])
        epoch.put(alarms_key, accused, [one for its in accused.values() for one in its])
        counts: dict[str, float] = {one: len(accused[one]) for one, its in by_dataset.items() if _is_judged(its)}
        epoch.log_number(shortcuts, sum(counts.values()) if counts else None, dict(counts))
        gaps = {dataset: gap for dataset, its in by_dataset.items() if (gap := _largest_gap(its)) is not None}
        epoch.log_number(surroundings, max(gaps.values(), default=None), dict(gaps))
        sheets = {dataset: sheet for dataset, its in by_dataset.items() if (sheet := self._sheet(epoch, its, dataset))}
        if sheets:
            epoch.show(experiments, sheets, f"experiments_epoch_{epoch.number:03d}")
        for dataset, its in found.items():
            self._say(epoch, its, dataset)

    def _of(self, epoch: Epoch, rows: Rows, dataset: str) -> FoundOfClasses:
        source = cast(ModelSource, epoch.reader.source)  # an atlas needs a model, not keys
        options, done = epoch.options, source.of_inferred_class(rows)
        (heatmap,) = done.heatmaps
        atlas = Atlas.of(heatmap, epoch.reader.pictures(rows))
        (labels, several), masks = epoch.reader.labels(rows), epoch.reader.masks(rows)
        stream = self._stream(epoch, dataset)
        accused = [one.class_id for one in stream.latest.values() if one.accuses]
        inquiry = source.inquiry(rows, done, labels, masks, several, accused=accused, whole=epoch.mode == ONCE)
        now: list[Verdict] = []
        if inquiry is not None:
            stream.latest = {one: its for one, its in stream.latest.items() if one in inquiry.classes}
            new = [one for one in inquiry.classes if one not in stream.latest]
            order = [*new, *stream.due()]
            now = judged(inquiry, ignore=options.ignore, first=order, epoch=epoch.number)
            stream.put(now)
            now = [stream.latest[one.class_id] for one in now]
        verdicts = [stream.latest[one] for one in sorted(stream.latest)]
        title, names = epoch.title(dataset), options.classes.names
        picture = atlas_picture(atlas, heatmap, verdicts, names, title, options.look)
        return FoundOfClasses(picture, atlas, verdicts, now, [] if inquiry is None else inquiry.classes)

    def _stream(self, epoch: Epoch, dataset: str) -> _Stream:
        return self._streams.setdefault((epoch.mode, dataset), _Stream())

    def _sheet(self, epoch: Epoch, verdicts: Sequence[Verdict], dataset: str) -> Picture | None:
        """The experiments that accuse or let suspect a class, if there are any."""
        if not any(one.trials for one in verdicts):
            return None
        look = epoch.options.look
        return draw_verdicts(verdicts, mean=look.mean, std=look.std, title=epoch.title(dataset))

    def _say(self, epoch: Epoch, found: FoundOfClasses, dataset: str) -> None:
        """Says in the log what classes are told by; at length only the first time, and once what is not judged."""
        stream = self._stream(epoch, dataset)
        of = f"{epoch.options.name!r}, {dataset}" if dataset else repr(epoch.options.name)
        wanted = epoch.options.atlas
        few = found.atlas.too_few(wanted, f"GradCAM ({of}): atlas={wanted} images", "Pass atlas={}.")
        if few and not stream.told_of_few:
            stream.told_of_few = True
            warn(few)
        for verdict in found.now:
            if verdict.accuses:
                again = (verdict.class_id, verdict.code) in stream.accused
                stream.accused.add((verdict.class_id, verdict.code))
                said = f"class {verdict.name!r} still: {verdict.evidence[0].said}" if again else verdict.text
                epoch.messages.append(f"GradCAM ({of}): {said}")
        left = len(found.classes) - len(found.now)
        if left and not stream.told_of_left:
            stream.told_of_left = True
            epoch.messages.append(
                f"GradCAM ({of}): {left} of {len(found.classes)} classes are judged in later epochs: verdicts ask the "
                f"model no more images than the epoch had, or {ENOUGH_ASKED}. Each verdict says its epoch."
            )


def _is_judged(verdicts: Sequence[Verdict]) -> bool:
    """Whether any test was run."""
    return any(one.tests for one in verdicts)


def _largest_gap(verdicts: Sequence[Verdict]) -> float | None:
    """How much more often a class is told in surroundings of its own than in others, of the class with most of that."""
    tested = [its for one in verdicts for its in one.evidence if its.level == "tested"]
    gaps = [its.figures["gap"] for its in tested if "gap" in its.figures]
    return max(gaps, default=None)
