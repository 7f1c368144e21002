"""From heatmaps to the grid: what is said of each image, and how it is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fe_gradcam.drawing.grid import Text, draw_grid
from fe_gradcam.drawing.pixels import overlay, smooth_heat
from fe_gradcam.drawing.sheet import (
    LEFT_TO_RIGHT,
    MOST_ROWS,
    Look,
    compose_grid,
    heat_panel,
    is_unsure,
    layer_in_words,
)
from fe_gradcam.explaining.explained import Column, Explained, with_shared_scale
from fe_gradcam.explaining.results import compose_arrays, compose_results
from fe_gradcam.scaling import scale, upsample
from fe_gradcam.types import Heatmap, Scaling
from tests.heat import heatmap_of

NAMES = {0: "cat", 1: "dog"}


def heatmap(method: str = "grad_cam", count: int = 3, size: float = 1, blank: Any = (), **more: Any) -> Heatmap:
    values = np.linspace(0, size, count * 64, dtype=np.float32).reshape(count, 8, 8)
    values[list(blank)] = 0
    is_blank, raw = np.isin(np.arange(count), blank), values[:, ::4, ::4]
    return heatmap_of(values, 1, raw=raw, blank=is_blank, confidence=0.9, method=method, **more)


def part(*heatmaps: Heatmap, **change: Any) -> Explained:
    columns = [Column(one.method, "pred", one) for one in heatmaps or [heatmap()]]
    count = len(columns[0].heatmap.values)
    pictures = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    probabilities = np.tile(np.array([[0.1, 0.9]], np.float32), (count, 1))
    return replace(Explained(pictures, columns, probabilities, np.arange(count) % 2, None), **change)


def test_a_row_says_what_is_true_what_was_inferred_and_whether_that_is_wrong() -> None:
    grid = compose_grid([part()], NAMES, Look(), "eval, epoch 1")
    assert [row.wrong for row in grid.rows] == [True, False, True]
    assert grid.rows[0].texts == (Text("label", "cat"), Text("prediction", f"dog{LEFT_TO_RIGHT}", "(90%)"))
    assert grid.title == "eval, epoch 1"
    assert grid.titles == ("image", "grad_cam")
    assert not any(row.wrong for row in compose_grid([part(labels=None)], NAMES, Look(), "t").rows)


@pytest.mark.parametrize("look", [Look(), Look("viridis", 0.9)])
def test_the_panels_are_the_picture_and_the_overlay(look: Look) -> None:
    explained = part()
    grid = compose_grid([explained], NAMES, look, "t")
    heat = explained.columns[0].heatmap.values
    for at, row in enumerate(grid.rows):
        assert np.array_equal(row.panels[0].rgb, explained.pictures[at])
        expected = overlay(explained.pictures[at], heat[at], colormap=look.colormap, alpha=look.alpha)
        assert np.array_equal(row.panels[1].rgb, expected)
    assert grid.colormap == look.colormap


def test_a_blank_map_is_said_and_not_drawn() -> None:
    explained = part(heatmap(blank=[1]))
    rows = compose_grid([explained], NAMES, Look(), "t").rows
    assert [row.panels[1].note for row in rows] == ["", "no evidence", ""]
    assert np.array_equal(rows[1].panels[1].rgb, explained.pictures[1])


@pytest.mark.parametrize(("scaling", "expected"), [("scale_after_relu", (0.0, 1.0)), ("none", (-1.0, 1.0))])
@pytest.mark.parametrize("shared", [True, False])
def test_the_colour_bar_says_the_scaling_and_its_reach(scaling: Scaling, expected: tuple, shared: bool) -> None:
    parts = [part(heatmap(scaling=scaling))]
    grid = compose_grid(with_shared_scale(parts) if shared else parts, NAMES, Look(), "t")
    assert scaling in grid.scale_label
    assert ("one scale for the grid" in grid.scale_label) == shared
    assert ("each map by itself" in grid.scale_label) != shared
    assert grid.scale_range == expected


def test_columns_are_told_apart() -> None:
    def titles(*places: tuple[str, str]) -> tuple[str, ...]:
        columns = [Column(method, target, heatmap()) for method, target in places]
        return compose_grid([part(columns=columns)], NAMES, Look(), "t").titles[1:]

    assert titles(("a", "pred"), ("b", "pred")) == ("a", "b")
    assert titles(("a", "pred"), ("a", "label"), ("a", "dog")) == ("inferred class", "true class", "dog")
    assert titles(("a", "pred"), ("b", "label")) == ("a: inferred class", "b: true class")
    assert titles(("a", "label")) == ("a: true class",)


def test_no_more_rows_are_drawn_than_a_reader_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("fe_gradcam.drawing.sheet.overlay", lambda picture, heat, **how: drawn.append(1) or picture)
    grid = compose_grid([part(heatmap(count=MOST_ROWS + 50))], NAMES, Look(), "t")
    assert len(grid.rows) == MOST_ROWS == len(drawn)
    assert f"the first {MOST_ROWS} of {MOST_ROWS + 50} images" in grid.title


def test_datasets_are_named_where_there_are_several() -> None:
    parts = [part(heatmap(count=2), ds_id="day"), part(heatmap(count=1), ds_id="night")]
    rows = compose_grid(parts, NAMES, Look(), "t").rows
    assert [text.words for row in rows for text in row.texts if text.role == "note"] == ["day", "day", "night"]


def test_results_and_arrays_name_the_layer_and_the_scaling() -> None:
    (result, *_), arrays = compose_results([part()], NAMES, 3, "eval"), compose_arrays(part(), 3, "eval")
    assert (result["layer"], result["scaling"], result["epoch"]) == ("conv3", "scale_after_relu", 3)
    assert result["classification_class_ids"] == [1, 0]
    assert result["classification_class_names"] == ["dog", "cat"]
    assert_allclose(result["classification_confidences"], [0.9, 0.1])
    assert (str(arrays["layer"]), str(arrays["scaling"])) == ("conv3", "scale_after_relu")


def test_the_legend_says_which_methods_know_no_class() -> None:
    aware, blind = heatmap(), heatmap("eigen_cam(component=2)", shows="what is active, whatever the class")
    for heatmaps, expected in (
        ([aware], "evidence for the class"),
        ([blind], "what is active, whatever the class"),
        ([aware, blind], "evidence for the class; eigen_cam(component=2): what is active, whatever the class"),
    ):
        said = compose_grid([part(*heatmaps)], {}, Look(), "").scale_label
        assert said == f"{expected}, each map by itself (scaling: scale_after_relu)"


def test_what_was_explained_equals_itself_alone() -> None:
    """Arrays have no truth value: by them nothing is compared or looked up."""
    its = heatmap()
    columns = [Column("grad_cam", "label", its, shown=np.ones(3, bool)) for _ in range(2)]
    parts = [part(columns=[column]) for column in columns]
    for one, other in (columns, parts):
        assert one == one and one != other
        assert len({one, other, one}) == 2


def test_a_shared_scale_is_that_of_each_method() -> None:
    """Two methods have no unit in common; one a thousand times larger must not make the other dark."""
    (scaled,) = with_shared_scale([part(heatmap(), heatmap("score_cam", size=1000))])
    for column in scaled.columns:
        raw = column.heatmap.raw
        assert_allclose(column.heatmap.values.max((1, 2)), raw.max((1, 2)) / raw.max(), rtol=1e-6)
    assert "one scale for each method" in compose_grid([scaled], {}, Look(), "").scale_label


def said(*columns: Column) -> str:
    return compose_grid([part(columns=list(columns))], {}, Look(), "t").subtitle


def test_every_picture_says_its_method_what_is_explained_and_the_layer() -> None:
    """What the columns have in common is said once, and what tells them apart stands above them."""
    one, other = heatmap(), heatmap("hires_cam")
    assert said(Column("grad_cam", "pred", one)) == "grad_cam for the inferred class, layer conv3, map 2 x 2"
    assert said(Column("grad_cam", "7", one)) == "grad_cam for class 7, layer conv3, map 2 x 2"
    two_methods = said(Column("grad_cam", "label", one), Column("hires_cam", "label", other))
    assert two_methods == "heat for the true class, layer conv3, map 2 x 2"
    two_targets = [Column("grad_cam", "pred", one), Column("grad_cam", "label", one)]
    assert said(*two_targets) == "grad_cam, layer conv3, map 2 x 2"
    smoothed = heatmap(smooth="eigen")
    assert said(Column("grad_cam", "top 2", smoothed)).startswith("grad_cam for the second class, layer conv3")
    assert said(Column("grad_cam", "top 2", smoothed)).endswith(", smoothed (eigen)")


def test_two_layers_stand_above_their_columns() -> None:
    columns = [Column("grad_cam", "pred", heatmap(layer=layer)) for layer in ("conv2", "conv3")]
    grid = compose_grid([part(columns=columns)], {}, Look(), "t")
    assert grid.titles[1:] == ("layer conv2, map 2 x 2", "layer conv3, map 2 x 2")
    assert grid.subtitle == "grad_cam for the inferred class"


def test_columns_that_differ_in_smoothing_say_so() -> None:
    """Two columns of one method must not look alike; what all have in common stays in the line above them."""
    columns = [Column("grad_cam", "pred", heatmap(smooth=smooth)) for smooth in ("", "augment")]
    grid = compose_grid([part(columns=columns)], {}, Look(), "t")
    assert grid.titles[1:] == ("not smoothed", "smoothed (augment)")
    assert grid.subtitle == "grad_cam for the inferred class, layer conv3, map 2 x 2"
    both = [Column("grad_cam", target, heatmap(smooth="augment")) for target in ("pred", "label")]
    alike = compose_grid([part(columns=both)], {}, Look(), "t")
    assert alike.titles[1:] == ("inferred class", "true class")
    assert alike.subtitle.endswith(", smoothed (augment)")


def test_the_layer_that_is_explained_is_said() -> None:
    of_model = heatmap("occlusion", layer="whole model", of_layer=False)
    mixed = compose_grid([part(of_model, heatmap())], {}, Look(), "t").subtitle
    assert mixed == "heat for the inferred class, layer conv3, map 2 x 2"
    assert (
        compose_grid([part(of_model)], {}, Look(), "t").subtitle == "occlusion for the inferred class, the whole model"
    )


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("5", "layer 5 (ReLU), map 2 x 2"), ("block.28 + activation", "layer block.28 (ReLU) + activation, map 2 x 2"),
     ("mean(5, conv)", "layer mean(5, conv) (ReLU)"), ("conv5", "layer conv5, map 2 x 2"),
     ("layer4.1.conv2", "layer layer4.1.conv2, map 2 x 2"), ("conv2d_3", "layer conv2d_3, map 2 x 2")],
)  # fmt: skip
def test_a_layer_that_is_called_by_a_number_alone_says_its_kind(layer: str, expected: str) -> None:
    assert layer_in_words(heatmap(layer=layer, layer_kind="ReLU")) == expected


@pytest.mark.parametrize(
    ("name", "shown"),
    [("7", "id 7"), ("0012", "id 0012"), (12, "id 12"), ("3-4.5", "id 3-4.5"), ("dog", "id dog"), ("a7.png", "a7.png")],
)
def test_an_id_does_not_look_like_a_class(name: Any, shown: str) -> None:
    (texts,) = [row.texts for row in compose_grid([part(heatmap(count=1), ids=[name])], NAMES, Look(), "t").rows]
    assert texts[0] == Text("id", shown)


def test_a_position_does_not_look_like_a_class() -> None:
    (row,) = compose_grid([part(heatmap(count=1), positions=np.array([7]))], {}, Look(), "t", numbered=True).rows
    assert row.texts[0] == Text("id", "image 7")


def test_an_answer_that_is_wrong_and_below_one_half_is_unsure() -> None:
    probabilities = np.array([[0.1, 0.49, 0.41], [0.1, 0.5, 0.4], [0.41, 0.49, 0.1], [0.2, 0.3, 0.5]], np.float32)
    explained = part(heatmap(count=4), probabilities=probabilities, labels=np.array([0, 0, 1, -1]))
    rows = compose_grid([explained], NAMES, Look(), "t").rows
    assert [(row.wrong, row.unsure) for row in rows] == [(True, True), (True, False), (False, False), (False, False)]
    assert [Text("doubt", "unsure") in row.texts for row in rows] == [True, False, False, False]
    assert not any(is_unsure(replace(explained, probabilities=None), at) for at in range(4))


def test_an_answer_that_is_nan_is_no_class_neither_right_nor_wrong() -> None:
    probabilities = np.full((3, 2), np.nan, np.float32)
    explained = part(probabilities=probabilities, labels=np.array([0, 1, -1]))
    rows = compose_grid([explained], NAMES, Look(), "t").rows
    assert [row.texts[1] for row in rows] == [Text("prediction", "none", "(NaN)")] * 3
    assert not any(row.wrong or row.unsure for row in rows)
    results = compose_results([explained], NAMES, 1, "eval")
    assert [(one["label"], one["prediction"]) for one in results] == [(0, -1), (1, -1), (-1, -1)]


def test_a_class_that_differs_from_image_to_image_is_said_below_its_heat() -> None:
    columns = [Column("grad_cam", target, heatmap()) for target in ("pred", "top 2", "1", "dog")]
    (row, *_) = compose_grid([part(columns=columns)], NAMES, Look(), "t").rows
    below = Text("class", f"dog{LEFT_TO_RIGHT}", "(90%)")
    assert [panel.caption for panel in row.panels] == [None, None, below, None, None]
    unnamed = compose_grid([part(columns=columns[1:2])], {}, Look(), "t").rows[0].panels[1].caption
    assert unnamed == Text("class", f"class 1{LEFT_TO_RIGHT}", "(90%)")


# --- heat drawn smoothly -------------------------------------------------------------------------------------


def measured(scaling: Scaling = "scale_after_relu", side: int = 200, places: int = 5) -> Heatmap:
    """Two signed maps of 5 x 5, as `explain` makes heatmaps of them."""
    raw = np.random.default_rng(5).normal(0, 2, (2, places, places)).astype(np.float32)
    values = scale(torch.from_numpy(raw), scaling, (side, side)).numpy()
    return heatmap_of(values, 1, raw=raw, scaling=scaling)


def drawn(one: Heatmap, *, shared: bool = False, side: int = 200) -> tuple[np.ndarray, ...]:
    """What is drawn of a heatmap over black pictures."""
    parts = [part(one, pictures=np.zeros((2, side, side, 3), np.uint8), labels=None)]
    (explained,) = with_shared_scale(parts) if shared else parts
    return tuple(row.panels[1].rgb for row in compose_grid([explained], {}, Look(), "t").rows)


@pytest.mark.parametrize("scaling", ["scale_after_relu", "scale_before_relu", "none"])
@pytest.mark.parametrize("shared", [False, True])
def test_heat_is_drawn_smoothly_and_scaled_as_its_values_are(scaling: Scaling, shared: bool) -> None:
    one = measured(scaling)
    black, raw = np.zeros((200, 200, 3), np.uint8), one.raw
    for at, picture in enumerate(drawn(one, shared=shared)):
        heat = smooth_heat(raw[at] if scaling == "none" else np.maximum(raw[at], 0), (200, 200))
        limit = float(np.abs(one.values).max()) if scaling == "none" and shared else None
        if scaling == "scale_before_relu":
            heat = heat / np.abs(raw if shared else raw[at]).max()
        elif scaling == "scale_after_relu":
            evidence = upsample(torch.from_numpy(raw).clamp(min=0), (200, 200)).numpy()
            heat = heat / (evidence if shared else heat).max()
        expected = overlay(black, heat, signed=scaling == "none", limit=limit)
        assert np.abs(expected.astype(int) - picture).max() <= 2  # a level of the colormap, where rounding differs
        assert (picture != overlay(black, one.values[at], signed=scaling == "none", limit=limit)).any()


def test_heat_that_its_map_does_not_make_is_drawn_as_it_is() -> None:
    """Values that a user changed, maps at the size of the image, and larger ones than the picture."""
    one, black = measured(), np.zeros((200, 200, 3), np.uint8)
    cut = one.values * (np.arange(200) < 100)
    for changed in (replace(one, values=cut), replace(one, raw=one.values), replace(one, raw=one.raw[:, None])):
        for at, picture in enumerate(drawn(changed)):
            assert np.array_equal(picture, overlay(black, changed.values[at]))
    coarse = measured(side=130, places=150)
    for at, picture in enumerate(drawn(coarse, side=130)):
        assert np.array_equal(picture, overlay(black[:130, :130], coarse.values[at]))


def test_over_a_small_picture_the_heat_is_as_smooth_as_over_a_large_one() -> None:
    """A picture of 28 px is shown at 168: its heat has more places than the picture."""
    picture = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    one = measured(side=28)
    grid = compose_grid([part(one, pictures=picture)], {}, Look(alpha=1), "t")
    image, heat = grid.rows[0].panels
    assert np.array_equal(image.rgb, picture[0])
    factor = len(heat.rgb) // 28
    assert factor >= 3
    expected = smooth_heat(np.maximum(one.raw[0], 0), (28 * factor, 28 * factor))
    assert np.array_equal(heat.rgb, overlay(np.zeros_like(heat.rgb), expected / expected.max(), alpha=1))
    assert (
        draw_grid(grid).shape[1]
        == draw_grid(replace(grid, rows=(replace(grid.rows[0], panels=(image, image)),))).shape[1]
    )


def test_a_heat_panel_of_another_size_than_the_picture_is_stretched_without_a_map_and_smooth_with_one() -> None:
    """As the film draws it, which keeps heat at the size of the layer."""
    one, picture = measured(), np.zeros((96, 128, 3), np.uint8)
    made = heat_panel(picture, one.values[0], False, Look(), one.scaling, raw=one.raw[0]).rgb
    heat = smooth_heat(np.maximum(one.raw[0], 0), (96, 128))
    assert np.array_equal(made, overlay(picture, heat / heat.max()))
    assert heat_panel(picture, one.values[0], False, Look(), one.scaling).rgb.shape == picture.shape
    assert heat_panel(picture, one.values[0], True, Look(), one.scaling, raw=one.raw[0]).note == "no evidence"
