"""Every classifier of the zoo: its heatmaps, its default layer, its scores, and that it is left as it was."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import METHODS, Heatmap, UnsupportedModelError, explain, explain_many, list_layers
from fe_gradcam.backends.keras.version import keras_of
from fe_gradcam.types import Needs
from tests.models.held import assert_unchanged, held
from tests.models.zoo import BY_NAME, ZOO, Entry, inference, places, shortfalls

pytestmark = pytest.mark.slow

EXPLAINED = [entry for entry in ZOO if entry.error is None]
QUICK = [name for name, method in METHODS.items() if Needs.PROBE not in method.needs]
"""The methods of one pass; those that ask the model again take as many as a layer has channels."""
ASKING = ["non-square", "non-square Keras"]
"""Small networks that are asked again all the same."""


@dataclass(frozen=True)
class Case:
    """A model at work, and what plain inference makes of the images."""

    entry: Entry
    model: Any
    images: np.ndarray
    plain: np.ndarray

    @property
    def other(self) -> int:
        """A class that is explained besides the inferred one, and is not that of all images."""
        return 1 if (self.plain.argmax(1) != 1).any() else 2


@dataclass(frozen=True)
class Explained:
    """Heatmaps by method, of the inferred class and of another, and the model's state around them."""

    inferred: dict[str, Heatmap]
    other: dict[str, Heatmap]
    before: dict[str, Any]
    after: dict[str, Any]


@pytest.fixture(scope="module", params=EXPLAINED, ids=lambda entry: entry.name)
def case(request: pytest.FixtureRequest) -> Case:
    entry: Entry = request.param
    if entry.needs is not None:
        pytest.importorskip(entry.needs)
    model, images = entry.make(), entry.images(2)
    return Case(entry, model, images, inference(entry, model, images)())


@pytest.fixture(scope="module")
def explained(case: Case) -> Explained:
    """One call for all methods, of a model that is in the middle of its training."""
    if case.entry.framework == "torch":
        case.model.train()
        next(iter(case.model.children())).eval()
    before = held(case.model) | {"images": case.images.copy()}
    heatmaps = explain_many(case.model, case.images, methods=methods_of(case.entry), targets=(None, case.other))
    after = held(case.model) | {"images": case.images}
    if case.entry.framework == "torch":
        case.model.eval()
    return Explained(
        {heatmap.method: heatmap for heatmap in heatmaps[::2]},
        {heatmap.method: heatmap for heatmap in heatmaps[1::2]},
        before,
        after,
    )


def methods_of(entry: Entry) -> list[str]:
    if entry.methods is not None:
        return list(entry.methods)
    return QUICK + ["ablation_cam"] * (entry.name in ASKING)


def test_heatmaps_are_finite_in_range_of_the_expected_layer_and_class(case: Case, explained: Explained) -> None:
    assert list(explained.inferred) == methods_of(case.entry)
    for method, heatmap in explained.inferred.items():
        found = shortfalls(case.entry, case.model, case.images, case.plain, heatmap)
        rare = method == "fem" and np.prod(case.entry.map) < 10
        if (rare or method == "random_cam") and heatmap.raw.max() <= 0:
            # of few places none is 2 σ above a mean, but of channels whose mean is negative; random weights may be any
            found = [each for each in found if not each.startswith("blank")]
        assert found == [], method


def test_scores_of_another_class_are_those_of_plain_inference(case: Case, explained: Explained) -> None:
    one, other = explained.inferred["grad_cam"], explained.other["grad_cam"]
    assert_allclose(other.class_ids, case.other)
    rows = np.arange(len(one))
    if case.entry.head == "softmax":  # keeps the differences of the logits alone
        logs = np.log(case.plain.astype(np.float64))
        expected, came = logs[rows, one.class_ids] - logs[:, case.other], one.scores - other.scores
        atol = 1e-4 * max(1.0, np.abs(one.scores).max())
    else:
        expected, came = case.plain[:, case.other], other.scores
        atol = case.entry.precision * np.abs(case.plain).max()
    assert_allclose(came, expected, atol=atol, rtol=0)
    apart = one.class_ids != case.other
    assert apart.any()
    assert not np.allclose(one.raw[apart], other.raw[apart], rtol=1e-3, atol=0)


def test_nothing_is_left_changed(explained: Explained) -> None:
    assert_unchanged(explained.before, explained.after)


def test_the_layer_is_listed_as_the_default(case: Case) -> None:
    name = case.entry.layer_name(case.model)
    infos = list_layers(case.model, case.images[:1])
    (info,) = [info for info in infos if info.default]
    assert info.name == name.removesuffix(" + activation")
    assert (info.activation is not None) == name.endswith(" + activation")
    assert info.spatial
    assert info.shape[1:] == case.entry.map


def test_maps_are_those_worked_out_by_other_means(case: Case, explained: Explained) -> None:
    """By what the frameworks themselves have for a layer: hooks and autograd, a functional model and a tape.

    Or by explaining the same weights where nothing stands in the way.
    """
    entry = case.entry
    expected = by_hand(case, explained.inferred["hires_cam"].class_ids) if entry.twin is None else of_twin(entry.twin)
    # one cuts off at a threshold, which rounding moves places over; the sign of the other rests on a sum near zero
    skipped = {"fem", "kpca_cam"} if entry.precision > 1e-4 else set()
    for method in expected.keys() & explained.inferred.keys() - skipped:
        maps = expected[method]
        difference = np.abs(explained.inferred[method].raw - maps)
        # sums with both signs: their errors are some times those of the terms
        assert difference.max() <= 10 * entry.precision * np.abs(maps).max(), method


@cache
def of_twin(name: str) -> dict[str, np.ndarray]:
    entry = BY_NAME[name]
    heatmaps = explain_many(entry.make(), entry.images(2), methods=QUICK)
    return {heatmap.method: heatmap.raw for heatmap in heatmaps}


def by_hand(case: Case, class_ids: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of two methods. Of a layer with a ReLU behind it that is no layer of its own, the gradient by hand is
    that before the ReLU: zero where the activation is, so that it makes no difference to HiRes-CAM.
    """
    name = case.entry.layer_name(case.model)
    at_hand = torch_by_hand if case.entry.framework == "torch" else keras_by_hand
    activations, gradients = at_hand(case, name.removesuffix(" + activation"), class_ids)
    if name.endswith(" + activation"):
        return {"hires_cam": (gradients * activations.clip(min=0)).sum(1)}
    weights = gradients.mean(tuple(range(2, gradients.ndim)), keepdims=True)
    return {"hires_cam": (gradients * activations).sum(1), "grad_cam": (weights * activations).sum(1)}


def torch_by_hand(case: Case, name: str, class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gradients of the logits, (N, K, *S); the logits are what the last dense layer puts out."""
    model, taken = case.model, {}
    dense = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    handles = [
        module.register_forward_hook(lambda _, __, output, key=key: taken.__setitem__(key, output))
        for key, module in (("place", model.get_submodule(name)), ("logits", dense))
    ]
    output = model(torch.from_numpy(case.images).requires_grad_())
    for handle in handles:
        handle.remove()
    logits = taken["logits"]
    assert torch.equal(getattr(output, "logits", output), logits if case.entry.head == "logits" else logits.softmax(-1))
    scores = logits.gather(1, torch.from_numpy(class_ids)[:, None])
    pair = [taken["place"], *torch.autograd.grad(scores.sum(), taken["place"])]
    if case.entry.extra_tokens is not None:
        patches = [tokens[:, case.entry.extra_tokens :].transpose(1, 2) for tokens in pair]
        pair = [tokens.unflatten(2, case.entry.map) for tokens in patches]
    return pair[0].detach().numpy(), pair[1].numpy()


def keras_by_hand(case: Case, name: str, class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = case.model
    last = model.layers[-1]
    before = model.output if case.entry.head == "logits" else last.input
    keras = keras_of(model)
    (there,) = [one for one in places(model) if one.name == name]
    both = keras.Model(model.inputs, [there.output, before])
    with tf.GradientTape() as tape:
        place, logits = both(case.images, training=False)
        if case.entry.head == "softmax" and isinstance(last, keras.layers.Dense):
            logits = tf.matmul(logits, last.kernel) + last.bias
        scores = tf.gather(logits, class_ids, axis=1, batch_dims=1)
    gradient = tape.gradient(scores, place)
    return np.moveaxis(place.numpy(), -1, 1), np.moveaxis(gradient.numpy(), -1, 1)


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.error is not None], ids=lambda entry: entry.name)
def test_what_cannot_be_explained_says_what_to_pass_instead(entry: Entry) -> None:
    with pytest.raises(UnsupportedModelError, match=entry.error):
        explain(entry.make(), entry.images(2))


FAULTS = {
    "layer": ({"layer": "conv1"}, "the layer is conv1"),
    "map": ({"raw": np.ones((2, 24, 15), np.float32)}, r"the map is \(24, 15\)"),
    "size": ({"values": np.ones((2, 48, 30), np.float32)}, r"the heatmaps are \(2, 48, 30\)"),
    "NaN": ({"values": np.full((2, 30, 48), np.nan, np.float32)}, "not all values are finite"),
    "range": ({"values": np.full((2, 30, 48), 1.5, np.float32)}, "the values go from 1.5"),
    "cold": ({"values": np.full((2, 30, 48), 0.5, np.float32)}, "the hottest values: .0.5"),
    "blank": ({"blank": np.ones(2, bool), "values": np.zeros((2, 30, 48), np.float32)}, "blank"),
    "blank and drawn": ({"blank": np.array([True, False])}, "blank"),
    "class": ({"class_ids": np.array([3, 11])}, "the classes are"),
    "score": ({"scores": np.array([0.5, 0.5], np.float32)}, "the scores are"),
    "confidence": ({"confidences": np.array([0.99, 0.99], np.float32)}, "the confidences are"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_heatmap_that_falls_short_is_told(fault: str) -> None:
    entry = BY_NAME["non-square"]
    model, images = entry.make(), entry.images(2)
    plain = inference(entry, model, images)()
    heatmap = explain(model, images)
    assert shortfalls(entry, model, images, plain, heatmap) == []
    changes, told = FAULTS[fault]
    assert any(re.search(told, each) for each in shortfalls(entry, model, images, plain, replace(heatmap, **changes)))


def test_every_entry_has_its_own_name_and_images_in_its_layout() -> None:
    assert len(BY_NAME) == len(ZOO)
    for entry in ZOO:
        images = entry.images(3)
        assert len(images) == 3 and images.dtype == np.float32
        assert images.shape[1 if entry.framework == "torch" else -1] in (1, 3, 5), entry.name
        assert not np.array_equal(images[0], images[1])
