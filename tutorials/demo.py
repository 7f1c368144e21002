"""Trains with the trace on, on PyTorch and on TensorFlow, then explains a pretrained classifier on photos.

``make demo`` runs it; the grids lie in demo_output/ afterwards.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import fastestimator as fe
import numpy as np
from fastestimator.architecture.pytorch import LeNet as TorchLeNet
from fastestimator.architecture.tensorflow import LeNet as KerasLeNet
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.numpyop.univariate import ExpandDims, Minmax
from fastestimator.op.tensorop.loss import CrossEntropy
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
from fastestimator.trace.metric import Accuracy

from fe_gradcam import GradCAM, explain_many
from fe_gradcam.compose import Column, Explained, Look, compose_grid
from fe_gradcam.export import write_png
from fe_gradcam.grid import draw_grid
from tutorials.real_data import CANVAS_SIZE, digit_canvases, photos, pretrained_torch, torch_input

OUTPUT = Path("demo_output")
EPOCHS = 8
DIGITS = {str(digit): digit for digit in range(10)}
IMAGENET_NAMES = {285: "Egyptian cat", 967: "espresso", 665: "moped", 657: "missile", 985: "daisy"}


def train(framework: str, folder: Path) -> None:
    """Trains a LeNet on the digit canvases, with heatmaps of the eval images at the end of every epoch."""
    fe.enable_deterministic(7)
    torch = framework == "torch"
    shape = (1, CANVAS_SIZE, CANVAS_SIZE) if torch else (CANVAS_SIZE, CANVAS_SIZE, 1)
    lenet: Any = TorchLeNet if torch else KerasLeNet
    model = fe.build(lambda: lenet(shape), optimizer_fn="adam", model_name=f"lenet_{framework}")
    canvases = digit_canvases()
    train_data, eval_data = (
        NumpyDataset({"x": part.images, "y": part.labels, "name": np.arange(len(part.images))})
        for part in (canvases[:4500], canvases[4500:])
    )
    pipeline = fe.Pipeline(
        train_data=train_data,
        eval_data=eval_data,
        batch_size=64,
        ops=[ExpandDims(inputs="x", outputs="x", axis=0 if torch else -1), Minmax(inputs="x", outputs="x")],
        num_process=0,
    )
    network = fe.Network(
        ops=[
            ModelOp(model=model, inputs="x", outputs="y_pred"),
            CrossEntropy(inputs=("y_pred", "y"), outputs="ce"),
            UpdateOp(model=model, loss_name="ce"),
        ]
    )
    traces = [
        Accuracy(true_key="y", pred_key="y_pred"),
        GradCAM(
            images="x",
            model=model,
            labels="y",
            preds="y_pred",
            label_mapping=DIGITS,
            ids="name",
            n_samples=8,
            methods=["grad_cam", "hires_cam", "layer_cam"],
            save_dir=folder,
        ),
    ]
    fe.Estimator(pipeline=pipeline, network=network, epochs=EPOCHS, traces=traces, log_steps=0).fit()


def explain_photos(path: Path) -> None:
    """Draws what a pretrained ImageNet classifier looks at in real photos."""
    images, names, class_ids = photos()
    known = [at for at, class_id in enumerate(class_ids) if class_id is not None]
    images = images[known]
    labels = np.array([class_id for class_id in class_ids if class_id is not None])
    methods = ("grad_cam", "hires_cam", "layer_cam")
    heatmaps = explain_many(pretrained_torch(), torch_input(images), methods=methods)
    probabilities = np.zeros((len(images), 1000), np.float32)
    probabilities[np.arange(len(images)), heatmaps[0].class_ids] = heatmaps[0].confidences
    part = Explained(
        pictures=(255 * images + 0.5).astype(np.uint8),
        columns=[Column(heatmap.method, "pred", heatmap) for heatmap in heatmaps],
        probabilities=probabilities,
        labels=labels,
        ids=[names[at] for at in known],
    )
    grid = compose_grid([part], IMAGENET_NAMES, Look(), "EfficientNet-Lite0, pretrained on ImageNet")
    write_png(path, draw_grid(grid))


def main() -> int:
    """Runs the demonstration and says which files to open."""
    started = time.perf_counter()
    for framework in ("torch", "tf"):
        print(f"\nTraining a LeNet on digit canvases ({framework}), with the trace on in eval ...", flush=True)
        train(framework, OUTPUT / framework)
    print("\nExplaining a pretrained ImageNet classifier on photos ...", flush=True)
    explain_photos(OUTPUT / "photos.png")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Open:")
    for path in (
        OUTPUT / "torch" / f"gradcam_eval_epoch_{EPOCHS}.png",
        OUTPUT / "tf" / f"gradcam_eval_epoch_{EPOCHS}.png",
        OUTPUT / "photos.png",
    ):
        print(f"  {path}")
    print("Beside them lie the grids of every epoch, and the raw arrays (.npz).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
