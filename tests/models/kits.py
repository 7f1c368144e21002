"""Both frameworks in one vocabulary: images with channels last go in, arrays come out, maps with channels first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from torch import nn

from tests.models.toys import SmallTorch, keras_toy, small_keras, torch_toy

Function = Callable[[Any], Any]
layers = tf.keras.layers


def as_is(x: Any) -> Any:
    return x


class TorchBehind(nn.Module):
    def __init__(self, model: nn.Module, function: Function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.model(x))


class TorchPooled(nn.Module):
    """A convolution, its maps averaged, and a function behind them."""

    def __init__(self, classes: int, function: Function, behind_layer: Function) -> None:
        super().__init__()
        self.conv, self.function, self.behind_layer = nn.Conv2d(1, classes, 3), function, behind_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.behind_layer(self.conv(x)).mean((2, 3)))


class TorchKit:
    name = "torch"
    small, toy, exp, log = map(staticmethod, (SmallTorch, torch_toy, torch.exp, torch.log))
    stopped = staticmethod(torch.detach)

    def softmax(self, x: Any) -> Any:
        return x.softmax(-1)

    def total(self, x: Any) -> Any:
        return x.sum(-1, keepdim=True)

    def mean_of_sigmoids(self, x: Any) -> Any:
        return torch.sigmoid(x.repeat(1, 3)).mean(1, keepdim=True)

    def second(self, x: Any) -> Any:
        return x.select(1, 1)

    def images(self, array: NDArray[Any]) -> Any:
        return torch.from_numpy(np.moveaxis(array, -1, 1).astype(np.float32))

    def outputs(self, model: Any, images: Any) -> NDArray[Any]:
        with torch.no_grad():
            return model.eval()(images).numpy()

    def maps(self, model: Any, images: Any) -> NDArray[Any]:
        return self.outputs(model.conv, images)

    def headed(self, head: Function) -> Any:
        return torch_toy("pooled", head)[0]

    def own_head(self, name: str) -> Any:
        return {"softmax": nn.Softmax(-1), "log_softmax": nn.LogSoftmax(-1), "sigmoid": nn.Sigmoid()}[name]

    def behind(self, model: Any, function: Function) -> Any:
        return TorchBehind(model, function)

    def classifier(self, outputs: int, activation: str | None = None) -> Any:
        head = [self.own_head(activation)] if activation else []
        pooled = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(nn.Conv2d(1, 2, 3), *pooled, nn.Linear(2, outputs), *head)

    def pooled(self, classes: int, function: Function = as_is, bias: Any = None, behind_layer: Function = as_is) -> Any:
        model = TorchPooled(classes, function, behind_layer)
        if bias is not None:
            model.conv.bias.data.copy_(torch.tensor(bias))
        return model

    def shift(self, model: Any, by: float) -> None:
        list(model.parameters())[-1].data += float(by)

    def copy(self, model: Any, other: Any) -> None:
        other.load_state_dict(model.state_dict())

    def layers(self, model: Any) -> dict[str, Any]:
        return dict(model.named_modules())


class KerasBehind(tf.keras.Model):
    def __init__(self, model: Any, function: Function) -> None:
        super().__init__()
        self.inside, self.function = model, function

    def call(self, x: Any) -> Any:
        return self.function(self.inside(x))


class KerasKit:
    name = "keras"
    small, toy, exp, log = map(staticmethod, (small_keras, keras_toy, tf.exp, tf.math.log))
    softmax, stopped = map(staticmethod, (tf.nn.softmax, tf.stop_gradient))

    def total(self, x: Any) -> Any:
        return tf.reduce_sum(x, -1, keepdims=True)

    def mean_of_sigmoids(self, x: Any) -> Any:
        return tf.reduce_mean(tf.sigmoid(tf.tile(x, [1, 3])), 1, True)

    def second(self, x: Any) -> Any:
        return tf.gather(x, [1], axis=1)

    def images(self, array: NDArray[Any]) -> Any:
        return array.astype(np.float32)

    def outputs(self, model: Any, images: Any) -> NDArray[Any]:
        return model(images).numpy()

    def maps(self, model: Any, images: Any) -> NDArray[Any]:
        return np.moveaxis(model.get_layer("conv")(images).numpy(), -1, 1)

    def headed(self, head: Function) -> Any:
        return KerasBehind(keras_toy("pooled")[0], head)

    def own_head(self, name: str) -> Any:
        return getattr(tf.nn, name) if name == "log_softmax" else name

    def behind(self, model: Any, function: Function) -> Any:
        return KerasBehind(model, function)

    def classifier(self, outputs: int, activation: str | None = None) -> Any:
        inputs = tf.keras.Input((5, 5, 1))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, activation="relu")(inputs))
        return tf.keras.Model(inputs, layers.Dense(outputs, activation=activation)(x))

    def pooled(self, classes: int, function: Function = as_is, bias: Any = 0.0, behind_layer: Function = as_is) -> Any:
        inputs = tf.keras.Input((8, 8, 1))
        conv = layers.Conv2D(classes, 3, name="conv", bias_initializer=lambda shape, dtype=None: tf.zeros(shape) + bias)
        return tf.keras.Model(inputs, function(layers.GlobalAveragePooling2D()(behind_layer(conv(inputs)))))

    def shift(self, model: Any, by: float) -> None:
        model.weights[-1].assign_add([float(by)])

    def copy(self, model: Any, other: Any) -> None:
        other.set_weights(model.get_weights())

    def layers(self, model: Any) -> dict[str, Any]:
        return {layer.name: layer for layer in model._flatten_layers(include_self=False)}


Kit: TypeAlias = TorchKit | KerasKit
KITS: dict[str, Kit] = {"torch": TorchKit(), "keras": KerasKit()}
