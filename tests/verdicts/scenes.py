"""Scenes and networks whose answers are known.

Images of 32 x 32 pixels in colour: a striped object of 8 x 8 pixels at a random place, red, green or blue by the class,
and in those of the green class a striped white mark of 4 x 4 pixels in the lower right corner. The networks average
over patches of 4 x 4, have a channel for each colour (one of the object's patches gives 0.1) and one for white (the
mark gives 0.08), average these over the 64 patches and take a linear layer: so their heat is where they look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam import explain
from fe_gradcam.types import Heatmap
from fe_gradcam.verdicts.inquiry import Inquiry

SIDE, PATCH, GREEN = 32, 4, 1
CORNER = (SIDE - PATCH, SIDE - PATCH)
Images = NDArray[np.float32]

OBJECT = 64 / (4 * 0.1)  # times these, an object's four patches, or a mark, add 1 to a class's score
MARK = 64 / 0.08


def stripes(colour: Any, side: int) -> Images:
    """(side, side, 3), every second row dark."""
    rows = np.zeros((side, side, 3), np.float32)
    rows[::2] = colour
    return rows


def scene(
    generator: np.random.Generator,
    class_id: int,
    mark: tuple[int, int] | None,
    at: tuple[int, int] | None = None,
    *,
    side: int = 8,
    mark_side: int = PATCH,
    empty: bool = False,
) -> Images:
    """(32, 32, 3): the object at random patches apart from the mark's, or at `at`; and the mark, where there is one."""
    image = generator.uniform(0, 0.05, (SIDE, SIDE, 3)).astype(np.float32)
    corner, corner_side = mark or CORNER, mark_side
    while at is None:
        top, left = (int(one) * PATCH for one in generator.integers(0, (SIDE - side) // PATCH + 1, 2))
        below, beside = top - corner[0], left - corner[1]
        if not (-side < below < corner_side and -side < beside < corner_side):
            at = top, left
    colour = np.full(3, 0.6)
    colour[class_id] = 1
    if not empty:
        image[at[0] : at[0] + side, at[1] : at[1] + side] = stripes(colour, side)
    if mark is not None:
        image[mark[0] : mark[0] + mark_side, mark[1] : mark[1] + mark_side] = stripes(1, mark_side)
    return image


def scenes(
    count: int = 12, seed: int = 0, marks: Mapping[int, tuple[int, int]] = {GREEN: CORNER}, **how: Any
) -> Images:
    """Of each class `count`, by default those of the green class with the mark in the corner."""
    generator = np.random.default_rng(seed)
    return np.stack([scene(generator, one, marks.get(one), **how) for one in range(3) for _ in range(count)])


def weights(
    white: tuple[float, float, float] = (0, 10, 0),
    objects: tuple[float, float, float] = (5, 0, 5),
    bias: tuple[float, float, float] = (0, 0, 0),
    patches: int = 4,
) -> tuple[Any, ...]:
    """Of a network, for each class: how much the mark adds to its score, how much its own object, and what else.

    Channels: red, green, blue, white. Convolution (4, 3), its bias, head (3, 4) and its bias.
    """
    convolution = np.vstack([1.5 * np.eye(3) - 0.5, np.full((1, 3), 1 / 3)])
    head = np.column_stack([np.diag(objects) * OBJECT * 4 / patches, np.array(white) * MARK])
    return convolution / PATCH**2, np.array([-0.1, -0.1, -0.1, -0.42]), head, np.array(bias, float)


def network(framework: str, parts: tuple[Any, ...]) -> Any:
    convolution, offsets, head, bias = (np.asarray(part, np.float32) for part in parts)
    kernel = np.broadcast_to(convolution[..., None, None], (4, 3, PATCH, PATCH))
    if framework == "torch":
        nn = torch.nn
        conv = nn.Conv2d(3, 4, PATCH, stride=PATCH)
        model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), (kernel, offsets, head, bias), strict=True):
                parameter.copy_(torch.from_numpy(value.copy()))
        return model.eval()
    import tensorflow as tf

    layers = tf.keras.layers
    patches = layers.Conv2D(4, PATCH, strides=PATCH, activation="relu", input_shape=(SIDE, SIDE, 3))
    keras = tf.keras.Sequential([patches, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    keras.set_weights([kernel.transpose(2, 3, 1, 0), offsets, head.T, bias])
    return keras


READS_THE_CORNER = weights()
READS_THE_OBJECT = weights(white=(0, 0, 0), objects=(5, 5, 5))


def inquiry_of(images: Images, parts: tuple[Any, ...], *, several: bool = False, **more: Any) -> Inquiry:
    """The inquiry of scenes (N, 32, 32, 3) and a network of PyTorch; with `several` its answers are of sigmoids."""
    model = network("torch", parts)
    if several:
        model = torch.nn.Sequential(*model, torch.nn.Sigmoid())
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def explains(rows: NDArray[np.int64], class_id: int) -> Heatmap:
        return explain(model, inputs[rows], target=class_id)

    with torch.no_grad():
        answers = model(inputs)
    probabilities = (answers if several else answers.softmax(1)).numpy()
    return Inquiry(model, inputs, explain(model, inputs), probabilities, explains=explains, **more)
