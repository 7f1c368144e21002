"""Many images through `explain` against plain inference, and how its cost grows with what is asked.

``images``: batch after batch, in turns with plain inference of the same batch. Memory is flat if what the process
holds after the last image is what it held after the first 1,000.

``growth``: ResNet-18, over plain inference of the same batch: images, their size, layers, methods and targets of one
call. Methods and targets share the forward pass of a layer.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.measure import Call, compared, resident
from benchmarks.nets import plain, ready
from fe_gradcam import explain, explain_many, top_k

PARTS = ("images", "growth")
RUNS = (("lenet_of_modules", 10_000, 100), ("resnet18", 10_000, 100), ("efficientnet_lite0", 512, 16))
"""Net, images, images at once."""

FLAT_AFTER = 0.1
"""The share of the images after which memory is first looked at."""

METHODS = ("grad_cam", "hires_cam", "layer_cam", "grad_cam_plus_plus")
LAYERS = tuple(f"net.resnet.encoder.stages.{stage}" for stage in (2, 1, 0, 3))


def print_run(name: str, images: int, at_once: int) -> None:
    """A row: the time of all images, and what the process holds, MiB."""
    _, model, pool = ready("torch", name, 10 * at_once)
    taken, held = {"explain": 0.0, "plain": 0.0}, []
    for index in range(images // at_once):
        x = pool[index % 10 * at_once :][:at_once]
        for which, function in (("plain", plain("torch", model, x)), ("explain", partial(explain, model, x))):
            started = time.process_time()
            function()
            taken[which] += time.process_time() - started
        held.append(resident())
    first, peaks = held[int(FLAT_AFTER * len(held)) - 1], held[-1]
    ratio = taken["explain"] / taken["plain"]
    cells = [name, f"{images} in {at_once}s", f"{taken['explain']:.1f} s", f"{taken['plain']:.1f} s", f"{ratio:.2f}"]
    print(" | ".join([*cells, f"{first:.0f} MiB", f"{peaks:.0f} MiB"]), flush=True)


def cases(model: Any, x: Any) -> Iterator[tuple[str, Call, Any]]:
    """What is varied, the call, and the images that plain inference gets."""
    for count in (1, 4, 16, 64):
        few = x[:1].repeat(count, 1, 1, 1)
        yield f"{count} images", partial(explain, model, few), few
    for size in (32, 64, 128, 224):
        larger = torch.rand(8, 3, size, size)
        yield f"{size} px", partial(explain, model, larger), larger
    for count in (1, 2, 4):
        yield f"{count} layers", partial(explain_many, model, x, layers=LAYERS[:count]), x
    for count in (1, 2, 4):
        yield f"{count} methods", partial(explain_many, model, x, methods=METHODS[:count]), x
    for count in (1, 2, 4, 8):
        yield f"{count} targets", partial(explain_many, model, x, targets=top_k(count)), x


def print_growth(pairs: int) -> None:
    """A row for each case: the ratio to plain inference of the same images."""
    _, model, x = ready("torch", "resnet18")
    for name, function, images in cases(model, x):
        print(f"{name} | {compared(function, plain('torch', model, images), pairs)}", flush=True)


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; both by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the images and pairs")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if "images" in (chosen.parts or PARTS):
        print("net | images | explain | plain | ratio | held after a tenth | at the end", flush=True)
        for name, images, at_once in RUNS:
            print_run(name, max(int(images * chosen.share), 10 * at_once), at_once)
    if "growth" in (chosen.parts or PARTS):
        print("asked for (ResNet-18, 8 images of 32 px, 1 of the rest) | over plain inference", flush=True)
        print_growth(max(int(31 * chosen.share), 3))


if __name__ == "__main__":
    main()
