"""Trains a classifier on the digit canvases with FastEstimator, on either framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import fastestimator as fe
import numpy as np
from fastestimator.dataset.numpy_dataset import NumpyDataset
from fastestimator.op.numpyop.univariate import ExpandDims, Minmax
from fastestimator.op.tensorop.loss import CrossEntropy
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
from fastestimator.trace.metric import Accuracy

from fe_gradcam.integrations.fastestimator import compat
from tutorials.real_data import CANVAS_SIZE, digit_canvases

Framework = Literal["torch", "tf"]

TRAINED = 4500
"""Canvases to train on; the other 500 are for evaluation."""


def input_shape(framework: Framework) -> tuple[int, int, int]:
    """The shape of one canvas as the framework has it."""
    return (1, CANVAS_SIZE, CANVAS_SIZE) if framework == "torch" else (CANVAS_SIZE, CANVAS_SIZE, 1)


def train(
    framework: Framework,
    make_model: Callable[[], Any],
    make_traces: Callable[[Any], Sequence[Any]],
    epochs: int,
) -> Any:
    """Trains a classifier whose output is a softmax over the ten digits.

    Args:
        framework: Of the model.
        make_model: Makes the model, from canvases of `input_shape` in [0, 1].
        make_traces: Makes the traces, given the model; the keys are "x", "y", "y_pred" and "name".
        epochs: How many.

    Returns:
        The trained model.
    """
    compat.apply()
    fe.enable_deterministic(7)
    model = fe.build(make_model, optimizer_fn="adam", model_name=f"digits_{framework}")
    canvases = digit_canvases()
    datasets = [
        NumpyDataset({"x": part.images, "y": part.labels, "name": np.arange(len(part.images))})
        for part in (canvases[:TRAINED], canvases[TRAINED:])
    ]
    pipeline = fe.Pipeline(
        train_data=datasets[0],
        eval_data=datasets[1],
        batch_size=64,
        ops=[
            ExpandDims(inputs="x", outputs="x", axis=0 if framework == "torch" else -1),
            Minmax(inputs="x", outputs="x", new_max=1.0),
        ],
        num_process=0,
    )
    network = fe.Network(
        ops=[
            ModelOp(model=model, inputs="x", outputs="y_pred"),
            CrossEntropy(inputs=("y_pred", "y"), outputs="ce"),
            UpdateOp(model=model, loss_name="ce"),
        ]
    )
    traces = [Accuracy(true_key="y", pred_key="y_pred"), *make_traces(model)]
    fe.Estimator(pipeline=pipeline, network=network, epochs=epochs, traces=traces, log_steps=0).fit()
    return model
