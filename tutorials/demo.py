"""Trains with the trace on, on PyTorch and on TensorFlow, then explains a pretrained classifier on photos.

``make demo`` runs it, in two to five minutes on two CPU cores; the grids lie in demo_output/ afterwards.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from fastestimator.architecture.pytorch import LeNet as TorchLeNet
from fastestimator.architecture.tensorflow import LeNet as KerasLeNet

from fe_gradcam import Contrast, GradCAM, draw, explain_many, top_k
from tutorials.digits import Framework, input_shape, train
from tutorials.real_data import photos, pretrained_torch, torch_input

OUTPUT = Path("demo_output")
EPOCHS = 10
LENETS: dict[Framework, Any] = {"torch": TorchLeNet, "tf": KerasLeNet}
METHODS = ("grad_cam", "hires_cam", "layer_cam")
SHOWN = ("chelsea", "coffee", "motorcycle", "astronaut")
IMAGENET_NAMES = {
    **{282: "tiger cat", 285: "Egyptian cat", 450: "bobsled", 560: "football helmet", 657: "missile"},
    **{665: "moped", 670: "motor scooter", 967: "espresso", 968: "cup", 985: "daisy"},
}


def heatmaps(model: Any, folder: Path) -> list[GradCAM]:
    """The one line that a user adds: a grid of eight eval images at the end of every epoch, and what goes with it."""
    return [
        GradCAM(
            images="x",
            model=model,
            labels="y",
            preds="y_pred",
            label_mapping={str(digit): digit for digit in range(10)},
            ids="name",
            n_samples=8,
            methods=METHODS,
            track=True,
            metrics=["deletion", "insertion", "drift"],
            atlas=True,
            save_dir=folder,
        )
    ]


def explain_photos(path: Path) -> None:
    """Draws where a pretrained ImageNet classifier sees its first class, its second, and what decides between them."""
    images, names, _ = photos()
    images = images[[names.index(name) for name in SHOWN]]
    maps = explain_many(pretrained_torch(), torch_input(images), targets=[*top_k(2), Contrast()])
    draw(images, maps, ids=SHOWN, class_names=IMAGENET_NAMES, title="EfficientNet-Lite0, pretrained on ImageNet").save(
        path
    )


def main() -> int:
    """Runs the demonstration and says which files to open."""
    started = time.perf_counter()
    print("This takes two to five minutes on two CPU cores.", flush=True)
    for framework, lenet in LENETS.items():
        print(f"\nTraining a LeNet on digit canvases ({framework}), with the trace on in eval ...", flush=True)
        make_traces = partial(heatmaps, folder=OUTPUT / framework)
        train(framework, partial(lenet, input_shape(framework)), make_traces, EPOCHS)
    print("\nExplaining a pretrained ImageNet classifier on photos ...", flush=True)
    explain_photos(OUTPUT / "photos.png")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Open:")
    for framework in LENETS:
        for name in (f"epoch_{EPOCHS:03d}", "film", f"atlas_epoch_{EPOCHS:03d}"):
            print(f"  {OUTPUT / framework / f'gradcam_eval_{name}.png'}")
    print(f"  {OUTPUT / 'photos.png'}")
    print("Beside them lie the grids of every epoch, and the raw arrays (.npz).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
