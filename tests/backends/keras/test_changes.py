"""A Keras model that was changed between two calls is explained as it is: like one that was made so and never seen."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from fe_gradcam import CamError, explain
from tests.models.kerases import KERASES

IMAGES = np.random.default_rng(0).random((2, 10, 10, 1)).astype(np.float32)
CALLS: list[int] = []
"""One entry for each time that the Python code of a model ran."""

HEADS: dict[str, Callable[[Any], Any]] = {"none": tf.identity, "softmax": tf.nn.softmax, "cubed": lambda x: x**3}


@pytest.fixture(params=KERASES)
def keras(request: pytest.FixtureRequest) -> Any:
    return KERASES[request.param]


def seeded(keras: Any, seed: int, **more: Any) -> dict[str, Any]:
    """The same numbers in each model that is made."""
    of = keras.initializers
    return {"kernel_initializer": of.GlorotUniform(seed), "bias_initializer": of.RandomUniform(-1, 1, seed), **more}


def conv(keras: Any, seed: int, size: int = 3, **more: Any) -> Any:
    return keras.layers.Conv2D(4, size, padding="same", **seeded(keras, seed, **more))


class Weighs:
    """A callable target that reads its own attribute."""

    def __init__(self) -> None:
        self.factor = 1.0

    def __call__(self, output: Any) -> Any:
        return output[:, 0] * self.factor


def net(keras: Any) -> Any:
    """Subclassed; its parts stand in attributes, a list, a dict, a layer and a model inside; it reads plain values."""
    of = keras.layers

    class Block(of.Layer):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__(name="block")
            self.conv, self.factor = conv(keras, 5, name="of_block"), 1.5

        def call(self, x: Any) -> Any:
            return self.conv(x) * self.factor

    class Net(keras.Model):  # type: ignore[name-defined,misc]
        shift = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.first, self.block = conv(keras, 1, name="first"), Block()
            self.second = conv(keras, 2, name="second", activation="relu")
            self.norm, self.leaky = of.BatchNormalization(name="norm"), of.LeakyReLU(0.25, name="leaky")
            self.act, self.drop = of.Activation("tanh", name="act"), of.Dropout(0.5)
            self.parts = [conv(keras, 3, name="third")]
            self.by_name = {"four": conv(keras, 4, name="fourth")}
            inputs = keras.Input((10, 10, 4))
            self.inner = keras.Model(inputs, conv(keras, 6, name="sixth", activation="elu")(inputs), name="inner")
            self.fc = of.Dense(3, name="fc", **seeded(keras, 7))
            self.other = of.Dense(3, name="other", **seeded(keras, 8))
            self.head, self.linear, self.times, self.factor, self.turned = "none", "fc", 1, 1.0, False
            self.function, self.settings, self.held = tf.nn.softplus, {"power": 1, "more": [2.0]}, [1.0]
            self.array, self.constant = np.ones(4, np.float32), tf.ones(4)
            self.own, self.of_class = SimpleNamespace(scale=2.0), Weighs()
            self.pair, self.spare = ([1.0], 1.0), None

        def call(self, x: Any) -> Any:
            CALLS.append(1)
            x = self.leaky(self.norm(self.block(self.first(x))))
            for part in [*self.parts, *self.by_name.values()]:
                x = self.act(part(x))
            x = self.function(self.inner(x)) * self.factor * self.own.scale * self.of_class.factor + self.shift
            for _ in range(self.times):
                x = self.second(x)
            x = x ** self.settings["power"] * self.settings["more"][0] * self.held[0] * self.array * self.constant
            x = x * self.pair[0][0] * self.pair[1] * getattr(self, "late", 1.0)
            x = tf.reduce_mean(x[:, ::-1] ** 2 if self.turned else x, [1, 2])
            self.other(x)
            return HEADS[self.head](getattr(self, self.linear)(self.drop(x)))

    model = Net()
    model(IMAGES)
    for one in (model, *model.submodules) if hasattr(model, "submodules") else model._flatten_layers():
        if hasattr(one, "_tracker"):
            one._tracker.unlock()  # Keras 3 allows other parts no other way
    return model


def replaced_kernel(layer: Any) -> None:
    kernel = layer.kernel
    other = np.flip(np.array(kernel), -2).copy()
    if "tf_keras" in type(layer).__module__ or not hasattr(layer, "_kernel"):
        layer.kernel = tf.Variable(other, name="kernel")
    else:
        layer._kernel = type(kernel)(other, name="kernel")


def swapped_names(one: Any, other: Any) -> None:
    name = "_name" if "_name" in one.__dict__ else "name"
    one.__dict__[name], other.__dict__[name] = other.__dict__[name], one.__dict__[name]


def of_class(model: Any) -> None:
    type(model).shift = 1.0


def another_call(model: Any, x: Any) -> Any:
    return model.fc(tf.reduce_mean(model.second(model.first(x)), [1, 2]))


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    # layers
    "a layer swapped": lambda keras, net: setattr(net, "first", conv(keras, 11, name="first")),
    "the layer swapped": lambda keras, net: setattr(net, "second", conv(keras, 11, name="second")),
    "the last layer swapped": lambda keras, net: setattr(net, "fc", keras.layers.Dense(5, **seeded(keras, 9))),
    "a layer of a list swapped": lambda keras, net: net.parts.__setitem__(0, conv(keras, 11)),
    "a layer of a list added": lambda keras, net: net.parts.append(conv(keras, 11)),
    "a layer of a list removed": lambda keras, net: net.parts.pop(),
    "a layer of a dict swapped": lambda keras, net: net.by_name.__setitem__("four", conv(keras, 11)),
    "a layer inside a layer swapped": lambda keras, net: setattr(net.block, "conv", conv(keras, 11)),
    "a model inside swapped": lambda keras, net: setattr(net, "inner", keras.layers.Activation("relu")),
    "names exchanged": lambda keras, net: swapped_names(net.first, net.second),
    # weights
    "weights assigned": lambda keras, net: net.set_weights([each * 1.5 + 0.1 for each in net.get_weights()]),
    "one weight assigned": lambda keras, net: net.second.bias.assign(net.second.bias + 0.5),
    "statistics assigned": lambda keras, net: net.norm.moving_mean.assign(net.norm.moving_mean + 0.5),
    "a kernel replaced": lambda keras, net: replaced_kernel(net.second),
    "the kernel of a dense layer replaced": lambda keras, net: replaced_kernel(net.fc),
    "no bias": lambda keras, net: (setattr(net.fc, "use_bias", False), setattr(net.fc, "bias", None)),
    # attributes of layers
    "the activation of the layer": lambda keras, net: setattr(net.second, "activation", tf.nn.tanh),
    "the activation of a convolution": lambda keras, net: setattr(net.first, "activation", tf.nn.tanh),
    "the activation of a dense layer": lambda keras, net: setattr(net.fc, "activation", tf.nn.softmax),
    "the activation of an activation": lambda keras, net: setattr(net.act, "activation", tf.nn.relu),
    "an activation inside a model": lambda keras, net: setattr(net.inner.get_layer("sixth"), "activation", tf.nn.tanh),
    "an epsilon": lambda keras, net: setattr(net.norm, "epsilon", 1.0),
    "a slope": lambda keras, net: setattr(
        net.leaky, "alpha" if hasattr(net.leaky, "alpha") else "negative_slope", 0.75
    ),
    "strides": lambda keras, net: setattr(net.second, "strides", (2, 2)),
    "dilations": lambda keras, net: setattr(net.second, "dilation_rate", (2, 2)),
    "a plain value of a layer": lambda keras, net: setattr(net.block, "factor", 3.0),
    "a call of a layer": lambda keras, net: net.first.__dict__.update(call=lambda x: tf.repeat(x, 4, -1)),
    # what the user's code reads
    "a call of the model": lambda keras, net: net.__dict__.update(call=MethodType(another_call, net)),
    "a text": lambda keras, net: setattr(net, "head", "softmax"),
    "another text": lambda keras, net: setattr(net, "head", "cubed"),
    "the name of the last layer": lambda keras, net: setattr(net, "linear", "other"),
    "a count": lambda keras, net: setattr(net, "times", 2),
    "the layer not called": lambda keras, net: setattr(net, "times", 0),
    "a number": lambda keras, net: setattr(net, "factor", -2.0),
    "a flag": lambda keras, net: setattr(net, "turned", True),
    "a function": lambda keras, net: setattr(net, "function", tf.sin),
    "an entry of a dict": lambda keras, net: net.settings.__setitem__("power", 2),
    "an entry of a list": lambda keras, net: net.held.__setitem__(0, 3.0),
    "an entry of a list in a dict": lambda keras, net: net.settings["more"].__setitem__(0, 5.0),
    "an entry of a list in a tuple": lambda keras, net: net.pair[0].__setitem__(0, 5.0),
    "another tuple": lambda keras, net: setattr(net, "pair", ([1.0], 3.0)),
    "an attribute in place of one that was None": lambda keras, net: (delattr(net, "spare"), setattr(net, "late", 3.0)),
    "an attribute of an object": lambda keras, net: setattr(net.own, "scale", 4.0),
    "an attribute of an object of a class": lambda keras, net: setattr(net.of_class, "factor", 4.0),
    "values of an array": lambda keras, net: net.array.__setitem__(slice(2), 0.5),
    "another array": lambda keras, net: setattr(net, "array", np.arange(4, dtype=np.float32)),
    "another constant": lambda keras, net: setattr(net, "constant", tf.range(4.0)),
    "a value of the class": lambda keras, net: of_class(net),
}
"""What may happen to a model between two calls."""

SEEN_THROUGH = {"a text", "the activation of a dense layer"}
"""These add a softmax, before which the logits are the same."""

NOTHING: dict[str, Callable[[Any, Any], Any]] = {
    "another rate of dropout": lambda keras, net: setattr(net.drop, "rate", 0.9),
    "frozen": lambda keras, net: setattr(net.norm, "trainable", False),
    "a plain call": lambda keras, net: net(IMAGES),
    "a call in training": lambda keras, net: setattr(net.norm, "momentum", 0.5),
}
"""What changes nothing."""


def told(model: Any, layer: Any, **more: Any) -> Any:
    """Signed maps and scores, or the class of the error."""
    try:
        found = explain(model, IMAGES, layer=layer, **{"target": 1, **more})
    except CamError as error:
        return type(error)
    return found.raw, found.scores


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, type) or isinstance(found, type):
        return found is expected
    return all(
        one.shape == other.shape and np.allclose(one, other, 1e-4, 1e-5 * np.abs(other).max())
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.filterwarnings("ignore::fe_gradcam.CamWarning")
@pytest.mark.parametrize(
    "change",
    list(CHANGES),
)
def test_a_changed_model_is_explained_as_it_is(keras: Any, change: str) -> None:
    model, never = net(keras), net(keras)
    before = told(model, "second")
    CALLS.clear()
    assert same(told(model, "second"), before)
    assert not CALLS, "a model that is the same is not traced again"
    for one in (model, never):
        CHANGES[change](keras, one)
    expected = told(never, "second")
    assert same(told(model, "second"), expected)
    assert same(expected, before) == (change in SEEN_THROUGH), "the change is one"


@pytest.mark.parametrize("change", ["a number", "a layer of a list swapped", "the activation of a convolution"])
def test_so_it_is_by_other_methods_and_at_the_default_layer(keras: Any, change: str) -> None:
    model, never = net(keras), net(keras)
    asked: list[dict[str, Any]] = [{"layer": None}, {"layer": "second", "method": "score_cam", "score": "output"}]
    before = [told(model, **each) for each in asked]
    for one in (model, never):
        CHANGES[change](keras, one)
    for each, old in zip(asked, before, strict=True):
        expected = told(never, **each)
        assert same(told(model, **each), expected)
        assert not same(expected, old)


@pytest.mark.parametrize("change", NOTHING)
def test_what_changes_nothing_changes_no_map(keras: Any, change: str) -> None:
    model = net(keras)
    before = told(model, "second")
    NOTHING[change](keras, model)
    assert same(told(model, "second"), before)


def test_a_callable_target_that_reads_other_values_is_asked_anew(keras: Any) -> None:
    model, weighs, read, array = net(keras), Weighs(), [1.0], np.ones(3, np.float32)
    targets: list[tuple[Any, Callable[[float], Any]]] = [
        (weighs, lambda value: setattr(weighs, "factor", value)),
        (lambda output: output[:, 0] * read[0], lambda value: read.__setitem__(0, value)),
        (lambda output: tf.reduce_sum(output * array, 1), lambda value: array.__setitem__(slice(None), value)),
    ]
    for target, change in targets:
        one = told(model, "second", target=target)
        assert same(told(model, "second", target=target), one)
        change(-2.0)
        assert same(told(model, "second", target=target), [-2.0 * each for each in one])


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images[:1],
        lambda images: images.astype(np.float64),
        lambda images: images[:, 1:, :9],
        lambda images: (images * 255).astype(np.uint8).astype(np.float32),
        lambda images: tf.constant(images),
    ],
    ids=["one", "float64", "a size", "bytes", "a tensor"],
)
def test_other_images_are_explained_as_they_are(keras: Any, change: Any) -> None:
    of = keras.layers
    parts = [
        conv(keras, 1, name="first", activation="relu"),
        of.GlobalAveragePooling2D(),
        of.Dense(3, **seeded(keras, 7)),
    ]
    make = lambda: keras.Sequential([keras.Input((None, None, 1)), *parts])  # noqa: E731
    model = make()
    for _ in range(2):
        explain(model, IMAGES, target=1)
    found, expected = explain(model, change(IMAGES), target=1), explain(make(), change(IMAGES), target=1)
    assert_allclose(found.raw, expected.raw, rtol=1e-5)
    assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_a_target_may_name_what_is_not_assigned_yet(keras: Any) -> None:
    def made(early: bool) -> Any:
        def target(output: Any) -> Any:
            return output[:, 0] if len(output.shape) == 2 else later

        if early:
            return target
        later = None
        return target

    model = net(keras)
    assert same(told(model, "second", target=made(True)), told(model, "second", target=made(False)))
