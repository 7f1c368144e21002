"""Networks with constant weights whose heatmaps were worked out by hand, in both frameworks and in each Keras.

The image is 2 rows by 3 columns, one channel: x = [[0, 1, 2], [3, 4, 5]]. A 1x1 convolution and a ReLU make of it
A_0 = relu(x) = x and A_1 = relu(2 - x) = [[2, 1, 0], [0, 0, 0]].

``pooled``: the two means times W = [[3, 1], [-1, 2]]; scores 3 * 2.5 + 0.5 = 8 and -2.5 + 2 * 0.5 = -1.5.
``flat``: score 0 is A_0[1, 2] - 6 A_1[0, 0] = 5 - 12 = -7; score 1 is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import torch
from torch import nn

from tests.models.kerases import KERASES

layers = tf.keras.layers

IMAGE = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
HEAD = np.array([[3, 1], [-1, 2]], np.float32)
FLAT_HEAD = np.zeros((2, 2, 2, 3), np.float32)  # class, channel, row, column
FLAT_HEAD[0, 0, 1, 2] = 1
FLAT_HEAD[0, 1, 0, 0] = -6

Kind = Literal["pooled", "flat"]


class TorchToy(nn.Module):
    def __init__(self, kind: Kind, head: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1) if kind == "pooled" else nn.Identity()
        weights = HEAD if kind == "pooled" else FLAT_HEAD.reshape(2, -1)
        self.fc = nn.Linear(weights.shape[1], 2)
        self.head = nn.Identity() if head is None else head
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.0, 2.0]))
            self.fc.weight.copy_(torch.from_numpy(weights))
            self.fc.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc(self.pool(self.relu(self.conv(x))).flatten(1)))


def torch_toy(kind: Kind, head: Callable[[Any], Any] | None = None) -> tuple[nn.Module, np.ndarray, str]:
    """The network, its input and the name of the layer behind the ReLU."""
    return TorchToy(kind, head), IMAGE[:, None], "relu"


def keras_toy(kind: Kind, activation: Any = None, keras: Any = tf.keras) -> tuple[Any, np.ndarray, str]:
    """The network, its input and the name of the layer behind the ReLU."""
    inputs, layers = keras.Input((2, 3, 1)), keras.layers
    x = layers.ReLU(name="relu")(layers.Conv2D(2, 1, name="conv")(inputs))
    x = layers.GlobalAveragePooling2D()(x) if kind == "pooled" else layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(2, activation=activation, name="fc")(x))
    head = HEAD.T if kind == "pooled" else FLAT_HEAD.transpose(2, 3, 1, 0).reshape(-1, 2)
    model.set_weights([np.array([[[[1, -1]]]], np.float32), np.array([0, 2], np.float32), head, np.zeros(2)])
    return model, IMAGE[..., None], "relu"


FRAMEWORKS = ("torch", "keras")
"""For tests of what is behind the backends, where one Keras is as good as the other."""

TOYS: dict[str, Any] = {"torch": torch_toy} | {name: partial(keras_toy, keras=one) for name, one in KERASES.items()}


class SmallTorch(nn.Module):
    """A small network with random weights, batch norm and a functional ReLU before its pooling."""

    def __init__(self, channels: int = 3, classes: int = 5, softmax: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(6, classes)
        self.softmax = softmax

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        x = self.fc(self.drop(x))
        return x.softmax(-1) if self.softmax else x


def small_keras(
    channels: int = 3, classes: int = 5, softmax: bool = False, size: Any = (9, 12), keras: Any = tf.keras
) -> Any:
    """The like of SmallTorch, functional."""
    inputs, layers = keras.Input((*size, channels)), keras.layers
    x = layers.Conv2D(8, 3, padding="same", name="conv1")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3, activation="relu", name="conv2")(x)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax" if softmax else None)(x))


class CurvedTorch(nn.Module):
    """Two convolutions, an average over 2x2 places, and a head whose score is curved in the layer, by a tanh.

    If `linear`, the layer is averaged over space before one linear layer instead.
    """

    def __init__(self, linear: bool = False, channels: int = 5, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, channels, 3, padding=1)
        self.linear = linear
        self.hidden = nn.Linear(channels * 12, 7)
        self.out = nn.Linear(channels if linear else 7, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        if self.linear:
            return self.out(x.mean((2, 3)))
        x = nn.functional.avg_pool2d(x, 2)
        return self.out(torch.tanh(self.hidden(x.flatten(1))))


def curved_keras(net: CurvedTorch, keras: Any = tf.keras) -> Any:
    """The same in Keras, for images of 6 by 8 pixels, with the same weights."""
    channels, layers = net.conv2.out_channels, keras.layers
    inputs = keras.Input((6, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.Conv2D(channels, 3, padding="same", activation="relu", name="conv2")(x)
    weights = [part for conv in (net.conv1, net.conv2) for part in (conv.weight.permute(2, 3, 1, 0), conv.bias)]
    if net.linear:
        x = layers.GlobalAveragePooling2D()(x)
    else:
        x = layers.Flatten()(layers.AveragePooling2D(2)(x))
        x = layers.Dense(7, activation="tanh", name="hidden")(x)
        hidden = net.hidden.weight.reshape(7, channels, 3, 4).permute(0, 2, 3, 1).reshape(7, -1)
        weights += [hidden.T, net.hidden.bias]
    model = keras.Model(inputs, layers.Dense(net.out.out_features, name="out")(x))
    model.set_weights([part.detach().numpy() for part in (*weights, net.out.weight.T, net.out.bias)])
    return model


def twins(linear: bool = False) -> dict[str, tuple[Any, np.ndarray, Any]]:
    """For each framework the same network, the same three images, and the layer behind the second ReLU."""
    torch.manual_seed(46)  # of several classes, linear or not
    net = CurvedTorch(linear).eval()
    images = np.random.default_rng(3).normal(size=(3, 6, 8, 3)).astype(np.float32)
    of_torch = net, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), None
    return {"torch": of_torch} | {name: (curved_keras(net, one), images, "conv2") for name, one in KERASES.items()}


class FakeProbe:
    """A probe of a made-up model, one that no layer of the images need explain: any score will do for the rules.

    Activations and gradients are (N, K, h, w), images (N, C, H, W); for `at_once` see `fe_gradcam.types.Probe`.
    """

    def __init__(
        self, activations: torch.Tensor, gradients: torch.Tensor, images: torch.Tensor, at_once: int = 7
    ) -> None:
        self.activations, self.of_layer, self.images = activations, gradients, images
        self.at_once = self.at_once_behind = at_once
        self.row_by_row, self.progress, self.trial = True, False, False
        self.precision = 2.0**-23

    def base(self) -> torch.Tensor:
        return self.score_from(self.activations, torch.arange(len(self.activations)))

    def score(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.tanh((images * self.images[rows].cos()).flatten(1).mean(1)) + images.flatten(1).mean(1)

    def score_from(self, activations: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return 3 + torch.tanh((activations * self.of_layer[rows]).flatten(1).sum(1) / 5)

    def gradients(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self.of_layer[rows] * (1 + images.flatten(1).mean(1)).reshape(-1, *[1] * (self.of_layer.dim() - 1))

    def hvp(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors * self.of_layer.sin()
