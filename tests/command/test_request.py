"""What is asked for: classes, their names, numbers for the pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from fe_gradcam import Contrast, explain
from tests.command.running import colours, heat_of, middles, overlay_of, refused, results_of, run
from tests.models.squares import BLUE, RED, as_input, squares


def test_a_class_by_id_and_by_name(here: Path) -> None:
    (here / "names.txt").write_text("red\ndeep blue\n")
    arrays = heat_of(here, "--class", 0, "--class", "deep blue", "--class", 1, "--class-names", "names.txt")
    red, blue = arrays["grad_cam.red.values"][0], arrays["grad_cam.deep_blue.values"][0]
    for heat, hot in ((red, RED), (blue, BLUE)):
        assert heat[hot].min() == 1
        assert heat.sum() == 64
    (entry,) = results_of(here / "out")["images"]
    assert [(one["target"], one["class_id"], one["class_name"]) for one in entry["heatmaps"]] == [
        ("red", 0, "red"), ("deep blue", 1, "deep blue"),
    ]  # fmt: skip
    for name, cold in (("red", BLUE), ("deep_blue", RED)):
        _, heat = overlay_of(here / "out" / f"squares.grad_cam.{name}.png", squares())
        assert_array_equal(middles(heat, squares())[cold], squares()[cold])
        assert (middles(heat, squares()) != squares()).any()


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ('["red", "blue"]', "names.json"),
        ('{"0": "red", "1": "blue"}', "names.json"),
        ('{"blue": 1, "red": 0}', "names.json"),
        ("red\r\nblue\r\n", "names.txt"),
        ("\ufeffred\nblue", "names.txt"),
    ],
)
def test_forms_of_class_names(here: Path, text: str, file: str) -> None:
    (here / file).write_text(text, "utf-8")
    heat_of(here, "--class-names", file)
    (entry,) = results_of(here / "out")["images"]
    assert [one["name"] for one in entry["classes"]] == ["red", "blue"]


def test_the_highest_classes(here: Path) -> None:
    heat_of(here, "--class", "top2")
    (entry,) = results_of(here / "out")["images"]
    assert [(one["target"], one["class_id"]) for one in entry["heatmaps"]] == [("top 1", 0), ("top 2", 1)]


def test_a_contrast(here: Path) -> None:
    (here / "names.txt").write_text("red\nblue: deep\n")
    arrays = heat_of(here, "--class", "blue: deep:red", "--class", "0:1", "--class", ":", "--class-names", "names.txt")
    blue, red = (explain(colours(), as_input(squares()), target=Contrast(*classes)) for classes in ((1, 0), (0, 1)))
    assert_allclose(arrays["grad_cam.blue_deep_against_red.raw"], blue.raw)
    assert_allclose(arrays["grad_cam.red_against_blue_deep.raw"], red.raw)
    assert_allclose(arrays["grad_cam.top_class_against_its_rival.raw"], red.raw)
    assert blue.raw[0][RED].max() < 0 < blue.raw[0][BLUE].min()
    entries = results_of(here / "out")["images"][0]["heatmaps"]
    targets = ("blue: deep against red", "red against blue: deep", "top class against its rival")
    assert tuple(one["target"] for one in entries) == targets
    assert {(one["class_id"], one["confidence"]) for one in entries} == {(None, None)}
    assert_allclose([one["score"] for one in entries], [blue.scores[0], red.scores[0], red.scores[0]], rtol=1e-5)


def test_numbers_that_are_not_for_these_pixels_are_warned_of(here: Path) -> None:
    common = ("explain", "nets:Colours", "squares.png", "--size", 16, "--mean", 127.5, "--std", 127.5)
    assert "--value-range byte?" in run(*common).stderr
    assert "Warning" not in run(*common, "--value-range", "byte").stderr


def test_names_of_more_classes_are_warned_of(here: Path) -> None:
    (here / "names.txt").write_text("red\nblue\ngreen\n")
    result = run("explain", "nets:Colours", "squares.png", "--size", 16, "--class-names", "names.txt")
    assert "up to id 2, and the model has 2 classes" in result.stderr


def test_folders_are_searched_to_their_ground_and_heatmaps_never_taken_for_images(here: Path) -> None:
    (here / "below").mkdir()
    Image.fromarray(squares()).save("below/a.png")
    for _ in range(2):
        run("explain", "nets:Colours", ".", "--recursive", "--size", 16)
        files = [entry["file"] for entry in results_of(here / "fe_gradcam_output")["images"]]
        assert files == [str(Path("below") / "a.png"), "squares.png"]
    assert "'--output'" in refused("nets:Colours", ".", "--size", 16, "--output", ".")
