"""The CAM rules: hand-worked numbers on constant weights, and the laws that hold for every one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from fe_gradcam import METHODS, UnknownNameError, explain
from fe_gradcam.methods import get_method
from fe_gradcam.types import ArgumentError, CamInputs, Needs
from tests.toys import TOYS, SmallTorch, small_keras

GRADIENT_METHODS = [name for name, method in METHODS.items() if Needs.GRADIENTS in method.needs]
LINEAR_UNDER_POOLING = ["grad_cam", "hires_cam"]

A0 = np.array([[0, 1, 2], [3, 4, 5]], np.float64)
A1 = np.array([[2, 1, 0], [0, 0, 0]], np.float64)
ZERO = np.zeros((2, 3))
ONE_PLACE = np.array([[0, 0, 0], [0, 0, 5]], np.float64)

# What the docstring of tests.toys leads to: pooled gradients are W / 6, flat ones are the head itself.
HAND_WORKED = [
    ("pooled", "grad_cam", 0, A0 / 2 + A1 / 6),
    ("pooled", "grad_cam", 1, -A0 / 6 + A1 / 3),
    ("pooled", "hires_cam", 0, A0 / 2 + A1 / 6),
    ("pooled", "hires_cam", 1, -A0 / 6 + A1 / 3),
    ("pooled", "layer_cam", 0, A0 / 2 + A1 / 6),
    ("pooled", "layer_cam", 1, A1 / 3),
    ("flat", "grad_cam", 0, A0 / 6 - A1),
    ("flat", "hires_cam", 0, np.array([[-12, 0, 0], [0, 0, 5]])),
    ("flat", "layer_cam", 0, ONE_PLACE),
    ("flat", "grad_cam", 1, ZERO),
    ("flat", "hires_cam", 1, ZERO),
    ("flat", "layer_cam", 1, ZERO),
]


@pytest.mark.parametrize("framework", TOYS)
@pytest.mark.parametrize(("kind", "method", "target", "expected"), HAND_WORKED)
def test_hand_worked_numbers(framework: str, kind: str, method: str, target: int, expected: np.ndarray) -> None:
    model, image, layer = TOYS[framework](kind)
    heatmap = explain(model, image, method=method, layer=layer, target=target)
    assert_allclose(heatmap.raw[0], expected, atol=1e-6)
    assert_allclose(heatmap.scores, {"pooled": [8, -1.5], "flat": [-7, 0]}[kind][target], atol=1e-5)
    assert heatmap.blank[0] == (expected.max() <= 0)
    positive = np.maximum(expected, 0)
    assert_allclose(heatmap.values[0], positive / (positive.max() or 1), atol=1e-6)


def test_every_registered_method_is_worked_by_hand() -> None:
    assert {method for _, method, _, _ in HAND_WORKED} == set(METHODS)


def _inputs(seed: int, n: int, k: int, h: int, w: int) -> CamInputs:
    generator = torch.Generator().manual_seed(seed)
    return CamInputs(
        activations=torch.randn(n, k, h, w, generator=generator),
        gradients=torch.randn(n, k, h, w, generator=generator),
        scores=torch.randn(n, generator=generator),
        class_ids=torch.zeros(n, dtype=torch.int64),
    )


SHAPES = st.tuples(st.integers(0, 99), st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(1, 7))


@pytest.mark.parametrize("method", METHODS)
@given(shape=SHAPES)
def test_shape_and_finite(method: str, shape: tuple[int, int, int, int, int]) -> None:
    inputs = _inputs(*shape)
    raw = METHODS[method].rule(inputs)
    assert raw.shape == (shape[1], *shape[3:])
    assert raw.dtype == torch.float32
    assert torch.isfinite(raw).all()


@pytest.mark.parametrize("method", METHODS)
@given(shape=SHAPES)
def test_a_batch_equals_its_images_one_by_one(method: str, shape: tuple[int, int, int, int, int]) -> None:
    inputs = _inputs(*shape)
    rule = METHODS[method].rule
    rows = [
        rule(CamInputs(inputs.activations[i : i + 1], inputs.gradients[i : i + 1], inputs.scores, inputs.class_ids))
        for i in range(shape[1])
    ]
    assert_allclose(rule(inputs), torch.cat(rows), rtol=1e-4, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("method", METHODS)
@given(shape=SHAPES)
def test_permuting_channels_changes_nothing(method: str, shape: tuple[int, int, int, int, int]) -> None:
    inputs = _inputs(*shape)
    order = torch.randperm(shape[2], generator=torch.Generator().manual_seed(shape[0]))
    permuted = CamInputs(inputs.activations[:, order], inputs.gradients[:, order], inputs.scores, inputs.class_ids)
    rule = METHODS[method].rule
    assert_allclose(rule(permuted), rule(inputs), rtol=1e-4, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_writes_nothing_in_place(method: str) -> None:
    inputs = _inputs(1, 2, 3, 4, 5)
    before = inputs.activations.clone(), inputs.gradients.clone()
    METHODS[method].rule(inputs)
    assert torch.equal(inputs.activations, before[0])
    assert torch.equal(inputs.gradients, before[1])


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_rule_that_needs_gradients_says_so(method: str) -> None:
    inputs = _inputs(1, 1, 2, 3, 3)
    without = CamInputs(inputs.activations, None, inputs.scores, inputs.class_ids)
    with pytest.raises(ArgumentError, match=r"inputs\.gradients is None"):
        METHODS[method].rule(without)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_score_that_ignores_the_layer_gives_a_zero_map(method: str, framework: str) -> None:
    """Two branches see the image; the score reads one, the other is explained."""
    if framework == "torch":

        class TwoBranches(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.read, self.ignored = torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(1, 2, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.read(x).mean((2, 3)) + 0 * self.ignored(x).detach().mean((2, 3))

        model, image = TwoBranches(), np.random.rand(2, 1, 8, 8).astype(np.float32)
    else:
        import tensorflow as tf

        inputs = tf.keras.Input((8, 8, 1))
        read = tf.keras.layers.Conv2D(2, 3, name="read")(inputs)
        ignored = tf.keras.layers.Conv2D(2, 3, name="ignored")(inputs)
        pool = tf.keras.layers.GlobalAveragePooling2D()
        model = tf.keras.Model(inputs, [pool(read), pool(ignored)])
        model = _FirstOutput(model)
        image = np.random.rand(2, 8, 8, 1).astype(np.float32)
    heatmap = explain(model, image, method=method, layer="ignored", target=1)
    assert not heatmap.raw.any()
    assert heatmap.blank.all()
    assert not heatmap.values.any()


def _FirstOutput(model: object) -> object:  # noqa: N802
    import tensorflow as tf

    class FirstOutput(tf.keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inside = model

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.inside(x)[0]

    return FirstOutput()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_pooling_and_linear_make_the_linear_methods_equal(framework: str) -> None:
    """Where the explained tensor itself is averaged before a linear head, g is constant over space."""
    if framework == "torch":
        model, images, layer = SmallTorch().eval(), np.random.randn(3, 3, 9, 12).astype(np.float32), None
    else:
        model, images, layer = small_keras(), np.random.randn(3, 9, 12, 3).astype(np.float32), None
    maps = [explain(model, images, method=name, layer=layer, target=2).raw for name in LINEAR_UNDER_POOLING]
    for other in maps[1:]:
        assert_allclose(other, maps[0], atol=1e-5 * np.abs(maps[0]).max())


@given(shape=SHAPES)
def test_layer_cam_is_hires_cam_for_positive_gradients(shape: tuple[int, int, int, int, int]) -> None:
    inputs = _inputs(*shape)
    positive = CamInputs(inputs.activations, inputs.gradients.abs(), inputs.scores, inputs.class_ids)
    assert_allclose(METHODS["layer_cam"].rule(positive), METHODS["hires_cam"].rule(positive), rtol=1e-5, atol=1e-6)


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"method='gradcam' is not known; did you mean 'grad_cam'"):
        get_method("gradcam")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_documented(method: str) -> None:
    assert METHODS[method].summary.endswith(".")
    assert any(source in METHODS[method].paper for source in ("arXiv:", "doi:"))
