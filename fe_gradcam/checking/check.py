"""`check_model`: the heatmap of a user's own network, worked out again by plain calls of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.checking.laws import TESTS
from fe_gradcam.checking.result import Check, Finding
from fe_gradcam.checking.subject import NotApplicableError, Subject
from fe_gradcam.errors import ArgumentError, CamError, CamWarning, in_one_line, in_short
from fe_gradcam.explaining.settings import SCORES
from fe_gradcam.parameters import knows_its_keywords, one_of
from fe_gradcam.spec.arrays import array_of
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.outputs import ModelOutput, check_output
from fe_gradcam.types import Images, Layer, Method, Reshape, Score, Target

MOST_TESTED = 4
"""How many images are tested; the rest are left out."""


@knows_its_keywords()
def check_model(
    model: Any,
    images: Images,
    *,
    method: Method = "grad_cam",
    layer: Layer = None,
    target: Target = None,
    score: Score = "logit",
    model_output: ModelOutput = None,
    reshape: Reshape | None = None,
    seed: int = 0,
) -> Check:
    """Tests the heatmaps of a model by other means than those that make them.

    The model is called plainly, with nothing but a forward hook (in Keras, another `call` of one layer): the score is
    compared before and after small changes of the layer's output, which must be what the heatmap says; the scores are
    compared with the model's own output, a batch with its images, the model before with the model after.

    Args:
        model: See `fe_gradcam.explain`.
        images: A batch as the model takes it; the first four images are tested. Real ones tell more than noise.
        method: The method whose batches, costs and repeatability are tested. The gradient is tested with Grad-CAM and
            HiRes-CAM in any case.
        layer: See `fe_gradcam.explain`; one layer.
        target: None, a class id, an integer array (N,) or a callable; see `fe_gradcam.explain`.
        score: See `fe_gradcam.explain`.
        model_output: See `fe_gradcam.explain`.
        reshape: See `fe_gradcam.explain`.
        seed: Seed of the random directions and places.

    Returns:
        A Check: a table of findings, each passed, failed or not applicable. ``print(check)`` shows it, `check.passed`
        says whether none failed.

    Raises:
        ArgumentError: An argument is not accepted; a ValueError.
        CamError: The model cannot be explained at all; see `fe_gradcam.explain`.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(4, 10))
        >>> check_model(net, torch.rand(2, 1, 28, 28)).passed
        True
    """
    if isinstance(layer, (list, tuple)):
        raise ArgumentError(
            f"layer={in_short(layer)} holds several layers, and one is checked at a time: pass one of them."
        )
    one_of("score", score, SCORES)
    check_output(model_output)
    whole = Inputs.of(images).checked()
    inputs = whole.rows(slice(MOST_TESTED))
    if target is not None and not callable(target):
        target = _class_ids(target, len(whole))[: len(inputs)]
    asked = {"score": score, "model_output": model_output, "reshape": reshape, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)
        subject = Subject(model, inputs, layer, target, method, asked)
        found = [replace(_found(test, subject), name=name) for name, test in TESTS.items()]
    return Check(type(model).__name__, str(subject.ref), subject.sides, found)


def _class_ids(target: Any, count: int) -> NDArray[np.int64]:
    """A class id for each image, (N,)."""
    accepted = "None, a class id, an array of class ids, or a callable."
    try:
        ids = array_of("target", target, accepted, kinds="iu")
        return np.broadcast_to(ids.reshape(-1) if ids.size == 1 else ids, (count,)).astype(np.int64)
    except (ArgumentError, ValueError) as error:
        raise ArgumentError(f"target={in_short(target)} cannot be checked. Accepted: {accepted}") from error


def _found(test: Callable[[Subject], Finding], subject: Subject) -> Finding:
    try:
        return test(subject)
    except NotApplicableError as reason:
        return Finding("", "not applicable", f"{reason}")
    except CamError as error:
        return Finding("", "failed", f"explain raised: {error}")
    except Exception as error:  # of the model, in a call that others of its calls do not foretell
        return Finding("", "failed", f"raised {in_one_line(error)} Please report the model.")
