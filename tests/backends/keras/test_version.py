"""Each Keras: whose a model is, its layers in one order, its maps; Keras 3 alone, on PyTorch, and on JAX."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import fe_gradcam
from fe_gradcam import UnsupportedModelError, explain, list_layers
from fe_gradcam.backends.keras.version import computes_on, keras_of, layers_in, named_layers
from tests.models.kerases import KERASES, applied
from tests.models.reachable import differences, reachable
from tests.models.toys import small_keras

needs_keras_3 = pytest.mark.skipif("keras 3" not in KERASES, reason="needs Keras 3")


@pytest.fixture(params=KERASES)
def keras(request: pytest.FixtureRequest) -> Any:
    return KERASES[request.param]


def nested(keras: Any) -> Any:
    """A subclassed model with layers in a list and two functional models inside, whose layers have the same names."""
    layers = keras.layers

    def block(name: str) -> Any:
        inputs = keras.Input((8, 8, 3))
        return keras.Model(inputs, layers.ReLU(name="relu")(layers.Conv2D(3, 1, name="conv")(inputs)), name=name)

    class Nested(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.parts = block("first"), [layers.Conv2D(4, 3, name="own"), block("second")]
            self.head = layers.Dense(2, name="head")

        def call(self, x: Any) -> Any:
            x = self.parts[0](self.parts[1](self.first(x)))
            if tf.reduce_mean(x) > 1000.0:
                x = x * 2.0
            return self.head(tf.reduce_mean(x, [1, 2]))

    return Nested()


def test_a_model_is_of_the_keras_of_its_class(keras: Any) -> None:
    model = nested(keras)
    assert computes_on(model) == "tensorflow"
    assert isinstance(model.head, keras_of(model.head).layers.Dense)
    others = [one for one in KERASES.values() if one is not keras]
    assert not any(isinstance(model, keras_of(small_keras(keras=one)).Model) for one in others)
    assert computes_on(model.head) is None, "a layer is no model"
    assert computes_on(len) is None


def test_layers_stand_before_those_inside_them_in_the_order_of_their_making(keras: Any) -> None:
    made = [name for name in named_layers(nested(keras)) if "input" not in name]
    assert made == ["first", "conv", "relu", "own", "second", "conv#2", "relu#2", "head"]


def test_an_if_on_a_tensor_may_stand_in_any_layer(keras: Any) -> None:
    model, images = nested(keras), np.random.rand(2, 8, 8, 3).astype(np.float32)
    heatmap = explain(model, images, target=1)
    assert heatmap.layer == "own"
    assert_allclose(heatmap.scores, model(images).numpy()[:, 1], rtol=1e-5)
    weights = model.head.kernel.numpy()[:, 1] / 36
    maps = model.parts[0](model.parts[1](model.first(images))).numpy()
    assert_allclose(heatmap.raw, np.einsum("k,nhwk->nhw", weights, maps), atol=1e-6)


def test_a_sum_in_a_functional_model_is_a_place_like_a_layer(keras: Any) -> None:
    """In Keras 3 it is an operation, and no layer; the last layer before it would be one branch alone."""
    inputs, layers = keras.Input((8, 8, 3)), keras.layers
    branch = layers.Conv2D(3, 3, padding="same", name="branch")(inputs)
    dense = layers.Dense(2)
    model = keras.Model(inputs, dense(layers.GlobalAveragePooling2D()(inputs + branch)))
    images = np.random.rand(2, 8, 8, 3).astype(np.float32)
    heatmap = explain(model, images, target=1)
    assert "add" in heatmap.layer
    weights = dense.kernel.numpy()[:, 1] / 64
    summed = images + model.get_layer("branch")(images).numpy()
    assert_allclose(heatmap.raw, np.einsum("k,nhwk->nhw", weights, summed), atol=1e-6)


def test_a_transposed_convolution_is_a_convolution(keras: Any) -> None:
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(2, 2, name="up")(inputs))
    assert [one.name for one in list_layers(model, np.zeros((1, 4, 4, 2), np.float32)) if one.convolution] == ["up"]


# --- channels first ------------------------------------------------------------------------------------


def moving(keras: Any, how: str) -> tuple[Any, Any]:
    """A model that takes (N, C, H, W), and the part of it behind the step that moves the channels."""
    layers = keras.layers
    outer, inner = keras.Input((3, 12, 8)), keras.Input((12, 8, 3))
    maps = layers.Conv2D(4, 3, activation="relu", name="conv")(inner)
    body = keras.Model(inner, layers.Dense(2)(layers.GlobalAveragePooling2D()(maps)))
    if how == "a layer":
        moved = layers.Permute((2, 3, 1))(outer)
    else:
        moved = applied(lambda x: tf.transpose(tf.cast(x, tf.float32) / 255.0 - 0.5, [0, 2, 3, 1]), outer)
    return keras.Model(outer, body(moved)), body


@pytest.mark.parametrize("how", ["a layer", "a function behind a normalisation"])
def test_images_with_channels_first_are_refused_and_the_way_out_is_one(keras: Any, how: str) -> None:
    """The size of the image was taken for (3, 12)."""
    model, body = moving(keras, how)
    images = np.random.rand(2, 12, 8, 3).astype(np.float32)
    for layer in (None, "conv"):
        with pytest.raises(UnsupportedModelError, match=r"model takes images .* second axis.*Permute\(\(3, 1, 2\)\)"):
            explain(model, images.transpose(0, 3, 1, 2), layer=layer)
    wrapped = keras.Sequential([keras.Input((12, 8, 3)), keras.layers.Permute((3, 1, 2)), model])
    heatmap = explain(wrapped, images, layer="conv", target=0)
    expected = explain(body, images if how == "a layer" else images / 255 - 0.5, layer="conv", target=0)
    assert heatmap.values.shape == (2, 12, 8)
    assert_allclose(heatmap.raw, expected.raw, atol=1e-6)


def test_layers_with_channels_first_are_refused_and_the_way_out_is_one(keras: Any) -> None:
    def make(data_format: str) -> Any:
        layers, how = keras.layers, {"data_format": data_format}
        inputs = keras.Input((3, 12, 8) if data_format == "channels_first" else (12, 8, 3))
        maps = layers.Conv2D(4, 3, activation="relu", name="conv", **how)(inputs)
        return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D(**how)(maps)))

    first, last = make("channels_first"), make("channels_last")
    images = np.random.rand(2, 12, 8, 3).astype(np.float32)
    for layer in (None, "conv"):
        with pytest.raises(UnsupportedModelError, match=r"data_format='channels_first'.*set_weights"):
            explain(first, images.transpose(0, 3, 1, 2), layer=layer)
    last.set_weights(first.get_weights())
    outputs = tf.function(lambda x: first(x, training=False))(images.transpose(0, 3, 1, 2)).numpy()
    assert_allclose(explain(last, images, target=0).scores, outputs[:, 0], rtol=1e-4)


# --- what is left ----------------------------------------------------------------------------------------


def test_nothing_that_can_be_reached_is_changed(keras: Any) -> None:
    """Nodes of the layers, attributes, variables, what the model keeps of its own graph."""
    inside, inputs = small_keras(keras=keras), keras.Input((9, 12, 3))
    trained = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inside(inputs)))
    images = np.random.rand(2, 9, 12, 3).astype(np.float32)
    trained.compile("sgd", "mse")
    trained.fit(images, np.zeros((2, 3)), verbose=0)
    subclassed = nested(keras)
    subclassed(images[:, :8, :8])
    for model, given in ((trained, images), (subclassed, images[:, :8, :8])):
        model(given, training=False)
        before = reachable(model)
        explain(model, given)
        explain(model, given, layer="conv#2" if model is subclassed else "conv1", method="ablation_cam")
        explain(model, given, target=lambda output: output[:, 0], smooth=["augment", "eigen"])
        list_layers(model, given)
        assert differences(before, reachable(model)) == []
    layers_in(trained)[-1](keras.Input((5,)))
    assert differences(before := reachable(subclassed), before) == []
    assert any("node" in one for one in differences(before, reachable(trained)))


# --- other processes -------------------------------------------------------------------------------------

ALONE = """
import sys
sys.modules["tf_keras"] = None
if {without!r}:
    sys.modules[{without!r}] = None
import numpy as np
from fe_gradcam import Segmentation, explain, gen_dl_model_heatmap
from fe_gradcam.loading.models import geometry_of, load_model

images = np.load("images.npy")
loaded = load_model("model.keras")
assert geometry_of(loaded).size == (9, 12), geometry_of(loaded)
found = {{}}
for method in {methods!r}:
    heatmap = explain(loaded.model, images, method=method, target=1)
    found[method], found["confidences"] = heatmap.raw, heatmap.confidences
found["halcon"] = gen_dl_model_heatmap(loaded.model, {{"image": images[0]}}, target_classes=1)["heatmap_grad_cam"][
    "heatmap_image_class_1"
]
pixels = load_model("pixels.keras").model
found["pixels"] = explain(pixels, images, target=Segmentation(1), layer="conv").raw
found["early"] = explain(load_model("two.keras").model, images, layer="conv", model_output="second", target=0).raw
np.savez("found.npz", **found)
print(type(loaded.model).__mro__)
"""
METHODS = ["grad_cam", "hires_cam", "layer_cam", "eigen_cam", "cam", "ablation_cam", "score_cam", "occlusion"]


def ran(code: str, folder: Path, **environment: str) -> str:
    paths = {"PYTHONPATH": str(Path(fe_gradcam.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **paths, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_keras_3
@pytest.mark.parametrize("on", ["tensorflow", "torch"])
def test_keras_3_alone_gives_the_same_maps_on_either_framework(tmp_path: Path, on: str) -> None:
    """The same weights, in this process on TensorFlow, beside Keras 2."""
    keras = KERASES["keras 3"]
    layers, images = keras.layers, np.random.rand(2, 9, 12, 3).astype(np.float32)
    model, inputs = small_keras(softmax=True, keras=keras), keras.Input((9, 12, 3))
    maps = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    pixels = keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(maps))
    pooled = layers.GlobalAveragePooling2D()(maps)
    two = keras.Model(inputs, [layers.Dense(2, name="first")(pooled), layers.Dense(2, name="second")(pooled)])
    for name, one in (("model", model), ("pixels", pixels), ("two", two)):
        one.save(tmp_path / f"{name}.keras")
    np.save(tmp_path / "images.npy", images)
    without = {"tensorflow": "", "torch": "tensorflow"}[on]
    ran(ALONE.format(methods=METHODS, without=without), tmp_path, KERAS_BACKEND=on)
    found = np.load(tmp_path / "found.npz")
    expected = {method: explain(model, images, method=method, target=1).raw for method in METHODS}
    expected["confidences"] = explain(model, images, target=1).confidences
    halcon = fe_gradcam.gen_dl_model_heatmap(model, {"image": images[0]}, target_classes=1)
    expected["halcon"] = halcon["heatmap_grad_cam"]["heatmap_image_class_1"]
    expected["pixels"] = explain(pixels, images, target=fe_gradcam.Segmentation(1), layer="conv").raw
    expected["early"] = explain(two, images, layer="conv", model_output="second", target=0).raw
    for name, values in expected.items():
        assert np.abs(values).max() > 0, name
        assert_allclose(found[name], values, atol=1e-4 * np.abs(values).max(), err_msg=name)


ON_TORCH = """
import keras, numpy as np
from fe_gradcam import UnsupportedModelError, explain, list_layers
from fe_gradcam.backends.known import known_of
inputs = keras.Input((6, 8, 3))
x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
x = keras.layers.MaxPooling2D(name="pooled")(x)
model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
images = np.random.rand(2, 6, 8, 3).astype("float32")
infos = list_layers(model, images)
assert [(one.name, one.shape) for one in infos[:2]] == [("conv", (4, 4, 6)), ("pooled", (4, 2, 3))], infos
heatmap = explain(model, images)
assert heatmap.layer == "conv" == explain(model, images, layer=1).layer, heatmap.layer
assert heatmap.values.shape == (2, 6, 8)
assert known_of(model).writes is False  # so that weights are not copied again
assert model.get_layer("conv").activation is keras.activations.relu
for method in ("full_grad", "le_grad"):
    try:
        explain(model, images, method=method)
    except UnsupportedModelError as error:
        assert "KERAS_BACKEND=tensorflow" in str(error), error
    else:
        raise AssertionError(method)
"""


@needs_keras_3
def test_a_keras_model_on_pytorch_has_the_names_and_the_layout_of_keras(tmp_path: Path) -> None:
    ran(ON_TORCH, tmp_path, KERAS_BACKEND="torch")


ON_OTHER = """
import keras, numpy as np
from fe_gradcam import explain
model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
try:
    explain(model, np.zeros((1, 4, 4, 1), "float32"))
except TypeError as error:
    print(error)
"""


@needs_keras_3
def test_a_model_on_jax_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On JAX itself where it is installed; here with a Keras that says so of itself."""
    if importlib.util.find_spec("jax") is not None:
        assert "computes on jax; TensorFlow or PyTorch is needed" in ran(ON_OTHER, tmp_path, KERAS_BACKEND="jax")
    keras = KERASES["keras 3"]
    model = small_keras(keras=keras)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(UnsupportedModelError, match=r"computes on jax; .*Set KERAS_BACKEND to 'tensorflow' or 'torch'"):
        explain(model, np.zeros((1, 9, 12, 3), np.float32))


GROUPS = """
import numpy as np
import tensorflow as tf
from fe_gradcam import explain
from tests.models.kerases import KERASES

images = np.random.default_rng(0).random((2, 9, 9, 4), np.float32)
for keras in KERASES.values():
    layers, inputs = keras.layers, keras.Input((9, 9, 4))
    conv, head = layers.Conv2D(6, 3, groups=2, activation="relu"), layers.Dense(2)
    ends = [layers.Conv2D(3, 3, activation="relu") for _ in range(2)]
    first = layers.ReLU(name="first")(inputs)
    grouped = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(conv(first))))
    halves = [end(first[..., 2 * at : 2 * at + 2]) for at, end in enumerate(ends)]
    apart = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(layers.Concatenate()(halves))))
    kernel, bias = (weight.numpy() for weight in conv.weights)
    for at, end in enumerate(ends):
        end.set_weights([kernel[..., 3 * at : 3 * at + 3], bias[3 * at : 3 * at + 3]])
    for asked in ({"layer": "first"}, {"layer": conv.name}, {"method": "ablation_cam"}, {"method": "shapley_cam"}):
        heatmap = explain(grouped, images, target=1, **asked)
        np.testing.assert_allclose(heatmap.scores, apart(images).numpy()[:, 1], rtol=1e-4, atol=1e-6)
        if asked == {"layer": "first"}:
            expected = explain(apart, images, target=1, **asked).raw
            assert np.abs(expected).max() > 0
            np.testing.assert_allclose(heatmap.raw, expected, atol=1e-5)
"""


def test_grouped_convolutions_are_explained_on_any_cpu() -> None:
    """Without oneDNN, TensorFlow computes them with XLA alone, as Keras does: in our graph it could not."""
    legacy = "0" if importlib.util.find_spec("tf_keras") is None else "1"  # TensorFlow 2.15 has Keras 2 without it
    ran(GROUPS, Path(__file__).parents[3], TF_ENABLE_ONEDNN_OPTS="0", TF_USE_LEGACY_KERAS=legacy)
