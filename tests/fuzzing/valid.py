"""Values that arguments accept, found by annotation and name, for two images of 8 x 8 pixels and two classes."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, get_args

import fe_gradcam.integrations.fastestimator  # isort: skip - has the host find Keras 2 under tf.keras
import fastestimator as fe
import numpy as np
import tensorflow as tf
import torch

import fe_gradcam
from fe_gradcam.types import Scaling
from fe_gradcam.verdicts.atlas import Atlas

PICTURES = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
"""(N, C, H, W)."""

MASKS = np.zeros((2, 8, 8), bool)
MASKS[:, 2:5, 3:6] = True

BOXES = np.array([[3.0, 2.0, 3.0, 3.0]] * 2)


class OwnError(Exception):
    """Raised by what a user handed over to be called: a model, a target, a reshape."""


@cache
def torch_model() -> Any:
    """A network of two classes."""
    torch.manual_seed(0)
    head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), *head).eval()


@cache
def built_model() -> Any:
    """A copy of it that the host knows."""
    return fe.build(lambda: deepcopy(torch_model()), "adam")


@cache
def keras_model() -> Any:
    """The like of it in Keras."""
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    head = layers.GlobalAveragePooling2D(), layers.Dense(2)
    return tf.keras.Sequential([layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 3)), *head])


@cache
def heatmap() -> Any:
    """The heatmaps of the pictures."""
    return fe_gradcam.explain(torch_model(), PICTURES)


@cache
def verdicts() -> Any:
    """What is said of the two classes."""
    return fe_gradcam.find_shortcuts(torch_model(), PICTURES, [0, 1])


@cache
def atlas_picture() -> Any:
    """An atlas of the pictures; not drawn."""
    return fe_gradcam.atlas(torch_model(), PICTURES)


def trial() -> Any:
    """A picture, given and changed."""
    return fe_gradcam.Trial(0, PICTURES[0], PICTURES[0], 0.9, 0.1, "corner covered")


def reshape(output: Any) -> Any:
    """The map as it is."""
    return output


def score(output: Any) -> Any:
    """The first class."""
    return output[:, 0]


BY_NAME: dict[str, tuple[Callable[[], Any], ...]] = {
    "model": (torch_model,),
    "dl_model": (torch_model,),
    "images": (lambda: PICTURES, lambda: torch.from_numpy(PICTURES), lambda: (PICTURES,)),
    "pictures": (lambda: PICTURES,),
    "dl_sample": (lambda: {"image": PICTURES[0]}, lambda: [{"image": one} for one in PICTURES]),
    "heatmaps": (heatmap, lambda: [heatmap()]),
    "heatmap": (heatmap, lambda: PICTURES[:, 0]),
    "method": (lambda: "grad_cam", lambda: "score_cam", lambda: ("ss_cam", {"samples": 2}), lambda: "cam"),
    "methods": (lambda: ["grad_cam"], lambda: ["eigen_cam", ("is_cam", {"samples": 2})], lambda: "occlusion"),
    "layer": (lambda: "0", lambda: 1, lambda: ["0", "1"]),
    "layers": (lambda: ["0", None],),
    "target": (lambda: 1, lambda: "a", lambda: [0, 1], lambda: fe_gradcam.Contrast(0, 1), lambda: score),
    "targets": (lambda: [None, 1], lambda: [fe_gradcam.Rank(2)]),
    "target_classes": (lambda: 1, lambda: [0, 1]),
    "gen_param": (lambda: {"scaling": "none"}, lambda: {"batch_size": 1}),
    "scaling": tuple((lambda one=one: one) for one in get_args(Scaling)),
    "score": (lambda: "output",),
    "fuse": (lambda: "max",),
    "smooth": (lambda: "eigen", lambda: fe_gradcam.Augment(), lambda: ("augment", "eigen")),
    "batch_size": (lambda: 1,),
    "seed": (lambda: 7,),
    "reshape": (lambda: reshape,),
    "model_output": (lambda: 0,),
    "class_names": (lambda: ["a", "b"], lambda: {0: "a", 1: "b"}),
    "label_mapping": (lambda: {"a": 0, "b": 1},),
    "labels": (lambda: [0, 1], lambda: np.array([1, 0])),
    "masks": (lambda: MASKS,),
    "places": (lambda: "upper edge", lambda: [(0.1, 0.2)]),
    "boxes": (lambda: BOXES,),
    "size": (lambda: 0.5,),
    "mean": (lambda: 0.5, lambda: [0.4, 0.5, 0.6]),
    "std": (lambda: 0.5,),
    "ids": (lambda: ["one.png", "two.png"],),
    "metrics": (lambda: ["deletion", ("insertion", {"steps": 2})], lambda: "pointing_game"),
    "again": (lambda: heatmap,),
    "verdicts": (verdicts,),
    "stamps": (lambda: "letters", lambda: {"bar": np.zeros((4, 4, 3))}),
    "colormap": (lambda: "gray",),
    "path": (lambda: "page.html",),
    "save_dir": (lambda: "out",),
    "class_id": (lambda: 0,),
    "mask": (lambda: MASKS,),
    "grid": (lambda: atlas_picture().grid,),
    "atlas": (lambda: Atlas.of(heatmap(), np.zeros((2, 8, 8, 3), np.uint8)),),
    "select": (lambda: "first", lambda: [0, 1]),
    "given": (lambda: PICTURES[0],),
    "changed": (lambda: PICTURES[0],),
    "ignore": (lambda: ["place"],),
    "empty": (lambda: "no object",),
    "values": (lambda: PICTURES[:, 0],),
    "raw": (lambda: PICTURES[:, 0],),
    "trials": (lambda: [trial()],),
    "evidence": (lambda: verdicts()[0].evidence,),
}  # fmt: skip
"""What arguments accept, by name."""

OF_ONE: dict[tuple[str, str], tuple[Callable[[], Any], ...]] = {
    ("masks_of_boxes", "boxes"): (lambda: BOXES[:, None],),
    ("masks_of_boxes", "size"): (lambda: (8, 8),),
    ("measure", "metrics"): (lambda: ["deletion"],),
    ("report", "metrics"): (lambda: {"deletion": [0.1, 0.2]},),
    ("measure", "places"): (lambda: MASKS,),
    ("GradCAM", "images"): (lambda: "x",),
    ("GradCAM", "masks"): (lambda: "masks",),
    ("GradCAM", "boxes"): (lambda: "boxes",),
    ("GradCAM", "labels"): (lambda: "y",),
    ("GradCAM", "ids"): (lambda: "ids",),
    ("GradCAM", "atlas"): (lambda: True, lambda: {"n_samples": 3}),
    ("GradCAM", "model"): (torch_model,),
    ("LayerGradientOp", "model"): (built_model,),
    ("METHODS.find", "asked"): (lambda: "grad_cam", lambda: ("score_cam", {})),
    ("METRICS.find", "asked"): (lambda: "deletion", lambda: ("deletion", {"steps": 3})),
    ("LayerGradientOp", "outputs"): (lambda: ("p", "a", "g"),),
    ("SwapSurroundings", "masks"): (lambda: "masks",),
    ("SwapSurroundings", "boxes"): (lambda: "boxes",),
    ("Contrast", "against"): (lambda: 1, lambda: [1, "b"]),
}
"""What an argument of one function accepts, where its name says something else there."""

NEEDED = {"GradCAM": ("model",), "SwapSurroundings": ("masks",), "retrain_head": ("masks",)}
"""Optional arguments without which a call is refused."""

BY_WORD: dict[str, Callable[[], Any]] = {
    "ArrayLike": lambda: np.zeros(2), "NDArray": lambda: np.zeros(2), "Sequence": lambda: [], "Mapping": dict,
    "tuple": tuple, "dict": dict, "bool": lambda: True, "int": lambda: 1, "float": lambda: 0.5, "str": lambda: "x",
    "Code": lambda: "place", "Level": lambda: "tested", "Outcome": lambda: "passed", "Any": lambda: "x",
}  # fmt: skip
"""What an annotation that has a word in it accepts."""


def values_for(owner: str, parameter: inspect.Parameter) -> tuple[Callable[[], Any], ...]:
    """What makes values that an argument accepts; raises LookupError if neither its name nor its annotation tells."""
    found = OF_ONE.get((owner, parameter.name)) or BY_NAME.get(parameter.name)
    if found:
        return found
    if parameter.default is not inspect.Parameter.empty and parameter.default is not None:
        return (lambda: parameter.default,)
    for word, make in BY_WORD.items():
        if word in str(parameter.annotation):
            return (make,)
    if parameter.default is None:
        return (lambda: None,)
    raise LookupError(f"{owner}: no value is known for {parameter}: give BY_NAME or BY_WORD one")


def call_of(draw: random.Random, owner: str, signature: inspect.Signature) -> dict[str, Any]:
    """The arguments of a call that is accepted: all that are needed, and a few of the others at random.

    Two arguments that are each accepted may be refused together.
    """
    given = {}
    for name, parameter in signature.parameters.items():
        needed = parameter.default is inspect.Parameter.empty or name in NEEDED.get(owner, ())
        if needed or draw.random() < 0.1:
            made = values_for(owner, parameter)
            given[name] = (made[0] if needed and draw.random() < 0.7 else draw.choice(made))()
    return given
