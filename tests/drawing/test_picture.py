"""Heatmaps of explain drawn with public names alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fe_gradcam import ArgumentError, Contrast, UnknownNameError, draw, explain, explain_many, top_k
from fe_gradcam.drawing.grid import AMBER, RED, Text
from fe_gradcam.drawing.pixels import overlay, smooth_heat
from fe_gradcam.drawing.sheet import LEFT_TO_RIGHT
from fe_gradcam.types import Heatmap
from tests.drawing.places import places_of
from tests.models.toys import SmallTorch

pytestmark = pytest.mark.threads

IMAGES = torch.rand(2, 3, 160, 200, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(3)
    return SmallTorch().eval()


@pytest.fixture
def heatmap(net: torch.nn.Module) -> Heatmap:
    return explain(net, IMAGES)


def smoothly(raw: np.ndarray) -> np.ndarray:
    """The heat of a map, from 0 to 1, as it is drawn over an image."""
    heat = smooth_heat(np.maximum(raw, 0), (160, 200))
    return heat / heat.max()


@pytest.mark.parametrize("channels_first", [True, False])
def test_each_heatmap_lies_over_its_image(net: torch.nn.Module, channels_first: bool) -> None:
    maps = explain_many(net, IMAGES, methods=("grad_cam", "hires_cam"))
    pictures = np.rint(IMAGES.permute(0, 2, 3, 1).numpy().astype(np.float64) * 255).astype(np.uint8)
    picture = draw(IMAGES if channels_first else pictures, maps, title="two methods")
    for row, shown in enumerate(pictures):
        for part in (shown, *(overlay(shown, smoothly(heatmap.raw[row])) for heatmap in maps)):
            assert places_of(part, picture.rgb)


def sure(heatmap: Heatmap, confidence: float) -> Heatmap:
    return replace(heatmap, confidences=np.full(2, confidence, np.float32))


@pytest.mark.parametrize(("confidence", "marked"), [(0.9, RED), (0.5, RED), (0.3, AMBER), (np.nan, RED)])
def test_wrong_inferences_are_framed(heatmap: Heatmap, confidence: float, marked: tuple[int, int, int]) -> None:
    """In red, or, where the answer was a guess, in amber; where its probability is not known nothing is made of it."""

    def count(labels: np.ndarray, colour: tuple[int, int, int] = marked) -> int:
        return int((draw(IMAGES, sure(heatmap, confidence), labels=labels).rgb == colour).all(-1).sum())

    other = (heatmap.class_ids + 1) % 5
    assert count(heatmap.class_ids) == 0
    assert count(other) > 500
    assert count(other, AMBER if marked == RED else RED) == 0


def test_the_number_of_an_inference_stands_behind_it_in_brackets(heatmap: Heatmap) -> None:
    (first, _) = draw(IMAGES, sure(heatmap, 0.4)).grid.rows
    assert first.texts == (Text("prediction", f"{heatmap.class_ids[0]}{LEFT_TO_RIGHT}", "(40%)"),)
    (first, _) = draw(IMAGES, sure(heatmap, np.nan)).grid.rows
    assert first.texts[0].number == ""


def test_the_highest_class_is_the_inferred_one(net: torch.nn.Module) -> None:
    maps = explain_many(net, IMAGES, targets=top_k(2))
    grid = draw(IMAGES, maps, class_names=list("abcde")).grid
    assert grid.titles == ("image", "highest class", "second class")
    assert grid.subtitle == "grad_cam, layer conv2 + activation, map 158 x 198"
    for at, row in enumerate(grid.rows):
        assert row.texts[-1].words == f"{'abcde'[maps[0].class_ids[at]]}{LEFT_TO_RIGHT}"
        captions = [panel.caption.words for panel in row.panels if panel.caption]
        assert captions == [f"{'abcde'[one.class_ids[at]]}{LEFT_TO_RIGHT}" for one in maps]


def test_names_stand_beside_the_images(heatmap: Heatmap) -> None:
    names = [f"a rather long name {letter}" for letter in "abcde"]
    plain, named = draw(IMAGES, heatmap), draw(IMAGES, heatmap, class_names=names, ids=["first.png", "second.png"])
    assert named.rgb.shape[1] == plain.rgb.shape[1]
    assert [[text.words for text in row.texts] for row in named.grid.rows] == [
        [name, f"{names[class_id]}{LEFT_TO_RIGHT}"]
        for name, class_id in zip(("first.png", "second.png"), heatmap.class_ids, strict=True)
    ]
    by_id = draw(IMAGES, heatmap, class_names=dict(enumerate(names)))
    assert (by_id.rgb == draw(IMAGES, heatmap, class_names=names).rgb).all()


@pytest.mark.parametrize("as_given", [list, np.array, lambda names: np.array(names)[:, None]])
def test_labels_may_be_names(heatmap: Heatmap, as_given: Any) -> None:
    names = ["one", "two", "three", "four", "five"]
    said = [names[class_id] for class_id in (4, heatmap.class_ids[1])]
    by_name = draw(IMAGES, heatmap, labels=as_given(said), class_names=names)
    by_id = draw(IMAGES, heatmap, labels=[4, heatmap.class_ids[1]], class_names=dict(enumerate(names)))
    assert np.array_equal(by_name.rgb, by_id.rgb)


def test_a_label_that_is_no_name_is_an_error_with_the_nearest(heatmap: Heatmap) -> None:
    with pytest.raises(
        UnknownNameError, match="labels holds 'tow', which is no name of class_names; did you mean 'two'"
    ):
        draw(IMAGES, heatmap, labels=["one", "tow"], class_names=["one", "two", "three", "four", "five"])
    with pytest.raises(ArgumentError, match="labels holds names, such as 'one', and class_names is not given"):
        draw(IMAGES, heatmap, labels=["one", "two"])


def test_it_is_saved_and_shown_in_a_notebook(heatmap: Heatmap, tmp_path: Path) -> None:
    picture = draw(IMAGES, heatmap)
    picture.save(tmp_path / "new" / "heat.png")
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "new" / "heat.png")), cv2.COLOR_BGR2RGB)
    assert (read == picture.rgb).all()
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert repr(picture) == f"Picture({read.shape[1]} x {read.shape[0]} pixels)"


@pytest.mark.parametrize("ending", ["jpg", "JPEG"])
def test_it_is_saved_as_jpeg(heatmap: Heatmap, tmp_path: Path, ending: str) -> None:
    picture = draw(IMAGES, heatmap, labels=(heatmap.class_ids + 1) % 5)
    file = tmp_path / f"heat.{ending}"
    picture.save(file)
    assert file.read_bytes().startswith(b"\xff\xd8\xff")
    read = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    assert read.shape == picture.rgb.shape
    assert np.abs(read.astype(int) - picture.rgb).mean() < 6  # the images are noise, which a JPEG keeps worst
    assert np.abs(read.astype(int) - picture.rgb)[:, :200].mean() < 1.5  # letters and frames
    assert len(file.read_bytes()) < len(picture.png)


@pytest.mark.parametrize("name", ["heat.tiff", "heat", "heat.png.gif"])
def test_another_ending_is_an_error_that_names_the_formats(heatmap: Heatmap, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"a picture is written as \.png, \.jpg or \.jpeg: pass '.*\.png'"):
        draw(IMAGES, heatmap).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_an_error(heatmap: Heatmap) -> None:
    seven = replace(heatmap, class_ids=np.array([7, 0]))
    volumes = replace(heatmap, values=np.zeros((2, 4, 5, 6), np.float32))
    for shown, heatmaps, more, message in (
        (IMAGES, [], {}, r"heatmaps is empty"),
        (IMAGES[:1], heatmap, {}, r"heatmaps are of \[2\] images"),
        (IMAGES, [heatmap, replace(heatmap, scaling="none")], {}, "one colour bar"),
        (IMAGES, volumes, {}, "Draw slices"),
        (
            IMAGES,
            heatmap,
            {"labels": [1, 2, 3]},
            r"labels has shape \(3,\) and dtype int64; \(2,\) class ids are needed, or names",
        ),
        (IMAGES, heatmap, {"labels": [0.5, 1]}, r"labels has shape \(2,\) and dtype float64"),
        (IMAGES, heatmap, {"ids": ["a"]}, "ids holds 1 names for 2 images"),
        (IMAGES, heatmap, {"ids": "abc"}, r"ids='abc' is not accepted\. Accepted: a list with a name for each image"),
        (IMAGES, seven, {"class_names": ["a", "b"]}, r"class_names holds 2 names, and class 7 is shown.*at least 8"),
        (IMAGES, heatmap, {"class_names": list("abcde"), "labels": [0, 5]}, "class_names holds 5 names, and class 5"),
    ):
        with pytest.raises(ArgumentError, match=message):
            draw(shown, heatmaps, **more)


def test_the_object_is_outlined_whether_masks_or_boxes_say_where_it_is(heatmap: Heatmap) -> None:
    """The border of the box is white between dark, in the image and over its heat; nothing else changes."""
    boxes = np.array([[40, 30, 80, 60], [10, 20, 50, 90]])
    inside = np.zeros((2, 160, 200), bool)
    for one, (left, top, width, height) in zip(inside, boxes, strict=True):
        one[top : top + height, left : left + width] = True
    plain = draw(IMAGES, heatmap).rgb
    pictures = np.rint(IMAGES.permute(0, 2, 3, 1).numpy().astype(np.float64) * 255).astype(np.uint8)
    (corner, *_), (last, *_) = (places_of(one, plain) for one in pictures)
    ways = ({"boxes": boxes}, {"masks": inside}, {"masks": inside * 7})
    drawn = [draw(IMAGES, heatmap, **way).rgb[: last[0] + 160] for way in ways]  # what is below explains the line
    assert all(np.array_equal(one, drawn[0]) for one in drawn)
    plain = plain[: last[0] + 160]
    rows, columns = np.nonzero((drawn[0] != plain).any(-1))
    left, top = columns.min(), rows.min()
    assert (top - corner[0], left - corner[1]) in [(28, 38), (28, 8)]  # two pixels outside of the boxes
    white = (drawn[0] == 255).all(-1) & (plain != 255).any(-1)
    assert white.sum() == pytest.approx(2 * (2 * (80 + 60) + 2 * (50 + 90)), rel=0.05)
    with pytest.raises(ArgumentError, match="boxes are of 1 images, and there are 2 images"):
        draw(IMAGES, heatmap, boxes=boxes[:1])


def test_class_names_reach_the_heads_of_targets_that_were_given_as_ids(net: torch.nn.Module) -> None:
    maps = explain_many(net, IMAGES, targets=[1, Contrast(1, against=0)])
    names = {0: "cat", 1: "dog", 2: "fox", 3: "owl", 4: "elk"}
    assert draw(IMAGES, maps, class_names=names).grid.titles == ("image", "dog", "dog against cat")


def test_arguments_in_the_wrong_order_say_so(heatmap: Heatmap) -> None:
    with pytest.raises(ArgumentError, match="images is a Heatmap: pass the images first"):
        draw(heatmap, IMAGES)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"heatmaps holds a ndarray\. Accepted: a Heatmap of explain"):
        draw(IMAGES, heatmap.values)  # type: ignore[arg-type]
