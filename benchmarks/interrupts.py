"""What Ctrl+C leaves behind: explanations are interrupted at random moments, and one by one at each of their steps.

Random moments come from another process, which sends SIGINT while a call runs. Steps are lines of this package that a
call passes: at one of them the handler of SIGINT is called, as Python calls it. What the model, the random streams and
the frameworks hold is compared before and after, and the same call must give the same heatmap again.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import fe_gradcam
from benchmarks.measure import one_thread
from fe_gradcam import explain

PACKAGE = str(Path(fe_gradcam.__file__).parent)

SENDS = """
import os, sys, time
for line in sys.stdin:
    end = time.perf_counter() + float(line)
    while time.perf_counter() < end:
        pass
    os.kill(os.getppid(), 2)
    print(flush=True)
"""
"""A process that sends SIGINT to its parent, once for each line, after so many seconds."""

ASKED: dict[str, tuple[Any, ...]] = {
    "torch": ("grad_cam", "grad_cam", "score_cam", "shapley_cam", "le_grad"),
    "keras": ("grad_cam", "grad_cam", "score_cam", "shapley_cam", "full_grad"),
}
"""The methods that take turns; the first one as often again, as it is the one that is used most."""


def torch_model() -> Any:
    """A net in training mode, with hooks, batch normalisation, dropout, attention and a checkpoint."""
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5)
            self.block, self.fc = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            maps = checkpoint(lambda given: torch.relu(self.norm(self.conv(given))), x, use_reentrant=True)
            tokens = self.block(maps.flatten(2).transpose(1, 2))
            return torch.softmax(self.fc(self.drop(tokens).mean(1)), 1)

    torch.manual_seed(0)
    model = Interrupted().train()
    model.conv.register_forward_hook(lambda *_: None)
    model.fc.register_full_backward_hook(lambda *_: None)
    model.fc.weight.grad = torch.ones(4, 8)
    next(model.conv.parameters()).requires_grad_(False)
    return model


def keras_model() -> Any:
    """A net with batch normalisation and dropout, of the Keras that TensorFlow has."""
    import keras

    keras.utils.set_random_seed(0)
    shape, layers = (8, 8, 1), keras.layers
    return keras.Sequential(
        [
            *(keras.Input(shape), layers.Conv2D(8, 3, activation="relu", name="conv"), layers.BatchNormalization()),
            *(layers.Conv2D(8, 3, name="last"), layers.ReLU(), layers.Dropout(0.5), layers.GlobalAveragePooling2D()),
            layers.Dense(4, activation="softmax"),
        ]
    )


def process_state(framework: str) -> dict[str, Any]:
    """What the frameworks hold for all models."""
    import torch
    from torch.nn import functional
    from torch.utils.checkpoint import CheckpointFunction

    found: dict[str, Any] = {
        "handler of SIGINT": signal.getsignal(signal.SIGINT),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "gradients": torch.is_grad_enabled(),
        "replaced functions": (
            torch.backends.mha.get_fastpath_enabled,
            functional.softmax,
            functional.scaled_dot_product_attention,
            "apply" in vars(CheckpointFunction),
        ),
        "fused attention": (torch._C._get_flash_sdp_enabled(), torch._C._get_mem_efficient_sdp_enabled()),
    }
    if framework == "keras":
        import tensorflow as tf
        from tensorflow.python.eager import context
        from tensorflow.python.framework import ops

        found |= {
            "eager functions": tf.config.functions_run_eagerly(),
            "eager execution": tf.executing_eagerly(),
            "graphs": len(ops._default_graph_stack.stack),
            "name scope": context.context().scope_name,
            "callbacks": len(context.context().op_callbacks),
        }
    return found


def mend(framework: str) -> None:
    """Puts the frameworks back, so that what one interrupt left is not counted for the next."""
    import torch

    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
    torch.set_grad_enabled(True)
    if framework == "keras":
        import tensorflow as tf

        tf.config.run_functions_eagerly(False)


@dataclass
class Trial:
    """A model whose explanations are interrupted.

    Attributes:
        framework: "torch" or "keras".
        model: A fresh model wherever an interrupt left something.
        left: What was left, by what it is of, and how often.
        raised: How many calls ended in KeyboardInterrupt.
        made: How many calls were interrupted.
    """

    framework: str
    model: Any = None

    def __post_init__(self) -> None:
        self.left: Counter[str] = Counter()
        self.raised = self.made = self.leaving = 0
        self._images = np.random.default_rng(0).random((2, 8, 8, 1)).astype(np.float32)
        if self.framework == "torch":
            self._images = self._images.transpose(0, 3, 1, 2)
        self.model = self._fresh()
        self._expected = {method: self.explained(method) for method in ASKED[self.framework]}

    def _fresh(self) -> Any:
        return torch_model() if self.framework == "torch" else keras_model()

    def explained(self, method: str) -> Any:
        """Values of the heatmaps."""
        layer = "conv" if self.framework == "torch" else "last"
        return explain(self.model, self._images, method=method, layer=layer, target=1, progress=False).values

    def forget(self) -> None:
        """Keras models are traced anew in the next call."""
        if self.framework == "keras":
            from fe_gradcam.backends.keras.compiled import FUNCTIONS

            FUNCTIONS.pop(self.model, None)

    def state(self) -> dict[str, Any]:
        """All that is compared."""
        if self.framework == "torch":
            from fe_gradcam.backends.pytorch.plain import PlainTorch as Plain
        else:
            from fe_gradcam.backends.keras.plain import PlainKeras as Plain  # type: ignore[assignment]
        from fe_gradcam.backends.known import known_of

        locked = {"lock of the model": known_of(self.model)._lock.locked()}
        return Plain(self.model).state() | process_state(self.framework) | locked

    def interrupt(self, method: str, interrupted: Callable[[Callable[[], Any]], bool]) -> None:
        """One call, which is interrupted; what is left is counted."""
        before, handler = self.state(), signal.getsignal(signal.SIGINT)
        self.made += 1
        failed = []
        try:
            self.raised += interrupted(lambda: self.explained(method))
        except Exception as error:
            failed = [f"{type(error).__name__} in place of KeyboardInterrupt"]
        after = self.state()
        left = failed + [name for name in before if before[name] != after.get(name)]
        if not left and not np.allclose(self.explained(method), self._expected[method], atol=1e-6):
            left = ["another heatmap afterwards"]
        if left:
            self.left.update(left)
            self.leaving += 1
            mend(self.framework)
            signal.signal(signal.SIGINT, handler)
            self.model = self._fresh()
            self._expected = {method: self.explained(method) for method in ASKED[self.framework]}


class Sender:
    """A process that sends SIGINT to this one, whose handler raises KeyboardInterrupt if a call runs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._runs = False

    def __enter__(self) -> Sender:
        self._before = signal.signal(signal.SIGINT, self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        signal.signal(signal.SIGINT, self._before)

    def _answer(self, *_: object) -> None:
        if self._runs:
            self._runs = False
            raise KeyboardInterrupt

    def interrupted(self, call: Callable[[], Any], seconds: float) -> bool:
        """Whether the call ended in KeyboardInterrupt; the signal is sent after so many seconds, and waited for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n".encode())
        try:
            self._runs = True
            call()
            self._runs = False
        except KeyboardInterrupt:
            return True
        finally:
            self._process.stdout.read(1)
            self._runs = False
        return False


def at_step(call: Callable[[], Any], number: int) -> tuple[bool, int]:
    """Calls the handler of SIGINT at one of the steps that lie in this package.

    Returns:
        Whether the call ended in KeyboardInterrupt, and how many steps were passed.
    """
    passed, before = 0, sys.gettrace()

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if event not in ("call", "line") or not frame.f_code.co_filename.startswith(PACKAGE):
            return None if event == "call" else step
        passed += 1
        if passed == number:
            sys.settrace(None)
            handler = signal.getsignal(signal.SIGINT)
            assert callable(handler)
            handler(signal.SIGINT, frame)
            return None
        return step

    sys.settrace(step)
    try:
        call()
    except KeyboardInterrupt:
        return True, passed
    finally:
        sys.settrace(before)
    return False, passed


@contextmanager
def timed() -> Iterator[list[float]]:
    """Gets the seconds that the block takes."""
    taken, start = [0.0], time.perf_counter()
    yield taken
    taken[0] = time.perf_counter() - start


def at_random(framework: str, count: int, seed: int) -> Trial:
    """So many calls, each interrupted at a random moment; of every fourth in Keras the model is traced anew."""
    trial, stream = Trial(framework), random.Random(seed)
    longest: dict[tuple[str, bool], float] = {}
    with Sender() as sender:
        for at in range(count):
            method, traced = ASKED[framework][at % len(ASKED[framework])], framework == "keras" and at % 4 == 0
            if (method, traced) not in longest:
                for _ in range(2):
                    trial.forget() if traced else None
                    with timed() as taken:
                        trial.explained(method)
                longest[method, traced] = taken[0]
            trial.forget() if traced else None
            seconds = stream.random() * longest[method, traced]
            trial.interrupt(method, lambda call, seconds=seconds: sender.interrupted(call, seconds))  # type: ignore[misc]
    return trial


def at_steps(framework: str, count: int) -> Trial:
    """Calls of each method, interrupted at so many steps, at equal distances; in Keras with and without a trace."""
    trial = Trial(framework)
    for method in dict.fromkeys(ASKED[framework]):
        for traced in (False, True) if framework == "keras" else (False,):
            trial.forget() if traced else None
            _, steps = at_step(lambda method=method: trial.explained(method), -1)  # type: ignore[misc]
            for number in sorted({int(at) for at in np.linspace(1, steps, count)}):
                trial.forget() if traced else None
                trial.interrupt(method, lambda call, number=number: at_step(call, number)[0])  # type: ignore[misc]
    return trial


def main() -> None:
    """Prints a line for each framework and each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", choices=tuple(ASKED), default=tuple(ASKED))
    parser.add_argument("--count", type=int, default=500, help="random moments of each framework")
    parser.add_argument("--steps", type=int, default=60, help="of each call, at equal distances; 0 leaves this out")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    one_thread()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
    for framework in asked.frameworks:
        ways: dict[str, Callable[[], Trial]] = {
            "random moments": partial(at_random, framework, asked.count, asked.seed)
        }
        if asked.steps:
            ways["steps"] = partial(at_steps, framework, asked.steps)
        for way, run in ways.items():
            trial = run()
            print(
                f"{framework}, {way}: {trial.made} interrupts, {trial.raised} calls ended in KeyboardInterrupt, "
                f"{trial.leaving} left something {dict(trial.left.most_common(8)) or ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
