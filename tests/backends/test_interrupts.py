"""SIGINT waits while something is put on a model or taken off it, comes through in its passes, and is never lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.interrupts import ASKED, Sender, Trial, at_random, at_step, at_steps
from fe_gradcam import explain
from fe_gradcam.backends import interrupts
from fe_gradcam.backends.interrupts import HeldBack, LetThrough, held_back, interruptible, let_through
from fe_gradcam.backends.known import known_of
from fe_gradcam.metrics.comparison import randomised


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """That of Python, whatever runs the tests; it must stand there again at the end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler
    assert not interrupts._ACTIVE


@pytest.fixture
def got() -> Iterator[list[FrameType | None]]:
    """A handler that raises nothing, and what it got."""
    frames: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: frames.append(frame))
    yield frames
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_signal_waits_until_the_end() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), HeldBack():
        ctrl_c()
        steps.append("held")
        with HeldBack():
            ctrl_c()
            steps.append("inside")
        steps.append("still held")
    assert steps == ["held", "inside", "still held"]


def test_it_comes_through_where_it_may() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), HeldBack(), contextlib.ExitStack() as stack:
        stack.callback(lambda: (ctrl_c(), steps.append("taken off")))  # a second one
        with LetThrough():
            steps.append("put on")
            ctrl_c()
            steps.append("not reached")
    assert steps == ["put on", "taken off"]


def test_what_waits_comes_before_a_pass_begins() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), HeldBack():
        ctrl_c()
        with LetThrough():
            steps.append("not reached")
    with pytest.raises(KeyboardInterrupt), HeldBack():
        ctrl_c()
        let_through()
        steps.append("not reached")
    assert not steps


def test_what_waited_inside_a_pass_comes_at_the_end_of_the_inner_context() -> None:
    """A callable target that explains a model: the outer pass lets through, and is left at once."""
    steps = []
    with pytest.raises(KeyboardInterrupt), HeldBack(), LetThrough():
        with HeldBack():
            ctrl_c()
            steps.append("held")
        steps.append("not reached")
    assert steps == ["held"]


def test_a_handler_that_raises_nothing_gets_each_signal_once(got: list[Any]) -> None:
    with HeldBack():
        ctrl_c()
        ctrl_c()
        assert not got  # of several that wait one comes, as the system does it
        with LetThrough():
            assert len(got) == 1
            ctrl_c()
            assert len(got) == 2
            with HeldBack():
                ctrl_c()
                assert len(got) == 2
            assert len(got) == 3
            ctrl_c()
        ctrl_c()
        assert len(got) == 4
    assert len(got) == 5
    assert all(frame is not None for frame in got)


def test_an_error_of_the_block_is_not_lost(got: list[Any]) -> None:
    with pytest.raises(ValueError, match="mine"), HeldBack():
        ctrl_c()
        raise ValueError("mine")
    assert len(got) == 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt) as told, HeldBack():
        ctrl_c()
        raise ValueError("mine")
    assert isinstance(told.value.__context__, ValueError)


@pytest.mark.parametrize("kind", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_python_does_not_handle_is_left_alone(kind: Any) -> None:
    signal.signal(signal.SIGINT, kind)
    with HeldBack(), LetThrough():
        assert signal.getsignal(signal.SIGINT) is kind
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is kind


def test_a_handler_that_was_not_set_from_python_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot put it back, and says that it is None."""
    monkeypatch.setattr(interrupts._signal, "getsignal", lambda number: None)
    with HeldBack(), LetThrough():
        assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.default_int_handler


def test_a_handler_that_is_set_inside_stays() -> None:
    others: list[int] = []
    with HeldBack(), LetThrough():
        signal.signal(signal.SIGINT, lambda *_: others.append(1))
    ctrl_c()
    assert others == [1]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_somebody_kept_hands_on(got: list[Any]) -> None:
    with HeldBack(), LetThrough():
        kept = signal.getsignal(signal.SIGINT)
    own = signal.signal(signal.SIGINT, kept)
    ctrl_c()
    assert len(got) == 1
    signal.signal(signal.SIGINT, own)


def test_other_threads_hold_nothing_back(got: list[Any]) -> None:
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with HeldBack(), LetThrough(), HeldBack():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    ctrl_c()
    assert len(got) == 1
    with HeldBack():
        ctrl_c()
        done.set()
        thread.join()
        assert len(got) == 1
    assert len(got) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_another_thread_forked_is_not_held() -> None:
    """Its one thread is not the one that would let the signal through again."""
    program = """
import os, signal, sys, threading
from fe_gradcam.backends.interrupts import HeldBack
def other():
    child = os.fork()
    if not child:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            os._exit(7)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with HeldBack():
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "7"


def test_a_loop_of_asyncio_is_told_once() -> None:
    """The loop is told by a byte when the signal comes, so the handler is called, and no second signal is sent."""
    told: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: told.append(1))
        with HeldBack():
            ctrl_c()
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert told == [1]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_function_may_be_held() -> None:
    steps = []

    @held_back
    def function(what: int) -> int:
        ctrl_c()
        steps.append(what)
        return what

    with pytest.raises(KeyboardInterrupt):
        function(3)
    assert steps == [3]


def contexts() -> tuple[list[str], Callable[[], Any]]:
    steps: list[str] = []

    @interruptible
    def context() -> Iterator[str]:
        steps.append("on")
        try:
            yield "value"
        finally:
            steps.append("off")

    return steps, context


def test_the_block_of_an_interruptible_context_is_interrupted_and_nothing_stays_on() -> None:
    steps, context = contexts()
    with pytest.raises(KeyboardInterrupt), context() as value:
        assert value == "value"
        ctrl_c()
        steps.append("not reached")
    assert steps == ["on", "off"]
    with pytest.raises(ValueError, match="mine"), context():
        raise ValueError("mine")
    assert steps == ["on", "off"] * 2


def test_an_interruptible_context_is_whole_wherever_it_is_interrupted() -> None:
    """At each of its lines. It is held here, as a debugger holds it, or it would be closed when it is collected."""
    number = left = 0
    while True:
        number += 1
        steps, context = contexts()

        made = context()

        def block(made: Any = made) -> None:
            with made:
                pass

        raised, passed = at_step(block, number)
        left += steps.count("on") != steps.count("off")
        if passed < number:
            break
        assert raised
    assert number > 20
    assert not left


class Net(nn.Module):
    """A net in training mode that may wait inside its forward."""

    def __init__(self, wait: Callable[[], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.drop, self.fc = nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Linear(4, 3)
        self.__dict__["wait"] = wait

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).relu()
        if self.wait is not None:
            self.wait()
        return self.fc(self.drop(maps).mean((2, 3)))


IMAGES = np.random.default_rng(0).random((2, 1, 8, 8)).astype(np.float32)


def test_a_long_pass_is_interrupted_at_once_and_a_waiting_thread_too() -> None:
    model = Net(lambda: time.sleep(30))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        explain(model, IMAGES, layer="conv")
    assert time.perf_counter() - start < 10
    assert model.training
    done = threading.Event()
    model.__dict__["wait"] = lambda: done.wait(30)
    other = threading.Thread(target=explain, args=(model, IMAGES), kwargs={"layer": "conv"})
    other.start()
    while not known_of(model)._lock.locked():
        time.sleep(0.01)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        explain(model, IMAGES, layer="conv")
    assert other.is_alive()
    done.set()
    other.join()
    assert not known_of(model)._lock.locked()


def test_the_callable_target_of_a_user_is_interrupted_at_once() -> None:
    model, reached = Net(), []

    def target(output: Tensor) -> Tensor:
        ctrl_c()
        reached.append(1)
        return output[:, 0]

    with pytest.raises(KeyboardInterrupt):
        explain(model, IMAGES, layer="conv", target=target)
    assert not reached
    assert model.training
    assert torch.is_grad_enabled()


def test_modes_that_torch_took_off_to_call_them_are_put_on_again() -> None:
    """Functions of torch that are written in Python do that, and an interrupt may come before they put it on."""

    class Mine(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    def wait() -> None:
        torch._C._pop_torch_function_stack()
        ctrl_c()

    model = Net(wait)
    with Mine():
        with pytest.raises(KeyboardInterrupt):
            explain(model, IMAGES, layer="conv")
        assert torch._C._len_torch_function_stack() == 1
        assert isinstance(torch._C._get_function_stack_at(0), Mine)
    assert not torch._C._len_torch_function_stack()


def test_weights_are_put_back_however_often_a_block_of_randomised_is_interrupted() -> None:
    model = Net()
    before = pickle.dumps(model.state_dict())
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), randomised(model):
            assert pickle.dumps(model.state_dict()) != before
            ctrl_c()
        assert pickle.dumps(model.state_dict()) == before

    def block() -> None:
        with randomised(model):
            pass

    _, steps = at_step(block, -1)
    for number in range(1, steps + 1):
        at_step(block, number)
        assert pickle.dumps(model.state_dict()) == before


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_no_interrupt_leaves_anything(framework: str) -> None:
    """A short form of ``python -m benchmarks.interrupts``."""
    trial = at_steps(framework, 8 if framework == "torch" else 4)
    assert not trial.left
    assert trial.raised >= 20


@pytest.mark.slow
@pytest.mark.parametrize("framework", ASKED)
def test_no_interrupt_at_a_random_moment_leaves_anything(framework: str) -> None:
    trial = at_random(framework, 60, 0)
    assert not trial.left
    assert trial.raised > 10


def test_what_is_left_is_found() -> None:
    """An interrupt that leaves a flag, a hook or a mode is counted."""
    trial = Trial("torch")

    def leaves(call: Callable[[], Any]) -> bool:
        trial.model.drop.training = False
        trial.model.conv.register_forward_hook(lambda *_: None)
        torch.set_grad_enabled(False)
        return True

    trial.interrupt("grad_cam", leaves)
    assert trial.left["training flag of drop"] == trial.left["gradients"] == trial.left["attributes of conv"] == 1
    assert trial.leaving == 1
    assert torch.is_grad_enabled()


def test_a_signal_is_sent_from_outside() -> None:
    with Sender() as sender:
        assert sender.interrupted(lambda: time.sleep(5), 0.01)
        assert not sender.interrupted(lambda: None, 0.2)
