"""Test-time augmentation and eigen smoothing: laws that hold for every method, numbers worked out by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from fe_gradcam import METHODS, ArgumentError, Augment, Contrast, Rank, UnsupportedModelError, explain, explain_many
from fe_gradcam.explaining.views import PLAIN, View, eigen_smoothed, smoothing
from tests.methods.inputs import A0, A1, Net, small, stacked
from tests.models.kerases import KERASES
from tests.models.toys import FRAMEWORKS, TOYS
from tests.trainings import as_layout

pytestmark = pytest.mark.threads

FLIPS = Augment(flips=("horizontal",), factors=(1,))
BOTH_FLIPS = Augment(flips=("horizontal", "vertical"), factors=(1,))
RANDOM = {"smooth_grad_cam_plus_plus", "ss_cam", "random_cam"}
"""Their numbers are drawn for an image, and a mirrored one is another."""
REFUSED_BY_SOME = {"cam", "full_grad", "le_grad"}

one_small = cache(small)
"""The same for all tests: Keras compiles it once."""


def mirrored(images: np.ndarray, axis: int, framework: str) -> np.ndarray:
    """Images turned round along an axis of space, counted from the last."""
    return np.flip(images, axis if framework == "torch" else axis - 1).copy()


def columns(framework: str, bias: float = 0.0) -> Any:
    """A 1x1 convolution that doubles, ReLU, then class 0 the sum of the left half, class 1 that of the right + bias."""
    weights = np.zeros((2, 4, 1, 2), np.float32)  # rows, columns, channel, class
    weights[:, :2, 0, 0] = weights[:, 2:, 0, 1] = 1
    if framework == "torch":
        net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        with torch.no_grad():
            net[0].weight.fill_(2)
            net[3].weight.copy_(torch.from_numpy(weights.reshape(8, 2).T))
            net[3].bias.copy_(torch.tensor([0, bias]))
        return net.eval()
    keras = KERASES[framework]
    inputs, of = keras.Input((2, 4, 1)), keras.layers
    x = of.ReLU(name="1")(of.Conv2D(1, 1, use_bias=False, name="conv")(inputs))
    model = keras.Model(inputs, of.Dense(2, name="fc")(of.Flatten()(x)))
    model.set_weights([np.full((1, 1, 1, 1), 2), weights.reshape(8, 2), np.array([0, bias])])
    return model


LEFT = np.array([[3, 1, 1, 0], [2, 1, 0, 0.5]], np.float32)
"""Of `columns` class 0 by 2 * 7 to 2 * 1.5, the other way round when mirrored."""
RELU = {"torch": "inside.1"} | dict.fromkeys(KERASES, "1")
"""The name of its ReLU where `columns` stands inside another network."""


def as_batch(picture: np.ndarray, framework: str) -> np.ndarray:
    return as_layout(framework, picture[None, ..., None])


# --- views -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (Augment(), [((), 1), ((), 0.9), ((), 1.1), ((-1,), 0.9), ((-1,), 1), ((-1,), 1.1)]),
        (FLIPS, [((), 1), ((-1,), 1)]),
        (BOTH_FLIPS, [((), 1), ((-2,), 1), ((-1,), 1), ((-1, -2), 1)]),
        (Augment(flips=(), factors=(0.5, 2)), [((), 0.5), ((), 2)]),
        (Augment(flips=["vertical"], factors=[np.float32(2)]), [((), 2), ((-2,), 2)]),
    ],
)
def test_views_are_all_combinations_the_image_itself_first(augment: Augment, expected: list[Any]) -> None:
    assert [(view.axes, view.factor) for view in augment.views] == expected


@pytest.mark.parametrize("axes", [(), (-1,), (-2,), (-1, -2)])
@pytest.mark.parametrize("volume", [False, True])
def test_a_view_turns_images_and_turns_maps_back(axes: tuple[int, ...], volume: bool) -> None:
    shape = (2, 3, 4, 5, 6) if volume else (2, 3, 5, 6)
    images, view = torch.randn(shape), View(axes, 2.0)
    seen = view.of(images, channels_first=True)
    assert_array_equal(seen, 2 * np.flip(images.numpy(), axes))
    assert_array_equal(view.back(seen), 2 * images)
    last = view.of(images.movedim(1, -1), channels_first=False)
    assert_array_equal(last.movedim(-1, 1), seen)


def test_what_smooth_means() -> None:
    assert smoothing(None) == ([PLAIN], False)
    assert smoothing(()) == ([PLAIN], False)
    assert smoothing("eigen") == ([PLAIN], True)
    assert smoothing("augment") == (Augment().views, False)
    assert smoothing(FLIPS) == (FLIPS.views, False)
    assert smoothing(["eigen", FLIPS]) == smoothing((FLIPS, "eigen")) == (FLIPS.views, True)


@pytest.mark.parametrize(
    ("smooth", "message"),
    [
        ("augmant", r"smooth='augmant' is not accepted; did you mean 'augment'\? Accepted: None, 'augment' or an Aug"),
        (("eigen", "x"), r"smooth=\('eigen', 'x'\) is not accepted\. Accepted: None"),
        (True, "smooth=True is not accepted"),
        (Augment, "smooth=<class .* is not accepted"),
        (("augment", FLIPS), "is not accepted.*or a tuple of both"),
        (("eigen", "eigen"), "is not accepted.*or a tuple of both"),
    ],
)
def test_other_smoothings_are_refused_before_any_pass(smooth: Any, message: str) -> None:
    model, image, _ = TOYS["torch"]("pooled")
    model.forward = None
    with pytest.raises(ArgumentError, match=message):
        explain(model, image, smooth=smooth)


@pytest.mark.parametrize("flips", ["horizontal", ("left",), ("horizontal", "horizontal"), None, 3, (["vertical"],)])
def test_other_flips_are_refused(flips: Any) -> None:
    with pytest.raises(ArgumentError, match=r"flips=.* Accepted: a tuple of horizontal, vertical, each once\."):
        Augment(flips=flips)


@pytest.mark.parametrize(
    "factors", [(), 1.1, "12", (0,), (-1,), (1, float("nan")), (float("inf"),), ("1",), None, (True,), (1j,)]
)
def test_other_factors_are_refused(factors: Any) -> None:
    with pytest.raises(ArgumentError, match=r"factors=.* Accepted: a tuple of numbers above 0\."):
        Augment(factors=factors)


# --- augmentation: laws ------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "score_cam", "ablation_cam", "eigen_cam", "xgrad_cam"])
def test_flips_change_nothing_for_a_network_that_is_equivariant(framework: str, method: str) -> None:
    """1x1 convolution and pooling: the map of the mirrored image is the mirrored map already."""
    model, image, layer = TOYS[framework]("pooled")
    plain, smooth = (explain(model, image, method=method, layer=layer, smooth=smooth) for smooth in (None, BOTH_FLIPS))
    assert_allclose(smooth.raw, plain.raw, atol=1e-5 * np.abs(plain.raw).max())  # sums in another order
    assert_allclose(smooth.scores, plain.scores)
    assert_allclose(smooth.values, plain.values, atol=1e-5)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in RANDOM])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_map_of_a_mirrored_image_is_the_mirrored_map(framework: str, method: str) -> None:
    model, images = one_small(framework)
    for augment, axis in ((FLIPS, -1), (Augment(flips=("vertical",), factors=(1,)), -2)):
        try:
            one = explain(model, images, method=method, target=2, smooth=augment)
            other = explain(model, mirrored(images, axis, framework), method=method, target=2, smooth=augment)
        except UnsupportedModelError:
            assert method in REFUSED_BY_SOME
            return
        largest = np.abs(one.raw).max()
        assert largest > 0
        # the same views in another order; the sums inside are taken in another order too
        assert_allclose(np.flip(other.raw, axis), one.raw, atol=1e-4 * largest)
        alone = explain(model, images, method=method, target=2)
        if method in ("grad_cam", "eigen_cam", "occlusion"):
            assert np.abs(one.raw - alone.raw).max() > 1e-3 * largest, "the flip has its share in the map"


@pytest.mark.parametrize("eigen", [(), ("eigen",)])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_map_is_the_mean_over_the_views_each_turned_back(framework: str, eigen: tuple[Any, ...]) -> None:
    model, images = one_small(framework)
    asked: dict[str, Any] = {"method": "layer_cam", "target": 1}
    smooth = explain(model, images, smooth=(Augment(("vertical",), (0.5, 1)), *eigen), **asked)
    turned = mirrored(images, -2, framework)
    seen = [images, images * np.float32(0.5), turned, turned * np.float32(0.5)]
    maps = [explain(model, each, smooth=eigen, **asked).raw for each in seen]
    expected = (maps[0] + maps[1] + np.flip(maps[2], 1) + np.flip(maps[3], 1)) / 4
    assert_allclose(smooth.raw, expected, atol=1e-5 * np.abs(expected).max())
    assert_allclose(smooth.values.max((1, 2)), 1, rtol=1e-6)
    assert_array_equal(smooth.scores, explain(model, images, target=1).scores)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_factors_scale_the_activations_of_a_network_without_biases(framework: str) -> None:
    """f(a x) = a f(x): the gradients stay, the activations are a times as large, so that the mean has a factor of
    (0.5 + 1 + 3) / 3 = 1.5.
    """
    model, images = small(framework)
    if framework == "torch":  # those of Keras are 0 at first
        for name, parameter in model.named_parameters():
            parameter.data.mul_("bias" not in name)
    methods = ["grad_cam", "hires_cam", "layer_cam", "eigen_cam", "eigen_grad_cam"]
    plain = explain_many(model, images, methods=methods, scaling="none")
    for factors, mean in (((0.5, 1, 3), 1.5), ((2,), 2), ((0.25, 0.5), 0.375)):
        augment = Augment(flips=(), factors=factors)
        smooth = explain_many(model, images, methods=methods, scaling="none", smooth=augment)
        for one, other in zip(plain, smooth, strict=True):
            assert np.abs(one.raw).max() > 0
            assert_allclose(other.raw, mean * one.raw, atol=1e-5 * np.abs(one.raw).max())
            # what is reported is of the image as it is, whether that is among the views or not
            assert_array_equal(other.scores, one.scores)
            assert_array_equal(other.class_ids, one.class_ids)
            assert_array_equal(other.confidences, one.confidences)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    "target", [None, Rank(1), Contrast(None, None), Contrast(None, 1)], ids=["pred", "rank", "contrast", "against"]
)
def test_the_target_stays_that_of_the_image_where_flips_change_the_inferred_class(framework: str, target: Any) -> None:
    """HiRes-CAM at the ReLU is 2 x times the head's weights; of the mirrored image it is that of its left, turned back.

    Class 0 is 2 Σ of the left half: 2 x on the left. Mirrored and turned back: 2 x on the right.
    """
    model, image = columns(framework), as_batch(LEFT, framework)
    heatmap = explain(model, image, method="hires_cam", layer="1", target=target, smooth=FLIPS, scaling="none")
    against = -1 if isinstance(target, Contrast) else 0
    of_class = np.array([[6, 2, 0, 0], [4, 2, 0, 0]], np.float64)
    of_other = np.array([[0, 0, 2, 0], [0, 0, 0, 1]], np.float64)
    plain, turned = of_class + against * of_other, of_other + against * of_class
    assert_allclose(heatmap.raw[0], (plain + turned) / 2, atol=1e-6)
    assert heatmap.class_ids[0] == (-1 if against else 0)
    assert_allclose(heatmap.scores, 14 + against * 3)
    assert explain(model, mirrored(image, -1, framework)).class_ids[0] == 1, "else the test would show nothing"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_target_stays_that_of_the_image_where_factors_change_the_inferred_class(framework: str) -> None:
    """Class 0 is 14, class 1 is 3 + 10; of half the image 7 and 1.5 + 10."""
    model, image = columns(framework, bias=10), as_batch(LEFT, framework)
    assert explain(model, image / 2).class_ids[0] == 1
    for factors, mean in (((0.5, 1), 0.75), ((0.5,), 0.5)):
        smooth = Augment(flips=(), factors=factors)
        heatmap = explain(model, image, method="hires_cam", layer="1", smooth=smooth, scaling="none")
        assert_allclose(heatmap.raw[0], mean * np.array([[6, 2, 0, 0], [4, 2, 0, 0]]), atol=1e-6)
        assert heatmap.class_ids[0] == 0
        assert_allclose(heatmap.scores, 14)


def test_a_callable_target_is_asked_of_every_view() -> None:
    model, image = columns("torch"), as_batch(LEFT, "torch")
    heatmap = explain(
        model, image, method="hires_cam", layer="1", target=lambda out: out[:, 1], smooth=FLIPS, scaling="none"
    )
    assert_allclose(heatmap.raw[0], np.array([[6, 2, 2, 0], [4, 2, 0, 1]]) / 2, atol=1e-6)
    assert heatmap.class_ids[0] == -1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_chunks_and_several_at_once_change_nothing(framework: str) -> None:
    model, images = one_small(framework)
    smooth = (Augment(("horizontal",), (0.9, 1)), "eigen")
    asked: dict[str, Any] = {"methods": ["layer_cam", "ablation_cam", "random_cam"], "targets": [0, None], "seed": 3}
    together = explain_many(model, images, smooth=smooth, **asked)
    chunks = explain_many(model, images, smooth=smooth, batch_size=1, **asked)
    for one, other in zip(together, chunks, strict=True):
        assert_allclose(other.raw, one.raw, atol=1e-4 * np.abs(one.raw).max())  # sums in another order
        assert_array_equal(other.class_ids, one.class_ids)


# --- other images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "occlusion"])
def test_volumes(framework: str, method: str) -> None:
    model, images, _ = stacked(framework, (4, 5, 6), "relu", 2, pooled=True)
    for axis, augment in ((-1, FLIPS), (-2, Augment(("vertical",), (1,)))):
        asked: dict[str, Any] = {"method": method, "target": 0, "smooth": (augment, "eigen"), "scaling": "none"}
        smooth = explain(model, images, **asked)
        turned = explain(model, mirrored(images, axis, framework), **asked)
        assert smooth.values.shape == (2, 4, 5, 6)
        assert np.abs(smooth.raw).max() > 0
        assert_allclose(np.flip(turned.raw, axis), smooth.raw, atol=1e-4 * np.abs(smooth.raw).max())


def two_inputs(framework: str) -> Any:
    """An image times a number of each image's own."""
    if framework == "torch":
        return Net(lambda net, number, image: net.inside(number[..., None, None] * image), inside=columns("torch"))
    keras = KERASES[framework]
    number, image = keras.Input((1,)), keras.Input((2, 4, 1))
    seen = keras.layers.Multiply()([image, number[..., None, None]])
    return keras.Model([number, image], columns(framework)(seen))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_of_several_inputs_the_picture_alone_is_seen_another_way(framework: str) -> None:
    image = np.concatenate([as_batch(LEFT, framework), as_batch(LEFT[:, ::-1], framework)])
    numbers = np.array([[1], [3]], np.float32)
    smooth = Augment(("horizontal",), (1, 2))
    asked: dict[str, Any] = {"layer": RELU[framework], "target": [0, 1], "smooth": smooth, "scaling": "none"}
    heatmap = explain(two_inputs(framework), (numbers, image), method="hires_cam", **asked)
    expected = 1.5 * LEFT  # 2 x at half of the places of each of two views, times the mean of 1 and 2
    assert_allclose(heatmap.raw, [expected, 3 * expected[:, ::-1]], atol=1e-5)
    assert_allclose(heatmap.scores, [14, 42])
    probed = explain(two_inputs(framework), (numbers, image), method="ablation_cam", **asked)
    # one channel, without it the score is 0: its weight is 1, and the map is the mean of the activations 2 a x
    assert_allclose(probed.raw, [3 * LEFT, 9 * LEFT[:, ::-1]], atol=1e-5)


def of_integers(framework: str, dtype: str) -> Any:
    """Takes pixels from 0 to 255 as integers, and takes floats for normalised already, as many nets do."""
    if framework == "torch":

        def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
            return net.inside(x.float() / 255 if x.dtype == getattr(torch, dtype) else x)

        return Net(compute, inside=columns("torch"))
    keras = KERASES[framework]
    inputs = keras.Input((2, 4, 1), dtype=dtype)
    return keras.Model(inputs, columns(framework)(keras.layers.Rescaling(1 / 255)(inputs)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_integer_images_stay_integers(framework: str, dtype: str) -> None:
    """As a picture in bytes is made brighter or darker: rounded, and of bytes 255 is the end, without a wrap-around."""
    picture = np.array([[255, 100, 10, 0], [200, 3, 0, 1]])
    model, image = of_integers(framework, dtype), as_batch(picture, framework).astype(dtype)
    asked: dict[str, Any] = {"method": "hires_cam", "layer": RELU[framework], "scaling": "none"}
    brighter = np.array([[255 if dtype == "uint8" else 306, 120, 12, 0], [240, 4, 0, 1]])
    darker = np.array([[153, 60, 6, 0], [120, 2, 0, 1]])
    for factors, seen in (((1,), picture), ((1.2,), brighter), ((1, 1.2), (picture + brighter) / 2), ((0.6,), darker)):
        heatmap = explain(model, image, smooth=Augment((), factors), **asked)
        assert_allclose(heatmap.raw[0], 2 * seen / 255 * [1, 1, 0, 0], atol=1e-5)
        assert heatmap.class_ids[0] == 0
    turned = explain(model, image, smooth=FLIPS, **asked)
    assert_allclose(turned.raw[0], picture / 255, atol=1e-5)


# --- eigen smoothing ---------------------------------------------------------------------------------

TERMS = st.tuples(st.integers(0, 99), st.integers(1, 3), st.integers(2, 6), st.integers(1, 5), st.integers(2, 5))


def random_terms(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape[1:], generator=torch.Generator().manual_seed(shape[0]))


@given(shape=TERMS, scale=st.sampled_from([1e-20, 1.0, 1e10]))
def test_the_map_of_terms_of_rank_one_stays(shape: tuple[int, ...], scale: float) -> None:
    maps, weights = random_terms(shape)[:, 0], random_terms(shape)[:, :, 0, 0] + 0.1
    terms = scale * weights[:, :, None, None] * maps[:, None]
    whole = terms.sum(1)
    # Σ of the weights may nearly cancel, and then rounding counts relative to the terms
    assert_allclose(eigen_smoothed(terms), whole, atol=1e-5 * float(terms.abs().max()))


@given(shape=TERMS)
def test_the_size_of_the_map_stays_and_so_does_its_side(shape: tuple[int, ...]) -> None:
    terms = random_terms(shape)
    smoothed = eigen_smoothed(terms)
    assert smoothed.shape == (shape[1], *shape[3:])
    assert smoothed.dtype == torch.float32
    whole = terms.sum(1)
    size, expected = (maps.flatten(1).norm(dim=1) for maps in (smoothed, whole))
    assert_allclose(size, expected, rtol=1e-5)
    assert ((smoothed * whole).flatten(1).sum(1) >= 0).all()


@given(shape=TERMS)
def test_neither_the_order_of_the_channels_nor_another_image_says_anything(shape: tuple[int, ...]) -> None:
    terms = random_terms(shape)
    smoothed, order = eigen_smoothed(terms), torch.randperm(shape[2], generator=torch.Generator().manual_seed(shape[0]))
    assert_allclose(eigen_smoothed(terms[:, order]), smoothed, rtol=1e-4, atol=1e-5)  # sums reordered
    alone = torch.cat([eigen_smoothed(image) for image in terms.split(1)])
    assert_allclose(smoothed, alone, rtol=1e-4, atol=1e-5)  # a batched decomposition rounds otherwise


def test_what_the_larger_of_two_channels_shows() -> None:
    """Terms (3, 0) and (0, 1) at two places: the first component is the first channel's; sizes √10 and 3."""
    terms = torch.tensor([[[[3.0, 0]], [[0, 1.0]]], [[[-3.0, 0]], [[0, 1.0]]]])
    assert_allclose(eigen_smoothed(terms), [[[10**0.5, 0]], [[-(10**0.5), 0]]], atol=1e-6)


def test_terms_that_cancel_or_are_none() -> None:
    nothing = torch.zeros(1, 3, 2, 2)
    assert not eigen_smoothed(nothing).any()
    cancel = torch.randn(1, 1, 2, 2)
    assert not eigen_smoothed(torch.cat([cancel, -cancel], 1)).any()
    broken = torch.randn(2, 3, 2, 2)
    broken[0, 1, 0, 0] = torch.nan
    smoothed = eigen_smoothed(broken)
    assert smoothed[0].isnan().any()
    assert_allclose(smoothed[1:], eigen_smoothed(broken[1:]), rtol=1e-5)


def test_one_term_stays_bit_for_bit() -> None:
    terms = torch.randn(2, 1, 3, 4)
    assert_array_equal(eigen_smoothed(terms), terms[:, 0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_eigen_smoothing_of_every_method(framework: str, method: str) -> None:
    """The first component of its terms, and of a method without terms the map as it was."""
    model, images = one_small(framework)
    asked: dict[str, Any] = {"method": method, "target": 2, "scaling": "none"}
    if method in ("smooth_grad_cam_plus_plus", "ss_cam", "is_cam"):
        asked["method"] = (method, {"samples": 2})
    try:
        plain, smooth = explain(model, images, **asked), explain(model, images, smooth="eigen", **asked)
    except UnsupportedModelError:
        assert method in REFUSED_BY_SOME
        return
    if method in ("eigen_cam", "eigen_grad_cam", "kpca_cam", "occlusion", "full_grad"):
        assert_array_equal(smooth.raw, plain.raw)
    else:
        sizes = [np.sqrt((one.raw.astype(np.float64) ** 2).sum((1, 2))) for one in (plain, smooth)]
        assert_allclose(sizes[1], sizes[0], rtol=1e-4)  # float32 sums
        assert np.abs(smooth.raw - plain.raw).max() > 1e-3 * np.abs(plain.raw).max()
    assert_array_equal(smooth.scores, plain.scores)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_eigen_smoothing_by_a_decomposition_of_numpy(framework: str) -> None:
    """Grad-CAM of the pooled toy: the terms are A_0 / 2 and A_1 / 6."""
    model, image, layer = TOYS[framework]("pooled")
    heatmap = explain(model, image, layer=layer, target=0, smooth="eigen", scaling="none")
    terms = np.stack([A0 / 2, A1 / 6])
    _, _, places = np.linalg.svd(terms.reshape(2, 6))
    first, whole = places[0].reshape(2, 3), terms.sum(0)
    first *= np.sign((first * whole).sum()) * np.linalg.norm(whole) / np.linalg.norm(first)
    assert_allclose(heatmap.raw[0], first, atol=1e-5)


def test_smoothing_leaves_the_model_and_the_images_as_they_were() -> None:
    model, images = one_small("torch")
    held = [*(tensor.numpy() for tensor in model.state_dict().values()), images]
    kept, state = [each.copy() for each in held], torch.get_rng_state()
    explain(model, images, smooth=("augment", "eigen"))
    for one, other in zip(held, kept, strict=True):
        assert_array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
