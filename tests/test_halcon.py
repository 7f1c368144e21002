"""The operator's contract: results, targets, the layer and its ReLU, scalings, samples, mistakes; both frameworks."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from fe_gradcam import (
    ArgumentError,
    Augment,
    CamError,
    Contrast,
    UnknownNameError,
    UnsupportedModelError,
    explain,
    gen_dl_model_heatmap,
)
from tests.models.kerases import KERASES
from tests.models.toys import FRAMEWORKS, IMAGE, TOYS
from tests.trainings import as_layout

A0 = IMAGE[0]
A1 = np.array([[2, 1, 0], [0, 0, 0]], np.float32)
RELU_MAP = (3 * A0 + A1) / 6
"""Of the pooled toy's class 0, behind the ReLU."""

CONV_MAP = (13 * A0 + 4) / 36
"""The same before it: z = (x, 2 - x), gradients 3/6 where x > 0 (5 of 6 places) and 1/6 where x < 2 (2 of 6), so
their means are 15/36 and 2/36, and 15 x + 2 (2 - x) = 13 x + 4."""


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def heat_of(model: Any, image: Any, method: Any = "grad_cam", **param: Any) -> np.ndarray:
    """The heatmap of class 0 with these settings."""
    result = gen_dl_model_heatmap(model, {"image": image}, method, 0, param)
    key = f"heatmap_{method if isinstance(method, str) else method[0]}"
    assert list(result)[3:] == [key]
    found: np.ndarray = result[key]["heatmap_image_class_0"]
    return found


class TorchConv(nn.Module):
    """The pooled toy with its ReLU in one of the forms that networks have it in."""

    def __init__(self, form: str) -> None:
        super().__init__()
        toy, _, _ = TOYS["torch"]("pooled")
        self.conv, self.fc, self.form = toy.conv, toy.fc, form
        self.norm = nn.BatchNorm2d(2, eps=0) if "norm" in form else nn.Identity()
        self.relu = nn.ReLU(inplace="in place" in form)
        if form == "inside the layer":
            self.conv = Rectified(toy.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if "norm" in self.form:
            x = self.norm(x)
        if "function" in self.form:
            x = torch.relu(x)
        elif self.form != "inside the layer":
            x = self.relu(x)
        return self.fc(x.mean((2, 3)))


class Rectified(nn.Conv2d):
    """A convolution with its ReLU in one layer."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(1, 2, 1)
        self.load_state_dict(plain.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(super().forward(x))


def keras_conv(framework: str, form: str) -> Any:
    (toy, _, _), keras = TOYS[framework]("pooled"), KERASES[framework]
    inputs, of = keras.Input((2, 3, 1)), keras.layers
    inside = {"inside the layer": "relu", "inside the layer, ReLU6": tf.nn.relu6}.get(form)
    conv = of.Conv2D(2, 1, activation=inside, name="conv")
    x = conv(inputs)
    if "norm" in form:
        x = of.BatchNormalization(epsilon=1.001e-5)(x)
    if "function" in form:
        x = keras.ops.relu(x) if hasattr(keras, "ops") else tf.nn.relu(x)
    elif inside is None:
        x = of.Activation("relu")(x) if "activation" in form else of.ReLU()(x)
    model = keras.Model(inputs, toy.get_layer("fc")(of.GlobalAveragePooling2D()(x)))
    conv.set_weights(toy.get_layer("conv").get_weights())
    return model


FORMS = {
    "torch": ["module", "module, in place", "function", "behind norm, module", "behind norm, in place",
              "behind norm, function", "inside the layer"],
}  # fmt: skip
OF_KERAS = ["module", "activation", "function", "behind norm, module", "behind norm, function",
            "behind norm, activation", "inside the layer", "inside the layer, ReLU6"]  # fmt: skip
FORMS |= dict.fromkeys(KERASES, OF_KERAS)


@pytest.mark.parametrize(("framework", "form"), [(name, form) for name in FORMS for form in FORMS[name]])
def test_the_convolution_alone_and_the_relu_behind_it(framework: str, form: str) -> None:
    model = TorchConv(form).eval() if framework == "torch" else keras_conv(framework, form)
    image = IMAGE if framework == "torch" else IMAGE[0][..., None]
    assert_allclose(heat_of(model, image, scaling="none"), CONV_MAP, atol=1e-4)
    for use, expected in (("true", CONV_MAP), (True, CONV_MAP), ("false", RELU_MAP), (False, RELU_MAP)):
        assert_allclose(heat_of(model, image, use_conv_only=use, scaling="none"), expected, atol=1e-4)


def test_the_result_of_one_sample(framework: str) -> None:
    model, image, _ = TOYS[framework]("pooled")
    result = gen_dl_model_heatmap(model, {"image": image[0], "image_id": 7})
    inferred = [f"classification_{key}" for key in ("class_ids", "class_names", "confidences")]
    assert list(result) == [*inferred, "heatmap_grad_cam"]
    assert result["classification_class_ids"] == [0, 1]
    assert result["classification_class_names"] == ["0", "1"]
    assert_allclose(result["classification_confidences"], [1 / (1 + np.exp(-9.5)), 1 / (1 + np.exp(9.5))], rtol=1e-4)
    ((key, heat),) = result["heatmap_grad_cam"].items()
    assert key == "heatmap_image_class_0"
    assert (heat.dtype, heat.shape, heat.max()) == (np.float32, (2, 3), 1)
    assert_allclose(heat, CONV_MAP / CONV_MAP.max(), atol=1e-6)


def test_samples_of_different_sizes_in_their_order(framework: str) -> None:
    model = any_size(framework)
    sizes = [(8, 9), (12, 10), (8, 9), (6, 6), (12, 10)]
    samples = [{"image": some_image(framework, *size, 3)} for size in sizes]
    together = gen_dl_model_heatmap(model, samples, target_classes=[1, 0], gen_param={"batch_size": 2})
    assert isinstance(together, list)
    for sample, size, result in zip(samples, sizes, together, strict=True):
        alone = gen_dl_model_heatmap(model, sample, target_classes=[1, 0])
        assert result["classification_class_ids"] == alone["classification_class_ids"]
        assert_allclose(result["classification_confidences"], alone["classification_confidences"], rtol=1e-4)
        for key in ("heatmap_image_class_1", "heatmap_image_class_0"):
            assert result["heatmap_grad_cam"][key].shape == size
            assert_allclose(result["heatmap_grad_cam"][key], alone["heatmap_grad_cam"][key], atol=1e-4)


def some_image(framework: str, *shape: int) -> np.ndarray:
    """Random numbers (H, W, C), in the layout of the framework."""
    return as_layout(framework, np.random.normal(size=(1, *shape)).astype(np.float32))[0]


def any_size(framework: str) -> Any:
    if framework == "torch":
        conv = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)]
        return nn.Sequential(*conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    keras = KERASES[framework]
    inputs, of = keras.Input((None, None, 3)), keras.layers
    x = of.Conv2D(4, 3, activation="relu")(of.Conv2D(5, 3, activation="relu")(inputs))
    return keras.Model(inputs, of.Dense(2)(of.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("scaling", ["scale_after_relu", "scale_before_relu", "none", None])
def test_scalings(framework: str, scaling: str | None) -> None:
    model, image, _ = TOYS[framework]("flat")  # y_0 = A_0[1, 2] - 6 A_1[0, 0], so the map has both signs
    signed = (A0 - 6 * (2 - A0)) / 6  # each gradient at one of six places where its ReLU is open
    positive = np.maximum(signed, 0)
    expected = {
        "scale_after_relu": positive / positive.max(),
        "scale_before_relu": positive / np.abs(signed).max(),
        "none": signed,
        None: signed,
    }
    assert_allclose(heat_of(model, image[0], scaling=scaling), expected[scaling], atol=1e-6)


def test_several_targets_and_their_names(framework: str) -> None:
    model, image, _ = TOYS[framework]("pooled")
    targets = [1, "cat", np.int64(0), Contrast("cat", "dog"), lambda output: output[:, 0]]
    param = {"class_names": ["cat", "dog"]}
    result = gen_dl_model_heatmap(model, {"image": image[0]}, "hires_cam", targets, param)
    assert result["classification_class_names"] == ["cat", "dog"]
    maps = result["heatmap_hires_cam"]
    assert list(maps) == [f"heatmap_image_{key}" for key in ("class_1", "class_0", "cat_against_dog", "lambda")]
    _, by_class, _, by_callable = maps.values()
    assert_array_equal(by_class, by_callable)
    assert not np.shares_memory(by_class, by_callable)


@pytest.mark.parametrize("empty", [(), [], None, np.array([], int)])
def test_an_empty_target_is_the_inferred_class(framework: str, empty: Any) -> None:
    model, image, _ = TOYS[framework]("pooled")
    result = gen_dl_model_heatmap(model, {"image": image[0]}, target_classes=empty)
    assert list(result["heatmap_grad_cam"]) == ["heatmap_image_class_0"]


def test_the_layer_by_name_index_and_itself(framework: str) -> None:
    model = any_size(framework)
    image = some_image(framework, 9, 9, 3)
    name, layer = ("0", model[0]) if framework == "torch" else (model.layers[1].name, model.layers[1])
    by_name, by_itself, by_index = (heat_of(model, image, target_conv_layer=given) for given in (name, layer, 1))
    assert_array_equal(by_name, by_itself)
    assert_array_equal(by_name, by_index)
    assert np.abs(heat_of(model, image) - by_name).max() > 1e-3


def test_the_deepest_convolution_is_that_of_the_samples_own_size() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=4), nn.ReLU(), nn.Conv2d(3, 3, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    large, small = torch.rand(1, 64, 64), torch.rand(1, 12, 12)
    together = gen_dl_model_heatmap(net, [{"image": large}, {"image": small}], target_classes=0)[1]
    assert_array_equal(together["heatmap_grad_cam"]["heatmap_image_class_0"], heat_of(net, small))


def test_the_deepest_convolution_that_still_has_places() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1), nn.Flatten())
    image = torch.rand(1, 8, 8)
    expected = explain(net, image[None], layer="0", target=0, scaling="none").values[0]
    assert_allclose(heat_of(net, image, scaling="none"), expected, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"target_conv_layer='3' is no convolution layer.*Accepted: 0\."):
        heat_of(net, image, target_conv_layer="3")


def test_no_relu_behind_the_convolution_is_an_error(framework: str) -> None:
    if framework == "torch":
        model: Any = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        names = ("2", "0")
    else:
        keras = KERASES[framework]
        inputs, of = keras.Input((8, 8, 1)), keras.layers
        first, last = of.Conv2D(2, 3, activation="relu", name="first"), of.Conv2D(2, 3, activation="swish", name="last")
        model, names = keras.Model(inputs, of.GlobalAveragePooling2D()(last(first(inputs)))), ("last", "first")
    image = some_image(framework, 8, 8, 1)
    with pytest.raises(ArgumentError, match=rf"no ReLU follows the convolution '{names[0]}'.*: {names[1]}\."):
        heat_of(model, image, use_conv_only="false")
    assert heat_of(model, image, use_conv_only="false", target_conv_layer=names[1]).size


def test_a_relu_behind_a_sum_is_not_that_of_the_convolution() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.relu, self.fc = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.Linear(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.relu(self.norm(self.conv(x)) + x).mean((2, 3)))

    with pytest.raises(ArgumentError, match=r"no ReLU follows the convolution 'conv'.*: none"):
        heat_of(Residual().eval(), IMAGE, use_conv_only="false")


def test_volumes_have_relus_behind_batch_norms_too(framework: str) -> None:
    if framework == "torch":
        volume = [nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
        model: Any = nn.Sequential(*volume).eval()
    else:
        keras = KERASES[framework]
        inputs, of = keras.Input((4, 5, 6, 1)), keras.layers
        x = of.ReLU()(of.BatchNormalization()(of.Conv3D(3, 2)(inputs)))
        model = keras.Model(inputs, of.Dense(2)(of.GlobalAveragePooling3D()(x)))
    image = np.moveaxis(np.random.rand(4, 5, 6, 1).astype(np.float32), -1, 0 if framework == "torch" else -1)
    assert heat_of(model, image, use_conv_only="false").shape == (4, 5, 6)


def test_nothing_that_is_passed_in_is_changed(framework: str) -> None:
    model, image, _ = TOYS[framework]("pooled")
    samples = [{"image": image[0].copy(), "label": 3, "boxes": [1, 2]}]
    param = {"scaling": "none", "class_names": ["a", "b"]}
    targets = [0, 1]
    before = copy.deepcopy((samples, param, targets))
    results = gen_dl_model_heatmap(model, samples, "grad_cam", targets, param)
    for heat in results[0]["heatmap_grad_cam"].values():
        heat[:] = 7
    assert_array_equal(samples[0]["image"], before[0][0]["image"])
    assert [list(sample) for sample in samples] == [list(sample) for sample in before[0]]
    assert (param, targets) == before[1:]
    again = gen_dl_model_heatmap(model, samples, "grad_cam", targets, param)
    assert again[0]["heatmap_grad_cam"]["heatmap_image_class_0"].max() < 3


def test_samples_as_tensors_of_either_framework() -> None:
    model, (image,), _ = TOYS["torch"]("pooled")
    for given in (torch.from_numpy(image).requires_grad_(), image.tolist()):
        assert_array_equal(heat_of(model, given), heat_of(model, image))
    model, (image,), _ = TOYS["keras"]("pooled")
    assert len(gen_dl_model_heatmap(model, [{"image": tf.constant(image)}] * 2)) == 2


def test_no_samples_no_results() -> None:
    model, _, _ = TOYS["torch"]("pooled")
    assert gen_dl_model_heatmap(model, []) == []


def test_a_method_with_parameters(framework: str) -> None:
    model, image, _ = TOYS[framework]("pooled")
    asked = [("is_cam", {"samples": 1}), ["is_cam", {"samples": 5}], "score_cam", ("eigen_cam", {"center": True})]
    heats = []
    for method in asked:
        heats.append(heat_of(model, image[0], method, scaling="none"))
        expected = explain(model, image, method=method, layer="conv", target=0, scaling="none")
        assert_allclose(heats[-1], expected.values[0], atol=1e-6)
    assert_allclose(heats[0], heats[2], atol=1e-5)  # of one sample, the whole mask
    assert np.abs(heats[1] - heats[2]).max() > 1e-3


def test_the_seed(framework: str) -> None:
    model, image, _ = TOYS[framework]("pooled")
    heat = partial(heat_of, model, image[0], "random_cam", scaling="none")
    assert_array_equal(heat(), heat(seed=0))
    assert_array_equal(heat(seed=np.int64(5)), heat(seed=5))
    assert np.abs(heat(seed=5) - heat()).max() > 1e-3
    expected = explain(model, image, method="random_cam", layer="conv", seed=5, scaling="none").values[0]
    assert_allclose(heat(seed=5), expected, atol=1e-6)


@pytest.mark.parametrize("smooth", [None, "eigen", Augment((), (0.5,)), ["augment", "eigen"]], ids=str)
def test_smoothing(framework: str, smooth: Any) -> None:
    model, image, _ = TOYS[framework]("pooled")
    result = gen_dl_model_heatmap(model, {"image": image[0]}, gen_param={"smooth": smooth, "scaling": "none"})
    heat = result["heatmap_grad_cam"]["heatmap_image_class_0"]
    expected = explain(model, image, layer="conv", target=0, smooth=smooth, scaling="none").values[0]
    assert_allclose(heat, expected, atol=1e-6)
    assert (np.abs(heat - CONV_MAP).max() > 1e-3) == (smooth is not None)
    assert_allclose(result["classification_confidences"][0], 1 / (1 + np.exp(-9.5)), rtol=1e-4)


MISTAKES: list[tuple[dict[str, Any], type[CamError], str]] = [
    ({"dl_model": "net"}, UnsupportedModelError, r"model is a builtins\.str"),
    ({"dl_sample": 5}, ArgumentError, "dl_sample is a int. Accepted: a dict, or a sequence of dicts"),
    ({"dl_sample": [IMAGE]}, ArgumentError, r"dl_sample\[0\] is a ndarray; a dict with the key 'image'"),
    ({"dl_sample": {"picture": IMAGE}}, ArgumentError, r"no key 'image'; its keys are: 'picture'"),
    ({"dl_sample": {"image": IMAGE[0]}}, ArgumentError, r"has shape \[\(2, 3\)\]; one image without the batch axis"),
    ({"heatmap_method": "gradcam"}, UnknownNameError, "did you mean 'grad_cam'"),
    ({"target_classes": 2}, ArgumentError, "it has 2 classes"),
    ({"target_classes": "cat"}, UnknownNameError, "No names are known"),
    ({"target_classes": -1}, ArgumentError, "negative class id"),
    ({"target_classes": [0.5]}, ArgumentError, "Accepted: None"),
    ({"gen_param": 5}, ArgumentError, "gen_param is a int. Accepted: a dict"),
    ({"gen_param": {"scaling": "scale"}}, ArgumentError, r"gen_param\['scaling'\]='scale'.*'none'\."),
    ({"gen_param": {"use_conv_only": "yes"}}, ArgumentError, "Accepted: 'true', 'false'"),
    ({"gen_param": {"use_conv_only": 1}}, ArgumentError, "Accepted: 'true', 'false'"),
    ({"gen_param": {"target_conv_layer": "conv9"}}, UnknownNameError, "did you mean 'conv'"),
    ({"gen_param": {"target_conv_layer": "fc"}}, ArgumentError, "is no convolution layer.*Accepted: conv"),
    ({"gen_param": {"class_names": 3}}, ArgumentError, r"gen_param\['class_names'\]=3 is not accepted"),
    ({"gen_param": {"batch_size": 0}}, ArgumentError, r"gen_param\['batch_size'\]=0 .*Accepted: an integer from 1"),
    ({"gen_param": {"batch_size": None}}, ArgumentError, r"gen_param\['batch_size'\]=None is not accepted"),
    ({"gen_param": {"seed": -1}}, ArgumentError, r"gen_param\['seed'\]=-1 .* Accepted: an integer from 0"),
    ({"gen_param": {"seed": True}}, ArgumentError, r"gen_param\['seed'\]=True is not accepted"),
    ({"gen_param": {"smooth": "augmant"}}, ArgumentError, r"gen_param\['smooth'\]='augmant' .*did you mean 'augment'"),
    ({"gen_param": {"smoth": "eigen"}}, UnknownNameError, "did you mean 'smooth'.*Accepted: target_conv_layer, use_"),
    ({"heatmap_method": ("is_cam", {"sample": 2})}, UnknownNameError, "no parameter 'sample'; did you mean 'samples'"),
    ({"heatmap_method": ("is_cam", {"samples": 0})}, ArgumentError, "samples=0 is not accepted. Accepted: an integer"),
    ({"heatmap_method": ("is_cam", "score_cam")}, ArgumentError, "Accepted: a name, or a pair"),
]


@pytest.mark.parametrize(("change", "error", "message"), MISTAKES, ids=lambda value: str(value)[:60])
def test_mistakes_are_named(change: dict[str, Any], error: type[CamError], message: str) -> None:
    model, image, _ = TOYS["torch"]("pooled")
    with pytest.raises(error, match=message):
        gen_dl_model_heatmap(**{"dl_model": model, "dl_sample": {"image": image[0]}, **change})
