"""From heatmaps to the grid: what is said of each image, and how it is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fe_gradcam.drawing.grid import Text
from fe_gradcam.drawing.pixels import overlay
from fe_gradcam.drawing.sheet import LEFT_TO_RIGHT, MOST_ROWS, Look, compose_grid
from fe_gradcam.explaining.explained import Column, Explained, with_shared_scale
from fe_gradcam.explaining.results import compose_arrays, compose_results
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
    assert grid.rows[0].texts == (Text("label", "cat"), Text("prediction", f"dog{LEFT_TO_RIGHT}", "90%"))
    assert grid.title == "eval, epoch 1, layer conv3"
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


def test_a_shared_scale_is_that_of_each_method() -> None:
    """Two methods have no unit in common; one a thousand times larger must not make the other dark."""
    (scaled,) = with_shared_scale([part(heatmap(), heatmap("score_cam", size=1000))])
    for column in scaled.columns:
        raw = column.heatmap.raw
        assert_allclose(column.heatmap.values.max((1, 2)), raw.max((1, 2)) / raw.max(), rtol=1e-6)
    assert "one scale for each method" in compose_grid([scaled], {}, Look(), "").scale_label


def test_the_title_names_the_layer_that_is_explained() -> None:
    of_model = heatmap("occlusion", layer="whole model", of_layer=False)
    assert compose_grid([part(of_model, heatmap())], {}, Look(), "t").title == "t, layer conv3"
    assert compose_grid([part(of_model)], {}, Look(), "t").title == "t, the whole model"
