"""Which layer is explained and how its output becomes a map: tokens, channels last, volumes, fused layers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import ArgumentError, CamWarning, Segmentation, UnknownNameError, explain, explain_many, list_layers
from fe_gradcam.spec.layers import convolution_layer, default_layer
from fe_gradcam.spec.tokens import Layout, Tokens, channels_last, layout_of, token_grid
from fe_gradcam.types import LayerInfo
from tests.methods.inputs import Net
from tests.models.kerases import KERASES, applied
from tests.models.kits import KITS, by_hand
from tests.models.toys import IMAGE, TOYS, SmallTorch

of = tf.keras.layers


@pytest.mark.parametrize(
    ("count", "maps", "size", "expected"),
    [
        (197, [(14, 14)], (224, 224), Tokens((14, 14), 1)),  # ViT
        (198, [(14, 14)], (224, 224), Tokens((14, 14), 2)),  # DeiT with a distillation token
        (261, [(16, 16)], (224, 224), Tokens((16, 16), 5)),  # DINOv2: class and four registers
        (49, [(56, 56)], (224, 224), Tokens((7, 7), 0)),  # Swin's last stage
        (35, [(28, 20)], (112, 80), Tokens((7, 5), 0)),
        (16, [(13, 15)], (52, 60), Tokens((4, 4), 0)),  # halved twice, rounded up
        (12, [(6, 6)], (8, 8), None),  # every third of them
        (197, [], (224, 224), Tokens((14, 14), 1)),  # patches cut without a convolution
        (25, [], (64, 96), Tokens((4, 6), 1)),
        (50, [], (224, 224), Tokens((7, 7), 1)),
        (77, [(14, 14)], (224, 224), None),
        (23, [], (224, 224), None),
        (2, [(1, 1)], (32, 32), None),
    ],
)
def test_token_grid(count: int, maps: list[Any], size: Any, expected: Tokens | None) -> None:
    assert token_grid(count, maps, size) == expected


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((768, 7, 7), (224, 224), False),
        ((7, 7, 768), (224, 224), True),
        ((7, 9, 768), (224, 288), True),
        ((16, 16, 16), (64, 64), False),
        ((64, 30, 98), (32, 100), False),  # a map that is not quite in proportion stays what it is
        ((64, 28, 13), (224, 100), False),  # rounded up at every halving
        ((512, 1, 25), (32, 100), False),  # pooled in height alone, as for text
        ((24, 1, 1), (224, 224), False),
        ((4, 4, 4, 32), (16, 16, 16), True),
        ((32, 4, 4, 4), (16, 16, 16), False),
        ((7, 7), (224, 224), False),
    ],
)
def test_channels_last(shape: Any, size: Any, expected: bool) -> None:
    assert channels_last(shape, size) is expected


@pytest.mark.parametrize("axis", [0, 1])
def test_tokens_stand_where_those_of_their_values_do_that_stand_somewhere(axis: int) -> None:
    """Four tokens of a grid of 2 by 2, of which the second value is that of no place, as a feature beside the image."""
    nowhere = np.full(4, np.nan)
    down, across = np.array([0.25, 0.25, 0.75, 0.75]), np.array([0.25, 0.75, 0.25, 0.75])
    positions = [np.stack([one, nowhere, one], axis) for one in (down, across)]
    assert layout_of(positions) == Layout(axis, (2, 2), None, 4)


# --- tokens ------------------------------------------------------------------------------------------


def tokenised(framework: str, form: str) -> Any:
    """The pooled toy that carries its map as tokens, behind a class token or not, or with channels last."""
    toy, _, _ = TOYS[framework]("pooled")
    if framework == "torch":

        def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
            maps = net.toy.relu(net.toy.conv(x)).movedim(1, -1)
            if form == "channels last":
                return net.toy.fc(net.places(maps).mean((1, 2)))
            tokens = maps.flatten(1, 2)
            if form == "tokens":
                return net.toy.fc(net.places(tokens).mean(1))
            tokens = torch.cat([torch.full_like(tokens[:, :1], 100), tokens], 1)
            return net.toy.fc(net.places(tokens)[:, 1:].mean(1))

        places = nn.Linear(2, 2, bias=False)
        places.weight.data.copy_(torch.eye(2))
        return Net(compute, toy=toy, places=places)
    keras = KERASES[framework]
    inputs, of = keras.Input((8, 12, 1)), keras.layers
    tokens = of.Reshape((-1, 2))(toy.get_layer("relu")(toy.get_layer("conv")(inputs)))
    if form == "class token":
        tokens = applied(lambda x: tf.concat([tf.fill([tf.shape(x)[0], 1, 2], 100.0), x], 1), tokens)
    tokens = of.Activation("linear", name="places")(tokens)
    mean = applied(lambda x: tf.reduce_mean(x[:, -96:], 1), tokens)
    return keras.Model(inputs, toy.get_layer("fc")(mean))


WIDE = np.kron(IMAGE[..., None], np.ones((1, 4, 4, 1), np.float32))
FORMS = [(framework, form) for framework in KITS for form in ("tokens", "class token")]


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam"])
@pytest.mark.parametrize(("framework", "form"), [*FORMS, ("torch", "channels last")])
def test_tokens_give_the_map_that_they_make_up(framework: str, form: str, method: str) -> None:
    toy, _, _ = TOYS["torch"]("pooled")
    expected = explain(toy, KITS["torch"].images(WIDE), layer="relu", method=method)
    heatmap = explain(tokenised(framework, form), KITS[framework].images(WIDE), layer="places", method=method)
    assert_allclose(heatmap.raw, expected.raw, atol=1e-6)
    assert_allclose(heatmap.values, expected.values, atol=1e-6)


def test_a_convolutional_net_has_its_channels_first_whatever_their_number() -> None:
    net = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 2))
    assert channels_last((10, 30, 98), (32, 100))  # by its proportions alone it could be either
    assert explain(net, torch.rand(1, 1, 32, 100), layer="0").raw.shape == (1, 30, 98)


@pytest.mark.parametrize(("framework", "form"), FORMS)
def test_a_reshape_of_the_users_own(framework: str, form: str) -> None:
    model, image = tokenised(framework, form), KITS[framework].images(WIDE)
    recognised = explain(model, image, layer="places")
    given = explain(model, image, layer="places", reshape=lambda t: t[:, -96:].movedim(-1, 1).unflatten(2, (8, 12)))
    assert_allclose(given.raw, recognised.raw)
    assert_allclose(given.values, recognised.values)
    turned = explain(model, image, layer="places", reshape=lambda t: t[:, -96:].movedim(-1, 1).unflatten(2, (12, 8)))
    assert turned.raw.shape == (1, 12, 8)
    output = r"\(1, 97, 2\)" if form == "class token" else r"\(1, 96, 2\)"
    with pytest.raises(ArgumentError, match=rf"reshape made a Tensor of shape \(1, 96, 2\) from the output {output}"):
        explain(model, image, layer="places", reshape=lambda t: t[:, -96:])


def test_tokens_that_are_not_recognised_ask_for_a_reshape() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        tokens = net.conv(x).flatten(2).movedim(1, -1)
        return net.fc(net.places(tokens[:, ::3]).mean(1))

    odd = Net(compute, conv=nn.Conv2d(1, 4, 3), places=nn.Identity(), fc=nn.Linear(4, 2))
    with pytest.raises(ArgumentError, match=r"shape \(12, 4\) per image.*pass reshape= that makes \(N, K, h, w\)"):
        explain(odd, torch.rand(1, 1, 8, 8), layer="places")


class ClassTokenNet(nn.Module):
    """A transformer of two blocks that reads its class token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.final_norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).movedim(1, -1)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            y = norm(x)
            x = x + attention(y, y, y)[0]
        return self.fc(self.final_norm(x)[:, 0])


def test_the_default_of_a_transformer_is_where_the_places_still_count() -> None:
    model, images = ClassTokenNet().eval(), torch.randn(2, 3, 16, 24)
    heatmap = explain(model, images)
    assert heatmap.layer == "norms.1"
    assert heatmap.raw.shape == (2, 4, 6)
    behind = explain(model, images, layer="final_norm", target=0)
    assert behind.blank.all()  # the class token alone goes on from there
    infos = list_layers(model, images)
    assert [info.name for info in infos if info.default] == ["norms.1"]
    assert {info.name: (info.shape, info.tokens) for info in infos}["final_norm"] == ((8, 4, 6), 25)


def test_a_block_that_returns_a_tuple() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        maps, word = net.block(x)
        assert word == "weights"
        return net.fc(maps.mean((2, 3)))

    block = Net(lambda net, x: (net.conv(x).relu(), "weights"), conv=nn.Conv2d(3, 4, 3))
    model, images = Net(compute, block=block, fc=nn.Linear(4, 2)), 10 * torch.randn(2, 3, 8, 8)
    heatmap = explain(model, images)
    assert heatmap.layer == "block"
    with torch.no_grad():
        maps = model.block(images)[0]
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[heatmap.class_ids[0]], maps)[0] / 36
    assert_allclose(heatmap.raw[0], expected, atol=1e-6)


# --- several layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", KITS)
def test_several_layers_are_fused(framework: str) -> None:
    model, names = KITS[framework].small(), ["conv1", "conv2"]
    images = KITS[framework].images(np.random.default_rng(0).normal(size=(2, 9, 12, 3)))
    first, second = explain_many(model, images, layers=names, targets=[1], scaling="scale_before_relu")
    parts = []
    for heatmap in (first, second):
        none = explain(model, images, layer=heatmap.layer, target=1, scaling="none")
        parts.append(none.values / np.abs(none.raw).max((1, 2))[:, None, None])
    for fuse, expected in (("mean", (parts[0] + parts[1]) / 2), ("max", np.maximum(*parts))):
        heatmap = explain(model, images, layer=names, target=1, scaling="none", fuse=fuse)  # type: ignore[arg-type]
        assert_allclose(heatmap.values, expected, atol=1e-6)
        assert heatmap.layer == f"{fuse}({names[0]}, {names[1]})"
        scaled = explain(model, images, layer=names, target=1, fuse=fuse)  # type: ignore[arg-type]
        positive = np.maximum(expected, 0)
        assert_allclose(scaled.values, positive / positive.max((1, 2), keepdims=True), atol=1e-5)


def test_a_list_of_one_layer_is_that_layer() -> None:
    model, images = SmallTorch().eval(), torch.randn(1, 3, 9, 12)
    assert_allclose(explain(model, images, layer=["conv1"]).values, explain(model, images, layer="conv1").values)


def test_a_blank_layer_does_not_count_its_rounding() -> None:
    model, image, _ = TOYS["torch"]("pooled")
    alone = explain(model, image, layer="relu", target=0, scaling="none")

    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        net.unused(x)
        return net.toy(x)

    beside = Net(compute, toy=model, unused=nn.Conv2d(1, 3, 1))
    fused = explain(beside, image, layer=["toy.relu", "unused"], target=0, scaling="none")
    assert_allclose(fused.values, alone.values / np.abs(alone.raw).max() / 2, atol=1e-6)
    nothing = explain(beside, image, layer=["unused", "unused"], target=0)
    assert nothing.blank.all()
    assert not nothing.values.any()


def test_mistakes_about_several_layers() -> None:
    model, images = SmallTorch(), torch.randn(1, 3, 9, 12)
    with pytest.raises(ArgumentError, match="layer is an empty list"):
        explain(model, images, layer=[])
    with pytest.raises(ArgumentError, match=r"fuse='sum' is not known. Accepted: 'mean', 'max'"):
        explain(model, images, layer=["conv1", "conv2"], fuse="sum")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="layer='conv3' is no layer"):
        explain(model, images, layer=["conv1", "conv3"])


# --- volumes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam"])
@pytest.mark.parametrize("framework", KITS)
def test_a_volume_of_equal_slices_is_explained_as_its_slice(framework: str, method: str) -> None:
    flat, image, layer = TOYS[framework]("pooled")
    volume, deep = volumetric(framework, image)
    expected = explain(flat, image, layer=layer, method=method)
    heatmap = explain(volume, deep, method=method)
    assert heatmap.values.shape == (1, 4, 2, 3)
    assert heatmap.raw.shape == (1, 4, 2, 3)
    for at in range(4):
        assert_allclose(heatmap.raw[0, at], expected.raw[0] / 4, atol=1e-6)  # the mean is over four times the places
        assert_allclose(heatmap.values[0, at], expected.values[0], atol=1e-6)


def volumetric(framework: str, image: np.ndarray) -> tuple[Any, np.ndarray]:
    """The pooled toy for volumes, and its image four times in depth."""
    flat, _, _ = TOYS[framework]("pooled")
    if framework == "torch":
        net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), flat.fc)
        with torch.no_grad():
            net[0].weight.copy_(flat.conv.weight[:, :, None])
            net[0].bias.copy_(flat.conv.bias)
        return net, np.repeat(image[:, :, None], 4, 2)
    keras = KERASES[framework]
    inputs, of = keras.Input((4, 2, 3, 1)), keras.layers
    conv = of.Conv3D(2, 1)
    model = keras.Model(inputs, flat.get_layer("fc")(of.GlobalAveragePooling3D()(of.ReLU()(conv(inputs)))))
    weight, bias = flat.get_layer("conv").get_weights()
    conv.set_weights([weight[None], bias])
    return model, np.repeat(image[:, None], 4, 1)


def test_volumes_are_upsampled_along_all_axes_and_one_scale_holds() -> None:
    net = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.LazyLinear(2))
    volumes = torch.rand(2, 1, 10, 12, 14)
    net(volumes)
    heatmap = explain(net, volumes, target=0)
    assert heatmap.values.shape == (2, 10, 12, 14)
    assert_allclose(heatmap.values[~heatmap.blank].max((1, 2, 3)), 1, rtol=1e-6)
    for scaling in ("scale_before_relu", "none"):
        assert explain(net, volumes, target=0, scaling=scaling).values.shape == (2, 10, 12, 14)


def test_a_map_that_lost_an_axis_is_an_error() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.fc(net.flat(net.conv(x).mean(2)).mean((2, 3)))

    projected = Net(compute, conv=nn.Conv3d(1, 2, 3), flat=nn.Identity(), fc=nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match=r"has a map with 2 axes, and the images have 3"):
        explain(projected, torch.rand(1, 1, 6, 8, 8), layer="flat")
    assert explain(projected, torch.rand(1, 1, 6, 8, 8)).layer == "conv"


def test_a_reshape_makes_a_volume_of_tokens() -> None:
    net, volume = volumetric("torch", IMAGE[:, None])
    expected = explain(net, volume, layer="1")

    def compute(outer: Any, x: torch.Tensor) -> torch.Tensor:
        return net[4](outer.tokens(net[1](net[0](x)).flatten(2).mT).mean(1))

    tokenised = Net(compute, net=net, tokens=nn.Identity())
    heatmap = explain(tokenised, volume, layer="tokens", reshape=lambda t: t.mT.unflatten(2, (4, 2, 3)))
    assert_allclose(heatmap.raw, expected.raw, atol=1e-6)


# --- what is listed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", KITS)
def test_layers_say_what_they_are(framework: str) -> None:
    infos = list_layers(KITS[framework].small(), KITS[framework].images(np.random.randn(1, 9, 12, 3)))
    convolutions = [info for info in infos if info.convolution]
    assert [info.relu for info in convolutions] == [True, True]  # behind the norm; directly, or fused
    assert [info.shape for info in convolutions] == [(8, 9, 12), (6, 7, 10)]
    defaults = [info for info in infos if info.default]
    assert [info.name for info in defaults] == [convolutions[-1].name]
    assert all(isinstance(info, LayerInfo) for info in infos)


@pytest.mark.parametrize("name", ["conv2", "module.conv2", "_orig_mod.conv2", "module._orig_mod.conv2", 3])
def test_a_layer_is_found_by_its_place_and_by_its_name_in_whatever_wraps_the_model(name: str | int) -> None:
    """DataParallel and torch.compile write names of their own before it."""
    assert explain(SmallTorch(), torch.randn(1, 3, 9, 12), layer=name).layer == "conv2"


def test_a_reshape_needs_its_layer() -> None:
    with pytest.raises(ArgumentError, match="reshape is given without layer"):
        explain(tokenised("torch", "tokens"), KITS["torch"].images(WIDE), reshape=lambda t: t)


# --- the default -----------------------------------------------------------------------------------------


def test_the_default_is_a_map_that_the_score_depends_on() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.drop(net.pool(torch.relu(net.first(x))))
        net.aside(x)
        return net.fc(x.mean((2, 3)))

    front = {"first": nn.Conv2d(1, 4, 3), "pool": nn.MaxPool2d(2), "drop": nn.Dropout(0.5)}
    model = Net(compute, **front, aside=nn.Conv2d(4, 4, 3), fc=nn.Linear(4, 2)).eval()
    heatmap = explain(model, torch.rand(2, 1, 12, 12))
    assert heatmap.layer == "first + activation"
    assert not heatmap.blank.all()


@pytest.mark.parametrize("framework", KITS)
def test_the_default_lies_before_a_last_pooling_and_what_hands_it_on(framework: str) -> None:
    if framework == "torch":
        features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5))
        model: Any = nn.Sequential(features, nn.Flatten(), nn.Linear(4 * 5 * 5, 2)).eval()
    else:
        keras = KERASES[framework]
        inputs, of = keras.Input((12, 12, 1)), keras.layers
        pooled = of.MaxPool2D()(of.ReLU(name="rectified")(of.Conv2D(4, 3)(inputs)))
        features = keras.Model(inputs, of.Dropout(0.5)(pooled), name="features")
        outer = keras.Input((12, 12, 1))
        model = keras.Model(outer, of.Dense(2)(of.Flatten()(features(outer))))
    images = KITS[framework].images(np.random.rand(1, 12, 12, 1))
    assert explain(model, images).layer == ("0.1" if framework == "torch" else "rectified")


def test_a_map_that_is_as_large_as_the_tokens_are_many_is_no_attention() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        tokens = net.norm(net.down(x).flatten(2).movedim(1, -1))  # four, and the map is 4 x 4
        x = x + nn.functional.interpolate(tokens.movedim(1, -1).unflatten(2, (2, 2)), scale_factor=2)
        return net.fc(net.last(x).mean((2, 3)))

    front = {"stem": nn.Conv2d(3, 8, 8, stride=8), "down": nn.Conv2d(8, 8, 2, stride=2), "norm": nn.LayerNorm(8)}
    mixed = Net(compute, **front, last=nn.Conv2d(8, 16, 3, padding=1), fc=nn.Linear(16, 2))
    assert explain(mixed, torch.rand(1, 3, 32, 32)).layer == "last"


def test_a_default_that_nothing_reaches_is_asked_for_anew() -> None:
    model, images = ClassTokenNet().eval(), torch.randn(2, 3, 16, 24)
    weight = model.fc.weight.detach().clone()
    with torch.no_grad():
        model.fc.weight.zero_()
    assert explain(model, images).blank.all()
    with torch.no_grad():
        model.fc.weight.copy_(weight)
    assert explain(model, images).layer == "norms.1"


@pytest.mark.parametrize("framework", KITS)
def test_the_default_of_one_output_is_not_that_of_another(framework: str) -> None:
    if framework == "torch":

        def compute(net: Any, x: torch.Tensor) -> Any:
            x = torch.relu(net.a(x))
            return {"early": x.mean((2, 3)), "late": net.b(x).mean((2, 3))}

        model: Any = Net(compute, a=nn.Conv2d(1, 3, 3), b=nn.Conv2d(3, 2, 3))
    else:
        keras = KERASES[framework]
        inputs, of = keras.Input((8, 8, 1)), keras.layers
        x = of.Conv2D(3, 3, activation="relu", name="a")(inputs)
        late = of.GlobalAveragePooling2D(name="late")(of.Conv2D(2, 3, name="b")(x))
        model = keras.Model(inputs, [of.GlobalAveragePooling2D(name="early")(x), late])
    images = KITS[framework].images(np.random.rand(1, 8, 8, 1))
    assert explain(model, images, model_output="late").layer == "b"
    early = explain(model, images, model_output="early")
    assert early.layer.startswith("a")
    assert [info.name for info in list_layers(model, images, model_output="early") if info.default] == ["a"]


@pytest.mark.parametrize("framework", KITS)
@pytest.mark.parametrize("softmax", [False, True])
def test_the_default_of_a_segmentation_lies_before_what_makes_its_scores(framework: str, softmax: bool) -> None:
    if framework == "torch":
        head = [nn.Softmax(1)] if softmax else []
        model: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), *head)
    else:
        keras = KERASES[framework]
        inputs, of = keras.Input((8, 8, 1)), keras.layers
        x = of.Conv2D(4, 3, activation="relu", name="features")(inputs)
        model = keras.Model(inputs, of.Conv2D(2, 1, activation="softmax" if softmax else None)(x))
    images = KITS[framework].images(np.random.rand(1, 8, 8, 1))
    assert explain(model, images, target=Segmentation(0)).layer == ("1" if framework == "torch" else "features")


def test_the_default_is_looked_for_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(by_hand(KITS["torch"]), torch.randn(2, 3, 9, 12), score="output")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_step_in_place_is_not_what_it_was_given(in_place: bool) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(in_place), nn.Flatten(), nn.Linear(18, 2))
    assert explain(net, torch.rand(1, 1, 8, 8)).layer == "2"


def test_attention_weights_are_no_map() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        tokens = net.norm(net.patch(x).flatten(2).movedim(1, -1))
        weights = net.weights((tokens @ tokens.mT)[:, None].softmax(-1))  # (N, 1, T, T)
        return net.fc((weights[:, 0] @ tokens).mean(1))

    front = {"patch": nn.Conv2d(3, 8, 4, stride=4), "norm": nn.LayerNorm(8)}
    attending = Net(compute, **front, weights=nn.Identity(), fc=nn.Linear(8, 3))
    infos = list_layers(attending, torch.randn(1, 3, 16, 24))
    assert [info.spatial for info in infos if info.name == "weights"] == [False]
    assert [info.name for info in infos if info.default] == ["norm"]


def test_an_attention_gate_is_not_the_default() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.conv(x)
        return net.fc((x * net.gate(x).sigmoid()).mean((2, 3)))

    gated = Net(compute, conv=nn.Conv2d(1, 4, 3), gate=nn.Conv2d(4, 1, 1), fc=nn.Linear(4, 2))
    assert explain(gated, torch.rand(1, 1, 8, 8)).layer == "conv"


def test_a_map_of_one_place_says_so() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(CamWarning, match=r"layer='1' has a map of one pixel"):
        explain(net, torch.rand(1, 1, 8, 8), layer="1")


@pytest.mark.parametrize("name", ["methods", "layers", "targets"])
def test_lists_are_lists(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"{name}=.* is not accepted. Accepted: a list"):
        explain_many(SmallTorch(), torch.randn(1, 3, 9, 12), **{name: 1})


# --- the default is a place that this score depends on ------------------------------------------------------


def head(framework: str, hidden: int, classes: int, name: str) -> Any:
    """Two convolutions, as the head of a segmentation."""
    if framework == "torch":
        return nn.Sequential(nn.Conv2d(hidden, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, classes, 1))
    parts = [of.Conv2D(6, 3, padding="same"), of.ReLU(name=f"{name}_relu"), of.Conv2D(classes, 1)]
    return lambda x: parts[2](parts[1](parts[0](x)))


def segmenting(framework: str) -> Any:
    """A segmentation with an auxiliary head that runs last."""
    if framework == "torch":

        def compute(net: Any, x: torch.Tensor) -> Any:
            x = torch.relu(net.body(x))
            return {"out": net.main(x), "aux": net.aside(x)}

        heads = {name: head("torch", 4, 3, name) for name in ("main", "aside")}
        return Net(compute, body=nn.Conv2d(1, 4, 3), **heads).eval()
    inputs = tf.keras.Input((8, 8, 1))
    x = of.Conv2D(4, 3, activation="relu")(inputs)
    return tf.keras.Model(inputs, {name: head("keras", 4, 3, name)(x) for name in ("out", "z_aside")})


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_default_of_a_segmentation_is_not_in_a_head_that_is_not_explained(framework: str) -> None:
    model, images = segmenting(framework), KITS[framework].images(np.random.rand(2, 8, 8, 1))
    everywhere = Segmentation(1, mask=np.ones((6, 6), bool))
    heatmap = explain(model, images, target=everywhere, model_output="out", method="hires_cam")
    assert heatmap.layer == ("main.1" if framework == "torch" else "out_relu")
    assert (heatmap.raw != 0).any((1, 2)).all()
    if framework == "torch":
        assert explain(model, images, target=everywhere).layer == "main.1"  # "out" is the output that is found
        assert explain(model, images, target=everywhere, model_output="aux").layer == "aside.1"


@pytest.mark.parametrize("depth", [1, 6])
def test_the_default_is_not_in_an_auxiliary_classifier_that_runs_last(depth: int) -> None:
    """However long that is."""

    def compute(net: Any, x: torch.Tensor) -> Any:
        x = net.relu(net.body(x))
        return {"logits": net.fc(x.mean((2, 3))), "aux": net.aside(x)}

    steps = [step for _ in range(depth) for step in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    aside = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = Net(compute, body=nn.Conv2d(1, 4, 3), relu=nn.ReLU(), aside=aside, fc=nn.Linear(4, 3)).eval()
    assert explain(model, torch.rand(2, 1, 8, 8)).layer == "relu"


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_default_of_a_callable_is_what_its_score_depends_on(framework: str) -> None:
    model, images = segmenting(framework), KITS[framework].images(np.random.rand(2, 8, 8, 1))
    summed = {"torch": lambda scores: scores.sum((1, 2, 3)) ** 2, "keras": lambda x: tf.reduce_sum(x, (1, 2, 3)) ** 2}
    layers = []
    for output in ("out", "aux" if framework == "torch" else "z_aside"):
        heatmap = explain(model, images, target=lambda given, name=output: summed[framework](given[name]))
        assert (heatmap.raw != 0).any((1, 2)).all()
        layers.append(heatmap.layer)
    assert layers[0] != layers[1]


def test_the_layer_for_a_callable_is_looked_for_once() -> None:
    rows: list[int] = []

    def compute(net: Any, x: torch.Tensor) -> Any:
        rows.append(len(x))
        return {"out": net.first(x), "aux": net.second(x)}

    model = Net(compute, first=nn.Conv2d(1, 2, 3), second=nn.Conv2d(1, 2, 3)).eval()
    images = torch.rand(2, 1, 8, 8)
    for name, layer in (("out", "first"), ("aux", "second"), ("out", "first")):
        for _ in range(2):
            rows.clear()
            assert explain(model, images, target=lambda given, name=name: given[name].sum((1, 2, 3))).layer == layer
    assert rows == [2]


OUTPUT = "out"


def _weighted(weights: torch.Tensor) -> Any:
    return lambda given: weights[0] * given["out"].sum((1, 2, 3)) + weights[1] * given["aux"].sum((1, 2, 3))


def _through(function: Any) -> Any:
    return lambda given: function(given)


def _of_global() -> Any:
    return lambda given: given[OUTPUT].sum((1, 2, 3))


@pytest.mark.parametrize("kind", ["array", "function", "global"])
def test_callables_of_one_code_that_read_something_else_have_layers_of_their_own(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Net(lambda net, x: {"out": net.first(x), "aux": net.second(x)}, first=nn.Conv2d(1, 2, 3),
                second=nn.Conv2d(1, 2, 3)).eval()  # fmt: skip
    images, found = torch.rand(2, 1, 8, 8), []
    for at, name in enumerate(("out", "aux")):
        monkeypatch.setitem(globals(), "OUTPUT", name)
        target = {
            "array": _weighted(torch.eye(2)[at]),
            "function": _through(lambda given, name=name: given[name].sum((1, 2, 3))),
            "global": _of_global(),
        }[kind]
        found.append(explain(model, images, target=target).layer)
    assert found == ["first", "second"]


@pytest.mark.parametrize("reached", [*range(7), 30, 198])
def test_the_last_layer_that_counts_is_found_in_few_tries(reached: int) -> None:
    asked: list[str] = []
    infos = [LayerInfo(f"{at}", "Conv2d", (4, 6, 6), spatial=True) for at in range(200)]

    def reaches(ref: Any) -> bool:
        asked.append(ref.name)
        return int(ref.name) <= reached

    ref, certain = default_layer(infos, reaches, of_pixels=False)
    assert (ref.name, certain) == (f"{reached}", True)
    assert len(asked) == len(set(asked)) < 22


def test_a_head_of_zeros_is_not_searched_through() -> None:
    asked: list[str] = []
    infos = [LayerInfo(f"{at}", "Conv2d", (4, 6, 6), spatial=True) for at in range(200)]

    def reaches(ref: Any) -> bool:
        asked.append(ref.name)
        return False

    ref, certain = default_layer(infos, reaches, of_pixels=False)
    assert (ref.name, certain) == ("199", False)
    assert asked[-1] == "0"
    assert len(asked) < 16


@pytest.mark.parametrize(("bent", "accepted"), [((), "none"), (("b", "c"), "b, c")])
def test_where_no_relu_follows_the_convolutions_of_which_one_does_are_named(bent: Any, accepted: str) -> None:
    infos = [LayerInfo(name, "Conv2d", (4, 6, 6), convolution=True, spatial=True, relu=name in bent) for name in "abcd"]
    with pytest.raises(ArgumentError, match=rf"no ReLU follows the convolution 'd'.* a ReLU follows: {accepted}\.$"):
        convolution_layer(infos, None, False)


# --- what a module does, not what it is called --------------------------------------------------------------


@pytest.mark.parametrize("passing", [nn.Dropout(0.3), nn.Dropout2d(0.3), nn.Identity(), nn.AlphaDropout(0.3)])
def test_a_module_that_passes_on_a_sum_is_a_name_for_it(passing: nn.Module) -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(net.stem(x))
        return net.fc(net.again(net.passing(x + net.norm(net.conv(x)))).mean((2, 3)))

    front = {"stem": nn.Conv2d(1, 4, 3), "conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4)}
    model = Net(compute, **front, passing=passing, again=nn.Identity(), fc=nn.Linear(4, 3)).eval()
    images = torch.randn(2, 1, 8, 8)
    heatmap = explain(model, images, target=1, method="hires_cam")
    assert heatmap.layer == "passing"
    with torch.no_grad():
        stem = torch.relu(model.stem(images))
        expected = torch.einsum("k,nkhw->nhw", model.fc.weight[1], stem + model.norm(model.conv(stem))) / 36
    assert_allclose(heatmap.raw, expected, atol=1e-6)


class AttentionPooling(nn.Module):
    """Is called as if it pooled, and computes a map."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,nchw->nohw", self.weight, x).tanh()


class Thinning(nn.Module):
    """Is called as if it computed, and pools."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(x, 2)


@pytest.mark.parametrize(
    ("modules", "layer"),
    [
        ((AttentionPooling(),), "1"),
        ((Thinning(),), "0"),
        ((Thinning(), nn.Dropout(0.3), nn.Identity()), "0"),
        ((nn.Sequential(nn.Tanhshrink(), nn.Dropout(0.3)),), "1.0"),
        ((nn.LPPool2d(2, 2),), "0"),
        ((Thinning(), nn.Hardtanh()), "2"),
    ],
)
def test_pooling_is_what_a_module_does(modules: tuple[nn.Module, ...], layer: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    assert explain(net, torch.randn(1, 1, 10, 10)).layer == layer


class BentPool(of.Layer):
    """Is called as if it pooled, and computes a map."""

    def call(self, x: Any) -> Any:
        return tf.tanh(3 * x)


class KerasThinning(of.Layer):
    """Is called as if it computed, and pools."""

    def call(self, x: Any) -> Any:
        return tf.nn.max_pool2d(x, 2, 2, "VALID")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([BentPool()], 1),
        ([KerasThinning()], 0),
        ([KerasThinning(), of.Dropout(0.3)], 0),
        ([of.Dropout(0.3)], 0),
        ([of.AveragePooling2D(), of.ReLU()], 2),
    ],
)
def test_pooling_is_what_a_keras_layer_does(layers: list[Any], expected: int) -> None:
    net = tf.keras.Sequential([of.InputLayer((10, 10, 1)), of.Conv2D(4, 3), *layers, of.Flatten(), of.Dense(2)])
    assert explain(net, np.random.rand(1, 10, 10, 1).astype(np.float32)).layer == net.layers[expected].name


def test_a_keras_layer_that_passes_on_a_sum_is_a_name_for_it() -> None:
    class Residual(tf.keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = of.Conv2D(4, 3, activation="relu"), of.Conv2D(4, 3, padding="same")
            self.norm, self.passing, self.out = of.BatchNormalization(), of.Dropout(0.3, name="passing"), of.Dense(2)

        def call(self, x: Any) -> Any:
            x = self.stem(x)
            return self.out(tf.reduce_mean(self.passing(x + self.norm(self.conv(x))), (1, 2)))

    assert explain(Residual(), np.random.rand(1, 8, 8, 1).astype(np.float32)).layer == "passing"


def test_the_default_of_a_transformer_that_averages_its_tokens_is_what_it_averages() -> None:
    """The last sum, not the normalisation before the last block: a part of the score goes past that."""

    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.fc(net.norm(net.blocks(net.patch(x).flatten(2).mT).mean(1)))

    def block(net: Any, x: torch.Tensor) -> torch.Tensor:
        return x + net.mlp(net.norm(x))

    blocks = nn.Sequential(*(Net(block, norm=nn.LayerNorm(8), mlp=nn.Linear(8, 8)) for _ in range(2)))
    model = Net(compute, patch=nn.Conv2d(3, 8, 4, stride=4), blocks=blocks, norm=nn.LayerNorm(8), fc=nn.Linear(8, 2))
    heatmap = explain(model.eval(), torch.randn(2, 3, 16, 24))
    assert (heatmap.layer, heatmap.raw.shape) == ("blocks", (2, 4, 6))


def test_the_rows_of_heads_are_no_map() -> None:
    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        tokens = net.norm(net.patch(x).flatten(2).mT)
        query = net.query(net.asking.expand(len(x), -1, -1).unflatten(-1, (2, 4)).transpose(1, 2))  # (N, 2, 1, 4)
        keys = tokens.unflatten(-1, (2, 4)).transpose(1, 2)
        return net.fc((query @ keys.mT).softmax(-1).matmul(keys).flatten(1))

    front = {"patch": nn.Conv2d(3, 8, 4, stride=4), "norm": nn.LayerNorm(8), "query": nn.Linear(4, 4)}
    model = Net(compute, **front, fc=nn.Linear(8, 2))
    model.asking = nn.Parameter(torch.randn(1, 1, 8))
    assert explain(model.eval(), torch.randn(2, 3, 16, 24)).layer == "norm"


@pytest.mark.parametrize("layer", [None, "inner.1"])
def test_a_model_with_its_channels_in_another_axis_says_so(layer: str | None) -> None:
    """Its maps are larger than the image would be otherwise; of Keras, see backends/keras."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = Net(lambda net, x: net.inner(x.movedim(-1, 1)), inner=net)
    with pytest.raises(ArgumentError, match=r"images has shape .*Wrap the model .*pass images\.permute\(0, 3, 1, 2\)"):
        explain(model, torch.rand(1, 16, 24, 3), layer=layer)


def test_scores_of_another_resolution_are_no_default() -> None:
    """They are added to the last, and lie before them in the pass."""

    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        low = torch.relu(net.stem(x))
        high = net.deep(nn.functional.max_pool2d(low, 2))
        fine = net.fine(low)
        return fine + nn.functional.interpolate(net.coarse(high), scale_factor=2)

    deep = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
    parts = {"stem": nn.Conv2d(1, 4, 3), "deep": deep, "fine": nn.Conv2d(4, 3, 1), "coarse": nn.Conv2d(6, 3, 1)}
    assert explain(Net(compute, **parts).eval(), torch.rand(1, 1, 10, 10), target=Segmentation(0)).layer == "deep"
