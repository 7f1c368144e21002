"""`check_model` passes sound networks, and fails each fault that is planted into the route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fe_gradcam import ArgumentError, Check, Finding, GradientError, check_model, explain
from fe_gradcam.backends import protocol
from fe_gradcam.backends.pytorch import backend as pytorch_backend
from fe_gradcam.backends.pytorch.backend import TorchBackend
from fe_gradcam.backends.pytorch.kept import Kept
from fe_gradcam.backends.pytorch.recorder import Recorder
from fe_gradcam.types import LayerRef
from tests.models.toys import SmallTorch


class Square(nn.Module):
    """Two layers with maps of one size, a step function of space between, five probabilities; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.weights = nn.Parameter(torch.randn(6, 8, 8))
        self.head = nn.Linear(6, 5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.second(self.first(x).tanh()).tanh() * self.weights
        return self.head(x.sum((2, 3)).tanh()).softmax(1)


class Tokens(nn.Module):
    """A class token before 6 x 6 patches; one attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.patches, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.places, self.norm = nn.Parameter(torch.randn(1, 37, 16)), nn.LayerNorm(16)
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat((self.token.expand(len(x), 1, 16), patches), 1) + self.places)
        return self.head(self.attention(x, x, x, need_weights=False)[0][:, 0])


def images(size: tuple[int, int] = (8, 8), count: int = 3) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def outcomes(check: Check) -> dict[str, str]:
    return {one.name: one.outcome for one in check.findings}


def test_sound_networks_pass() -> None:
    check = check_model(Square(), images(), layer="second")
    assert outcomes(check) == dict.fromkeys(outcomes(check), "passed")
    assert check.passed and check["gradient"].figures["grad_cam"] < 1e-5
    assert "logits found in 'head'" in check["head"].said
    check = check_model(Tokens(), images((24, 24)), layer="norm")
    assert outcomes(check) == {**dict.fromkeys(outcomes(check), "passed"), "head": "not applicable"}
    assert "tokens, after 1 others" in check["gradient"].said


# --- planted faults -------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def _wrong_layer(patch: pytest.MonkeyPatch) -> None:
    plain = TorchBackend._observed

    def observed(self: Any, model: Any, given: Any, layer: LayerRef, take: Any, **how: Any) -> Any:
        return plain(self, model, given, replace(layer, name="first"), take, **how)

    patch.setattr(TorchBackend, "_observed", observed)


def _probability(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recorder, "head_of", lambda self, output: None)
    patch.setattr(TorchBackend, "_read_as", lambda *_: "logits")


def _read_otherwise(otherwise: Callable[[Tensor], Tensor]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        plain = protocol.as_map
        patch.setattr(protocol, "as_map", lambda *args, **how: otherwise(plain(*args, **how)))

    return plant


def _gradients(changed: Callable[[Tensor], Tensor]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        plain = pytorch_backend.gradient_at
        patch.setattr(pytorch_backend, "gradient_at", lambda *args, **how: changed(plain(*args, **how)))

    return plant


def _stale(patch: pytest.MonkeyPatch) -> None:
    plain, kept = TorchBackend._passed, dict[Any, Any]()

    def passed(self: Any, model: Any, inputs: Any, query: Any) -> Any:
        key = (inputs.shapes, query.layer, str([target.by_image for target in query.targets]))
        return kept.setdefault(key, None) or kept.update({key: plain(self, model, inputs, query)}) or kept[key]

    patch.setattr(TorchBackend, "_passed", passed)


def _mixed(patch: pytest.MonkeyPatch) -> None:
    plain = TorchBackend._passed

    def passed(self: Any, model: Any, inputs: Any, query: Any) -> Any:
        found = plain(self, model, inputs, query)
        return found._replace(gradients=[one + one.mean(0) for one in found.gradients])

    patch.setattr(TorchBackend, "_passed", passed)


def _nothing_put_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Kept, "put_back", lambda self: None)


def _hook_left(patch: pytest.MonkeyPatch) -> None:
    plain = TorchBackend.run

    def run(self: Any, inputs: Any, query: Any) -> Any:
        self._model.head.register_forward_hook(lambda *_: None)
        return plain(self, inputs, query)

    patch.setattr(TorchBackend, "run", run)


def _random_drawn(patch: pytest.MonkeyPatch) -> None:
    plain = TorchBackend._given
    patch.setattr(TorchBackend, "_given", lambda *args: np.random.random() and plain(*args))


FAULTS: dict[str, tuple[Plant, set[str]]] = {
    "another layer": (_wrong_layer, {"gradient"}),
    "a probability for the logit": (_probability, {"gradient", "head"}),
    "swapped axes": (_read_otherwise(lambda maps: maps.transpose(2, 3)), {"gradient"}),
    "shifted places": (_read_otherwise(lambda maps: maps.flatten(2).roll(1, 2).reshape(maps.shape)), {"gradient"}),
    "a scaled gradient": (_gradients(lambda gradient: 2 * gradient), {"gradient"}),
    "a gradient of other channels": (_gradients(lambda gradient: gradient.roll(1, 1)), {"gradient"}),
    "earlier results": (_stale, {"new weights"}),
    "images that are mixed": (_mixed, {"gradient", "batch"}),
    "attributes and flags left": (_nothing_put_back, {"left as found"}),
    "a hook left": (_hook_left, {"left as found"}),
    "random numbers drawn": (_random_drawn, {"left as found"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, failing = FAULTS[fault]
    plant(monkeypatch)
    check = check_model(Square(), images(), layer="second")
    assert not check.passed
    found = {name for name, outcome in outcomes(check).items() if outcome == "failed"}
    assert failing <= found, str(check)
    for name in found:
        assert any(word in check[name].said.lower() for word in ("pass ", "report", "mixes", "raised", "keeps")), name


@pytest.mark.parametrize("by", [1, -1])
def test_shifted_tokens_fail(by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all readings of the layer's output that give this map none has its places where the image has them."""
    plain = protocol.as_map

    def as_map(tensor: Tensor, *args: Any, **how: Any) -> Tensor:
        return plain(tensor.roll(by, 1), *args, **how)

    monkeypatch.setattr(protocol, "as_map", as_map)
    check = check_model(Tokens(), images((24, 24)), layer="norm")
    assert "failed" in (check["gradient"].outcome, check["places"].outcome), str(check)


def test_a_layer_that_does_not_matter_fails() -> None:
    class Branch(SmallTorch):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return super().forward(x)

    check = check_model(Branch(), images((9, 12)), layer="unused")
    assert check["layer matters"].outcome == "failed" and "Pass layer= with one" in check["layer matters"].said
    assert check["gradient"].outcome == check["new weights"].outcome == "not applicable"


def test_a_model_that_draws_random_numbers_fails() -> None:
    class Noisy(SmallTorch):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn(x.shape))

    check = check_model(Noisy(), images((9, 12)))
    assert check["again"].outcome == check["scores"].outcome == "failed"
    assert "The model draws random numbers" in check["again"].said


def test_targets_scores_and_methods() -> None:
    net = Square()
    assert check_model(net, images(), layer="second", target=2, method="layer_cam").passed
    assert check_model(net, images(), layer="second", target=np.array([0, 4, 2])).passed
    assert check_model(net, images(), layer="second", score="output").passed
    assert check_model(net, images(), layer="first", target=lambda output: output[:, 1] - output[:, 2]).passed
    assert check_model(net, images(), layer="second", method=("score_cam", {})).passed


def test_what_cannot_be_checked_is_an_error() -> None:
    net = Square()
    with pytest.raises(ArgumentError, match=r"layer=\['first', 'second'\] holds several layers"):
        check_model(net, images(), layer=["first", "second"])
    with pytest.raises(ArgumentError, match=r"target='cat' cannot be checked\. Accepted: None"):
        check_model(net, images(), target="cat")

    class Stopping(SmallTorch):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(GradientError):
        check_model(Stopping(), images((9, 12)), layer="conv1")


def test_a_check_is_a_table_and_data() -> None:
    check = Check("Net", "conv", (3, 4), [
        Finding("gradient", "passed", "It is right.", {"off": 0.5}),
        Finding("batch", "failed", "It is wrong. " * 20),
        Finding("head", "not applicable", "There is none."),
    ])  # fmt: skip
    assert not check.passed and check["batch"].outcome == "failed"
    lines = str(check).splitlines()
    assert lines[0] == "Net, explained at 'conv', a map of 3 x 4" and lines[-1] == "1 of 2 tests failed."
    assert max(map(len, lines)) <= 110 and repr(check) == str(check)
    assert check.to_dict()["findings"][0] == {
        "name": "gradient", "outcome": "passed", "said": "It is right.", "figures": {"off": 0.5}
    }  # fmt: skip
    assert check.to_dict()["passed"] is False


def test_the_user_s_own_heatmap_is_not_moved_by_a_check() -> None:
    net, batch = Square().train(), images()
    before = explain(net, batch, layer="second").values
    state = {name: value.clone() for name, value in net.state_dict().items()}
    check_model(net, batch, layer="second")
    assert net.training and all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert np.array_equal(explain(net, batch, layer="second").values, before)
