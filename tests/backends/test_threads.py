"""Several threads explain one model: the results are those of one thread, and the model is left as it was."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor, nn
from torch.nn import functional

from fe_gradcam import CamError, explain, explain_many
from fe_gradcam.backends.known import known_of
from fe_gradcam.backends.pytorch.attention import AttentionMode

SECONDS = 60
"""After so long a thread that has not ended waits for ever."""


class Net(nn.Module):
    """A net with batch normalisation and dropout, whose forward may wait."""

    def __init__(self, wait: Callable[[], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.second = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 4)
        self.__dict__["wait"] = wait

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.norm(self.first(x)))).relu()
        if self.wait is not None:
            self.wait()
        return torch.softmax(self.fc(self.drop(x).mean((2, 3))), 1)


def in_threads(jobs: Sequence[Callable[[], Any]], threads: int = 8) -> list[Any]:
    """What the jobs return, in their order."""
    with ThreadPoolExecutor(threads) as pool:
        return [each.result(SECONDS) for each in [pool.submit(job) for job in jobs]]


def test_threads_that_explain_one_model_get_what_one_thread_gets() -> None:
    model = Net().train()
    model.first.register_forward_hook(lambda *its: None)
    images = [torch.rand(count, 1, 12, 12) for count in (1, 2, 3)]
    asked = [
        {"images": part, "method": method, "layer": layer, "target": target}
        for part in images
        for method in ("grad_cam", "score_cam", "shapley_cam", "full_grad")
        for layer in ("first", "second", None)
        for target in (None, 2)
    ]
    before = pickle.dumps(model.state_dict()), {name: one.training for name, one in model.named_modules()}
    alone = [explain(Net().train(), **each) for each in asked]
    together = in_threads([lambda each=each: explain(model, **each) for each in asked] * 2)
    for one, other in zip(alone * 2, together, strict=True):
        assert_array_equal(one.values, other.values)
        assert_array_equal(one.scores, other.scores)
    assert before == (pickle.dumps(model.state_dict()), {name: one.training for name, one in model.named_modules()})
    assert len(model.first._forward_hooks) == 1
    assert not model.second._forward_hooks


def test_a_callable_target_may_explain_the_same_model() -> None:
    model, images = Net(), torch.rand(2, 1, 12, 12)
    inner: list[Any] = []

    def target(output: Tensor) -> Tensor:
        inner.append(explain(model, images, layer="first"))
        return output[:, 1]

    outer = explain(model, images, layer="second", target=target)
    assert_array_equal(outer.values, explain(Net(), images, layer="second", target=1, score="output").values)
    assert_array_equal(inner[0].values, explain(Net(), images, layer="first").values)


def test_another_model_is_not_waited_for() -> None:
    """One thread stays within its model until another thread has explained another model."""
    inside, done = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert done.wait(SECONDS)

    images = torch.rand(2, 1, 12, 12)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(explain, Net(wait), images, layer="second")
        assert inside.wait(SECONDS)
        other = explain(Net(), images, layer="second")
        done.set()
        assert_array_equal(waiting.result(SECONDS).values, other.values)


def test_threads_that_would_wait_for_each_other_are_told() -> None:
    nets, images = (Net(), Net()), torch.rand(2, 1, 12, 12)
    meet = threading.Barrier(2)

    def crossed(at: int) -> Any:
        def target(output: Tensor) -> Tensor:
            meet.wait(SECONDS)
            explain(nets[1 - at], images, layer="first")
            return output[:, 0]

        try:
            return explain(nets[at], images, layer="second", target=target)
        except CamError as error:
            meet.abort()
            return str(error)

    results = in_threads([lambda: crossed(0), lambda: crossed(1)], threads=2)
    assert any("wait for each other" in each for each in results if isinstance(each, str))
    for net in nets:
        explain(net, images, layer="second")


def test_attentions_of_two_threads_are_kept_apart() -> None:
    """The functions of torch that compute them are replaced for a moment, in the thread that explains alone."""
    functions = functional.softmax, functional.scaled_dot_product_attention
    entered, left = threading.Event(), threading.Event()
    found: dict[str, list[Tensor]] = {"first": [], "second": []}

    def of_first(attention: Tensor) -> Tensor:
        found["first"].append(attention)
        assert entered.wait(SECONDS)
        return attention

    def of_second(attention: Tensor) -> Tensor:
        found["second"].append(attention)
        entered.set()
        assert left.wait(SECONDS)
        return attention

    def run(take: Callable[[Tensor], Tensor], size: int) -> None:
        tokens = torch.rand(1, size, 8)
        with AttentionMode(take):
            nn.MultiheadAttention(8, 2, batch_first=True)(tokens, tokens, tokens)
        left.set()

    in_threads([lambda: run(of_first, 3), lambda: run(of_second, 5)], threads=2)
    assert [one.shape[-1] for one in found["first"]] == [3]
    assert [one.shape[-1] for one in found["second"]] == [5]
    assert functions == (functional.softmax, functional.scaled_dot_product_attention)


def test_a_failing_call_lets_the_next_one_in() -> None:
    model, images = Net(), torch.rand(2, 1, 12, 12)
    with pytest.raises(CamError):
        explain(model, images, layer="second", target=9)
    (found,) = in_threads([lambda: explain_many(model, images, layers=["second"])[0]], threads=1)
    assert_array_equal(found.values, explain(Net(), images, layer="second").values)


def test_threads_leave_each_other_what_passes_learnt() -> None:
    """Hooks that one thread puts on are no reason for another to distrust its plan: PyTorch counts those of all."""
    models = [Net().eval() for _ in range(3)]
    images = torch.rand(2, 1, 12, 12)
    in_threads([lambda model=model: explain(model, images, layer="second") for model in models] * 20)
    for model in models:
        ((learnt, outdated),) = known_of(model).plans._kept.values()
        assert learnt is not None
        assert outdated == 0
