"""Trainings that are killed, while they train or while a page is written, and resumed; each in a process of its own.

``python -m tests.browser.killed FOLDER`` makes FOLDER/killed/torch, FOLDER/resumed/torch and the same of tf.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from fastestimator.trace.io import RestoreWizard
from fastestimator.trace.trace import Trace
from numpy.typing import NDArray

from tests.trainings import COUNT, as_layout, build, dataset, estimator, gradcam

LAST = 3
"""The epoch in which they are killed."""

ENDS = {"torch": "batch", "tf": "writing"}
"""In the midst of what the training of each framework is killed."""


def pictures() -> NDArray[np.uint8]:
    """(N, 9, 12, 3), those of the training; `dataset` calls them 100, 101, and so on."""
    return np.random.default_rng(5).integers(0, 256, (COUNT, 9, 12, 3), dtype=np.uint8)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KilledInABatch(Trace):
    """Ends the process in the midst of an epoch if `ends` is "batch"; the host resumes only with as many traces."""

    def __init__(self, ends: str) -> None:
        super().__init__(mode="train")
        self.ends = SimpleNamespace(how=ends)  # no text, which the host would restore

    def on_batch_end(self, data: Any) -> None:
        if self.ends.how == "batch" and self.system.epoch_idx == LAST:
            kill()


def kill_while_writing() -> None:
    """Ends the process when the page of the epoch is written, but not yet in its place."""
    replace, pages = Path.replace, []

    def until(self: Path, target: Path) -> Path:
        pages.extend([target] * (Path(target).suffix == ".html"))
        if len(pages) == LAST:
            kill()
        return replace(self, target)

    Path.replace = until  # type: ignore[method-assign,assignment]


def train(framework: str, folder: Path, ends: str) -> None:
    """Four epochs from where the folder says the last training ended; `ends` is "batch", "writing" or "whole"."""
    if ends == "writing":
        kill_while_writing()
    torch.manual_seed(3)  # some weights make an image's heat blank, and it could not be told from another's
    tf.keras.utils.set_random_seed(3)
    model = build(framework)
    data = dataset(framework, x=as_layout(framework, pictures().astype(np.float32) / 255))
    how = {"preds": "y_pred", "ids": "name", "select": "random", "n_samples": 3}
    trace = gradcam(model, save_dir=folder, report=True, **how)
    traces = [trace, KilledInABatch(ends), RestoreWizard(str(folder / "state"))]
    estimator(framework, model, traces, epochs=4, train_data=data, eval_data=data).fit(warmup=False)


def run(folder: Path, ends: dict[str, str], code: int) -> None:
    """Trains in new processes, side by side, which must end with the code."""
    fork = multiprocessing.get_context("fork")  # so that the frameworks, not yet at work here, are imported once
    started = [fork.Process(target=train, args=(name, folder / name, how)) for name, how in ends.items()]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        assert process.exitcode == code, f"{process.exitcode} is not {code}"


if __name__ == "__main__":
    killed, resumed = (Path(sys.argv[1]) / name for name in ("killed", "resumed"))
    run(killed, ENDS, -signal.SIGKILL)
    shutil.copytree(killed, resumed)
    run(resumed, dict.fromkeys(ENDS, "whole"), 0)
