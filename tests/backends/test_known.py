"""What is known of a model: apart from compiled functions, as long as the model lives, and never of what it was."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import explain
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.known import KEPT_SEEN, KEPT_SIZES, Known, Recent, known_of
from fe_gradcam.backends.protocol import Query
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.spec.tokens import Seen
from tests.models.kerases import KERASES
from tests.models.kits import KITS, by_hand


def many_layers(count: int, keras: Any = tf.keras) -> Any:
    """A Keras classifier of many layers that makes its probabilities by hand, so that no softmax is found."""
    layers = keras.layers
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 3)(inputs)
    for at in range(count):
        x = layers.Activation("linear", name=f"layer{at}")(x)
    powers = layers.Lambda(tf.exp)(layers.Dense(3)(layers.Flatten()(x)))
    return keras.Model(inputs, layers.Lambda(lambda e: e / tf.reduce_sum(e, 1, keepdims=True))(powers))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The model's outputs are probabilities")
def test_how_outputs_read_outlives_any_number_of_compiled_functions() -> None:
    """Read as logits instead of log p, the heat of ablation_cam would be off by several times its own maximum."""
    model, images = many_layers(40), np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype(np.float32)
    for at in range(40):
        asked = {"layer": f"layer{at}", "method": "ablation_cam", "target": 1}
        fresh = tf.keras.Model(model.input, model.output)  # an object of which nothing is known
        assert_allclose(explain(model, images, **asked).raw, explain(fresh, images, **asked).raw, atol=1e-6)


def model_and_images(framework: str) -> tuple[Any, Any]:
    """A classifier that makes its probabilities by hand, and images that it takes."""
    random = np.random.default_rng(0)
    if framework in KERASES:
        return many_layers(2, KERASES[framework]), random.normal(size=(2, 6, 6, 1)).astype(np.float32)
    return by_hand(KITS["torch"]), random.normal(size=(2, 3, 9, 12)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:The model's outputs are probabilities")
@pytest.mark.parametrize("framework", KITS)
def test_what_is_known_lives_as_long_as_the_model(framework: str) -> None:
    model, images = model_and_images(framework)
    explain(model, images)
    known = weakref.ref(known_of(model))
    assert known().readings == {(None, False): "distribution"}
    assert known().told
    if framework == "torch":
        assert not known_of(copy.deepcopy(backend_for(model))._model).readings  # nothing of it goes along
    del model
    gc.collect()
    assert known() is None


def test_a_new_module_at_the_address_of_an_old_one_is_another() -> None:
    for _ in range(200):  # until an address is taken again
        modules = [nn.ReLU()]
        known, at = Known(), id(modules[0])
        known.now(lambda modules=modules: modules).seen.put((6, 6), Seen(()))
        assert len(known.now(lambda modules=modules: modules).seen) == 1
        modules.clear()
        others = [nn.ReLU() for _ in range(9)]
        again = [other for other in others if id(other) == at]
        if again:
            break
    assert again, "no address was taken again, and nothing is tested"
    assert not len(known.now(lambda: again).seen)


def test_a_store_forgets_what_was_not_asked_for_the_longest() -> None:
    store: Recent[str] = Recent(2)
    store.put(1, "a")
    store.put(2, "b")
    assert store.get(1) == "a"
    store.put(3, "c")
    assert (store.get(1), store.get(2), store.get(3), len(store)) == ("a", None, "c", 2)


@pytest.mark.filterwarnings("ignore:The model's outputs are probabilities")
@pytest.mark.parametrize("framework", KITS)
def test_what_is_missing_is_found_anew(framework: str) -> None:
    """How outputs read, and of Keras the shape at the layer: an altered pass alone could only guess them."""
    model, images = model_and_images(framework)
    backend, inputs = backend_for(model), Inputs.of(images)
    query = Query(backend.resolve(None, inputs), [resolve_target(1, 2)], "logit")
    (first,) = backend.run(inputs, query)
    known_of(model).now(lambda: [model])
    assert not known_of(model).readings
    scores = backend.changed_scores(inputs, query, torch.zeros_like(first.activations))
    assert_allclose(scores, first.scores, rtol=1e-5)
    assert known_of(model).readings == {(None, False): "distribution"}


def test_facts_of_sizes_are_bounded() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for side in range(2, KEPT_SIZES + 9):
        explain(net, torch.rand(1, 1, side, 4))
    assert len(known_of(net).default_layers) == KEPT_SIZES
    assert len(known_of(net).seen) == KEPT_SEEN
