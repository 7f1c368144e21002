"""What one pass yields, made up."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fe_gradcam.types import CamInputs
from tests.models.toys import FakeProbe


def inputs_of(seed: int, n: int, k: int, h: int, w: int, at_once: int = 7) -> CamInputs:
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(n, k, h, w, generator=generator)
    gradients = torch.randn(n, k, h, w, generator=generator)
    images = torch.randn(n, 3, 2 * h, 2 * w, generator=generator)
    return given_by(activations, gradients, images, at_once)


def given_by(activations: torch.Tensor, gradients: torch.Tensor, images: torch.Tensor, at_once: int = 7) -> CamInputs:
    probe = FakeProbe(activations, gradients, images, at_once)
    class_ids = torch.zeros(len(activations), dtype=torch.int64)
    return CamInputs(activations, gradients, probe.base(), class_ids, images=images, probe=probe)


def row_of(inputs: CamInputs, rows: Any) -> CamInputs:
    return given_by(inputs.activations[rows], inputs.gradients[rows], inputs.images[rows])


class Counting(nn.Module):
    """A network that notes how many rows it gets, in front and behind the layer `relu`."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.front = nn.Conv2d(3, 10, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(10, 4)
        self.rows: list[tuple[int, int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.front(x))
        self.rows.append((len(x), len(maps)))
        return self.fc(maps.mean((2, 3)))


class Floats(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()
