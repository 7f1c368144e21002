"""What a test changes of the global state is put back before the next one."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastestimator as fe
import matplotlib as mpl
import pytest
import tensorflow as tf
import torch

from tests.state import STATE, kept
from tests.trainings import ROOT

OTHERS: dict[str, Any] = {
    "environment": {"ONLY": "this"},
    "directory": "/",
    "path": ["/nowhere"],
    "methods": {},
    "metrics": {},
    "settings of matplotlib": {**mpl.rcParams, "figure.dpi": 7.0},
    "template of plotly": "ggplot2",
    "renderer of plotly": "json",
    "threads of OpenCV": 2,
    "errors of NumPy": {"divide": "raise", "over": "print", "under": "warn", "invalid": "ignore"},
    "seed of the host": 3,
    "history of the host": "/nowhere",
    "number of the host's models": 77,
    "determinism of TensorFlow": True,
    "streams of TensorFlow's log": [io.StringIO() for _ in tf.get_logger().handlers],
    "eager functions of TensorFlow": True,
    "seeds of Keras": random.Random(3),
    "precision of Keras": tf.keras.mixed_precision.Policy("mixed_float16"),
    "type of Keras": "float64",
    "epsilon of Keras": 0.5,
    "channels of Keras": "channels_first",
    "type of torch": torch.float64,
    "device of torch": torch.device("meta"),
    "threads of torch": torch.get_num_threads() + 1,
    "gradients of torch": False,
    "anomalies of torch": True,
    "determinism of torch": 1,
    "precision of torch": "medium",
    "enabled of cuDNN": False,
    "benchmark of cuDNN": True,
    "deterministic of cuDNN": True,
    "allow_tf32 of cuDNN": False,
}


@pytest.mark.parametrize("name", STATE)
def test_each_state_is_put_back(name: str) -> None:
    read, put = STATE[name]
    before = read()
    with pytest.raises(KeyError, match="of the test"), kept():
        put(OTHERS[name])
        changed = read()
        raise KeyError("of the test")
    assert changed != before
    assert read() == before


def test_what_the_host_sets_for_deterministic_trainings_is_put_back() -> None:
    before = {name: read() for name, (read, _) in STATE.items()}
    with kept():
        fe.enable_deterministic(3)
        changed = {name for name, (read, _) in STATE.items() if read() != before[name]}
    assert changed - {"path"} == {"environment", "seed of the host", "determinism of TensorFlow", "seeds of Keras"}
    assert {name: read() for name, (read, _) in STATE.items()} == before


MODULE = """
import os, random
import fastestimator as fe, numpy as np, pytest

@pytest.fixture(scope="module")
def shared():
    os.environ["SHARED"] = "1"
    return random.random(), np.random.rand()

def test_first(shared):
    fe.enable_deterministic(3)
    random.random()

@pytest.mark.parametrize("again", range(2))
def test_later(shared, again):
    assert fe.fe_deterministic_seed is None
    assert not {"SHARED", "PYTHONHASHSEED"} & set(os.environ)
    random.seed(0)
    assert shared[0] == random.random(), "made from the seeds, whichever asks first"
"""


def test_every_test_is_alone_in_any_order(tmp_path: Path) -> None:
    """In a process of its own: pytest within pytest would unload modules that can be loaded only once."""
    (tmp_path / "pytest.ini").write_text("[pytest]")
    for name in ("one", "other"):
        (tmp_path / f"test_{name}.py").write_text(MODULE)
    order = ["one.py::test_first", "one.py::test_later", "other.py::test_later", "other.py::test_first"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", str(tmp_path / "pytest.ini")]
    command += [f"{tmp_path}/test_{name}" for name in order]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1].startswith("6 passed"), done.stdout
