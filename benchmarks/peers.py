"""Grad-CAM by other packages beside `explain`, on the same weights, layer and images: time, memory, maps.

They are in no extra of this package: ``pip install grad-cam torchcam captum tf-keras-vis`` (the last one's Keras 3
side). One that is not installed is left out, and the table says so. Each function goes from images to heat at their
size, in NumPy; what can be made before (hooks, a cloned model) is, to their advantage. Times are CPU time in
interleaved rounds over `explain`, in one thread; memory is the rise of a fresh process's peak.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.measure import Call, Ratio, rise, rise_of, rounds_within, row_by_row
from benchmarks.nets import Framework, ready
from fe_gradcam import explain

OURS = "fe_gradcam"
LAYERS = {"efficientnet_lite0": "_bn1"}
"""Where it is not the default one: an activation module that the net calls all over is one that peers cannot watch."""

ROWS: tuple[tuple[Framework, str, str], ...] = (
    ("torch", "lenet_of_modules", "grad_cam"),
    ("torch", "resnet18", "grad_cam"),
    ("torch", "resnet50", "grad_cam"),
    ("torch", "efficientnet_lite0", "grad_cam"),
    ("torch", "lenet_of_modules", "score_cam"),
    ("torch", "lenet_of_modules", "ablation_cam"),
    ("tf", "lenet_of_modules", "grad_cam"),
    ("tf", "resnet18", "grad_cam"),
    ("tf", "resnet50", "grad_cam"),
    ("tf", "efficientnet_lite0", "grad_cam"),
    ("tf", "lenet_of_modules", "score_cam"),
)


def upsampled(maps: Any, size: tuple[int, ...]) -> Any:
    """Of a peer that puts out the layer's map (N, h, w): as its own overlays make it larger."""
    from torch.nn import functional

    return functional.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0].cpu().numpy()


def ours(model: Any, layer: str, x: Any, method: str) -> Call:
    """By this package."""
    return lambda: explain(model, x, layer=layer, method=method, progress=False).values


def grad_cam(model: Any, layer: str, x: Any, method: str) -> Call:
    """By pytorch-grad-cam."""
    package = import_module("pytorch_grad_cam")
    kinds = {"grad_cam": "GradCAM", "score_cam": "ScoreCAM", "ablation_cam": "AblationCAM"}
    cam = getattr(package, kinds[method])(model=model, target_layers=[model.get_submodule(layer)])
    return lambda: cam(input_tensor=x, targets=None)


def torchcam(model: Any, layer: str, x: Any, method: str) -> Call:
    """By torch-cam, which has no ablation_cam."""
    methods = import_module("torchcam.methods")
    cam = getattr(methods, {"grad_cam": "GradCAM", "score_cam": "ScoreCAM"}[method])(model, layer)

    def heat() -> Any:
        scores = model(x)
        return upsampled(cam(scores.argmax(1).tolist(), scores)[0].detach(), x.shape[2:])

    return heat


def captum(model: Any, layer: str, x: Any, method: str) -> Call:
    """By captum, which has no other CAM; it asks for the classes, so that the model is called once more."""
    import torch

    attr = import_module("captum.attr")
    if method != "grad_cam":
        raise KeyError(method)
    cam = attr.LayerGradCam(model, model.get_submodule(layer))

    def heat() -> Any:
        with torch.inference_mode():
            classes = model(x).argmax(1)
        return upsampled(cam.attribute(x, classes.clone(), relu_attributions=True)[:, 0].detach(), x.shape[2:])

    return heat


def tf_keras_vis(model: Any, layer: str, x: Any, method: str) -> Call:
    """By tf-keras-vis; it asks for the classes too."""
    import tensorflow as tf

    kinds = {"grad_cam": ("tf_keras_vis.gradcam", "Gradcam"), "score_cam": ("tf_keras_vis.scorecam", "Scorecam")}
    module, kind = kinds[method]
    scores = import_module("tf_keras_vis.utils.scores")
    tf.keras.utils.disable_interactive_logging()  # a bar for each of its calls
    cam = getattr(import_module(module), kind)(model, clone=False)

    def heat() -> Any:
        classes = np.argmax(model(x, training=False).numpy(), 1).tolist()
        return cam(scores.CategoricalScore(classes), x, penultimate_layer=layer, seek_penultimate_conv_layer=False)

    return heat


PEERS: dict[Framework, dict[str, Callable[[Any, str, Any, str], Call]]] = {
    "torch": {OURS: ours, "grad-cam": grad_cam, "torchcam": torchcam, "captum": captum},
    "tf": {OURS: ours, "tf-keras-vis": tf_keras_vis},
}
"""By framework and the name on PyPI."""


def functions(
    framework: Framework, name: str, method: str, only: str | None = None, count: int | None = None
) -> dict[str, Call]:
    """Those of the packages that are there and have the method, on a net of NETS."""
    net, model, x = ready(framework, name, count)
    layer = LAYERS.get(name, net.layer) if framework == "torch" else net.layer
    return on_its_layer(layer, model, x, method, framework, only)


def on_its_layer(
    layer: str, model: Any, x: Any, method: str, framework: Framework = "torch", only: str | None = None
) -> dict[str, Call]:
    """Those of the packages that are there and have the method, each on a net of its own with the same weights."""
    made = {}
    for peer, make in PEERS[framework].items():
        if only in (None, peer):
            try:
                made[peer] = make(copy.deepcopy(model) if framework == "torch" else model, layer, x, method)
            except (ImportError, KeyError):  # it is not installed, or has no such method
                continue
    return made


def likeness(heat: Any, other: Any) -> float:
    """The least correlation of the heat of one image with that by another package."""
    both = zip(np.asarray(heat), np.asarray(other), strict=True)
    return float(min(np.corrcoef(one.ravel(), another.ravel())[0, 1] for one, another in both))


def print_rows(framework: Framework, name: str, method: str, seconds: float) -> None:
    """Prints a row for each package."""
    made = functions(framework, name, method)
    heats = {peer: function() for peer, function in made.items()}
    taken = rounds_within(made, seconds, 7, 300)
    for peer, times in taken.items():
        ratio, same = Ratio.of(times, taken[OURS]), likeness(heats[peer], heats[OURS])
        peak = rise_of("benchmarks.peers", framework, name, method, peer)
        cells = [f"{framework} {name} {method}", peer, f"{1e3 * np.median(times):.3g} ms", str(ratio)]
        print(" | ".join([*cells, f"{peak:.0f} MiB", f"{same:.4f}"]), flush=True)


def installed(peer: str) -> str:
    """Its version, or that it is not there."""
    try:
        return version(peer)
    except PackageNotFoundError:
        return "not installed, left out"


def peak(framework: Framework, name: str, method: str, peer: str) -> float:
    """MiB by which it rises."""
    (first,) = functions(framework, name, method, peer, 1).values()
    first()  # what is loaded once is no memory of the images
    (function,) = functions(framework, name, method, peer).values()
    return rise(function, 3)


def main() -> None:
    """Prints the versions and the table."""
    versions = "".join(f"{peer}: {installed(peer)}\n" for peer in ("grad-cam", "torchcam", "captum", "tf-keras-vis"))
    head = f"{versions}row | package | median | over fe_gradcam | peak rises by | least correlation of an image"
    row_by_row("benchmarks.peers", head, [" ".join(row) for row in ROWS], print_rows, peak)


if __name__ == "__main__":
    main()
