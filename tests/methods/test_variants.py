"""Asking the model again: whose target, in which order, the part behind the layer alone; patches that are covered."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fe_gradcam import METHODS, Augment, Contrast, OutputValue, Rank, Segmentation, UnsupportedModelError, explain
from fe_gradcam.backends.keras.compiled import FUNCTIONS
from fe_gradcam.errors import ArgumentError
from fe_gradcam.types import Needs
from tests.methods.inputs import PERTURBING, Counting, Net, assert_close, given_by, inputs_of, small, stacked
from tests.metrics.readers import outputs_of, untouched
from tests.models.toys import TOYS, CurvedTorch, curved_keras, layers, twins

ASKING = [name for name, method in METHODS.items() if Needs.PROBE in method.needs]


class Convolved(TorchDispatchMode):
    """Notes how many rows each convolution is computed for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(func):
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_ablation_computes_the_front_once_for_many_channels() -> None:
    """Of two images with ten channels: both at first, each in a trial of three rows, each once alone."""
    model, counted = Counting(), Convolved()
    with counted:
        explain(model, torch.randn(2, 3, 9, 9), method="ablation_cam", layer="relu", batch_size=5)
    assert sorted(counted.rows) == [1, 1, 2, 3]
    assert model.rows.count((5, 5)) == 4  # all the same the model sees as many rows as are asked for


def test_fewer_rows_are_asked_at_once_where_an_image_or_an_output_is_large() -> None:
    """On a CPU its memory would go back to the system each time; a batch size of the user's own stays what it is."""

    def most(hidden: int, batch_size: int | None = None, side: int = 20) -> int:
        rows: list[int] = []

        def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
            rows.append(len(x))
            return net.fc(net.maps(net.wide(x)).mean((2, 3)))

        parts = {"wide": nn.Conv2d(1, hidden, 3), "maps": nn.Conv2d(hidden, 10, 1), "fc": nn.Linear(10, 2)}
        images = torch.rand(1, 1, side, side)
        explain(Net(compute, **parts).eval(), images, method="score_cam", layer="maps", batch_size=batch_size)
        return max(rows)

    assert most(4) == 10  # all channels
    assert most(1000) == 4  # of 324000 numbers each
    assert most(1000, 8) == 8
    assert (most(4, side=224), most(4, side=448), most(4, 8, side=224)) == (4, 1, 8)  # pixels of four images of 224


class Skips(nn.Module):
    """What leads past the layer is added, concatenated, or counted upon; ablation must be right in each."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.front = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(8 if how == "concatenated" else 4, 3)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.relu(self.front(x))
        return self.behind(self.layer(before), before)

    def behind(self, maps: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        if self.how == "concatenated":
            maps = torch.cat([maps, before], 1)
        elif self.how == "added":
            maps = maps + before
        elif self.how == "viewed":
            maps = torch.relu(maps).view(len(maps), 4, -1)[..., None]
        elif self.how == "written to before":
            before.mul_(2)
            maps = maps + before
        elif self.how == "in place":
            maps = maps.relu_()
        return self.fc(torch.tanh(maps).mean((2, 3)))


@pytest.mark.parametrize("how", ["added", "concatenated", "viewed", "in place", "written to before"])
def test_ablation_by_hand_whatever_leads_past_the_layer(how: str) -> None:
    model, images = Skips(how).eval(), torch.randn(3, 3, 5, 6)
    heatmap = explain(model, images, method="ablation_cam", layer="layer", target=1, batch_size=3)
    with torch.no_grad():
        before = torch.relu(model.front(images))
        maps, whole = model.layer(before), model(images)[:, 1]
        gone = [maps * (torch.arange(4) != channel)[:, None, None] for channel in range(4)]
        drops = [whole - model.behind(changed, before.clone())[:, 1] for changed in gone]
    assert_close(heatmap.raw, torch.einsum("nk,nkhw->nhw", torch.stack(drops, 1) / whole.abs()[:, None], maps))


@pytest.mark.parametrize("how", ["added", "concatenated"])
def test_ablation_by_hand_in_keras(how: str) -> None:
    inputs = tf.keras.Input((5, 6, 3))
    before = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    maps = layers.Conv2D(4, 3, padding="same", name="layer")(before)
    both = layers.Add()([maps, before]) if how == "added" else layers.Concatenate()([maps, before])
    head = tf.keras.Sequential([layers.Activation("tanh"), layers.GlobalAveragePooling2D(), layers.Dense(3)])
    model = tf.keras.Model(inputs, head(both))
    images = np.random.randn(3, 5, 6, 3).astype(np.float32)
    heatmap = explain(model, images, method="ablation_cam", layer="layer", target=1, batch_size=3)
    activations, past = (output.numpy() for output in tf.keras.Model(inputs, [maps, before])(images))
    gone = [activations * (np.arange(4) != channel) for channel in range(4)]
    whole, *scores = (
        head(changed + past if how == "added" else np.concatenate([changed, past], -1)).numpy()[:, 1]
        for changed in (activations, *gone)
    )
    assert_close(heatmap.raw, np.einsum("kn,nhwk->nhw", (whole - np.array(scores)) / np.abs(whole), activations))


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_target_stays_what_it_was(framework: str) -> None:
    """Under a mask another class may be the highest: the one inferred for the image is asked for all the same."""
    model, images, layer = twins()[framework]
    inferred = explain(model, images, layer=layer).class_ids
    assert len(set(inferred)) > 1
    for method in PERTURBING:
        by_none, by_ids = (explain(model, images, method=method, layer=layer, target=ids) for ids in (None, inferred))
        assert_close(by_none.raw, by_ids.raw, 1e-6)
        assert np.array_equal(by_none.class_ids, inferred)


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize(
    ("target", "ranked", "of", "against"),
    [(Rank(2), True, 1, []), (Contrast(None, None), True, 0, [1]), (Contrast(1, 2), False, 1, [2]),
     (OutputValue(1), False, 1, [])],
    ids=repr,
)  # fmt: skip
def test_ablation_of_other_targets_is_that_of_a_callable(
    framework: str, target: Any, ranked: bool, of: int, against: list[int]
) -> None:
    model, images, layer = twins()[framework]
    outputs = outputs_of(model, images)
    classes = np.argsort(-outputs, 1) if ranked else np.broadcast_to(np.arange(outputs.shape[1]), outputs.shape)
    table = np.zeros_like(outputs)
    np.put_along_axis(table, classes[:, [of]], 1, 1)
    np.put_along_axis(table, classes[:, against], -1, 1)

    def score(output: Any) -> Any:
        if framework == "torch":
            assert output.shape == table.shape  # the batch as it is, so that rows may be told apart
            return (output * torch.from_numpy(table)).sum(1)
        return tf.reduce_sum(output * tf.constant(table), 1)

    for method in ("ablation_cam", "score_cam"):
        plain, called = (explain(model, images, method=method, layer=layer, target=one).raw for one in (target, score))
        assert_close(plain, called, 1e-4)


def test_ablation_of_a_segmentation_keeps_the_pixels() -> None:
    """The pixels that are the class's own in the image, whatever the network says once a channel is gone."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    images = torch.randn(2, 3, 6, 7)
    own = (net(images).argmax(1) == 1).float()
    assert own.any() and not own.all()
    targets = Segmentation(1), Segmentation(1, mask=own.numpy())
    found, given = (explain(net, images, method="ablation_cam", layer="1", target=target).raw for target in targets)
    assert_allclose(found, given, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_the_random_streams_are_left_as_found(framework: str, method: str) -> None:
    model, images = small(framework)
    refused = method == "le_grad" or (method, framework) == ("cam", "torch")
    with untouched(model), pytest.raises(UnsupportedModelError) if refused else nullcontext():
        explain(model, images, method=method, layer="conv2")
    if framework == "torch":
        assert model.training and model.norm.training
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("cam", "full_grad", "le_grad")])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_volumes(framework: str, method: str) -> None:
    model, images, _ = stacked(framework, (5, 6, 7), "relu", 3, pooled=True)
    values = explain(model, images, method=method).values
    assert values.shape == (2, 5, 6, 7) and np.isfinite(values).all()


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam", "occlusion", "smooth_grad_cam_plus_plus"])
def test_of_several_inputs_the_picture_is_varied(method: str) -> None:
    def score(net: Any, numbers: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return net.fc(torch.cat([torch.relu(net.conv(image)).mean((2, 3)), numbers], 1))

    model = Net(score, conv=nn.Conv2d(1, 3, 3), fc=nn.Linear(3 + 2, 2))
    numbers, images = torch.tensor([[5.0, -3.0], [0.5, 2.0]]), torch.randn(2, 1, 8, 9)
    whole = explain(model, (numbers, images), method=method, layer="conv", target=0)
    for row in range(2):
        of_row = Net(lambda net, image, row=row: net.two(numbers[row].expand(len(image), -1), image), two=model)
        alone = explain(of_row, images[row : row + 1], method=method, layer="two.conv", target=0)
        # A drop is what two scores differ by, and their terms, up to 2 here, cancel to 0.1: they round by their size.
        rounding = 2 * 2.0**-23 * float((model.fc.weight[0, 3:] * numbers[row]).abs().sum())
        assert_allclose(whole.raw[row], alone.raw[0], rtol=1e-5, atol=rounding)
    assert explain(model, (numbers, images), method="full_grad", layer="conv").raw.shape == (2, 8, 9)


@pytest.mark.parametrize("method", [name for name in ASKING if name != "le_grad"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(method: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    net, images = CurvedTorch(linear=True).eval(), torch.randn(2, 3, 6, 8)
    wide = explain(net, images, method=method, target=1).raw
    narrow = explain(net.to(dtype), images, method=method, target=1).raw
    assert narrow.dtype == np.float32 and np.isfinite(narrow).all()
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(wide, narrow, strict=True)]
    assert min(alike) > (0.9 if method in PERTURBING else 0.98)  # differences of scores lose digits: bf16 has 8 bits


def test_a_probability_model_without_a_visible_head_is_asked_alike() -> None:
    """Rows under a mask are read as the image itself was: log p, and not one as logits and one as probabilities."""

    def shares(net: Any, x: torch.Tensor) -> torch.Tensor:
        raised = net.net(x).exp()
        return raised / raised.sum(1, keepdim=True)

    inside, images = small("torch")
    model = Net(shares, net=inside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raws = {method: explain(model, images, method=method, layer="net.conv2", target=2).raw for method in PERTURBING}
    assert all(np.isfinite(raw).all() for raw in raws.values())
    logs = Net(lambda net, x: net.net(x).log_softmax(1), net=inside)
    expected = explain(logs, images, method="ablation_cam", layer="net.conv2", target=lambda out: out[:, 2])
    assert_close(raws["ablation_cam"], expected.raw)


def test_keras_twin_of_the_probe_compiles_once() -> None:
    """Chunks of other sizes share a compiled pass."""
    torch.manual_seed(0)
    model = curved_keras(CurvedTorch())
    images = np.random.randn(3, 6, 8, 3).astype(np.float32)
    explain(model, images, method="ablation_cam", layer="conv2", batch_size=2)
    count = len(FUNCTIONS[model])
    explain(model, images, method="ablation_cam", layer="conv2", batch_size=3)
    assert len(FUNCTIONS[model]) == count


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_region_is_mirrored_with_the_image(framework: str) -> None:
    """A pointwise network sees each place by itself: mirrored views must give the very map of the plain one."""
    mask = np.zeros((4, 6), np.float32)
    mask[1:3, 0:2] = 1
    model, images, (_, layer, _) = stacked(framework, (4, 6), "tanh")
    flips = Augment(flips=("horizontal", "vertical"), factors=(1.0,))
    for method in ("hires_cam", "ablation_cam"):
        asked: dict[str, Any] = {"method": method, "layer": layer, "target": Segmentation(1, mask=mask)}
        plain, mirrored = explain(model, images, **asked).raw, explain(model, images, **asked, smooth=flips).raw
        assert method != "hires_cam" or not plain[:, 3].any(), "the region is not what is explained"
        assert_close(mirrored, plain)


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("method", [*PERTURBING, "smooth_grad_cam_plus_plus"])
def test_bytes_stay_bytes(framework: str, method: str) -> None:
    """A network that takes bytes goes by their dtype: what is asked of it later must be bytes too."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    net = CurvedTorch()
    nn.init.constant_(net.out.bias, 3.0)  # beyond what could be probabilities
    if framework == "torch":
        model: Any = Net(lambda outer, x: outer.net(x.float() / 255 if x.dtype == torch.uint8 else x), net=net)
        inside, layer = net, "net.conv2"
        images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    else:
        inputs, inside = tf.keras.Input((6, 8, 3), dtype="uint8"), curved_keras(net)
        model = tf.keras.Model(inputs, inside(layers.Rescaling(1 / 255)(inputs)))
        images, layer = pixels, "conv2"
    given = {"ss_cam": {"noise": 0, "samples": 1}, "smooth_grad_cam_plus_plus": {"noise": 0}}.get(method, {})
    found = explain(model, images, layer=layer, target=1, method=(method, given))
    expected = explain(inside, images.astype(np.float32) / 255, layer="conv2", target=1, method=(method, given))
    assert_close(found.raw, expected.raw, 2e-2)  # bytes are rounded under a mask


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_logits_of_bytes_that_lie_within_one_by_chance_are_logits(framework: str) -> None:
    """Bytes cannot be scaled without end, but far enough to see that outputs of 0.1 are no probabilities."""
    values = (1.0, 0.0, 0.02, 0.1)  # of the convolution and of the head, weights and biases
    images = np.full((2, 1, 4, 4) if framework == "torch" else (2, 4, 4, 1), 3, np.uint8)
    if framework == "torch":
        parts = {"conv": nn.Conv2d(1, 2, 1), "fc": nn.Linear(2, 3)}
        model: Any = Net(lambda net, x: net.fc(net.conv(x.float()).mean((2, 3))), **parts)
        for parameter, value in zip(model.parameters(), values, strict=True):
            nn.init.constant_(parameter, value)
    else:
        inputs = tf.keras.Input((4, 4, 1), dtype="uint8")
        maps = layers.Conv2D(2, 1)(layers.Rescaling(1.0)(inputs))
        model = tf.keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps)))
        model.set_weights([np.full(one.shape, value) for one, value in zip(model.weights, values, strict=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = explain(model, images, target=0)
    assert_allclose(heatmap.scores, 0.1 + 0.02 * 3 * 2, rtol=1e-5)  # the output itself, and not log p


def test_a_linear_layer_over_channels_that_come_last_is_a_pointwise_convolution() -> None:
    """The same function written two ways has one map of full_grad: the axis of the channels is not guessed."""

    def linear(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(net.point(net.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return net.fc(x.mean((2, 3)))

    def pointwise(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(net.conv(x), net.point.weight[:, :, None, None], net.point.bias)
        return net.fc(nn.functional.relu6(x).mean((2, 3)))

    parts = {"conv": nn.Conv2d(3, 6, 3), "point": nn.Linear(6, 5), "fc": nn.Linear(5, 2)}
    images = torch.randn(2, 3, 9, 11)
    maps = (explain(Net(how, **parts), images, method="full_grad", layer="conv").raw for how in (linear, pointwise))
    assert_close(*maps, 1e-4)


@pytest.mark.parametrize("noise", [0.2, 0.5])
@pytest.mark.parametrize("kind", ["of any sign", "sparse"])
def test_the_noise_of_ss_cam_is_the_same_share_of_every_mask(kind: str, noise: float) -> None:
    """The image is 1 throughout, so what is asked are the masks: their mean is the plain mask, their deviation said."""
    maps = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(5)) * 3
    inputs = given_by((maps - 4).relu() if kind == "sparse" else maps, maps, torch.ones(1, 1, 12, 14))
    asked: list[torch.Tensor] = []

    def score(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append(images)
        return images.flatten(1).mean(1)

    inputs.probe.score = score
    METHODS["score_cam"](inputs)
    plain = torch.cat(asked)
    assert (plain.amin((1, 2, 3)) == 0).all() and (plain.amax((1, 2, 3)) == 1).all()
    asked.clear()
    samples = 400
    METHODS.find(("ss_cam", {"samples": samples, "noise": noise}))(inputs)
    noisy = torch.cat(asked).reshape(samples, *plain.shape)
    assert_allclose((noisy - plain).square().mean((0, 2, 3, 4)).sqrt(), noise, rtol=0.02)
    assert_allclose(noisy.mean(0), plain, atol=5 * noise / samples**0.5)  # five deviations of the mean


def test_random_cam_grows_with_the_activations() -> None:
    inputs = inputs_of(4, 2, 3, 4, 5)
    tripled = given_by(3 * inputs.activations, inputs.gradients, inputs.images)
    assert_close(METHODS["random_cam"](tripled), 3 * METHODS["random_cam"](inputs))


@pytest.mark.parametrize("method", ["score_cam", ("ss_cam", {"samples": 2}), ("is_cam", {"samples": 2})])
@pytest.mark.parametrize("moved", [1.0, -1.0])
def test_a_single_channel_whose_mask_moves_the_score_is_the_map(method: Any, moved: float) -> None:
    """Up or down: the softmax over one channel is 1. If its mask does not move the score, there is no evidence."""
    inputs = inputs_of(4, 3, 1, 4, 5)
    inputs.probe.score = lambda images, rows: inputs.scores[rows] + moved * torch.tensor([1.0, 0.0, 0.5])[rows]
    expected = inputs.activations[:, 0] * torch.tensor([1, 0, 1])[:, None, None]
    assert_allclose(METHODS.find(method)(inputs), expected)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_ablation_where_the_layer_is_the_output(framework: str) -> None:
    """Of a segmentation the last layer is what the scores are read from: its own channel is all there is."""
    model, images, (*_, layer) = stacked(framework, (4, 5), "relu")
    outputs = outputs_of(model, images)
    maps = outputs[:, 1] if framework == "torch" else outputs[..., 1]
    target = Segmentation(1, mask=np.ones((4, 5), np.float32))
    heatmap = explain(model, images, method="ablation_cam", layer=layer, target=target)
    assert_close(heatmap.raw, np.sign(maps.sum((1, 2)))[:, None, None] * maps)


@pytest.mark.parametrize(
    ("bad", "place", "asked"), [(0, (0, 4, 4), {}), (1, (0, 4, 4), {}), (0, ..., {"target": 1, "batch_size": 1})]
)
def test_a_bad_image_does_not_say_how_another_is_read(bad: int, place: Any, asked: dict[str, Any]) -> None:
    """Rows that are not finite look like probabilities: none of them leaves [0, 1]."""
    model, images = Counting(), torch.randn(2, 3, 9, 9)
    good = explain(model, images[[1 - bad]], method="ablation_cam", layer="relu", **asked)
    images[bad][place] = torch.nan
    with pytest.warns(UserWarning, match="NaN"):
        both = explain(model, images, method="ablation_cam", layer="relu", **asked)
    assert both.blank[bad]
    assert_allclose(both.scores[1 - bad], good.scores[0], rtol=1e-6)
    assert_close(both.raw[1 - bad], good.raw[0])


@pytest.mark.parametrize("method", ["cam", "ablation_cam", "shapley_cam", "full_grad"])
def test_weights_made_in_inference_mode_behind_a_module_that_is_called_twice(method: str) -> None:
    """Such a model is copied for a pass: how often its layer is called must be known of the copy too."""

    def twice() -> nn.Module:
        parts = {"first": nn.Conv2d(3, 4, 3), "second": nn.Conv2d(4, 8, 3, stride=2), "fc": nn.Linear(8, 3)}
        bent = nn.ReLU()
        return Net(lambda net, x: net.fc(net.relu(net.second(net.relu(net.first(x)))).mean((2, 3))), **parts, relu=bent)

    plain, images = twice(), torch.randn(2, 3, 13, 13)
    with torch.inference_mode():
        inferring = twice()
        inferring.load_state_dict(plain.state_dict())
    found, expected = (explain(net, images, method=method, layer="relu").raw for net in (inferring, plain))
    assert_close(found, expected)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_occlusion_finds_the_one_patch_that_a_net_reads(framework: str) -> None:
    """A head that reads 3 by 3 places in a corner of 12 by 12, through a 1x1 convolution."""
    weights = np.zeros((12, 12), np.float32)
    weights[2:5, 7:10] = 1
    head = np.stack([weights.ravel(), -weights.ravel()])
    images = np.ones((1, 1, 12, 12) if framework == "torch" else (1, 12, 12, 1), np.float32)
    if framework == "torch":
        model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(144, 2))
        nn.init.ones_(model[0].weight)
        model[2].weight.data = torch.from_numpy(head)
    else:
        parts = [layers.InputLayer((12, 12, 1)), layers.Conv2D(1, 1), layers.Flatten(), layers.Dense(2)]
        model = tf.keras.Sequential(parts)
        model.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1), head.T, np.zeros(2)])
    heatmap = explain(model, images, method=("occlusion", {"patch": 3, "stride": 1, "fill": 0.0}), target=0)
    raw = heatmap.raw[0]
    assert np.unravel_index(raw.argmax(), raw.shape) == (3, 8)  # the middle: all nine patches over it cover some
    assert raw[3, 8] == pytest.approx((9 + 4 * 6 + 4 * 4) / 9)
    far = np.ones((12, 12), bool)
    far[0:7, 5:12] = False
    assert not raw[far].any()
    assert heatmap.layer == "whole model"


def test_occlusion_covers_every_place_and_refuses_gaps() -> None:
    model, image, layer = TOYS["torch"]("pooled")
    with pytest.raises(ArgumentError, match=r"stride=3 is larger than patch=2"):
        explain(model, image, method=("occlusion", {"patch": 2, "stride": 3}))
    wide = 5 * np.random.rand(2, 1, 7, 11).astype(np.float32)
    with pytest.raises(ArgumentError, match=r"patch=99 covers the whole image of \(7, 11\)"):
        explain(model, wide, method=("occlusion", {"patch": 99}), layer=layer)
    for patch, stride in ((4, 3), (5, 5), (8, 1), (1, 1)):
        given = {"patch": patch, "stride": stride}
        raw = explain(model, wide, method=("occlusion", given), target=0, layer=layer).raw
        assert np.isfinite(raw).all() and (raw != 0).all(), "a place was never covered"
