"""How many rows are asked at once, and the random numbers of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import explain
from fe_gradcam.explaining.route import explained
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.methods import METHODS
from fe_gradcam.methods.asking import RandomNumbers
from tests.methods.inputs import PERTURBING, Counting, assert_close, given_by, inputs_of
from tests.models.toys import FRAMEWORKS, twins

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("method", [*PERTURBING, "smooth_grad_cam_plus_plus"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_never_more_rows_at_once_than_the_batch_size(method: str, batch_size: int) -> None:
    model, images = Counting(), torch.randn(5, 3, 9, 9)
    one_piece = explain(model, images, method=method, layer="relu", batch_size=1000)
    model.rows.clear()
    chunks = explain(model, images, method=method, layer="relu", batch_size=batch_size)
    assert max(max(rows) for rows in model.rows) == batch_size
    assert_close(chunks.raw, one_piece.raw)


@pytest.mark.thread_unsafe(reason="it counts passes, and where another thread puts on hooks one is made twice")
@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ((9, 9), 64),
        ((42, 42), 64),  # its largest output holds 16,000 numbers an image: a million of 64
        ((44, 44), 32),
        ((100, 50), 16),
        ((180, 180), 4),  # never fewer for that alone
        ((224, 224), 4),
        ((500, 500), 1),
    ],
)
def test_without_a_batch_size_the_rows_of_a_pass_hang_on_pixels_and_outputs(size: tuple[int, int], rows: int) -> None:
    model, images = Counting(), torch.randn(7, 3, *size)
    explain(model, images, method="score_cam", layer="relu")
    assert max(behind for _, behind in model.rows[1:]) == rows
    assert sum(behind for _, behind in model.rows[1:]) == 7 * 10


def test_what_runs_behind_the_layer_alone_counts_the_pixels_of_the_layer() -> None:
    model = Counting()
    explain(nn.Sequential(nn.AvgPool2d(40), model), torch.randn(2, 3, 400, 400), method="ablation_cam", layer="1.relu")
    behind = [rows for _, rows in model.rows]
    assert behind.count(10) == 2  # one pass for each image, which would be asked row by row for its 160,000 pixels


@pytest.mark.parametrize("method", [*PERTURBING, "smooth_grad_cam_plus_plus"])
def test_a_rule_leaves_what_it_got(method: str) -> None:
    """Also where a map has the size of the image, so that nothing is upsampled."""
    inputs = inputs_of(3, 2, 4, 5, 6)
    inputs = given_by(inputs.activations, inputs.gradients, torch.randn(2, 3, 5, 6))
    before = [one.clone() for one in (inputs.activations, inputs.gradients, inputs.images, inputs.probe.images)]
    METHODS[method].terms(inputs)
    for one, kept in zip(
        (inputs.activations, inputs.gradients, inputs.images, inputs.probe.images), before, strict=True
    ):
        assert torch.equal(one, kept)


def test_the_noise_of_a_draw_is_the_same_wherever_it_is_asked() -> None:
    numbers = RandomNumbers(inputs_of(3, 2, 4, 5, 6))
    rows, draws = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 0])
    together = numbers.normal(rows, draws, (50,))
    alone = [numbers.normal(rows[at : at + 1], draws[at : at + 1], (50,))[0] for at in range(4)]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(together[0], together[3])
    assert len({float(one[0]) for one in together}) == 3


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
