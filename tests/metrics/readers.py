"""Models that read single pixels, heat for them, and cases at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from torch import nn

from fe_gradcam import METRICS, Heatmap, measure
from tests.heat import heatmap_of
from tests.models.toys import SmallTorch, small_keras

FRAMEWORKS = ("torch", "keras")
OF_MODEL = [name for name, metric in METRICS.items() if metric.needs == "model"]


class TorchReader(nn.Module):
    """The probabilities (p, 1 - p) with p = bias + the weighted sum of the pixels, within [0, 1]."""

    def __init__(self, weights: np.ndarray, bias: float = 0.0) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.look.weight)
        self.weights, self.bias = torch.from_numpy(weights.astype(np.float32)), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = (self.bias + (self.look(x)[:, 0] * self.weights).sum((1, 2))).clamp(0, 1)
        return torch.stack([p, 1 - p], 1)


class KerasReader(tf.keras.Model):
    """The same in Keras."""

    def __init__(self, weights: np.ndarray, bias: float = 0.0) -> None:
        super().__init__()
        self.look = tf.keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones")
        self.read, self.bias = tf.constant(weights, tf.float32), bias

    def call(self, x: Any) -> Any:
        p = tf.clip_by_value(self.bias + tf.reduce_sum(self.look(x)[..., 0] * self.read, [1, 2]), 0, 1)
        return tf.stack([p, 1 - p], 1)


READERS = {"torch": TorchReader, "keras": KerasReader}


def laid_out(framework: str, images: np.ndarray) -> Any:
    """Images (N, C, H, W) in the framework's layout."""
    return np.ascontiguousarray(np.moveaxis(images, 1, -1)) if framework == "keras" else torch.from_numpy(images)


def heat_of(values: Any, class_ids: Any = 0) -> Heatmap:
    """A heatmap of these values, blank where none is positive."""
    values = np.asarray(values, np.float32)
    return heatmap_of(values, class_ids, blank=values.reshape(len(values), -1).max(1) <= 0)


def random_case(framework: str) -> tuple[Any, Any, Heatmap, np.ndarray]:
    """A random net, three images, their heatmaps and places."""
    rng = np.random.default_rng(1)
    model = SmallTorch().eval() if framework == "torch" else small_keras()
    images = laid_out(framework, rng.normal(size=(3, 3, 9, 12)).astype(np.float32))
    heat = rng.random((3, 9, 12), np.float32)
    heat[:, :3] = 0  # ties
    places = np.zeros(heat.shape, bool)
    places[:, 2:7, 3:9] = True
    return model, images, heat_of(heat, [0, 2, 4]), places


def every_metric(model: Any, images: Any, heatmap: Heatmap, places: np.ndarray, **given: Any) -> dict[str, np.ndarray]:
    return measure(model, images, heatmap, tuple(METRICS), masks=places, again=lambda: heatmap, **given)


def weights_of(model: Any) -> list[np.ndarray]:
    if isinstance(model, nn.Module):
        return [value.detach().numpy().copy() for value in model.state_dict().values()]
    return [value.numpy() for value in model.weights]


def streams() -> list[Any]:
    return [random.getstate(), [str(part) for part in np.random.get_state()], torch.get_rng_state().tolist()]


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Weights stay bit for bit, and the random streams of Python, NumPy and both frameworks where they are."""
    tf.random.set_seed(1)
    drawn = tf.random.uniform([3]).numpy()
    tf.random.set_seed(1)
    weights, before = weights_of(model), streams()
    yield
    assert all(one.tobytes() == other.tobytes() for one, other in zip(weights, weights_of(model), strict=True))
    assert streams() == before
    assert np.array_equal(tf.random.uniform([3]), drawn)


def outputs_of(model: Any, images: Any) -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return np.array(model(torch.as_tensor(images)))
    return np.array(model(images, training=False))
