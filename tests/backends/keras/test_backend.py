"""The Keras backend: the score it explains, the models it copes with, and the state it leaves."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from fe_gradcam import UnsupportedModelError, explain, list_layers
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.keras.compiled import FUNCTIONS
from fe_gradcam.types import LayerRef
from tests.methods.inputs import A0, A1
from tests.models.held import assert_unchanged, held
from tests.models.kerases import KERASES
from tests.models.toys import keras_toy, small_keras
from tests.models.zoo import in_half_precision


@pytest.fixture(params=KERASES)
def keras(request: pytest.FixtureRequest) -> Any:
    return KERASES[request.param]


def test_one_compiled_function_serves_all_class_targets(keras: Any) -> None:
    """A new trace per call would cost 96 ms and leak."""
    model, images = small_keras(keras=keras), np.random.randn(2, 9, 12, 3).astype(np.float32)
    explain(model, images)
    count = len(FUNCTIONS[model])
    for target in (0, 3, [1, 2], None):
        explain(model, images[:1] if target == 3 else images, target=target)
    assert len(FUNCTIONS[model]) == count


def wrapped(keras: Any, call: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """The toy, called by a function of it and the images; and a layer of it."""
    inner = small_keras(keras=keras)

    class Wrapped(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def call(self, x: Any) -> Any:
            return call(self.inner, x)

    return Wrapped(), inner.get_layer("conv2")


def test_a_graph_that_asks_for_a_value_at_each_call_gets_it(keras: Any) -> None:
    factor, images = [1.0], np.random.randn(2, 9, 12, 3).astype(np.float32)

    def call(inner: Any, x: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        return inner(x) * graph.capture_call_time_value(lambda: tf.constant(factor[0]), tf.TensorSpec([]))

    model, layer = wrapped(keras, call)
    before = explain(model, images, target=0, layer=layer)
    factor[0] = 3.0
    found = explain(model, images, target=0, layer=layer)
    assert_allclose(found.scores, 3 * before.scores, rtol=1e-5)
    assert_allclose(found.raw, 3 * before.raw, rtol=1e-5)


def test_an_error_in_a_pass_says_where_it_is(keras: Any) -> None:
    def call(inner: Any, x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, "a pixel is too bright")]):
            return inner(tf.identity(x))

    (model, layer), images = wrapped(keras, call), np.random.rand(2, 9, 12, 3).astype(np.float32)
    explain(model, images, target=0, layer=layer)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)Detected at.*a pixel is too bright"):
        explain(model, images + 200, target=0, layer=layer)
    assert not explain(model, images, target=0, layer=layer).blank.all()


def test_where_there_is_a_gpu_the_function_itself_is_called(keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small_keras(keras=keras), np.random.rand(2, 9, 12, 3).astype(np.float32)
    expected = [explain(model, images, method=method, target=1) for method in ("grad_cam", "full_grad")]
    FUNCTIONS.clear()
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    monkeypatch.setattr("fe_gradcam.backends.keras.compiled._call", None)
    for one in expected:
        assert_allclose(explain(model, images, method=one.method, target=1).raw, one.raw, rtol=1e-5)


def test_an_explained_model_is_not_kept_alive(keras: Any) -> None:
    model = small_keras(keras=keras)
    explain(model, np.random.rand(2, 9, 12, 3).astype(np.float32))
    seen = ref(model)
    del model
    keras.backend.clear_session()  # its own tables
    gc.collect()
    assert seen() is None


def parts(keras: Any) -> Any:
    """Subclassed, with parts that can be replaced."""

    class Parts(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            of = keras.layers
            self.conv, self.pool, self.fc = of.Conv2D(4, 3), of.GlobalAveragePooling2D(), of.Dense(3)

        def call(self, x: Any) -> Any:
            return self.fc(self.pool(self.conv(x)))

    return Parts()


@pytest.mark.parametrize("change", ["weights", "pool", "fc"])
def test_a_changed_model_is_explained_as_it_is_now(keras: Any, change: str) -> None:
    model, images = parts(keras), np.random.randn(2, 9, 12, 3).astype(np.float32)
    model(images)
    before = explain(model, images, target=0)
    if change != "weights" and hasattr(model, "_tracker"):
        model._tracker.unlock()  # Keras 3 allows it no other way
    if change == "weights":
        model.set_weights([weight + 0.1 for weight in model.get_weights()])
    elif change == "pool":
        model.pool = keras.layers.GlobalMaxPooling2D()
    else:
        model.fc = keras.layers.Dense(3)
    after = explain(model, images, target=0)
    assert_allclose(after.scores, model(images).numpy()[:, 0], rtol=1e-4)
    assert np.abs(after.scores - before.scores).max() > 1e-3


def test_it_outlives_clear_session(keras: Any) -> None:
    model, images = small_keras(keras=keras), np.random.randn(2, 9, 12, 3).astype(np.float32)
    before = explain(model, images)
    keras.backend.clear_session()
    assert_allclose(explain(model, images).raw, before.raw)


# --- layers ------------------------------------------------------------------------------------------


def functional(keras: Any) -> Any:
    """Subclassed, with a functional activation, inside a tf.function, with control flow on a tensor."""

    class Functional(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = keras.layers.Conv2D(4, 3, name="conv"), keras.layers.Dense(3)

        @tf.function
        def call(self, x: Any) -> Any:
            x = tf.nn.relu(self.conv(x))
            if tf.reduce_mean(x) > 1000.0:
                x = x * 2.0
            return tf.nn.softmax(self.fc(tf.reduce_mean(x, [1, 2])))

    return Functional()


def test_a_call_that_is_a_tf_function_with_a_functional_activation(keras: Any) -> None:
    model, images = functional(keras), np.random.rand(2, 8, 8, 1).astype(np.float32)
    model(images)
    heatmap = explain(model, images, target=1)
    assert heatmap.layer == "conv + activation"
    weights = model.fc.kernel.numpy()[:, 1] / 36
    expected = np.einsum("k,nhwk->nhw", weights, np.maximum(model.conv(images).numpy(), 0))
    assert_allclose(heatmap.raw, expected, atol=1e-6)


def test_of_a_layer_called_twice_the_last_call_counts(keras: Any) -> None:
    inputs = keras.Input((6, 6, 2))
    conv, dense = keras.layers.Conv2D(2, 3, padding="same", name="conv"), keras.layers.Dense(3)
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(conv(conv(inputs)))))
    images = np.random.rand(2, 6, 6, 2).astype(np.float32)
    weights = dense.kernel.numpy()[:, 1] / 36
    expected = np.einsum("k,nhwk->nhw", weights, conv(conv(images)).numpy())
    assert_allclose(explain(model, images, layer="conv", target=1).raw, expected, atol=1e-6)


def test_a_nested_model(keras: Any) -> None:
    inside = small_keras(classes=4, keras=keras)
    inputs = keras.Input((9, 12, 3))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inside(inputs)))
    images = np.random.rand(2, 9, 12, 3).astype(np.float32)
    assert explain(model, images).layer == "conv2"
    assert explain(model, images, layer="conv2").raw.shape == (2, 7, 10)


def test_list_layers(keras: Any) -> None:
    model, image, _ = keras_toy("pooled", keras=keras)
    infos = list_layers(model, image)
    shapes = {info.name: info.shape for info in infos}
    assert shapes["conv"] == (2, 2, 3)
    assert shapes["fc"] == (2,)
    assert [info.name for info in infos if info.spatial][-1] == "relu"


# --- models that get in the way ----------------------------------------------------------------------


def test_mixed_precision(keras: Any) -> None:
    make = partial(small_keras, softmax=True, keras=keras)
    plain, model = make(), in_half_precision(make, keras)
    model.set_weights(plain.get_weights())
    images = np.random.randn(2, 9, 12, 3).astype(np.float32)
    expected = explain(plain, images, target=1).raw
    assert_allclose(explain(model, images, target=1).raw, expected, atol=0.01 * np.abs(expected).max())  # of 11 bits


def test_small_gradients_survive_half_precision(keras: Any) -> None:
    """A gradient of 2**-26 is below the smallest that fp16 can hold, 2**-24."""
    conv = {"name": "conv", "kernel_initializer": "ones"}
    dense = {"kernel_initializer": keras.initializers.Constant(2.0**-20)}

    def make() -> Any:
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, **dense)]
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 1, **conv), *head])

    model = in_half_precision(make, keras)
    raw = explain(model, np.ones((1, 8, 8, 1), np.float32), layer="conv", target=0, scaling="none").raw
    assert_allclose(raw, 2.0**-26, rtol=1e-2)  # 2**-20 / 64


def test_two_inputs(keras: Any) -> None:
    inside = small_keras(keras=keras)
    left, right = keras.Input((9, 12, 3)), keras.Input((9, 12, 3))
    model = keras.Model([left, right], inside(left + right))
    a, b = (np.random.randn(2, 9, 12, 3).astype(np.float32) for _ in range(2))
    assert_allclose(explain(model, (a, b), target=1).raw, explain(inside, a + b, target=1).raw, atol=1e-6)


def test_integer_images(keras: Any) -> None:
    model = keras.Sequential([keras.Input((9, 12, 3)), keras.layers.Rescaling(1 / 255), small_keras(keras=keras)])
    images = np.random.randint(0, 256, (2, 9, 12, 3)).astype(np.uint8)
    expected = explain(model, images.astype(np.float32), target=1)
    assert_allclose(explain(model, images, target=1).raw, expected.raw, atol=1e-6)


def test_what_is_no_keras_model_is_named(tmp_path: Any) -> None:
    tf.saved_model.save(small_keras(), str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    with pytest.raises(UnsupportedModelError, match="SavedModel loaded without its class"):
        explain(loaded, np.zeros((1, 9, 12, 3), np.float32))


# --- the state that is left --------------------------------------------------------------------------


def test_everything_is_left_as_it_was(keras: Any) -> None:
    model, images = small_keras(keras=keras), np.random.randn(4, 9, 12, 3).astype(np.float32)
    tf.random.set_seed(11)
    expected_draws = [tf.random.normal([3]).numpy() for _ in range(3)]
    tf.random.set_seed(11)
    before = held(model)
    draws = [tf.random.normal([3]).numpy()]
    explain(model, images)
    draws.append(tf.random.normal([3]).numpy())
    explain(model, images, layer="conv2", target=lambda output: output[:, 0])
    list_layers(model, images)
    draws.append(tf.random.normal([3]).numpy())
    assert_allclose(draws, expected_draws)
    assert_unchanged(before, held(model))


def test_calls_are_put_back_when_the_model_fails(keras: Any) -> None:
    class Failing(keras.Model):
        fail = False

        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(2, 3, name="conv")

        def call(self, x: Any) -> Any:
            x = self.conv(x)
            if self.fail:
                raise RuntimeError("on request")
            return tf.reduce_mean(x, [1, 2])

    model, images = Failing(), np.random.rand(1, 8, 8, 1).astype(np.float32)
    model(images)

    model.conv.call = already_there = partial(keras.layers.Conv2D.call, model.conv)
    model.fail = True
    for layer in ("conv", None):
        with pytest.raises(RuntimeError, match="on request"):
            explain(model, images, layer=layer)
    assert model.conv.call is already_there
    assert not tf.config.functions_run_eagerly()
    model.fail = False
    assert explain(model, images, layer="conv").raw.shape == (1, 6, 6)


def test_images_are_cast_to_the_dtype_of_the_declared_input_as_keras_does(keras: Any) -> None:
    """With mixed precision the model computes in float16, but its front, and so its input, is in float32."""
    layers, policy = keras.layers, keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        inputs = keras.Input((8, 8, 1))
        x = layers.Lambda(lambda x: (x - 4000.0) * 100.0, dtype="float32")(inputs)
        pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(1, 1, use_bias=False, name="conv")(x))
        outputs = layers.Dense(2, dtype="float32")(pooled)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    model = keras.Model(inputs, outputs)
    model.set_weights([np.ones((1, 1, 1, 1)), np.array([[1.0, -1.0]]), np.zeros(2)])
    images = np.full((1, 8, 8, 1), 4000.25, np.float32)  # in float16 these are 4000
    for given in (images, images.astype(np.float64)):
        heatmap = explain(model, given, layer="conv", target=0, method="hires_cam")
        assert_allclose(heatmap.scores, 25)
        assert_allclose(heatmap.raw, 25 / 64, rtol=1e-3)


@pytest.mark.parametrize("in_a_graph", [False, True])
@pytest.mark.parametrize("taped", [False, True])
def test_a_pass_inside_a_training_step_by_hand(keras: Any, taped: bool, in_a_graph: bool) -> None:
    """The pooled toy: its output is (8, -1.5), and each place counts 3 / 6 and 1 / 6 of the two maps."""
    model, image, layer = keras_toy("pooled", keras=keras)
    backend = backend_for(model)

    def step(images: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            output, maps, gradients, headed = backend.run_inside(
                [images], LayerRef(layer), 0, tape=tape if taped else None, training=True
            )
            its = gradients()
            loss = tf.reduce_sum(output)
        assert not headed
        return output, maps, its, tape.gradient(loss, model.trainable_variables[-1])

    output, maps, its, of_bias = (tf.function(step) if in_a_graph else step)(tf.constant(image))
    assert_allclose(output, [[8, -1.5]], rtol=1e-6)
    assert_allclose(maps[0], np.stack([A0, A1], -1), rtol=1e-6)
    assert_allclose(its[0], np.broadcast_to([3 / 6, 1 / 6], (2, 3, 2)), rtol=1e-6)
    assert_allclose(of_bias, [1, 1])  # the step's own tape goes on
