"""`python -m benchmarks` knows every module of its folder; what it measures with, and on, is right."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks
from benchmarks import nets, on_gpu, peers
from benchmarks.__main__ import LEFT_OUT, NO_BENCHMARK, RUN
from benchmarks.measure import Ratio, interval, rise, rounds
from benchmarks.nets import NETS, Framework, Net, batch, by_hand, plain
from fe_gradcam import explain

FAST = [("torch", name) for name in ("lenet5", "lenet_of_modules", "host_lenet")] + [
    ("tf", name) for name in ("host_lenet", "lenet_of_modules")
]


def test_every_benchmark_is_run_or_left_out_with_a_reason() -> None:
    sources = {path.stem: path.read_text() for path in Path(benchmarks.__file__).parent.glob("[a-z]*.py")}
    run = {*RUN, *(command.split()[0] for command in LEFT_OUT)}
    assert run | NO_BENCHMARK.keys() == sources.keys()
    assert run == {name for name, source in sources.items() if '__name__ == "__main__"' in source}
    assert all([*LEFT_OUT.values(), *NO_BENCHMARK.values()])


def test_the_median_lies_in_its_interval_as_often_as_is_said() -> None:
    """Of 100 values the 41st to the 60th; of 2,000 samples of 25 the median of the distribution, 0, in 95 % or more."""
    assert interval(np.arange(100.0)[::-1]) == (40.0, 59.0)
    assert interval(np.array([3.0, 1.0, 2.0])) == (1.0, 3.0)
    samples = np.random.default_rng(0).standard_cauchy((2000, 25))
    within = np.mean([low <= 0 <= high for low, high in map(interval, samples)])
    assert 0.95 <= within < 0.99


def test_functions_take_turns_and_are_compared_round_by_round() -> None:
    now, called = [0.0], []

    def working(name: str, seconds: float) -> Any:
        def function() -> None:
            called.append(name)
            now[0] += seconds * len(called)  # the machine gets slower and slower

        return function

    taken = rounds({"a": working("a", 1.0), "b": working("b", 1.0)}, 4, clock=lambda: now[0])
    assert "".join(called) == "abab" + "abbaabba"
    assert taken["a"].tolist() == [5, 8, 9, 12] and taken["b"].tolist() == [6, 7, 10, 11]
    assert Ratio.of(np.array([2.0, 6.0, 2.0]), np.array([1.0, 2.0, 4.0])) == Ratio(2.0, 0.5, 3.0)


def test_a_rise_is_what_was_held_at_once() -> None:
    """100 MiB, three times; a few pages may be held already."""
    assert 95 < rise(lambda: np.ones(100 * 2**17), 3) < 105


def test_grad_cam_by_hand_is_worked_by_hand() -> None:
    """The score is 2 times the mean of channel 0: of 4 places each has the gradient 1/2, the weight of a map 1/2."""
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False))
    model[3].weight.data.fill_(2.0)
    x = torch.tensor([[[[1.0, 2.0], [4.0, -1.0]]]], requires_grad=True)
    heat = by_hand("torch", Net(lambda: model, 2, 1, 1, "0"), model, x)()
    np.testing.assert_allclose(heat, [[[0.25, 0.5], [1.0, 0.0]]], rtol=1e-6)


@pytest.mark.parametrize(("framework", "name"), FAST)
def test_by_hand_is_what_explain_makes(framework: Framework, name: str) -> None:
    net = NETS[framework][name]
    model, x = net.make(), batch(framework, net)
    heatmap = explain(model, x)
    assert heatmap.layer == net.layer or name == "host_lenet"  # Keras counts the layers of a process
    np.testing.assert_allclose(by_hand(framework, net, model, x)(), heatmap.values, atol=1e-4)
    np.testing.assert_array_equal(plain(framework, model, x)().argmax(1), heatmap.class_ids)


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pytorch_grad_cam", "torchcam", "captum.attr", "captum"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(nets, "one_thread", lambda: None)
    assert list(peers.functions("torch", "lenet_of_modules", "grad_cam")) == [peers.OURS]
    assert peers.installed("no-such-package") == "not installed, left out"
    assert peers.installed("numpy") == np.__version__


def test_likeness_is_that_of_the_worst_image() -> None:
    heat = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    assert peers.likeness(heat, 3 * heat + 1) == pytest.approx(1)
    assert peers.likeness(heat, [[[0, 5]], [[5, 0]]]) == pytest.approx(-1)


def test_what_goes_to_and_from_a_gpu_is_counted_by_its_name() -> None:
    events = Counter({"Memcpy HtoD (Pageable -> Device)": 2, "Memcpy DtoH (Device -> Pageable)": 1, "aten::add": 9})
    assert on_gpu.counts(events + Counter(cudaStreamSynchronize=3)) == {
        "synchronisations": 3, "to the GPU": 2, "to the host": 1,
    }  # fmt: skip
    assert on_gpu.profiled(lambda: torch.ones(2) + 1, "cpu")["aten::add"] == 1


def test_the_script_for_a_gpu_runs_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["on_gpu", "--device", "cpu", "--small"])
    assert on_gpu.main() == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert len(rows) == 1 + 8 and all(row[-3:] == ["0 (0)"] * 3 for row in rows[1:])
    monkeypatch.setattr("sys.argv", ["on_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu.main() == 1
    assert capsys.readouterr().out.strip() == on_gpu.NO_GPU
