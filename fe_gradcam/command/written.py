"""The output of a run: pictures and arrays of each image, the grid, results.json, and a summary in the terminal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fe_gradcam import __version__
from fe_gradcam.command.messages import say, tell
from fe_gradcam.command.request import Plan, Wanted
from fe_gradcam.errors import Argument, ArgumentError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fe_gradcam.drawing.grid import Grid, Text
    from fe_gradcam.drawing.sheet import Look
    from fe_gradcam.explaining.explained import Column, Explained
    from fe_gradcam.loading.photos import Photo
    from fe_gradcam.types import Heatmap

MOST_LINES = 20
"""How many images the summary in the terminal names."""

CLASSES_LISTED = 5
"""How many classes of each image results.json names."""

LEAST_SIDE_OF_OVERLAY = 512
"""The least length in pixels of the longer side of the picture in a file of one heatmap."""

LEAST_SMOOTH = 128
"""The least length in pixels of the longer side of a picture that is enlarged smoothly."""

REPORT = "report.html"
"""The page of a run."""

CALLED = {"pred": "inferred"}
"""Labels of targets in words."""


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder that is written to.

    Raises:
        ArgumentError: A link stands there that leads out of the folder: what it points to would be replaced.
    """
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        said = f": {name!r} is a link that leads out of the folder. Remove it, or name another folder."
        raise ArgumentError(Argument("output", repr(str(folder))), said)
    return path


@dataclass
class Written:
    """The results of a run so far: images, and files that were left out, for results.json; rows for the grid."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    rows: list[Explained] = field(default_factory=list)


def image_names(plan: Plan) -> dict[Path, str]:
    """The beginning of the names of the files of each image: its own name, if there is room."""
    from fe_gradcam.files import NAME_BYTES, file_stems
    from fe_gradcam.loading.photos import unique_names

    longest = max(len(ending.encode()) for ending, _ in _endings(plan))
    return dict(zip(plan.files, file_stems(unique_names(plan.files), NAME_BYTES - longest), strict=True))


def _endings(plan: Plan) -> list[tuple[str, Wanted]]:
    """The end of the file name of each heatmap of an image, and its target."""
    from fe_gradcam.files import file_slugs

    of_methods = file_slugs(method.label for method in plan.methods)
    return [(f".{of_method}.{wanted.slug}.png", wanted) for of_method in of_methods for wanted in plan.wanted]


def write_image(plan: Plan, photo: Photo, name: str, part: Explained) -> dict[str, Any]:
    """Writes the pictures and arrays of one image; returns its entry of results.json."""
    from fe_gradcam.drawing.grid import draw_grid
    from fe_gradcam.drawing.picture import write_png
    from fe_gradcam.explaining.results import compose_arrays
    from fe_gradcam.files import write_arrays

    asked, heatmaps, called = plan.request, [], []
    for column, (ending, wanted) in zip(part.columns, _endings(plan), strict=True):
        file, grid = f"{name}{ending}", _overlay(plan, photo, part, column, wanted)
        write_png(inside(asked.output, file), draw_grid(grid, cell=max(grid.rows[0].panels[0].rgb.shape)))
        heatmaps.append({"target": column.target, **_heatmap_entry(column.heatmap, plan.names), "overlay": file})
        called.append(replace(column, target=wanted.slug))
    arrays = compose_arrays(replace(part, columns=called), 0, "")
    kept = {key: array for key, array in arrays.items() if key not in ("epoch", "mode")}
    write_arrays(inside(asked.output, f"{name}.npz"), kept)
    return {
        "file": str(photo.path),
        "name": name,
        "size": list(photo.size),
        "seen": [round(side, 2) for side in photo.box],
        "classes": _classes(part, plan.names),
        "heatmaps": heatmaps,
        "arrays": f"{name}.npz",
    }


def _overlay(plan: Plan, photo: Photo, part: Explained, column: Column, wanted: Wanted) -> Grid:
    """The picture of an image beside its heat, with a caption that says what is shown, so that it can be shared."""
    from fe_gradcam.drawing.canvas import TITLE_SIZE
    from fe_gradcam.drawing.sheet import compose_grid
    from fe_gradcam.drawing.text import shortened

    part = replace(part, columns=[column], pictures=enlarged(photo.picture)[None])
    name = shortened(photo.path.name, LEAST_SIDE_OF_OVERLAY, TITLE_SIZE)
    grid = compose_grid([part], plan.names, _look(plan), name)
    class_id, confidence = int(column.heatmap.class_ids[0]), float(column.heatmap.confidences[0])
    said = wanted.label
    if class_id >= 0 and not math.isnan(confidence):
        named = f"{plan.names.get(class_id, f'class {class_id}')} ({confidence:.0%})"
        said = named if isinstance(wanted.target, int) else f"{CALLED.get(said, said)}: {named}"
    (row,) = grid.rows
    panels = tuple(replace(panel, caption=None) for panel in row.panels)  # it stands above, and larger
    return replace(grid, rows=(replace(row, texts=(), panels=panels),), titles=("image", said))


def enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, enlarged until its longer side is LEAST_SIDE_OF_OVERLAY or more; small ones show square pixels."""
    import cv2
    import numpy as np

    (height, width), longer = picture.shape[:2], max(picture.shape[:2])
    if longer >= LEAST_SIDE_OF_OVERLAY:
        return picture
    squares = longer < LEAST_SMOOTH
    factor = -(-LEAST_SIDE_OF_OVERLAY // longer) if squares else LEAST_SIDE_OF_OVERLAY / longer
    size = max(1, round(width * factor)), max(1, round(height * factor))
    way = cv2.INTER_NEAREST if squares else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8)


def _classes(part: Explained, names: Mapping[int, str]) -> list[dict[str, Any]]:
    from fe_gradcam.explaining.results import inference_entries

    found = inference_entries(None if part.probabilities is None else part.probabilities[0], names)
    columns = (found[f"classification_{what}"][:CLASSES_LISTED] for what in ("class_ids", "class_names", "confidences"))
    triples = zip(*columns, strict=True)
    return [{"id": id_, "name": name, "confidence": _number(number)} for id_, name, number in triples]


def _heatmap_entry(heatmap: Heatmap, names: Mapping[int, str]) -> dict[str, Any]:
    class_id = None if heatmap.class_ids[0] < 0 else int(heatmap.class_ids[0])
    return {
        "method": heatmap.method,
        "layer": heatmap.layer,
        "class_id": class_id,
        "class_name": None if class_id is None else names.get(class_id, str(class_id)),
        "score": _number(heatmap.scores[0]),
        "confidence": _number(heatmap.confidences[0]),
        "blank": bool(heatmap.blank[0]),
    }


def _number(value: Any) -> float | None:
    """A number with the digits of float32 for JSON, which has no NaN."""
    number = float(f"{float(value):.7g}")
    return number if math.isfinite(number) else None


def finish(plan: Plan, written: Written) -> None:
    """Writes the grid and results.json, and prints a summary."""
    from fe_gradcam.drawing.grid import draw_grid
    from fe_gradcam.drawing.picture import write_png
    from fe_gradcam.files import write_bytes

    folder, grid = plan.request.output, None
    if written.rows:
        grid = "grid.png"
        write_png(inside(folder, grid), draw_grid(_grid(plan, written)))
        if plan.request.report:
            _write_report(plan, written)
    results = {
        "fe_gradcam": __version__,
        "model": plan.loaded.name,
        "weights": None if plan.request.weights is None else str(plan.request.weights),
        "preprocessing": asdict(plan.preparation),
        "scaling": plan.request.scaling,
        "grid": grid,
        "images": written.entries,
        "errors": written.errors,
    }
    write_bytes(inside(folder, "results.json"), _as_json(results))
    _summarise(plan, written)


def _as_json(results: Mapping[str, Any]) -> bytes:
    """The results as indented JSON, with lists of numbers on one line; names of files that are not text are escaped."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\[\n([\s\d.,-]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _look(plan: Plan) -> Look:
    from fe_gradcam.drawing.sheet import Look

    return Look(colormap=plan.request.colormap, alpha=plan.request.alpha)


def _grid(plan: Plan, written: Written) -> Grid:
    from fe_gradcam.drawing.sheet import compose_grid

    drawn, total = sum(map(len, written.rows)), len(written.entries)
    name = Path(plan.loaded.name).name
    title = name if drawn == total else f"{name}, the first {drawn} of {total} images"
    grid = compose_grid(written.rows, plan.names, _look(plan), title)
    notes = [_notes(plan, part, at) for part in written.rows for at in range(len(part))]
    rows = [replace(row, texts=(*row.texts, *more)) for row, more in zip(grid.rows, notes, strict=True)]
    return replace(grid, rows=tuple(rows))


def _write_report(plan: Plan, written: Written) -> None:
    """Writes the images of the grid as a page."""
    from fe_gradcam.reporting.entries import Shown
    from fe_gradcam.reporting.report import page_of, write_warned

    page = page_of(written.rows, Shown(look=_look(plan)), Path(plan.loaded.name).name, plan.names)
    if (drawn := sum(map(len, written.rows))) < len(written.entries):
        page.notes.append(f"The first {drawn} of {len(written.entries)} images.")
    write_warned(inside(plan.request.output, REPORT), page, "take fewer images or methods.")


def _notes(plan: Plan, part: Explained, at: int) -> list[Text]:
    """The probabilities of classes that columns are named by; those of other classes are below their pictures."""
    from fe_gradcam.drawing.grid import Text

    inferred = None if part.predictions is None else int(part.predictions[at])
    notes = []
    for wanted, column in zip(plan.wanted, part.columns, strict=False):
        class_id, confidence = int(column.heatmap.class_ids[at]), float(column.heatmap.confidences[at])
        if isinstance(wanted.target, int) and class_id != inferred and not math.isnan(confidence):
            notes.append(Text("note", plan.names.get(class_id, f"class {class_id}"), f"({confidence:.0%})"))
    return notes


def _summarise(plan: Plan, written: Written) -> None:
    entries = written.entries
    width = max([len(entry["name"]) for entry in entries[:MOST_LINES]], default=0)
    for entry in entries[:MOST_LINES]:
        best = next(iter(entry["classes"]), {"confidence": None})
        blank = [one["overlay"] for one in entry["heatmaps"] if one["blank"]]
        said = "" if best["confidence"] is None else f"{best['confidence']:>6.1%}  {best['name']}"
        line = f"{entry['name']:<{width}}  {said}" + f"  (no evidence: {', '.join(blank)})" * bool(blank)
        tell(printable(line))
    if len(entries) > MOST_LINES:
        tell(f"... and {len(entries) - MOST_LINES} more in results.json")
    if not entries:
        say("No image could be read.")
        return
    left_out = f", {len(written.errors)} left out" if written.errors else ""
    layer = entries[0]["heatmaps"][0]["layer"]
    first = REPORT if plan.request.report else "grid.png"
    tell("\n" + printable(f"{len(entries)} explained at layer {layer}{left_out}. Open: {plan.request.output / first}"))
