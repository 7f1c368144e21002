"""A page of what a trained model was explained with: `report`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.picture import as_explained
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.errors import Argument, ArgumentError, in_short, warn
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.files import FilePath, checked_path
from fe_gradcam.metrics.rules import METRICS
from fe_gradcam.parameters import checked_text, flag, knows_its_keywords
from fe_gradcam.reporting.content import Page, PageDataset, asked_of
from fe_gradcam.reporting.entries import Shown
from fe_gradcam.reporting.page import LARGE, in_megabytes, write_page
from fe_gradcam.spec.arrays import array_of, listed
from fe_gradcam.spec.targets import names_by_id
from fe_gradcam.types import ClassNames, Heatmap
from fe_gradcam.verdicts.verdict import Verdict

LONGEST_PATH = 4096
"""Letters of a path; file systems take no more."""


@knows_its_keywords(
    names="class_names=",
    label_mapping="class_names=, names in the order of their ids or {id: name}",
    cmap="colormap=",
    heatmap="heatmaps, the third argument",
    save_dir="path, the first argument",
)
def report(
    path: FilePath,
    images: Any,
    heatmaps: Heatmap | Sequence[Heatmap],
    *,
    labels: ArrayLike | Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    class_names: ClassNames | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    metrics: Mapping[str, ArrayLike] | None = None,
    verdicts: Sequence[Verdict] = (),
    title: str = "",
    colormap: str = "turbo",
    alpha: float = 0.5,
    pictures: bool = True,
) -> Path:
    """Writes one HTML page of explained images, which needs nothing but a browser.

    The page has the verdicts with their experiments, and the images with their heat: filtered, sorted, opened large,
    with values under the pointer. It makes no request to anywhere; docs/report.md says what it holds.

    Args:
        path: Must end in ``.html``; missing folders are made, an existing file is replaced.
        images: (N, C, H, W), (N, H, W, C) or (N, H, W), as `fe_gradcam.draw` takes them.
        heatmaps: One Heatmap or a list, of the same N images and with the same scaling, as `explain` and
            `explain_many` return them.
        labels: (N,) true class ids, or names of `class_names`, or (N, C) of 0 and 1, as `fe_gradcam.draw` takes them.
        ids: N names of the images; the page holds no other names of files.
        class_names: Names of the classes, in the order of their ids, with one for each that is shown; or {id: name}.
        mean: Mean that the images were normalised with, a number or one per channel, to undo it.
        std: Standard deviation likewise.
        metrics: {name: (N,)} values of the first Heatmap, as `fe_gradcam.measure` returns them.
        verdicts: As `fe_gradcam.find_shortcuts` returns them.
        title: The title of the page; by default the file's name.
        colormap: Any colormap of matplotlib; a reader may choose another.
        alpha: Weight of the heat, 0 to 1; a reader may change it.
        pictures: Whether the page holds the images, also those of experiments; without them it shows heat alone.

    Returns:
        The path of the file.

    Raises:
        ArgumentError: The path ends in something else, or an argument does not fit the images.
        UnknownNameError: There is no such colormap or class.

    Example:
        >>> import tempfile, torch
        >>> from fe_gradcam import explain
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 10))
        >>> images = torch.rand(2, 1, 28, 28)
        >>> report(f"{tempfile.mkdtemp()}/heat.html", images, explain(net, images)).name
        'heat.html'
    """
    path = "".join(path) if isinstance(path, str) else path
    if not isinstance(path, (str, os.PathLike)) or len(os.fspath(path)) > LONGEST_PATH:
        raise ArgumentError(Argument("path", in_short(path)), " is not accepted. Accepted: the path of an .html file.")
    target, look = checked_path(path, ".html"), Look(colormap, alpha, mean, std)
    part = as_explained(images, heatmaps, look, labels, ids, class_names)
    accepted = "a list of Verdict, as find_shortcuts returns it."
    every = [verdicts] if isinstance(verdicts, Verdict) else listed("verdicts", verdicts, accepted)
    if not all(isinstance(one, Verdict) for one in every):
        raise ArgumentError(f"verdicts={in_short(verdicts):.100} is not accepted. Accepted: {accepted}")
    values = {} if metrics is None else _values_of(metrics, len(part))
    page = page_of(
        [part],
        Shown(flag("pictures", pictures), look),
        checked_text("title", title) or target.stem,
        names_by_id(class_names),
        values,
        every,
    )
    write_warned(target, page, "pass fewer images or heatmaps, or pictures=False.")
    return target


def page_of(
    parts: Sequence[Explained],
    shown: Shown,
    title: str,
    names: Mapping[int, str],
    metrics: Mapping[str, NDArray[np.float32]] | None = None,
    verdicts: Sequence[Verdict] = (),
) -> Page:
    """The page of images that were explained once.

    Args:
        parts: The images, with the same columns.
        shown: What the page may hold.
        title: Its title.
        names: Names of the classes by id.
        metrics: The values (N,) of metrics, by name.
        verdicts: What is known of the classes.
    """
    dataset, verdicts = PageDataset(), [replace(one, name=names.get(one.class_id, one.name)) for one in verdicts]
    dataset.add(Explained.joined(list(parts)), 0, shown, metrics=metrics, verdicts=verdicts)
    notes = [] if shown.pictures else ["Pictures are not included."]
    says = {name: f"{METRICS[name].better} is better" for name in metrics or {} if name in METRICS}
    return Page(
        title, names=names, look=shown.look, datasets={"": dataset}, says=says, asked=asked_of(parts), notes=notes
    )


def write_warned(path: Path, page: Page, advice: str) -> None:
    """Writes a page, with a warning that says what to lower if it is large."""
    size = write_page(path, page)
    if size > LARGE:
        said = f"{path.name} has {in_megabytes(page, size)}; some browsers open it slowly: {advice}"
        warn(said, stacklevel=3)


def _values_of(metrics: Any, count: int) -> dict[str, NDArray[np.float32]]:
    found = {}
    if not isinstance(metrics, Mapping):
        said = " is not accepted. Accepted: a dict {name: (N,) values}, as measure returns it."
        raise ArgumentError(Argument("metrics", in_short(metrics)), said)
    for name in listed("metrics", metrics, "a dict {name: (N,) values}."):
        checked_text("metrics", name)
        array = array_of("metrics", metrics[name], "numbers (N,), a value for each image.").astype(np.float32)
        if array.shape != (count,):
            raise ArgumentError(
                f"metrics[{in_short(name)}] has shape {array.shape}; ({count},) is needed, a value for each image, as "
                "measure returns them."
            )
        found[name] = array
    return found
