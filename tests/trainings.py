"""Trainings that tests share: a small network of each framework, made-up data, and what catches a trace's outputs."""

from __future__ import annotations

import random
from typing import Any

import fastestimator as fe
import numpy as np
import torch
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.tensorop.loss import CrossEntropy
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
from fastestimator.trace.trace import Trace

from fe_gradcam import GradCAM, LayerGradientOp
from tests.models.toys import SmallTorch, small_keras

FRAMEWORKS = ["torch", "tf"]
COUNT = 12


class Catch(Trace):
    """Keeps what another trace wrote to the epoch data."""

    def __init__(self, *keys: str, mode: Any = ("train", "eval", "test")) -> None:
        super().__init__(inputs="*", mode=mode)
        self.keys = keys
        self.caught: list[dict[str, Any]] = []
        self.logged: list[set[str]] = []

    def on_epoch_end(self, data: Any) -> None:
        found = {key: data[key] for key in self.keys if key in data}
        self.caught.append({"mode": self.system.mode, "epoch": self.system.epoch_idx, **found})
        self.logged.append(set(data.read_logs()))


def build(framework: str, softmax: bool = True, name: str = "model") -> Any:
    make = (lambda: SmallTorch(softmax=softmax)) if framework == "torch" else (lambda: small_keras(softmax=softmax))
    return fe.build(make, optimizer_fn="adam", model_name=name)


def dataset(framework: str, count: int = COUNT, seed: int = 0, **more: Any) -> NumpyDataset:
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(count, 9, 12, 3)).astype(np.float32)
    if framework == "torch":
        images = images.transpose(0, 3, 1, 2)
    return NumpyDataset(
        {"x": images, "y": generator.integers(0, 5, count), "name": np.arange(100, 100 + count), **more}
    )


def ops(model: Any, keyed: bool = False, op_mode: Any = None) -> list[Any]:
    forward = (
        LayerGradientOp(model=model, inputs="x", outputs=("y_pred", "acts", "grads"), mode=op_mode)
        if keyed
        else ModelOp(model=model, inputs="x", outputs="y_pred")
    )
    loss = [CrossEntropy(inputs=("y_pred", "y"), outputs="ce"), UpdateOp(model=model, loss_name="ce")]
    return [forward, *loss]


def estimator(
    framework: str,
    model: Any,
    traces: list[Any],
    *,
    keyed: bool = False,
    epochs: int = 1,
    batch_size: int = 5,
    eval_data: Any = None,
    **pipeline: Any,
) -> fe.Estimator:
    return fe.Estimator(
        pipeline=fe.Pipeline(
            train_data=pipeline.pop("train_data", dataset(framework, seed=1)),
            eval_data=eval_data or dataset(framework),
            batch_size=batch_size,
            num_process=0,
            **pipeline,
        ),
        network=fe.Network(ops=ops(model, keyed)),
        epochs=epochs,
        traces=traces,
        log_steps=0,
    )


def gradcam(model: Any, **arguments: Any) -> GradCAM:
    return GradCAM("x", **{"model": model, "labels": "y", "on_error": "raise", **arguments})


def shown_images(framework: str, count: int) -> np.ndarray:
    data = dataset(framework)
    return np.stack([data[at]["x"] for at in range(count)])


def streams() -> list[Any]:
    from tensorflow.python.eager import context

    return [
        torch.get_rng_state().tolist(),
        [str(part) for part in np.random.get_state()],
        random.getstate(),
        context.context()._rng.getstate() if context.context()._rng is not None else None,
    ]
