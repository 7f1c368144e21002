"""Both frameworks in one vocabulary: images with channels last go in, arrays come out, maps with channels first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace as Kit
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from torch import nn

from tests.models.kerases import KERASES, applied
from tests.models.toys import SmallTorch, keras_toy, small_keras, torch_toy

Function = Callable[[Any], Any]


def as_is(x: Any) -> Any:
    return x


class TorchBehind(nn.Module):
    def __init__(self, inside: nn.Module, function: Function) -> None:
        super().__init__()
        self.inside, self.function = inside, function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.inside(x))


def keras_behind(keras: Any) -> type:
    class KerasBehind(keras.Model):
        def __init__(self, inside: Any, function: Function) -> None:
            super().__init__()
            self.inside, self.function = inside, function

        def call(self, x: Any) -> Any:
            return self.function(self.inside(x))

    return KerasBehind


KerasBehind = keras_behind(tf.keras)


class TorchPooled(nn.Module):
    """A convolution, its maps averaged, and a function behind them."""

    def __init__(self, classes: int, function: Function = as_is, bias: Any = None, behind: Function = as_is) -> None:
        super().__init__()
        self.conv, self.function, self.behind = nn.Conv2d(1, classes, 3), function, behind
        if bias is not None:
            self.conv.bias.data.copy_(torch.tensor(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.behind(self.conv(x)).mean((2, 3)))


def keras_pooled(
    classes: int, function: Function = as_is, bias: Any = 0.0, behind: Function = as_is, keras: Any = tf.keras
) -> Any:
    inputs = keras.Input((8, 8, 1))
    offset = keras.initializers.Constant(bias)
    maps = applied(behind, keras.layers.Conv2D(classes, 3, name="conv", bias_initializer=offset)(inputs))
    return keras.Model(inputs, applied(function, keras.layers.GlobalAveragePooling2D()(maps)))


def torch_outputs(model: Any, images: Any) -> NDArray[Any]:
    with torch.no_grad():
        return model.eval()(images).numpy()


TORCH_HEADS = {"softmax": nn.Softmax(-1), "log_softmax": nn.LogSoftmax(-1), "sigmoid": nn.Sigmoid()}


def torch_classifier(outputs: int, activation: str | None = None) -> Any:
    pooled = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, outputs)]
    return nn.Sequential(nn.Conv2d(1, 2, 3), *pooled, *([TORCH_HEADS[activation]] if activation else []))


def keras_classifier(outputs: int, activation: str | None = None, keras: Any = tf.keras) -> Any:
    inputs, of = keras.Input((5, 5, 1)), keras.layers
    x = of.GlobalAveragePooling2D()(of.Conv2D(2, 3, activation="relu")(inputs))
    return keras.Model(inputs, of.Dense(outputs, activation=activation)(x))


def by_hand(kit: Kit) -> Any:
    """A classifier that makes its probabilities without a softmax."""
    return kit.behind(kit.small(), lambda x: kit.exp(x) / kit.total(kit.exp(x)))


def keras_kit(keras: Any) -> Kit:
    behind = KerasBehind if keras is tf.keras else keras_behind(keras)
    toy = partial(keras_toy, keras=keras)
    return Kit(
        name="keras", small=partial(small_keras, keras=keras), toy=toy, behind=behind,
        pooled=partial(keras_pooled, keras=keras), classifier=partial(keras_classifier, keras=keras),
        own_head=lambda name: getattr(tf.nn, name) if "log" in name else name,
        headed=lambda head: behind(toy("pooled")[0], head),
        exp=tf.exp, log=tf.math.log, softmax=tf.nn.softmax, stopped=tf.stop_gradient,
        second=lambda x: tf.gather(x, [1], axis=1), total=lambda x: tf.reduce_sum(x, -1, keepdims=True),
        mean_of_sigmoids=lambda x: tf.reduce_mean(tf.sigmoid(tf.tile(x, [1, 3])), 1, True),
        images=lambda array: array.astype(np.float32), outputs=lambda model, images: model(images).numpy(),
        maps=lambda model, images: np.moveaxis(model.get_layer("conv")(images).numpy(), -1, 1),
        shift=lambda model, by: model.weights[-1].assign(model.weights[-1] + float(by)),
        copy=lambda model, other: other.set_weights(model.get_weights()),
        layers=lambda model: {layer.name: layer for layer in model._flatten_layers(include_self=False)},
    )  # fmt: skip


TORCH_KIT = Kit(
    name="torch", small=SmallTorch, toy=torch_toy, behind=TorchBehind, pooled=TorchPooled,
    classifier=torch_classifier, own_head=TORCH_HEADS.get, headed=lambda head: torch_toy("pooled", head)[0],
    exp=torch.exp, log=torch.log, softmax=nn.Softmax(-1), stopped=torch.detach, second=lambda x: x.select(1, 1),
    total=lambda x: x.sum(-1, keepdim=True),
    mean_of_sigmoids=lambda x: torch.sigmoid(x.repeat(1, 3)).mean(1, keepdim=True),
    images=lambda array: torch.from_numpy(np.moveaxis(array, -1, 1).astype(np.float32)),
    outputs=torch_outputs, maps=lambda model, images: torch_outputs(model.conv, images),
    shift=lambda model, by: [*model.parameters()][-1].data.add_(float(by)),
    copy=lambda model, other: other.load_state_dict(model.state_dict()),
    layers=lambda model: dict(model.named_modules()),
)  # fmt: skip

KITS: dict[str, Kit] = {"torch": TORCH_KIT} | {name: keras_kit(keras) for name, keras in KERASES.items()}
