"""Principal components, and the statistics of a layer, against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.decomposition import KernelPCA

from fe_gradcam import METHODS
from fe_gradcam.errors import ArgumentError, CamWarning
from fe_gradcam.types import CamInputs
from tests.methods.inputs import inputs_of

pytestmark = pytest.mark.threads


def test_fem_by_hand() -> None:
    """Nine zeros and a ten: mean 1, population deviation 3, so the ten alone is above 7, and its channel weighs 1."""
    activations = torch.zeros(1, 2, 2, 5)
    activations[0, 0, 1, 2] = 10
    activations[0, 1] = 0.1  # a constant channel lies at its mean everywhere
    expected = np.full((2, 5), 0.1)
    expected[1, 2] += 1
    inputs = CamInputs(activations, None, torch.zeros(1), torch.zeros(1))
    assert_allclose(METHODS["fem"](inputs)[0], expected, atol=1e-6)


def kernel_pca(rows: np.ndarray, component: int) -> np.ndarray:
    """As in the code of the first author: the mean of each column is taken off, then the kernel PCA of scikit-learn."""
    pca = KernelPCA(n_components=component, kernel="sigmoid", eigen_solver="dense")
    return pca.fit_transform(rows - rows.mean(0))[:, component - 1]


@pytest.mark.parametrize("component", [1, 2, 3])
@given(seed=st.integers(0, 99))
def test_kpca_cam_is_the_kernel_pca_of_scikit_learn(component: int, seed: int) -> None:
    inputs = inputs_of(seed, 1, 4, 3, 5)
    expected = kernel_pca(inputs.activations[0].flatten(1).T.double().numpy(), component).reshape(3, 5)
    found = METHODS.find(("kpca_cam", {"component": component}))(inputs)[0].numpy()
    sign = np.sign((found * expected).sum())
    assert_allclose(found, sign * expected, atol=1e-5)
    assert (found * inputs.activations[0].sum(0).numpy()).sum() >= -1e-5


def test_kpca_cam_of_many_places_is_the_same() -> None:
    """Of more than 512 only the vectors that are asked for are computed."""
    inputs = inputs_of(3, 2, 6, 24, 25)
    for component in (1, 3):
        found = METHODS.find(("kpca_cam", {"component": component}))(inputs).numpy()
        for one, maps in zip(found, inputs.activations, strict=True):
            expected = kernel_pca(maps.flatten(1).T.double().numpy(), component).reshape(24, 25)
            assert_allclose(one, np.sign((one * expected).sum()) * expected, atol=1e-5)
    constant = CamInputs(torch.full((1, 6, 24, 25), 0.3), None, torch.zeros(1), torch.zeros(1))
    assert not METHODS["kpca_cam"](constant).any()


@given(seed=st.integers(0, 99), height=st.sampled_from([5, 30]))
def test_what_all_places_have_in_common_does_not_change_kpca_cam(seed: int, height: int) -> None:
    """With an offset of 50 in every channel the products x y / K are 2500, and their tanh is 1 throughout."""
    inputs = inputs_of(seed, 1, 4, height, 20)
    offset = CamInputs(inputs.activations + 50, None, inputs.scores, inputs.class_ids)
    expected = METHODS["kpca_cam"](inputs)
    assert expected.abs().max() > 0.1
    agreement = (expected * inputs.activations.sum(1)).sum().abs()
    assume(agreement > 1e-2)  # else rounding tells the sign
    assert_allclose(METHODS["kpca_cam"](offset), expected, atol=1e-3)


@given(seed=st.integers(0, 99), center=st.booleans())
def test_eigen_cam_is_the_singular_vector_of_numpy(seed: int, center: bool) -> None:
    inputs = inputs_of(seed, 1, 6, 3, 4)
    rows = inputs.activations[0].flatten(1).T.double().numpy()
    rows = rows - rows.mean(0) if center else rows
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    for component in (1, 2, 6):
        found = METHODS.find(("eigen_cam", {"component": component, "center": center}))(inputs)[0].numpy()
        expected = (left[:, component - 1] * values[component - 1]).reshape(3, 4)
        assert_allclose(found, np.sign((found * expected).sum()) * expected, atol=1e-4)
        assert (found * inputs.activations[0].sum(0).numpy()).sum() >= -1e-4


@given(seed=st.integers(0, 99), k=st.integers(1, 20))
def test_eigen_cam_of_a_rank_one_layer_is_that_map(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    of_places, of_channels = torch.randn(3, 5, generator=generator), torch.rand(k, generator=generator) + 0.1
    inputs = CamInputs((of_channels[:, None, None] * of_places)[None], None, torch.zeros(1), torch.zeros(1))
    assert_allclose(METHODS["eigen_cam"](inputs)[0], of_places * of_channels.norm(), atol=1e-5)


def test_more_components_than_there_are_give_a_zero_map_and_a_warning() -> None:
    inputs = inputs_of(0, 2, 3, 1, 2)
    for method in ("eigen_cam", "eigen_grad_cam", "kpca_cam"):
        with pytest.warns(CamWarning, match=r"component=4 does not exist: this layer has 2 components"):
            assert not METHODS.find((method, {"component": 4}))(inputs).any()


def test_kpca_cam_refuses_more_places_than_it_can_pair() -> None:
    inputs = CamInputs(torch.zeros(1, 2, 65, 64), None, torch.zeros(1), torch.zeros(1))
    with pytest.raises(ArgumentError, match=r"has 4160 pixels.*138 MB.*at most 4096.*eigen_cam"):
        METHODS["kpca_cam"](inputs)
