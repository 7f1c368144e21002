"""Shared by all tests: quiet frameworks, fixed seeds, the pretrained classifier once."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import fastestimator as fe
import numpy as np
import pytest
import torch
from hypothesis import settings

fe.fe_history_path = False
gc.collect()
gc.freeze()  # the host collects garbage after every epoch; the modules themselves need not be looked through each time
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=15)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    import tensorflow as tf

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    tf.random.set_seed(0)
    yield
    assert not torch._C._is_torch_function_mode_enabled(), "a function mode was left on"
    assert torch.is_grad_enabled(), "the grad mode was left changed"
    assert not tf.config.functions_run_eagerly(), "tf.functions were left running eagerly"


@pytest.fixture(scope="session")
def pretrained() -> dict[str, Any]:
    """EfficientNet-Lite0 with its ImageNet weights, in both frameworks, and the photos as each takes them."""
    from tests.models.keras_twin import pretrained_keras
    from tutorials.real_data import normalise, photos, pretrained_torch, torch_input

    images, names, class_ids = photos()
    return {
        "torch": (pretrained_torch(), torch_input(images)),
        "keras": (pretrained_keras(), normalise(images)),
        "names": names,
        "class_ids": class_ids,
        "images": images,
    }
