"""What a page of a training costs: its size, and the seconds that it takes after each epoch.

Photos of 224 pixels, maps of 14x14, a fifth of the images told wrongly, so that there is heat of the true class too. An
epoch costs packing (its heat, once) and writing (the whole page, so the time grows with the epochs).
"""

from __future__ import annotations

import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.reporting.content import HEAT_MOST, Page, PageDataset
from fe_gradcam.reporting.entries import Shown
from fe_gradcam.reporting.page import write_page
from fe_gradcam.scaling import scale
from fe_gradcam.types import Heatmap
from tutorials.real_data import photos

RUNS = ((32, 50, 1), (64, 100, 3), (64, 400, 3))
"""Images, epochs, methods."""

LAYER, SIDE = (14, 14), 224
"""The size of the maps, and the side of the pictures."""


def epoch_of(pictures: NDArray[np.uint8], methods: int, generator: np.random.Generator) -> Explained:
    """An epoch of these pictures with made-up heat, which is as large as real heat."""
    count = len(pictures)
    labels, wrong = generator.integers(0, 10, count), generator.random(count) < 0.2
    columns = []
    for number in range(methods):
        raw = generator.normal(size=(count, *LAYER)).astype(np.float32)
        values = scale(torch.from_numpy(raw), "scale_after_relu", (SIDE, SIDE)).numpy()
        numbers = np.full(count, 0.5, np.float32)
        which, blank = np.where(wrong, 9 - labels, labels), np.zeros(count, bool)
        heatmap = Heatmap(values, raw, which, numbers, numbers, blank, f"method {number}", "layer4", "scale_after_relu")
        columns += [Column(heatmap.method, "pred", heatmap), Column(heatmap.method, "label", heatmap, shown=wrong)]
    probabilities = generator.random((count, 10)).astype(np.float32)
    return Explained(pictures, columns, probabilities, labels, [f"photo {at}" for at in range(count)])


def shown(count: int) -> NDArray[np.uint8]:
    """So many parts of photos, all different."""
    images, _, _ = photos()
    whole = (255 * images + 0.5).astype(np.uint8)
    return np.stack([np.roll(whole[at % len(whole)], 29 * (at // len(whole)), axis=1) for at in range(count)])


def main() -> None:
    """Prints a row for each run."""
    print("images | epochs | methods | MB | packing an epoch, s | writing after the first epoch, s | after the last, s")
    with tempfile.TemporaryDirectory() as folder:
        for images, epochs, methods in RUNS:
            dataset, generator, pictures = PageDataset(), np.random.default_rng(0), shown(images)
            page, packing, writing, size = Page("a training", datasets={"": dataset}), 0.0, [], 0
            parts = cycle([epoch_of(pictures, methods, generator) for _ in range(4)])
            for number, part in zip(range(1, epochs + 1), parts, strict=False):
                started = time.perf_counter()
                dataset.add(part, number, Shown(most=HEAT_MOST))
                packing += time.perf_counter() - started
                if number in (1, epochs):
                    started = time.perf_counter()
                    size = write_page(Path(folder) / "page.html", page)
                    writing.append(time.perf_counter() - started)
            cells = [str(images), str(epochs), str(methods), f"{size / 1e6:.2f}", f"{packing / epochs:.3f}"]
            print(" | ".join([*cells, *(f"{one:.3f}" for one in writing)]), flush=True)


if __name__ == "__main__":
    main()
