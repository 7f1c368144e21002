"""What the methods are worth, and what they cost.

``quality``: localisation (`benchmarks.localisation`), deletion and insertion (`benchmarks.default_layer`) of every
method on 500 digit canvases, of the pooling + linear net that `benchmarks.localisation` trains, at its default layer;
and the paired differences to `random_cam`, whose heat is made of the activations alone, one draw per image.

``class``: whether a method knows the class that it is asked about. Of two digits on one canvas each is explained in
turn; the measure is the share of the heat in the asked digit's box, of that in both boxes. 0.5 knows no class.

``cost``: the time of every method on photos with a pretrained EfficientNet-Lite0, against plain inference.

``memory``: the peak of `score_cam`, with its 1,280 passes an image, against that of plain inference with as many images
as it asks about at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.default_layer import (
    MEASURES,
    STEPS,
    Values,
    check,
    deletion,
    difference_text,
    estimate,
    insertion,
    start_worker,
)
from benchmarks.localisation import EPOCHS, gain, torch_net
from benchmarks.measure import compared, rise, rise_of
from benchmarks.nets import images as photo_batch
from fe_gradcam import METHODS, CamError, explain, explain_many
from fe_gradcam.types import Method
from tutorials.digits import TRAINED, input_shape, train
from tutorials.real_data import CANVAS_SIZE, digit_canvases, pretrained_torch

PARTS = ("quality", "class", "cost", "memory")
BASELINE = "random_cam"
RANDOM_HEAT = "uniform random heat"

BETTER = {"gain": 1, "deletion": -1, "insertion": 1}
"""The sign of a difference for the better, of each measure."""

TWO_DIGITS = 200
"""Canvases with two digits."""

PHOTOS = 2
AT_ONCE = 4
"""Variants of the photos in one pass, of the methods that ask the model again."""

PAIRS = 7
ONCE = 5.0
"""Seconds a photo from which a method is timed once, and not in pairs."""

BY_SAMPLE = ("ss_cam", "is_cam")
"""Methods whose time is that of one sample times their number: each of them takes as long."""

BATCH_SIZES = (8, 64)
"""Of the memory."""

TIMED_AT_ONCE = (4, 8)
TIMED_BY_SIZE = ("score_cam", "ablation_cam")

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Quality:
    """The measures of one method, for each image.

    Attributes:
        label: The method with the parameters it was given.
        blank: Number of images without heat.
        values: By the name of the measure; empty where the method is refused.
        correct: (N,) whether the class explained is the digit's.
        refused: Why, or "".
    """

    label: str
    blank: int
    values: dict[str, Values]
    correct: NDArray[np.bool_]
    refused: str = ""


def quality(state: State, method: Method | None) -> Quality:
    """Explains the canvases and measures the heat.

    Args:
        state: The trained net's.
        method: As `explain` takes it; None for heat that knows nothing, uniform random pixels.
    """
    model = torch_net().eval()
    model.load_state_dict(state)
    canvases = digit_canvases()[TRAINED:]
    white = torch.from_numpy(canvases.images.reshape(-1, *input_shape("torch")).astype(np.float32) / 255)
    name = "grad_cam" if method is None else method
    try:
        heatmap = explain(model, white, method=name, batch_size=100, progress=False)
    except CamError as error:
        return Quality(str(name), 0, {}, np.zeros(0, bool), str(error))
    heat, label, blank = heatmap.values, heatmap.method, int(heatmap.blank.sum())
    if method is None:
        heat, label, blank = np.random.default_rng(0).random(heat.shape, np.float32), RANDOM_HEAT, 0
    black = torch.zeros_like(white)
    net: Any = model.to(memory_format=torch.channels_last)
    values = {
        "gain": gain(heat, canvases),
        "deletion": deletion(net, white, black, heat, heatmap.class_ids),
        "insertion": insertion(net, white, black, heat, heatmap.class_ids),
    }
    return Quality(label, blank, values, heatmap.class_ids == canvases.labels)


def beaten(of: Quality, base: Quality) -> str:
    """The measures on which a method is ahead of the baseline: those whose interval of paired differences says so."""
    ahead, behind = [], []
    for name, sign in BETTER.items():
        difference = estimate(of.values[name] - base.values[name])
        ends = sorted((sign * difference.low, sign * difference.high))
        if ends[0] > 0:
            ahead.append(name)
        elif ends[1] < 0:
            behind.append(name)
    said = "all" if len(ahead) == len(BETTER) else ", ".join(ahead) or "none"
    return f"{said}; worse: {', '.join(behind)}" if behind else said


def table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


@cache
def trained_state() -> State:
    """The trained net's, without FastEstimator's log."""
    with contextlib.redirect_stdout(io.StringIO()):
        state: State = train("torch", torch_net, lambda model: [], EPOCHS).cpu().state_dict()
    return state


def measured_by(
    measure: Callable[[State, Method | None], Quality], methods: Sequence[Method | None], workers: int
) -> list[Quality]:
    """The measures of each method that is not refused; one that is is said to be."""
    state = trained_state()
    results = []
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        for future in [pool.submit(measure, state, method) for method in methods]:
            results.append(future.result())
            print(f"done: {results[-1].label}", file=sys.stderr, flush=True)
    for result in results:
        if result.refused:
            print(f"{result.label} is refused: {result.refused}")
    return [result for result in results if not result.refused]


def print_quality(workers: int) -> None:
    """Trains the net and prints the tables."""
    check()
    measured = measured_by(quality, [None, *METHODS], workers)
    (base,) = (result for result in measured if result.label == BASELINE)
    print(
        f"\n{len(base.correct)} digit canvases, one training of the net, accuracy {base.correct.mean():.3f}; {STEPS} "
        "steps of deletion and insertion, to and from black; [95 % bootstrap interval over images]. Gain: more is "
        "better, 1 knows nothing, over the images that are not blank; deletion: less is better; insertion: more.\n"
    )
    rows = ((r.label, str(r.blank), *(estimate(r.values[name]).text() for name in MEASURES)) for r in measured)
    print(table(("method", "blank", *MEASURES), rows))
    print(f"\nPaired differences to {BASELINE}; *: the interval excludes 0.\n")
    differences = (
        (
            r.label,
            *(difference_text(r.values[name], base.values[name]) for name in MEASURES),
            beaten(r, base),
        )
        for r in measured
        if r is not base
    )
    print(table(("method", *MEASURES, "ahead of it on"), differences), flush=True)


def two_digits(count: int = TWO_DIGITS, seed: int = 0) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Canvases with a digit in each half, of two classes.

    Returns:
        (N, 1, CANVAS_SIZE, CANVAS_SIZE) in [0, 1]; their classes (N, 2), left and right; their boxes (N, 2, 4).
    """
    canvases, generator = digit_canvases()[TRAINED:], np.random.default_rng(seed)
    images = np.zeros((count, CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    classes, boxes = np.zeros((count, 2), np.int64), np.zeros((count, 2, 4), np.int64)
    for at in range(count):
        first = int(generator.integers(len(canvases.labels)))
        second = int(generator.choice(np.flatnonzero(canvases.labels != canvases.labels[first])))
        for side, digit in enumerate((first, second)):
            left, top, width, height = canvases.boxes[digit]
            ink = canvases.images[digit, top : top + height, left : left + width]
            x = side * CANVAS_SIZE // 2 + int(generator.integers(CANVAS_SIZE // 2 - width + 1))
            y = int(generator.integers(CANVAS_SIZE - height + 1))
            images[at, y : y + height, x : x + width] = ink
            classes[at, side], boxes[at, side] = canvases.labels[digit], (x, y, width, height)
    return torch.from_numpy(images[:, None].astype(np.float32) / 255), classes, boxes


def inside(heat: NDArray[np.float32], boxes: NDArray[np.int64]) -> Values:
    """The sum of each image's heat in its box."""
    return np.array([values[y : y + h, x : x + w].sum() for values, (x, y, w, h) in zip(heat, boxes, strict=True)])


def class_share(state: State, method: Method | None) -> Quality:
    """The share of the heat on the digit asked about, the mean of asking for either; NaN where one is blank."""
    model = torch_net().eval()
    model.load_state_dict(state)
    images, classes, boxes = two_digits()
    name = "grad_cam" if method is None else method
    targets = [classes[:, side] for side in range(2)]
    try:
        maps = explain_many(model, images, methods=[name], targets=targets, batch_size=100, progress=False)
    except CamError as error:
        return Quality(str(name), 0, {}, np.zeros(0, bool), str(error))
    shares = []
    for side, heatmap in enumerate(maps):
        of_both = np.stack([inside(heatmap.values, boxes[:, other]) for other in range(2)])
        total = of_both.sum(0)
        shares.append(np.where(total > 0, of_both[side] / np.where(total > 0, total, 1), np.nan))
    with torch.inference_mode():
        highest = model(images).topk(2).indices.sort().values.numpy()
    blank = sum(int(heatmap.blank.sum()) for heatmap in maps)
    values = {"share": np.mean(shares, axis=0)}
    return Quality(maps[0].method, blank, values, (highest == np.sort(classes)).all(1))


def print_class(workers: int) -> None:
    """Prints the table of shares."""
    measured = measured_by(class_share, list(METHODS), workers)
    correct = measured[0].correct
    print(
        f"{len(correct)} canvases with two digits, of a net trained on canvases with one; in {correct.mean():.0%} the "
        "two classes are its two highest. The share of the heat on the digit asked about, of that on both; [95 % "
        "bootstrap interval over images]. Blank: of both heatmaps of each canvas.\n"
    )
    rows = ((r.label, str(r.blank), estimate(r.values["share"]).text()) for r in measured)
    print(table(("method", "blank", "share"), rows), flush=True)


@cache
def photo_model() -> Any:
    """The pretrained classifier."""
    return pretrained_torch()


@cache
def photo_input(count: int) -> Tensor:
    """Photos as it takes them."""
    return torch.from_numpy(np.ascontiguousarray(photo_batch(count).transpose(0, 3, 1, 2)))


def plain(count: int) -> object:
    """Plain inference of so many photos."""
    model, images = photo_model(), photo_input(count)  # weights made in inference mode would be copied for every pass
    with torch.inference_mode():
        return model(images)


def seconds(function: Callable[[], object]) -> float:
    """How long it takes, once."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_seconds(number: float) -> str:
    """The number with two digits, or as many as it has before the point."""
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def cost_row(name: str, base: float) -> tuple[str, str, str, str]:
    """The method, its passes in words, the ratio to plain inference, and what it makes of the `base` seconds."""
    factor = int(METHODS[name].parameters["samples"].default) if name in BY_SAMPLE else 1
    method: Method = (name, {"samples": 1}) if name in BY_SAMPLE else name
    said = f"1 sample × {factor}, " if factor > 1 else ""

    def explaining() -> object:
        return explain(photo_model(), photo_input(PHOTOS), method=method, batch_size=AT_ONCE, progress=False)

    try:
        first = seconds(explaining)
    except CamError:
        return name, METHODS[name].cost, "refused", ""
    if first > PHOTOS * ONCE:
        median = factor * first / base
        spread = f"{median:,.0f} ({said}timed once)"
    else:
        ratio = compared(explaining, lambda: plain(PHOTOS), PAIRS if first < 1 else 3)
        median, spread = ratio.median, f"{ratio.median:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"
    return name, METHODS[name].cost, spread, in_seconds(median * base / PHOTOS)


def print_cost() -> None:
    """Prints the table of times."""
    torch.set_num_threads(1)  # on a machine that others use too, several threads wait for each other
    base = float(np.median([seconds(lambda: plain(PHOTOS)) for _ in range(2 * PAIRS)][PAIRS:]))
    print(
        f"EfficientNet-Lite0, {PHOTOS} photos of 224 px at once, batch_size={AT_ONCE}, "
        f"one thread; plain inference takes {base / PHOTOS:.3f} s a photo; ratios "
        "are medians of interleaved pairs [95 % interval], and seconds the ratio times plain inference.\n"
    )
    rows = (cost_row(name, base) for name in METHODS)
    print(table(("method", "passes", "times plain inference", "seconds a photo"), rows), flush=True)
    print("\nSeconds for one photo, timed once, by the number of passes at once.\n")
    by_size = (
        (str(size or "None"), *(in_seconds(seconds_of_one(name, size)) for name in TIMED_BY_SIZE))
        for size in (*TIMED_AT_ONCE, None)
    )
    print(table(("batch_size", *TIMED_BY_SIZE), by_size), flush=True)


def seconds_of_one(name: str, batch_size: int | None) -> float:
    """How long a method takes for one photo, once."""
    return seconds(lambda: explain(photo_model(), photo_input(1), method=name, batch_size=batch_size, progress=False))


def print_peak_rise(which: str, batch: int) -> None:
    """MiB by which the peak rises, in a fresh process, once the model is loaded."""
    photo_model()
    one, many = photo_input(1), photo_input(batch)
    if which == "plain":
        print(rise(lambda: plain(len(many)), 3))
    else:
        print(rise(lambda: explain(photo_model(), one, method=which, batch_size=batch, progress=False), 1))


def print_memory() -> None:
    """Prints the table of peaks."""
    print("EfficientNet-Lite0, rise of a process's peak above the loaded model, MiB; score_cam of one photo.\n")

    def rows() -> Iterator[Sequence[str]]:
        for batch in BATCH_SIZES:
            rises = [rise_of("benchmarks.methods", which, str(batch)) for which in ("score_cam", "plain")]
            yield str(batch), *(f"{rise:.0f}" for rise in (*rises, rises[0] - rises[1]))

    print(table(("batch_size", "score_cam", "plain inference of as many photos", "difference"), rows()), flush=True)


def main() -> None:
    """Prints the tables of the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all where none is given")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time, of quality and class")
    parser.add_argument("--peak", nargs=2, metavar=("WHICH", "BATCH"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        print_peak_rise(chosen.peak[0], int(chosen.peak[1]))
        return
    for part in chosen.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is none of {', '.join(PARTS)}")
    started = time.perf_counter()
    for part in chosen.parts or PARTS:
        print(f"\n## {part}\n", flush=True)
        {
            "quality": lambda: print_quality(chosen.workers),
            "class": lambda: print_class(chosen.workers),
            "cost": print_cost,
            "memory": print_memory,
        }[part]()
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
