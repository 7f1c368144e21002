"""The atlas as a picture, and of a trained model: what it says of classes whose answer is known."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fe_gradcam import ArgumentError, CamWarning, UnknownNameError, explain
from fe_gradcam.drawing.atlas import LEAST_SPAN, MOST_CLASSES, AtlasPicture, atlas, atlas_grid, stretched
from fe_gradcam.drawing.grid import RED
from fe_gradcam.drawing.pixels import overlay
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.verdicts.atlas import Atlas, Box
from fe_gradcam.verdicts.verdict import Evidence, Verdict
from tests.heat import heatmap_of
from tests.models.toys import SmallTorch, small_keras
from tests.trainings import words_of

SIZE = (20, 24)


def blob(down: float, across: float, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    rows, columns = np.indices(size)
    return np.exp(-((rows - down) ** 2 + (columns - across) ** 2) / 8).astype(np.float32)


def picture(value: int = 90, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Grey, with a white pixel and a black one."""
    image = np.full((*size, 3), value, np.uint8)
    image[0, 0], image[0, 1] = 255, 0
    return image


def drawn(counts: dict[int, int], *, moves: tuple[int, ...] = ()) -> Atlas:
    """An atlas of so many images by class; the heat of some moves from corner to corner."""
    found, corners = Atlas(SIZE), [(3, 3), (3, 20), (16, 3), (16, 20)]
    for class_id, count in counts.items():
        for at in range(count):
            found.add(class_id, blob(*corners[at % 4 if class_id in moves else 0]), picture(40 + class_id))
    return found


def alarm(class_id: int, box: Box) -> Verdict:
    figures = {"plain": 0.97, "covered": 0.254}
    return Verdict.of(class_id, "", [Evidence("place", "tested", "place", "Said.", figures, 8, box=box)], 9)


def grid_of(
    found: Atlas, names: dict[int, str] | None = None, *, alarms: list[Verdict] | None = None, **how: Any
) -> Any:
    heatmap = heatmap_of(np.zeros((1, *SIZE), np.float32))
    return atlas_grid(found, heatmap, alarms or [], names or {}, "eval, epoch 2", Look(**how))


def notes(row: Any) -> list[str]:
    return [f"{text.words} {text.number}".strip() for text in row.texts if text.role == "note"]


def test_a_row_for_each_class_says_in_words_whether_its_heat_stays() -> None:
    grid = grid_of(drawn({2: 8, 1: 6, 4: 5, 7: 1}, moves=(2,)), {1: "cat"})
    assert grid.title == "eval, epoch 2, mean heat of each inferred class"
    assert grid.subtitle == "grad_cam, layer conv3, map 20 x 24"
    assert grid.titles == ("mean image", "mean heat")
    assert {words_of(row)["class"]: notes(row) for row in grid.rows} == {
        "cat": ["6 images", "heat stays in place (1.00)"],
        "class 2": ["8 images", "heat moves"],
        "class 4": ["5 images", "too few to tell if heat moves"],
        "class 7": ["1 image", "too few to tell if heat moves"],
    }
    assert not any(row.wrong or row.panels[0].outline is not None for row in grid.rows)
    assert "Framed" not in grid.scale_label
    assert "contrast of the mean images is stretched" in grid.scale_label


def test_heat_lies_over_the_stretched_mean_picture() -> None:
    found = drawn({1: 2})
    found.add(3, np.zeros(SIZE, np.float32), picture())
    cat, cold = grid_of(found, colormap="viridis", alpha=0.4).rows
    mean, hot = stretched(picture(41)), found.classes[1].heat / found.classes[1].heat.max()
    assert np.array_equal(cat.panels[0].rgb, mean)
    assert np.array_equal(cat.panels[1].rgb, overlay(mean, hot, colormap="viridis", alpha=0.4))
    assert [row.panels[1].note for row in (cat, cold)] == ["", "no evidence"]


def test_a_mean_picture_is_stretched_so_that_it_can_be_seen() -> None:
    """By hand: of 100 levels from 100 to 199 the hundredths at the ends are 100.99 and 198.01."""
    levels = np.repeat(np.arange(100, 200, dtype=np.uint8)[None, :, None], 3, 2)
    seen = stretched(levels)[0, :, 0]
    assert (seen[0], seen[-1]) == (0, 255)
    assert seen[50] == round((150 - 100.99) / (198.01 - 100.99) * 255)
    assert (np.diff(seen.astype(int)) >= 0).all()
    grey = np.full((4, 4, 3), 77, np.uint8)
    grey[2:] += 8  # noise stays small: it is drawn as if there were LEAST_SPAN levels
    assert stretched(grey)[3, 3, 0] == round(8 / LEAST_SPAN * 255)


def test_a_class_that_is_warned_of_is_framed_outlined_and_told_in_words() -> None:
    box = Box(18, 14, 6, 6)
    found = drawn({1: 7, 4: 7})
    grid = grid_of(found, alarms=[alarm(4, box)])
    one, four = grid.rows
    warned = [(text.words, text.number) for text in four.texts if text.role == "warning"]
    assert warned == [("told by the lower right corner", ""), ("covered:", "0.97 → 0.25")]
    assert (one.wrong, four.wrong) == (False, True)
    assert all(np.array_equal(panel.outline, box.mask(SIZE)) for panel in four.panels)
    assert "warning" not in words_of(one)
    assert "Framed: changes of the images showed" in grid.scale_label
    framed, plain = ((AtlasPicture(each, found, []).rgb == RED).all(-1).sum() for each in (grid, grid_of(found)))
    assert framed > 3000 > plain  # 3 pixels wide, around two pictures of 224 pixels and what is written


def test_beyond_the_most_classes_those_with_most_images_and_those_warned_of_are_drawn() -> None:
    found = drawn({class_id: 1 if class_id < 3 else 2 for class_id in range(MOST_CLASSES + 3)})
    shown = [words_of(row)["class"] for row in grid_of(found).rows]
    assert shown == [f"class {at}" for at in range(3, MOST_CLASSES + 3)]
    grid = grid_of(found, alarms=[alarm(1, Box(0, 0, 2, 2))])
    assert [words_of(row)["class"] for row in grid.rows][:2] == ["class 1", "class 3"]
    assert grid.title.endswith(f", {MOST_CLASSES} of {MOST_CLASSES + 3} classes")


# --- of a trained model ------------------------------------------------------------------------------------------


def images(count: int = 30) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 9, 12, 3)).astype(np.float32)


def small(framework: str, count: int = 30) -> tuple[Any, NDArray[np.float32]]:
    if framework == "torch":
        return SmallTorch().eval(), images(count).transpose(0, 3, 1, 2).copy()
    return small_keras(), images(count)


def test_of_a_model_it_is_that_of_the_heatmaps_for_the_inferred_classes(framework: str, tmp_path: Path) -> None:
    model, inputs = small(framework)
    found = atlas(model, inputs, method="layer_cam", title="fruit", batch_size=7, mean=0.5, std=2)
    heatmap = explain(model, inputs, method="layer_cam")
    ids, counts = np.unique(heatmap.class_ids, return_counts=True)
    assert found.images == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    pictures = Look(mean=0.5, std=2).pictures(images(), channels_first=False)
    expected = Atlas.of(heatmap, pictures)
    assert list(found.fixed_place) == list(found.images)
    for class_id, score in found.fixed_place.items():
        assert score == pytest.approx(expected.classes[class_id].fixed_place, abs=1e-5, nan_ok=True)
    assert found.alarms == []
    assert found.grid.title == "fruit, mean heat of each inferred class"
    assert found.grid.subtitle.startswith(f"layer_cam, layer {heatmap.layer}, map ")
    first = found.grid.rows[0].panels[0].rgb
    assert np.array_equal(first, stretched(expected.classes[int(ids[0])].picture))
    assert repr(found) == f"AtlasPicture(images={found.images}, alarms=[])"
    found.save(tmp_path / "atlas.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "atlas.png"))[..., ::-1], found.rgb)
    assert found._repr_png_() == found.png


def test_of_several_inputs_the_picture_is_drawn_and_all_are_asked() -> None:
    """The class is told by the numbers beside the picture, so that it would be another if they were left out."""

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 3)

        def forward(self, numbers: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            return 0.01 * torch.relu(self.conv(images)).mean((2, 3)) + 9 * numbers

    numbers = np.eye(2, dtype=np.float32)[[0] * 6 + [1] * 8]
    found = atlas(Told().eval(), (numbers, images(14).transpose(0, 3, 1, 2).copy()), batch_size=5)
    assert found.images == {0: 6, 1: 8}
    assert [row.panels[0].rgb.shape for row in found.grid.rows] == [(9, 12, 3)] * 2


def test_few_images_are_said_and_enough_are_quiet(framework: str) -> None:
    model, inputs = small(framework, 4)
    with pytest.warns(
        CamWarning, match=r"atlas: 4 images are too few for 1 class: a class with fewer than 6 images is not"
    ):
        atlas(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CamWarning)
        atlas(*small(framework, 40))


def test_what_does_not_fit_is_refused_by_its_name() -> None:
    model, inputs = small("torch", 6)
    for error, match, more in (
        (ArgumentError, "masks are of 5 images, and there are 6 images", {"masks": np.ones((5, 9, 12))}),
        (ArgumentError, "boxes are of 2 images, and there are 6 images", {"boxes": np.ones((2, 4))}),
        (ArgumentError, r"masks hold an array of shape \(\)", {"masks": 5}),
        (ArgumentError, "alpha=2 is not accepted", {"alpha": 2}),
        (ArgumentError, "batch_size=0 is not accepted", {"batch_size": 0}),
        (ArgumentError, "class_names=5 is not accepted", {"class_names": 5}),
        (UnknownNameError, "method='gradcam' is not known", {"method": "gradcam"}),
        (UnknownNameError, "colormap='turbos' is no colormap", {"colormap": "turbos"}),
    ):
        with pytest.raises(error, match=match):
            atlas(model, inputs, **more)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"images holds volumes of shape \(3, 4, 9, 12\)"):
        atlas(model, np.zeros((6, 3, 4, 9, 12), np.float32))
