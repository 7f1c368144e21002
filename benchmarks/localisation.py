"""How much of the heat falls on the digit: a pooling + linear net trained on the canvases, 500 eval images.

The measure is the share of the heat inside the tight box of the ink, over the box's share of the area: 1 for heat
that knows nothing, which the uniform random heat beside it has to show.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray

from fe_gradcam import METHODS, explain_many
from fe_gradcam.types import Needs
from tutorials.digits import TRAINED, Framework, input_shape, train
from tutorials.real_data import Canvases, digit_canvases

ONE_PASS = [name for name, method in METHODS.items() if Needs.PROBE not in method.needs]
"""The methods that ask the model once; benchmarks/methods.py has the others."""

EPOCHS = 6
WIDTHS = (16, 32, 64, 64)


def torch_net() -> Any:
    """Four convolutions, global average pooling, a linear layer, a softmax."""
    from torch import nn

    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if at < 2 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10), nn.Softmax(-1))


def keras_net() -> Any:
    """The same in Keras."""
    import tensorflow as tf

    of = tf.keras.layers
    net = tf.keras.Sequential([of.InputLayer(input_shape("tf"))])
    for at, width in enumerate(WIDTHS):
        for layer in (of.Conv2D(width, 3, padding="same"), of.BatchNormalization(momentum=0.9), of.ReLU()):
            net.add(layer)
        if at < 2:
            net.add(of.MaxPool2D())
    net.add(of.GlobalAveragePooling2D())
    net.add(of.Dense(10, activation="softmax"))
    return net


def gain(heat: NDArray[np.float32], canvases: Canvases) -> NDArray[np.float64]:
    """For each image the heat's share inside the box over the area's; NaN where there is no heat."""
    gains = []
    for values, (left, top, width, height) in zip(heat, canvases.boxes, strict=True):
        inside = values[top : top + height, left : left + width].sum(dtype=np.float64)
        total = values.sum(dtype=np.float64)
        gains.append(inside / total / (width * height / values.size) if total > 0 else np.nan)
    return np.array(gains)


def main() -> None:
    """Prints the mean gain of each method on each framework."""
    canvases = digit_canvases()[TRAINED:]
    random_heat = np.random.default_rng(0).random(canvases.images.shape, np.float32)
    print(f"uniform random heat: {gain(random_heat, canvases).mean():.3f}")
    nets: dict[Framework, Any] = {"torch": torch_net, "tf": keras_net}
    for framework, make in nets.items():
        model = train(framework, make, partial(_no_traces), EPOCHS)
        images = canvases.images.reshape(-1, *input_shape(framework)).astype(np.float32) / 255
        maps = explain_many(model, images, methods=ONE_PASS, batch_size=100)
        accuracy = (maps[0].class_ids == canvases.labels).mean()
        for heatmap in maps:
            gains = gain(heatmap.values, canvases)
            error = np.nanstd(gains) / np.sqrt(np.isfinite(gains).sum())
            print(
                f"{framework} {heatmap.method}: mean {np.nanmean(gains):.2f} ± {error:.2f} (standard error), "
                f"blank {heatmap.blank.sum()} of {len(gains)}, accuracy of the net {accuracy:.3f}",
                flush=True,
            )


def _no_traces(model: Any) -> list[Any]:
    return []


if __name__ == "__main__":
    main()
