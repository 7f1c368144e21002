"""Files that somebody else made: broken and lying images, odd names, links, models and weights with code inside."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command.running import refused, results_of, run
from tests.models.kerases import KERASES
from tests.models.squares import squares

SIZED = ("--size", "16")
ODD = "a\nb\x1b[2J\u202e<img src=x onerror=alert(1)>&'\""
"""What an operating system takes as a name."""


def png(width: int, height: int, rows: bytes, *, checksum: int = 0) -> bytes:
    """A PNG of RGB whose header says what it likes; `checksum` is added to those of its parts."""

    def part(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", (zlib.crc32(whole) + checksum) % 2**32)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


ROWS = b"".join(b"\0" + row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (16, 48), np.uint8))
WHOLE = png(16, 16, ROWS)

BROKEN = {
    "empty": b"",
    "text": b"no image",
    "signature": WHOLE[:8],
    "header": WHOLE[:30],
    "half": WHOLE[: len(WHOLE) // 2],
    "checksum": png(16, 16, ROWS, checksum=1),
    "huge": png(50_000, 50_000, ROWS),
    "huger": png(2**31 - 1, 2**31 - 1, ROWS),
    "nothing": png(0, 16, ROWS),
    "no rows": png(16, 16, b""),
    "html": b"<!doctype html><script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
}
"""Files that end in .png and are none."""


def test_broken_and_lying_images_are_named_and_left_out(here: Path) -> None:
    for name, data in BROKEN.items():
        Path(f"{name}.png").write_bytes(data)
    Path("good.png").write_bytes(WHOLE)
    files = [f"{name}.png" for name in BROKEN]
    done = run("explain", "nets:Colours", "good.png", *files, *SIZED, code=1)
    found = results_of(here / "fe_gradcam_output")
    assert [entry["file"] for entry in found["images"]] == ["good.png"]
    assert [error["file"] for error in found["errors"]] == files
    assert all(f"{file} is left out: " in done.stderr for file in files)
    assert "Traceback" not in done.output
    for file in files:
        assert refused("nets:Colours", file, *SIZED, command="check")


def test_more_rows_than_the_header_says_are_not_read(here: Path) -> None:
    Path("more.png").write_bytes(png(16, 16, ROWS * 1000))
    run("explain", "nets:Colours", "more.png", *SIZED)
    assert results_of(here / "fe_gradcam_output")["images"][0]["size"] == [16, 16]


def test_sixteen_bits_and_animations(here: Path) -> None:
    Image.fromarray(squares()[..., 0].astype(np.uint16) * 257).save("deep.tif")
    frames = [Image.fromarray(squares()), Image.new("RGB", (16, 16), "white")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:], loop=0)
    run("explain", "nets:Colours", "deep.tif", "moving.gif", *SIZED)
    with Image.open(here / "fe_gradcam_output" / "deep.grad_cam.pred.png") as deep:
        assert np.array(deep).min() < 100, "values of 16 bits are not cut to white"
    assert [entry["size"] for entry in results_of(here / "fe_gradcam_output")["images"]] == [[16, 16]] * 2


@pytest.mark.slow
def test_a_header_of_a_huge_image_takes_no_memory(here: Path) -> None:
    Path("huge.png").write_bytes(BROKEN["huge"])
    program = (
        "import resource, sys\nfrom fe_gradcam.loading.photos import *\nfrom pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_photo(Path('huge.png'), Preparation((16, 16)))\n"
        "except PhotoError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    said, kilobytes = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "2500000000 pixels" in said
    assert int(kilobytes) < 50_000


def test_names_move_no_cursor_and_run_nothing(here: Path) -> None:
    Path(f"{ODD}.png").write_bytes(WHOLE)
    Path(f"{ODD}.jpg").write_bytes(b"none")
    Path("names.json").write_text(json.dumps([ODD, "</script><script>alert(2)</script>"]))
    given = ("--class-names", "names.json", "--report")
    done = run("explain", "nets:Colours", f"{ODD}.png", f"{ODD}.jpg", *SIZED, *given, code=1)
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output
    assert "a_b_[2J__img" in done.stdout  # the name of its files
    assert "a\\nb\\x1b[2J\\u202e<img" in done.stderr
    page = (here / "fe_gradcam_output" / "report.html").read_text("utf-8")
    assert "<img src=x" not in page
    assert "<script>alert(2)" not in page
    assert results_of(here / "fe_gradcam_output")["images"][0]["file"] == f"{ODD}.png"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_are_written_as_json(here: Path) -> None:
    Path("squares.png").rename(os.fsdecode(b"\xff\xfe.png"))
    run("explain", "nets:Colours", ".", *SIZED, "--report")
    (entry,) = results_of(here / "fe_gradcam_output")["images"]
    assert entry["file"].encode("utf-8", "surrogateescape") == b"\xff\xfe.png"


def test_nothing_is_written_outside_of_the_output(here: Path) -> None:
    Path("out").mkdir()
    Path("mine.txt").write_text("mine")
    for name in ("grid.png", "results.json", "squares.npz", "squares.grad_cam.pred.png", "report.html"):
        Path("out", name).symlink_to(here / "mine.txt")
    before = {path for path in here.rglob("*") if here / "out" not in path.parents}
    told = refused("nets:Colours", "squares.png", *SIZED, "--output", "out", "--report")
    assert "is a link that leads out of the folder" in told
    assert Path("mine.txt").read_text() == "mine"
    names = ["../../up", "/etc/up", ".."]
    Path("names.json").write_text(json.dumps(names))
    run("explain", "nets:Colours", "squares.png", *SIZED, "--class", "0", "--class", "1", "--class-names", "names.json")
    after = {path for path in here.rglob("*") if not {here / "out", here / "fe_gradcam_output"} & {path, *path.parents}}
    assert {path for path in after - before if "__pycache__" not in path.parts} == {here / "names.json"}


def test_a_link_inside_of_the_output_stays(here: Path) -> None:
    Path("out").mkdir()
    Path("out", "kept.png").write_bytes(b"old")
    Path("out", "grid.png").symlink_to("kept.png")
    run("explain", "nets:Colours", "squares.png", *SIZED, "--output", "out")
    assert Path("out", "grid.png").is_symlink()
    assert Path("out", "kept.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_not_waited_for(here: Path) -> None:
    os.mkfifo("pipe.png")
    done = run("explain", "nets:Colours", "pipe.png", "squares.png", *SIZED, code=1)
    assert "pipe.png is left out: it is no regular file" in done.stderr


class Runs:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "safetensors"])
def test_weights_run_no_code(here: Path, ending: str) -> None:
    torch.save({"conv.weight": Runs()}, f"new.{ending}")
    Path(f"old.{ending}").write_bytes(pickle.dumps(Runs()))
    for name in ("new", "old"):
        assert "cannot be read" in refused("nets:Colours", "squares.png", *SIZED, "--weights", f"{name}.{ending}")
    assert not Path("ran").exists()
    pickle.loads(Path(f"old.{ending}").read_bytes())
    assert Path("ran").exists(), "it would have run"


@pytest.mark.parametrize("name", KERASES)
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_model_with_code_inside_is_refused(here: Path, name: str, ending: str) -> None:
    keras = KERASES[name]
    inputs = keras.Input((16, 16, 3))
    runs = keras.layers.Lambda(lambda x: (__import__("pathlib").Path("ran").mkdir(exist_ok=True), x)[1])(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(runs))
    keras.Model(inputs, keras.layers.Dense(2)(pooled)).save(f"lambda.{ending}")
    Path("ran").rmdir()
    assert "not run: a Lambda layer's function, held as bytecode" in refused(f"lambda.{ending}", "squares.png")
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", KERASES)
def test_a_model_that_names_a_module_is_refused(here: Path, name: str) -> None:
    keras = KERASES[name]
    inputs = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(2)(pooled)).save("plain.keras")
    Path("beside.py").write_text("from pathlib import Path\nPath('ran').mkdir()\nFunctional = Path\n")
    with zipfile.ZipFile("plain.keras") as plain, zipfile.ZipFile("names.keras", "w") as changed:
        for member in plain.namelist():
            data = plain.read(member)
            if member == "config.json":
                config = json.loads(data) | {"module": "beside", "registered_name": "Functional"}
                data = json.dumps(config | {"compile_config": {"class_name": "x", "module": "mine"}}).encode()
            changed.writestr(member, data)
    run("layers", "plain.keras")
    assert "names code outside of Keras, which is not run: the module 'beside'" in refused("names.keras", "squares.png")
    assert not Path("ran").exists()


def test_a_file_that_says_much_of_itself_is_read_in_part(here: Path) -> None:
    with zipfile.ZipFile("much.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", b" " * 60_000_000)
    assert "cannot be loaded as a Keras model" in refused("much.keras", "squares.png")


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(100)])
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_broken_models_and_weights_are_refused(here: Path, data: bytes, ending: str) -> None:
    Path(f"broken.{ending}").write_bytes(data)
    assert "cannot be loaded as a Keras model" in refused(f"broken.{ending}", "squares.png")
    assert "cannot be read" in refused("nets:Colours", "squares.png", *SIZED, "--weights", f"broken.{ending}")


def test_what_is_written_is_read_without_pickle(here: Path) -> None:
    run("explain", "nets:blank", "squares.png", *SIZED, "--class", 0)
    with np.load(here / "fe_gradcam_output" / "squares.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind != "O" for name in arrays.files)
    assert results_of(here / "fe_gradcam_output")["images"]


NAMES = {
    "deep": "[" * 100_000,
    "digits": '{"%s": "a"}' % ("9" * 5000),
    "number": '{"a": %s}' % ("9" * 400),
    "nan": "[NaN]",
    "bytes": b"\xff\xfe\x00",
    "nested": '[["a"]]',
}


@pytest.mark.parametrize("name", NAMES)
def test_odd_files_of_names_are_refused(here: Path, name: str) -> None:
    data = NAMES[name]
    Path("names.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    told = refused("nets:Colours", "squares.png", *SIZED, "--class-names", "names.json")
    assert "class-names" in told
    assert not Path("fe_gradcam_output", "results.json").exists()


@pytest.mark.parametrize("option", ["--class", "--layer", "--model-output"])
@pytest.mark.parametrize("text", ["9" * 5000, "9" * 30, "\x1b[2J", "top" + "9" * 5000, "-" + "9" * 5000, "²"])
def test_odd_values_of_options_are_refused(here: Path, option: str, text: str) -> None:
    told = refused("nets:Colours", "squares.png", *SIZED, option, text)
    assert "\x1b" not in told
