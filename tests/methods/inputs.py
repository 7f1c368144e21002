"""What one pass yields, made up; and small networks for both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam.types import CamInputs
from tests.models.kerases import KERASES
from tests.models.toys import FakeProbe, SmallTorch, small_keras

PERTURBING = ["score_cam", "ss_cam", "is_cam", "ablation_cam", "occlusion"]
A0 = np.array([[0, 1, 2], [3, 4, 5]], np.float64)
A1 = np.array([[2, 1, 0], [0, 0, 0]], np.float64)


def inputs_of(seed: int, n: int, k: int, h: int, w: int) -> CamInputs:
    generator = torch.Generator().manual_seed(seed)
    shapes = (n, k, h, w), (n, k, h, w), (n, 3, 2 * h, 2 * w)
    return given_by(*(torch.randn(shape, generator=generator) for shape in shapes))


def given_by(activations: torch.Tensor, gradients: torch.Tensor, images: torch.Tensor) -> CamInputs:
    probe = FakeProbe(activations, gradients, images)
    class_ids = torch.zeros(len(activations), dtype=torch.int64)
    return CamInputs(activations, gradients, probe.base(), class_ids, images=images, probe=probe)


def row_of(inputs: CamInputs, rows: Any) -> CamInputs:
    return given_by(inputs.activations[rows], inputs.gradients[rows], inputs.images[rows])


def assert_close(found: Any, expected: Any, share: float = 1e-5) -> None:
    """Within a share of the largest that is expected."""
    assert_allclose(found, expected, atol=share * float(np.abs(expected).max()))


_ROWS: WeakKeyDictionary[nn.Module, list[tuple[int, int]]] = WeakKeyDictionary()
"""Not kept by the networks themselves, whose attributes are put back after each call."""


class Counting(nn.Module):
    """A network that notes how many rows it gets, in front and behind the layer `relu`."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.relu, self.fc = nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Linear(10, 4)
        _ROWS[self] = []

    @property
    def rows(self) -> list[tuple[int, int]]:
        return _ROWS[self]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.front(x))
        self.rows.append((len(x), len(maps)))
        return self.fc(maps.mean((2, 3)))


class Net(nn.Module):
    """Layers by name, and what is computed with them of the net itself and its inputs."""

    def __init__(self, compute: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.compute(self, *inputs)


def small(framework: str, softmax: bool = False) -> tuple[Any, np.ndarray]:
    """A small network with a layer `conv2`, and two images."""
    if framework == "torch":
        return SmallTorch(softmax=softmax), np.random.randn(2, 3, 9, 12).astype(np.float32)
    keras = KERASES[framework]
    return small_keras(softmax=softmax, keras=keras), np.random.randn(2, 9, 12, 3).astype(np.float32)


def stacked(
    framework: str, size: tuple[int, ...], bend: str, kernel: int = 1, *, pooled: bool = False
) -> tuple[Any, np.ndarray, tuple[Any, ...]]:
    """A convolution of one channel, a bend, and two classes, of all places or of each; two images; the layers."""
    axes = len(size)
    if framework == "torch":
        convolution, pool = getattr(nn, f"Conv{axes}d"), getattr(nn, f"AdaptiveAvgPool{axes}d")
        bends = {"relu": nn.ReLU, "tanh": nn.Tanh, "relu6": partial(nn.ReLU6, inplace=True)}
        head = [pool(1), nn.Flatten(), nn.Linear(4, 2)] if pooled else [convolution(4, 2, 1)]
        model = nn.Sequential(convolution(1, 4, kernel), bends[bend](), *head)
        return model, np.random.randn(2, 1, *size).astype(np.float32), ("0", "1", "2")
    layers = KERASES[framework].layers
    convolution, pool = getattr(layers, f"Conv{axes}D"), getattr(layers, f"GlobalAveragePooling{axes}D")
    bent = layers.ReLU(6.0) if bend == "relu6" else layers.Activation(bend)
    head = [pool(), layers.Dense(2)] if pooled else [convolution(2, 1)]
    parts = [convolution(4, kernel), bent, *head]
    model = KERASES[framework].Sequential([layers.InputLayer((*size, 1)), *parts])
    return model, np.random.randn(2, *size, 1).astype(np.float32), tuple(part.name for part in parts)
