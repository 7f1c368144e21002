"""A folder with a net worked out by hand and a picture for it, and the net's like in Keras."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

NETS = '''
from types import SimpleNamespace

import torch
from torch import nn


class Colours(nn.Module):
    """Red against blue: A_0 = relu(R - G - B), A_1 = relu(B - R - G), their means are the scores."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            rows = [[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]] if channels == 3 else [[1.0], [-1.0]]
            self.conv.weight.copy_(torch.tensor(rows)[:, :, None, None])
            self.conv.bias.copy_(torch.zeros(2) if channels == 3 else torch.tensor([0.0, 1.0]))
            self.fc.weight.copy_(8 * torch.eye(2))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


class Parts(Colours):
    def forward(self, x):
        return {"scores": super().forward(x), "boxes": x.mean((2, 3))}


class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 14 * 14, 2))


class FailsLater(Colours):
    calls = 0

    def forward(self, x):
        FailsLater.calls += len(x) > 1
        if FailsLater.calls > 2:
            raise RuntimeError("the third batch is too much")
        return super().forward(x)


def grey():
    return Colours(1)


def blank():
    net = Colours()
    nn.init.constant_(net.conv.weight, float("nan"))
    return net


def zeros():
    net = Colours()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def wrapped():
    return nn.DataParallel(Colours())


def sized():
    net = Colours()
    net.image_size = 16
    return net


def of_timm():
    net = Colours()
    net.pretrained_cfg = {"input_size": (3, 16, 16)}
    return net


def of_transformers():
    net = Colours()
    net.config = SimpleNamespace(image_size=[16, 16])
    return net


def needs(path):
    return path


def broken():
    raise RuntimeError("its file is not there")


def nothing():
    return 3


ready = Colours()
number = 3
'''

RED, BLUE = (slice(0, 8), slice(0, 8)), (slice(8, 16), slice(8, 16))


def squares(size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """A red square at the upper left, a smaller share of blue at the lower right, black elsewhere."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[RED] = 255, 0, 0
    picture[BLUE] = 0, 0, 204
    return np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))


def as_input(picture: np.ndarray) -> np.ndarray:
    return (picture.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[None]


def keras_colours(channels: int = 3, scaled: bool = False, keras: Any = tf.keras) -> Any:
    """The like of Colours; `scaled` takes pixels in [0, 255] and divides them itself."""
    layers = keras.layers
    inputs = keras.Input((16, 16, channels))
    x = layers.Rescaling(1 / 255)(inputs) if scaled else inputs
    x = layers.Conv2D(2, 1, activation="relu", name="conv")(x)
    x = layers.Dense(2, name="fc")(layers.GlobalAveragePooling2D()(x))
    rows = np.array([[1, -1, -1], [-1, -1, 1]] if channels == 3 else [[1] * channels, [-1] * channels], np.float32)
    bias = np.array([0, 0] if channels == 3 else [0, 1], np.float32)
    model = keras.Model(inputs, x)
    model.set_weights([rows.T[None, None], bias, 8 * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)])
    return model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with nets.py and a picture; what runs import from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "nets.py").write_text(NETS)
    Image.fromarray(squares()).save(tmp_path / "squares.png")
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
