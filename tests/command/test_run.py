"""Runs on real files and what they write: photos with the pretrained classifier, squares with nets made by hand."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

import fe_gradcam
from fe_gradcam import Contrast, explain, explain_many, top_k
from fe_gradcam.command.written import enlarged
from fe_gradcam.drawing import grid as drawing
from fe_gradcam.drawing import sheet as compose
from fe_gradcam.drawing.pixels import overlay, smooth_heat
from fe_gradcam.loading import photos as photo
from fe_gradcam.loading.photos import Preparation
from tests.command.running import (
    arrays_of,
    beside,
    colours,
    heat_of,
    middles,
    overlay_of,
    pixels,
    refused,
    results_of,
    run,
)
from tests.drawing.places import places_of
from tests.models.squares import BLUE, RED, as_input, keras_colours, squares
from tests.reporting.pages import levels_in, page_in


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The seven photos through the pretrained classifier, once for all tests that look at what came of it."""
    from tutorials.real_data import photos, pretrained_torch

    images, names, class_ids = photos()
    folder = tmp_path_factory.mktemp("photos")
    pictures = (255 * images + 0.5).astype(np.uint8)
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / f"{name}.png")
    (folder / "names.txt").write_text("\n".join(f"class number {at}" for at in range(1000)) + "\n\n")
    output = folder / "output"
    result = run(
        "explain", "tutorials.real_data:pretrained_torch", folder, "--size", 224, "--mean", 0.5, "--std", 0.5,
        "--batch-size", 3, "--method", "grad_cam", "--method", "layer_cam", "--class-names", folder / "names.txt",
        "--output", output, "--recursive",
    )  # fmt: skip
    return {
        "model": pretrained_torch(),
        "pictures": dict(sorted(zip(names, pictures, strict=True))),
        "truth": dict(zip(names, class_ids, strict=True)),
        "output": output,
        "result": result,
    }


def test_the_classes_of_the_photos(photos: dict[str, Any]) -> None:
    results = results_of(photos["output"])
    assert [entry["name"] for entry in results["images"]] == sorted(photos["pictures"])
    assert results["errors"] == []
    for entry in results["images"]:
        class_id = photos["truth"][entry["name"]]
        best = entry["classes"][0]
        assert class_id in (best["id"], None), entry["name"]
        assert best["name"] == f"class number {best['id']}"
        confidences = [one["confidence"] for one in entry["classes"]]
        assert len(confidences) == 5
        assert confidences == sorted(confidences, reverse=True)
        for heatmap in entry["heatmaps"]:
            assert heatmap["class_id"] == best["id"]
            assert heatmap["class_name"] == best["name"]
            assert heatmap["confidence"] == best["confidence"]
            assert heatmap["blank"] is False
            assert (photos["output"] / heatmap["overlay"]).is_file()
        assert [heatmap["method"] for heatmap in entry["heatmaps"]] == ["grad_cam", "layer_cam"]
    chelsea = next(entry for entry in results["images"] if entry["name"] == "chelsea")
    assert chelsea["classes"][0]["id"] == 285
    assert "class number 285" in photos["result"].stdout
    assert str(photos["output"] / "grid.png") in photos["result"].stdout


def test_results_say_how_the_photos_were_prepared(photos: dict[str, Any]) -> None:
    results = results_of(photos["output"])
    assert results["preprocessing"] == {
        "size": [224, 224], "channels": 3, "fit": "crop", "value_range": "unit", "mean": [0.5], "std": [0.5],
    }  # fmt: skip
    assert results["model"] == "tutorials.real_data:pretrained_torch"
    assert results["scaling"] == "scale_after_relu"
    assert results["fe_gradcam"] == fe_gradcam.__version__
    assert '"size": [224, 224]' in (photos["output"] / "results.json").read_text(), "short lists stay on a line"


def test_arrays_are_those_of_explain(photos: dict[str, Any]) -> None:
    images = np.concatenate([as_input(picture) for picture in photos["pictures"].values()]) * 2 - 1
    for heatmap in explain_many(photos["model"], images, methods=("grad_cam", "layer_cam")):
        method = heatmap.method
        for at, name in enumerate(photos["pictures"]):
            arrays = arrays_of(photos["output"], name)
            assert_allclose(arrays[f"{method}.pred.values"], heatmap.values[at : at + 1], atol=1e-4)
            scale = np.abs(heatmap.raw[at]).max()
            assert_allclose(arrays[f"{method}.pred.raw"], heatmap.raw[at : at + 1], atol=1e-4 * scale)
            assert_allclose(arrays[f"{method}.pred.scores"], heatmap.scores[at : at + 1], rtol=1e-4)
            assert_array_equal(arrays[f"{method}.pred.class_ids"], heatmap.class_ids[at : at + 1])
            assert arrays["probabilities"].shape == (1, 1000)
            assert arrays["predictions"] == heatmap.class_ids[at]
            assert str(arrays["layer"]) == heatmap.layer
            assert list(arrays["ids"]) == [name]
            assert not {"epoch", "mode"} & set(arrays)


def test_overlays_show_the_picture_where_it_is_cold_and_heat_where_it_is_hot(photos: dict[str, Any]) -> None:
    for name, picture in photos["pictures"].items():
        shown, drawn = overlay_of(photos["output"] / f"{name}.grad_cam.pred.png", picture)
        assert shown.shape == (512, 512, 3)
        heat = cv2.resize(arrays_of(photos["output"], name)["grad_cam.pred.values"][0], (512, 512))
        change = np.abs(drawn.astype(int) - shown).sum(2)
        cold = cv2.dilate(heat, np.ones((33, 33))) == 0  # apart from where it fades
        assert (change[cold] == 0).all(), name
        assert change[heat > 0.8].mean() > 5 * max(change[heat < 0.1].mean(), 1), name


def test_the_grid_shows_every_photo_beside_its_heatmaps(photos: dict[str, Any]) -> None:
    grid, methods = pixels(photos["output"] / "grid.png"), ("grad_cam", "layer_cam")
    for name, picture in photos["pictures"].items():
        arrays = arrays_of(photos["output"], name)
        maps = [smooth_heat(np.maximum(arrays[f"{method}.pred.raw"][0], 0), picture.shape[:2]) for method in methods]
        expected = [overlay(picture, heat / heat.max()).astype(int) for heat in maps]
        for column in (0, 1):
            off = [np.abs(beside(grid, picture, 1 + column) - one).mean() for one in (*expected, picture.astype(int))]
            assert off[column] == 0 < off[1 - column] < off[2], name


def test_an_overlay_says_what_it_shows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[Any] = []
    draw = drawing.draw_grid
    monkeypatch.setattr(drawing, "draw_grid", lambda grid, **how: grids.append(grid) or draw(grid, **how))
    (here / "names.txt").write_text("red\ndeep blue\n")
    asked = ("--class", "top2", "--class", "0:1", "--class", 1, "--class-names", "names.txt")
    heat_of(here, *asked)
    *overlays, whole = grids
    first, second = (explain(colours(), as_input(squares()), target=rank).confidences[0] for rank in top_k(2))
    said = [f"top 1: red ({first:.0%})", f"top 2: deep blue ({second:.0%})", "red against deep blue"]
    assert [grid.titles for grid in overlays] == [("image", one) for one in [*said, f"deep blue ({second:.0%})"]]
    for grid in overlays:
        for words in ("squares.png", "grad_cam", "layer relu"):
            assert words in f"{grid.title} {getattr(grid, 'subtitle', '')}"
        (row,) = grid.rows
        assert row.texts == ()
        assert [panel.caption for panel in row.panels] == [None, None]  # the class stands above, once
    (row,) = whole.rows
    below = [panel.caption and f"{panel.caption.words} {panel.caption.number}" for panel in row.panels]
    assert f"deep blue\u200e ({second:.0%})" == below[2]  # that of top 2
    beside_it = [(text.words, text.number) for text in row.texts if text.role == "note"]
    assert beside_it == [("deep blue", f"({second:.0%})")]  # that of the column called by it, and no other
    assert "grad_cam" in " ".join([whole.title, getattr(whole, "subtitle", ""), *whole.titles])
    grids.clear()
    heat_of(here)
    assert grids[0].titles == ("image", f"inferred: class 0 ({first:.0%})")


def test_how_images_were_prepared_is_said_where_neither_mean_nor_deviation_is_given(here: Path) -> None:
    asked = ("explain", "nets:Colours", "squares.png")
    said = run(*asked, "--size", 16).stderr
    assert "Images: scaled and cropped to 16 x 16, pixels in [0, 1], no mean and std (pass --mean and --std" in said
    said = run(*asked, "--size", "12x20", "--fit", "stretch", "--value-range", "byte").stderr
    assert "Images: stretched to 12 x 20, pixels in [0, 255], no mean and std" in said
    for given in (("--mean", 0.5), ("--std", 2)):
        assert "Images:" not in run(*asked, "--size", 16, *given).stderr


def test_preparation_is_that_of_the_help(here: Path) -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8))
    wide.save("wide.png")
    common = ("explain", "nets:Colours", "wide.png", "--size", "20x30", "--mean", "0.1,0.2,0.3", "--std", "2,3,4")
    run(*common, "--output", "crop")
    run(*common, "--output", "byte", "--value-range", "byte", "--fit", "stretch")
    cut = ImageOps.fit(wide, (30, 20), Image.Resampling.BILINEAR)
    stretched = wide.resize((30, 20), Image.Resampling.BILINEAR)
    for name, small, divisor, seen in (("crop", cut, 255, [15, 0, 75, 40]), ("byte", stretched, 1, [0, 0, 90, 40])):
        pixel = np.array(small, np.float32) / divisor
        images = ((pixel - [0.1, 0.2, 0.3]) / [2, 3, 4]).astype(np.float32).transpose(2, 0, 1)[None]
        raw = arrays_of(here / name, "wide")["grad_cam.pred.raw"]
        assert_allclose(raw, explain(colours(), images).raw, rtol=1e-4)
        shown, _ = overlay_of(here / name / "wide.grad_cam.pred.png", np.array(small))
        assert shown.shape == (360, 540, 3)  # 18 times: the longer side is 512 pixels at the least
        (entry,) = results_of(here / name)["images"]
        assert (entry["size"], entry["seen"]) == ([40, 90], seen)


def test_images_that_cannot_be_read_are_left_out(here: Path) -> None:
    (here / "bad.png").write_text("no picture")
    result = run("explain", "nets:Colours", "bad.png", "squares.png", "--size", 16, "--batch-size", 1, code=1)
    assert "bad.png is left out: it is no image" in result.stderr
    assert "bad.png" not in result.stdout
    assert "1 left out" in result.stdout
    results = results_of(here / "fe_gradcam_output")
    assert [entry["file"] for entry in results["images"]] == ["squares.png"]
    assert results["errors"] == [{"file": "bad.png", "reason": "it is no image, or its format is not known"}]
    assert (here / "fe_gradcam_output" / "squares.grad_cam.pred.png").is_file()

    result = run("explain", "nets:Colours", "bad.png", "--size", 16, "--output", "none", code=1)
    assert "No image could be read." in result.stderr
    results = results_of(here / "none")
    assert (results["images"], results["grid"]) == ([], None)
    assert not (here / "none" / "grid.png").exists()


def test_images_are_held_batch_by_batch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: list[Any] = []
    alive: list[int] = []
    read = photo.read_photo

    def watched(path: Path, preparation: Preparation) -> Any:
        one = read(path, preparation)
        pictures.append(weakref.ref(one.picture))
        alive.append(sum(reference() is not None for reference in pictures))
        return one

    for at in range(20):
        Image.fromarray(squares()).save(here / f"image{at:02}.png")
    monkeypatch.setattr(photo, "read_photo", watched)
    monkeypatch.setattr(compose, "MOST_ROWS", 7)
    grid_of = Mock(wraps=compose.compose_grid)
    monkeypatch.setattr(compose, "compose_grid", grid_of)
    result = run("explain", "nets:Colours", ".", "--size", 16, "--batch-size", 3)
    assert len(alive) == 21
    assert max(alive) <= 6
    (parts, *_, title) = grid_of.call_args.args
    assert grid_of.call_count == 21 + 1  # for each image, and for the grid
    assert (title, sum(map(len, parts))) == ("nets:Colours, the first 7 of 21 images", 7)
    assert len(results_of(here / "fe_gradcam_output")["images"]) == 21
    assert "and 1 more" in result.stdout


def test_a_run_that_breaks_off_keeps_what_there_is(here: Path) -> None:
    for at in range(8):
        Image.fromarray(squares()).save(here / f"image{at}.png")
    message = refused("nets:FailsLater", ".", "--size", 16, "--batch-size", 2)
    assert "RuntimeError: the third batch is too much" in message
    assert "nets.py, line" in message
    assert len(results_of(here / "fe_gradcam_output")["images"]) == 4
    assert (here / "fe_gradcam_output" / "grid.png").is_file()


def test_an_output_that_cannot_be_written(here: Path) -> None:
    result = run("explain", "nets:Colours", "squares.png", "--size", 16, "--output", "squares.png/out", code=1)
    assert "squares.png/out" in result.stderr
    assert "Traceback" not in result.output


def test_layers_are_fused(here: Path) -> None:
    arrays = heat_of(here, "--layer", "conv", "--layer", 2, "--fuse", "max", "--class", 0)
    expected = explain(colours(), as_input(squares()), layer=["conv", "relu"], fuse="max", target=0)
    assert_allclose(arrays["grad_cam.0.values"], expected.values)
    assert str(arrays["layer"]) == "max(conv, relu)"


def test_methods_with_parameters(here: Path) -> None:
    asked = ["is_cam", "is_cam:samples=2", "ss_cam: noise = 0.5, samples=3", "is_cam", "occlusion:fill=None,patch=4"]
    arrays = heat_of(here, *(part for method in asked for part in ("--method", method)), "--class", 0)
    expected = {
        "is_cam": "is_cam",
        "is_cam(samples=2)": ("is_cam", {"samples": 2}),
        "ss_cam(noise=0.5, samples=3)": ("ss_cam", {"noise": 0.5, "samples": 3}),
        "occlusion(fill=None, patch=4)": ("occlusion", {"patch": 4}),
    }
    (entry,) = results_of(here / "out")["images"]
    assert [one["method"] for one in entry["heatmaps"]] == list(expected)
    for label, method in expected.items():
        heatmap = explain(colours(), as_input(squares()), method=method, target=0)
        assert_allclose(arrays[f"{label}.0.values"], heatmap.values, atol=1e-5)
    assert [one["overlay"] for one in entry["heatmaps"]] == [
        "squares.is_cam.0.png",
        "squares.is_cam_samples_2.0.png",
        "squares.ss_cam_noise_0.5_samples_3.0.png",
        "squares.occlusion_fill_None_patch_4.0.png",
    ]
    written = {path.name for path in (here / "out").iterdir()}
    assert written == {one["overlay"] for one in entry["heatmaps"]} | {"grid.png", "results.json", "squares.npz"}


def test_smoothing_and_seed(here: Path) -> None:
    picture = squares()
    picture[:8, 8:] = 0, 204, 0  # against both classes; without it the two channels are one another's negative
    Image.fromarray(picture).save(here / "squares.png")
    image, raws = as_input(picture), []
    asked: dict[str, Any] = {"method": "score_cam", "target": Contrast(0, 1), "layer": "conv"}
    for smooth in ((), ("eigen",), ("augment",), ("augment", "eigen")):
        options = [part for one in smooth for part in ("--smooth", one)]
        arrays = heat_of(here, "--method", "score_cam", "--class", "0:1", "--layer", "conv", *options)
        raws.append(arrays["score_cam.0_against_1.raw"])
        assert_allclose(raws[-1], explain(colours(), image, smooth=smooth, **asked).raw, atol=1e-6)
    assert all(np.abs(one - raws[0]).max() > 1e-4 * np.abs(raws[0]).max() for one in raws[1:]), "each does something"
    seeds = [heat_of(here, "--method", "random_cam", *more)["random_cam.pred.raw"] for more in ((), ("--seed", 7))]
    for raw, seed in zip(seeds, (0, 7), strict=True):
        assert_allclose(raw, explain(colours(), image, method="random_cam", seed=seed).raw, atol=1e-6)
    assert np.abs(seeds[0] - seeds[1]).max() > 1e-3


def test_an_output_by_name_or_position(here: Path) -> None:
    expected = heat_of(here, "--class", 1)["grad_cam.1.values"]
    for output in ("scores", "0"):
        run("explain", "nets:Parts", "squares.png", "--size", 16, "--class", 1, "--model-output", output)
        assert_allclose(arrays_of(here / "fe_gradcam_output", "squares")["grad_cam.1.values"], expected)
    assert "--model-output 'score'" in refused("nets:Parts", "squares.png", "--size", 16, "--model-output", "score")
    assert "pass --model-output with the name" in refused("nets:Parts", "squares.png", "--size", 16)


def test_a_grey_model_by_its_first_convolution(here: Path) -> None:
    Image.fromarray(squares()).convert("L").save("grey.png")
    run("explain", "nets:grey", "squares.png", "grey.png", "--size", 16, "--class", 0)
    output = here / "fe_gradcam_output"
    assert results_of(output)["preprocessing"]["channels"] == 1
    colour, grey = (arrays_of(output, name)["grad_cam.0.raw"] for name in ("squares", "grey"))
    assert_array_equal(colour, grey)
    written = np.array(Image.fromarray(squares()).convert("L").convert("RGB"))
    shown, _ = overlay_of(output / "grey.grad_cam.0.png", written)
    assert_array_equal(shown[0, -1], [0, 0, 0])
    assert "--channels" in refused("nets:grey", "squares.png", "--size", 16, "--channels", 3)


def test_weights_are_loaded(here: Path) -> None:
    net = colours()
    with torch.no_grad():
        net.fc.weight.copy_(net.fc.weight.flip(0))
    torch.save(net.state_dict(), "w.pt")
    run("explain", "nets:wrapped", "squares.png", "--size", 16, "--class", 0, "--weights", "w.pt", "--device", "cpu")
    output = here / "fe_gradcam_output"
    assert arrays_of(output, "squares")["grad_cam.0.values"][0][BLUE].min() == 1, "the classes are exchanged"
    assert results_of(output)["weights"] == "w.pt"


def test_a_keras_file_is_explained_at_its_size(here: Path) -> None:
    model, asked = keras_colours(), ("model.keras", "large.png")
    model.save("model.keras")
    Image.fromarray(squares((32, 32))).save("large.png")
    run("explain", *asked, "--class", 1, "--method", "layer_cam", "--output", "out")
    small = np.array(Image.fromarray(squares((32, 32))).resize((16, 16), Image.Resampling.BILINEAR))
    expected = explain(model, as_input(small).transpose(0, 2, 3, 1), target=1, method="layer_cam")
    arrays = arrays_of(here / "out", "large")
    assert_allclose(arrays["layer_cam.1.values"], expected.values, atol=1e-5)
    assert arrays["layer_cam.1.values"][0][BLUE].min() > 0.5
    assert results_of(here / "out")["preprocessing"]["size"] == [16, 16]
    assert "--size 32x32 does not fit the model, which takes 16x16." in refused(*asked, "--size", 32)
    assert "--channels 1 does not fit the model, which takes 3." in refused(*asked, "--channels", 1)
    assert "--device 'cpu' is for PyTorch" in refused(*asked, "--device", "cpu")


def test_a_model_that_scales_its_images_itself(here: Path) -> None:
    keras_colours(scaled=True).save("scaled.keras")
    assert "may take pixels in [0, 255]" in run("explain", "scaled.keras", "squares.png").stderr
    byte = run("explain", "scaled.keras", "squares.png", "--value-range", "byte", "--class", 0)
    assert "Warning" not in byte.stderr
    assert arrays_of(here / "fe_gradcam_output", "squares")["grad_cam.0.scores"] == pytest.approx(8 * 0.25)


def test_equal_stems_do_not_overwrite_each_other(here: Path) -> None:
    reds = {"one/cat.png": 100, "two/cat.png": 150, "one/Cat.bmp": 200, "three/one_cat.png": 250}
    for name, red in reds.items():
        (here / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (red, 0, 0)).save(name)
    run("explain", "nets:Colours", *reds, "--size", 16, "--output", "out")
    entries = results_of(here / "out")["images"]
    names = [entry["name"].casefold() for entry in entries]
    assert len(set(names)) == 4
    assert names[1] == "two_cat"
    assert names[3] == "one_cat"
    for entry in entries:
        red = np.full((16, 16, 3), (reds[entry["file"]], 0, 0), np.uint8)
        assert len(places_of(enlarged(red), pixels(here / "out" / entry["heatmaps"][0]["overlay"]))) == 1
        assert entry["arrays"] == f"{entry['name']}.npz"
        score = arrays_of(here / "out", entry["name"])["grad_cam.pred.scores"]
        assert_allclose(score, 8 * reds[entry["file"]] / 255, rtol=1e-5)


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
    _, heat = overlay_of(here / "out" / "squares.grad_cam.0_against_1.png", squares())
    drawn = middles(heat, squares()).astype(int)
    assert (np.abs(drawn[RED] - [255, 0, 0]) <= 8).all()  # at its edge it fades
    assert (drawn[BLUE][..., 2] > drawn[BLUE][..., 0]).all()
    assert (drawn[12, 4] > 250).all(), "white, the middle of the colours, covers the black of the picture"
    assert results_of(here / "out")["scaling"] == "none"


def test_the_grid_has_the_look_of_the_overlays(here: Path) -> None:
    run("explain", "nets:Colours", "squares.png", "--size", 160, "--alpha", 0.9, "--colormap", "viridis")
    output = here / "fe_gradcam_output"
    picture = np.array(Image.fromarray(squares()).resize((160, 160), Image.Resampling.BILINEAR))
    _, alone = overlay_of(output / "squares.grad_cam.pred.png", picture)
    heat = beside(pixels(output / "grid.png"), picture)
    off = np.abs(cv2.resize(alone, (160, 160), interpolation=cv2.INTER_AREA).astype(int) - heat)
    assert off.mean() < 2
    assert np.abs(heat.astype(int) - picture).mean() > 20  # the heat covers much more than that


def test_no_evidence_is_said(here: Path) -> None:
    result = run("explain", "nets:zeros", "squares.png", "--size", 16)
    (entry,) = results_of(here / "fe_gradcam_output")["images"]
    assert entry["heatmaps"][0]["blank"] is True
    assert "no evidence" in result.stdout
    shown, heat = overlay_of(here / "fe_gradcam_output" / "squares.grad_cam.pred.png", squares())
    assert_array_equal(heat[:400], shown[:400])  # below is the note
    assert (heat[-10:] != shown[-10:]).any()


@pytest.mark.parametrize(("room", "notes"), [(200, []), (3, ["The first 3 of 4 images."])])
def test_a_page_holds_the_images_of_the_grid(
    here: Path, monkeypatch: pytest.MonkeyPatch, room: int, notes: list[str]
) -> None:
    monkeypatch.setattr(compose, "MOST_ROWS", room)
    for at in range(3):
        Image.fromarray(np.roll(squares(), at, 1)).save(here / f"image{at}.png")
    (here / "names.txt").write_text("red\nblue\n")
    common = ("explain", "nets:Colours", here, "--size", 16, "--batch-size", 2, "--class-names", here / "names.txt")
    result = run(*common, "--report", "--output", "with")
    assert result.stdout.rstrip().endswith(f"Open: {Path('with') / 'report.html'}")
    said = page_in(here / "with" / "report.html")
    shown = sorted(entry["name"] for entry in results_of(here / "with")["images"])[:room]
    assert (said["title"], said["notes"], said["class_names"]) == ("nets:Colours", notes, {"0": "red", "1": "blue"})
    (dataset,) = said["datasets"]
    assert [one["id"] for one in dataset["images"]] == shown
    values = np.concatenate([arrays_of(here / "with", name)["grad_cam.pred.values"] for name in shown])
    levels = levels_in(dataset["epochs"][0]["columns"][0]["heat"])
    assert np.abs(levels - np.rint(255.0 * values)).max() <= 1
    run(*common, "--output", "without")
    assert not (here / "without" / "report.html").exists()


HOSTILE = ["a\nb", "a\tb", "\x1b[31mred", "con", "<b>x: y", "\u202egnp", "my photo (1)", "猫", "犬", "x" * 251]
"""Names that a file system takes, and a page, a terminal, or another file system should not."""


def test_names_of_images_and_classes_stay_inside_the_folder_and_apart(here: Path) -> None:
    (here / "photos").mkdir()
    for name in HOSTILE:
        Image.fromarray(squares()).save(here / "photos" / f"{name}.png")
    classes = ["../../red", "y" * 300]
    (here / "names.json").write_text(json.dumps(classes))
    before = set(here.rglob("*"))
    wanted = [part for name in classes for part in ("--class", name)]
    run("explain", "nets:Colours", "photos", "--size", 16, "--class-names", "names.json", "--output", "out", *wanted)
    images = results_of(here / "out")["images"]
    files = [one["overlay"] for image in images for one in image["heatmaps"]] + [image["arrays"] for image in images]
    assert len(images) == len(HOSTILE) and len(set(files)) == 3 * len(HOSTILE)
    assert {path.name for path in (here / "out").iterdir()} == {*files, "grid.png", "results.json"}
    assert {path for path in here.rglob("*") if here / "out" not in (path, *path.parents)} == before
    assert all(name.isprintable() and len(name.encode()) <= 255 for name in files)
    kept = {image["name"] for image in images}
    assert {"my photo (1)", "猫", "犬", "_con"} <= kept
    assert "my photo (1).grad_cam.red.png" in files
