"""Trainings that tests share: a small network of each framework, made-up data, and what catches a trace's outputs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import cv2
import fastestimator as fe
import numpy as np
import tensorflow as tf
import torch
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.loss import CrossEntropy
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
from fastestimator.trace.trace import Trace
from numpy.typing import NDArray
from tensorflow.python.eager import context

from fe_gradcam import GradCAM, LayerGradientOp
from tests.models.toys import SmallTorch, small_keras
from tutorials.real_data import digit_canvases

ROOT = Path(__file__).parents[1]

FRAMEWORKS = ["torch", "tf"]
COUNT = 12


class Catch(Trace):
    """Keeps what stands in the data at the end of each epoch, and what of it goes to the log."""

    def __init__(self, mode: Any = None) -> None:
        super().__init__(inputs="*", mode=mode)
        self.caught: list[dict[str, Any]] = []
        self.logged: list[set[str]] = []

    def on_epoch_end(self, data: Any) -> None:
        self.caught.append({**data, "mode": self.system.mode, "epoch": self.system.epoch_idx})
        self.logged.append(set(data.read_logs()))

    def at(self, mode: str, epoch: int) -> dict[str, Any]:
        (found,) = (one for one in self.caught if (one["mode"], one["epoch"]) == (mode, epoch))
        return found

    def where(self, key: str) -> list[tuple[str, int]]:
        return [(one["mode"], one["epoch"]) for one in self.caught if key in one]


def build(framework: str, softmax: bool = True, name: str = "model") -> Any:
    make = (lambda: SmallTorch(softmax=softmax)) if framework == "torch" else (lambda: small_keras(softmax=softmax))
    return fe.build(make, optimizer_fn="adam", model_name=name)


def as_layout(framework: str, images: NDArray[Any]) -> NDArray[Any]:
    """Images (N, H, W, C) as the framework has them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if framework == "torch" else images


def dataset(framework: str, count: int = COUNT, seed: int = 0, **more: Any) -> NumpyDataset:
    generator = np.random.default_rng(seed)
    images = as_layout(framework, generator.normal(size=(count, 9, 12, 3)).astype(np.float32))
    names = np.arange(100, 100 + count)
    return NumpyDataset({"x": images, "y": generator.integers(0, 5, count), "name": names} | more)


def ops_of(model: Any, forward: Any = None) -> list[Any]:
    """Those of a training, with a forward pass of its own where one is given."""
    forward = forward or ModelOp(model=model, inputs="x", outputs="y_pred")
    return [forward, CrossEntropy(inputs=("y_pred", "y"), outputs="ce"), UpdateOp(model=model, loss_name="ce")]


def keyed_ops(model: Any, **how: Any) -> list[Any]:
    return ops_of(model, LayerGradientOp(model=model, inputs="x", outputs=("y_pred", "acts", "grads"), **how))


def estimator(
    framework: str, model: Any, traces: list[Any], *, ops: list[Any] | None = None, epochs: int = 1, **feed: Any
) -> fe.Estimator:
    """A training; `feed` is data, and the size of the batches, where they are not those of the other tests."""
    feed = {"train_data": dataset(framework, seed=1), "eval_data": dataset(framework), "batch_size": 5, **feed}
    network = fe.Network(ops=ops or ops_of(model))
    return fe.Estimator(fe.Pipeline(**feed, num_process=0), network, epochs=epochs, traces=traces, log_steps=0)


def fitted(framework: str, model: Any, *traces: Any, mode: Any = "eval", **how: Any) -> Catch:
    """A training with the traces; what stood in the data in epochs of the mode."""
    catch = Catch(mode)
    estimator(framework, model, [*traces, catch], **how).fit()
    return catch


def gradcam(model: Any, **arguments: Any) -> GradCAM:
    return GradCAM("x", **{"model": model, "labels": "y", "on_error": "raise", **arguments})


def keyed_gradcam(**arguments: Any) -> GradCAM:
    """Of what `keyed_ops` put out."""
    return GradCAM("x", "grads", **{"activations": "acts", "preds": "y_pred", "on_error": "raise", **arguments})


def shown(framework: str, count: int, key: str = "x") -> NDArray[Any]:
    """The first images of `dataset`, or what else it has of them."""
    data = dataset(framework)
    return np.stack([data[at][key] for at in range(count)])


def heats(results: list[dict[str, Any]], class_ids: Any = None, method: str = "grad_cam") -> NDArray[np.float32]:
    """The heatmaps (N, H, W) of the classes, or of the class that each image was taken for."""
    asked = np.broadcast_to(class_ids, len(results)) if class_ids is not None else [r["prediction"] for r in results]
    return np.stack([r[f"heatmap_{method}"][f"heatmap_image_class_{i}"] for r, i in zip(results, asked, strict=True)])


def confidences(results: list[dict[str, Any]]) -> list[float]:
    """That of the class that each image was taken for."""
    return [result["classification_confidences"][0] for result in results]


def weights_of(framework: str, model: Any) -> list[NDArray[Any]]:
    if framework == "torch":
        return [tensor.detach().numpy().copy() for tensor in model.state_dict().values()]
    return list(model.get_weights())


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def read_png(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path))[..., ::-1])


def streams() -> list[Any]:
    return [
        torch.get_rng_state().tolist(),
        [str(part) for part in np.random.get_state()],
        random.getstate(),
        context.context()._rng.getstate() if context.context()._rng is not None else None,
    ]


def words_of(row: Any) -> dict[str, str]:
    """What a row of a grid says, by role."""
    return {text.role: text.words for text in row.texts}


# --- on real digits --------------------------------------------------------------------------------------


canvases = cache(digit_canvases)


def as_input(framework: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey images (N, H, W) as a network of the framework takes them, from 0 to 1."""
    return as_layout(framework, images[..., None].astype(np.float32) / 255)


def digits(framework: str, rows: slice) -> NumpyDataset:
    part = canvases()[rows]
    names = np.arange(100, 100 + len(part.images))
    return NumpyDataset({"x": as_input(framework, part.images), "y": part.labels, "name": names})


def digit_net(
    framework: str,
    pool: Literal["max", "mean", "flat"],
    convolutions: Sequence[tuple[int, int, int]] = ((8, 5, 2), (16, 5, 2)),
    side: int = 64,
) -> Any:
    """Two convolutions (channels, kernel, stride), layers "0" and "2", each with a ReLU, and a softmax of ten."""
    (first, kernel, stride), (second, other_kernel, other_stride) = convolutions
    if framework == "torch":
        nn = torch.nn
        pooling = {"max": [nn.AdaptiveMaxPool2d(1)], "mean": [nn.AdaptiveAvgPool2d(1)], "flat": []}[pool]
        body = nn.Sequential(
            nn.Conv2d(1, first, kernel, stride), nn.ReLU(), nn.Conv2d(first, second, other_kernel, other_stride),
            nn.ReLU(), *pooling, nn.Flatten(),
        )  # fmt: skip
        size = body(torch.zeros(1, 1, side, side)).shape[1]
        return nn.Sequential(*body, nn.Linear(size, 10), nn.Softmax(-1))
    of = tf.keras.layers
    return tf.keras.Sequential(
        [
            of.Conv2D(first, kernel, stride, activation="relu", input_shape=(side, side, 1), name="0"),
            of.Conv2D(second, other_kernel, other_stride, activation="relu", name="2"),
            {"max": of.GlobalMaxPooling2D, "mean": of.GlobalAveragePooling2D, "flat": of.Flatten}[pool](),
            of.Dense(10, activation="softmax"),
        ]
    )


class KilledError(Exception):
    """What ends a training in the midst here."""


class Killer(Trace):
    """Ends the training at the beginning of an epoch."""

    def __init__(self, last: int | None) -> None:
        super().__init__(mode="train")
        self.last = SimpleNamespace(epoch=last)  # no number, which the host would restore

    def on_epoch_begin(self, data: Any) -> None:
        if self.system.epoch_idx == self.last.epoch:
            raise KilledError


def printed(program: str, *arguments: str) -> Any:
    """What a program prints in the end, as JSON."""
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_another_process(function: Callable[[str], Any], folder: Path) -> Any:
    """What a function of a test module returns there."""
    program = (
        f"import gc, json, sys, tests.conftest; from {function.__module__} import {function.__name__}\n"
        f"gc.freeze()\nprint(json.dumps({function.__name__}(sys.argv[1])))"
    )
    return printed(program, str(folder))
