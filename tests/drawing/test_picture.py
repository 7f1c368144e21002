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
from tests.models.toys import SmallTorch


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(3)
    return SmallTorch().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 160, 200, generator=torch.Generator().manual_seed(1))


def holds(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether the part stands somewhere in the picture, pixel by pixel."""
    found = cv2.matchTemplate(picture, part, cv2.TM_SQDIFF)
    top, left = np.unravel_index(int(found.argmin()), found.shape)
    return bool((picture[top : top + part.shape[0], left : left + part.shape[1]] == part).all())


@pytest.mark.parametrize("channels_first", [True, False])
def test_each_heatmap_lies_over_its_image(net: torch.nn.Module, images: torch.Tensor, channels_first: bool) -> None:
    maps = explain_many(net, images, methods=("grad_cam", "hires_cam"))
    pictures = np.rint(images.permute(0, 2, 3, 1).numpy().astype(np.float64) * 255).astype(np.uint8)
    picture = draw(images if channels_first else pictures, maps, title="two methods")
    for row, shown in enumerate(pictures):
        assert holds(picture.rgb, shown)
        for heatmap in maps:
            assert holds(picture.rgb, overlay(shown, heatmap.values[row]))


def test_wrong_inferences_are_framed(net: torch.nn.Module, images: torch.Tensor) -> None:
    heatmap = explain(net, images)

    def red(labels: np.ndarray) -> int:
        return int((draw(images, heatmap, labels=labels).rgb == RED).all(-1).sum())

    assert red(heatmap.class_ids) == 0
    assert red((heatmap.class_ids + 1) % 5) > 500


def test_names_stand_beside_the_images(net: torch.nn.Module, images: torch.Tensor) -> None:
    heatmap = explain(net, images)
    names = [f"a rather long name {letter}" for letter in "abcde"]
    plain, named = draw(images, heatmap), draw(images, heatmap, class_names=names, ids=["first.png", "second.png"])
    assert named.rgb.shape[1] > plain.rgb.shape[1]
    by_id = draw(images, heatmap, class_names=dict(enumerate(names)))
    assert (by_id.rgb == draw(images, heatmap, class_names=names).rgb).all()


def test_it_is_saved_and_shown_in_a_notebook(net: torch.nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    picture = draw(images, explain(net, images, target=1))
    picture.save(tmp_path / "new" / "heat.png")
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "new" / "heat.png")), cv2.COLOR_BGR2RGB)
    assert (read == picture.rgb).all()
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert repr(picture) == f"Picture({read.shape[1]} x {read.shape[0]} pixels)"


def test_what_does_not_fit_is_an_error(net: torch.nn.Module, images: torch.Tensor) -> None:
    heatmap = explain(net, images)
    volumes = replace(heatmap, values=np.zeros((2, 4, 5, 6), np.float32))
    for shown, heatmaps, more, message in (
        (images, [], {}, r"heatmaps=\[\] is not accepted"),
        (images[:1], heatmap, {}, r"heatmaps are of \[2\] images"),
        (images, [heatmap, replace(heatmap, scaling="none")], {}, "one colour bar"),
        (images, volumes, {}, "draw slices"),
        (images, heatmap, {"labels": [1, 2, 3]}, r"labels has shape \(3,\); \(2,\), a class id for each image"),
    ):
        with pytest.raises(ArgumentError, match=message):
            draw(shown, heatmaps, **more)
