"""The host on the TensorFlow, NumPy, plotly and Triton that are installed, whatever is imported first."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
import tensorflow as tf
import torch
from fastestimator import network
from fastestimator.summary import history
from fastestimator.trace.adapt import EarlyStopping, ReduceLROnPlateau
from fastestimator.trace.io import BestModelSaver, tensorboard

from fe_gradcam.errors import HostError
from fe_gradcam.integrations.fastestimator import legacy
from tests.models.toys import SmallTorch, small_keras

KERAS_3 = legacy._major("keras") >= 3
"""Whether Keras 2 has to be put in its place."""

HOST_FIRST = """
from fastestimator.architecture.tensorflow import LeNet, ResNet9, UNet
import fastestimator.layers.tensorflow.instance_norm
from fastestimator.op.tensorop.model import ModelOp, UpdateOp
import tensorflow as tf
"""
OURS = "from fe_gradcam import GradCAM\n"
BUILDS = """
import fastestimator as fe, torch, tensorflow as tf
from tensorflow.keras import layers
print(hasattr(tf.keras.optimizers.legacy, "Adadelta"), layers.Dense is tf.keras.layers.Dense)
from fastestimator.layers.tensorflow.instance_norm import InstanceNormalization as norm
own = lambda: tf.keras.Sequential([layers.Dense(2, input_shape=(2,)), layers.Reshape((1, 1, 2)), norm()])
for net in (lambda: torch.nn.Linear(2, 2), own, fe.architecture.tensorflow.LeNet, fe.architecture.tensorflow.UNet):
    model = fe.build(net, "adam", mixed_precision=True)
    print(type(model).__name__, type(model.optimizer).__name__)
"""


def ran(program: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name != legacy.LEGACY}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=own)


def test_the_host_sees_keras_2_and_the_old_names_of_numpy() -> None:
    assert hasattr(tf.keras.optimizers.legacy, "Adadelta")
    assert network.Sequential is tf.keras.Sequential
    assert network.LossScaleOptimizer is tf.keras.mixed_precision.LossScaleOptimizer
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    assert history.mixed_precision.global_policy().compute_dtype == "float16"
    assert tensorboard.backend.int_shape(tf.keras.Input((3, 4))) == (None, 3, 4)
    assert callable(tensorboard.keras_model_summary)


def test_keras_and_numpy_themselves_stay_as_they_are() -> None:
    keras = importlib.import_module("keras")
    assert int(keras.__version__.partition(".")[0]) == legacy._major("keras")
    assert keras.src.__name__ == "keras.src"
    assert hasattr(np, "Inf") == (int(np.__version__.partition(".")[0]) < 2)


@pytest.mark.parametrize("trace", [EarlyStopping, ReduceLROnPlateau, BestModelSaver])
def test_traces_that_look_for_the_best_begin_at_infinity(trace: Any, tmp_path: Any) -> None:
    model = fe.build(SmallTorch, "adam")
    given: dict[Any, tuple[Any, ...]] = {ReduceLROnPlateau: (model, "ce"), BestModelSaver: (model, str(tmp_path), "ce")}
    made = trace(*given.get(trace, ("ce",)))
    made.system = SimpleNamespace(global_step=0)
    made.on_begin(fe.util.data.Data())
    assert made.best == np.inf


def test_tensorboard_writes_what_keras_2_says_of_a_model(tmp_path: Any) -> None:
    model = fe.build(small_keras, "adam")
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        tensorboard.keras_model_summary("net", model, step=0)
    writer.close()
    assert b"graph_keras_model" in b"".join(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", HOST_FIRST], ids=["ours first", "the host first"])
def test_the_host_builds_models_of_both_frameworks(before: str) -> None:
    done = ran(before + OURS + BUILDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "True",
        "True",
        "Linear",
        "Adam",
        *["Sequential", "LossScaleOptimizer"] * 2,
        "Functional",
        "LossScaleOptimizer",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not KERAS_3, reason="needs a TensorFlow with Keras 3")
@pytest.mark.parametrize("held", ["from tensorflow.keras import layers", "import keras"])
def test_who_holds_keras_3_is_told_what_to_do(held: str) -> None:
    done = ran(f"{held}\n{HOST_FIRST}{OURS}")
    assert "HostError" in done.stderr
    assert f"__main__.{held.split()[-1]} is already of Keras 3" in done.stderr
    assert "from fe_gradcam import GradCAM` above" in done.stderr and legacy.LEGACY in done.stderr


@pytest.mark.skipif(not KERAS_3, reason="needs a TensorFlow with Keras 3")
def test_what_is_of_keras_3_is_known_and_nothing_else() -> None:
    keras = importlib.import_module("keras")

    class Own(keras.Model):  # type: ignore[name-defined,misc]
        pass

    for held in (keras, keras.layers, keras.layers.Dense, keras.Input, Own, Own(), keras.layers.Dense(2)):
        assert legacy._is_of_keras_3(held), held
    for other in (tf, np, tf.keras.Model, small_keras(), torch.nn.Linear, SmallTorch, 3, None, object()):
        assert not legacy._is_of_keras_3(other), other


@pytest.mark.skipif(not KERAS_3, reason="needs a TensorFlow with Keras 3")
def test_what_was_set_in_keras_3_holds_in_keras_2(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = importlib.import_module("keras")
    monkeypatch.setattr(keras.backend, "floatx", lambda: "float64")
    monkeypatch.setattr(keras.backend, "image_data_format", lambda: "channels_first")
    monkeypatch.setattr(keras.mixed_precision, "dtype_policy", lambda: SimpleNamespace(name="mixed_bfloat16"))
    legacy._take_over_settings()
    assert tf.keras.backend.floatx() == "float64"
    assert tf.keras.backend.image_data_format() == "channels_first"
    assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"


def versions(**major: int) -> Callable[[str], int]:
    return lambda package: major.get(package, 0)


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"plotly": 6}, r"plotly .* is too new.*plotly<6.*kaleido==0\.2\.1"),
        ({"plotly": 5, "keras": 3, "tensorflow": 2}, "needs Keras 2, and tf.keras is Keras 3.*pip install 'tf_keras'"),
    ],
)
def test_what_cannot_be_mended_is_an_error(
    installed: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy, "_major", versions(**installed))
    with pytest.raises(HostError, match=message) as caught:
        legacy.apply()
    assert isinstance(caught.value, ImportError)


def test_nothing_is_mended_where_all_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "_major", versions(plotly=5, keras=2, tensorflow=2))
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    assert legacy.apply() == []


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Installed, but not imported yet."""
    found = ModuleType("triton")
    monkeypatch.setattr(legacy, "_major", versions(triton=3, tensorflow=2))
    monkeypatch.setitem(sys.modules, "triton", found)  # so that what is there now, or nothing, is put back
    del sys.modules["triton"]
    monkeypatch.setattr(legacy.importlib, "import_module", lambda name: sys.modules.setdefault(name, found))
    return found


def test_triton_is_imported_before_tensorflow(triton: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert legacy.triton_first()
    assert sys.modules["triton"] is triton
    assert not legacy.triton_first(), "once"


@pytest.mark.parametrize("gpu", [False, True])
def test_triton_is_not_imported_behind_tensorflow(
    gpu: bool, triton: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which ends the process, seen with torch 2.13 and TensorFlow 2.21; who has no GPU loses nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert legacy.triton_first()
    assert ["torch.compile on the GPU is off" in str(one.message) for one in told] == [True] * gpu
    assert sys.modules["triton"] is None
