"""Wrong usage, and warnings, in the words of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fe_gradcam.command.messages import OPTIONS
from tests.command.running import refused, results_of, run

COLOURS = ("nets:Colours", "squares.png")
SIZED = (*COLOURS, "--size", "16")

WRONG = {
    "no size": ([*COLOURS], "--size is needed, height and width, because this model does not say"),
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
    "no blocks": ([*SIZED, "--method", "le_grad"], "found in this model. Use --method 'grad_cam', which is"),
    "no map": ([*COLOURS, "--size", "1"], "--layer None finds no layer"),
    "no names": ([*COLOURS, "--class", "red"], "No names are known. Pass --class-names, or the id."),
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
    "class of two": ([*SIZED, "--class", "crane", "--class-names", "twice.txt"], "pass the id, one of 0, 1"),
    "names": ([*COLOURS, "--class-names", "bad.json"], "'--class-names': 'bad.json' holds neither"),
    "json": ([*COLOURS, "--class-names", "cut.json"], "'--class-names': 'cut.json' cannot be read"),
    "device": ([*SIZED, "--device", "tpu9"], "--device 'tpu9' cannot be used"),
    "no module": (["nots:Colours", "squares.png"], "there is no module 'nots', neither in the current folder ("),
    "file": (["nets.py:Colours", "squares.png"], "Write the module, not the file: nets:factory."),
    "no factory": (["nets", "squares.png"], "neither package.module:factory nor"),
    "weights alone": (["w.pt", "squares.png"], "the model that takes them: package.module:factory --weights w.pt."),
    "attribute": (["nets:Colour", "squares.png"], "has no 'Colour'; did you mean 'Colours'"),
    "keras file": (["gone.keras", "squares.png"], "'gone.keras' does not exist"),
    "number": (["nets:number", "squares.png"], "'nets:number' is an object of type int; a model, or"),
    "nothing": (["nets:nothing", "squares.png"], "'nets:nothing' returned an object of type int; a torch.nn.Module"),
    "arguments": (["nets:needs", "squares.png"], "raised TypeError: needs() missing 1 required"),
    "broken": (["nets:broken", "squares.png"], "raised RuntimeError: its file is not there ("),
    "import": (["imports:net", "squares.png"], "raised ModuleNotFoundError: No module named 'nosuch' ("),
    "exit": (["exits:net", "squares.png"], "importing 'exits' raised SystemExit"),
    "fixed": (["nets:Fixed", "squares.png", "--size", "20"], "failed on images of shape (1, 3, 20, 20): RuntimeError"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage(here: Path, arguments: list[str], message: str) -> None:
    (here / "bad.json").write_text('{"0": 1.5}')
    (here / "twice.txt").write_text("crane\ncrane\n")
    (here / "cut.json").write_text('{"0": ')
    (here / "imports.py").write_text("import nosuch\n")
    (here / "exits.py").write_text("import sys\nsys.exit(0)\n")
    told = refused(*arguments)
    assert message in told
    assert not [name for name in OPTIONS if f" {name}=" in told], "options are called as they are written here"
    assert not (here / "fe_gradcam_output" / "results.json").exists()


def test_warnings_of_the_package_are_one_line(here: Path) -> None:
    result = run("explain", "nets:blank", "squares.png", "--size", 16, "--class", 0)
    warned = [line for line in result.stderr.splitlines() if "NaN or infinite" in line]
    assert len(warned) == 1
    assert warned[0].startswith("Warning: The activations")
    assert "CamWarning" not in result.stderr
    (entry,) = results_of(here / "fe_gradcam_output")["images"]
    assert entry["heatmaps"][0]["score"] is None, "NaN is no JSON"
