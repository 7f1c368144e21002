"""How alike two maps are, and models without what they have learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from torch import nn

from fe_gradcam import ArgumentError, UnsupportedModelError
from fe_gradcam.metrics.comparison import overlap_of_hottest, randomised, rank_correlation
from tests.metrics.readers import laid_out, outputs_of, untouched, weights_of
from tests.models.toys import SmallTorch, small_keras

NUMBERS = st.integers(-3, 3).map(float)
MAPS = arrays(np.float64, (3, 2, 4), elements=NUMBERS)


@given(MAPS, MAPS)
def test_the_rank_correlation(a: np.ndarray, b: np.ndarray) -> None:
    found = rank_correlation(a, b)
    assert_allclose(found, rank_correlation(b, a), atol=1e-12)
    for one, first, second in zip(found, a, b, strict=True):
        constant = np.ptp(first) == 0, np.ptp(second) == 0
        expected = float(all(constant)) if any(constant) else spearmanr(first.ravel(), second.ravel()).statistic
        assert_allclose(one, expected, atol=1e-12)
    assert_allclose(rank_correlation(a, np.exp(a)), 1)


@given(MAPS, MAPS, st.floats(0.05, 1))
def test_the_overlap_of_the_hottest(a: np.ndarray, b: np.ndarray, share: float) -> None:
    found = overlap_of_hottest(a, b, share)
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    assert_allclose(found, overlap_of_hottest(b, a, share), atol=1e-12)
    assert_allclose(overlap_of_hottest(a, 2 * a + 1, share), 1)
    order = np.random.default_rng(0).permutation(8)
    assert_allclose(found, overlap_of_hottest(*(maps.reshape(3, 8)[:, order] for maps in (a, b)), share), atol=1e-12)


def test_the_overlap_by_hand() -> None:
    falling, shifted = np.array([[8, 7, 6, 5, 4, 3, 2, 1]]), np.array([[1, 8, 7, 6, 5, 4, 3, 2]])
    assert_allclose(overlap_of_hottest(falling, shifted, 0.25), 1 / 3)
    # a constant map takes each pixel by a quarter: 2 * 1/4 in common of 2 * 1 + 6 * 1/4
    assert_allclose(overlap_of_hottest(falling, 0 * falling, 0.25), 0.5 / 3.5)
    assert_allclose(overlap_of_hottest(0 * falling, 0 * falling), 1)


def test_maps_that_cannot_be_compared() -> None:
    for compare in (rank_correlation, overlap_of_hottest):
        with pytest.raises(ArgumentError, match=r"a has shape \(2, 3\) and b \(2, 4\)"):
            compare(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ArgumentError, match=r"share=0 is not accepted"):
        overlap_of_hottest(np.zeros((2, 3)), np.zeros((2, 3)), 0)


MODELS: dict[str, Callable[[], Any]] = {
    "torch": lambda: SmallTorch().eval(),
    "data parallel": lambda: nn.DataParallel(SmallTorch().eval()),
    "compiled": lambda: torch.compile(SmallTorch().eval(), backend="eager"),
    "keras": small_keras,
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_randomised_model_is_put_back_bit_for_bit(kind: str) -> None:
    model = MODELS[kind]()
    images = laid_out(kind, np.random.default_rng(0).random((2, 3, 9, 12), np.float32))
    before, outputs = weights_of(model), outputs_of(model, images)
    shuffled = []
    for seed in (0, 0, 1):
        with untouched(model), pytest.raises(KeyboardInterrupt), randomised(model, seed):
            shuffled.append(weights_of(model))
            assert np.abs(outputs_of(model, images) - outputs).max() > 1e-3 * np.abs(outputs).max()
            raise KeyboardInterrupt
    for one, first, second, third in zip(before, *shuffled, strict=True):
        assert_array_equal(first, second)
        assert_array_equal(np.sort(first, None), np.sort(one, None))
        assert (one.ndim > 1) == bool((first != one).any()) == bool((first != third).any())


def test_a_graph_and_gradients_survive_a_randomised_model() -> None:
    model, images = SmallTorch().eval(), torch.rand(2, 3, 9, 12)
    model(images).sum().backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters()}
    held = model(images).sum()
    with randomised(model):
        pass
    assert all(torch.equal(one.grad, expected[name]) for name, one in model.named_parameters())
    held.backward()
    assert all(torch.allclose(one.grad, 2 * expected[name]) for name, one in model.named_parameters())


def test_weights_made_in_inference_mode_and_tied_ones_are_randomised_too() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    before = weights_of(model)
    with untouched(model), randomised(model):
        assert (model[0].weight.detach().numpy() != before[0]).any()
        assert model[1].weight is model[0].weight


def test_randomised_says_what_it_takes() -> None:
    for model, seed, error in ((len, 0, UnsupportedModelError), (SmallTorch(), -1, ArgumentError)):
        with pytest.raises(error), randomised(model, seed):
            pass
