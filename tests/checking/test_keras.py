"""`check_model` on models of each Keras: sound ones pass, and each fault that is planted into the route fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from torch import Tensor

from fe_gradcam import check_model
from fe_gradcam.backends import protocol
from fe_gradcam.backends.keras import backend as keras_backend
from fe_gradcam.backends.keras import scores as keras_scores
from fe_gradcam.backends.keras.backend import KerasBackend
from fe_gradcam.backends.keras.version import named_layers
from fe_gradcam.types import LayerRef
from tests.checking.outcomes import outcomes
from tests.models.kerases import KERASES, applied

KERAS = next(iter(KERASES))
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)

Head = Callable[[Any, Any], Any]
HEADS: dict[str, Head] = {
    "softmax": lambda keras, maps: keras.layers.Dense(5, activation="softmax")(maps),
    "sigmoid": lambda keras, maps: keras.layers.Dense(5, activation="sigmoid")(maps),
    "one sigmoid": lambda keras, maps: keras.layers.Dense(1, activation="sigmoid")(maps),
    "function": lambda keras, maps: applied(tf.nn.softmax, keras.layers.Dense(5)(maps)),
    "log_softmax": lambda keras, maps: applied(tf.nn.log_softmax, keras.layers.Dense(5)(maps)),
}


def square(keras: Any, head: Head = HEADS["softmax"]) -> Any:
    """Two layers with maps of one size, of which the second is not averaged evenly."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    given = keras.Input((8, 8, 3))
    maps = layers.Conv2D(6, 3, padding="same", activation="tanh", name="first")(given)
    maps = layers.Conv2D(6, 3, padding="same", activation="tanh", name="second")(maps)
    maps = layers.DepthwiseConv2D(8, name="sums")(maps)
    return keras.Model(given, head(keras, layers.Flatten()(maps)))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("which", KERASES)
def test_sound_models_pass(which: str, head: str) -> None:
    check = check_model(square(KERASES[which], HEADS[head]), IMAGES, layer="second")
    assert outcomes(check) == dict.fromkeys(outcomes(check), "passed"), str(check)
    assert "channels last, float32" in check["gradient"].said and check["gradient"].figures["grad_cam"] < 1e-3


@pytest.mark.parametrize("which", KERASES)
def test_class_tokens_and_patches(which: str) -> None:
    keras = KERASES[which]
    keras.utils.set_random_seed(4)
    layers = keras.layers
    given = keras.Input((24, 24, 3))
    tokens = layers.Reshape((36, 16))(layers.Conv2D(16, 4, 4)(given))
    tokens = layers.ZeroPadding1D((1, 0))(tokens)
    tokens = layers.LayerNormalization(name="norm")(tokens)
    seen = layers.MultiHeadAttention(2, 8)(tokens, tokens)
    model = keras.Model(given, layers.Dense(5)(layers.GlobalAveragePooling1D()(seen)))
    images = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    check = check_model(model, images, layer="norm")
    assert check.passed and check["places"].outcome == "passed", str(check)
    assert "tokens, after 1 others" in check["gradient"].said


# --- planted faults -------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def _wrong_layer(patch: pytest.MonkeyPatch) -> None:
    plain = KerasBackend._at_layer_and_output

    def other(self: Any, given: Any, layer: LayerRef) -> Any:
        return plain(self, given, replace(layer, name="first"))

    patch.setattr(KerasBackend, "_at_layer_and_output", other)


def _probability(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keras_scores, "head_of", lambda output: None)
    patch.setattr(KerasBackend, "_read_as", lambda *_: "logits")


def _read_otherwise(otherwise: Callable[[Tensor], Tensor]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        plain = protocol.as_map
        patch.setattr(protocol, "as_map", lambda *args, **how: otherwise(plain(*args, **how)))

    return plant


def _gradients(changed: Callable[[Any], Any]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        plain = keras_backend._gradient
        patch.setattr(keras_backend, "_gradient", lambda *args: changed(plain(*args)))

    return plant


def _stale(patch: pytest.MonkeyPatch) -> None:
    """The weights are those with which the pass was made first."""
    plain, kept = KerasBackend._passed, dict[Any, Any]()

    def passed(self: Any, model: Any, inputs: Any, query: Any) -> Any:
        asked = [np.asarray(array).tobytes() for target in query.targets for array in target.arrays]
        key = (query.layer, np.asarray(inputs.picture).tobytes(), *asked)
        if key not in kept:
            kept[key] = plain(self, model, inputs, query)
        return kept[key]

    patch.setattr(KerasBackend, "_passed", passed)


def _left(leave: Callable[[Any], Any]) -> Plant:
    """Something is left behind by each call."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        plain = KerasBackend.run

        def run(self: Any, inputs: Any, query: Any) -> Any:
            leave(self._model)
            return plain(self, inputs, query)

        patch.setattr(KerasBackend, "run", run)

    return plant


def _a_call_left(model: Any) -> None:
    layer = named_layers(model)["sums"]
    layer.__dict__["call"] = layer.call


def _a_node_left(model: Any) -> None:
    layer = named_layers(model)["sums"]
    layer._outbound_nodes.append(layer._outbound_nodes[0])


def _weights_left(model: Any) -> None:
    weights = model.trainable_weights[0]
    weights.assign(np.array(weights) * 1.001)


FAULTS: dict[str, tuple[Plant, str]] = {
    "another layer": (_wrong_layer, "gradient"),
    "a probability for the logit": (_probability, "gradient"),
    "swapped axes": (_read_otherwise(lambda maps: maps.transpose(2, 3)), "gradient"),
    "shifted places": (_read_otherwise(lambda maps: maps.flatten(2).roll(1, 2).reshape(maps.shape)), "gradient"),
    "channels for an axis": (_read_otherwise(lambda maps: maps.flatten(1).roll(1, 1).reshape(maps.shape)), "gradient"),
    "a scaled gradient": (_gradients(lambda gradient: 1.1 * gradient), "gradient"),
    "no gradient": (_gradients(lambda gradient: 0 * gradient), "gradient"),
    "images that are mixed": (_gradients(lambda one: one + tf.reduce_mean(one, 0)), "batch"),
    "earlier results": (_stale, "new weights"),
    "a call left": (_left(_a_call_left), "left as found"),
    "a node left": (_left(_a_node_left), "left as found"),
    "other weights left": (_left(_weights_left), "left as found"),
    "random numbers drawn": (_left(lambda _: np.random.random()), "left as found"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, failing = FAULTS[fault]
    plant(monkeypatch)
    check = check_model(square(KERASES[KERAS]), IMAGES, layer="second")
    assert check[failing].outcome == "failed", str(check)


@pytest.mark.parametrize("which", KERASES)
def test_behind_an_activation_function_of_the_model_s_own(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = KERASES[which]

    class Own(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            keras.utils.set_random_seed(5)
            self.first, self.head = keras.layers.Conv2D(6, 3), keras.layers.Dense(5, activation="softmax")

        def call(self, images: Any) -> Any:
            return self.head(tf.reduce_mean(tf.nn.relu(self.first(images)), (1, 2)))

    model = Own()
    model(IMAGES)
    check = check_model(model, IMAGES)
    assert outcomes(check) == dict.fromkeys(outcomes(check), "passed"), str(check)
    assert check.layer.endswith(" + activation") and "logits found in 'dense" in check["head"].said
    monkeypatch.setattr("fe_gradcam.backends.keras.layers.activation_behind", lambda _: None)
    model = Own()
    model(IMAGES)
    check = check_model(model, IMAGES, layer=LayerRef(model.first.name, "activation"))
    assert check["gradient"].outcome == "failed", str(check)
