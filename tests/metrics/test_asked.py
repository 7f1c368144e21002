"""What a model is asked about other pictures of the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from fe_gradcam import METRICS, ArgumentError, explain, measure
from fe_gradcam.metrics.asked import Asked
from tests.methods.inputs import Net
from tests.metrics.readers import FRAMEWORKS, OF_MODEL, every_metric, heat_of, laid_out, random_case
from tests.models.toys import SmallTorch, small_keras

HEADS: dict[str, tuple[int, Callable[[torch.Tensor], torch.Tensor], Callable[[Any], Any]]] = {
    "logits": (5, lambda x: x.softmax(1), lambda x: x),
    "softmax": (5, lambda x: x.softmax(1), tf.nn.softmax),
    "sigmoid of several": (5, torch.sigmoid, tf.sigmoid),
    "one logit": (1, lambda x: torch.cat([(-x).sigmoid(), x.sigmoid()], 1), lambda x: x),
    "one sigmoid": (1, lambda x: torch.cat([(-x).sigmoid(), x.sigmoid()], 1), tf.sigmoid),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_probability_of_the_explained_class_is_asked_for(framework: str, head: str) -> None:
    classes, expected, of_keras = HEADS[head]
    images = np.random.default_rng(0).normal(size=(3, 3, 9, 12)).astype(np.float32)
    ids = np.array([1, 0, 1])
    if framework == "torch":
        net: Any = SmallTorch(classes=classes).eval()
        logits = [net(torch.from_numpy(part)).detach() for part in (images, 0 * images)]
        in_torch = {"softmax": nn.Softmax(1), "sigmoid of several": nn.Sigmoid(), "one sigmoid": nn.Sigmoid()}
        model: Any = nn.Sequential(net, in_torch.get(head, nn.Identity())).eval()
    else:
        net = small_keras(classes=classes)
        logits = [torch.from_numpy(net(laid_out("keras", part)).numpy()) for part in (images, 0 * images)]
        model = tf.keras.Model(net.inputs, of_keras(net.output))
    ends = [expected(table).numpy()[range(3), ids] for table in logits]
    found = measure(model, laid_out(framework, images), heat_of(np.ones((3, 9, 12)), ids), [("deletion", {"steps": 1})])
    assert_allclose(found["deletion(steps=1)"], (ends[0] + ends[1]) / 2, rtol=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_outputs_for_empty_images_do_not_say_how_outputs_are_read(framework: str) -> None:
    """Without biases the logits of an empty image are 0: alone they might be probabilities of independent classes."""
    model, images, heatmap, _ = random_case(framework)
    if framework == "torch":
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, False)
        )
    before = explain(model, images, target=heatmap.class_ids).confidences
    found = measure(model, images, heatmap, [("deletion", {"steps": 1})], batch_size=1)["deletion(steps=1)"]
    assert_allclose(found, (before + 1 / 5) / 2, rtol=1e-5)
    assert_allclose(explain(model, images, target=heatmap.class_ids).confidences, before, rtol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_image_without_a_class_has_no_value_of_the_model(framework: str) -> None:
    model, images, heatmap, places = random_case(framework)
    found = every_metric(model, images, replace(heatmap, class_ids=np.array([0, -1, 4])), places)
    for name, values in found.items():
        assert_array_equal(np.isnan(values), [False, name in OF_MODEL, False], name)


@pytest.mark.parametrize(("batch_size", "most"), [(1, 2), (2, 2), (5, 5), (100, 7)])
def test_no_more_images_are_in_a_pass_than_asked_for(batch_size: int, most: int) -> None:
    """One of them is an unchanged image, so that at least there are two."""
    rows: list[int] = []

    def compute(net: Any, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return net.fc(net.conv(x).mean((2, 3)))

    model, images = Net(compute, conv=nn.Conv2d(1, 2, 3), fc=nn.Linear(2, 3)).eval(), torch.rand(2, 1, 9, 12)
    asked = Asked(model, images, heat_of(np.ones((2, 9, 12))), batch_size, 0, None)
    versions = torch.tensor([0, 0, 0, 1, 1, 1])
    tables = [asked.table(versions, lambda at: images[versions[at]]), asked(versions, lambda at: images[versions[at]])]
    assert_allclose(tables[0][:, 0], tables[1])
    assert max(rows[1:]) == most  # the first finds the layer


def test_bytes_stay_bytes() -> None:
    def of_bytes(net: Any, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.uint8, "it takes bytes alone"
        return torch.stack([net.look(x.float() / 255).mean((1, 2, 3)), torch.zeros(len(x))], 1)

    model, images = Net(of_bytes, look=nn.Conv2d(1, 1, 1)).eval(), torch.randint(0, 256, (2, 1, 9, 12)).byte()
    found = measure(model, images, heat_of(np.random.default_rng(0).random((2, 9, 12))), OF_MODEL)
    assert all(np.isfinite(values).all() for values in found.values())


def test_of_several_inputs_the_picture_alone_is_changed() -> None:
    """P is the share of white pixels, or what comes beside the image where that is not 0."""

    def with_more(net: Any, more: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        p = torch.where(more[:, 0] != 0, more[:, 0], net.look(x).mean((1, 2, 3)))
        return torch.stack([p, 1 - p], 1)

    model, inputs = Net(with_more, look=nn.Identity()), (torch.tensor([[0.0], [0.25]]), torch.ones(2, 1, 4, 4))
    found = measure(model, inputs, heat_of(np.ones((2, 4, 4))), "deletion", batch_size=3)
    assert_allclose(found["deletion"], [0.5, 0.25])


def test_volumes() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    volumes = torch.rand(2, 1, 5, 6, 7)
    heatmap = heat_of(np.random.default_rng(0).random((2, 5, 6, 7)))
    places = np.zeros((2, 5, 6, 7), bool)
    places[:, 1:3, 2:5, 2:6] = True
    of_volumes = [name for name in METRICS if name not in ("road", "sanity")]
    found = measure(model, volumes, heatmap, of_volumes, masks=places)
    assert all(np.isfinite(values).all() for values in found.values())
    with pytest.raises(ArgumentError, match="images with two axes of space"):
        measure(model, volumes, heatmap, "road")
