"""How often the alarm of the atlas is right, and how often it is false.

Small nets are trained on digits: at random places of a canvas, or all in its middle (registered); clean, or with a
white square in the lower right corner of every 3. Of each training the atlas of 128 images and the alarms of
`fe_gradcam.verdicts.places` are made, as the trace makes them. An alarm of a clean training is false; so is one of
another class than 3, and one at another place than the corner.

``python -m benchmarks.shortcut --trainings 20`` prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fe_gradcam import explain
from fe_gradcam.verdicts.atlas import Atlas
from fe_gradcam.verdicts.places import Alarm, alarms, suspects
from tutorials.real_data import CANVAS_SIZE, digit_canvases

Places = Literal["random", "centred"]
Head = Literal["average", "max"]
TRAINED, MARKED = 4500, 3
MARK = slice(CANVAS_SIZE - 8, CANVAS_SIZE - 2)
"""Rows and columns of the square."""

EPOCHS, BATCH, RATE = 6, 64, 1e-2
IN_ATLAS = 128


@dataclass(frozen=True)
class Outcome:
    """Of one training.

    Attributes:
        accuracy: Of the 500 images for evaluation.
        fixed: The largest fixed-place score.
        suspected: How many classes were tested.
        right: Whether the marked class is warned of, at the mark.
        false: How many other warnings there were.
    """

    accuracy: float
    fixed: float
    suspected: int
    right: bool
    false: int


def net(head: Head) -> nn.Module:
    """Four convolutions, pooling over all places and one linear layer."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    pool = nn.AdaptiveAvgPool2d(1) if head == "average" else nn.AdaptiveMaxPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(64, 10))


def digits(places: Places, seed: int, *, marked: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """5,000 canvases (N, 64, 64) and their classes (N,)."""
    canvases = digit_canvases(seed)
    images = canvases.images.copy()
    if places == "centred":
        for image, (left, top, width, height) in zip(images, canvases.boxes, strict=True):
            ink = image[top : top + height, left : left + width].copy()
            image[:] = 0
            down, across = (CANVAS_SIZE - height) // 2, (CANVAS_SIZE - width) // 2
            image[down : down + height, across : across + width] = ink
    if marked:
        images[np.ix_(canvases.labels == MARKED, range(CANVAS_SIZE)[MARK], range(CANVAS_SIZE)[MARK])] = 255
    return images, canvases.labels


def trained(images: torch.Tensor, labels: torch.Tensor, head: Head, seed: int) -> nn.Module:
    """A net after EPOCHS epochs."""
    torch.manual_seed(seed)
    model, generator = net(head), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * -(-len(images) // BATCH))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def outcome(head: Head, places: Places, seed: int, *, marked: bool) -> Outcome:
    """Trains, and looks for shortcuts."""
    canvases, classes = digits(places, seed, marked=marked)
    images, labels = torch.from_numpy(canvases[:, None] / np.float32(255)), torch.from_numpy(classes)
    model = trained(images[:TRAINED], labels[:TRAINED], head, seed)
    with torch.no_grad():
        right = model(images[TRAINED:]).argmax(1) == labels[TRAINED:]
    rows = np.random.default_rng(seed).permutation(len(images) - TRAINED)[:IN_ATLAS] + TRAINED
    heatmap = explain(model, images[rows], batch_size=BATCH)
    atlas = Atlas.of(heatmap, np.repeat(canvases[rows, ..., None], 3, axis=-1))
    found = alarms(model, images[rows], heatmap, atlas, seed=seed)
    good = [alarm for alarm in found if marked and alarm.class_id == MARKED and _at_mark(alarm)]
    return Outcome(
        float(right.float().mean()), atlas.fixed_place, len(suspects(atlas)), bool(good), len(found) - len(good)
    )


def _at_mark(alarm: Alarm) -> bool:
    middle = (MARK.start + MARK.stop) / 2
    down, across = middle - alarm.box.top, middle - alarm.box.left
    return 0 <= down < alarm.box.height and 0 <= across < alarm.box.width


def lines(kinds: Sequence[tuple[Head, Places, bool]], trainings: int) -> Iterator[str]:
    """The table."""
    titles = ["pooling", "digits", "mark", "trainings", "accuracy", "fixed place", "tested"]
    titles += ["right alarms", "false alarms"]
    yield f"| {' | '.join(titles)} |"
    yield f"| {' | '.join('---' for _ in titles)} |"
    for head, places, marked in kinds:
        every = [outcome(head, places, seed, marked=marked) for seed in range(trainings)]
        accuracies, fixed = [one.accuracy for one in every], [one.fixed for one in every]
        mark = "yes" if marked else "no"
        yield (
            f"| {head} | {places} | {mark} | {trainings} | {min(accuracies):.3f} to {max(accuracies):.3f} | "
            f"{min(fixed):.2f} to {max(fixed):.2f} | {sum(one.suspected for one in every)} | "
            f"{sum(one.right for one in every)} | {sum(one.false for one in every)} |"
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=20, help="of each kind")
    parser.add_argument("--only", choices=["average", "max"], help="nets with this pooling alone")
    arguments: Any = parser.parse_args()
    heads: list[Head] = [head for head in ("average", "max") if arguments.only in (None, head)]
    places: list[Places] = ["random", "centred"]
    kinds = list(product(heads, places, (False, True)))
    for line in lines(kinds, arguments.trainings):
        print(line, flush=True)


if __name__ == "__main__":
    main()
