"""Nothing of a model differs after a call, whatever its forward pass writes down."""

from __future__ import annotations

import copy
import pickle
import random
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from fe_gradcam import GradientError, explain, list_layers
from fe_gradcam.backends.known import known_of
from fe_gradcam.backends.pytorch.kept import MOST_ENTRIES, Kept
from fe_gradcam.types import LayerRef


def register(net: HabitNet, features: Tensor) -> None:
    net.register_buffer("late", features.detach())
    net.add_module("late_child", nn.Identity())


def resize(net: HabitNet, features: Tensor) -> None:
    net.get_buffer("empty").resize_(4).copy_(features.detach().mean((0, 2, 3)))


def fill(net: HabitNet, features: Tensor) -> None:
    net.unset = features.detach().mean()


def replace(net: HabitNet, features: Tensor) -> None:
    net.passing = net.passing + 1


def scale(net: HabitNet, features: Tensor) -> None:
    with torch.no_grad():
        net.head.weight.mul_(1.5)


def renorm(net: HabitNet, features: Tensor) -> None:
    net.head.weight.data = torch.renorm(net.head.weight.data, 2, 0, 0.1)


class Forbidding(dict[str, Any]):
    """Like the outputs of transformers."""

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError

    def copy(self) -> Any:
        raise TypeError

    def clear(self) -> None:
        raise TypeError


class ForbiddingList(list[Any]):
    def extend(self, _: Any) -> None:
        raise TypeError


def hook(net: HabitNet, features: Tensor) -> None:
    if not getattr(net, "hooked", False):
        net.head.register_forward_hook(output_is_kept)
        net.hooked = True


def output_is_kept(module: nn.Module, _: Any, output: Tensor) -> None:
    """As the transformers library puts one on the modules whose outputs it collects, at the first call."""


HABITS: dict[str, Callable[[Any, Tensor], Any]] = {
    "keeps its features": lambda net, features: setattr(net, "features", features),
    "drops an attribute": lambda net, features: delattr(net, "droppable") if hasattr(net, "droppable") else None,
    "counts": lambda net, features: setattr(net, "calls", net.calls + 1),
    "fills a list": lambda net, features: net.seen.append(features),
    "fills a list in a dict": lambda net, features: net.by_name["a"].append(features.shape),
    "fills a dict": lambda net, features: net.by_name.update(b=features),
    "fills a set": lambda net, features: net.shapes.add(features.shape),
    "fills a deque": lambda net, features: net.last.append(features),
    "writes to another object": lambda net, features: setattr(net.state, "features", features),
    "fills a list of another object": lambda net, features: net.state.seen.append(1),
    "writes to a tensor": lambda net, features: net.plain.add_(1),
    "writes to an array": lambda net, features: net.array.__iadd__(1),
    "writes to a hidden module": lambda net, features: setattr(net.hidden[0], "calls", 1),
    "fills a buffer that was None": fill,
    "replaces a buffer that is not saved": replace,
    "writes to a buffer that is not saved": lambda net, features: net.passing.mul_(3),
    "resizes a buffer": resize,
    "registers what it had not": register,
    "puts hooks on its modules": hook,
    "changes its mode": lambda net, features: net.train(),
    "hooks itself": lambda net, features: net.register_forward_pre_hook(output_is_kept),
    "draws from its stream": lambda net, features: net.stream.random(),
    "draws from its stream of NumPy": lambda net, features: net.numpy_stream.random(),
    "fills a dict of its own kind": lambda net, features: net.forbidding.__setitem__("b", features),
    "fills a list of its own kind": lambda net, features: net.forbidding["list"].append(features),
    "fills an ordered dict": lambda net, features: net.ordered.move_to_end("a"),
    "writes to a tensor with a graph": lambda net, features: net.plain.add_(features.mean()),
    "writes to a buffer with a graph": lambda net, features: net.passing.add_(features.mean()),
    "asks for gradients": lambda net, features: net.plain.requires_grad_(),
    "freezes itself": lambda net, features: net.convolution.requires_grad_(False),
    "writes to a parameter": scale,
    "writes to a parameter without autograd": lambda net, features: net.head.bias.data.add_(1),
    "replaces the data of a parameter": renorm,
    "changes a step": lambda net, features: net.step.keywords.update(alpha=3),
    "writes to the owner of a hook": lambda net, features: net.owner.seen.append(features),
}


class Owner:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_output(self, module: nn.Module, given: Any, output: Tensor) -> None:
        self.latest = output.shape


class HabitNet(nn.Module):
    """A convolution, its mean, five classes; on the way the habit."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.habit = habit
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.calls, self.droppable, self.features = 0, "here", None
        self.seen: list[Any] = []
        self.by_name: dict[str, Any] = {"a": []}
        self.shapes: set[Any] = set()
        self.last: deque[Any] = deque([1, 2], maxlen=2)
        self.state = SimpleNamespace(features=None, seen=[])
        self.plain, self.array = torch.zeros(3), np.zeros(3)
        self.hidden = [nn.Identity()]
        self.register_buffer("unset", None)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("empty", torch.empty(0))
        self.stream, self.numpy_stream = random.Random(1), np.random.default_rng(1)
        self.forbidding = Forbidding(a=1, list=ForbiddingList([1]))
        self.ordered = OrderedDict(a=1, b=2)
        self.owner = Owner()
        self.convolution.register_forward_hook(self.owner.on_output)
        self.step = partial(torch.add, alpha=2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.convolution(x).relu()
        HABITS[self.habit](self, features)
        return self.head(features.mean((2, 3)))


IMAGES = torch.linspace(-1, 1, 2 * 3 * 9 * 12).reshape(2, 3, 9, 12)


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "shapley_cam", "full_grad"])
def test_nothing_reachable_differs_after_a_call(habit: str, method: str) -> None:
    """By pickle, which writes down all that it reaches, and which shares what."""
    net = HabitNet(habit).train()
    before = pickle.dumps(net)
    explain(net, IMAGES, method=method)
    assert pickle.dumps(net) == before
    list_layers(net, IMAGES)
    assert pickle.dumps(net) == before
    copy.deepcopy(net)  # which fails if a graph hangs on it


@pytest.mark.parametrize("habit", HABITS)
def test_the_habits_are_seen_by_pickle(habit: str) -> None:
    net = HabitNet(habit).eval()
    before = pickle.dumps(net)
    with torch.no_grad():
        net(IMAGES)
    assert pickle.dumps(net) != before


def test_a_pass_that_fails_leaves_nothing_either() -> None:
    net = HabitNet("keeps its features")
    net.head = nn.Linear(3, 5)
    before = pickle.dumps(net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        explain(net, IMAGES, layer="convolution")
    assert pickle.dumps(net) == before


def test_a_pass_that_fails_does_not_tell_whether_parameters_are_written_to() -> None:
    net = HabitNet("writes to a parameter")
    before = pickle.dumps(net)
    for images in (IMAGES[:, :1], IMAGES):  # the first fail in front of the step that writes
        with nullcontext() if images is IMAGES else pytest.raises(RuntimeError, match="to have 3 channels"):
            explain(net, images, layer="convolution")
    assert pickle.dumps(net) == before


def test_inference_mode_is_on_again_though_something_cannot_be_put_back() -> None:
    net = HabitNet("writes to an array")
    net.head.register_forward_pre_hook(lambda *_: net.array.setflags(write=False))
    with torch.inference_mode():
        with pytest.raises(ValueError, match="read-only") as told:  # its traceback keeps what is left open
            explain(net, IMAGES)
        assert torch.is_inference_mode_enabled(), told


def test_what_cannot_be_written_to_stays_and_hinders_nothing() -> None:
    """Buffers that share memory with themselves, hold NaN, or have no shape, beside one that changes."""
    net = HabitNet("counts")
    net.register_buffer("spread", torch.tensor([7]).expand(3))
    net.register_buffer("nothing", torch.full((3,), torch.nan))
    net.register_buffer("count", torch.tensor(0))
    net.register_buffer("sum", torch.tensor(0.0))
    net.ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    net.register_forward_pre_hook(lambda net, given: (net.count.add_(1), net.sum.add_(1), None)[-1])
    versions = net.nothing._version, net.passing._version
    explain(net, IMAGES)
    assert (net.count, net.sum) == (0, 0)
    assert (net.nothing._version, net.passing._version) == versions  # a graph may need what did not change


class Reusing(HabitNet):
    """Writes its features and its scores into memory of its own."""

    graph = True

    def __init__(self) -> None:
        super().__init__("counts")
        self.register_buffer("features_of_last", torch.zeros(2, 4, 7, 10))
        self.last, self.place = torch.zeros(2, 5), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = self.place(self.features_of_last.copy_(self.convolution(x).relu()))
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()):
            return self.last.copy_(self.head(features.mean((2, 3))))


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "shapley_cam"])
def test_what_is_put_back_is_not_the_map(method: str) -> None:
    plain, reusing = HabitNet("counts"), Reusing()
    reusing.load_state_dict(plain.state_dict(), strict=False)
    expected = explain(plain, IMAGES, layer=LayerRef("convolution", "activation"), method=method, scaling="none")
    heatmap = explain(reusing, IMAGES, layer="place", method=method, scaling="none")
    assert expected.raw.any()
    assert_allclose(heatmap.raw, expected.raw, atol=1e-6 * np.abs(expected.raw).max())
    assert_allclose(heatmap.scores, expected.scores, rtol=1e-6)
    assert not reusing.features_of_last.any()
    assert not reusing.last.any()


def test_scores_in_memory_that_is_used_again_are_those_of_their_own_pass() -> None:
    """Otherwise the pass that tells a stopped gradient, with another output at the layer, seems to change nothing."""
    reusing = Reusing()
    reusing.graph = False
    with pytest.raises(GradientError, match="No gradient reaches layer='place'"):
        explain(reusing, IMAGES, layer="place")


class Refusing:
    """Says that it has anything, and then raises."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Picky(Tensor):
    """A tensor that forbids steps, as those of quantised weights do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.cat, torch.equal, Tensor.reshape):
            raise NotImplementedError(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def gone() -> Any:
    """What a model of Lightning holds of its trainer when that is gone."""
    return weakref.proxy(Owner())


@pytest.mark.parametrize("attribute", [gone, Refusing, threading.Lock, lambda: torch.ones(2).as_subclass(Picky)])
def test_whatever_an_attribute_is_it_hinders_nothing(attribute: Callable[[], Any]) -> None:
    net = HabitNet("counts")
    expected = explain(net, IMAGES).raw
    net.__dict__["odd"] = odd = attribute()
    assert_allclose(explain(net, IMAGES).raw, expected)
    assert net.__dict__["odd"] is odd


@pytest.mark.parametrize("had", [False, True])
@pytest.mark.parametrize("method", ["grad_cam", "full_grad"])
def test_no_gradient_reaches_a_parameter(had: bool, method: str) -> None:
    """Not even that of a backward pass that the model makes itself, as reversible networks do."""

    class Learning(HabitNet):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                self.head.weight.square().sum().backward()
            return super().forward(x)

    net = Learning("counts")
    net.head.weight.grad = before = torch.full((5, 4), 3.0) if had else None
    explain(net, IMAGES, method=method)
    assert net.head.weight.grad is before
    assert before is None or (before == 3).all()
    assert net.convolution.weight.grad is None


def test_a_stream_of_torch_is_where_it_was() -> None:
    net = HabitNet("counts")
    net.generator = torch.Generator().manual_seed(4)
    net.register_forward_hook(lambda net, given, output: output + torch.rand(5, generator=net.generator))
    expected = torch.rand(3, generator=torch.Generator().manual_seed(4))
    explain(net, IMAGES)
    assert torch.equal(torch.rand(3, generator=net.generator), expected)


def test_a_scripted_part_is_evaluated_and_left_as_it_was() -> None:
    net = HabitNet("counts").train()
    plain = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9), net)
    scripted = nn.Sequential(torch.jit.script(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9))), net)
    expected = explain(plain, IMAGES, layer="2.convolution", target=1).raw
    assert_allclose(explain(scripted, IMAGES, layer="1.convolution", target=1).raw, expected, atol=1e-6)
    assert all(module.training for module in scripted.modules())
    assert torch.equal(scripted.state_dict()["0.0.running_mean"], torch.zeros(3))


def test_parameters_are_copied_only_until_it_is_known_that_nothing_writes_to_them() -> None:
    for habit, writes in (("counts", False), ("writes to a parameter", True)):
        net = HabitNet(habit)
        assert known_of(net).writes is None
        for _ in range(2):
            explain(net, IMAGES)
            assert known_of(net).writes is writes


def test_an_optimiser_is_not_looked_into() -> None:
    """FastEstimator keeps it on the model, and it holds twice as much as the model."""
    net = HabitNet("counts")
    net.optimizer = torch.optim.Adam(net.parameters())
    net(IMAGES).sum().backward()
    net.optimizer.step()
    moments = net.optimizer.state[net.head.weight]["exp_avg"]
    kept = Kept(net)
    moments.add_(1)
    changed = moments.clone()
    kept.put_back()
    assert torch.equal(moments, changed)


def test_the_training_behind_a_model_is_not_looked_into() -> None:
    """Of an object in an attribute the own attributes are kept, not those of what it holds; data are no state."""
    net = HabitNet("counts")
    files = ["a.png"] * (MOST_ENTRIES + 1)
    net.trainer = SimpleNamespace(loader=SimpleNamespace(at=0), files=files, epoch=3)
    kept = Kept(net)
    net.trainer.loader.at, net.trainer.epoch = 7, 4
    files.append("b.png")
    kept.put_back()
    assert (net.trainer.loader.at, net.trainer.epoch, len(files)) == (7, 3, MOST_ENTRIES + 2)


@pytest.mark.parametrize("calibrated", [True, False])
def test_quantisation_aware_training_learns_nothing_from_what_is_explained(calibrated: bool) -> None:
    """Its observers go on in eval mode: then the map of an image would depend on the images beside it."""
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    torch.manual_seed(0)
    front = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()
    net = nn.Sequential(*front, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net.qconfig = get_default_qat_qconfig("fbgemm")
    net = prepare_qat(net)
    if calibrated:
        net(torch.randn(4, 3, 12, 12))
    net.eval()
    before = {name: (value.shape, value.clone()) for name, value in net.state_dict().items()}
    images = torch.randn(3, 3, 12, 12) * torch.tensor([1, 3, 9]).reshape(3, 1, 1, 1)
    ids = np.array([1, 2, 0])
    whole = explain(net, images, layer="1", target=ids, scaling="none").raw
    assert {name: value.shape for name, value in net.state_dict().items()} == {n: s for n, (s, _) in before.items()}
    assert all(torch.equal(net.state_dict()[name], value) for name, (_, value) in before.items())
    if calibrated:
        parts = [explain(net, images[at : at + 1], layer="1", target=ids[at], scaling="none").raw for at in range(3)]
        assert_allclose(whole, np.concatenate(parts), atol=1e-6 * np.abs(whole).max())
        net.apply(torch.ao.quantization.disable_observer)
    taken = {}  # observers that have seen nothing have no scale yet: these look, as in any first pass
    net[1].register_forward_hook(lambda _, __, output: taken.setdefault("map", output))
    scores = net(images).gather(1, torch.from_numpy(ids)[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), taken["map"])
    by_hand = (gradient.mean((2, 3), keepdim=True) * taken["map"]).sum(1).detach().numpy()
    assert_allclose(whole, by_hand, atol=1e-6 * np.abs(whole).max())


def test_scales_that_are_learnt_are_not_estimated_anew() -> None:
    from torch.ao.quantization import MovingAverageMinMaxObserver, QConfig, prepare_qat
    from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

    def learning(low: int, high: int, dtype: torch.dtype) -> Any:
        ends: dict[str, Any] = {"quant_min": low, "quant_max": high, "dtype": dtype}
        return _LearnableFakeQuantize.with_args(observer=MovingAverageMinMaxObserver, **ends)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net.qconfig = QConfig(activation=learning(0, 255, torch.quint8), weight=learning(-128, 127, torch.qint8))
    net = prepare_qat(net)
    for module in net.modules():
        if isinstance(module, _LearnableFakeQuantize):
            module.enable_static_estimate()
    net(IMAGES)
    images = IMAGES * torch.tensor([1.0, 9]).reshape(2, 1, 1, 1)
    both = explain(net, images, layer="1", target=1, scaling="none").raw
    alone = explain(net, images[:1], layer="1", target=1, scaling="none").raw
    assert_allclose(both[:1], alone, atol=1e-6 * np.abs(alone).max())
