"""The PyTorch backend: the score it explains, the models it copes with, and the state it leaves."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import ArgumentError, CamWarning, GradientError, UnsupportedModelError, explain, list_layers
from tests.models.kits import KITS
from tests.models.toys import SmallTorch, torch_toy


def test_the_softmax_of_an_attention_is_no_head() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.conv(x)
            weights = features.mean(1, keepdim=True).flatten(2).softmax(-1).view(-1, 1, *features.shape[2:])
            return self.fc((features * weights).sum((2, 3)))

    model, image = Attending(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = model(image).max(1).values
    assert_allclose(explain(model, image, layer="conv").scores, expected, atol=1e-6)


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
    assert default.layer == "conv2 + activation"
    seen = []
    model.register_forward_hook(lambda *_: None)
    handle = model.conv2.register_forward_hook(lambda _, __, out: seen.append(torch.relu(out)))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    activations = seen[0]
    weights = model.fc.weight[default.class_ids] / activations[0, 0].numel()  # the gradient of a mean
    assert_allclose(default.raw, torch.einsum("nk,nkhw->nhw", weights, activations).detach(), atol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU()])
def test_default_layer_is_the_activation_module(activation: nn.Module) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    assert explain(model, torch.rand(2, 1, 6, 6)).layer == "2"


def test_default_layer_skips_maps_of_one_place() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )
    assert explain(model, torch.rand(2, 1, 6, 6)).layer == "0"


def test_an_in_place_activation_behind_the_layer_does_not_touch_what_was_kept() -> None:
    def network(inplace: bool) -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )

    image = torch.randn(2, 1, 6, 6)
    assert_allclose(explain(network(True), image, layer="0").raw, explain(network(False), image, layer="0").raw)


def test_of_a_layer_called_twice_the_last_call_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.calls = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3), 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.calls):
                x = self.conv(x)
            return self.fc(x.mean((2, 3)))

    model, image = Twice(), torch.randn(2, 2, 6, 6)
    with torch.no_grad():
        last = model.conv(model.conv(image))
    for _ in range(2):  # the second time the number of calls is known
        heatmap = explain(model, image, layer="conv", target=1)
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1] / 36, last).detach()
        assert_allclose(heatmap.raw, expected, atol=1e-6)
    model.calls = 1  # fewer than was seen before
    with torch.no_grad():
        last = model.conv(image)
    expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1] / 36, last).detach()
    assert_allclose(explain(model, image, layer="conv", target=1).raw, expected, atol=1e-6)


def test_list_layers() -> None:
    infos = list_layers(SmallTorch(), torch.randn(2, 3, 9, 12))
    assert [info.name for info in infos] == ["conv1", "norm", "conv2", "drop", "fc", ""]
    assert infos[2].shape == (6, 7, 10)
    assert infos[2].activation == "relu"
    assert [info.spatial for info in infos] == [True, True, True, False, False, False]


# --- models that get in the way ----------------------------------------------------------------------


def _reference(images: torch.Tensor) -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(5)
    model = SmallTorch()
    return model, explain(model, images, layer="conv1", target=1).raw


def test_frozen_parameters_do_not_matter() -> None:
    images = torch.randn(2, 3, 9, 12)
    model, expected = _reference(images)
    model.requires_grad_(False)
    assert_allclose(explain(model, images, layer="conv1", target=1).raw, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_called_where_gradients_are_off(mode: Any) -> None:
    images = torch.randn(2, 3, 9, 12)
    model, expected = _reference(images)
    with mode():
        assert_allclose(explain(model, images.clone(), layer="conv1", target=1).raw, expected)


def test_weights_made_in_inference_mode() -> None:
    images = torch.randn(2, 3, 9, 12)
    _, expected = _reference(images)
    with torch.inference_mode():
        torch.manual_seed(5)
        model = SmallTorch()
    assert_allclose(explain(model, images, layer="conv1", target=1).raw, expected, atol=1e-7)


def test_a_no_grad_of_the_model_around_the_layer() -> None:
    class FrozenBackbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.fc = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x = self.backbone(x)
            return self.fc(x.mean((2, 3)))

    model, image = FrozenBackbone(), torch.rand(2, 1, 8, 8)
    heatmap = explain(model, image, target=1)
    with torch.no_grad():
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1] / 36, model.backbone(image))
    assert_allclose(heatmap.raw, expected, atol=1e-6)
    assert not heatmap.blank.all()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.fc = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(checkpoint(self.block, x, use_reentrant=reentrant).mean((2, 3)))

    model, image = Checkpointed(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1] / 36, model.block(image))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*None of the inputs have requires_grad.*")
        assert_allclose(explain(model, image, layer="block", target=1).raw, expected, atol=1e-6)


def test_inference_mode_on_forward_is_an_error() -> None:
    class Inferring(SmallTorch):
        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    with pytest.raises(GradientError, match="inference_mode"):
        explain(Inferring(), torch.randn(1, 3, 9, 12), layer="conv1")


def test_a_scripted_module_is_an_error_that_says_what_to_pass() -> None:
    scripted = torch.jit.trace(SmallTorch().eval(), torch.randn(1, 3, 9, 12))
    with pytest.raises(UnsupportedModelError, match=r"Pass the nn\.Module that it was scripted from"):
        explain(scripted, torch.randn(1, 3, 9, 12))


def test_data_parallel_is_unwrapped() -> None:
    images = torch.randn(2, 3, 9, 12)
    model, expected = _reference(images)
    wrapped = nn.DataParallel(model)
    for layer in ("conv1", "module.conv1"):
        assert_allclose(explain(wrapped, images, layer=layer, target=1).raw, expected)


def test_compiled_models_and_submodules() -> None:
    images = torch.randn(2, 3, 9, 12)
    model, expected = _reference(images)
    assert_allclose(explain(torch.compile(model), images, layer="conv1", target=1).raw, expected)
    model.conv2 = torch.compile(model.conv2)
    compiled = model.conv2
    assert_allclose(explain(model, images, layer="conv1", target=1).raw, expected)
    assert model.conv2 is compiled
    assert explain(model, images, layer=compiled, target=1).layer == "conv2"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 9, 12)
    model, expected = _reference(images)
    raw = explain(model.to(dtype), images, layer="conv1", target=1).raw
    assert raw.dtype == np.float32
    # bf16 has 8 bits of mantissa, fp16 11
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.05, torch.float64: 1e-5}[dtype]
    assert_allclose(raw, expected, atol=tolerance * np.abs(expected).max())


def test_small_gradients_survive_half_precision() -> None:
    """A gradient of 2**-26 is below the smallest that fp16 can hold, 2**-24."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(0)
        model[3].weight.fill_(2.0**-20)
    raw = explain(model.half(), torch.ones(1, 1, 8, 8), layer="0", target=0, scaling="none").raw
    assert_allclose(raw, 2.0**-26, rtol=1e-2)  # 2**-20 / 64


def test_two_inputs() -> None:
    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = SmallTorch()

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.inside(left + right)

    model, left, right = Adding(), torch.randn(2, 3, 9, 12), torch.randn(2, 3, 9, 12)
    assert_allclose(
        explain(model, (left, right), target=1).raw, explain(model.inside, left + right, target=1).raw, atol=1e-6
    )


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"model is a builtins\.str"):
        explain("resnet", torch.rand(1, 3, 8, 8))


# --- the state that is left --------------------------------------------------------------------------


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "torch": torch.get_rng_state().clone(),
        "numpy": np.random.get_state()[1].copy(),
        "python": random.getstate(),
        "grad_mode": torch.is_grad_enabled(),
    }


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key, tensor in before["weights"].items():
        assert torch.equal(tensor, after["weights"][key]), key
    for one, other in zip(before["grads"], after["grads"], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert torch.equal(before["torch"], after["torch"])
    assert np.array_equal(before["numpy"], after["numpy"])
    for key in ("requires_grad", "modes", "hooks", "python", "grad_mode"):
        assert before[key] == after[key], key


class Noisy(SmallTorch):
    """Draws random numbers even when evaluated, and fails on request, early or late."""

    fail = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fail == "early":
            raise RuntimeError("early")
        x = super().forward(x + 1e-3 * torch.rand_like(x))
        if self.fail == "late":
            raise RuntimeError("late")
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
    before = _state(model)
    model.fail = fail

    def failing(output: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("target")

    if fail:
        with pytest.raises(RuntimeError, match=fail):
            explain(model, images, layer=layer, target=failing if fail == "target" else None)
    else:
        explain(model, images, layer=layer)
        list_layers(model, images)
    _assert_same(before, _state(model))


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


def _in_place_function(x: torch.Tensor) -> torch.Tensor:
    x.relu_()
    return x


def _in_place_by_argument(x: torch.Tensor) -> torch.Tensor:
    nn.functional.relu(x, inplace=True)
    return x


def _in_place_module(x: torch.Tensor) -> torch.Tensor:
    nn.ReLU(inplace=True)(x)
    return x


@pytest.mark.parametrize("activate", [_in_place_function, _in_place_by_argument, _in_place_module])
@pytest.mark.parametrize("layer", [None, "conv"])
def test_an_in_place_activation_whose_result_is_dropped(activate: Callable[[Any], Any], layer: str | None) -> None:
    class Net(nn.Module):
        def __init__(self, activation: Callable[[Any], Any]) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.conv, self.fc, self.activation = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), activation

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.activation(self.conv(x)).mean((2, 3)))

    image = torch.randn(2, 1, 8, 8)
    expected = explain(Net(torch.relu), image, layer=layer, target=1).raw
    assert expected.any()
    assert_allclose(explain(Net(activate), image, layer=layer, target=1).raw, expected, atol=1e-7)


@pytest.mark.parametrize("as_array", [True, False])
def test_a_model_that_writes_to_its_input_does_not_reach_the_callers(as_array: bool) -> None:
    class Normalising(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x -= 0.5
            x /= 0.25
            return super().forward(x)

    torch.manual_seed(4)
    model, images = Normalising(), torch.rand(3, 3, 9, 12)
    plain = SmallTorch()
    plain.load_state_dict(model.state_dict())
    expected = explain(plain, (images - 0.5) / 0.25, target=1).raw
    given = images.numpy().copy() if as_array else images.clone()
    for _ in range(2):
        assert_allclose(explain(model, given, target=1).raw, expected, atol=1e-6)
    assert np.array_equal(np.asarray(given), images.numpy())


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
    before = _state(model)
    explain(model, images)
    _assert_same(before, _state(model))


def test_a_compiled_block_with_layers_inside() -> None:
    images = torch.rand(2, 1, 8, 8)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
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


def test_an_attention_whose_steps_its_input_does_not_allow() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.conv(x).flatten(2)
            weights = maps.transpose(1, 2).softmax(1).view(len(x), -1)
            return self.fc((maps * weights.view(len(x), -1, 4).transpose(1, 2)).sum(2))

    model, image = Attending(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert_allclose(explain(model, image, layer="conv").scores, model(image).max(1).values, atol=1e-6)


def test_a_softmax_that_is_written_to_is_no_head() -> None:
    def first_class_off(z: torch.Tensor) -> torch.Tensor:
        p = z.softmax(-1).clone()
        p[:, 0] = 0
        return p

    model, image, layer = torch_toy("pooled", first_class_off)
    assert explain(model, image, layer=layer).class_ids[0] == 1


def test_one_image_of_nan_changes_nothing_for_the_others() -> None:
    class Normalising(SmallTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            positive = super().forward(x).exp()
            return positive / positive.sum(1, keepdim=True)

    model, images = Normalising(), torch.randn(3, 3, 9, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)
        alone = explain(model, images[:2], layer="conv1")
        images[2] = torch.nan
        together = explain(model, images, layer="conv1")
    assert_allclose(together.scores[:2], alone.scores, rtol=1e-5)
    assert_allclose(together.confidences[:2], alone.confidences, rtol=1e-5)


def test_large_gradients_of_half_precision_do_not_overflow() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[2].weight.fill_(100)
    raw = explain(model.half(), torch.ones(1, 1, 2, 2), layer="0", target=0, scaling="none", method="hires_cam").raw
    assert_allclose(raw, 100 * (1 + float(model[0].bias)), rtol=1e-2)
