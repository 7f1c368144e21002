"""Heatmaps of explain drawn with public names alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fe_gradcam import ArgumentError, draw, explain, explain_many
from fe_gradcam.drawing.grid import RED
from fe_gradcam.drawing.pixels import overlay
from fe_gradcam.types import Heatmap
from tests.drawing.places import places_of
from tests.models.toys import SmallTorch

IMAGES = torch.rand(2, 3, 160, 200, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(3)
    return SmallTorch().eval()


@pytest.fixture
def heatmap(net: torch.nn.Module) -> Heatmap:
    return explain(net, IMAGES)


@pytest.mark.parametrize("channels_first", [True, False])
def test_each_heatmap_lies_over_its_image(net: torch.nn.Module, channels_first: bool) -> None:
    maps = explain_many(net, IMAGES, methods=("grad_cam", "hires_cam"))
    pictures = np.rint(IMAGES.permute(0, 2, 3, 1).numpy().astype(np.float64) * 255).astype(np.uint8)
    picture = draw(IMAGES if channels_first else pictures, maps, title="two methods")
    for row, shown in enumerate(pictures):
        for part in (shown, *(overlay(shown, heatmap.values[row]) for heatmap in maps)):
            assert places_of(part, picture.rgb)


def test_wrong_inferences_are_framed(heatmap: Heatmap) -> None:
    def red(labels: np.ndarray) -> int:
        return int((draw(IMAGES, heatmap, labels=labels).rgb == RED).all(-1).sum())

    assert red(heatmap.class_ids) == 0
    assert red((heatmap.class_ids + 1) % 5) > 500


def test_names_stand_beside_the_images(heatmap: Heatmap) -> None:
    names = [f"a rather long name {letter}" for letter in "abcde"]
    plain, named = draw(IMAGES, heatmap), draw(IMAGES, heatmap, class_names=names, ids=["first.png", "second.png"])
    assert named.rgb.shape[1] > plain.rgb.shape[1]
    by_id = draw(IMAGES, heatmap, class_names=dict(enumerate(names)))
    assert (by_id.rgb == draw(IMAGES, heatmap, class_names=names).rgb).all()


def test_it_is_saved_and_shown_in_a_notebook(heatmap: Heatmap, tmp_path: Path) -> None:
    picture = draw(IMAGES, heatmap)
    picture.save(tmp_path / "new" / "heat.png")
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "new" / "heat.png")), cv2.COLOR_BGR2RGB)
    assert (read == picture.rgb).all()
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert repr(picture) == f"Picture({read.shape[1]} x {read.shape[0]} pixels)"


def test_what_does_not_fit_is_an_error(heatmap: Heatmap) -> None:
    volumes = replace(heatmap, values=np.zeros((2, 4, 5, 6), np.float32))
    for shown, heatmaps, more, message in (
        (IMAGES, [], {}, r"heatmaps=\[\] is not accepted"),
        (IMAGES[:1], heatmap, {}, r"heatmaps are of \[2\] images"),
        (IMAGES, [heatmap, replace(heatmap, scaling="none")], {}, "one colour bar"),
        (IMAGES, volumes, {}, "draw slices"),
        (IMAGES, heatmap, {"labels": [1, 2, 3]}, r"labels has shape \(3,\); \(2,\), a class id for each image"),
    ):
        with pytest.raises(ArgumentError, match=message):
            draw(shown, heatmaps, **more)
