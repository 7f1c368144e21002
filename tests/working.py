"""What other processes do in tests: they find it by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset


def heat_of(framework: str) -> list[Any]:
    """The heat of a network that is made there, always the same."""
    from fe_gradcam import explain

    images = np.linspace(-1, 1, 2 * 9 * 12 * 3, dtype=np.float32).reshape(2, 9, 12, 3)
    found: list[Any] = explain(
        network(framework), images if framework == "tf" else images.transpose(0, 3, 1, 2)
    ).values.tolist()
    return found


def network(framework: str) -> Any:
    if framework == "torch":
        import torch
        from torch import nn

        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
        ).eval()
    import tensorflow as tf

    import fe_gradcam.integrations.fastestimator  # noqa: F401 - has the host find Keras 2 under tf.keras

    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Conv2D(6, 3, activation="relu", input_shape=(9, 12, 3)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


class Explaining(Dataset[Any]):
    """Data that a network's heat is a part of."""

    def __init__(self, framework: str) -> None:
        self.framework = framework

    def __len__(self) -> int:
        return 2

    def __getitem__(self, at: int) -> Any:
        return np.array(heat_of(self.framework), np.float32)
