"""What holds of both backends: the score that is explained, layers, and models that get in the way."""

from __future__ import annotations

import gc
import inspect
import warnings
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import (
    ArgumentError,
    CamWarning,
    GradientError,
    UnknownNameError,
    draw,
    explain,
    explain_many,
    list_layers,
)
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.protocol import Query
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from tests.methods.inputs import Net
from tests.models.kits import KITS, Kit, by_hand
from tests.models.toys import SmallTorch, small_keras


@pytest.fixture(params=KITS)
def kit(request: pytest.FixtureRequest) -> Kit:
    return KITS[request.param]


# --- the score ---------------------------------------------------------------------------------------

HEADS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "torch": {
        "F.softmax": lambda x: nn.functional.softmax(x, dim=-1),
        "F.softmax by keyword": lambda x: nn.functional.softmax(input=x, dim=-1),
        "F.log_softmax": lambda x: nn.functional.log_softmax(x, dim=-1),
        "torch.softmax": lambda x: torch.softmax(x, -1),
        "torch.special.expit": torch.special.expit,
        "torch.special.softmax": lambda x: torch.special.softmax(x, -1),
        "Tensor.softmax": lambda x: x.softmax(-1),
        "Tensor.sigmoid": lambda x: x.sigmoid(),
        "sigmoid in place": lambda x: x.sigmoid_(),
        "exp of log_softmax": lambda x: x.log_softmax(-1).exp(),
        "view behind": lambda x: x.softmax(-1).view(-1, 2),
        "cast behind": lambda x: x.softmax(-1).double().float(),
        "clamp behind": lambda x: x.softmax(-1).clamp(1e-7, 1),
        "detach behind": lambda x: x.softmax(-1).detach(),
        "index and stack of axes": lambda x: x[:, :, None, None].softmax(1).squeeze(-1)[..., 0],
        "flip by transposing twice": lambda x: x.softmax(-1).t().t(),
        "chunk": lambda x: torch.cat([x, x]).softmax(-1).chunk(2)[0],
    },
    "keras": {
        "tf.nn.softmax": tf.nn.softmax,
        "tf.nn.log_softmax": tf.nn.log_softmax,
        "tf.sigmoid": tf.sigmoid,
        "keras softmax": tf.keras.activations.softmax,
        "reshape behind": lambda x: tf.reshape(tf.nn.softmax(x), [-1, 2]),
        "cast behind": lambda x: tf.cast(tf.cast(tf.nn.softmax(x), tf.float64), tf.float32),
        "axes behind": lambda x: tf.squeeze(tf.nn.softmax(x)[:, tf.newaxis, :], 1),
        "slice behind": lambda x: tf.nn.softmax(tf.concat([x, x], 0))[: tf.shape(x)[0]],
        "clip behind": lambda x: tf.exp(tf.nn.log_softmax(x)),
        "tf.function": tf.function(lambda x: tf.nn.softmax(x)),
    },
}


OWN_HEADS = ["softmax", "log_softmax", "sigmoid"]
"""Of PyTorch the modules, of Keras the activation of the last layer."""


@pytest.mark.parametrize(
    ("kit", "head"), [(kit, head) for kit in HEADS for head in [*OWN_HEADS, *HEADS[kit]]], indirect=["kit"]
)
def test_the_logit_behind_any_head_is_explained(kit: Kit, head: str) -> None:
    plain, image, layer = kit.toy("pooled")
    model = kit.toy("pooled", kit.own_head(head))[0] if head in OWN_HEADS else kit.headed(HEADS[kit.name][head])
    heatmap, inferred = explain(model, image, layer=layer, target=1), explain(model, image, layer=layer)
    assert_allclose(heatmap.scores, -1.5, atol=1e-6)
    assert_allclose(heatmap.raw, explain(plain, image, layer=layer, target=1).raw, atol=1e-6)
    assert inferred.class_ids[0] == 0
    # A softmax of 8 and -1.5; sigmoids are each their own.
    own = "igmoid" in head or "expit" in head
    assert_allclose(heatmap.confidences, 1 / (1 + np.exp(1.5 if own else 9.5)), rtol=1e-5)
    assert_allclose(inferred.confidences, 1 / (1 + np.exp(-8 if own else -9.5)), rtol=1e-6)


def test_score_output_keeps_the_output_as_it_is(kit: Kit) -> None:
    model, image, layer = kit.toy("pooled", kit.own_head("softmax"))
    heatmap = explain(model, image, layer=layer, target=0, score="output")
    assert_allclose(heatmap.scores, 1 / (1 + np.exp(-9.5)), rtol=1e-6)
    logit = explain(model, image, layer=layer, target=0)  # after the other, and still with a pass of its own
    assert_allclose(logit.scores, 8, rtol=1e-5)
    assert np.abs(heatmap.raw).max() < 1e-2 * np.abs(logit.raw).max()  # the saturated softmax


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_single_output_makes_two_classes(kit: Kit, activation: str | None) -> None:
    plain, model = kit.classifier(1), kit.classifier(1, activation)
    images = kit.images(np.random.rand(6, 5, 5, 1))
    kit.shift(plain, -np.median(kit.outputs(plain, images)))
    kit.copy(plain, model)
    logit = kit.outputs(plain, images)[:, 0]
    inferred = explain(model, images)
    assert set(inferred.class_ids) == {0, 1}
    assert_allclose(inferred.class_ids, logit > 0)
    assert_allclose(inferred.scores, np.abs(logit), atol=1e-6)
    assert_allclose(inferred.confidences, 1 / (1 + np.exp(-np.abs(logit))), rtol=1e-5)
    one, other = explain(model, images, target=1, scaling="none"), explain(model, images, target=0, scaling="none")
    assert_allclose(one.raw, -other.raw, atol=1e-7)


def test_probabilities_without_a_softmax_are_explained_as_log_p_and_said_once(kit: Kit) -> None:
    model, images = by_hand(kit), kit.images(np.random.randn(3, 9, 12, 3))
    expected = kit.outputs(model, images).max(1)
    with pytest.warns(CamWarning, match=r"log p .* is explained instead of the logit"):
        heatmap = explain(model, images)
    assert_allclose(heatmap.scores, np.log(expected), rtol=1e-5)
    assert_allclose(heatmap.confidences, expected, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CamWarning)
        explain(model, images)


def test_targets(kit: Kit) -> None:
    model, images = kit.small(softmax=True), kit.images(np.random.randn(4, 9, 12, 3))
    ids = np.array([0, 3, 1, 4])
    several = explain(model, images, target=ids)
    assert_allclose(several.class_ids, ids)
    for at, class_id in enumerate(ids):
        alone = explain(model, images[at : at + 1], target=int(class_id))
        assert_allclose(several.raw[at], alone.raw[0], atol=1e-6)
    outputs, inferred = kit.outputs(model, images), explain(model, images)
    assert_allclose(inferred.class_ids, outputs.argmax(1))
    assert_allclose(inferred.confidences, outputs.max(1), rtol=1e-5)
    by_callable = explain(model, images, target=lambda output: kit.log(output[:, 2]))
    assert (by_callable.class_ids == -1).all()
    assert np.isnan(by_callable.confidences).all()
    assert_allclose(by_callable.scores, np.log(outputs[:, 2]), rtol=1e-5)


def test_many_equals_one_by_one_in_the_promised_order(kit: Kit) -> None:
    model, images = kit.small(), kit.images(np.random.randn(5, 9, 12, 3))
    methods, layers, targets = ["grad_cam", "layer_cam"], [None, "conv1", "conv2"], [None, 1, [0, 1, 2, 3, 4]]
    many = explain_many(model, images, methods=methods, layers=layers, targets=targets, batch_size=2)
    wanted = [(m, k, t) for m in methods for k in layers for t in targets]
    for heatmap, (method, layer, target) in zip(many, wanted, strict=True):
        alone = explain(model, images, method=method, layer=layer, target=target)
        assert (heatmap.method, heatmap.layer) == (method, layer or alone.layer)
        assert_allclose(heatmap.raw, alone.raw, atol=1e-6 * np.abs(alone.raw).max())
        assert_allclose(heatmap.scores, alone.scores, rtol=1e-5)


# --- layers ------------------------------------------------------------------------------------------


def test_a_layer_by_name_index_and_itself(kit: Kit) -> None:
    model, images = kit.small(), kit.images(np.random.randn(2, 9, 12, 3))
    layers = kit.layers(model)
    index = list(layers).index("conv2")
    expected = explain(model, images, layer="conv2").raw
    for given in (layers["conv2"], index, index - len(layers)):
        assert_allclose(explain(model, images, layer=given).raw, expected)


@pytest.mark.parametrize("layer", ["conv_2", 99, nn.Conv2d(1, 1, 1), tf.keras.layers.Conv2D(1, 1)])
def test_an_unknown_layer_is_an_error_that_helps(kit: Kit, layer: Any) -> None:
    with pytest.raises(UnknownNameError, match="is no layer of this model") as caught:
        explain(kit.small(), kit.images(np.zeros((1, 9, 12, 3))), layer=layer)
    if layer == "conv_2":
        assert "did you mean 'conv2'" in str(caught.value)


def test_a_layer_without_places_is_an_error(kit: Kit) -> None:
    model, image, _ = kit.toy("pooled")
    with pytest.raises(ArgumentError, match=r"layer='fc' has an output of shape \(2,\) per image"):
        explain(model, image, layer="fc")


# --- models that get in the way ----------------------------------------------------------------------


def test_a_gradient_that_is_stopped_behind_the_layer_is_an_error(kit: Kit) -> None:
    model = kit.pooled(3, behind=kit.stopped)
    with pytest.raises(GradientError, match="No gradient reaches layer='conv', though the score depends on it"):
        explain(model, kit.images(np.random.rand(2, 8, 8, 1)), layer="conv")


def test_images_of_nan_alone_do_not_say_how_the_outputs_are_read(kit: Kit) -> None:
    """No finite row leaves [0, 1] if there is none, or if a ReLU of TensorFlow makes 0 of NaN: these are no
    probabilities, now or later.
    """
    model, images = kit.small(), kit.images(np.random.rand(2, 9, 12, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        heatmap = explain(model, images * np.nan, target=1)
        assert heatmap.blank.all()
        assert_allclose(explain(model, images, target=1).scores, kit.outputs(model, images)[:, 1], rtol=1e-5)
    said = [str(one.message) for one in caught if issubclass(one.category, CamWarning)]
    assert all("NaN or infinite values" in one for one in said)
    assert len(said) == (kit.name == "torch")


def test_nan_activations_are_blank_and_said(kit: Kit) -> None:
    images = np.random.randn(3, 9, 12, 3)
    images[1] = np.nan
    with pytest.warns(CamWarning, match=r"layer='conv1' hold NaN or infinite values for 1 of 3 images"):
        heatmap = explain(kit.small(), kit.images(images), layer="conv1", target=0)
    assert heatmap.blank[1]
    assert np.isfinite(heatmap.raw).all()
    assert np.isfinite(heatmap.values).all()
    assert heatmap.values[0].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 5}, r"target=5 is not a class of this model: it has 5 classes"),
        ({"target": -1}, "negative class id"),
        ({"target": True}, "target=True is not accepted"),
        ({"target": [0, 1, 2]}, r"target=\[0, 1, 2\] is not accepted for 2 image"),
        ({"target": 1.5}, "target=1.5 is not accepted"),
        ({"target": lambda output: output}, r"a callable that returned \((2|None), 5\)"),
        ({"scaling": "max"}, "scaling='max' is not known"),
        ({"score": "logits"}, "score='logits' is not known"),
        ({"batch_size": 0}, "batch_size=0 is not accepted"),
        ({"images": 0}, r"images has shape \((3, 9, 12|9, 12, 3)\).*Add the batch axis"),
        ({"images": slice(0)}, "images is empty"),
    ],
)
def test_mistakes_are_named(kit: Kit, change: dict[str, Any], message: str) -> None:
    images = kit.images(np.random.randn(2, 9, 12, 3))
    arguments = {"images": images, **change}
    if "images" in change:
        arguments["images"] = images[change["images"]]
    with pytest.raises(ArgumentError, match=message):
        explain(kit.small(), **arguments)


def test_a_model_is_freed_after_it_was_explained(kit: Kit) -> None:
    model, images = kit.small(), kit.images(np.random.randn(1, 9, 12, 3))
    explain(model, images)
    explain(model, images, target=lambda output: output[:, 0])
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


# --- what a heatmap says of its layer --------------------------------------------------------------


def test_a_heatmap_knows_what_kind_of_layer_it_is_of(kit: Kit) -> None:
    """That of several is told in their order, and a method that asks the whole model is of none."""
    model, image, layer = kit.toy("pooled")
    convolution = "Conv2d" if kit.name == "torch" else "Conv2D"
    several = explain_many(model, image, layers=[layer, "conv", [layer, "conv"], [layer, layer]])
    assert [one.layer_kind for one in several] == ["ReLU", convolution, f"ReLU, {convolution}", "ReLU"]
    assert explain(model, image, method="occlusion").layer_kind == ""
    kinds = {info.name: info.kind for info in list_layers(model, image)}
    assert {one.layer: one.layer_kind for one in several[:2]} == {layer: kinds[layer], "conv": kinds["conv"]}


def test_a_layer_that_is_called_by_its_number_says_its_kind_in_a_picture() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    images = torch.rand(2, 1, 9, 9)
    compiled = nn.Sequential(torch.compile(net[:2]), *net[2:])
    for model, layer in ((net, "1"), (compiled, "0.1")):
        heatmap = explain(model, images, layer=layer)
        assert heatmap.layer_kind == "ReLU"
        assert draw(images, heatmap).grid.subtitle.endswith(f", layer {layer} (ReLU), map 7 x 7")


# --- outputs without a visible head ------------------------------------------------------------------


@pytest.mark.parametrize("made", ["by hand", "as a mean of sigmoids"])
def test_a_single_probability_of_unknown_making_is_read_as_one(kit: Kit, made: str) -> None:
    model = kit.pooled(1, (lambda z: 1 / (1 + kit.exp(-z))) if made == "by hand" else kit.mean_of_sigmoids, [-3])
    images = kit.images(np.random.rand(6, 8, 8, 1))
    p = kit.outputs(model, images)[:, 0]
    assert (p < 0.5).all()
    with pytest.warns(CamWarning, match="probabilities"):
        heatmap = explain(model, images, layer="conv")
    assert (heatmap.class_ids == 0).all()
    assert_allclose(heatmap.confidences, 1 - p, rtol=1e-4)
    assert_allclose(heatmap.scores, np.log((1 - p) / p), rtol=1e-3)


def test_single_logits_that_lie_in_0_to_1_by_chance_stay_logits(kit: Kit) -> None:
    model, images = kit.pooled(1), kit.images(np.random.rand(4, 8, 8, 1))
    kit.shift(model, 0.3 - kit.outputs(model, images).mean())
    logits = kit.outputs(model, images)[:, 0]
    assert ((logits > 0) & (logits < 1)).all()
    assert_allclose(explain(model, images, layer="conv").confidences, 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("pick", ["row", "column", "taken"])
def test_one_column_of_a_softmax_is_no_logit_of_its_own(kit: Kit, pick: str) -> None:
    picks = {"row": lambda p: p[:, 1], "column": lambda p: p[:, 1:], "taken": kit.second}
    model = kit.pooled(2, lambda z: picks[pick](kit.softmax(z)), [3, 2])
    images = kit.images(np.random.rand(5, 8, 8, 1))
    maps, p = kit.maps(model, images), kit.outputs(model, images).reshape(-1)
    assert (p < 0.5).all()
    with pytest.warns(CamWarning, match="probabilities"):
        heatmap = explain(model, images, layer="conv", target=1, scaling="none")
    difference = maps[:, 1] - maps[:, 0]
    assert_allclose(heatmap.confidences, p, rtol=1e-4)
    assert_allclose(heatmap.scores, difference.mean((1, 2)), rtol=1e-3)
    assert_allclose(heatmap.raw, difference / 36, atol=1e-5)  # the gradient of z1 - z0 under an average over 36 places


# --- images that a model fails on ----------------------------------------------------------------------


def small(framework: str) -> Any:
    """A network of three channels and the images (4, 9, 12, 3) as it takes them."""
    images = np.random.default_rng(0).random((4, 9, 12, 3)).astype(np.float32)
    return (SmallTorch().eval(), images.transpose(0, 3, 1, 2)) if framework == "torch" else (small_keras(), images)


def other_layout(framework: str, images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1) if framework == "torch" else images.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("ask", [explain, partial(explain, layer="conv2"), list_layers], ids=["", "layer", "list"])
def test_images_in_the_other_layout_are_named_with_what_to_pass(framework: str, ask: Any) -> None:
    model, images = small(framework)
    moved = other_layout(framework, images)
    with pytest.raises(ArgumentError) as caught:
        ask(model, moved)
    axis, axes = ("second", (0, 3, 1, 2)) if framework == "torch" else ("last", (0, 2, 3, 1))
    said = f"images has shape {moved.shape}, and the model takes the channels in the {axis} axis"
    assert str(caught.value) == f"{said}: pass images.transpose{axes}."
    assert caught.value.argument == "images"
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, ArgumentError)
    assert_allclose(explain(model, moved.transpose(axes)).values, explain(model, images).values)


def test_bytes_are_named_where_the_model_fails_on_them() -> None:
    model, images = small("torch")
    in_bytes = (images * 255).astype(np.uint8)
    with pytest.raises(ArgumentError, match=r"^images holds uint8, .*: pass images.astype\('float32'\) / 255, normal"):
        explain(model, in_bytes)
    with pytest.raises(ArgumentError, match=r"images.permute\(0, 3, 1, 2\)\. images holds uint8.*images.float\(\)"):
        explain(model, torch.from_numpy(other_layout("torch", in_bytes)))
    keras, images = small("tf")
    assert explain(keras, (images * 255).astype(np.uint8)).values.shape == (4, 9, 12)  # which makes floats of them


def test_any_other_failure_of_the_model_stays_its_own(framework: str) -> None:
    """Two channels fit in no layout; and what a target raises has nothing to do with the images."""
    model, images = small(framework)
    two = images[:, :2] if framework == "torch" else images[..., :2]
    with pytest.raises((RuntimeError, ValueError)) as caught:
        explain(model, two)
    assert not isinstance(caught.value, ArgumentError)

    def broken(output: Any) -> Any:
        raise RuntimeError("of the target")

    with pytest.raises(RuntimeError, match="of the target") as caught:
        explain(model, images, target=broken)
    assert not isinstance(caught.value, ArgumentError)


def test_a_failure_on_bytes_that_the_model_takes_is_not_laid_at_them() -> None:
    """As where memory runs out: the model takes the same images a moment later."""

    class Once(SmallTorch):
        failed = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.failed:
                self.failed = True
                raise RuntimeError("out of memory")
            return super().forward(x.float())

    images = (small("torch")[1] * 255).astype(np.uint8)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        explain(Once().eval(), images)
    assert not isinstance(caught.value, ArgumentError)


@pytest.mark.parametrize("function", [explain, explain_many])
def test_what_is_left_out_is_the_same_for_every_way_to_explain(function: Callable[..., Any]) -> None:
    """The operator and the trace go by the settings, `explain` by its signature."""
    said = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    settings = {one.name: one.default for one in fields(Settings) if one.name != "trial"}
    assert settings == {name: default for name, default in said.items() if name in settings}


def test_where_a_forward_goes_another_way_a_default_is_looked_for_anew_and_a_named_layer_is_an_error() -> None:
    """The error comes after the pass that a plan expected, and a second one that sees everything: no third."""
    way, passes = ["first"], []

    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        passes.append(way[0])
        return net.fc(getattr(net, way[0])(x).mean((2, 3)))

    model = Net(compute, first=nn.Conv2d(1, 2, 3), second=nn.Conv2d(1, 2, 3), fc=nn.Linear(2, 2)).eval()
    images = torch.rand(1, 1, 8, 8)
    assert explain(model, images).layer == explain(model, images, layer="first").layer == "first"
    way[0] = "second"
    passes.clear()
    with pytest.raises(ArgumentError, match="layer='first' is not called in the model's forward pass"):
        explain(model, images, layer="first")
    assert len(passes) == 2
    assert explain(model, images).layer == "second"


def test_a_pass_has_gradients_unless_it_is_asked_to_have_none(kit: Kit) -> None:
    backend, inputs = backend_for(kit.small()), Inputs.of(kit.images(np.random.randn(2, 9, 12, 3)))
    query = Query(backend.resolve(None, inputs), [resolve_target(1, 2)], "logit")
    (found,), (without,) = backend.run(inputs, query), backend.run(inputs, replace(query, gradients=False))
    assert found.gradients is not None and found.gradients.any()
    assert without.gradients is None
    assert_allclose(without.scores, found.scores, rtol=1e-6)
