"""What a net relies on, and what `fe_gradcam.find_shortcuts` says of its classes.

The reliance on a cue is the recognition of a class in held-out images with the cue, less that in the same images
without it; where every class has a cue of its own, with a wrong one.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fe_gradcam
from benchmarks.cue_nets import CACHE, Key, data, trained, unit
from benchmarks.cues import CUES, Planted
from fe_gradcam.verdicts.verdict import Code

SWAP = "surroundings"
"""The test whose figures are set against the reliance."""

OTHER_TESTS: tuple[Code, ...] = ("absence", "place", "sign", "nothing_local", "artefact")
"""What is not looked for behind the first part."""

EACH, PARTS = 16, 3
"""How many images of a class are judged at once, and how often: `kept_other` is compared over 48 images."""


@dataclass(frozen=True)
class Row:
    """One class of a net in one judgement.

    Attributes:
        net: The name of the net.
        annotated: Whether masks were given.
        part: Which images were judged.
        class_id: The class.
        told: Whether the cue tells this class.
        accuracy: Of the net, on the held-out images with the cue.
        reliance: Recognition lost without the cue, over the class's images that carry it; 0 if none does.
        fall: The same over all images of the class.
        code: Of the verdict.
        accused: Whether the verdict accuses.
        by: The tests that accuse.
        kept_same: Of the test of the surroundings; nan if it was not made.
        kept_other: Likewise.
        seconds: What the judgement of all classes took.
    """

    net: str
    annotated: bool
    part: int
    class_id: int
    told: bool
    accuracy: float
    reliance: float
    fall: float
    code: str
    accused: bool
    by: str
    kept_same: float
    kept_other: float
    seconds: float

    @property
    def key(self) -> Key:
        """What the net was trained on."""
        return Key.of(self.net)


def rows_of(labels: NDArray[np.int64], part: int) -> NDArray[np.int64]:
    """The images of one judgement: EACH of every class, others in each part, in the order of the data."""
    by_class = [np.flatnonzero(labels == one)[part * EACH : (part + 1) * EACH] for one in np.unique(labels)]
    return np.sort(np.concatenate(by_class))


def answers(model: Any, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class that a net of either framework says of images (N, H, W)."""
    with torch.no_grad():
        if isinstance(model, torch.nn.Module):
            return np.asarray(model(unit(images)).argmax(1).numpy())
    return np.asarray(model.predict(as_input(model, images), verbose=0).argmax(1))


def as_input(model: Any, images: NDArray[np.uint8]) -> Any:
    """Images (N, H, W) as a net of either framework wants them."""
    return unit(images) if isinstance(model, torch.nn.Module) else images[..., None] / np.float32(255)


def judged(model: Any, key: Key, held_out: Planted, *, annotated: bool, part: int) -> list[Row]:
    """Measures what a net relies on, and has its classes judged.

    Args:
        model: The net.
        key: What it was trained on.
        held_out: Images that it was not trained on.
        annotated: Whether the masks are given.
        part: Which of the images are judged; behind the first, by their surroundings alone.

    Returns:
        A row for each class.
    """
    with_it, without = (answers(model, one) == held_out.labels for one in (held_out.images, held_out.without))
    rows = rows_of(held_out.labels, part)
    these = held_out[rows]
    start = time.perf_counter()
    verdicts = fe_gradcam.find_shortcuts(
        model,
        as_input(model, these.images),
        labels=these.labels,
        masks=these.masks if annotated else None,
        ignore=OTHER_TESTS if part else (),
    )
    seconds, found = time.perf_counter() - start, []
    for verdict in verdicts:
        of_class = held_out.labels == verdict.class_id
        lost, carries = with_it.astype(float) - without, of_class & held_out.carries
        figures = {name: value for one in verdict.evidence if one.test == SWAP for name, value in one.figures.items()}
        by = "+".join(one.test for one in verdict.evidence if one.accuses)
        found.append(
            Row(
                str(key), annotated, part, verdict.class_id, verdict.class_id in CUES[key.cue].classes,
                float(with_it.mean()), float(lost[carries].mean()) if carries.any() else 0.0,
                float(lost[of_class].mean()) if of_class.any() else 0.0, verdict.code, verdict.accuses, by,
                figures.get("kept_same", float("nan")), figures.get("kept_other", float("nan")), seconds,
            )
        )  # fmt: skip
    return found


def judgements(key: Key) -> list[tuple[bool, int]]:
    """With masks or not, and on which part: masks and a cue, on each; else on the first."""
    return [(True, part) for part in range(PARTS if CUES[key.cue].classes else 1)] + [(False, 0)]


def of_net(key: Key, folder: Path = CACHE) -> list[Row]:
    """All rows of a net, which is trained if it is not kept."""
    torch.set_num_threads(1)
    if key.head == "keras":
        from benchmarks.cue_keras import keras_trained

        model: Any = keras_trained(key, folder)
    else:
        model = trained(key, folder)
    held_out = data(key)[2]
    return [
        row
        for annotated, part in judgements(key)
        for row in judged(model, key, held_out, annotated=annotated, part=part)
    ]


def read(path: Path) -> list[Row]:
    """The rows that a file holds; none if there is no file."""
    if not path.exists():
        return []
    kinds: dict[str, Callable[[str], Any]] = {"bool": "True".__eq__, "int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            Row(**{one.name: kinds[str(one.type)](line[one.name]) for one in fields(Row)})
            for line in csv.DictReader(file)
        ]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Row)])
        if fresh:
            writer.writeheader()
        writer.writerows(map(asdict, rows))
