"""The command line on real files: photos with the pretrained classifier, squares with nets worked out by hand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

import fe_gradcam
from fe_gradcam import METHODS, Contrast, explain, explain_many
from fe_gradcam.command import cli
from fe_gradcam.drawing import sheet as compose
from fe_gradcam.loading import photos as photo
from fe_gradcam.loading.photos import PhotoError, Preparation, image_files, read_photo, unique_names
from fe_gradcam.scaling import FUSES, SCALINGS

ROOT = Path(fe_gradcam.__file__).parents[1]

NETS = '''
from types import SimpleNamespace

import torch
from torch import nn


class Colours(nn.Module):
    """Red against blue: A_0 = relu(R - G - B), A_1 = relu(B - R - G), their means are the scores."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            rows = [[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]] if channels == 3 else [[1.0], [-1.0]]
            self.conv.weight.copy_(torch.tensor(rows)[:, :, None, None])
            self.conv.bias.copy_(torch.zeros(2) if channels == 3 else torch.tensor([0.0, 1.0]))
            self.fc.weight.copy_(8 * torch.eye(2))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


class Parts(Colours):
    def forward(self, x):
        return {"scores": super().forward(x), "boxes": x.mean((2, 3))}


class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 14 * 14, 2))


class FailsLater(Colours):
    calls = 0

    def forward(self, x):
        self.calls += len(x) > 1
        if self.calls > 2:
            raise RuntimeError("the third batch is too much")
        return super().forward(x)


def grey():
    return Colours(1)


def blank():
    net = Colours()
    nn.init.constant_(net.conv.weight, float("nan"))
    return net


def zeros():
    net = Colours()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def wrapped():
    return nn.DataParallel(Colours())


def sized():
    net = Colours()
    net.image_size = 16
    return net


def of_timm():
    net = Colours()
    net.pretrained_cfg = {"input_size": (3, 16, 16)}
    return net


def of_transformers():
    net = Colours()
    net.config = SimpleNamespace(image_size=[16, 16])
    return net


def needs(path):
    return path


def broken():
    raise RuntimeError("its file is not there")


def nothing():
    return 3


ready = Colours()
number = 3
'''

RED, BLUE = (slice(0, 8), slice(0, 8)), (slice(8, 16), slice(8, 16))


def squares(size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """A red square at the upper left, a smaller share of blue at the lower right, black elsewhere."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[RED] = 255, 0, 0
    picture[BLUE] = 0, 0, 204
    return np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))


def as_input(picture: np.ndarray) -> np.ndarray:
    return (picture.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[None]


def run(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: Any) -> str:
    """The message of a run that is refused, on one line."""
    result = run(*arguments, code=2)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def results_of(folder: Path) -> dict[str, Any]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"), parse_constant=no_constant)
    return found


def arrays_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.array(image)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with nets.py and a picture; what runs import from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "nets.py").write_text(NETS)
    Image.fromarray(squares()).save(tmp_path / "squares.png")
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


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
    by_name = dict(zip(names, pictures, strict=True))
    truth = dict(zip(names, class_ids, strict=True))
    return {
        "model": pretrained_torch(),
        "pictures": {name: by_name[name] for name in sorted(names)},
        "truth": truth,
        "output": output,
        "result": result,
    }


# --- the photos --------------------------------------------------------------------------------------


def test_the_classes_of_the_photos(photos: dict[str, Any]) -> None:
    results = results_of(photos["output"])
    assert [entry["name"] for entry in results["images"]] == sorted(photos["pictures"])
    assert results["errors"] == []
    for entry in results["images"]:
        class_id = photos["truth"][entry["name"]]
        best = entry["classes"][0]
        if class_id is not None:
            assert best["id"] == class_id, entry["name"]
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
        drawn = pixels(photos["output"] / f"{name}.grad_cam.pred.png").astype(int)
        heat = arrays_of(photos["output"], name)["grad_cam.pred.values"][0]
        change = np.abs(drawn - picture).sum(2)
        assert drawn.shape == picture.shape
        assert (change[heat == 0] == 0).all(), name
        assert change[heat > 0.8].mean() > 5 * max(change[heat < 0.1].mean(), 1), name


def test_the_grid_shows_every_photo_beside_its_heatmaps(photos: dict[str, Any]) -> None:
    grid = pixels(photos["output"] / "grid.png")
    for name, picture in photos["pictures"].items():
        overlays = [pixels(photos["output"] / f"{name}.{method}.pred.png") for method in ("grad_cam", "layer_cam")]
        rows, columns = zip(*(found_in(grid, one) for one in (picture, *overlays)), strict=True)
        assert len(set(rows)) == 1
        assert sorted(set(columns)) == list(columns)


def found_in(grid: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Where a picture stands in the grid, pixel by pixel."""
    height, width = picture.shape[:2]
    corner = (grid[: -height + 1, : -width + 1] == picture[0, 0]).all(2)
    corner &= (grid[height - 1 :, width - 1 :] == picture[-1, -1]).all(2)
    places = [
        (int(y), int(x))
        for y, x in zip(*np.nonzero(corner), strict=True)
        if np.array_equal(grid[y : y + height, x : x + width], picture)
    ]
    assert len(places) == 1
    return places[0]


# --- how photos become images ------------------------------------------------------------------------


def test_preparation_is_that_of_the_help(place: Path) -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(wide).save("wide.png")
    common = ("explain", "nets:Colours", "wide.png", "--size", "20x30", "--mean", "0.1,0.2,0.3", "--std", "2,3,4")
    run(*common, "--output", "crop")
    run(*common, "--output", "byte", "--value-range", "byte", "--fit", "stretch")
    import nets

    cut = ImageOps.fit(Image.fromarray(wide), (30, 20), Image.Resampling.BILINEAR)
    stretched = Image.fromarray(wide).resize((30, 20), Image.Resampling.BILINEAR)
    for name, small, divisor in (("crop", cut, 255), ("byte", stretched, 1)):
        pixel = np.array(small, np.float32) / divisor
        images = ((pixel - [0.1, 0.2, 0.3]) / [2, 3, 4]).astype(np.float32).transpose(2, 0, 1)[None]
        assert_allclose(
            arrays_of(place / name, "wide")["grad_cam.pred.raw"], explain(nets.Colours(), images).raw, rtol=1e-4
        )
        assert pixels(place / name / "wide.grad_cam.pred.png").shape == (20, 30, 3)
    (crop,), (byte,) = results_of(place / "crop")["images"], results_of(place / "byte")["images"]
    assert crop["size"] == byte["size"] == [40, 90]
    assert crop["seen"] == [15, 0, 75, 40]
    assert byte["seen"] == [0, 0, 90, 40]


@pytest.mark.parametrize("size", [(7, 5), (5, 7), (64, 64), (1, 3)])
@pytest.mark.parametrize("photo_size", [(41, 60), (60, 41), (1, 1), (333, 2)])
def test_every_photo_comes_to_size(tmp_path: Path, size: tuple[int, int], photo_size: tuple[int, int]) -> None:
    Image.new("RGB", photo_size, (10, 20, 30)).save(tmp_path / "photo.png")
    read = read_photo(tmp_path / "photo.png", Preparation(size))
    left, top, right, bottom = read.box
    assert read.picture.shape == (*size, 3)
    assert (read.picture == [10, 20, 30]).all()
    assert 0 <= left < right <= photo_size[0]
    assert 0 <= top < bottom <= photo_size[1]
    assert left == 0 or top == 0
    assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0])


def test_photos_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    Image.fromarray(squares((16, 32))).save(tmp_path / "turned.png", exif=exif)
    read = read_photo(tmp_path / "turned.png", Preparation((32, 16)))
    assert read.size == (32, 16)
    assert read.picture[4, 12].tolist() == [255, 0, 0], "red, at the upper left, comes to the upper right"


def level(value: int, mode: str) -> Image.Image:
    return Image.new(mode, (4, 4), value)


MODES: dict[str, tuple[Callable[[], Image.Image], str, list[int]]] = {
    "grey": (lambda: level(100, "L"), "png", [100] * 3),
    "bits": (lambda: level(1, "1"), "png", [255] * 3),
    "16 bits": (lambda: Image.fromarray(np.full((4, 4), 100 * 257, np.uint16)), "png", [100] * 3),
    "16 bits in TIFF": (lambda: Image.fromarray(np.full((4, 4), 65535, np.uint16)), "tif", [255] * 3),
    "integers": (lambda: Image.fromarray(np.full((4, 4), 100 * 257, np.int32)), "tif", [100] * 3),
    "half transparent": (lambda: Image.new("RGBA", (4, 4), (255, 0, 0, 102)), "png", [255, 153, 153]),
    "transparent grey": (lambda: Image.new("LA", (4, 4), (0, 0)), "png", [255] * 3),
    "palette": (lambda: Image.new("RGB", (4, 4), (9, 99, 199)).quantize(4), "png", [9, 99, 199]),
    "cmyk": (lambda: Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "tif", [255, 0, 0]),
}


@pytest.mark.parametrize(("make", "suffix", "expected"), MODES.values(), ids=MODES)
def test_pixels_of_every_kind(
    tmp_path: Path, make: Callable[[], Image.Image], suffix: str, expected: list[int]
) -> None:
    path = tmp_path / f"photo.{suffix}"
    make().save(path)
    assert read_photo(path, Preparation((4, 4))).picture[1, 2].tolist() == expected
    grey = read_photo(path, Preparation((4, 4), channels=1)).picture[1, 2]
    assert grey.tolist() == [round(float(np.dot(expected, [0.299, 0.587, 0.114])))] * 3


def test_a_palette_with_a_transparent_entry_is_shown_on_white(tmp_path: Path) -> None:
    Image.new("P", (4, 4), 0).save(tmp_path / "photo.png", transparency=0)
    assert (read_photo(tmp_path / "photo.png", Preparation((4, 4))).picture == 255).all()


def test_what_cannot_be_read_is_told_with_a_reason(tmp_path: Path) -> None:
    Image.fromarray(squares((64, 64))).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "floats.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "large.tif")
    reasons = {
        "cut.jpg": "(?i)truncated", "text.png": "no image", "empty.png": "no image", "floats.tif": "floating-point",
        "large.tif": "beyond 16 bits", "gone.png": "No such file",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(PhotoError, match=reason):
            read_photo(tmp_path / name, Preparation((4, 4)))


# --- which files -------------------------------------------------------------------------------------


def test_folders_give_their_images_in_order(place: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "below/c.png", ".git/d.png"):
        path = place / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(squares()).save(path, "PNG")
    folder = place / "folder"
    assert [path.name for path in image_files([folder])] == ["a.JPG", "b.png"]
    assert [path.name for path in image_files([folder], recursive=True)] == ["a.JPG", "b.png", "c.png"]
    assert [path.name for path in image_files([folder / "b.png", folder])] == ["b.png", "a.JPG"]
    (place / "empty").mkdir()
    with pytest.raises(PhotoError, match="below it with --recursive"):
        image_files([folder, place / "empty"])
    run("explain", "nets:Colours", "folder", "--size", 16, "--recursive")
    assert [entry["file"] for entry in results_of(place / "fe_gradcam_output")["images"]] == [
        str(Path("folder") / name) for name in ("a.JPG", "b.png", "below/c.png")
    ]


def test_heatmaps_are_never_taken_for_images(place: Path) -> None:
    for _ in range(2):
        run("explain", "nets:Colours", ".", "--recursive", "--size", 16)
        assert [entry["name"] for entry in results_of(place / "fe_gradcam_output")["images"]] == ["squares"]
    assert "'--output'" in refused("explain", "nets:Colours", ".", "--size", 16, "--output", ".")


def test_equal_stems_do_not_overwrite_each_other(place: Path) -> None:
    reds = {}
    for at, name in enumerate(("one/cat.png", "two/cat.png", "one/Cat.bmp", "three/one_cat.png")):
        path = place / name
        path.parent.mkdir(exist_ok=True)
        reds[name] = 100 + 50 * at
        Image.new("RGB", (16, 16), (reds[name], 0, 0)).save(path)
    run("explain", "nets:Colours", *reds, "--size", 16, "--output", "out")
    entries = results_of(place / "out")["images"]
    names = [entry["name"].casefold() for entry in entries]
    assert len(set(names)) == 4
    assert names[1] == "two_cat"
    assert names[3] == "one_cat"
    for entry in entries:
        drawn = pixels(place / "out" / entry["heatmaps"][0]["overlay"])
        assert entry["arrays"] == f"{entry['name']}.npz"
        score = arrays_of(place / "out", entry["name"])["grad_cam.pred.scores"]
        assert_allclose(score, 8 * reds[entry["file"]] / 255, rtol=1e-5)
        assert drawn.shape == (16, 16, 3)


def test_names_are_free_of_each_other() -> None:
    paths = [Path(name) for name in ("a/x.png", "a/x.jpg", "b/a_x.png", "b/y.png", "c/A_X.png")]
    names = unique_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[3] == "y"


# --- what goes wrong with images ---------------------------------------------------------------------


def test_an_image_that_cannot_be_read_is_left_out(place: Path) -> None:
    (place / "bad.png").write_text("no picture")
    result = run("explain", "nets:Colours", "bad.png", "squares.png", "--size", 16, "--batch-size", 1, code=1)
    assert "bad.png is left out: no image" in result.stderr
    assert "bad.png" not in result.stdout
    assert "1 left out" in result.stdout
    results = results_of(place / "fe_gradcam_output")
    assert [entry["file"] for entry in results["images"]] == ["squares.png"]
    assert results["errors"] == [{"file": "bad.png", "reason": "no image, or of no format that is known"}]
    assert (place / "fe_gradcam_output" / "squares.grad_cam.pred.png").is_file()


def test_no_image_that_can_be_read(place: Path) -> None:
    (place / "bad.png").write_text("no picture")
    result = run("explain", "nets:Colours", "bad.png", "--size", 16, code=1)
    assert "No image could be read." in result.stderr
    results = results_of(place / "fe_gradcam_output")
    assert results["images"] == []
    assert results["grid"] is None
    assert not (place / "fe_gradcam_output" / "grid.png").exists()


def test_images_are_held_batch_by_batch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    most = 0
    read = photo.read_photo

    def watched(path: Path, preparation: Preparation) -> Any:
        nonlocal most
        one = read(path, preparation)
        alive.append(weakref.ref(one.picture))
        most = max(most, sum(reference() is not None for reference in alive))
        return one

    for at in range(20):
        Image.fromarray(squares()).save(place / f"image{at:02}.png")
    monkeypatch.setattr(photo, "read_photo", watched)
    monkeypatch.setattr(compose, "MOST_ROWS", 7)
    titles = []
    grid_of = compose.compose_grid

    def compose_grid(parts: Any, names: Any, look: Any, title: str) -> Any:
        titles.append((title, sum(map(len, parts))))
        return grid_of(parts, names, look, title)

    monkeypatch.setattr(compose, "compose_grid", compose_grid)
    result = run("explain", "nets:Colours", ".", "--size", 16, "--batch-size", 3)
    assert len(alive) == 21
    assert most <= 6
    assert titles == [("nets:Colours, the first 7 of 21 images", 7)]
    assert len(results_of(place / "fe_gradcam_output")["images"]) == 21
    assert "and 1 more" in result.stdout


def test_a_run_that_breaks_off_keeps_what_there_is(place: Path) -> None:
    for at in range(8):
        Image.fromarray(squares()).save(place / f"image{at}.png")
    message = refused("explain", "nets:FailsLater", ".", "--size", 16, "--batch-size", 2)
    assert "RuntimeError: the third batch is too much" in message
    assert "nets.py, line" in message
    assert len(results_of(place / "fe_gradcam_output")["images"]) == 4
    assert (place / "fe_gradcam_output" / "grid.png").is_file()


def test_an_output_that_cannot_be_written(place: Path) -> None:
    result = run("explain", "nets:Colours", "squares.png", "--size", 16, "--output", "squares.png/out", code=1)
    assert "squares.png/out" in result.stderr
    assert "Traceback" not in result.output


# --- classes -----------------------------------------------------------------------------------------


def heat_of(place: Path, *arguments: Any, output: str = "out") -> dict[str, np.ndarray]:
    run("explain", "nets:Colours", "squares.png", "--size", 16, "--output", output, *arguments)
    return arrays_of(place / output, "squares")


def test_a_class_by_id_and_by_name(place: Path) -> None:
    (place / "names.txt").write_text("red\ndeep blue\n")
    arrays = heat_of(place, "--class", 0, "--class", "deep blue", "--class", 1, "--class-names", "names.txt")
    red, blue = arrays["grad_cam.red.values"][0], arrays["grad_cam.deep_blue.values"][0]
    assert red[RED].min() == 1
    assert red.sum() == 64
    assert blue[BLUE].min() == 1
    assert blue.sum() == 64
    (entry,) = results_of(place / "out")["images"]
    assert [(one["target"], one["class_id"], one["class_name"]) for one in entry["heatmaps"]] == [
        ("red", 0, "red"), ("deep blue", 1, "deep blue"),
    ]  # fmt: skip
    for name, cold in (("red", BLUE), ("deep_blue", RED)):
        drawn = pixels(place / "out" / f"squares.grad_cam.{name}.png")
        assert_array_equal(drawn[cold], squares()[cold])
        assert (drawn != squares()).any()


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
def test_forms_of_class_names(place: Path, text: str, file: str) -> None:
    (place / file).write_text(text, "utf-8")
    heat_of(place, "--class-names", file)
    (entry,) = results_of(place / "out")["images"]
    assert [one["name"] for one in entry["classes"]] == ["red", "blue"]


def test_the_highest_classes(place: Path) -> None:
    heat_of(place, "--class", "top2")
    (entry,) = results_of(place / "out")["images"]
    assert [(one["target"], one["class_id"]) for one in entry["heatmaps"]] == [("top 1", 0), ("top 2", 1)]


def test_a_contrast(place: Path) -> None:
    (place / "names.txt").write_text("red\nblue: deep\n")
    arrays = heat_of(place, "--class", "blue: deep:red", "--class", "0:1", "--class", ":", "--class-names", "names.txt")
    import nets

    blue, red = (
        explain(nets.Colours(), as_input(squares()), target=Contrast(*classes)) for classes in ((1, 0), (0, 1))
    )
    assert_allclose(arrays["grad_cam.blue_deep_against_red.raw"], blue.raw)
    assert_allclose(arrays["grad_cam.red_against_blue_deep.raw"], red.raw)
    assert_allclose(arrays["grad_cam.top_class_against_its_rival.raw"], red.raw)
    assert blue.raw[0][RED].max() < 0 < blue.raw[0][BLUE].min()
    entries = results_of(place / "out")["images"][0]["heatmaps"]
    assert [one["target"] for one in entries] == [
        "blue: deep against red",
        "red against blue: deep",
        "top class against its rival",
    ]
    assert [one["class_id"] for one in entries] == [None] * 3
    assert [one["confidence"] for one in entries] == [None] * 3
    assert_allclose([one["score"] for one in entries], [blue.scores[0], red.scores[0], red.scores[0]], rtol=1e-5)


def test_a_name_of_two_classes_is_refused(place: Path) -> None:
    (place / "names.txt").write_text("crane\ncrane\n")
    message = refused(
        "explain", "nets:Colours", "squares.png", "--size", 16, "--class", "crane", "--class-names", "names.txt"
    )
    assert "pass the id, one of 0, 1" in message


# --- other options -----------------------------------------------------------------------------------


def test_layers_are_fused(place: Path) -> None:
    arrays = heat_of(place, "--layer", "conv", "--layer", 2, "--fuse", "max", "--class", 0)
    import nets

    expected = explain(nets.Colours(), as_input(squares()), layer=["conv", "relu"], fuse="max", target=0)
    assert_allclose(arrays["grad_cam.0.values"], expected.values)
    assert str(arrays["layer"]) == "max(conv, relu)"


def test_methods_with_parameters(place: Path) -> None:
    asked = ["is_cam", "is_cam:samples=2", "ss_cam: noise = 0.5, samples=3", "is_cam", "occlusion:fill=None,patch=4"]
    arrays = heat_of(place, *(part for method in asked for part in ("--method", method)), "--class", 0)
    import nets

    expected = {
        "is_cam": "is_cam",
        "is_cam(samples=2)": ("is_cam", {"samples": 2}),
        "ss_cam(noise=0.5, samples=3)": ("ss_cam", {"noise": 0.5, "samples": 3}),
        "occlusion(fill=None, patch=4)": ("occlusion", {"patch": 4}),
    }
    (entry,) = results_of(place / "out")["images"]
    assert [one["method"] for one in entry["heatmaps"]] == list(expected)
    for label, method in expected.items():
        heatmap = explain(nets.Colours(), as_input(squares()), method=method, target=0)
        assert_allclose(arrays[f"{label}.0.values"], heatmap.values, atol=1e-5)
    assert [one["overlay"] for one in entry["heatmaps"]] == [
        "squares.is_cam.0.png",
        "squares.is_cam_samples_2.0.png",
        "squares.ss_cam_noise_0.5_samples_3.0.png",
        "squares.occlusion_fill_None_patch_4.0.png",
    ]
    written = {path.name for path in (place / "out").iterdir()}
    assert written == {one["overlay"] for one in entry["heatmaps"]} | {"grid.png", "results.json", "squares.npz"}


def test_overlays_of_methods_whose_names_are_long_do_not_overwrite_each_other(place: Path) -> None:
    methods = [f"smooth_grad_cam_plus_plus:samples=10,noise=0.123456789012345{at}" for at in (1, 6)]
    heat_of(place, *(part for method in methods for part in ("--method", method)), "--class", 0, "--class", 1)
    (entry,) = results_of(place / "out")["images"]
    names = [one["overlay"] for one in entry["heatmaps"]]
    assert len(set(names)) == 4
    assert all((place / "out" / name).is_file() for name in names)
    assert all(len(name) < 90 and set(name) <= set("abcdefghijklmnopqrstuvwxyz_.0123456789") for name in names)


def test_smoothing_and_seed(place: Path) -> None:
    picture = squares()
    picture[:8, 8:] = 0, 204, 0  # against both classes; without it the two channels are one another's negative
    Image.fromarray(picture).save(place / "squares.png")
    raws, smooths = [], ((), ("eigen",), ("augment",), ("augment", "eigen"))
    for smooth in smooths:
        options = [part for one in smooth for part in ("--smooth", one)]
        arrays = heat_of(place, "--method", "score_cam", "--class", "0:1", "--layer", "conv", *options)
        raws.append(arrays["score_cam.0_against_1.raw"])
    import nets

    net, image = nets.Colours(), as_input(picture)
    asked: dict[str, Any] = {"method": "score_cam", "target": Contrast(0, 1), "layer": "conv"}
    for raw, smooth in zip(raws, smooths, strict=True):
        assert_allclose(raw, explain(net, image, smooth=smooth, **asked).raw, atol=1e-6)
    assert all(np.abs(one - raws[0]).max() > 1e-4 * np.abs(raws[0]).max() for one in raws[1:]), "each does something"
    seeds = [heat_of(place, "--method", "random_cam", *more)["random_cam.pred.raw"] for more in ((), ("--seed", 7))]
    for raw, seed in zip(seeds, (0, 7), strict=True):
        assert_allclose(raw, explain(net, image, method="random_cam", seed=seed).raw, atol=1e-6)
    assert np.abs(seeds[0] - seeds[1]).max() > 1e-3


def test_a_signed_map_with_its_colours(place: Path) -> None:
    arrays = heat_of(place, "--scaling", "none", "--class", "0:1", "--alpha", 1, "--colormap", "bwr")
    assert arrays["grad_cam.0_against_1.values"].min() < 0
    drawn = pixels(place / "out" / "squares.grad_cam.0_against_1.png")
    assert (drawn[RED] == [255, 0, 0]).all()
    assert (drawn[BLUE][..., 2] > drawn[BLUE][..., 0]).all()
    assert (drawn[12, 4] > 250).all(), "white, the middle of the colours, covers the black of the picture"
    assert results_of(place / "out")["scaling"] == "none"


def test_the_grid_has_the_look_of_the_overlays(place: Path) -> None:
    run("explain", "nets:Colours", "squares.png", "--size", 160, "--alpha", 0.9, "--colormap", "viridis")
    output = place / "fe_gradcam_output"
    found_in(pixels(output / "grid.png"), pixels(output / "squares.grad_cam.pred.png"))


def test_an_output_by_name_or_position(place: Path) -> None:
    expected = heat_of(place, "--class", 1)["grad_cam.1.values"]
    for output in ("scores", "0"):
        run("explain", "nets:Parts", "squares.png", "--size", 16, "--class", 1, "--model-output", output)
        assert_allclose(arrays_of(place / "fe_gradcam_output", "squares")["grad_cam.1.values"], expected)
    assert "--model-output 'score'" in refused(
        "explain", "nets:Parts", "squares.png", "--size", 16, "--model-output", "score"
    )
    assert "pass --model-output with the name" in refused("explain", "nets:Parts", "squares.png", "--size", 16)


def test_a_grey_model_by_its_first_convolution(place: Path) -> None:
    Image.fromarray(squares()).convert("L").save("grey.png")
    run("explain", "nets:grey", "squares.png", "grey.png", "--size", 16, "--class", 0)
    output = place / "fe_gradcam_output"
    assert results_of(output)["preprocessing"]["channels"] == 1
    colour, grey = (arrays_of(output, name)["grad_cam.0.raw"] for name in ("squares", "grey"))
    assert_array_equal(colour, grey)
    drawn = pixels(output / "grey.grad_cam.0.png")
    assert_array_equal(drawn[0, 15], [0, 0, 0])
    assert "--channels" in refused("explain", "nets:grey", "squares.png", "--size", 16, "--channels", 3)


def test_no_evidence_is_said(place: Path) -> None:
    result = run("explain", "nets:zeros", "squares.png", "--size", 16)
    (entry,) = results_of(place / "fe_gradcam_output")["images"]
    assert entry["heatmaps"][0]["blank"] is True
    assert "no evidence" in result.stdout
    assert_array_equal(pixels(place / "fe_gradcam_output" / "squares.grad_cam.pred.png"), squares())


def test_warnings_of_the_package_are_one_line(place: Path) -> None:
    result = run("explain", "nets:blank", "squares.png", "--size", 16, "--class", 0)
    warned = [line for line in result.stderr.splitlines() if "NaN or infinite" in line]
    assert len(warned) == 1
    assert warned[0].startswith("Warning: The activations")
    assert "CamWarning" not in result.stderr
    (entry,) = results_of(place / "fe_gradcam_output")["images"]
    assert entry["heatmaps"][0]["score"] is None, "NaN is no JSON"


def test_numbers_that_are_not_for_these_pixels_are_warned_of(place: Path) -> None:
    common = ("explain", "nets:Colours", "squares.png", "--size", 16, "--mean", 127.5, "--std", 127.5)
    assert "--value-range byte?" in run(*common).stderr
    assert "Warning" not in run(*common, "--value-range", "byte").stderr


def test_names_of_more_classes_are_warned_of(place: Path) -> None:
    (place / "names.txt").write_text("red\nblue\ngreen\n")
    result = run("explain", "nets:Colours", "squares.png", "--size", 16, "--class-names", "names.txt")
    assert "up to id 2, and the model has 2 classes" in result.stderr


# --- models and weights ------------------------------------------------------------------------------


def test_a_model_that_is_ready_or_says_its_size(place: Path) -> None:
    expected = heat_of(place)["grad_cam.pred.values"]
    sized = [(f"nets:{name}", []) for name in ("sized", "of_timm", "of_transformers")]
    for model, size in (("nets:ready", ["--size", "16x16"]), ("nets:wrapped", ["--size", 16]), *sized):
        run("explain", model, "squares.png", *size, "--output", "again", "--device", "cpu")
        assert_allclose(arrays_of(place / "again", "squares")["grad_cam.pred.values"], expected)


def save_weights(path: Path, kind: str) -> None:
    import nets

    net = nets.Colours()
    with torch.no_grad():
        net.fc.weight.copy_(torch.tensor([[0.0, 8.0], [8.0, 0.0]]))
    state = net.state_dict()
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif kind in ("state_dict", "model_state_dict", "model"):
        torch.save({kind: state, "epoch": 3}, path)
    else:
        torch.save({f"{kind}{name}": value for name, value in state.items()}, path)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("w.pt", ""),
        ("w.pth", "module."),
        ("w.pt", "_orig_mod.module."),
        ("w.ckpt", "state_dict"),
        ("w.pt", "model_state_dict"),
        ("w.pt", "model"),
        ("w.safetensors", "safetensors"),
    ],
)
@pytest.mark.parametrize("model", ["nets:Colours", "nets:wrapped"])
def test_weights(place: Path, file: str, kind: str, model: str) -> None:
    sys.path.insert(0, str(place))
    save_weights(place / file, kind)
    run("explain", model, "squares.png", "--size", 16, "--class", 0, "--weights", file, "--output", "out")
    heat = arrays_of(place / "out", "squares")["grad_cam.0.values"][0]
    assert heat[BLUE].min() == 1, "the weights have the classes exchanged"
    assert heat[RED].max() == 0
    assert results_of(place / "out")["weights"] == file


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("opened",)


def test_weights_that_do_not_fit(place: Path) -> None:
    common = ("explain", "nets:Colours", "squares.png", "--size", 16, "--weights")
    torch.save({"conv.weight": torch.zeros(2, 3, 1, 1), "more": torch.zeros(1)}, "other.pt")
    message = refused(*common, "other.pt")
    assert "'--weights'" in message
    assert "3 of its tensors are not in the file (conv.bias, fc.weight, fc.bias)" in message
    assert "1 tensors in the file are not of the model (more)" in message
    torch.save({"conv.weight": torch.zeros(5, 3, 1, 1)}, "shape.pt")
    assert "size mismatch for conv.weight" in refused(*common, "shape.pt")
    torch.save({"epoch": 3}, "none.pt")
    assert "holds the keys epoch" in refused(*common, "none.pt")
    (place / "text.pt").write_text("no tensors")
    assert "cannot be read as a file of tensors" in refused(*common, "text.pt")
    (place / "evil.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    assert "a whole pickled model is not opened" in refused(*common, "evil.pt")
    assert not (place / "opened").exists()
    (place / "text.safetensors").write_text("no tensors")
    assert "cannot be read" in refused(*common, "text.safetensors")
    assert "does not exist" in refused(*common, "gone.pt")


def keras_colours(channels: int = 3, scaled: bool = False) -> Any:
    """The like of Colours; `scaled` takes pixels in [0, 255] and divides them itself."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = tf.keras.Input((16, 16, channels))
    x = layers.Rescaling(1 / 255)(inputs) if scaled else inputs
    x = layers.Conv2D(2, 1, activation="relu", name="conv")(x)
    x = layers.Dense(2, name="fc")(layers.GlobalAveragePooling2D()(x))
    model = tf.keras.Model(inputs, x)
    rows = np.array([[1, -1, -1], [-1, -1, 1]] if channels == 3 else [[1] * channels, [-1] * channels], np.float32)
    bias = np.array([0, 0] if channels == 3 else [0, 1], np.float32)
    model.get_layer("conv").set_weights([rows.T[None, None], bias])
    model.get_layer("fc").set_weights([8 * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)])
    return model


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model.hdf5"])
def test_a_keras_file_says_what_it_takes(place: Path, file: str) -> None:
    model = keras_colours()
    model.save(file, **({"save_format": "h5"} if file.endswith("5") else {}))
    Image.fromarray(squares((32, 32))).save("large.png")
    run("explain", file, "large.png", "--class", 1, "--method", "layer_cam", "--output", "out")
    small = np.array(Image.fromarray(squares((32, 32))).resize((16, 16), Image.Resampling.BILINEAR))
    expected = explain(model, as_input(small).transpose(0, 2, 3, 1), target=1, method="layer_cam")
    arrays = arrays_of(place / "out", "large")
    assert_allclose(arrays["layer_cam.1.values"], expected.values, atol=1e-5)
    assert arrays["layer_cam.1.values"][0][BLUE].min() > 0.5
    results = results_of(place / "out")
    assert results["preprocessing"]["size"] == [16, 16]
    assert "does not fit the model, which takes 16x16" in refused("explain", file, "large.png", "--size", 32)
    assert "'--channels'" in refused("explain", file, "large.png", "--channels", 1)
    assert "'--device'" in refused("explain", file, "large.png", "--device", "cpu")


def test_keras_models_of_other_kinds(place: Path) -> None:
    keras_colours(1).save("grey.keras")
    run("explain", "grey.keras", "squares.png", "--output", "grey")
    assert results_of(place / "grey")["preprocessing"]["channels"] == 1
    keras_colours(scaled=True).save("scaled.keras")
    assert "may take pixels in [0, 255]" in run("explain", "scaled.keras", "squares.png").stderr
    byte = run("explain", "scaled.keras", "squares.png", "--value-range", "byte", "--class", 0)
    assert "Warning" not in byte.stderr
    assert arrays_of(place / "fe_gradcam_output", "squares")["grad_cam.0.scores"] == pytest.approx(8 * 0.25)
    (place / "text.keras").write_text("no model")
    assert "cannot be loaded as a Keras model" in refused("explain", "text.keras", "squares.png")
    keras_colours(4).save("four.keras")
    assert "4 channels" in refused("explain", "four.keras", "squares.png")


def test_keras_weights(place: Path) -> None:
    model = keras_colours()
    model.save("model.keras")
    model.get_layer("fc").set_weights([8 * np.eye(2, dtype=np.float32)[::-1], np.zeros(2, np.float32)])
    model.save_weights("w.weights.h5")
    model.save_weights("w.h5")
    (place / "kept.py").write_text("import tensorflow as tf\nnet = lambda: tf.keras.models.load_model('model.keras')\n")
    for model, weights in (("model.keras", "w.weights.h5"), ("kept:net", "w.h5")):
        run("explain", model, "squares.png", "--weights", weights, "--class", 0, "--output", "out")
        assert arrays_of(place / "out", "squares")["grad_cam.0.values"][0][BLUE].min() == 1
    assert "'--weights'" in refused("explain", "model.keras", "squares.png", "--weights", "squares.png")
    keras_colours(1).save_weights("grey.h5")
    assert "does not fit the model" in refused("explain", "model.keras", "squares.png", "--weights", "grey.h5")


# --- wrong usage -------------------------------------------------------------------------------------

COLOURS = ("nets:Colours", "squares.png")
SIZED = (*COLOURS, "--size", "16")
WRONG = {
    "no size": ([*COLOURS], "--size is needed"),
    "size": ([*COLOURS, "--size", "12x"], "'--size': '12x' is no size"),
    "size of nothing": ([*COLOURS, "--size", "0"], "'--size'"),
    "no image": (["nets:Colours", "--size", "16"], "Missing argument 'IMAGES...'"),
    "image": (["nets:Colours", "gone.png", "--size", "16"], "'gone.png' does not exist"),
    "method": ([*COLOURS, "--method", "gradcam"], "--method 'gradcam' is not known; did you mean"),
    "parameter": ([*COLOURS, "--method", "is_cam:sample=2"],
                  "--method 'is_cam' has no parameter 'sample'; did you mean 'samples'? Accepted: samples."),
    "value": ([*COLOURS, "--method", "is_cam:samples=0"],
              "--method 'is_cam': samples=0 is not accepted. Accepted: an integer from 1."),
    "no value": ([*COLOURS, "--method", "is_cam:samples"],
                 "--method 'is_cam:samples' is not accepted. Accepted: a name, or a name with parameters"),
    "smooth": ([*COLOURS, "--smooth", "augmant"], "'--smooth': 'augmant' is not one of 'augment', 'eigen'"),
    "smoothed twice": ([*COLOURS, "--smooth", "eigen", "--smooth", "eigen"], "--smooth ('eigen', 'eigen') is not"),
    "seed": ([*COLOURS, "--seed", "-1"], "'--seed'"),
    "no linear head": (["nets:Fixed", "squares.png", "--size", "16", "--method", "cam"],
                       "--method 'cam' needs a network whose score is a linear function"),
    "layer": ([*SIZED, "--layer", "con"], "--layer 'con' is no layer"),
    "index": ([*SIZED, "--layer", "9"], "--layer 9 is no layer"),
    "flat layer": ([*SIZED, "--layer", "fc"], "--layer 'fc' has an output"),
    "fuse": ([*COLOURS, "--fuse", "min"], "--fuse 'min' is not known"),
    "scaling": ([*COLOURS, "--scaling", "relu"], "--scaling 'relu' is not known"),
    "colormap": ([*COLOURS, "--colormap", "turbi"], "--colormap 'turbi' is no colormap"),
    "alpha": ([*COLOURS, "--alpha", "2"], "'--alpha'"),
    "batch": ([*COLOURS, "--batch-size", "0"], "'--batch-size'"),
    "mean": ([*SIZED, "--mean", "1,2"], "'--mean': 2 numbers for 3 channel(s)"),
    "no number": ([*COLOURS, "--mean", "half"], "'--mean': 'half' is not accepted"),
    "nan": ([*COLOURS, "--mean", "nan"], "'--mean': 'nan' is not accepted"),
    "std": ([*COLOURS, "--std", "1,0,1"], "'--std': 0 is no standard deviation"),
    "class": ([*COLOURS, "--class", "tabby"], "--class 'tabby' is no class"),
    "class id": ([*SIZED, "--class", "2"], "--class 2 is not a class of this"),
    "itself": ([*SIZED, "--class", "1:1"], "--class holds a class against"),
    "top0": ([*COLOURS, "--class", "top0"], "Accepted: an integer from 1"),
    "top9": ([*SIZED, "--class", "top9"], "--class asks for"),
    "names": ([*COLOURS, "--class-names", "bad.json"], "'--class-names': 'bad.json' holds neither"),
    "json": ([*COLOURS, "--class-names", "cut.json"], "'--class-names': 'cut.json' cannot be read"),
    "device": ([*SIZED, "--device", "tpu9"], "'--device': 'tpu9' cannot be used"),
    "no module": (["nots:Colours", "squares.png"], "there is no module 'nots', neither in the current folder ("),
    "file": (["nets.py:Colours", "squares.png"], "Write the module, not the file: nets:factory"),
    "no factory": (["nets", "squares.png"], "neither package.module:factory nor"),
    "weights alone": (["w.pt", "squares.png"], "package.module:factory --weights w.pt"),
    "attribute": (["nets:Colour", "squares.png"], "has no 'Colour'; did you mean 'Colours'"),
    "keras file": (["gone.keras", "squares.png"], "'gone.keras' does not exist"),
    "number": (["nets:number", "squares.png"], "'nets:number' is an object of type int"),
    "nothing": (["nets:nothing", "squares.png"], "'nets:nothing' made an object of type int"),
    "arguments": (["nets:needs", "squares.png"], "raised TypeError: needs() missing 1 required"),
    "broken": (["nets:broken", "squares.png"], "raised RuntimeError: its file is not there ("),
    "import": (["imports:net", "squares.png"], "raised ModuleNotFoundError: No module named 'nosuch' ("),
    "exit": (["exits:net", "squares.png"], "importing 'exits' raised SystemExit"),
    "fixed": (["nets:Fixed", "squares.png", "--size", "20"], "failed on images of shape (1, 3, 20, 20): RuntimeError"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage(place: Path, arguments: list[str], message: str) -> None:
    (place / "bad.json").write_text('{"0": 1.5}')
    (place / "cut.json").write_text('{"0": ')
    (place / "imports.py").write_text("import nosuch\n")
    (place / "exits.py").write_text("import sys\nsys.exit(0)\n")
    assert message in refused("explain", *arguments)
    assert not (place / "fe_gradcam_output" / "results.json").exists()


# --- the other commands ------------------------------------------------------------------------------


def test_layers(place: Path) -> None:
    maps = run("layers", "nets:Colours", "--size", 16).stdout.splitlines()
    everything = run("layers", "nets:Colours", "--size", 16, "--all").stdout.splitlines()
    assert [line.split()[:6] for line in maps] == [
        ["index", "name", "kind", "output", "map", "convolution"],
        ["1", "conv", "Conv2d", "2x16x16", "yes", "yes"],
        ["2", "relu", "ReLU", "2x16x16", "yes", "-"],
    ]
    assert [line for line in maps if "<- default" in line] == [maps[2]]
    assert maps[1].split()[6] == "yes", "a ReLU behind the convolution"
    assert len(everything) == 5
    assert everything[3].split()[:5] == ["3", "fc", "Linear", "2", "-"]
    assert "--size is needed" in refused("layers", "nets:Colours")
    assert "larger than 1x1" in refused("layers", "nets:Colours", "--size", 1)


def test_layers_of_a_keras_model(place: Path) -> None:
    keras_colours().save("model.keras")
    lines = run("layers", "model.keras", "--all").stdout.splitlines()
    (conv,) = [line for line in lines if " conv " in line]
    assert "2x16x16" in conv
    assert "<- default" in conv
    index = conv.split()[0]
    by_index = run("explain", "model.keras", "squares.png", "--layer", index, "--output", "out")
    assert "at layer conv." in by_index.stdout


def test_methods() -> None:
    said = run("methods").stdout
    for name, method in METHODS.items():
        assert name in said
        assert method.summary in said
        assert method.paper in said
        assert method.cost in said
    lines = [line.strip() for line in said.splitlines()]
    of_method = lines[[line.split()[0] for line in lines].index("ss_cam") :][:5]
    assert of_method[2:] == ["samples K forwards", "samples=8: an integer from 1", "noise=0.2: a number from 0"]
    assert "patch=None: an integer from 1 or None" in lines
    assert "center=False: True or False" in lines
    assert len([line for line in lines if "=" in line.split(":")[0].split()[0]]) == sum(
        len(method.parameters) for method in METHODS.values()
    )


def test_version() -> None:
    assert fe_gradcam.__version__ in run("--version").stdout


def test_help_teaches() -> None:
    overall = run("--help").stdout
    for word in ("explain", "layers", "methods", "Exit codes: 0", "grid.png"):
        assert word in overall
    explained = " ".join(run("explain", "--help").stdout.split())
    for word in (*METHODS, *SCALINGS, *FUSES, "Exit codes: 0", "Examples:", "results.json", "on white"):
        assert word in explained
    assert "\\b" not in explained
    for command in (cli.explain, cli.layers):
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, option.name
                assert option.show_default or "Default: " in option.help, option.name


def test_help_loads_nothing_that_takes_time() -> None:
    program = (
        "import sys\nfrom fe_gradcam.command.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "print({'numpy', 'torch', 'tensorflow', 'fastestimator', 'PIL', 'cv2', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("set()\n")


def test_a_pytorch_model_loads_neither_tensorflow_nor_the_host(place: Path) -> None:
    program = (
        "import sys\nfrom fe_gradcam.command.cli import main\n"
        "main(['explain', 'nets:Colours', 'squares.png', '--size', '16'], standalone_mode=False)\n"
        "print({'tensorflow', 'fastestimator', 'plotly'} & set(sys.modules), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.endswith("set() True\n")
