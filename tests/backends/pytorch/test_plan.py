"""A pass that relies on what an earlier one learnt gives what a pass of a model never seen before gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from threading import Event, Thread
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import Tensor, nn

from fe_gradcam import CamError, CamWarning, Contrast, OutputValue, explain
from fe_gradcam.backends.known import known_of
from fe_gradcam.backends.pytorch import observed, passes
from fe_gradcam.backends.pytorch.plan import MOST_OUTDATED, Learnt
from fe_gradcam.types import LayerRef

METHODS = ("grad_cam", ("score_cam", {}))
DARK, BRIGHT = torch.rand(3, 1, 12, 12) * 0.4, torch.rand(3, 1, 12, 12) * 0.4 + 0.6
HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda logits: logits,
    "softmax": lambda logits: F.softmax(logits, dim=1),
    "log_softmax": lambda logits: F.log_softmax(logits, dim=-1),
    "sigmoid": torch.sigmoid,
    "cooled": lambda logits: F.softmax(logits / 3, dim=1),
    "clamped": lambda logits: logits.clamp(0, 1),
    "squeezed": lambda logits: F.softmax(logits[:, :, None], dim=1).squeeze(2),
    "in place": lambda logits: F.softmax(logits.mul_(2), dim=1),
    "detached": lambda logits: F.softmax(logits.detach() + 0 * logits, dim=1),
    "by hand": lambda logits: logits.exp() / logits.exp().sum(1, keepdim=True),
}


class Net(nn.Module):
    """Two convolutions and a linear layer; how they are called hangs on plain attributes, or on the images."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 3)
        self.other = nn.Linear(4, 3)
        self.head, self.times, self.act, self.linear = "none", 1, F.relu, "fc"
        self.stops = self.kept = False
        self.__dict__.update(how)
        self.register_buffer("seen", torch.zeros(3))
        self.bright: dict[str, Any] = how.get("bright", {})

    def forward(self, x: Tensor) -> Any:
        its = {**self.__dict__, **(self.bright if float(x.mean()) > 0.5 else {})}
        with torch.no_grad() if its["stops"] else nullcontext():
            x = F.relu(self.first(x))
            for _ in range(its["times"]):
                x = self.second(x)
            x = its["act"](x)
            x = self.block(x)
        if its["kept"]:
            x = x.detach()
        logits = getattr(self, its["linear"])(x.mean((2, 3)))
        return HEADS[its["head"]](logits)


RELIED: list[bool] = []


@pytest.fixture(autouse=True)
def relied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes of each pass whether it relied on what an earlier one learnt, and went through."""
    RELIED.clear()
    plain = observed.ObservedTorch._observed

    def noting(self: Any, *args: Any, **how: Any) -> Any:
        result = plain(self, *args, **how)
        RELIED.append(how.get("plan") is not None)
        return result

    monkeypatch.setattr(observed.ObservedTorch, "_observed", noting)
    yield


def told(model: nn.Module, images: Any, **more: Any) -> Any:
    """The heatmap, or the class of the error."""
    try:
        return explain(model, images, **more)
    except CamError as error:
        return type(error)


def same(model: nn.Module, images: Any, **more: Any) -> None:
    """The model gives what a copy gives that was never explained; the copy knows nothing."""
    never = copy.deepcopy(model)
    if "layer" not in more:
        more["layer"] = "second"
    expected, found = told(never, images, **more), told(model, images, **more)
    if isinstance(expected, type):
        assert found is expected
        return
    for what in ("values", "raw", "scores", "confidences"):
        assert_allclose(getattr(found, what), getattr(expected, what), rtol=1e-5, atol=1e-7, err_msg=what)
    assert (found.class_ids == expected.class_ids).all()
    assert (found.blank == expected.blank).all()


def learnt(model: nn.Module, images: Any = DARK, **more: Any) -> nn.Module:
    """The model, after three calls; the last ones relied on what the first one learnt."""
    for _ in range(3):
        told(model, images, **{"layer": "second", **more})
    return model


@pytest.mark.parametrize("place", ["second", "block", None])
@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("method", METHODS)
def test_a_later_pass_gives_what_the_first_one_gave(method: Any, head: str, place: str | None) -> None:
    model = learnt(Net(head=head).eval(), method=method, layer=place)
    for images in (DARK, BRIGHT, DARK[:1]):
        same(model, images, method=method, layer=place)


def test_a_later_pass_relies_on_what_the_first_one_learnt() -> None:
    for head in ("none", "softmax", "log_softmax", "sigmoid"):
        RELIED.clear()
        learnt(Net(head=head))
        assert RELIED == [False, True, True]
    for head in ("in place", "squeezed", "clamped"):  # logits that were written to, a head that is not the last step
        RELIED.clear()
        learnt(Net(head=head))
        assert ([False, True, True] if head == "clamped" else [False] * 3) == RELIED


CHANGES: dict[str, Callable[[Net], Any]] = {
    "another head": lambda net: setattr(net, "head", "log_softmax"),
    "no head": lambda net: setattr(net, "head", "none"),
    "a cooled head": lambda net: setattr(net, "head", "cooled"),
    "a head by hand": lambda net: setattr(net, "head", "by hand"),
    "a rearranged head": lambda net: setattr(net, "head", "squeezed"),
    "logits within [0, 1]": lambda net: setattr(net, "head", "clamped"),
    "logits that are written to": lambda net: setattr(net, "head", "in place"),
    "logits that are detached": lambda net: setattr(net, "head", "detached"),
    "logits of another layer": lambda net: setattr(net, "linear", "other"),
    "the layer called twice": lambda net: setattr(net, "times", 2),
    "the layer not called": lambda net: setattr(net, "times", 0),
    "another activation": lambda net: setattr(net, "act", torch.tanh),
    "an activation in place": lambda net: setattr(net, "act", F.relu_),
    "no activation": lambda net: setattr(net, "act", lambda x: x * 2 - 1),
    "an activation that minds the class": lambda net: setattr(net, "act", _strict),
    "no gradient in front": lambda net: setattr(net, "stops", True),
    "a step that stops gradients": lambda net: setattr(net, "kept", True),
    "the last layer swapped": lambda net: setattr(net, "fc", nn.Linear(4, 5)),
    "the layer swapped": lambda net: setattr(net, "second", nn.Conv2d(4, 4, 3, padding=1)),
    "a layer inside another swapped": lambda net: net.block.__setitem__(1, nn.Identity()),
    "a layer added": lambda net: net.block.append(nn.Softplus()),
    "the module in front swapped": lambda net: setattr(net, "first", nn.Conv2d(1, 4, 5, padding=2)),
    "a hook on the layer": lambda net: net.second.register_forward_hook(lambda *its: its[2] * 2 + 1),
    "a hook on the last layer": lambda net: net.fc.register_forward_hook(lambda *its: its[2] * -1),
    "a hook in front of the layer": lambda net: net.second.register_forward_pre_hook(lambda *its: (its[1][0] * 3,)),
    "a hook on the model": lambda net: net.register_forward_hook(lambda *its: its[2].softmax(1)),
    "a hook that returns a tuple": lambda net: net.second.register_forward_hook(lambda *its: its[2].clone()),
    "double precision": lambda net: net.double(),
    "bfloat16": lambda net: net.bfloat16(),
    "other weights": lambda net: nn.init.normal_(net.fc.weight),
    "a last layer of zeros": lambda net: (nn.init.zeros_(net.fc.weight), nn.init.zeros_(net.fc.bias)),
    "weights that are NaN": lambda net: nn.init.constant_(net.fc.weight, torch.nan),
    "weights without gradients": lambda net: net.requires_grad_(False),
    "training mode": lambda net: net.train(),
    "a forward of its own": lambda net: setattr(net, "forward", MethodType(_other_forward, net)),
    "an output of two columns": lambda net: setattr(net, "forward", MethodType(_two_columns, net)),
    "a compiled layer": lambda net: net.second.compile(backend="eager"),
    "weights of inference mode": lambda net: _in_inference_mode(net),
    "an output in a dict": lambda net: net.register_forward_hook(lambda *its: {"aux": its[2][:, 0], "out": its[2]}),
    "an output of one column": lambda net: net.register_forward_hook(lambda *its: its[2][:, :1]),
}
"""What may happen to a model between two calls; most of it replaces no module, so the pass itself must notice."""


def _other_forward(net: Net, x: Tensor) -> Tensor:
    return net.fc(F.relu(net.second(net.second(net.first(x)))).mean((2, 3))).log_softmax(1)


def _two_columns(net: Net, x: Tensor) -> Any:
    return Net.forward(net, x)[:, :2]


def _strict(x: Tensor) -> Tensor:
    if type(x) is not Tensor:
        raise TypeError
    return F.relu(x)


def _in_inference_mode(net: Net) -> None:
    with torch.inference_mode():
        net.fc.weight = nn.Parameter(net.fc.weight.clone())


@pytest.mark.filterwarnings("ignore::fe_gradcam.CamWarning")
@pytest.mark.parametrize("place", ["second", LayerRef("second", "activation"), None], ids=str)
@pytest.mark.parametrize("head", ["none", "softmax"])
@pytest.mark.parametrize("method", METHODS, ids=["gradients", "scores"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_explained_as_it_is(change: str, method: Any, head: str, place: Any) -> None:
    model = learnt(Net(head=head).eval(), method=method, layer=place)
    assert any(RELIED)
    CHANGES[change](model)
    for images in (DARK, BRIGHT):
        same(model, images, method=method, layer=place)


WAYS: dict[str, dict[str, Any]] = {
    "another head": {"head": "softmax"},
    "log probabilities": {"head": "log_softmax"},
    "other logits": {"linear": "other"},
    "twice": {"times": 2},
    "never": {"times": 0},
    "detached": {"kept": True},
    "another activation": {"act": torch.tanh},
}


@pytest.mark.filterwarnings("ignore::fe_gradcam.CamWarning")
@pytest.mark.parametrize("head", ["none", "softmax"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_a_forward_that_goes_another_way_for_other_images(way: str, method: Any, head: str) -> None:
    model = learnt(Net(head=head, bright=WAYS[way]).eval(), method=method)
    for images in (BRIGHT, DARK, BRIGHT, BRIGHT, DARK):
        same(model, images, method=method)


def test_a_model_that_goes_another_way_each_time_is_not_tried_for_ever() -> None:
    model = learnt(Net(bright={"linear": "other", "head": "softmax"}))
    for at in range(2 * MOST_OUTDATED):
        same(model, (BRIGHT, DARK)[at % 2])
    RELIED.clear()
    same(model, DARK)
    assert RELIED == [False, False]  # of the copy, and of the model


@pytest.mark.parametrize("images", [DARK.double(), DARK.numpy(), DARK[:1], DARK[:, :, :9], DARK * torch.nan])
@pytest.mark.filterwarnings("ignore::fe_gradcam.CamWarning")
def test_other_images_are_explained_as_they_are(images: Any) -> None:
    for head in ("none", "softmax"):
        same(learnt(Net(head=head)), images)


@pytest.mark.parametrize(
    "target", [2, Contrast(), OutputValue(1), lambda output: output[:, 0] * 2, np.array([0, 2, 1])]
)
def test_other_targets_are_explained_as_they_are(target: Any) -> None:
    for head in ("none", "softmax"):
        same(learnt(Net(head=head)), DARK, target=target)
        same(learnt(Net(head=head)), DARK, target=target, score="output")


def test_values_within_0_and_1_may_be_logits_or_not() -> None:
    """The same net: its logits lie within [0, 1] for one batch, and outside for the next."""
    model = Net(head="clamped")
    with torch.no_grad():
        model.fc.weight.mul_(0.1)
        model.fc.bias.copy_(torch.tensor([0.3, 0.5, 0.6]))
    learnt(model)
    for images in (DARK, DARK * 100, DARK - 100, DARK):
        same(model, images)


def test_a_single_image_behind_a_batch_normalisation() -> None:
    model = learnt(Net().eval(), DARK[:1])
    assert RELIED == [False, True, True]
    same(model, DARK[:1])


def test_a_layer_that_writes_to_its_input() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(400, 3)).eval()
    learnt(model, layer="1")
    assert RELIED == [False, True, True]
    same(model, DARK, layer="1")


@pytest.mark.parametrize("layer", ["act", "conv", None])
@pytest.mark.parametrize("at_first", [False, True])
def test_what_a_step_in_place_returns_may_be_dropped(layer: str | None, at_first: bool) -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.conv, self.act, self.fc = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=at_first), nn.Linear(4, 3)
            self.of_function = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y = F.relu_(x) if self.of_function else self.act(x)
            return self.fc((x if self.act.inplace else y).mean((2, 3)))

    model = Drops().eval()
    learnt(model, layer=layer)
    assert RELIED[-2:] == [True, True]
    for in_place in (not at_first, at_first):
        model.act.inplace = in_place
        same(model, DARK, layer=layer)
    model.of_function, model.act.inplace = layer is None, True
    same(learnt(model, BRIGHT, layer=layer), DARK, layer=layer)


def test_a_head_of_equal_values_is_not_the_head_that_was_found() -> None:
    """The logits of a twin have the values of those of the layer that was found, and other gradients."""

    class Twins(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))
            found, twin = self.fc(x), self.other(x.detach() + (x - x.detach()) ** 2)
            return (twin if self.kept else found).softmax(1)

    model = Twins()
    model.other.load_state_dict(model.fc.state_dict())
    learnt(model)
    model.kept = True
    same(model, DARK)


def test_images_that_are_not_finite_are_no_other_way() -> None:
    model, images = learnt(Net(head="softmax")), DARK.clone()
    images[1, 0, 3, 3] = torch.nan
    RELIED.clear()
    with pytest.warns(CamWarning, match="NaN"):
        explain(model, images, layer="second")
    assert RELIED == [True]


def test_what_was_learnt_keeps_no_model_alive() -> None:
    import gc
    import weakref

    model = learnt(Net(head="softmax"))
    dead = weakref.ref(model)
    assert any(isinstance(its[0], Learnt) for its in known_of(model).plans._kept.values())
    del model
    gc.collect()
    assert dead() is None


def test_the_memory_of_the_images_is_not_touched() -> None:
    """Others may point to it: an array of NumPy, another thread; and what is expanded holds a value once."""
    whole = torch.rand(4, 1, 600, 600)
    before, at, seen = whole.clone(), whole.data_ptr(), whole.numpy()
    for _ in range(3):
        explain(Net(), whole[1:3], layer="second")
        assert torch.equal(whole, before)
        assert whole.data_ptr() == at == seen.__array_interface__["data"][0]
    model = Normalises(Net())
    gray = torch.rand(2, 1, 320, 320).expand(-1, 3, -1, -1)
    learnt(model, gray, layer="net.second")
    same(model, gray, layer="net.second")


class Normalises(nn.Module):
    """Normalises its images in place, channel by channel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        for at in range(3):
            x[:, at].sub_(0.1 * at)
        return self.net(x.mean(1, keepdim=True))


def test_a_place_that_moves_with_an_attribute() -> None:
    """Which tokens are places is learnt once, and anew if a plain attribute has changed."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.embed, self.norm, self.head = nn.Conv2d(1, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 3)
            self.token = nn.Parameter(torch.randn(1, 1, 6))
            self.last = False

        def forward(self, x: Tensor) -> Any:
            tokens, own = self.embed(x).flatten(2).transpose(1, 2), self.token.expand(len(x), -1, -1)
            x = self.norm(torch.cat([tokens, own] if self.last else [own, tokens], 1))
            return self.head(x.mean(1))

    model = learnt(Tokens(), layer="norm")
    model.last = True
    same(model, DARK, layer="norm")


def test_a_later_layer_that_an_attribute_turns_on_is_the_default() -> None:
    class Grows(Net):
        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.second(F.relu(self.first(x))))
            x = F.relu(self.block[0](x)) if self.stops else x
            return self.fc(x.mean((2, 3)))

    model = learnt(Grows(), layer=None)
    model.stops = True
    same(model, DARK, layer=None)
    assert explain(model, DARK).layer.startswith("block.0")


def test_a_hook_of_the_user_gets_plain_tensors() -> None:
    model, got = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)), []
    model[0].register_forward_hook(lambda *its: got.append(its[2]))
    place = LayerRef("0.0", "activation")
    for _ in range(3):
        explain(model, DARK, layer=place)
    assert {type(each) for each in got} == {Tensor}


def test_what_waits_for_an_activation_does_not_wait_for_ever() -> None:
    kept: list[Tensor] = []
    model = learnt(Net(), layer=LayerRef("second", "activation"))
    model.act = lambda x: kept.append(x) or x * 2
    assert told(model, DARK, layer=LayerRef("second", "activation")) is not None
    with torch.no_grad():
        assert not F.relu(kept[0]).requires_grad
        assert not torch.is_grad_enabled()


def test_a_plan_holds_no_tensor() -> None:
    class Named(Net):
        def forward(self, x: Tensor) -> Any:
            return torch.softmax(input=super().forward(x), dim=1)

    model = learnt(Named())
    assert any(RELIED)
    for plan, _ in known_of(model).plans._kept.values():
        assert plan is None or not any(isinstance(each, Tensor) for each in plan.again.keywords.values())
        assert plan is None or not any(isinstance(each, Tensor) for each in plan.again.args[2].values())


def test_a_model_that_begins_to_write_to_its_parameters_is_kept_from_then_on() -> None:
    class Clips(Net):
        def forward(self, x: Tensor) -> Any:
            if self.stops:
                with torch.no_grad():
                    self.fc.weight.mul_(0.9)
            return super().forward(x)

    model = learnt(Clips())
    model.__dict__["stops"] = True
    explain(model, DARK, layer="second")
    weights = model.fc.weight.clone()
    explain(model, DARK, layer="second")
    assert torch.equal(model.fc.weight, weights)


def _hook(net: Any, x: Tensor) -> None:
    net.fc.weight.register_hook(torch.zeros_like)


def _own_gradient(net: Any, x: Tensor) -> None:
    with torch.enable_grad():
        features = net.first(x)
        features.retain_grad()
        features.square().sum().backward()
    net.scale = 1.0 if not features.retains_grad or features.grad is None else 2.0


@pytest.fixture(params=[False, True], ids=["alone", "beside an idle thread"])
def beside(request: pytest.FixtureRequest) -> Iterator[bool]:
    done = Event()
    idle = Thread(target=done.wait, daemon=True)
    if request.param:
        idle.start()
    yield request.param
    done.set()
    if request.param:
        idle.join()


def test_a_later_pass_needs_no_mode(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = learnt(Net()), []
    plain = passes._NoHooks.__torch_function__
    monkeypatch.setattr(passes._NoHooks, "__torch_function__", lambda *its, **how: seen.append(0) or plain(*its, **how))
    explain(model, DARK, layer="second")
    assert not seen
    explain(Net(), DARK, layer="second")
    assert seen


@pytest.mark.parametrize("asks", [_hook, _own_gradient])
@pytest.mark.parametrize("always", [True, False])
def test_a_forward_that_asks_for_gradients_is_told_of_none(
    asks: Callable[[Any, Tensor], None], always: bool, beside: bool
) -> None:
    """Whether the first pass asked or a later one: all maps are those of a first pass, and no hook stays."""

    class Asks(Net):
        scale = 1.0

        def forward(self, x: Tensor) -> Any:
            if always or float(x.mean()) > 0.5:
                asks(self, x)
            return super().forward(x) * self.scale

    model = Asks().eval()
    for images in (DARK, BRIGHT, BRIGHT, DARK, BRIGHT) if always or asks is _hook else ():
        same(model, images)
        assert model.fc.weight._backward_hooks is None
    kept = model.fc.weight.register_hook(torch.neg)
    same(model, BRIGHT)
    assert model.fc.weight._backward_hooks == {kept.id: torch.neg}


class Attends(nn.Module):
    """Bright images go through a transformer, whose last places are masked: a fused function makes zeros of these."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second, self.fc = nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 4, 1), nn.Linear(4, 3)
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.first(x)
        if float(x.mean()) > 0.5:
            tokens = maps.flatten(2).transpose(1, 2)
            masked = (torch.arange(tokens.shape[1]) > 15).expand(len(x), -1)
            maps = self.blocks(tokens, src_key_padding_mask=masked).transpose(1, 2).reshape_as(maps)
        return self.fc(F.relu(self.second(maps)).mean((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_a_transformer_that_only_some_images_go_through(method: Any) -> None:
    model = Attends().eval()
    for images in (DARK, DARK, BRIGHT):
        same(model, images, method=method)
