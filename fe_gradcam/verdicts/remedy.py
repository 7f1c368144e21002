"""The last layer of a trained model, trained again on objects in exchanged surroundings.

What a network has learnt of the objects is often there, and the last layer alone relies on something beside them
(Kirichenko 2023, arXiv:2204.02937). That paper re-trains the last layer on data in which the groups are balanced; here
surroundings are exchanged instead, so nobody has to know the groups.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from fe_gradcam.backends import backend_for, last_layer_of
from fe_gradcam.backends.last import LastLayer
from fe_gradcam.errors import Argument, ArgumentError
from fe_gradcam.parameters import LARGEST_WHOLE, level, one_of, whole
from fe_gradcam.spec.arrays import array_of
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.objects import object_masks
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.types import Images
from fe_gradcam.verdicts.swap import Empty, Grounds, drawn_donors, swappable

FILLED_IN = 256
"""Of how many images the surroundings are used, at most: each takes 10 to 70 ms to fill in."""

PENALTY = 1e-2
"""Half of the factor of the squared weights, relative to the mean loss, on features of standard deviation 1."""

MOST_COPIES = 10_000
"""The most surroundings that one image is shown in."""

FIRST = 8
"""With so many images the last layer is found."""

SHOWN_CLASSES = 5
"""How many missing classes an error names."""

MOST_ITERATIONS = 500
"""The most iterations of the fit, which takes about 50 to 200."""


def retrain_head(
    model: Any,
    images: Images,
    labels: ArrayLike,
    *,
    masks: Any = None,
    boxes: Any = None,
    copies: int = 4,
    empty: Empty = "unknown",
    penalty: float = PENALTY,
    batch_size: int = 32,
    seed: int = 0,
    model_output: ModelOutput = None,
) -> Any:
    """A copy of a model whose last layer was trained again on objects in exchanged surroundings.

    What the last layer gets is computed once for each image in each of its surroundings. On that a logistic regression
    is fitted, from nothing, by L-BFGS: the mean cross entropy plus penalty / 2 · Σ w², on features divided by their
    standard deviation; multinomial, or one for each class if the model ends in a sigmoid. The same input gives the same
    result.

    Args:
        model: A torch.nn.Module or a tf.keras.Model that ends in a linear layer; it stays as it is.
        images: N images as `fe_gradcam.explain` takes them; some hundreds are enough.
        labels: (N,) class ids, or (N, C) of 0 and 1.
        masks: Where the object of each image is, see `fe_gradcam.measure`. Rather too large than too small.
        boxes: The same as boxes.
        copies: In how many other surroundings each image is shown.
        empty: "unknown": an image with an empty mask is shown as it is. "no object": it is of a class without an
            object, and is shown as the surroundings of others.
        penalty: See above; more of it makes weights smaller.
        batch_size: The most images of a pass.
        seed: Draws the surroundings.
        model_output: See `fe_gradcam.explain`.

    Returns:
        PyTorch: a deep copy of the module, or of the one inside torch.compile or DataParallel. Keras: a clone, which
        has to be compiled or built for training again.

    Raises:
        ArgumentError: Neither masks nor boxes are given; labels do not fit; a class of the model has no image.
        UnsupportedModelError: The last layer is not linear, or the model cannot be copied.
    """
    for name, value, least, most in (
        ("copies", copies, 1, MOST_COPIES),
        ("batch_size", batch_size, 1, LARGEST_WHOLE),
        ("seed", seed, 0, LARGEST_WHOLE),
    ):
        whole(name, value, least, most=most)
    penalty = level("penalty", penalty)
    one_of("empty", empty, get_args(Empty))
    inputs = Inputs.of(images).checked().in_torch()
    channels_first = backend_for(model, model_output).channels_first
    pictures = inputs.seen(channels_first=channels_first).cpu().numpy()
    if not np.isfinite(pictures).all():
        raise ArgumentError("images holds NaN or infinite values. Pass finite numbers.")
    inside = object_masks(masks, boxes, pictures.shape[2:], len(pictures))
    if inside is None:
        raise ArgumentError(
            "retrain_head does not know where the objects are: pass ",
            Argument("masks", ""),
            " or ",
            Argument("boxes", ""),
            ".",
        )
    last = last_layer_of(model, inputs.rows(slice(FIRST)), model_output)
    wanted, several = _wanted(labels, len(inputs), last)
    pairs = _pairs(inside, copies, empty, np.random.default_rng(seed))
    grounds, found = Grounds(pictures, inside), []
    for at in range(0, len(pairs), batch_size):
        chosen = pairs[at : at + batch_size]
        made = torch.from_numpy(np.stack([grounds.swapped(*pair) for pair in chosen]))
        found.append(last.features(inputs.asked(made, torch.from_numpy(chosen[:, 0]), channels_first=channels_first)))
    given, targets = np.concatenate(found), wanted[pairs[:, 0]]
    return last.renewed(*fitted(given, targets, several=several, penalty=penalty, with_bias=last.bias is not None))


def _pairs(masks: NDArray[np.bool_], copies: int, empty: Empty, generator: np.random.Generator) -> NDArray[np.int64]:
    """(V, 2), image and donor: each image in so many surroundings, or once as it is if it can have no others."""
    rows = swappable(masks, empty=empty)
    givers = generator.permutation(rows)[:FILLED_IN]
    drawn = [np.stack([rows, drawn_donors(rows, givers, generator)], 1) for _ in range(copies)]
    others = np.setdiff1d(np.arange(len(masks)), rows)
    return np.concatenate([*drawn, np.stack([others, others], 1)])


def _wanted(labels: ArrayLike, count: int, last: LastLayer) -> tuple[NDArray[np.float64], bool]:
    """The labels as a table (N, C) of 0 and 1, and whether each class is told by itself, by a sigmoid."""
    given = array_of("labels", labels, f"class ids ({count},), or a table of 0 and 1.", kinds="biufUS")
    table = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
    classes = last.weights.shape[1]
    if table.ndim == 1 and table.dtype.kind in "buif" and bool(np.isin(table, np.arange(max(classes, 2))).all()):
        table = table[:, None] == (np.arange(classes) if classes > 1 else 1)
    fits = table.shape == (count, classes) and table.dtype.kind in "buif" and bool(np.isin(table, (0, 1)).all())
    if not fits:
        raise ArgumentError(
            Argument("labels"),
            f" hold an array of shape {given.shape} and dtype {given.dtype}, and the model has {classes} class"
            f"{'es' * (classes != 1)}. Accepted for {count} images: class ids ({count},) from 0 to "
            f"{max(classes, 2) - 1}, or a table ({count}, {classes}) of 0 and 1.",
        )
    several = last.behind == "sigmoid" or classes == 1 or bool((table.sum(1) != 1).any())
    missing = np.flatnonzero(~table.any(0) | (several & table.all(0)))
    if len(missing):
        raise ArgumentError(
            Argument("labels"),
            f" hold no image of class {', '.join(map(str, missing[:SHOWN_CLASSES]))}, or none of another: the last "
            "layer is fitted anew, and needs images of every class of the model. Pass some of each.",
        )
    return table.astype(np.float64), several


def fitted(
    features: NDArray[np.float64], wanted: NDArray[np.float64], *, several: bool, penalty: float, with_bias: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The weights (K, C) and the bias (C,) of a logistic regression; see `retrain_head`.

    Args:
        features: (V, K).
        wanted: (V, C) of 0 and 1.
        several: Whether each class is told by itself.
        penalty: Half of it times the squared weights is added to the mean loss.
        with_bias: Whether there is one; it is not penalised.
    """
    middle = features.mean(0) if with_bias else np.zeros(features.shape[1])
    spread = np.sqrt(((features - middle) ** 2).mean(0))
    scaled = (features - middle) / np.where(spread > 0, spread, 1)
    shape = (scaled.shape[1] + with_bias, wanted.shape[1])
    if with_bias:
        scaled = np.concatenate([scaled, np.ones((len(scaled), 1))], 1)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(shape)
        logits = scaled @ weights
        if several:
            losses, answers = np.logaddexp(0, logits) - wanted * logits, expit(logits)
        else:
            logs = log_softmax(logits, axis=1)
            losses, answers = -wanted * logs, np.exp(logs)
        kept = weights.copy()
        kept[len(middle) :] = 0
        slope = scaled.T @ (answers - wanted) / len(scaled) + penalty * kept
        return float(losses.sum() / len(scaled) + penalty / 2 * (kept**2).sum()), slope.ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS})
    weights = found.x.reshape(shape)
    unscaled = weights[: len(middle)] / np.where(spread > 0, spread, 1)[:, None]
    return unscaled, weights[-1] - middle @ unscaled if with_bias else None
