"""A real ImageNet classifier on real photos, in both frameworks with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fe_gradcam import METHODS, explain
from fe_gradcam.types import Needs

pytestmark = pytest.mark.slow

# Where the object is in the 224 px photo: left, top, right, bottom, read off the pictures by eye.
OBJECTS = {"coffee": (35, 5, 195, 165), "rocket": (65, 60, 170, 215), "flower": (40, 40, 185, 195)}


# Those of one pass; what the probe says is compared on small networks. The numbers of random_cam are drawn for an
# image as it is passed in, in the layout of the framework.
COMPARED = [name for name, method in METHODS.items() if Needs.PROBE not in method.needs and name != "random_cam"]
PRECISION = {"xgrad_cam": 1e-3}
"""Relative. It divides by sums over space that nearly cancel where a batch norm puts out both signs."""


@pytest.mark.parametrize("method", COMPARED)
@pytest.mark.parametrize("depth", ["head", "middle"])
@pytest.mark.parametrize("target", [None, 281])
def test_both_frameworks_agree(pretrained: dict[str, Any], method: str, depth: str, target: int | None) -> None:
    layers = {"head": ("_swish", "head_relu6"), "middle": ("_blocks.10._bn2", "blocks.10._bn2")}[depth]
    maps = []
    for framework, layer in zip(("torch", "keras"), layers, strict=True):
        model, images = pretrained[framework]
        maps.append(explain(model, images, method=method, layer=layer, target=target))
    one, other = maps
    assert_allclose(other.class_ids, one.class_ids)
    assert_allclose(other.scores, one.scores, atol=1e-4 * np.abs(one.scores).max())
    assert_allclose(other.confidences, one.confidences, atol=1e-4)
    for at in range(len(one)):
        assert np.abs(one.raw[at] - other.raw[at]).max() <= PRECISION.get(method, 1e-4) * np.abs(one.raw[at]).max()
    assert_allclose(other.values, one.values, atol=10 * PRECISION.get(method, 1e-4))


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_it_finds_the_class_and_looks_at_the_object(pretrained: dict[str, Any], framework: str) -> None:
    model, images = pretrained[framework]
    heatmap = explain(model, images)
    for at, (name, class_id) in enumerate(zip(pretrained["names"], pretrained["class_ids"], strict=True)):
        if class_id is not None:
            assert heatmap.class_ids[at] == class_id, name
        if name in OBJECTS:
            left, top, right, bottom = OBJECTS[name]
            heat = heatmap.values[at]
            share = heat[top:bottom, left:right].sum() / heat.sum()
            area = (right - left) * (bottom - top) / heat.size
            assert share > 1.5 * area, (name, share, area)
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            assert left <= x < right, name
            assert top <= y < bottom, name


def test_another_class_gives_another_map(pretrained: dict[str, Any]) -> None:
    model, images = pretrained["torch"]
    cat, espresso = (explain(model, images[:2], target=target, scaling="none").raw for target in (285, 967))
    for one, other in zip(cat, espresso, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.9
