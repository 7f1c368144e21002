"""The Keras backend: the score it explains, the models it copes with, and the state it leaves."""

from __future__ import annotations

import gc
import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from fe_gradcam import (
    ArgumentError,
    CamWarning,
    GradientError,
    UnknownNameError,
    UnsupportedModelError,
    explain,
    explain_many,
    list_layers,
)
from fe_gradcam.backends.keras.compiled import FUNCTIONS
from tests.models.toys import keras_toy, small_keras

layers = tf.keras.layers


class Behind(tf.keras.Model):
    """The pooled toy with a function behind its logits, in a subclassed model."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.toy, _, _ = keras_toy("pooled")
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(self.toy(x))


HEADS = {
    "tf.nn.softmax": tf.nn.softmax,
    "tf.nn.log_softmax": tf.nn.log_softmax,
    "tf.sigmoid": tf.sigmoid,
    "keras softmax": tf.keras.activations.softmax,
    "reshape behind": lambda x: tf.reshape(tf.nn.softmax(x), [-1, 2]),
    "cast behind": lambda x: tf.cast(tf.cast(tf.nn.softmax(x), tf.float64), tf.float32),
    "axes behind": lambda x: tf.squeeze(tf.nn.softmax(x)[:, tf.newaxis, :], 1),
    "slice behind": lambda x: tf.nn.softmax(tf.concat([x, x], 0))[: tf.shape(x)[0]],
    "clip behind": lambda x: tf.exp(tf.nn.log_softmax(x)),
    "tf.function": tf.function(lambda x: tf.nn.softmax(x)),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_logit_behind_any_head_is_explained(head: str) -> None:
    plain, image, layer = keras_toy("pooled")
    expected = explain(plain, image, layer=layer, target=1)
    heatmap = explain(Behind(HEADS[head]), image, layer=layer, target=1)
    assert_allclose(heatmap.scores, -1.5, atol=1e-6)
    assert_allclose(heatmap.raw, expected.raw, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "log_softmax"])
def test_a_fused_activation(activation: str) -> None:
    plain, image, layer = keras_toy("pooled")
    fused, _, _ = keras_toy("pooled", getattr(tf.nn, activation) if activation == "log_softmax" else activation)
    heatmap = explain(fused, image, layer=layer, target=1)
    assert_allclose(heatmap.scores, -1.5, atol=1e-6)
    assert_allclose(heatmap.raw, explain(plain, image, layer=layer, target=1).raw, atol=1e-6)
    expected = 1 / (1 + np.exp(1.5)) if activation == "sigmoid" else 1 / (1 + np.exp(9.5))
    assert_allclose(heatmap.confidences, expected, rtol=1e-5)


def test_score_output_keeps_the_output_as_it_is() -> None:
    model, image, layer = keras_toy("pooled", "softmax")
    heatmap = explain(model, image, layer=layer, target=0, score="output")
    assert_allclose(heatmap.scores, 1 / (1 + np.exp(-9.5)), rtol=1e-6)
    assert np.abs(heatmap.raw).max() < 1e-2  # the saturated softmax; the logit's map reaches 2.5


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_single_output_makes_two_classes(activation: str | None) -> None:
    inputs = tf.keras.Input((5, 5, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, activation="relu")(inputs))
    dense = layers.Dense(1, activation=activation)
    model = tf.keras.Model(inputs, dense(x))
    images = np.random.rand(6, 5, 5, 1).astype(np.float32)
    to_logit = (lambda p: np.log(p / (1 - p))) if activation else (lambda z: z)
    logit = to_logit(model(images).numpy()[:, 0])
    dense.bias.assign_sub([np.median(logit)])
    logit = to_logit(model(images).numpy()[:, 0])
    inferred = explain(model, images)
    assert set(inferred.class_ids) == {0, 1}
    assert_allclose(inferred.class_ids, logit > 0)
    assert_allclose(inferred.scores, np.abs(logit), atol=1e-5)
    assert_allclose(inferred.confidences, 1 / (1 + np.exp(-np.abs(logit))), rtol=1e-4)


def test_probabilities_without_a_softmax_are_explained_as_log_p_and_said_once() -> None:
    model = Behind(lambda x: tf.exp(x / 8) / tf.reduce_sum(tf.exp(x / 8), 1, keepdims=True))
    _, image, _ = keras_toy("pooled")
    expected = model(image).numpy().max(1)
    with pytest.warns(CamWarning, match=r"log p .* is explained"):
        heatmap = explain(model, image, layer="relu")
    assert_allclose(heatmap.scores, np.log(expected), rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CamWarning)
        explain(model, image, layer="relu")


def test_targets() -> None:
    model, images = small_keras(softmax=True), np.random.randn(4, 9, 12, 3).astype(np.float32)
    ids = np.array([0, 3, 1, 4])
    several = explain(model, images, target=ids)
    assert_allclose(several.class_ids, ids)
    for at, class_id in enumerate(ids):
        alone = explain(model, images[at : at + 1], target=int(class_id))
        assert_allclose(several.raw[at], alone.raw[0], atol=1e-6)
    inferred = explain(model, images)
    assert_allclose(inferred.class_ids, model(images).numpy().argmax(1))
    assert_allclose(inferred.confidences, model(images).numpy().max(1), rtol=1e-5)
    by_callable = explain(model, images, target=lambda output: tf.math.log(output[:, 2]))
    assert (by_callable.class_ids == -1).all()
    assert np.isnan(by_callable.confidences).all()
    assert_allclose(by_callable.scores, np.log(model(images).numpy()[:, 2]), rtol=1e-5)


def test_many_equals_one_by_one_in_the_promised_order() -> None:
    model, images = small_keras(), np.random.randn(5, 9, 12, 3).astype(np.float32)
    methods, places, targets = ["grad_cam", "layer_cam"], [None, "conv2"], [None, 1, [0, 1, 2, 3, 4]]
    many = explain_many(model, images, methods=methods, layers=places, targets=targets, batch_size=2)
    wanted = [(m, k, t) for m in methods for k in places for t in targets]
    for heatmap, (method, layer, target) in zip(many, wanted, strict=True):
        alone = explain(model, images, method=method, layer=layer, target=target)
        assert heatmap.method == method
        assert_allclose(heatmap.raw, alone.raw, atol=1e-6)


def test_one_compiled_function_serves_all_class_targets() -> None:
    """A new trace per call would cost 96 ms and leak."""
    model, images = small_keras(), np.random.randn(2, 9, 12, 3).astype(np.float32)
    explain(model, images)
    count = len(FUNCTIONS[model])
    for target in (0, 3, [1, 2], None):
        explain(model, images[:1] if target == 3 else images, target=target)
    assert len(FUNCTIONS[model]) == count


class Parts(tf.keras.Model):
    """Subclassed, with parts that can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.fc(self.pool(self.conv(x)))


@pytest.mark.parametrize("change", ["weights", "pool", "fc"])
def test_a_changed_model_is_explained_as_it_is_now(change: str) -> None:
    model, images = Parts(), np.random.randn(2, 9, 12, 3).astype(np.float32)
    model(images)
    before = explain(model, images, target=0)
    if change == "weights":
        model.set_weights([weight + 0.1 for weight in model.get_weights()])
    elif change == "pool":
        model.pool = layers.GlobalMaxPooling2D()
    else:
        model.fc = layers.Dense(3)
    after = explain(model, images, target=0)
    assert_allclose(after.scores, model(images).numpy()[:, 0], rtol=1e-4)
    assert np.abs(after.scores - before.scores).max() > 1e-3


def test_logit_and_output_have_traces_of_their_own() -> None:
    model, image, layer = keras_toy("pooled", "softmax")
    scores = [explain(model, image, layer=layer, target=0, score=score).scores[0] for score in ("logit", "output")]
    assert_allclose(scores, [8, 1 / (1 + np.exp(-9.5))], rtol=1e-5)


def test_it_outlives_clear_session() -> None:
    model, images = small_keras(), np.random.randn(2, 9, 12, 3).astype(np.float32)
    before = explain(model, images)
    tf.keras.backend.clear_session()
    assert_allclose(explain(model, images).raw, before.raw)


# --- layers ------------------------------------------------------------------------------------------


def test_a_layer_by_name_index_and_itself() -> None:
    model, images = small_keras(), np.random.randn(2, 9, 12, 3).astype(np.float32)
    layer = model.get_layer("conv2")
    index = list(model._flatten_layers(include_self=False)).index(layer)
    expected = explain(model, images, layer="conv2").raw
    for given in (layer, index, index - len(list(model._flatten_layers(include_self=False)))):
        assert_allclose(explain(model, images, layer=given).raw, expected)


@pytest.mark.parametrize("layer", ["conv_2", 99, layers.Conv2D(1, 1)])
def test_an_unknown_layer_is_an_error_that_helps(layer: Any) -> None:
    with pytest.raises(UnknownNameError, match="is no layer of this model"):
        explain(small_keras(), np.zeros((1, 9, 12, 3), np.float32), layer=layer)


def test_a_layer_without_places_is_an_error() -> None:
    model, image, _ = keras_toy("pooled")
    with pytest.raises(ArgumentError, match=r"layer='fc' has an output of shape \(2,\) per image"):
        explain(model, image, layer="fc")


class Functional(tf.keras.Model):
    """Subclassed, with a functional activation, inside a tf.function, with control flow on a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = layers.Conv2D(4, 3, name="conv"), layers.Dense(3)

    @tf.function
    def call(self, x: Any) -> Any:
        x = tf.nn.relu(self.conv(x))
        if tf.reduce_mean(x) > 1000.0:
            x = x * 2.0
        return tf.nn.softmax(self.fc(tf.reduce_mean(x, [1, 2])))


def test_a_call_that_is_a_tf_function_with_a_functional_activation() -> None:
    model, images = Functional(), np.random.rand(2, 8, 8, 1).astype(np.float32)
    model(images)
    heatmap = explain(model, images, target=1)
    assert heatmap.layer == "conv + activation"
    weights = model.fc.kernel.numpy()[:, 1] / 36
    expected = np.einsum("k,nhwk->nhw", weights, np.maximum(model.conv(images).numpy(), 0))
    assert_allclose(heatmap.raw, expected, atol=1e-6)


def test_of_a_layer_called_twice_the_last_call_counts() -> None:
    inputs = tf.keras.Input((6, 6, 2))
    conv, dense = layers.Conv2D(2, 3, padding="same", name="conv"), layers.Dense(3)
    model = tf.keras.Model(inputs, dense(layers.GlobalAveragePooling2D()(conv(conv(inputs)))))
    images = np.random.rand(2, 6, 6, 2).astype(np.float32)
    weights = dense.kernel.numpy()[:, 1] / 36
    expected = np.einsum("k,nhwk->nhw", weights, conv(conv(images)).numpy())
    assert_allclose(explain(model, images, layer="conv", target=1).raw, expected, atol=1e-6)


def test_a_nested_model() -> None:
    inside = small_keras(classes=4)
    inputs = tf.keras.Input((9, 12, 3))
    model = tf.keras.Model(inputs, layers.Dense(3, activation="softmax")(inside(inputs)))
    images = np.random.rand(2, 9, 12, 3).astype(np.float32)
    assert explain(model, images).layer == "conv2"
    assert explain(model, images, layer="conv2").raw.shape == (2, 7, 10)


def test_list_layers() -> None:
    model, image, _ = keras_toy("pooled")
    infos = list_layers(model, image)
    shapes = {info.name: info.shape for info in infos}
    assert shapes["conv"] == (2, 2, 3)
    assert shapes["fc"] == (2,)
    assert [info.name for info in infos if info.spatial][-1] == "relu"


# --- models that get in the way ----------------------------------------------------------------------


def test_a_stopped_gradient_is_an_error() -> None:
    inputs = tf.keras.Input((8, 8, 1))
    x = tf.stop_gradient(layers.Conv2D(4, 3, name="conv")(inputs))
    model = tf.keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(GradientError, match="No gradient reaches layer='conv', though the score depends on it"):
        explain(model, np.random.rand(2, 8, 8, 1).astype(np.float32), layer="conv")


def test_mixed_precision() -> None:
    tf.keras.utils.set_random_seed(1)
    expected_model = small_keras(softmax=True)
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = small_keras(softmax=True)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    model.set_weights(expected_model.get_weights())
    images = np.random.randn(2, 9, 12, 3).astype(np.float32)
    expected = explain(expected_model, images, target=1).raw
    raw = explain(model, images, target=1).raw
    assert_allclose(raw, expected, atol=0.01 * np.abs(expected).max())  # 11 bits of mantissa


def test_small_gradients_survive_half_precision() -> None:
    """A gradient of 2**-26 is below the smallest that fp16 can hold, 2**-24."""
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        inputs = tf.keras.Input((8, 8, 1))
        x = layers.Conv2D(1, 1, name="conv", kernel_initializer="ones")(inputs)
        dense = layers.Dense(2, kernel_initializer=tf.keras.initializers.Constant(2.0**-20))
        model = tf.keras.Model(inputs, dense(layers.GlobalAveragePooling2D()(x)))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    raw = explain(model, np.ones((1, 8, 8, 1), np.float32), layer="conv", target=0, scaling="none").raw
    assert_allclose(raw, 2.0**-26, rtol=1e-2)  # 2**-20 / 64


def test_two_inputs() -> None:
    inside = small_keras()
    left, right = tf.keras.Input((9, 12, 3)), tf.keras.Input((9, 12, 3))
    model = tf.keras.Model([left, right], inside(left + right))
    a, b = (np.random.randn(2, 9, 12, 3).astype(np.float32) for _ in range(2))
    assert_allclose(explain(model, (a, b), target=1).raw, explain(inside, a + b, target=1).raw, atol=1e-6)


def test_integer_images() -> None:
    model = tf.keras.Sequential([layers.Rescaling(1 / 255, input_shape=(9, 12, 3)), small_keras()])
    images = np.random.randint(0, 256, (2, 9, 12, 3)).astype(np.uint8)
    expected = explain(model, images.astype(np.float32), target=1)
    assert_allclose(explain(model, images, target=1).raw, expected.raw, atol=1e-6)


def test_nan_activations_are_blank_and_said() -> None:
    model, images = small_keras(), np.random.randn(3, 9, 12, 3).astype(np.float32)
    images[1] = np.nan
    with pytest.warns(CamWarning, match="hold NaN or infinite values for 1 of 3 images"):
        heatmap = explain(model, images, target=0, layer=1)  # the first convolution: a ReLU may turn NaN into 0
    assert heatmap.blank[1]
    assert np.isfinite(heatmap.values).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 5}, r"target=5 is not a class of this model: it has 5 classes"),
        ({"target": [0, 1, 2]}, r"target=\[0, 1, 2\] is not accepted for 2 image"),
        ({"target": lambda output: output}, r"a callable, returned \(None, 5\)"),
        ({"images": np.zeros((9, 12, 3), np.float32)}, r"images has shape \(9, 12, 3\).*Add the batch axis"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {"images": np.zeros((2, 9, 12, 3), np.float32), **change}
    with pytest.raises(ArgumentError, match=message):
        explain(small_keras(), **arguments)


def test_several_outputs_are_named() -> None:
    model = small_keras()
    several = tf.keras.Model(model.input, [model.output, model.output])
    images = np.random.randn(2, 9, 12, 3).astype(np.float32)
    with pytest.raises(UnsupportedModelError, match="model returns a list"):
        explain(several, images)
    by_callable = explain(several, images, target=lambda outputs: outputs[1][:, 2])
    assert_allclose(by_callable.raw, explain(model, images, target=2).raw, atol=1e-6)


def test_what_is_no_keras_model_is_named(tmp_path: Any) -> None:
    tf.saved_model.save(small_keras(), str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    with pytest.raises(UnsupportedModelError, match="SavedModel loaded without its class"):
        explain(loaded, np.zeros((1, 9, 12, 3), np.float32))


# --- the state that is left --------------------------------------------------------------------------


def test_everything_is_left_as_it_was() -> None:
    model, images = small_keras(), np.random.randn(4, 9, 12, 3).astype(np.float32)
    tf.random.set_seed(11)
    expected_draws = [tf.random.normal([3]).numpy() for _ in range(3)]
    tf.random.set_seed(11)
    weights, python, numpy = model.get_weights(), random.getstate(), np.random.get_state()[1].copy()
    draws = [tf.random.normal([3]).numpy()]
    explain(model, images)
    draws.append(tf.random.normal([3]).numpy())
    explain(model, images, layer="conv2", target=lambda output: output[:, 0])
    list_layers(model, images)
    draws.append(tf.random.normal([3]).numpy())
    assert_allclose(draws, expected_draws)
    for before, after in zip(weights, model.get_weights(), strict=True):
        assert np.array_equal(before, after)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy)
    assert not any("call" in layer.__dict__ for layer in model._flatten_layers())


def test_calls_are_put_back_when_the_model_fails() -> None:
    class Failing(tf.keras.Model):
        fail = False

        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2D(2, 3, name="conv")

        def call(self, x: Any) -> Any:
            x = self.conv(x)
            if self.fail:
                raise RuntimeError("on request")
            return tf.reduce_mean(x, [1, 2])

    model, images = Failing(), np.random.rand(1, 8, 8, 1).astype(np.float32)
    model(images)

    def already_there(x: Any) -> Any:
        return layers.Conv2D.call(model.conv, x)

    model.conv.call = already_there
    model.fail = True
    for layer in ("conv", None):
        with pytest.raises(RuntimeError, match="on request"):
            explain(model, images, layer=layer)
    assert model.conv.call is already_there
    assert not tf.config.functions_run_eagerly()
    model.fail = False
    assert explain(model, images, layer="conv").raw.shape == (1, 6, 6)


def test_a_model_is_freed_after_it_was_explained() -> None:
    model, images = small_keras(), np.random.randn(1, 9, 12, 3).astype(np.float32)
    explain(model, images)
    explain(model, images, target=lambda output: output[:, 0])
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


# --- outputs without a visible head ------------------------------------------------------------------


def pooled(classes: int, function: Callable[[Any], Any], bias: Any = 0.0) -> Any:
    """A convolution, its maps averaged, and a function behind them."""
    inputs = tf.keras.Input((8, 8, 1))
    conv = layers.Conv2D(classes, 3, name="conv", bias_initializer=lambda shape, dtype=None: tf.zeros(shape) + bias)
    return tf.keras.Model(inputs, function(layers.GlobalAveragePooling2D()(conv(inputs))))


@pytest.mark.parametrize(
    "function", [lambda z: 1 / (1 + tf.exp(-z)), lambda z: tf.reduce_mean(tf.sigmoid(tf.tile(z, [1, 3])), 1, True)]
)
def test_a_single_probability_of_unknown_making_is_read_as_one(function: Callable[[Any], Any]) -> None:
    model, images = pooled(1, function, -3.0), np.random.rand(6, 8, 8, 1).astype(np.float32)
    p = model(images).numpy()[:, 0]
    assert (p < 0.5).all()
    with pytest.warns(CamWarning, match="probabilities"):
        heatmap = explain(model, images, layer="conv")
    assert (heatmap.class_ids == 0).all()
    assert_allclose(heatmap.confidences, 1 - p, rtol=1e-4)
    assert_allclose(heatmap.scores, np.log((1 - p) / p), rtol=1e-3)


def test_single_logits_that_lie_in_0_to_1_by_chance_stay_logits() -> None:
    images = np.random.rand(4, 8, 8, 1).astype(np.float32)
    model = pooled(1, lambda z: z)
    model.get_layer("conv").bias.assign_add([0.3 - float(tf.reduce_mean(model(images)))])
    logits = model(images).numpy()[:, 0]
    assert ((logits > 0) & (logits < 1)).all()
    assert_allclose(explain(model, images, layer="conv").confidences, 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("pick", [lambda p: p[:, 1], lambda p: p[:, 1:], lambda p: tf.gather(p, [1], axis=1)])
def test_one_column_of_a_softmax_is_no_logit_of_its_own(pick: Callable[[Any], Any]) -> None:
    model = pooled(2, lambda z: pick(tf.nn.softmax(z)), [3.0, 2.0])
    images = np.random.rand(5, 8, 8, 1).astype(np.float32)
    maps, p = model.get_layer("conv")(images).numpy(), model(images).numpy().reshape(-1)
    assert (p < 0.5).all()
    with pytest.warns(CamWarning, match="probabilities"):
        heatmap = explain(model, images, layer="conv", target=1, scaling="none")
    assert_allclose(heatmap.confidences, p, rtol=1e-4)
    assert_allclose(heatmap.raw, (maps[..., 1] - maps[..., 0]) / 36, atol=1e-5)
