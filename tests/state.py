"""Global state of Python, the host and the frameworks, which a test may change and the next must not meet."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import fastestimator as fe
import matplotlib as mpl
import numpy as np
import plotly.io as pio
import tensorflow as tf
import torch
from tensorflow.python.util import _pywrap_determinism

from fe_gradcam.methods.registry import METHODS
from fe_gradcam.metrics.rules import METRICS

State = tuple[Callable[[], Any], Callable[[Any], object]]
"""How it is read, and how it is put back."""

OWN = "PYTEST_CURRENT_TEST"
"""Set and removed by pytest itself."""


def attribute(owner: Any, name: str) -> State:
    return lambda: getattr(owner, name, None), lambda value: setattr(owner, name, value)


def table(owner: dict[str, Any]) -> State:
    def put(value: dict[str, Any]) -> None:
        owner.clear()
        owner.update(value)

    return lambda: dict(owner), put


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != OWN}


def put_environment(value: dict[str, str]) -> None:
    for name in environment().keys() - value.keys():
        del os.environ[name]
    os.environ.update(value)


def put_path(value: list[str]) -> None:
    sys.path[:] = value


def put_device(value: torch.device) -> None:
    torch.set_default_device(None if value.type == "cpu" else value)  # any other value, cpu too, leaves a mode on


def put_streams(value: list[Any]) -> None:
    for handler, stream in zip(tf.get_logger().handlers, value, strict=True):
        handler.stream = stream  # setStream would flush the one that it has, which may be closed


KERAS = tf.keras.backend
INSIDE = sys.modules[KERAS.clear_session.__module__]  # of the Keras 2 that is under tf.keras
STATE: dict[str, State] = {
    "environment": (environment, put_environment),
    "directory": (os.getcwd, os.chdir),
    "path": (lambda: list(sys.path), put_path),
    "methods": table(METHODS),
    "metrics": table(METRICS),
    "settings of matplotlib": (lambda: dict(mpl.rcParams), lambda value: dict.update(mpl.rcParams, value)),
    "template of plotly": attribute(pio.templates, "default"),
    "renderer of plotly": attribute(pio.renderers, "default"),
    "threads of OpenCV": (cv2.getNumThreads, cv2.setNumThreads),
    "errors of NumPy": (np.geterr, lambda value: np.seterr(**value)),
    "seed of the host": attribute(fe, "fe_deterministic_seed"),
    "history of the host": attribute(fe, "fe_history_path"),
    "number of the host's models": attribute(fe, "fe_build_count"),
    "determinism of TensorFlow": (_pywrap_determinism.is_enabled, _pywrap_determinism.enable),
    "streams of TensorFlow's log": (lambda: [one.stream for one in tf.get_logger().handlers], put_streams),
    "eager functions of TensorFlow": (tf.config.functions_run_eagerly, tf.config.run_functions_eagerly),
    "seeds of Keras": attribute(INSIDE._SEED_GENERATOR, "generator"),
    "precision of Keras": (tf.keras.mixed_precision.global_policy, tf.keras.mixed_precision.set_global_policy),
    "type of Keras": (KERAS.floatx, KERAS.set_floatx),
    "epsilon of Keras": (KERAS.epsilon, KERAS.set_epsilon),
    "channels of Keras": (KERAS.image_data_format, KERAS.set_image_data_format),
    "type of torch": (torch.get_default_dtype, torch.set_default_dtype),
    "device of torch": (torch.get_default_device, put_device),
    "threads of torch": (torch.get_num_threads, torch.set_num_threads),
    "gradients of torch": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomalies of torch": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "determinism of torch": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "precision of torch": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **{
        f"{name} of cuDNN": attribute(torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
    },
}
"""By what it is of."""


@contextmanager
def kept() -> Iterator[None]:
    """All of it is afterwards as it was before."""
    before = {name: read() for name, (read, _) in STATE.items()}
    try:
        yield
    finally:
        for name, (read, put) in STATE.items():
            if read() != before[name]:
                put(before[name])


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    tf.random.set_seed(0)
