"""The PyTorch backend: the score it explains, the models it copes with, and the state it leaves."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from fe_gradcam import ArgumentError, GradientError, UnsupportedModelError, explain, list_layers
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.pytorch.backend import TorchBackend
from fe_gradcam.types import LayerRef
from tests.models.held import assert_unchanged, held
from tests.models.kits import KITS, by_hand
from tests.models.toys import SmallTorch, torch_toy


def pooled(*modules: nn.Module) -> nn.Sequential:
    """The modules, the average of their four maps, and a linear layer."""
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


class Net(nn.Module):
    """A block of convolution and ReLU, called as a test says, its maps averaged and a linear layer."""

    def __init__(self, call: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.block, self.fc, self.call = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Linear(4, 3), call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.call(self.block, x).mean((2, 3)))


def attending(block: Any, x: torch.Tensor) -> torch.Tensor:
    maps = block[0](x)
    return maps * maps.mean(1, keepdim=True).flatten(2).softmax(-1).view(-1, 1, *maps.shape[2:])


def attending_in_steps_that_its_input_does_not_allow(block: Any, x: torch.Tensor) -> torch.Tensor:
    maps = block[0](x)
    weights = maps.flatten(2).transpose(1, 2).softmax(1).view(len(x), -1)
    return maps * weights.view(len(x), -1, 4).transpose(1, 2).view(maps.shape)


@pytest.mark.parametrize("call", [attending, attending_in_steps_that_its_input_does_not_allow])
def test_the_softmax_of_an_attention_is_no_head(call: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    model, image = Net(call), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = model(image).max(1).values
    assert_allclose(explain(model, image, layer="block.0").scores, expected, atol=1e-6)


# --- layers ------------------------------------------------------------------------------------------


def test_a_layer_that_is_not_called_is_an_error() -> None:
    model = SmallTorch()
    model.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(ArgumentError, match="layer='unused' is not called"):
        explain(model, torch.randn(1, 3, 9, 12), layer="unused")


def test_no_map_at_all_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="layer=None finds no layer"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))


def test_default_layer_is_behind_the_functional_activation() -> None:
    model, images = SmallTorch(), torch.randn(2, 3, 9, 12)
    default = explain(model, images)
    model.eval()
    assert default.layer == "conv2 + activation"
    with torch.no_grad():
        activations = model.conv2(model.norm(model.conv1(images)).relu()).relu()
        weights = model.fc.weight[default.class_ids] / 70  # the gradient of a mean over 7 x 10 places
        assert_allclose(default.raw, torch.einsum("nk,nkhw->nhw", weights, activations), atol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU()])
def test_default_layer_is_the_activation_module(activation: nn.Module) -> None:
    assert explain(pooled(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), activation), torch.rand(2, 1, 6, 6)).layer == "2"


def test_default_layer_skips_maps_of_one_place() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )
    assert explain(model, torch.rand(2, 1, 6, 6)).layer == "0"


def test_an_in_place_activation_behind_the_layer_does_not_touch_what_was_kept() -> None:
    in_place, image = pooled(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)), torch.randn(2, 1, 6, 6)
    plain = copy.deepcopy(in_place)
    plain[1] = nn.ReLU()
    assert_allclose(explain(in_place, image, layer="0").raw, explain(plain, image, layer="0").raw)


def test_of_a_layer_called_twice_the_last_call_counts() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)

        def maps(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.calls):
                x = self.conv(x)
            return x

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.maps(x).mean((2, 3)))

    model, image = Repeated(), torch.randn(2, 2, 6, 6)
    for model.calls in (2, 2, 1):  # the second time their number is known, then it is less than was seen before
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1] / 36, model.maps(image)).detach()
        assert_allclose(explain(model, image, layer="conv", target=1).raw, expected, atol=1e-6)


def test_list_layers() -> None:
    infos = list_layers(SmallTorch(), torch.randn(2, 3, 9, 12))
    assert [info.name for info in infos] == ["conv1", "norm", "conv2", "drop", "fc", ""]
    assert infos[2].shape == (6, 7, 10)
    assert infos[2].activation == "relu"
    assert [info.spatial for info in infos] == [True, True, True, False, False, False]


# --- models that get in the way ----------------------------------------------------------------------


ASKED: dict[str, Any] = {"layer": "conv1", "target": 1}
Plain: TypeAlias = "tuple[nn.Module, torch.Tensor, np.ndarray]"


@pytest.fixture
def plain() -> Plain:
    """A model, images and the map of `ASKED` where nothing stands in the way."""
    model, images = SmallTorch(), torch.randn(2, 3, 9, 12)
    return model, images, explain(model, images, **ASKED).raw


def test_frozen_parameters_do_not_matter(plain: Plain) -> None:
    model, images, expected = plain
    assert_allclose(explain(model.requires_grad_(False), images, **ASKED).raw, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_called_where_gradients_are_off(plain: Plain, mode: Any) -> None:
    model, images, expected = plain
    with mode():
        assert_allclose(explain(model, images.clone(), **ASKED).raw, expected)


def test_weights_made_in_inference_mode(plain: Plain) -> None:
    model, images, expected = plain
    with torch.inference_mode():
        inferring = copy.deepcopy(model)
    assert_allclose(explain(inferring, images, **ASKED).raw, expected, atol=1e-7)


CALLS = {
    "no_grad": torch.no_grad()(lambda block, x: block(x)),
    "reentrant": lambda block, x: checkpoint(block, x, use_reentrant=True),
    "checkpointed": lambda block, x: checkpoint(block, x, use_reentrant=False),
}


@pytest.mark.filterwarnings("ignore:.*None of the inputs have requires_grad")
@pytest.mark.parametrize("layer", [None, "block"])
@pytest.mark.parametrize("call", CALLS)
def test_a_layer_that_the_model_calls_without_gradients(call: str, layer: str | None) -> None:
    model, image = Net(CALLS[call]), torch.rand(2, 1, 8, 8)
    heatmap = explain(model, image, layer=layer, target=1)
    with torch.no_grad():
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1] / 36, model.block(image))
    assert_allclose(heatmap.raw, expected, atol=1e-6)
    assert not heatmap.blank.all()


@pytest.mark.parametrize("method", ["grad_cam", "shapley_cam", "full_grad", "score_cam"])
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_a_reentrant_checkpoint_behind_the_layer_or_around_it(plain: Plain, layer: str, method: str) -> None:
    """Torch takes no gradient at a tensor through one."""

    class Checkpointed(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(super().forward, x, use_reentrant=True)

    class Behind(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.conv2.forward = partial(checkpoint, partial(nn.Conv2d.forward, self.conv2), use_reentrant=True)
            try:
                return super().forward(x)
            finally:
                del self.conv2.forward

    model, images, _ = plain
    expected = explain(model, images, layer=layer, target=1, method=method).raw
    for kind in (Checkpointed, Behind):
        other = kind()
        other.load_state_dict(model.state_dict())
        assert_allclose(explain(other, images, layer=layer, target=1, method=method).raw, expected, atol=1e-7)


def _as_of_a_plain_twin(writing: nn.Module, plain: nn.Module, images: torch.Tensor, **asked: Any) -> np.ndarray:
    """The maps of a model that writes in place, which must be those of the same computation without that."""
    plain.load_state_dict(writing.state_dict())
    asked |= {"target": 1, "scaling": "none"}
    expected = explain(plain, images, **asked).raw
    assert expected.any()
    assert_allclose(explain(writing, images, **asked).raw, expected, atol=1e-6 * np.abs(expected).max())
    return expected


@pytest.mark.parametrize("method", ["grad_cam", "shapley_cam", "smooth_grad_cam_plus_plus"])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_model_that_writes_over_what_the_gradient_needs(method: str, layer: str) -> None:
    """As models may that are only meant for inference; autograd alone refuses them."""

    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            x.relu_()
            x += 0.3
            x.view(len(x), 4, -1)[:, 1].mul_(2)
            x = self.second(x).sigmoid_()
            x.add_(0.1)
            return self.head(x.mean((2, 3)))

    class Plain(Writing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            twice = torch.tensor([1.0, 2, 1, 1]).reshape(4, 1, 1)
            x = self.second((self.first(x).relu() + 0.3) * twice).sigmoid() + 0.1
            return self.head(x.mean((2, 3)))

    writing, images = Writing(), torch.randn(2, 1, 9, 12)
    _as_of_a_plain_twin(writing, Plain(), images, layer=layer, method=method)


def test_full_grad_of_a_model_that_folds_windows_into_the_batch_is_an_error_that_says_so() -> None:
    class Folding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.inside, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 1), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            windows = self.front(x).relu().unflatten(3, (3, 4)).movedim(3, 1).flatten(0, 1)
            return self.head(self.inside(windows).relu().mean((2, 3)).unflatten(0, (-1, 3)).mean(1))

    model, images = Folding(), torch.randn(2, 1, 4, 12)
    with pytest.raises(UnsupportedModelError, match=r"method='full_grad' needs .* puts out 6 rows for 2 images"):
        explain(model, images, layer="front", method="full_grad")
    assert explain(model, images, layer="front").raw.any()


def test_a_single_image_through_a_batch_norm_into_tokens_has_the_gradient_of_a_batch() -> None:
    """PyTorch 2.13 and 2.14 misread the gradient of a batch norm that is cut out of the tokens of one image."""

    class Hybrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.query = nn.Parameter(torch.randn(71, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            image = self.norm(self.front(x)).flatten(2).permute(0, 2, 1)
            tokens = torch.cat((self.token.expand(len(x), 1, 8), image), 1)
            return self.head(tokens * self.query).sum(1)

    model, images = Hybrid().eval(), torch.randn(2, 3, 9, 12)
    both = explain(model, images, layer="front", target=1, method="hires_cam", scaling="none").raw
    for _ in range(3):  # the later ones by what the first one learnt
        one = explain(model, images[:1], layer="front", target=1, method="hires_cam", scaling="none").raw
        assert_allclose(one, both[:1], atol=1e-6 * np.abs(both).max())
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    gradient = (model.head.weight[1] * scale)[:, None] * model.query[1:].T
    with torch.no_grad():
        by_hand = (gradient.unflatten(1, (7, 10)) * model.front(images)).sum(1)
    assert_allclose(both, by_hand.numpy(), atol=1e-5 * np.abs(both).max())


@pytest.mark.parametrize("method", ["grad_cam", "full_grad"])
def test_backward_hooks_of_the_training_are_not_called_and_forbid_nothing(method: str) -> None:
    in_place, images = pooled(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)), torch.randn(2, 1, 6, 6)
    expected = explain(in_place, images, layer="0", method=method).raw
    calls: list[nn.Module] = []
    for module in in_place[:2]:
        module.register_full_backward_hook(lambda module, _, __: calls.append(module))
        module.register_full_backward_pre_hook(lambda module, _: calls.append(module))
    assert_allclose(explain(in_place, images, layer="0", method=method).raw, expected)
    assert not calls
    in_place[1].inplace = False
    in_place(images.requires_grad_()).sum().backward()
    assert len(calls) == 4


class _Hooking(SmallTorch):
    """As the tutorials of Grad-CAM have it: the model keeps the gradient of its own features."""

    gradient: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv1(x))
        x.register_hook(self.keep)
        x.retain_grad()
        return self.fc(torch.relu(self.conv2(torch.relu(x))).mean((2, 3)))

    def keep(self, gradient: torch.Tensor) -> torch.Tensor:
        self.gradient = gradient
        return gradient * 0.5


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "score_cam", "shapley_cam", "full_grad"])
@pytest.mark.parametrize("layer", ["conv1", "conv2", None])
def test_a_model_that_asks_for_its_own_gradients(plain: Plain, layer: str | None, method: str) -> None:
    model, images, _ = plain
    hooking = _Hooking()
    hooking.load_state_dict(model.state_dict())
    expected = explain(model, images, layer=layer, target=1, method=method).raw
    assert_allclose(explain(hooking, images, layer=layer, target=1, method=method).raw, expected, atol=1e-7)
    assert hooking.gradient is None
    hooking(images)[:, 1].sum().backward()
    assert hooking.gradient is not None  # the training has its hooks again


def test_hooks_and_checkpoints_of_another_thread_are_its_own() -> None:
    """A model may be explained in one thread while another trains."""
    entered, trained = threading.Event(), threading.Event()

    class Waiting(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            entered.set()
            assert trained.wait(60)
            return super().forward(x)

    thread = threading.Thread(target=explain, args=(Waiting(), torch.randn(1, 3, 9, 12)), kwargs={"layer": "conv2"})
    thread.start()
    assert entered.wait(60)
    calls: list[torch.Tensor] = []
    try:
        x = torch.ones(2, requires_grad=True)
        y = checkpoint(lambda x: x * 3, x, use_reentrant=True)
        y.register_hook(calls.append)
        y.sum().backward()
    finally:
        trained.set()
        thread.join()
    assert type(y.grad_fn).__name__ == "CheckpointFunctionBackward"
    assert len(calls) == 1
    assert "apply" not in CheckpointFunction.__dict__


@pytest.mark.parametrize("method", ["grad_cam", "shapley_cam", "full_grad", "score_cam"])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_step_behind_the_layer_that_writes_to_a_view_from_before_it(layer: str, method: str) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            half = x[:, :2]
            half += self.second(x)
            return self.head(x.mean((2, 3)))

    class Plain(Writing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            return self.head(torch.cat([x[:, :2] + self.second(x), x[:, 2:]], 1).mean((2, 3)))

    writing, images = Writing(), torch.randn(2, 1, 9, 12)
    expected = _as_of_a_plain_twin(writing, Plain(), images, layer=layer, method=method)
    if method == "grad_cam" and layer == "second":  # and beside the evaluation of a training
        with torch.no_grad():
            _, activations, gradients, _ = TorchBackend(writing, None, None, False).run_inside(
                [images], LayerRef(layer), 1
            )
        by_op = (gradients().mean((2, 3), keepdim=True) * activations).sum(1)
        assert_allclose(by_op, expected, atol=1e-6 * np.abs(expected).max())


def test_a_model_that_writes_to_a_chunk_is_an_error_that_says_so() -> None:
    class Writing(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, *_ = x.mul(1).chunk(3, 1)
            first += self.conv1(x).mean()
            return super().forward(x + first)

    with pytest.raises(GradientError, match=r"chunk\(\), split\(\) or unbind\(\).*or use method='score_cam'"):
        explain(Writing(), torch.randn(2, 3, 9, 12), layer="conv1", target=1)


def test_nothing_holds_a_model_whose_forward_is_its_own() -> None:
    """As wrappers leave it: a function that holds the model."""

    def explained() -> Any:
        model = SmallTorch()
        forward = model.forward
        model.forward = lambda x: forward(x)
        explain(model, torch.randn(1, 3, 9, 12), layer="conv1")
        return weakref.ref(model)

    gone = explained()
    gc.collect()
    assert gone() is None


def test_inference_mode_on_forward_is_an_error() -> None:
    class Inferring(SmallTorch):
        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    with pytest.raises(GradientError, match="inference_mode"):
        explain(Inferring(), torch.randn(1, 3, 9, 12), layer="conv1")


def test_data_parallel_is_unwrapped(plain: Plain) -> None:
    model, images, expected = plain
    for layer in ("conv1", "module.conv1"):
        assert_allclose(explain(nn.DataParallel(model), images, layer=layer, target=1).raw, expected)


def test_compiled_models_and_submodules(plain: Plain) -> None:
    model, images, expected = plain
    assert_allclose(explain(torch.compile(model), images, **ASKED).raw, expected)
    model.conv2 = compiled = torch.compile(model.conv2)
    assert_allclose(explain(model, images, **ASKED).raw, expected)
    assert model.conv2 is compiled
    assert explain(model, images, layer=compiled, target=1).layer == "conv2"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05), (torch.float64, 1e-5)])
def test_other_precisions(plain: Plain, dtype: torch.dtype, tolerance: float) -> None:
    model, images, expected = plain
    raw = explain(model.to(dtype), images, **ASKED).raw
    assert raw.dtype == np.float32
    assert_allclose(raw, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("weight", [2.0**-20, 6400])
def test_gradients_survive_half_precision(weight: float) -> None:
    """One of 2**-26 is below the smallest that fp16 can hold, 2**-24; those of 100 overflow where they are scaled."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(0)
        model[3].weight.fill_(weight)
    for method in ("grad_cam", "hires_cam"):
        heatmap = explain(model.half(), torch.ones(1, 1, 8, 8), layer="0", target=0, scaling="none", method=method)
        assert_allclose(heatmap.raw, weight / 64, rtol=1e-2)


def test_two_inputs() -> None:
    class Adding(SmallTorch):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return super().forward(left + right)

    model, adding = SmallTorch(), Adding()
    adding.load_state_dict(model.state_dict())
    left, right = torch.randn(2, 3, 9, 12), torch.randn(2, 3, 9, 12)
    expected = explain(model, left + right, target=1).raw
    assert_allclose(explain(adding, (left, right), target=1).raw, expected, atol=1e-6)


def test_what_cannot_be_explained_is_named() -> None:
    images = torch.randn(1, 3, 9, 12)
    scripted = torch.jit.trace(SmallTorch().eval(), images)
    with pytest.raises(UnsupportedModelError, match=r"Pass the nn\.Module that it was scripted from"):
        explain(scripted, images)
    with pytest.raises(UnsupportedModelError, match=r"model is a builtins\.str"):
        explain("resnet", images)


@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "shapley_cam"])
def test_a_forward_that_takes_keywords_alone(plain: Plain, method: str) -> None:
    class Named(SmallTorch):
        def forward(self, *, scale: float = 1.0, pixel_values: torch.Tensor) -> torch.Tensor:
            return super().forward(pixel_values * scale)

    model, images, _ = plain
    named = Named()
    named.load_state_dict(model.state_dict())
    expected = explain(model, images, method=method, **ASKED).raw
    assert_allclose(explain(named, images, method=method, **ASKED).raw, expected, atol=1e-7)
    assert explain(named, images).layer == explain(model, images).layer


def test_a_forward_whose_names_are_not_certain_is_an_error_that_says_so() -> None:
    class TwoNames(SmallTorch):
        def forward(this, *, labels: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:  # noqa: N805
            return super().forward(pixel_values)

    class AnyName(SmallTorch):
        def forward(this, **batch: torch.Tensor) -> torch.Tensor:  # noqa: N805
            return super().forward(batch["pixel_values"])

    images = torch.randn(2, 3, 9, 12)
    with pytest.raises(UnsupportedModelError, match=r"by name \('labels', 'pixel_values'\), and 1 came.*by position"):
        explain(TwoNames(), images, layer="conv1")
    with pytest.raises(UnsupportedModelError, match=r"by name \(any name\), and 1 came"):
        explain(AnyName(), images, layer="conv1")
    labels = torch.zeros(2)
    assert explain(TwoNames(), (labels, images), layer="conv1").raw.any()


def test_models_without_values_say_what_to_do() -> None:
    images = torch.randn(2, 3, 9, 12)
    lazy = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(UnsupportedModelError, match=r"'1\.weight' has none yet. Call the model once with images"):
        explain(lazy, images)
    assert backend_for(lazy).resolve("1").name == "1"  # an op names its layer before the first batch
    with pytest.raises(UnsupportedModelError, match=r"'conv1\.weight' is on the device 'meta'. Run model\.to_empty"):
        explain(SmallTorch().to("meta"), images, layer="conv1")
    lazy.eval()(images)
    assert explain(lazy, images).raw.any()


def test_exported_programs_are_refused_plainly_and_those_with_layers_taken(plain: Plain) -> None:
    model, images, expected = plain
    program = torch.export.export(model.eval(), (images,))
    for refused in (program, program.module()):
        with pytest.raises(UnsupportedModelError, match=r"a program of torch\.export.*unflatten\(program\)"):
            explain(refused, images)
    for taken in (torch.export.unflatten(program), torch.fx.symbolic_trace(model)):
        assert_allclose(explain(taken, images, **ASKED).raw, expected, atol=1e-7)
        assert explain(taken, images).layer.startswith("conv2")  # though the first takes this batch alone


@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "ablation_cam", "shapley_cam"])
def test_a_model_that_adds_rows_is_an_error_that_says_so(method: str) -> None:
    """By padding its batch to 8, and by looking at images and their mirror images."""

    class Padding(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([x, x.new_zeros(-len(x) % 8, *x.shape[1:])]))[: len(x)]

    class Mirroring(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([x, x.flip(-1)])).unflatten(0, (2, -1)).mean(0)

    for model, count, rows in ((Padding(), 3, 8), (Mirroring(), 3, 6)):
        with pytest.raises(ArgumentError, match=rf"puts out {rows} rows for {count} images.*pass the network"):
            explain(model, torch.randn(count, 3, 9, 12), layer="conv2", method=method)
    if method == "ablation_cam":  # goes on with as many rows as it takes channels away
        with pytest.raises(ArgumentError, match=r"puts out 8 rows for \d images.*pass the network that it calls"):
            explain(Padding(), torch.randn(8, 3, 9, 12), layer="conv2", method=method, batch_size=3)


def test_a_layer_in_integers_is_an_error_that_says_what_to_pass() -> None:
    from torch.ao.quantization import DeQuantStub, QuantStub, convert, get_default_qconfig, prepare

    torch.backends.quantized.engine = "fbgemm"
    front = QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    net, images = nn.Sequential(*front, nn.Flatten(), nn.Linear(4, 5), DeQuantStub()).eval(), torch.randn(2, 3, 9, 12)
    net.qconfig = get_default_qconfig("fbgemm")
    prepared = prepare(net)
    prepared(images)
    for method in ("grad_cam", "eigen_cam", "score_cam"):
        with pytest.raises(GradientError, match=r"layer='1' computes in torch\.quint8.*pass the float model"):
            explain(convert(prepared), images, layer="1", method=method)


def test_a_traced_model_in_integers_is_no_exported_program() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "fbgemm"
    images = torch.randn(2, 3, 9, 12)
    prepared = prepare_fx(SmallTorch().eval(), get_default_qconfig_mapping("fbgemm"), (images,))
    prepared(images)
    with pytest.raises(GradientError, match=r"layer='conv2' computes in torch\.quint8.*pass the float model"):
        explain(convert_fx(prepared), images, layer="conv2")


def test_a_dynamically_quantised_head_stops_the_gradient_alone() -> None:
    images = torch.randn(1, 3, 9, 12)
    model = torch.ao.quantization.quantize_dynamic(SmallTorch().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(GradientError, match=r"No gradient reaches layer='conv1'.*a quantised layer"):
        explain(model, images, layer="conv1")
    assert explain(model, images, layer="conv1", method="score_cam").raw.any()


# --- the state that is left --------------------------------------------------------------------------


class Noisy(SmallTorch):
    """Draws random numbers even when evaluated, and fails on request."""

    fail = ""

    def at(self, place: str) -> None:
        if self.fail == place:
            raise RuntimeError(place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.at("early")
        x = super().forward(x + 1e-3 * torch.rand_like(x))
        self.at("late")
        return x


@pytest.mark.parametrize("fail", ["", "early", "late", "target"])
@pytest.mark.parametrize("layer", [None, "conv1"])
def test_everything_is_left_as_it_was(fail: str, layer: str | None) -> None:
    model, images = Noisy(), torch.randn(4, 3, 9, 12)
    model.train()
    model.norm.eval()
    model.conv1.weight.requires_grad_(False)
    model(images).sum().backward()
    explain(model, images, layer=layer)
    before = held(model)
    model.fail = fail
    target = (lambda output: model.at("target")) if fail == "target" else None
    with pytest.raises(RuntimeError, match=fail) if fail else nullcontext():
        explain(model, images, layer=layer, target=target)
        list_layers(model, images)
    assert_unchanged(before, held(model))


def test_a_train_method_of_the_models_own_is_not_called() -> None:
    class Merging(SmallTorch):
        switched = 0

        def train(self, mode: bool = True) -> Merging:
            type(self).switched += 1
            return super().train(mode)

    model = Merging()
    model.train()
    count = Merging.switched
    explain(model, torch.randn(1, 3, 9, 12))
    assert Merging.switched == count
    assert model.training


def test_dropout_and_batch_statistics_are_those_of_inference() -> None:
    model, images = SmallTorch().train(), torch.randn(4, 3, 9, 12)
    trained = explain(model, images, target=1)
    assert_allclose(trained.raw, explain(model.eval(), images, target=1).raw)


# --- outputs without a visible head ------------------------------------------------------------------


def test_a_squeezed_output_is_understood_for_one_image_and_refused_where_it_hides_rows() -> None:
    single = KITS["torch"].pooled(1, lambda z: z.squeeze())
    images = torch.rand(4, 1, 8, 8)
    together = explain(single, images, layer="conv")
    alone = [explain(single, images[at : at + 1], layer="conv") for at in range(4)]
    assert_allclose([one.scores[0] for one in alone], together.scores, rtol=1e-5)
    several = explain(KITS["torch"].pooled(4, lambda z: z.squeeze()), images[:1], layer="conv")
    assert several.class_ids.shape == (1,)
    with pytest.raises(UnsupportedModelError, match=r"shape \(16,\) for 4 image\(s\)"):
        explain(KITS["torch"].pooled(4, lambda z: z.flatten()), images, layer="conv")


def test_rounding_is_no_evidence() -> None:
    """Terms that cancel leave 1e-10 of nothing, which scaled to [0, 1] would look like a finding."""
    model = nn.Sequential(nn.Conv2d(1, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.zero_()
        model[3].weight.copy_(torch.randn(2, 64))
        model[3].weight -= model[3].weight.double().mean(1, keepdim=True).float()
    image = 1 + 0.1 * torch.rand(1, 1, 6, 6)
    for target in (0, 1):
        heatmap = explain(model, image, layer="0", target=target)
        assert np.abs(heatmap.raw).max() > 0
        assert heatmap.blank.all()
        assert not heatmap.values.any()


# --- models that write where they should not ------------------------------------------------------------


@pytest.mark.parametrize("activate", [torch.Tensor.relu_, partial(F.relu, inplace=True), nn.ReLU(inplace=True)])
@pytest.mark.parametrize("layer", [None, "block.0"])
def test_an_in_place_activation_whose_result_is_dropped(activate: Callable[[Any], Any], layer: str | None) -> None:
    def dropping(block: Any, x: torch.Tensor) -> torch.Tensor:
        maps = block[0](x)
        activate(maps)
        return maps

    model, image = Net(dropping), torch.randn(2, 1, 8, 8)
    plain = copy.deepcopy(model)
    plain.call = lambda block, x: torch.relu(block[0](x))
    expected = explain(plain, image, layer=layer, target=1).raw
    assert expected.any()
    assert_allclose(explain(model, image, layer=layer, target=1).raw, expected, atol=1e-7)


@pytest.mark.parametrize("form", [torch.as_tensor, np.asarray])
def test_a_model_that_writes_to_its_input_does_not_reach_the_callers(form: Callable[[Any], Any]) -> None:
    class Normalising(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x -= 0.5
            x /= 0.25
            return super().forward(x)

    plain, normalising, images = SmallTorch(), Normalising(), torch.rand(3, 3, 9, 12)
    normalising.load_state_dict(plain.state_dict())
    expected = explain(plain, (images - 0.5) / 0.25, target=1).raw
    given = form(images.clone())
    for _ in range(2):
        assert_allclose(explain(normalising, given, target=1).raw, expected, atol=1e-6)
    assert np.array_equal(given, images)


def test_images_with_negative_strides() -> None:
    model, images = SmallTorch(), np.random.rand(2, 3, 9, 12).astype(np.float32)
    assert_allclose(explain(model, images[:, ::-1]).raw, explain(model, images[:, ::-1].copy()).raw)


def test_buffers_and_flags_that_a_forward_writes_are_put_back() -> None:
    class Counting(SmallTorch):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.passes += 1
            self.norm.train()
            return super().forward(x)

    model, images = Counting().eval(), torch.randn(4, 3, 9, 12)
    before = held(model)
    explain(model, images)
    assert_unchanged(before, held(model))


def test_a_compiled_block_with_layers_inside() -> None:
    images = torch.rand(2, 1, 8, 8)
    model = pooled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
    default, inner = explain(model, images, target=0), explain(model, images, layer="0.0", target=0)
    conv = model[0][0]
    model[0] = torch.compile(model[0])
    assert_allclose(explain(model, images, target=0).raw, default.raw)
    for layer in ("0.0", "0._orig_mod.0", conv):
        assert_allclose(explain(model, images, layer=layer, target=0).raw, inner.raw)
    assert "0.0" in [info.name for info in list_layers(model, images)]
    model[0] = model[0]._orig_mod
    model.compile()
    assert_allclose(explain(model, images, layer="0.0", target=0).raw, inner.raw)
    assert model._compiled_call_impl is not None


def test_a_softmax_that_is_written_to_is_no_head() -> None:
    def first_class_off(z: torch.Tensor) -> torch.Tensor:
        p = z.softmax(-1).clone()
        p[:, 0] = 0
        return p

    model, image, layer = torch_toy("pooled", first_class_off)
    assert explain(model, image, layer=layer).class_ids[0] == 1


@pytest.mark.filterwarnings("ignore::fe_gradcam.CamWarning")
def test_one_image_of_nan_changes_nothing_for_the_others() -> None:
    model, images = by_hand(KITS["torch"]), torch.randn(3, 3, 9, 12)
    alone = explain(model, images[:2], layer="inside.conv1")
    images[2] = torch.nan
    together = explain(model, images, layer="inside.conv1")
    assert_allclose(together.scores[:2], alone.scores, rtol=1e-5)
    assert_allclose(together.confidences[:2], alone.confidences, rtol=1e-5)


# --- a pass that is part of somebody else's training ------------------------------------------------------

IN_PLACE = {
    "relu": nn.ReLU(inplace=True),
    "leaky relu": nn.LeakyReLU(inplace=True),
    "elu": nn.ELU(inplace=True),
    "selu": nn.SELU(inplace=True),
    "celu": nn.CELU(inplace=True),
    "relu6": nn.ReLU6(inplace=True),
    "silu": nn.SiLU(inplace=True),
    "mish": nn.Mish(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "hardsigmoid": nn.Hardsigmoid(inplace=True),
    "threshold": nn.Threshold(0.1, 0.0, inplace=True),
    "relu_": torch.relu_,
    "tanh_": torch.tanh_,
    "sigmoid_": torch.sigmoid_,
    "mul_": lambda maps: maps.mul_(2),
    "masked_fill_": lambda maps: maps.masked_fill_(maps < 0, 0),
}


@pytest.mark.parametrize("dropped", [False, True], ids=["used", "dropped"])
@pytest.mark.parametrize("place", ["0", "1"], ids=["before", "behind"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_keyed_training_goes_on_whatever_writes_in_place(name: str, place: str, dropped: bool) -> None:
    """The gradients of the weights are those without us, and what is put out is that of a model that copies first."""

    class Stage(nn.Module):
        def __init__(self, copies: bool) -> None:
            super().__init__()
            self.copies = copies

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            given = maps.clone() if self.copies else maps
            result = IN_PLACE[name](given)
            return given if dropped else result

    in_place = pooled(nn.Conv2d(1, 4, 3), Stage(copies=False))
    copying = copy.deepcopy(in_place)
    copying[1].copies = True
    images, found = torch.randn(3, 1, 6, 6), []
    for net in (in_place, copying):
        output, maps, gradients, _ = TorchBackend(net, None, None, False).run_inside([images], LayerRef(place), None)
        taken = gradients()
        output.square().sum().backward()
        found.append([maps, taken, *(weight.grad for weight in net.parameters())])
    alone = copy.deepcopy(copying).requires_grad_(True)
    alone.zero_grad()
    alone(images).square().sum().backward()
    for ours, expected in zip(*found, strict=True):
        assert_allclose(ours.detach(), expected.detach(), atol=1e-7)
    for ours, expected in zip(found[0][2:], alone.parameters(), strict=True):
        assert torch.equal(ours, expected.grad)


def test_a_pass_inside_a_training_step_notes_nothing_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put back there, and to note all of a large model would cost every step."""
    net, images = SmallTorch(), torch.randn(2, 3, 9, 12)
    backend = TorchBackend(net, None, None, False)
    backend.run_inside([images], LayerRef("conv2"), 1)  # the first one looks at the layers
    noted: list[object] = []
    monkeypatch.setattr("fe_gradcam.backends.pytorch.observed.noted", lambda *its: noted.append(its))
    _, activations, gradients, _ = backend.run_inside([images], LayerRef("conv2"), 1)
    assert gradients().shape == activations.shape
    assert not noted


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "form",
    [
        lambda scores: {"logits": scores, "other": -scores},
        lambda scores: (None, scores),
        lambda scores: (scores.mean(), scores),  # a loss
    ],
)
def test_scores_beside_other_outputs_are_explained_as_they_are_alone(
    form: Callable[[torch.Tensor], Any], count: int
) -> None:
    class Formed(SmallTorch):
        def forward(self, x: torch.Tensor) -> Any:
            return form(super().forward(x))

    formed, images = Formed().eval(), torch.randn(count, 3, 9, 12)
    plain = SmallTorch().eval()
    plain.load_state_dict(formed.state_dict())
    found, expected = (explain(net, images, layer="conv2", target=1) for net in (formed, plain))
    assert_allclose(found.scores, expected.scores)
    assert_allclose(found.raw, expected.raw)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_layer_that_no_gradient_reaches_is_an_error_if_the_score_depends_on_it(weight: float) -> None:
    """Maps of zeros that count nothing are no evidence, and no error: whatever stands there, the score is the same."""

    def call(block: Any, x: torch.Tensor) -> torch.Tensor:
        maps = block[0](x)
        return maps + weight * block[1](-maps.abs()).detach()

    model, images = Net(call).eval(), torch.rand(2, 1, 8, 8)
    if weight:
        with pytest.raises(GradientError, match=r"layer='block\.1'"):
            explain(model, images, layer="block.1", target=0)
    else:
        heatmap = explain(model, images, layer="block.1", target=0)
        assert heatmap.blank.all() and not heatmap.raw.any()
