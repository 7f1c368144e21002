"""How many rows are asked at once, and the random numbers of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fe_gradcam import explain
from fe_gradcam.explaining.route import explained
from fe_gradcam.explaining.settings import Settings
from tests.methods.inputs import PERTURBING, Counting, assert_close
from tests.models.toys import FRAMEWORKS, twins


@pytest.mark.parametrize("method", [*PERTURBING, "smooth_grad_cam_plus_plus"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_never_more_rows_at_once_than_the_batch_size(method: str, batch_size: int) -> None:
    model, images = Counting(), torch.randn(5, 3, 9, 9)
    one_piece = explain(model, images, method=method, layer="relu", batch_size=1000)
    model.rows.clear()
    chunks = explain(model, images, method=method, layer="relu", batch_size=batch_size)
    assert max(max(rows) for rows in model.rows) == batch_size
    assert_close(chunks.raw, one_piece.raw)


def test_without_a_batch_size_it_asks_thirty_two_at_once() -> None:
    model = Counting()
    explain(model, torch.randn(5, 3, 9, 9), method="score_cam", layer="relu")
    assert max(max(rows) for rows in model.rows) == 32
    assert sum(rows for rows, _ in model.rows[1:]) == 5 * 10


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["smooth_grad_cam_plus_plus", "ss_cam", "random_cam"])
def test_a_seed_repeats_and_another_does_not(framework: str, method: str) -> None:
    model, images, layer = twins()[framework]
    first, again, other = (explain(model, images, method=method, layer=layer, seed=seed).raw for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4 * np.abs(first).max()


def test_each_image_has_numbers_of_its_own() -> None:
    model, images, layer = twins()["torch"]
    same = np.repeat(images[:1], 2, 0)
    assert_allclose(*explain(model, same, method="random_cam", layer=layer).raw, rtol=1e-6)
    raw = explain(model, images, method="random_cam", layer=layer).raw
    with torch.no_grad():
        maps = torch.relu(model.conv2(torch.relu(model.conv1(torch.from_numpy(images))))).flatten(2).numpy()
    mixtures = [np.linalg.lstsq(one.T, of.ravel(), rcond=None)[0] for one, of in zip(maps, raw, strict=True)]
    assert np.abs(mixtures[0] - mixtures[1]).max() > 0.05


def test_a_trial_asks_few_variants() -> None:
    """The trace tries its arguments before the training: not with every channel of a wide layer."""
    model = Counting()
    settings = Settings(batch_size=2, trial=True)
    for method in PERTURBING:
        model.rows.clear()
        done = explained(model, torch.randn(1, 3, 9, 9), settings, methods=[method], layers=["relu"], targets=[None])
        assert done.heatmaps[0].values.shape == (1, 9, 9)
        assert len(model.rows) <= 6
