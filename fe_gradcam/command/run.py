"""Explains image files batch by batch, and writes pictures, arrays and the results."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fe_gradcam import __version__
from fe_gradcam.command.asked import (
    Asked,
    Wanted,
    check,
    file_slug,
    layer_asked,
    methods_asked,
    preparation_for,
    read_class_names,
    wanted_targets,
)
from fe_gradcam.command.messages import say
from fe_gradcam.loading.models import Loaded, load_model, model_errors

if TYPE_CHECKING:
    from fe_gradcam.explaining.explained import Explained
    from fe_gradcam.explaining.route import Explanation
    from fe_gradcam.loading.photos import Photo, Preparation
    from fe_gradcam.methods import CamMethod
    from fe_gradcam.types import Heatmap

MOST_LINES = 20
"""How many images the summary in the terminal names."""

MOST_CLASSES = 5
"""How many classes of each image results.json names."""


@dataclass
class _Written:
    """What a run has come to so far.

    Attributes:
        entries: Of results.json, one for each image.
        errors: Of results.json, one for each file that was left out.
        rows: The first images, for the grid.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    rows: list[Explained] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Plan:
    """All that stays the same from image to image."""

    asked: Asked
    loaded: Loaded
    preparation: Preparation
    names: dict[int, str]
    wanted: list[Wanted]
    methods: list[CamMethod]
    layer: Any
    one_batch: bool


def explain_images(asked: Asked) -> bool:
    """Does it all; whether something was left out."""
    from fe_gradcam.loading.photos import image_files, unique_names

    check(asked)
    names = read_class_names(asked.class_names)
    wanted = wanted_targets(asked.classes, names)
    files = image_files(asked.images, recursive=asked.recursive, without=asked.output)
    loaded = load_model(asked.model, asked.weights, asked.device)
    plan = _Plan(
        asked,
        loaded,
        preparation_for(asked, loaded),
        names,
        wanted,
        methods_asked(asked.methods),
        layer_asked(loaded, asked.layers),
        len(files) <= asked.batch_size,
    )
    asked.output.mkdir(parents=True, exist_ok=True)
    written = _Written()
    try:
        _explain_files(plan, files, unique_names(files), written)
    except BaseException:
        if written.entries:  # of a long run that was broken off, what there is
            _finish(plan, written)
        raise
    _finish(plan, written)
    return bool(written.errors)


def _explain_files(plan: _Plan, files: Sequence[Path], names: Sequence[str], written: _Written) -> None:
    """Batch by batch: no more images than that are held at a time, besides those of the grid."""
    called, size = dict(zip(files, names, strict=True)), plan.asked.batch_size
    with _progress(len(files), plan.asked.quiet or plan.one_batch) as advance:
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            photos = _read(chunk, plan.preparation, written)
            if photos:
                _explain_batch(plan, photos, [called[photo.path] for photo in photos], written)
            advance(len(chunk))


@contextmanager
def _progress(length: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    shown = not quiet and sys.stderr.isatty()
    bar: Any = click.progressbar(length=length, label="Explaining", file=sys.stderr) if shown else nullcontext()
    with bar as entered:
        yield entered.update if shown else lambda count: None


def _read(files: Sequence[Path], preparation: Preparation, written: _Written) -> list[Photo]:
    from fe_gradcam.loading.photos import PhotoError, read_photo

    photos = []
    for path in files:
        try:
            photos.append(read_photo(path, preparation))
        except PhotoError as error:
            say(f"{click.format_filename(path)} is left out: {error}")
            written.errors.append({"file": str(path), "reason": str(error)})
    return photos


def _explain_batch(plan: _Plan, photos: Sequence[Photo], called: Sequence[str], written: _Written) -> None:
    import numpy as np

    from fe_gradcam.drawing.sheet import MOST_ROWS
    from fe_gradcam.explaining.explained import Column, Explained

    pictures = np.stack([photo.picture for photo in photos])
    done = _asked_of_the_model(plan, plan.preparation.inputs(pictures, channels_first=plan.loaded.framework == "torch"))
    _warn_of_names(plan, done, first=not written.entries)
    whose = [(method, wanted) for method in plan.methods for wanted in plan.wanted]
    columns = [
        Column(method.label, wanted.label, heatmap)
        for (method, wanted), heatmap in zip(whose, done.heatmaps, strict=True)
    ]
    part = Explained(pictures, columns, done.probabilities, None, list(called))
    for at, photo in enumerate(photos):
        written.entries.append(_write_image(plan, photo, called[at], _rows(part, slice(at, at + 1))))
    room = MOST_ROWS - sum(map(len, written.rows))
    if room > 0:
        written.rows.append(_rows(part, slice(0, room)))


def _asked_of_the_model(plan: _Plan, images: Any) -> Explanation:
    from fe_gradcam.explaining.route import explained
    from fe_gradcam.explaining.settings import Settings

    output = plan.asked.model_output
    with model_errors(plan.loaded, images.shape):
        settings = Settings(
            scaling=plan.asked.scaling,
            seed=plan.asked.seed,
            class_names=plan.names,
            model_output=int(output) if output is not None and output.isdecimal() else output,
            fuse=plan.asked.fuse,
            smooth=plan.asked.smooth,
            progress=plan.one_batch and not plan.asked.quiet,
        )
        return explained(
            plan.loaded.model,
            images,
            settings,
            methods=plan.methods,
            layers=[plan.layer],
            targets=[wanted.target for wanted in plan.wanted],
        )


def _warn_of_names(plan: _Plan, done: Explanation, *, first: bool) -> None:
    """Says so where there are names of more classes than the model has: they may be those of another one."""
    classes = None if done.probabilities is None else done.probabilities.shape[1]
    if first and classes is not None and plan.names and max(plan.names) >= classes:
        say(f"Warning: --class-names goes up to id {max(plan.names)}, and the model has {classes} classes.")


def _rows(part: Explained, rows: slice) -> Explained:
    """The same for some of the images."""
    return replace(
        part,
        pictures=part.pictures[rows],
        columns=[replace(column, heatmap=_heatmap_rows(column.heatmap, rows)) for column in part.columns],
        probabilities=None if part.probabilities is None else part.probabilities[rows],
        ids=None if part.ids is None else part.ids[rows],
    )


def _heatmap_rows(heatmap: Heatmap, rows: slice) -> Heatmap:
    per_image = ("values", "raw", "class_ids", "scores", "confidences", "blank")
    return replace(heatmap, **{name: getattr(heatmap, name)[rows] for name in per_image})


def _write_image(plan: _Plan, photo: Photo, name: str, part: Explained) -> dict[str, Any]:
    """Writes the pictures and arrays of one image; returns its entry of results.json."""
    from fe_gradcam.drawing.picture import write_png
    from fe_gradcam.drawing.pixels import overlay
    from fe_gradcam.explaining.results import compose_arrays
    from fe_gradcam.files import write_arrays
    from fe_gradcam.loading.photos import unused

    folder, slugs = plan.asked.output, [wanted.slug for _ in plan.methods for wanted in plan.wanted]
    taken: set[str] = set()
    of_methods = [unused(file_slug(method.label), taken) for method in plan.methods]
    files = [f"{name}.{of_method}.{wanted.slug}.png" for of_method in of_methods for wanted in plan.wanted]
    heatmaps = []
    for column, file in zip(part.columns, files, strict=True):
        drawn = overlay(
            photo.picture,
            column.heatmap.values[0],
            colormap=plan.asked.colormap,
            alpha=plan.asked.alpha,
            signed=plan.asked.scaling == "none",
        )
        write_png(folder / file, drawn)
        heatmaps.append({"target": column.target, **_heatmap_entry(column.heatmap, plan.names), "overlay": file})
    called = [replace(column, target=slug) for column, slug in zip(part.columns, slugs, strict=True)]
    arrays = compose_arrays(replace(part, columns=called), 0, "")
    write_arrays(folder / f"{name}.npz", {key: array for key, array in arrays.items() if key not in ("epoch", "mode")})
    return {
        "file": str(photo.path),
        "name": name,
        "size": list(photo.size),
        "seen": [round(side, 2) for side in photo.box],
        "classes": _classes(part, plan.names),
        "heatmaps": heatmaps,
        "arrays": f"{name}.npz",
    }


def _classes(part: Explained, names: Mapping[int, str]) -> list[dict[str, Any]]:
    from fe_gradcam.explaining.results import inference_entries

    found = inference_entries(None if part.probabilities is None else part.probabilities[0], names)
    triples = zip(
        found["classification_class_ids"],
        found["classification_class_names"],
        found["classification_confidences"],
        strict=True,
    )
    classes = [{"id": id_, "name": name, "confidence": _number(number)} for id_, name, number in triples]
    return classes[:MOST_CLASSES]


def _heatmap_entry(heatmap: Heatmap, names: Mapping[int, str]) -> dict[str, Any]:
    class_id = int(heatmap.class_ids[0])
    return {
        "method": heatmap.method,
        "layer": heatmap.layer,
        "class_id": None if class_id < 0 else class_id,
        "class_name": None if class_id < 0 else names.get(class_id, str(class_id)),
        "score": _number(heatmap.scores[0]),
        "confidence": _number(heatmap.confidences[0]),
        "blank": bool(heatmap.blank[0]),
    }


def _number(value: Any) -> float | None:
    """As float32 has it, for JSON, which knows no NaN."""
    number = float(f"{float(value):.7g}")
    return number if math.isfinite(number) else None


def _finish(plan: _Plan, written: _Written) -> None:
    """Writes the grid and results.json, and says what there is."""
    from fe_gradcam.drawing.grid import draw_grid
    from fe_gradcam.drawing.picture import write_png
    from fe_gradcam.files import write_bytes

    folder, grid = plan.asked.output, None
    if written.rows:
        grid = "grid.png"
        write_png(folder / grid, draw_grid(_grid(plan, written)))
    results = {
        "fe_gradcam": __version__,
        "model": plan.loaded.name,
        "weights": None if plan.asked.weights is None else str(plan.asked.weights),
        "preprocessing": _preprocessing(plan),
        "scaling": plan.asked.scaling,
        "grid": grid,
        "images": written.entries,
        "errors": written.errors,
    }
    write_bytes(folder / "results.json", _as_json(results))
    _summarise(plan, written)


def _as_json(results: Mapping[str, Any]) -> bytes:
    """Indented, with lists of numbers on one line; a file's name that is no text as its bytes escaped."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\[\n([\s\d.,-]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _preprocessing(plan: _Plan) -> dict[str, Any]:
    prepared = plan.preparation
    return {
        "size": list(prepared.size),
        "channels": prepared.channels,
        "fit": prepared.fit,
        "value_range": prepared.value_range,
        "mean": list(prepared.mean),
        "std": list(prepared.std),
    }


def _grid(plan: _Plan, written: _Written) -> Any:
    from fe_gradcam.drawing.sheet import Look, compose_grid

    drawn, total = sum(map(len, written.rows)), len(written.entries)
    name = Path(plan.loaded.name).name
    title = name if drawn == total else f"{name}, the first {drawn} of {total} images"
    look = Look(colormap=plan.asked.colormap, alpha=plan.asked.alpha)
    grid = compose_grid(written.rows, plan.names, look, title)
    notes = [_notes(plan, part, at) for part in written.rows for at in range(len(part))]
    rows = [replace(row, texts=(*row.texts, *more)) for row, more in zip(grid.rows, notes, strict=True)]
    return replace(grid, rows=tuple(rows))


def _notes(plan: _Plan, part: Explained, at: int) -> list[tuple[str, str]]:
    """Which classes the columns of one row explain, where they are not the inferred one."""
    inferred = None if part.predictions is None else int(part.predictions[at])
    notes = []
    for wanted, column in zip(plan.wanted, part.columns, strict=False):
        class_id, confidence = int(column.heatmap.class_ids[at]), float(column.heatmap.confidences[at])
        if class_id in (-1, inferred) or math.isnan(confidence):
            continue
        name = plan.names.get(class_id, str(class_id))
        rank = "" if isinstance(wanted.target, int) else f"{wanted.label}: "
        notes.append(("note", f"{rank}{name} {confidence:.0%}"))
    return notes


def _summarise(plan: _Plan, written: _Written) -> None:
    entries = written.entries
    width = max([len(entry["name"]) for entry in entries[:MOST_LINES]], default=0)
    for entry in entries[:MOST_LINES]:
        best = next(iter(entry["classes"]), {"confidence": None})
        blank = [one["overlay"] for one in entry["heatmaps"] if one["blank"]]
        said = "" if best["confidence"] is None else f"{best['confidence']:>6.1%}  {best['name']}"
        click.echo(f"{entry['name']:<{width}}  {said}" + f"  (no evidence: {', '.join(blank)})" * bool(blank))
    if len(entries) > MOST_LINES:
        click.echo(f"... and {len(entries) - MOST_LINES} more in results.json")
    if not entries:
        say("No image could be read.")
        return
    left_out = f", {len(written.errors)} left out" if written.errors else ""
    layer = entries[0]["heatmaps"][0]["layer"]
    click.echo(f"\n{len(entries)} explained at layer {layer}{left_out}. Open: {plan.asked.output / 'grid.png'}")
