"""A training with everything on is the training without the trace, bit for bit; the same seed writes the same files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import fastestimator as fe
import numpy as np
import pytest
import tensorflow as tf
from fastestimator.trace.metric import Accuracy
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fe_gradcam import Augment, CamWarning, GradCAM
from fe_gradcam.metrics.rules import METRICS
from fe_gradcam.training.selection import BOTH, RULES
from tests.trainings import COUNT, Catch, build, dataset, estimator, gradcam, streams, weights_of

EVERY_CHANNEL = ["grad_cam", "score_cam", "ablation_cam", ("ss_cam", {"samples": 2}), ("is_cam", {"samples": 2})]
"""Methods that ask the model again, beside one that does not."""

SELECTIONS: list[Any] = [*RULES, BOTH, [0, 7, 3]]


def masks() -> NDArray[np.uint8]:
    found = np.zeros((COUNT, 9, 12), np.uint8)
    found[:, 2:6, 3:8] = 1
    return found


def everything(model: Any, folder: Path) -> list[GradCAM]:
    """Traces with all that a trace can be asked for: every selection, and two that draw and judge whatever there is."""
    how: dict[str, Any] = {"mode": None, "preds": "y_pred", "masks": "mask", "ids": "name", "save_dir": folder}
    metrics = {"metrics": [*METRICS, "drift", "overlap"], "track": True, "atlas": True, "targets": ["pred", "label"]}
    asked = {"methods": EVERY_CHANNEL, "smooth": [Augment(), "eigen"], "outputs": "asked", "select": "random"}
    return [
        *(gradcam(model, **how, n_samples=2, select=one, outputs=f"of {at}") for at, one in enumerate(SELECTIONS)),
        gradcam(model, **how, n_samples=3, report=True, **asked),
        gradcam(model, **how, n_samples=3, report=True, **metrics, outputs="judged"),
    ]


def after(framework: str, folder: Path | None) -> dict[str, Any]:
    """All that a training of two epochs leaves, with everything on where there is a folder."""
    fe.enable_deterministic(3)
    tf.keras.utils.set_random_seed(5)
    model, catch = build(framework), Catch()
    traces = [] if folder is None else everything(model, folder)
    feed = {key: dataset(framework, seed=at, mask=masks()) for at, key in enumerate(("eval_data", "train_data"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # of metrics over three images, and of classes with few
        estimator(framework, model, [Accuracy("y", "y_pred"), *traces, catch], epochs=2, **feed).fit()
    own = tuple(trace.outputs[0] for trace in traces)
    return {
        "weights": weights_of(framework, model),
        "optimizer": optimizer_of(framework, model),
        "streams": streams(),
        "log": [(one["mode"], one["epoch"], one["ce"], one.get("accuracy")) for one in catch.caught if "ce" in one],
        "logged": [sorted(key for key in keys if not key.startswith(own or "-")) for keys in catch.logged],
    }


def optimizer_of(framework: str, model: Any) -> list[NDArray[Any]]:
    if framework == "tf":
        optimizer = model.current_optimizer
        return [np.asarray(one) for one in getattr(optimizer, "variables", optimizer.get_weights)()]
    state = model.current_optimizer.state_dict()["state"]
    return [np.asarray(value) for at in sorted(state) for _, value in sorted(state[at].items())]


def assert_same(one: Any, other: Any, within: float) -> None:
    assert one.keys() == other.keys()
    for name in ("weights", "optimizer"):
        assert len(one[name]) == len(other[name]) > 0
        for array, another in zip(one[name], other[name], strict=True):
            assert_allclose(array, another, rtol=0, atol=within)
    for name in ("streams", "logged"):
        assert one[name] == other[name]
    for row, another in zip(one["log"], other["log"], strict=True):
        assert row[:2] == another[:2]
        assert_allclose(np.asarray(row[2:], float), np.asarray(another[2:], float), rtol=0, atol=within)


@pytest.mark.slow
def test_with_everything_on_a_training_is_bit_for_bit_that_without_and_its_files_are_those_of_its_seed(
    framework: str, tmp_path: Path
) -> None:
    """Weights, the optimizer's state, random streams, and what other traces and the loop log; then the files."""
    folders = [tmp_path / "one", tmp_path / "other"]
    plain, again, traced, traced_again = (after(framework, folder) for folder in (None, None, *folders))
    # TensorFlow's own sums depend on its threads, when the machine is busy.
    within = 0 if framework == "torch" else 1e-5
    for other in (again, traced, traced_again):
        assert_same(plain, other, within)
    assert len(plain["log"]) == 2 and any(np.ptp(one) > 0 for one in plain["weights"])
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] and len(names[0]) > 40
    assert {Path(name).suffix for name in names[0]} == {".png", ".npz", ".html"}
    differ = [name for name in names[0] if len({(folder / name).read_bytes() for folder in folders}) > 1]
    assert differ == []
