"""What a run writes: names of files, pictures, the grid."""

from __future__ import annotations

from pathlib import Path

from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tests.command.running import arrays_of, found_in, heat_of, pixels, results_of, run
from tests.models.squares import BLUE, RED, squares


def test_equal_stems_do_not_overwrite_each_other(here: Path) -> None:
    reds = {}
    for at, name in enumerate(("one/cat.png", "two/cat.png", "one/Cat.bmp", "three/one_cat.png")):
        path = here / name
        path.parent.mkdir(exist_ok=True)
        reds[name] = 100 + 50 * at
        Image.new("RGB", (16, 16), (reds[name], 0, 0)).save(path)
    run("explain", "nets:Colours", *reds, "--size", 16, "--output", "out")
    entries = results_of(here / "out")["images"]
    names = [entry["name"].casefold() for entry in entries]
    assert len(set(names)) == 4
    assert names[1] == "two_cat"
    assert names[3] == "one_cat"
    for entry in entries:
        drawn = pixels(here / "out" / entry["heatmaps"][0]["overlay"])
        assert entry["arrays"] == f"{entry['name']}.npz"
        score = arrays_of(here / "out", entry["name"])["grad_cam.pred.scores"]
        assert_allclose(score, 8 * reds[entry["file"]] / 255, rtol=1e-5)
        assert drawn.shape == (16, 16, 3)


def test_overlays_of_methods_whose_names_are_long_do_not_overwrite_each_other(here: Path) -> None:
    methods = [f"smooth_grad_cam_plus_plus:samples=10,noise=0.123456789012345{at}" for at in (1, 6)]
    heat_of(here, *(part for method in methods for part in ("--method", method)), "--class", 0, "--class", 1)
    (entry,) = results_of(here / "out")["images"]
    names = [one["overlay"] for one in entry["heatmaps"]]
    assert len(set(names)) == 4
    assert all((here / "out" / name).is_file() for name in names)
    assert all(len(name) < 90 and set(name) <= set("abcdefghijklmnopqrstuvwxyz_.0123456789") for name in names)


def test_a_signed_map_with_its_colours(here: Path) -> None:
    arrays = heat_of(here, "--scaling", "none", "--class", "0:1", "--alpha", 1, "--colormap", "bwr")
    assert arrays["grad_cam.0_against_1.values"].min() < 0
    drawn = pixels(here / "out" / "squares.grad_cam.0_against_1.png")
    assert (drawn[RED] == [255, 0, 0]).all()
    assert (drawn[BLUE][..., 2] > drawn[BLUE][..., 0]).all()
    assert (drawn[12, 4] > 250).all(), "white, the middle of the colours, covers the black of the picture"
    assert results_of(here / "out")["scaling"] == "none"


def test_the_grid_has_the_look_of_the_overlays(here: Path) -> None:
    run("explain", "nets:Colours", "squares.png", "--size", 160, "--alpha", 0.9, "--colormap", "viridis")
    output = here / "fe_gradcam_output"
    found_in(pixels(output / "grid.png"), pixels(output / "squares.grad_cam.pred.png"))


def test_no_evidence_is_said(here: Path) -> None:
    result = run("explain", "nets:zeros", "squares.png", "--size", 16)
    (entry,) = results_of(here / "fe_gradcam_output")["images"]
    assert entry["heatmaps"][0]["blank"] is True
    assert "no evidence" in result.stdout
    assert_array_equal(pixels(here / "fe_gradcam_output" / "squares.grad_cam.pred.png"), squares())
