"""Explains image files batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fe_gradcam.command.messages import model_errors, say
from fe_gradcam.command.options import Request
from fe_gradcam.command.request import Plan, plan_for
from fe_gradcam.command.written import Written, finish, image_names, write_image
from fe_gradcam.errors import printable

if TYPE_CHECKING:
    from fe_gradcam.explaining.route import Explanation
    from fe_gradcam.loading.photos import Photo, Preparation


def explain_images(request: Request) -> bool:
    """Explains all images and writes the results; returns whether something was left out."""
    plan, written = plan_for(request), Written()
    request.output.mkdir(parents=True, exist_ok=True)
    try:
        _explain_files(plan, written)
    except BaseException:
        if written.entries:  # of a long run that was broken off, what there is
            finish(plan, written)
        raise
    finish(plan, written)
    return bool(written.errors)


def _explain_files(plan: Plan, written: Written) -> None:
    """Explains batch by batch: only the images of one batch, and those of the grid, are in memory."""
    files, size = plan.files, plan.request.batch_size
    called = image_names(plan)
    with _progress(len(files), plan.request.quiet or plan.settings.progress) as advance:
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


def _read(files: Sequence[Path], preparation: Preparation, written: Written) -> list[Photo]:
    from fe_gradcam.loading.photos import PhotoError, read_photo

    photos = []
    for path in files:
        try:
            photos.append(read_photo(path, preparation))
        except PhotoError as error:
            say(printable(f"{path} is left out: {error}"))
            written.errors.append({"file": str(path), "reason": str(error)})
    return photos


def _explain_batch(plan: Plan, photos: Sequence[Photo], called: Sequence[str], written: Written) -> None:
    import numpy as np

    from fe_gradcam.drawing.sheet import MOST_ROWS
    from fe_gradcam.explaining.explained import Column, Explained

    pictures = np.stack([photo.picture for photo in photos])
    done = _asked_of_the_model(plan, plan.preparation.inputs(pictures, channels_first=plan.loaded.framework == "torch"))
    classes = 0 if done.probabilities is None else done.probabilities.shape[1]
    if not written.entries and classes and max(plan.names, default=0) >= classes:  # they may be those of another model
        say(f"Warning: --class-names goes up to id {max(plan.names)}, and the model has {classes} classes.")
    whose = [(method, wanted) for method in plan.methods for wanted in plan.wanted]
    pairs = zip(whose, done.heatmaps, strict=True)
    columns = [Column(method.label, wanted.label, heatmap) for (method, wanted), heatmap in pairs]
    part = Explained(pictures, columns, done.probabilities, None, list(called))
    for at, photo in enumerate(photos):
        written.entries.append(write_image(plan, photo, called[at], part.rows(slice(at, at + 1))))
    room = MOST_ROWS - sum(map(len, written.rows))
    if room > 0:
        written.rows.append(part.rows(slice(0, room)))


def _asked_of_the_model(plan: Plan, images: Any) -> Explanation:
    from fe_gradcam.explaining.route import explained

    with model_errors(plan.loaded.name, images.shape):
        model, targets = plan.loaded.model, [wanted.target for wanted in plan.wanted]
        return explained(model, images, plan.settings, methods=plan.methods, layers=[plan.layer], targets=targets)
