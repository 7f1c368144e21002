"""The CAM rules: hand-worked numbers on constant weights, and the laws that hold for every one of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from fe_gradcam import METHODS, UnsupportedModelError, explain, explain_many
from fe_gradcam.errors import ArgumentError
from fe_gradcam.types import Needs
from tests.methods.inputs import A0, A1, Net, assert_close, given_by, inputs_of, row_of, small
from tests.models.kerases import KERASES
from tests.models.toys import FRAMEWORKS, HEAD, IMAGE, TOYS, TorchToy, twins

# rules that any inputs will do for
ON_INPUTS = [name for name in METHODS if name not in ("full_grad", "le_grad", "cam")]
GRADIENT_METHODS = [name for name in ON_INPUTS if Needs.GRADIENTS in METHODS[name].needs]
OF_LAYER = [name for name in ON_INPUTS if Needs.ACTIVATIONS in METHODS[name].needs]
KNOWS_NO_SCORE = ("eigen_cam", "kpca_cam", "fem", "random_cam")
ZERO = np.zeros((2, 3))
ONE_PLACE = np.array([[0, 0, 0], [0, 0, 5]], np.float64)


def softmax_of_two(first: float, second: float) -> np.ndarray:
    weight = 1 / (1 + np.exp(second - first))
    return weight * A0 + (1 - weight) * A1


RATIO = np.sqrt(626) - 25
EIGEN = (A0 + RATIO * A1) / np.sqrt(1 + RATIO**2)
G_RATIO = 12 * (125 / 18 + np.sqrt((245 / 36) ** 2 + 1 / 144) - 55 / 4)
EIGEN_GRAD = (A0 / 2 + G_RATIO * A1 / 6) / np.sqrt(1 + G_RATIO**2)
HAND_WORKED: list[tuple[str, Any, int, np.ndarray]] = [
    ("pooled", "grad_cam", 0, A0 / 2 + A1 / 6),
    ("pooled", "grad_cam", 1, -A0 / 6 + A1 / 3),
    ("flat", "grad_cam", 0, A0 / 6 - A1),
    ("flat", "grad_cam", 1, ZERO),
    ("pooled", "hires_cam", 0, A0 / 2 + A1 / 6),
    ("pooled", "hires_cam", 1, -A0 / 6 + A1 / 3),
    ("flat", "hires_cam", 0, np.array([[-12, 0, 0], [0, 0, 5]])),
    ("flat", "hires_cam", 1, ZERO),
    ("pooled", "grad_cam_elementwise", 1, A1 / 3),
    ("flat", "grad_cam_elementwise", 0, ONE_PLACE),
    ("pooled", "layer_cam", 0, A0 / 2 + A1 / 6),
    ("pooled", "layer_cam", 1, A1 / 3),
    ("flat", "layer_cam", 0, ONE_PLACE),
    ("flat", "layer_cam", 1, ZERO),
    # 6 places with gradients 1/2 and 1/6, ΣA 15 and 3; class 1: -1/6 and 1/3
    ("pooled", "grad_cam_plus_plus", 0, 3 / 9.5 * A0 + 1 / 2.5 * A1),
    ("pooled", "grad_cam_plus_plus", 1, 2 / 3 * A1),
    ("flat", "grad_cam_plus_plus", 0, A0 / 17),
    ("flat", "grad_cam_plus_plus", 1, ZERO),
    # the toy's gradients are the same for any image
    ("pooled", ("smooth_grad_cam_plus_plus", {"samples": 3}), 0, 3 / 9.5 * A0 + 1 / 2.5 * A1),
    ("flat", "smooth_grad_cam_plus_plus", 0, A0 / 17),
    ("pooled", "xgrad_cam", 0, A0 / 2 + A1 / 6),
    ("flat", "xgrad_cam", 0, A0 / 3 - 4 * A1),
    ("pooled", "shapley_cam", 0, A0 / 2 + A1 / 6),
    ("flat", "shapley_cam", 0, A0 / 6 - A1),
    ("pooled", "cam", 0, 3 * A0 + A1),
    ("pooled", "cam", 1, -A0 + 2 * A1),
    ("pooled", "eigen_cam", 0, EIGEN),
    ("flat", "eigen_cam", 1, EIGEN),
    ("pooled", ("eigen_cam", {"component": 2}), 0, (A1 - RATIO * A0) / np.sqrt(1 + RATIO**2)),
    ("pooled", "eigen_grad_cam", 0, EIGEN_GRAD),
    ("flat", "eigen_grad_cam", 0, np.array([[-12, 0, 0], [0, 0, 0]])),
    ("pooled", "score_cam", 0, softmax_of_two(38.2 / 6, 13 / 6)),
    ("pooled", ("ss_cam", {"noise": 0, "samples": 2}), 0, softmax_of_two(38.2 / 6, 13 / 6)),
    ("pooled", ("is_cam", {"samples": 2}), 0, softmax_of_two((38.2 + 23.5) / 12, (13 + 12.5) / 12)),
    ("flat", "score_cam", 1, ZERO),
    ("pooled", "ablation_cam", 0, 7.5 / 8 * A0 + 0.5 / 8 * A1),
    ("pooled", "ablation_cam", 1, -5 / 3 * A0 + 2 / 3 * A1),
    ("flat", "ablation_cam", 0, 5 / 7 * A0 - 12 / 7 * A1),
    ("flat", "ablation_cam", 1, ZERO),
    ("pooled", "occlusion", 0, (IMAGE[0] - 2.5) / 2 + np.maximum(2 - IMAGE[0], 0) / 6),
    ("flat", "occlusion", 0, np.array([[-12, 0, 0], [0, 0, 2.5]])),
    ("flat", ("occlusion", {"fill": 1.0}), 0, np.array([[-6, 0, 0], [0, 0, 4]])),
    ("flat", "occlusion", 1, ZERO),
    ("pooled", "full_grad", 0, np.array([[0, 1 / 3, 1], [1.5, 2, 2.5]]) / 2.5 + np.array([[1, 1, 0], [0, 0, 0]])),
    ("flat", "full_grad", 0, np.array([[1, 0, 0], [0, 0, 1]])),
]  # fmt: skip
BY_LAW_ALONE = {"kpca_cam", "fem", "random_cam", "le_grad"}  # worked by hand, or against another library, below


@pytest.mark.parametrize("framework", TOYS)
@pytest.mark.parametrize(("kind", "method", "target", "expected"), HAND_WORKED)
def test_hand_worked_numbers(framework: str, kind: str, method: Any, target: int, expected: np.ndarray) -> None:
    model, image, layer = TOYS[framework](kind)
    heatmap = explain(model, image, method=method, layer=layer, target=target)
    assert_allclose(heatmap.raw[0], expected, atol=2e-6)
    assert_allclose(heatmap.scores, {"pooled": [8, -1.5], "flat": [-7, 0]}[kind][target], atol=1e-5)
    assert heatmap.blank[0] == (expected.max() <= 0)
    positive = np.maximum(expected, 0)
    assert_allclose(heatmap.values[0], positive / (positive.max() or 1), atol=2e-6)


def test_every_registered_method_is_worked_by_hand() -> None:
    worked = {method if isinstance(method, str) else method[0] for _, method, _, _ in HAND_WORKED}
    assert worked | BY_LAW_ALONE == set(METHODS)


def test_random_cam_is_some_mixture_of_the_channels() -> None:
    model, image, layer = TOYS["torch"]("pooled")
    heatmap = explain(model, image, method="random_cam", layer=layer)
    mixture, *_ = np.linalg.lstsq(np.stack([A0.ravel(), A1.ravel()], 1), heatmap.raw[0].ravel(), rcond=None)
    assert_allclose(mixture[0] * A0 + mixture[1] * A1, heatmap.raw[0], atol=1e-5)
    assert (np.abs(mixture) <= 1).all()
    assert abs(mixture[0] - mixture[1]) > 1e-3


Shape = tuple[int, int, int, int, int]
SHAPES = st.tuples(st.integers(0, 99), st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(1, 7))


@pytest.mark.parametrize("method", ON_INPUTS)
@given(shape=SHAPES)
def test_a_finite_map_of_each_image_whatever_else_is_in_the_batch(method: str, shape: Shape) -> None:
    inputs = inputs_of(*shape)
    raw = METHODS[method](inputs)
    size = shape[3:] if method in OF_LAYER else (2 * shape[3], 2 * shape[4])
    assert raw.shape == (shape[1], *size) and raw.dtype == torch.float32
    assert torch.isfinite(raw).all()
    rows = [METHODS[method](row_of(inputs, slice(at, at + 1))) for at in range(shape[1])]
    assert_allclose(raw, torch.cat(rows), rtol=1e-4, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("method", [name for name in ON_INPUTS if name != "random_cam"])
@given(shape=SHAPES)
def test_permuting_channels_changes_nothing(method: str, shape: Shape) -> None:
    inputs = inputs_of(*shape)
    order = torch.randperm(shape[2], generator=torch.Generator().manual_seed(shape[0]))
    permuted = given_by(inputs.activations[:, order], inputs.gradients[:, order], inputs.images)
    whole, again = METHODS[method](inputs), METHODS[method](permuted)
    if "eigen" in method or "kpca" in method:  # the sign of a map that hardly agrees with ΣA is rounding
        again = again * torch.where((again * whole).sum((1, 2), keepdim=True) < 0, -1.0, 1.0)
    assert_allclose(again, whole, rtol=1e-3, atol=1e-4)  # sums in another order


@pytest.mark.parametrize("method", ON_INPUTS)
def test_one_bad_image_spoils_no_other(method: str) -> None:
    """NaN and infinities stay with their image, and are not hidden there."""
    good = inputs_of(5, 3, 4, 3, 5)
    expected = METHODS[method](good)
    for value in (np.nan, np.inf, -np.inf):
        activations, gradients = good.activations.clone(), good.gradients.clone()
        activations[1, 2, 1, 1] = value
        gradients[1, 0, 0, 0] = value
        inputs = given_by(activations, gradients, good.images)
        raw = METHODS[method](inputs)
        assert_allclose(raw[[0, 2]], expected[[0, 2]], rtol=1e-4, atol=1e-5)
        if method in OF_LAYER:
            assert not torch.isfinite(raw[1]).all()


@pytest.mark.parametrize("method", ON_INPUTS)
def test_a_rule_writes_nothing_in_place(method: str) -> None:
    inputs = inputs_of(1, 2, 3, 4, 5)
    before = inputs.activations.clone(), inputs.gradients.clone(), inputs.images.clone()
    METHODS[method](inputs)
    for now, then in zip((inputs.activations, inputs.gradients, inputs.images), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@given(shape=SHAPES, power=st.sampled_from([-12, -6, 6, 12]))
def test_gradients_of_any_size_give_the_same_picture(method: str, shape: Shape, power: int) -> None:
    """Up to a factor; what depends on the size of g Σ A (the two of ++) has the factor taken out of A."""
    inputs = inputs_of(*shape)
    factor = 10.0**power
    activations = inputs.activations / factor if "plus_plus" in method else inputs.activations
    raw = METHODS[method](inputs)
    of_scaled = given_by(activations, inputs.gradients * factor, inputs.images)
    curved = inputs.gradients.sin() * factor
    of_scaled.probe.hvp = lambda vectors: vectors * curved  # the second derivative grows with the score
    scaled = METHODS[method](of_scaled)
    largest = raw.abs().max()
    again = scaled / scaled.abs().max().clamp(min=1e-37) * largest
    if "eigen" in method:
        again = again * torch.where((again * raw).sum((1, 2), keepdim=True) < 0, -1.0, 1.0)
    if len(raw) == 1:
        assert_allclose(again, raw, rtol=1e-3, atol=float(1e-4 * largest))


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_says_what_it_needs(method: str) -> None:
    inputs = inputs_of(1, 1, 2, 3, 3)
    if Needs.GRADIENTS in METHODS[method].needs:
        with pytest.raises(ArgumentError, match=r"inputs\.gradients is None"):
            METHODS[method](replace(inputs, gradients=None))
    if Needs.PROBE in METHODS[method].needs:
        with pytest.raises(ArgumentError, match=r"inputs\.probe is None.*pass the model"):
            METHODS[method](replace(inputs, probe=None))


def _two_branches(framework: str) -> tuple[Any, np.ndarray]:
    """Two branches see the image; the score reads one, the other is explained."""
    if framework == "torch":
        parts = {name: nn.Conv2d(1, 2, 3) for name in ("read", "ignored")}
        model = Net(lambda net, x: net.read(x).mean((2, 3)) + 0 * net.ignored(x).detach().mean((2, 3)), **parts)
        return model, np.random.rand(2, 1, 8, 8).astype(np.float32)

    keras = KERASES[framework]
    layers = keras.layers

    class FirstOutput(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            inputs, pool = keras.Input((8, 8, 1)), layers.GlobalAveragePooling2D()
            branches = [layers.Conv2D(2, 3, name=name)(inputs) for name in ("read", "ignored")]
            self.inside = keras.Model(inputs, [pool(branch) for branch in branches])

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.inside(x)[0]

    return FirstOutput(), np.random.rand(2, 8, 8, 1).astype(np.float32)


@pytest.mark.parametrize("method", [*GRADIENT_METHODS, "cam", "ablation_cam"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_score_that_ignores_the_layer_gives_a_zero_map(method: str, framework: str) -> None:
    """Not of the methods that mask the image (score_cam and the like): they ask what the image does to the score."""
    model, images = _two_branches(framework)
    heatmap = explain(model, images, method=method, layer="ignored", target=1)
    assert heatmap.blank.all()
    assert not heatmap.raw.any() and not heatmap.values.any()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*KNOWS_NO_SCORE, "le_grad")])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_score_that_ignores_the_image_gives_a_zero_map(method: str, framework: str) -> None:
    """A head whose weights are zero: its bias is the score, whatever is covered, masked or set to zero."""
    model, images = small(framework)
    if framework == "torch":
        nn.init.zeros_(model.fc.weight)
    else:
        model.layers[-1].set_weights([np.zeros((6, 5)), np.arange(5)])
    heatmap = explain(model, images, method=method, layer="conv2", target=2)
    assert heatmap.blank.all()
    assert not heatmap.values.any()


@pytest.mark.parametrize(("left", "blank"), [(2.0**-23, True), (2.0**-20, False)])
def test_weights_that_cancel_but_for_rounding_are_no_evidence_however_many_channels_have_them(
    left: float, blank: bool
) -> None:
    """64 channels of ones, each with the gradients 1 and -1 + 2 left: their mean is left."""
    model = nn.Sequential(nn.Conv2d(1, 64, 1, bias=False), nn.Flatten(), nn.Linear(128, 2))
    nn.init.ones_(model[0].weight)
    model[2].weight.data = torch.tensor([[1, -1 + 2 * left], [0, 0]]).tile(1, 64)
    model[2].bias.data = torch.tensor([5.0, 3.0])
    asked: dict[str, Any] = {"layer": "0", "target": 0}
    heatmap = explain(model, torch.ones(1, 1, 2, 1), **asked)
    assert_array_equal(heatmap.raw[0], [[64 * left], [64 * left]])
    assert heatmap.blank[0] == blank
    assert heatmap.values.any() != blank
    signed = explain(model, torch.ones(1, 1, 2, 1), **asked, scaling="none")
    assert_array_equal(signed.values, heatmap.raw)  # as it is, for whoever wants to see the rounding


@pytest.mark.parametrize("side", [1, 2])
def test_of_a_map_of_one_pixel_alone_a_warning_says_so(side: int) -> None:
    pooled = [nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(2 * side**2, 2)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        explain(nn.Sequential(nn.Conv2d(1, 2, 3), *pooled), torch.rand(1, 1, 8, 8), layer="1", target=0)
    assert ["one pixel" in str(one.message) for one in told] == [True] * (side == 1)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("cam", "le_grad")])
def test_both_frameworks_agree(method: str) -> None:
    """The same weights in both, behind the layer a tanh; random numbers are those of the image, and so agree too."""
    of_torch, *of_kerases = (
        explain(model, images, method=method, layer=layer, target=1, seed=3, batch_size=2).raw
        for model, images, layer in twins().values()
    )
    assert of_kerases
    for of_keras in of_kerases:
        assert_close(of_keras, of_torch, 1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "le_grad"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_batch_of_a_network_equals_its_images(method: str, framework: str) -> None:
    model, images, layer = twins(linear=method == "cam")[framework]
    asked: dict[str, Any] = {"method": method, "layer": layer, "seed": 5}
    whole, chunks = explain(model, images, **asked), explain(model, images, **asked, batch_size=2)
    single = [explain(model, images[at : at + 1], **asked).raw for at in range(3)]
    for other in (np.concatenate(single), chunks.raw):
        assert_close(other, whole.raw, 1e-4)  # sums in another order
    assert_allclose(whole.scores, chunks.scores, rtol=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_pooling_and_linear_make_the_linear_methods_equal(framework: str) -> None:
    """Where the explained tensor itself is averaged before a linear head, g is constant over space."""
    both = twins(linear=True)
    model, images, layer = both[framework]
    names = ["grad_cam", "hires_cam", "cam", "xgrad_cam", "ablation_cam", "shapley_cam"]
    first, hires, cam, xgrad, ablation, shapley = (
        one.raw for one in explain_many(model, images, methods=names, layers=[layer], targets=[2])
    )
    for other in (hires, cam / first[0].size, xgrad, shapley):
        assert_close(other, first)
    net, of_torch, _ = both["torch"]
    weights, activations = net.out.weight.detach().numpy()[2], _relu_maps(net, of_torch)
    assert_close(np.einsum("k,nkhw->nhw", weights, activations), cam, 1e-4)
    means = activations.mean((2, 3)) * weights
    scores = means.sum(1) + net.out.bias.detach().numpy()[2]
    assert_close(ablation, np.einsum("nk,nkhw->nhw", means / np.abs(scores)[:, None], activations), 1e-4)


def _relu_maps(net: Any, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.relu(net.conv2(torch.relu(net.conv1(torch.from_numpy(images))))).numpy()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_cam_refuses_another_head_and_says_what_to_use(framework: str) -> None:
    for model, images, layer in (twins()[framework], TOYS[framework]("flat")):
        with pytest.raises(UnsupportedModelError, match=r"method='cam'.*global average.*Use method='grad_cam'"):
            explain(model, images, method="cam", layer=layer, target=0)


def test_cam_refuses_what_is_linear_at_the_image_alone() -> None:
    """Behind a ReLU the gradient is constant over space, and yet the score is not linear in the means."""
    bent = TorchToy("pooled")
    bent.pool = Net(lambda pool, x: torch.relu(x.mean((2, 3)) - 1))
    with pytest.raises(UnsupportedModelError, match="method='cam'"):
        explain(bent, IMAGE[:, None], method="cam", layer="relu", target=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bend", [nn.ReLU, nn.Tanh, nn.SiLU, nn.Hardswish])
def test_cam_refuses_a_hidden_layer_behind_the_pooling(bend: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    parts = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    bent = nn.Sequential(*parts, nn.Linear(32, 16), bend(), nn.Linear(16, 4))
    images = torch.randn(2, 3, 9, 9)
    with pytest.raises(UnsupportedModelError, match="method='cam'"):
        explain(bent, images, method="cam")
    straight = nn.Sequential(*parts, nn.Dropout(), nn.Linear(32, 16), nn.Linear(16, 4))
    assert explain(straight, images, method="cam").raw.any()


@pytest.mark.parametrize("bias", [0.0, 1e5, -1e5])
def test_cam_refuses_a_bend_beside_a_large_bias(bias: float) -> None:
    """What counts is how far the score moves, not how large it is."""
    bent = TorchToy("pooled", lambda scores: torch.relu(scores - 4) + bias)
    with pytest.raises(UnsupportedModelError, match="method='cam'"):
        explain(bent, IMAGE[:, None], method="cam", layer="relu", target=0)
    straight = TorchToy("pooled", lambda scores: scores + bias)
    assert_allclose(explain(straight, IMAGE[:, None], method="cam", layer="relu", target=0).raw[0], 3 * A0 + A1)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e6])
def test_cam_tells_heads_apart_whatever_the_size_of_their_weights(size: float) -> None:
    for kind, weights in (("pooled", 3 * A0 + A1), ("flat", None)):
        model, image, layer = TOYS["torch"](kind)
        model.fc.weight.data *= size
        if weights is None:
            with pytest.raises(UnsupportedModelError, match="method='cam'"):
                explain(model, image, method="cam", layer=layer, target=0)
        else:
            found = explain(model, image, method="cam", layer=layer, target=0).raw[0]
            assert_allclose(found, size * weights, rtol=1e-5)


@pytest.mark.parametrize(("positive", "like"), [("gradients", "hires_cam"), ("activations", "grad_cam_elementwise")])
@given(shape=SHAPES)
def test_layer_cam_is_another_where_all_is_positive(positive: str, like: str, shape: Shape) -> None:
    inputs = inputs_of(*shape)
    inputs = replace(inputs, **{positive: getattr(inputs, positive).abs()})
    assert_allclose(METHODS["layer_cam"](inputs), METHODS[like](inputs), rtol=1e-5, atol=1e-6)


@given(shape=SHAPES)
def test_smooth_grad_cam_plus_plus_without_noise_is_grad_cam_plus_plus(shape: Shape) -> None:
    inputs = inputs_of(*shape)
    inputs.probe.images = torch.zeros_like(inputs.images)  # of which the made-up gradients are the layer's own
    smooth = METHODS.find(("smooth_grad_cam_plus_plus", {"noise": 0, "samples": 3}))
    expected = METHODS["grad_cam_plus_plus"](inputs)
    assert_allclose(smooth(inputs), expected, rtol=1e-3, atol=float(1e-3 * expected.abs().max()))


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_noise_of_smooth_grad_cam_plus_plus_is_the_same_share_of_every_images_range(noise: float) -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    images = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(3))
    images[1] = 100 * images[1] - 40
    inputs, asked = given_by(maps, maps, images), []

    def gradients(noisy: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ranges = images.flatten(1).amax(1) - images.flatten(1).amin(1)
        asked.extend(zip(rows.tolist(), (noisy - images[rows]) / ranges[rows, None, None, None], strict=True))
        return maps[rows]

    inputs.probe.gradients = gradients
    METHODS.find(("smooth_grad_cam_plus_plus", {"samples": 100, "noise": noise}))(inputs)
    for row in (0, 1):
        shares = torch.stack([share for at, share in asked if at == row])
        assert_allclose(shares.square().mean().sqrt(), noise, rtol=0.02)  # three deviations: 24000 numbers
        assert_allclose(shares.mean(), 0, atol=0.03 * noise)


def test_shapley_cam_of_a_square_is_half_of_grad_cam() -> None:
    """Y = (w · mean A)² / 2 has g = w s / hw and H A = g: its second order takes half of the first away."""
    square, names = TorchToy("pooled", lambda scores: scores**2 / 2), ["grad_cam", "shapley_cam"]
    for target in (0, 1):
        first, second = explain_many(square, IMAGE[:, None], methods=names, layers=["relu"], targets=[target])
        assert_allclose(first.raw[0], (HEAD[target] @ [2.5, 0.5]) * (HEAD[target, 0] * A0 + HEAD[target, 1] * A1) / 6)
        assert_allclose(second.raw, first.raw / 2, rtol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_second_derivative_is_the_slope_of_the_first(framework: str) -> None:
    """grad_cam - shapley_cam is half of mean(H A) A; H A by finite differences of gradients, on the torch twin."""
    model, images, layer = twins()[framework]
    first, second = explain_many(model, images, methods=["grad_cam", "shapley_cam"], layers=[layer], targets=[1])
    net, of_torch, _ = twins()["torch"]
    maps = torch.from_numpy(_relu_maps(net.double(), of_torch.astype(np.float64)))

    def gradient(scale: float) -> torch.Tensor:
        leaf = (maps * scale).requires_grad_(True)
        pooled = nn.functional.avg_pool2d(leaf, 2).flatten(1)
        (found,) = torch.autograd.grad(net.out(torch.tanh(net.hidden(pooled)))[:, 1].sum(), leaf)
        return found

    along = (gradient(1 + 1e-5) - gradient(1 - 1e-5)) / 2e-5
    expected = (along.mean((2, 3), keepdim=True) / 2 * maps).sum(1).numpy()
    assert np.abs(expected).max() > 1e-3 * np.abs(first.raw).max()
    assert_allclose(first.raw - second.raw, expected, atol=1e-4 * np.abs(expected).max() + 1e-6)
