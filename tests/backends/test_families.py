"""Small networks of many families, checked by other means; "make zoo" checks all of `tests.models.families`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fe_gradcam import check_model, explain_many
from fe_gradcam.checking.places import readings
from tests.models.families import NETWORKS, SMALL, Network

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("network", SMALL, ids=lambda one: f"{one.source} {one.family} {one.name}")
def test_a_network_is_explained_as_by_other_means(network: Network) -> None:
    """By differences of the score (`check_model`), and by a plain hook and autograd."""
    kind = network.name.partition(",")[0]
    if not hasattr(pytest.importorskip(network.source), f"{kind}Config"):
        pytest.skip(f"this version of {network.source} has no {kind}")
    model, images = network.model(), network.images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library: small configurations
        check = check_model(model, images, **dict(network.asked))
    assert check.passed, str(check)
    assert check["gradient"].outcome == "passed"
    target = dict(network.asked).get("target")
    grad_cam, hires_cam = explain_many(
        model, images, methods=["grad_cam", "hires_cam"], targets=[target], layers=[check.layer], scaling="none"
    )
    if "+" in check.layer:
        return  # behind a function, which no hook sees
    taken = {}
    handle = model.get_submodule(check.layer).register_forward_hook(
        lambda _, __, output: taken.__setitem__("at", output[0] if isinstance(output, tuple) else output)
    )
    output = model(images)
    handle.remove()
    scores = target(output) if target else output.logits.gather(1, torch.from_numpy(grad_cam.class_ids)[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), taken["at"])
    # all of these put their class token and registers in front of the patches, and take these row by row
    reading = next(readings(tuple(gradient.shape[1:]), grad_cam.raw.shape[1:], None))
    a, g = (reading.maps(one.detach().numpy()) for one in (taken["at"], gradient))
    of_hand = (g.mean((2, 3), keepdims=True) * a).sum(1), (g * a).sum(1)
    for by_hand, heatmap in zip(of_hand, (grad_cam, hires_cam), strict=True):
        assert_allclose(heatmap.raw, by_hand, atol=1e-4 * np.abs(by_hand).max())


def test_every_network_has_its_own_name() -> None:
    assert len({(one.source, one.name) for one in NETWORKS}) == len(NETWORKS)
    assert len(NETWORKS) >= 140 and len(SMALL) >= 20
