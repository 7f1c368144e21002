"""Trains with the trace on, on PyTorch and on TensorFlow; explains a pretrained classifier, and lays stamps on photos.

``make demo`` runs it, in two to five minutes on two CPU cores; the grids lie in demo_output/ afterwards.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from fastestimator.architecture.pytorch import LeNet as TorchLeNet
from fastestimator.architecture.tensorflow import LeNet as KerasLeNet

from fe_gradcam import Contrast, GradCAM, Reaction, draw, explain_many, react, top_k
from tutorials.digits import Framework, input_shape, train
from tutorials.real_data import MEAN, STD, photos, pretrained_torch, stock_photos, torch_input

OUTPUT = Path("demo_output")
EPOCHS = 10
LENETS: dict[Framework, Any] = {"torch": TorchLeNet, "tf": KerasLeNet}
METHODS = ("grad_cam", "hires_cam", "layer_cam")
SHOWN = ("chelsea", "coffee", "motorcycle", "astronaut")
IMAGENET_NAMES = {
    **{282: "tiger cat", 285: "Egyptian cat", 450: "bobsled", 560: "football helmet", 657: "missile"},
    **{665: "moped", 670: "motor scooter", 967: "espresso", 968: "cup", 985: "daisy"},
    **{411: "apron", 434: "bath towel", 462: "broom", 478: "carton", 591: "handkerchief", 664: "monitor", 771: "safe"},
    **{111: "nematode", 119: "rock crab", 217: "English springer", 271: "red wolf", 790: "shopping basket"},
    **{28: "spotted salamander", 235: "German shepherd", 255: "Leonberg", 284: "Siamese cat", 592: "hard disc"},
    **{840: "swab", 868: "tray", 969: "eggnog"},
}


def heatmaps(model: Any, folder: Path) -> list[GradCAM]:
    """The one line that a user adds: a page, a grid of eight eval images at the end of every epoch, and more."""
    return [
        GradCAM(
            images="x",
            model=model,
            labels="y",
            preds="y_pred",
            label_mapping={str(digit): digit for digit in range(10)},
            ids="name",
            n_samples=8,
            methods=METHODS,
            track=True,
            metrics=["deletion", "insertion", "drift"],
            atlas=True,
            save_dir=folder,
            report=True,
        )
    ]


def explain_photos(classifier: Any, path: Path) -> None:
    """Draws where a pretrained ImageNet classifier sees its first class, its second, and what decides between them."""
    images, names, _ = photos()
    images = images[[names.index(name) for name in SHOWN]]
    maps = explain_many(classifier, torch_input(images), targets=[*top_k(2), Contrast()])
    draw(images, maps, ids=SHOWN, class_names=IMAGENET_NAMES, title="EfficientNet-Lite0, pretrained on ImageNet").save(
        path
    )


def lay_stamps(classifier: Any, path: Path) -> Reaction:
    """Which classes Chinese and Cyrillic letters lift over Latin ones on twelve photos; the picture shows both."""
    images, _ = stock_photos()
    stamps = ["chinese", "cyrillic"]
    found = react(classifier, torch_input(images), stamps=stamps, mean=MEAN, std=STD, class_names=IMAGENET_NAMES)
    draw_reaction(found, path)
    return found


def draw_reaction(found: Reaction, path: Path) -> None:
    """A row for each stamp: a photo with it, the photo with its control, and the ten classes that it lifts most."""
    from matplotlib.figure import Figure

    rows = max(1, len(found.stamps))
    figure = Figure(figsize=(8, 2.7 * rows), layout="constrained")
    places = figure.subplots(rows, 3, squeeze=False, width_ratios=(1, 1, 1.2))
    for stamp, (with_stamp, with_control), (left, middle, right) in zip(found.stamps, found.shown, places, strict=True):
        for at, picture, title in ((left, with_stamp, stamp), (middle, with_control, "control")):
            at.imshow(picture)
            at.set_title(title)
            at.set_axis_off()
        top = found.top(stamp, 10)[::-1]
        right.barh([one.name for one in top], [one.lift for one in top], xerr=[one.error for one in top])
        right.set_xlim(0, 1.25 * found.lift.max())
        right.set_title("lift in log-odds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> int:
    """Runs the demonstration and says which files to open."""
    started = time.perf_counter()
    print("This takes two to five minutes on two CPU cores.", flush=True)
    for framework, lenet in LENETS.items():
        print(f"\nTraining a LeNet on digit canvases ({framework}), with the trace on in eval ...", flush=True)
        make_traces = partial(heatmaps, folder=OUTPUT / framework)
        train(framework, partial(lenet, input_shape(framework)), make_traces, EPOCHS)
    print("\nExplaining a pretrained ImageNet classifier on photos ...", flush=True)
    classifier = pretrained_torch()
    explain_photos(classifier, OUTPUT / "photos.png")
    print("\nLaying stamps on twelve photos ...", flush=True)
    print(f"\n{lay_stamps(classifier, OUTPUT / 'stamps.png')}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Open first, in a browser, the page of each training:")
    for framework in LENETS:
        print(f"  {OUTPUT / framework / 'gradcam_eval_report.html'}")
    print("Then the pictures:")
    for framework in LENETS:
        for name in (f"epoch_{EPOCHS:03d}", "film", f"atlas_epoch_{EPOCHS:03d}"):
            print(f"  {OUTPUT / framework / f'gradcam_eval_{name}.png'}")
    print(f"  {OUTPUT / 'photos.png'}")
    print(f"  {OUTPUT / 'stamps.png'}")
    print("Beside them lie the grids of every epoch, and the raw arrays (.npz).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
