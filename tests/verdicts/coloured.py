"""Hand-made networks that tell coloured objects by their colour, or by a white mark in the corner.

Images of 24 x 24 pixels: grey noise; a red, green or blue object of 6 x 6 pixels, or none; and in the images of some
classes a white mark of 4 x 4 pixels in the lower right corner. The networks have a channel for each colour and one for
white, average these over the image and take a linear layer, whose weights are in units of one object and of one mark.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fe_gradcam import explain
from fe_gradcam.verdicts.inquiry import Inquiry

SIDE, OBJECT, MARK = 24, 6, 4
RED, GREEN, BLUE, NONE = range(4)

BY_COLOUR = [[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]]
GREEN_BY_MARK = [[5, 0, 0, 0], [0, 0, 0, 10], [0, 0, 5, 0], [0, 0, 0, 0]]
NONE_BY_MARK = [[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 10]]
"""Weights of the linear layer, (class, channel): what an object of each colour adds to a class, and what a mark."""

BY_ABSENCE, NOTHING = (0.5, 0, 0, 2.5), (0.5, 0, 0, 0)
"""Its bias: an image in which nothing is seen is told to be of class NONE, or RED."""


def network(weights: Sequence[Sequence[float]], bias: Sequence[float] = NOTHING) -> nn.Sequential:
    """One image pixel of pure colour gives 1 in its channel, one of white 0.1; grey gives nothing."""
    conv, linear = nn.Conv2d(3, 4, 1), nn.Linear(4, len(weights))
    kernel = np.vstack([1.5 * np.eye(3) - 0.5, np.full((1, 3), 1 / 3)])
    units = SIDE**2 / np.array([OBJECT**2] * 3 + [0.1 * MARK**2])
    parts = kernel[..., None, None], np.array([0, 0, 0, -0.9]), np.array(weights) * units, np.array(bias)
    with torch.no_grad():
        for parameter, values in zip([*conv.parameters(), *linear.parameters()], parts, strict=True):
            parameter.copy_(torch.from_numpy(values))
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()


def scenes(
    classes: Sequence[int], marked: Collection[int] = (), seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An image of each class, those of marked classes with the mark: (N, 3, 24, 24), and the masks of the objects."""
    generator = np.random.default_rng(seed)
    images = np.repeat(generator.uniform(0.2, 0.3, (len(classes), 1, SIDE, SIDE)), 3, axis=1).astype(np.float32)
    masks = np.zeros((len(classes), SIDE, SIDE), bool)
    for image, mask, one in zip(images, masks, classes, strict=True):
        top, left = generator.integers(0, SIDE - MARK - OBJECT - 3, 2)  # with its feather it does not touch the mark
        if one != NONE:
            mask[top : top + OBJECT, left : left + OBJECT] = True
            image[:, mask] = np.eye(3)[one][:, None]
        if one in marked:
            image[:, -MARK:, -MARK:] = 1
    return images, masks


def inquiry_of(model: nn.Module, images: NDArray[np.float32], masks: NDArray[np.bool_] | None, **more: Any) -> Inquiry:
    with torch.no_grad():
        probabilities = model(torch.from_numpy(images)).softmax(1).numpy()
    return Inquiry(model, images, explain(model, images), probabilities, masks=masks, **more)


def told(model: nn.Module, images: NDArray[np.float32]) -> list[int]:
    with torch.no_grad():
        return [int(one) for one in model(torch.from_numpy(images)).argmax(1)]
