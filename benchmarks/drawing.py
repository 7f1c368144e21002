"""What a grid costs, from arrays to a PNG on disk, and what importing the package costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from fastestimator.trace.io import ImageSaver
from fastestimator.util.data import Data

from fe_gradcam import explain_many
from fe_gradcam.drawing.picture import Picture, write_png
from fe_gradcam.drawing.sheet import Look, compose_grid
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.integrations.fastestimator.display import HeatmapGrid
from tutorials.real_data import photos, pretrained_torch, torch_input

RUNS = 15


def photo_grid() -> Explained:
    """Seven photos with three methods: four columns of 224 px."""
    images, names, _ = photos()
    maps = explain_many(pretrained_torch(), torch_input(images), methods=["grad_cam", "hires_cam", "layer_cam"])
    return Explained(
        pictures=(255 * images + 0.5).astype(np.uint8),
        columns=[Column(heatmap.method, "pred", heatmap) for heatmap in maps],
        probabilities=None,
        labels=maps[0].class_ids,
        ids=names,
    )


def picture_of(part: Explained) -> Picture:
    """What is drawn anew each time."""
    return Picture(compose_grid([part], {}, Look(), "photos"))


def through_own_file(part: Explained, folder: Path) -> None:
    """As the trace does with `save_dir`."""
    write_png(folder / "own.png", picture_of(part).rgb)


def through_image_saver(part: Explained, folder: Path) -> None:
    """As FastEstimator's ImageSaver does."""
    data = Data()
    data.write_without_log("gradcam", HeatmapGrid(picture_of(part)))
    saver = ImageSaver("gradcam", save_dir=str(folder))
    saver.system = SimpleNamespace(mode="eval", epoch_idx=1)
    saver.on_epoch_end(data)


def import_seconds() -> float:
    """Of ``import fe_gradcam`` in a fresh interpreter, that of the interpreter itself not counted."""
    program = (
        "import time; started = time.perf_counter(); import fe_gradcam; took = time.perf_counter() - started\n"
        "import sys; assert not {'torch', 'tensorflow', 'fastestimator'} & set(sys.modules)\n"
        "print(took)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Prints the medians."""
    part = photo_grid()
    with tempfile.TemporaryDirectory() as name:
        for draw in (through_own_file, through_image_saver):
            draw(part, Path(name))
            times = []
            for _ in range(RUNS):
                started = time.perf_counter()
                draw(part, Path(name))
                times.append(time.perf_counter() - started)
            print(f"{draw.__name__}: {np.median(times):.3f} s [{min(times):.3f}, {max(times):.3f}]")
    print(f"import fe_gradcam: {np.median([import_seconds() for _ in range(RUNS)]):.4f} s")


if __name__ == "__main__":
    main()
