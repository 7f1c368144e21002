"""Shared by all tests: quiet frameworks, fixed seeds, global state put back, the pretrained classifier once."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import fe_gradcam.integrations.fastestimator  # noqa: F401  # isort: skip - has the host find Keras 2 under tf.keras
import fastestimator as fe
import pytest
import tensorflow as tf
import torch
from hypothesis import settings

from tests.state import kept, seed

collect_ignore = ["mutation/mutants.py"]
"""It needs Cosmic Ray, which has an environment of its own."""

fe.fe_history_path = False
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=15)
settings.register_profile("few", deadline=None, derandomize=True, max_examples=4)
settings.load_profile("repeatable")


REAL = {"pretrained", "trained"}
"""Fixtures that train a network, or give a real one."""


def trains(function: Any, seen: set[Any]) -> bool:
    """Whether a function of the tests fits or tests a network or starts a process, or calls one that does."""
    if not inspect.isfunction(function) or function in seen or not function.__module__.startswith("tests."):
        return False
    seen.add(function)
    codes = [function.__code__]
    for code in codes:
        codes += [const for const in code.co_consts if inspect.iscode(const)]
    called = {name for code in codes for name in code.co_names}
    if called & {"fit", "test", "subprocess"}:
        return True
    return any(trains(function.__globals__.get(name), seen) for name in called)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        function = inspect.unwrap(getattr(item, "function", len))
        function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
        if REAL & set(getattr(item, "fixturenames", ())) or trains(function, set()):
            item.add_marker(pytest.mark.slow)


class Last:
    """The module of the last test."""

    module: Any = None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The host collects garbage after every epoch, and need not look through what was there before the test."""
    module = item.getparent(pytest.Module)
    if module is not Last.module:
        Last.module = module
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
    """What several tests share is made from the same seeds, whichever asks first, and leaves no state either."""
    if fixturedef.scope == "function":
        return (yield)
    with kept():
        seed()
        return (yield)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    seed()
    with kept():
        yield
        assert not torch._C._is_torch_function_mode_enabled(), "a function mode was left on"
        assert torch.is_grad_enabled(), "the grad mode was left changed"
        assert not tf.config.functions_run_eagerly(), "tf.functions were left running eagerly"


@pytest.fixture(params=["torch", "tf"])
def framework(request: pytest.FixtureRequest) -> str:
    """As the host calls them."""
    return str(request.param)


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
