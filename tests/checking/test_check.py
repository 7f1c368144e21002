"""`check_model` passes sound networks, and fails each fault that is planted into the route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from fe_gradcam import ArgumentError, Check, Finding, GradientError, check_model, explain
from fe_gradcam.backends import protocol
from fe_gradcam.backends.keras.plain import PlainKeras
from fe_gradcam.backends.pytorch import backend as pytorch_backend
from fe_gradcam.backends.pytorch.backend import TorchBackend
from fe_gradcam.backends.pytorch.kept import Kept
from fe_gradcam.backends.pytorch.recorder import Recorder
from fe_gradcam.checking.laws import OTHER_WEIGHTS
from fe_gradcam.checking.subject import Subject
from fe_gradcam.types import LayerRef
from tests.checking.outcomes import outcomes
from tests.methods.inputs import A0, A1
from tests.models.toys import SmallTorch, keras_toy


class Square(nn.Module):
    """Two layers with maps of one size, a step function of space between, five probabilities; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.weights = nn.Parameter(torch.randn(6, 8, 8))
        self.head = nn.Linear(6, 5)
        self.calls, self.cache = 0, {"a": [{}], "mean": torch.zeros(2), "no_pickle": lambda: 0}

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


def test_sound_networks_pass() -> None:
    check = check_model(Square(), images(), layer="second")
    assert outcomes(check) == dict.fromkeys(outcomes(check), "passed")
    assert check.passed and check["gradient"].figures["grad_cam"] < 1e-5
    assert "logits found in 'head'" in check["head"].said
    check = check_model(Tokens(), images((24, 24)), layer="norm")
    assert outcomes(check) == {**dict.fromkeys(outcomes(check), "passed"), "head": "not applicable"}
    assert "tokens, after 1 others" in check["gradient"].said


def test_the_class_is_one_of_the_highest_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that differ by less than rounding leave equal probabilities: no class is wrong, though NumPy names 0."""
    net = Square()
    net.head.weight.data *= 1e-12
    net.head.bias.data.zero_()
    assert (net(images()) == 0.2).all() and explain(net, images(), layer="second").class_ids.any()
    assert check_model(net, images(), layer="second")["scores"].outcome == "passed"
    plain = Subject.explained

    def explained(*args: Any, **how: Any) -> Any:
        heatmap = plain(*args, **how)
        return replace(heatmap, class_ids=(heatmap.class_ids + 1) % 5)

    monkeypatch.setattr(Subject, "explained", explained)
    check = check_model(Square(), images(), layer="second")
    assert check["scores"].outcome == "failed" and "Classes differ for 3 of 3 images" in check["scores"].said


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


def _left(leave: Callable[[Any], Any]) -> Plant:
    """Something is left behind by each call, when all passes have put back what they changed."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        plain = TorchBackend._let_go

        def let_go(self: Any) -> None:
            leave(self._model)
            plain(self)

        patch.setattr(TorchBackend, "_let_go", let_go)

    return plant


def _earlier_activations(patch: pytest.MonkeyPatch) -> None:
    """Those of the same images are kept: nothing behind the layer tells that they are not the new ones."""
    plain, kept = TorchBackend._passed, dict[Any, Any]()

    def passed(self: Any, model: Any, inputs: Any, query: Any) -> Any:
        found = plain(self, model, inputs, query)
        key = (query.layer, np.asarray(inputs.picture).tobytes())
        return found._replace(activations=kept.setdefault(key, found.activations))

    patch.setattr(TorchBackend, "_passed", passed)


def _first_alone(gradient: Tensor) -> Tensor:
    return torch.cat((gradient[:1], 0 * gradient[1:]))


def _frozen(net: Any) -> None:
    net.head.weight.requires_grad_(False)


def _learnt(net: Any) -> None:
    net.head.weight.grad = torch.zeros_like(net.head.weight)


def _a_digit_lost(net: Any) -> None:
    net.head.weight.data = net.head.weight.data.half().float()


FAULTS: dict[str, tuple[Plant, set[str]]] = {
    "another layer": (_wrong_layer, {"gradient"}),
    "a probability for the logit": (_probability, {"gradient", "head"}),
    "swapped axes": (_read_otherwise(lambda maps: maps.transpose(2, 3)), {"gradient"}),
    "shifted places": (_read_otherwise(lambda maps: maps.flatten(2).roll(1, 2).reshape(maps.shape)), {"gradient"}),
    "turned over": (_read_otherwise(lambda maps: maps.flip(3)), {"gradient"}),
    "a scaled gradient": (_gradients(lambda gradient: 2 * gradient), {"gradient"}),
    "a gradient that is a little too large": (_gradients(lambda gradient: 1.02 * gradient), {"gradient"}),
    "a gradient of other channels": (_gradients(lambda gradient: gradient.roll(1, 1)), {"gradient"}),
    "no gradient": (_gradients(lambda gradient: 0 * gradient), {"gradient"}),
    "a gradient of the first image alone": (_gradients(_first_alone), {"gradient"}),
    "earlier results": (_stale, {"new weights", "batch"}),
    "earlier activations": (_earlier_activations, {"new weights"}),
    "images that are mixed": (_mixed, {"gradient", "batch"}),
    "attributes and flags left": (_nothing_put_back, {"left as found"}),
    "a hook left": (_left(lambda net: net.head.register_forward_hook(lambda *_: None)), {"left as found"}),
    "a hook of a parameter left": (_left(lambda net: net.head.weight.register_hook(lambda _: None)), {"left as found"}),
    "an entry deep in an attribute": (_left(lambda net: net.cache["a"][0].update(b=1)), {"left as found"}),
    "values of a tensor in an attribute": (_left(lambda net: net.cache["mean"].add_(1)), {"left as found"}),
    "a parameter frozen": (_left(_frozen), {"left as found"}),
    "a gradient left": (_left(_learnt), {"left as found"}),
    "weights of fewer digits": (_left(_a_digit_lost), {"left as found"}),
    "random numbers drawn": (_left(lambda net: np.random.random()), {"left as found"}),
    "random numbers of PyTorch drawn": (_left(lambda net: torch.rand(1)), {"left as found"}),
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


def _grid(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, 6, 6)


RESHAPES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "the class token taken for a patch": (
        lambda out: _grid(out[:, :-1]),
        "A patch is seen +1 in the order of the tokens",
    ),
    "columns for rows": (lambda out: _grid(out[:, 1:]).mT, "seen with the axes in the order (2, 1)"),
    "turned over": (lambda out: _grid(out[:, 1:]).flip(2), "seen turned over along axis 1"),
}


@pytest.mark.parametrize("fault", RESHAPES)
def test_a_reshape_of_the_user_s_that_puts_places_elsewhere_fails(fault: str) -> None:
    """Which the gradient cannot tell: the map is that of the score, but its places are not those of the image."""
    reshape, said = RESHAPES[fault]
    check = check_model(Tokens(), images((24, 24)), layer="norm", reshape=reshape)
    assert {name for name, outcome in outcomes(check).items() if outcome == "failed"} == {"places"}
    assert said in check["places"].said and "pass reshape=" in check["places"].said
    assert check_model(Tokens(), images((24, 24)), layer="norm", reshape=lambda out: _grid(out[:, 1:])).passed


class Headed(nn.Module):
    """A convolution, its mean, and as many outputs as wanted, of which something is made."""

    def __init__(self, count: int, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.head, self.made = nn.Conv2d(3, 6, 3), nn.Linear(6, count), made

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self.head(self.first(x).relu().mean((2, 3))))


HEADS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "log_softmax": (5, lambda logits: logits.log_softmax(1)),
    "softmax of a temperature": (5, lambda logits: (logits / 3).softmax(1)),
    "sigmoid": (5, lambda logits: logits.sigmoid()),
    "one sigmoid": (1, lambda logits: logits.sigmoid()),
    "one sigmoid of a temperature": (1, lambda logits: (logits / 3).sigmoid()),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_told_from_what_is_put_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, made = HEADS[name]
    check = check_model(Headed(count, made), images((9, 12)))
    assert outcomes(check) == dict.fromkeys(outcomes(check), "passed"), str(check)
    _probability(monkeypatch)
    check = check_model(Headed(count, made), images((9, 12)))
    assert "failed" in (check["gradient"].outcome, check["head"].outcome, check["scores"].outcome), str(check)


def test_one_logit_is_a_table_of_two_classes() -> None:
    check = check_model(Headed(1, lambda logits: logits), images((9, 12)))
    assert check.passed and check["scores"].outcome == "passed"


def test_a_method_of_the_whole_model_is_checked_at_the_default_layer() -> None:
    check = check_model(Headed(5, lambda logits: logits), images((9, 12)), method="occlusion")
    assert check.passed and check["gradient"].outcome == "passed"
    assert check.layer == "first + activation" and check.map == (7, 10)


def test_images_in_a_dtype_that_the_first_parameter_is_not_of() -> None:
    class Tempered(Headed):
        def __init__(self) -> None:
            super().__init__(5, lambda logits: logits)
            self._parameters = {"heat": nn.Parameter(torch.tensor(2.0, dtype=torch.float64))}

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / self.heat

    assert check_model(Tempered(), images((9, 12))).passed
    assert check_model(Tempered(), images((9, 12)).double()).passed


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
    assert "so is the slope of the score" in check["gradient"].said
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


def test_other_weights_make_what_is_as_large() -> None:
    assert np.mean(np.square(OTHER_WEIGHTS)) == pytest.approx(1)


def test_an_activation_function_of_keras_is_read_and_changed_where_it_is_applied() -> None:
    """The pooled toy with its ReLU as a function: its maps A0 and A1 have the means 2.5 and 0.5."""
    toy, image, _ = keras_toy("pooled")
    conv, fc = toy.get_layer("conv"), toy.get_layer("fc")

    class Functional(tf.keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = conv, fc

        def call(self, x: Any) -> Any:
            return self.fc(tf.reduce_mean(tf.nn.relu(self.conv(x)), (1, 2)))

    model, place, seen = Functional(), LayerRef("conv", "activation"), list[Any]()
    model(image)
    plain = PlainKeras(model)
    assert_allclose(plain.run(image, place, seen=seen), [[8, -1.5]], rtol=1e-6)
    assert_allclose(seen[0][0], np.stack([A0, A1], -1))
    doubled = plain.run(image, place, lambda maps: maps * [2, 1])
    assert_allclose(doubled, [[3 * 5 + 0.5, -5 + 2 * 0.5]], rtol=1e-6)
