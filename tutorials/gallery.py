"""Every method on real photos with a pretrained ImageNet classifier, in one picture.

``python -m tutorials.gallery`` writes gallery.png and a smaller gallery.jpg; most of its minutes go to the methods
that ask the model about every channel of the layer.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fe_gradcam import METHODS, CamError, Heatmap, draw, explain
from fe_gradcam.drawing.picture import write_png
from fe_gradcam.files import write_bytes
from fe_gradcam.types import Method
from tutorials.demo import IMAGENET_NAMES, OUTPUT
from tutorials.real_data import photos, pretrained_torch, torch_input

SHOWN = ("chelsea", "coffee", "motorcycle", "flower")
CELL = 164
"""Side of a picture in pixels: with seven methods beside the photo and its names the width stays below 1,700."""

JPEG_WIDTH, JPEG_QUALITY = 1280, 70
"""Of the picture that is small enough for a page."""

AT_ONCE = 4
"""Images, and variants of them, in one pass: on a CPU that was several times as fast as 32."""

FEWER: dict[str, dict[str, Any]] = {"ss_cam": {"samples": 1}, "is_cam": {"samples": 2}}
"""Parameters that spare minutes; the picture's titles say them."""

BLOCKS: dict[str, tuple[str, ...]] = {
    "Channels weighted by gradients": (
        "grad_cam",
        "hires_cam",
        "grad_cam_elementwise",
        "layer_cam",
        "grad_cam_plus_plus",
        "smooth_grad_cam_plus_plus",
        "xgrad_cam",
    ),
    "The classifier's weights, second order, components, statistics; random weights": (
        "cam",
        "shapley_cam",
        "eigen_grad_cam",
        "eigen_cam",
        "kpca_cam",
        "fem",
        "random_cam",
    ),
    "The model asked again; all of its layers": (
        "score_cam",
        "ss_cam",
        "is_cam",
        "ablation_cam",
        "occlusion",
        "full_grad",
    ),
}
"""What stands in which row of panels; methods that none of them has join the last."""


def blocks() -> dict[str, list[str]]:
    """Every method of the registry, by block."""
    chosen = {title: [name for name in names if name in METHODS] for title, names in BLOCKS.items()}
    placed = [name for names in chosen.values() for name in names]
    chosen[list(chosen)[-1]] += [name for name in METHODS if name not in placed]
    return chosen


def explained_by(name: str, model: Any, images: Any) -> Heatmap | None:
    """The heatmaps of a method, or None where this network is none for it, which is said."""
    method: Method = (name, FEWER[name]) if name in FEWER else name
    started = time.perf_counter()
    try:
        heatmap = explain(model, images, method=method, batch_size=AT_ONCE)
    except CamError as error:
        print(f"{name} is left out: {error}", flush=True)
        return None
    print(f"{heatmap.method}: {time.perf_counter() - started:.1f} s", flush=True)
    return heatmap


def gallery() -> NDArray[np.uint8]:
    """The picture, (H, W, 3)."""
    pictures, names, class_ids = photos()
    rows = [names.index(name) for name in SHOWN]
    pictures = pictures[rows]
    model, images = pretrained_torch(), torch_input(pictures)
    drawn = []
    for title, methods in blocks().items():
        found = [explained_by(name, model, images) for name in methods]
        maps = [heatmap for heatmap in found if heatmap is not None]
        if not maps:
            continue
        labels = np.array([class_ids[row] for row in rows])
        drawn.append(
            draw(pictures, maps, labels=labels, ids=SHOWN, class_names=IMAGENET_NAMES, title=title, cell=CELL).rgb
        )
    return stacked(drawn)


def stacked(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures below each other, the narrower ones with white on their right."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in pictures]
    return np.concatenate(padded)


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """The picture, no wider than JPEG_WIDTH, as the bytes of a JPEG file."""
    factor = min(1.0, JPEG_WIDTH / picture.shape[1])
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


def main() -> int:
    """Makes the picture and says where it lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where the picture is put")
    output: Path = parser.parse_args().output
    started = time.perf_counter()
    picture = gallery()
    write_png(output / "gallery.png", picture)
    write_bytes(output / "gallery.jpg", encode_jpeg(picture))
    print(f"Done in {time.perf_counter() - started:.0f} s. Open {output / 'gallery.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
