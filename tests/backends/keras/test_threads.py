"""Several threads explain Keras models: results are those of one thread, and nothing of the process is left changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from fe_gradcam import explain
from tests.models.kerases import KERASES
from tests.models.toys import small_keras

SECONDS = 60
"""After so long a thread that has not ended waits for ever."""

IMAGES = [np.random.default_rng(count).random((count, 9, 12, 3)).astype(np.float32) for count in (1, 2, 3)]

ASKED = [
    {"images": images, "method": method, "layer": layer, "target": target}
    for images, target in zip(IMAGES, (None, 2, 0), strict=True)
    for method in ("grad_cam", "score_cam", "full_grad")
    for layer in ("conv1", None)
]


@pytest.fixture(params=KERASES)
def keras(request: pytest.FixtureRequest) -> Any:
    return KERASES[request.param]


def in_threads(jobs: Sequence[Callable[[], Any]], threads: int = 8) -> list[Any]:
    """What the jobs return, in their order."""
    with ThreadPoolExecutor(threads) as pool:
        return [each.result(SECONDS) for each in [pool.submit(job) for job in jobs]]


def twin(model: Any, keras: Any) -> Any:
    """Another model that is the same."""
    softmax = model.layers[-1].activation is keras.activations.softmax
    other = small_keras(softmax=softmax, keras=keras)
    other.set_weights(model.get_weights())
    return other


def assert_alike(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one.raw, other.raw, rtol=1e-5, atol=1e-6 * np.abs(other.raw).max())
        assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
        assert one.layer == other.layer


def test_threads_that_explain_one_model_get_what_one_thread_gets(keras: Any) -> None:
    model = small_keras(softmax=True, keras=keras)
    alone = [explain(twin(model, keras), **each) for each in ASKED]
    attributes = {layer.name: set(layer.__dict__) for layer in model.layers}
    together = in_threads([lambda each=each: explain(model, **each) for each in ASKED * 2])
    assert_alike(together, alone * 2)
    assert attributes == {layer.name: set(layer.__dict__) for layer in model.layers}
    assert not tf.config.functions_run_eagerly()


def test_threads_that_explain_two_models_get_what_one_thread_gets(keras: Any) -> None:
    models = [small_keras(softmax=softmax, keras=keras) for softmax in (True, False)]
    jobs = [(at, each) for each in ASKED for at in (0, 1)]
    alone = [explain(models[at], **each) for at, each in jobs]
    fresh = [twin(model, keras) for model in models]
    assert_alike(in_threads([lambda at=at, each=each: explain(fresh[at], **each) for at, each in jobs]), alone)
    assert not tf.config.functions_run_eagerly()


def test_models_that_share_layers_are_not_heard_by_each_other(keras: Any) -> None:
    """The layers are the same objects, but the models are two, so that no lock of one model keeps them apart."""
    model = small_keras(keras=keras)
    others = [keras.Model(model.inputs, keras.layers.Dense(2)(model.layers[-2].output)) for _ in range(4)]
    jobs = [(one, each) for each in ASKED[:6] for one in others]
    together = in_threads([lambda one=one, each=each: explain(one, **each) for one, each in jobs])
    assert_alike(together, [explain(one, **each) for one, each in jobs])
    assert not any("call" in layer.__dict__ for layer in model.layers)


def test_tracing_in_two_threads_leaves_functions_as_they_run(keras: Any) -> None:
    """While one model is traced, tf.functions run eagerly, in the whole process; traces that overlap left it so."""
    inside, entered, ended = threading.Event(), threading.Event(), threading.Event()

    class Waits(keras.Model):  # type: ignore[name-defined,misc]
        def __init__(self, wait: Callable[[], Any]) -> None:
            super().__init__()
            self.conv, self.__dict__["wait"] = keras.layers.Conv2D(2, 3, name="conv"), wait

        def call(self, x: Any) -> Any:
            if not tf.executing_eagerly():
                self.wait()
            return tf.reduce_mean(self.conv(x), [1, 2])

    def first() -> None:
        inside.set()
        entered.wait(1)

    def second() -> None:
        entered.set()
        ended.wait(2)

    models = [Waits(first), Waits(second)]
    for model in models:
        model(IMAGES[0])

    def explain_first() -> None:
        explain(models[0], IMAGES[0], layer="conv", target=1)
        ended.set()

    def explain_second() -> None:
        inside.wait(SECONDS)
        explain(models[1], IMAGES[0], layer="conv", target=1)

    in_threads([explain_first, explain_second], threads=2)
    left = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    assert not left
