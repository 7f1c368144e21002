"""The last layer trained again: a network that tells GREEN by the mark, in both frameworks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import nn

from fe_gradcam import ArgumentError, UnsupportedModelError
from fe_gradcam.verdicts import remedy
from fe_gradcam.verdicts.remedy import fitted, retrain_head
from tests.models.kerases import KERASES
from tests.verdicts.coloured import (
    BLUE,
    GREEN,
    GREEN_BY_MARK,
    NONE,
    NONE_BY_MARK,
    NOTHING,
    RED,
    SIDE,
    network,
    scenes,
)

FRAMEWORKS = ("torch", *KERASES)
CLASSES = [one for one in (RED, GREEN, BLUE) for _ in range(12)]


def as_keras(model: nn.Sequential, keras: Any, activation: Any = None) -> Any:
    layers = keras.layers
    given = keras.Input((SIDE, SIDE, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1, activation="relu")(given))
    classes = model[-1].out_features
    twin = keras.Model(given, layers.Dense(classes, activation=activation)(pooled))
    kernel, offset, weights, bias = (one.detach().numpy() for one in model.parameters())
    twin.set_weights([kernel.transpose(2, 3, 1, 0), offset, weights.T, bias])
    return twin


def made(framework: str, weights: Any = GREEN_BY_MARK[:3], bias: Any = NOTHING[:3], activation: Any = None) -> Any:
    model = network(weights, bias)
    if framework != "torch":
        return as_keras(model, KERASES[framework], activation)
    behind = {None: nn.Identity(), "softmax": nn.Softmax(1), "sigmoid": nn.Sigmoid()}[activation]
    return model if activation is None else nn.Sequential(model, behind)


def layout(framework: str, images: NDArray[Any]) -> NDArray[Any]:
    return images if framework == "torch" else images.transpose(0, 2, 3, 1)


def answers(framework: str, model: Any, images: NDArray[Any]) -> NDArray[Any]:
    if framework == "torch":
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(images)))
    return np.asarray(model(layout(framework, images)))


def weights_of(framework: str, model: Any) -> list[NDArray[Any]]:
    if framework == "torch":
        return [one.detach().numpy().copy() for one in model.parameters()]
    return [np.array(one) for one in model.get_weights()]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_class_is_told_by_its_object_again_and_the_model_given_stays(framework: str) -> None:
    images, masks = scenes(CLASSES, [GREEN])
    without, _ = scenes(CLASSES, seed=1)
    model = made(framework)
    before = weights_of(framework, model)
    new = retrain_head(model, layout(framework, images), CLASSES, masks=masks)
    green = np.array(CLASSES) == GREEN
    assert (answers(framework, model, without).argmax(1) == CLASSES)[green].mean() == 0
    assert (answers(framework, new, without).argmax(1) == CLASSES).all()
    for one, its in zip(before, weights_of(framework, model), strict=True):
        assert_array_equal(one, its)
    for one, its in list(zip(before, weights_of(framework, new), strict=True))[:2]:
        assert_array_equal(one, its)  # the last layer alone is another


def test_both_frameworks_get_the_same_weights_and_the_same_seed_gives_them_again() -> None:
    images, masks = scenes(CLASSES, [GREEN])
    first = weights_of("torch", retrain_head(made("torch"), images, CLASSES, masks=masks))
    again = weights_of("torch", retrain_head(made("torch"), images, CLASSES, masks=masks))
    other = weights_of("torch", retrain_head(made("torch"), images, CLASSES, masks=masks, seed=1))
    keras = weights_of("keras", retrain_head(made("keras"), layout("keras", images), CLASSES, masks=masks))
    assert_array_equal(first[2], again[2])
    assert (first[2] != other[2]).any()
    scale = np.abs(first[2]).max()
    assert_allclose(keras[2].T, first[2], atol=1e-3 * scale)  # float32 features, and L-BFGS ends where it is flat
    assert_allclose(keras[3], first[3], atol=1e-3 * np.abs(first[3]).max())


def test_without_other_surroundings_the_mark_stays() -> None:
    """Objects that fill the frame have none to exchange: then the same fit relies on the mark as before."""
    images, masks = scenes(CLASSES, [GREEN])
    marks = [
        float(weights_of("torch", retrain_head(made("torch"), images, CLASSES, masks=where))[2][GREEN, 3])
        for where in (masks | True, masks)
    ]
    assert marks[0] > 10 * abs(marks[1])


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_follows_the_last_layer_is_left_in_place(framework: str, activation: str) -> None:
    images, masks = scenes(CLASSES, [GREEN])
    new = retrain_head(made(framework, activation=activation), layout(framework, images), CLASSES, masks=masks)
    found = answers(framework, new, scenes(CLASSES, seed=1)[0])
    assert found.min() >= 0 and found.max() <= 1
    assert (found.argmax(1) == CLASSES).all()
    assert np.allclose(found.sum(1), 1) == (activation == "softmax")


def test_an_image_may_be_of_several_classes() -> None:
    """A red and a green object in one image: a table of labels, and each class by itself."""
    images, masks = scenes(CLASSES)
    both, also = scenes([GREEN] * 12, seed=1)
    both[:, :, -6:, -6:], also[:, -6:, -6:] = np.array([1, 0, 0])[:, None, None], True
    table = np.concatenate([np.eye(3)[CLASSES], np.tile([1, 1, 0], (12, 1))])
    new = retrain_head(made("torch"), np.concatenate([images, both]), table, masks=np.concatenate([masks, also]))
    assert ((answers("torch", new, both) > 0) == [True, True, False]).all()
    assert ((answers("torch", new, images) > 0) == np.eye(3)[CLASSES]).all()


def test_one_score_for_two_classes() -> None:
    two = [RED] * 12 + [GREEN] * 12
    images, masks = scenes(two, [GREEN])
    new = retrain_head(made("torch", [[0, 0, 0, 10]], [-5]), images, np.array(two) == GREEN, masks=masks)
    assert ((answers("torch", new, scenes(two, seed=1)[0])[:, 0] > 0) == (np.array(two) == GREEN)).all()


def test_a_class_without_an_object_gets_the_surroundings_of_others_if_one_says_so() -> None:
    """By the sign NONE is told at first; only as filled-in surroundings of others does it lose the sign."""
    classes = [*CLASSES, *[NONE] * 12]
    images, masks = scenes(classes, [NONE])
    without, _ = scenes(classes, seed=1)
    model = made("torch", NONE_BY_MARK, NOTHING)
    none = np.array(classes) == NONE
    marks = []
    for empty in ("unknown", "no object"):
        new = retrain_head(model, images, classes, masks=masks, empty=empty)  # type: ignore[arg-type]
        marks.append(float(weights_of("torch", new)[2][NONE, 3]))
    assert (answers("torch", new, without).argmax(1) == classes)[none].all()
    assert abs(marks[1]) < 0.2 * marks[0]


def test_a_layer_without_a_bias_gets_none() -> None:
    model = made("torch")
    model[-1] = nn.Linear(4, 3, bias=False)
    images, masks = scenes(CLASSES, [GREEN])
    new = retrain_head(model, images, CLASSES, masks=masks)
    assert new[-1].bias is None
    assert (answers("torch", new, scenes(CLASSES, seed=1)[0]).argmax(1) == CLASSES).all()


def test_modes_and_boxes() -> None:
    """The copy is in the mode of the model; boxes do as masks do."""
    images, masks = scenes(CLASSES, [GREEN])
    corners = [(int(columns.min()), int(rows.min())) for rows, columns in map(np.nonzero, masks)]
    boxes = np.array([(left, top, 6, 6) for left, top in corners])
    model = made("torch").train()
    new = retrain_head(model, images, CLASSES, boxes=boxes)
    assert model.training and new.training
    assert_array_equal(new[-1].weight.detach(), retrain_head(model, images, CLASSES, masks=masks)[-1].weight.detach())


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_fit_is_where_the_slope_is_zero(with_bias: bool) -> None:
    """The gradient of the mean loss and of the penalty, written out for features that are not scaled."""
    generator = np.random.default_rng(0)
    features = generator.normal(3, 2, (80, 3))
    wanted = np.eye(4)[generator.integers(0, 4, 80)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no power of 0, no logarithm of it
        weights, bias = fitted(features, wanted, several=False, penalty=0.1, with_bias=with_bias)
    spread = features.std(0) if with_bias else np.sqrt((features**2).mean(0))
    answers = softmax(features @ weights + (0 if bias is None else bias), axis=1)
    slope = features.T @ (answers - wanted) / 80
    if bias is not None:
        assert_allclose((answers - wanted).mean(0), 0, atol=1e-4)
    assert_allclose(slope + 0.1 * weights * spread[:, None] ** 2, 0, atol=1e-3)


def test_more_penalty_makes_smaller_weights_and_a_larger_loss() -> None:
    generator = np.random.default_rng(1)
    features, wanted = generator.normal(size=(60, 3)), np.eye(2)[generator.integers(0, 2, 60)]
    losses, sizes = [], []
    for penalty in (1e-3, 1e-1, 10):
        weights, bias = fitted(features, wanted, several=False, penalty=penalty, with_bias=True)
        losses.append(-(wanted * log_softmax(features @ weights + bias, axis=1)).sum(1).mean())
        sizes.append(np.abs(weights).sum())
    assert losses == sorted(losses) and sizes == sorted(sizes, reverse=True)


def test_surroundings_of_some_images_alone_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedy, "FILLED_IN", 5)
    filled: set[int] = set()
    whole = remedy.Grounds.__getitem__
    monkeypatch.setattr(remedy.Grounds, "__getitem__", lambda self, row: filled.add(row) or whole(self, row))
    images, masks = scenes(CLASSES)
    retrain_head(made("torch"), images, CLASSES, masks=masks)
    assert len(filled) == 5


def test_mistakes_are_told() -> None:
    images, masks = scenes(CLASSES)
    with pytest.raises(ArgumentError, match="masks= or boxes="):
        retrain_head(made("torch"), images, CLASSES)
    not_annotated = np.where(np.eye(3)[CLASSES] == 1, 1, np.nan)
    not_annotated[0] = np.nan
    for labels in (CLASSES[:-1], np.zeros((36, 4)), np.array(CLASSES) / 2, ["3"] * 36):
        with pytest.raises(
            ArgumentError, match=r"labels has shape .*; \(36,\) class ids are needed, or \(36, 3\) of 0"
        ):
            retrain_head(made("torch"), images, labels, masks=masks)
    for labels, said in (([*CLASSES[:-1], 3], "3"), ([*CLASSES[:-1], -1], "-1"), (not_annotated, "NaN")):
        with pytest.raises(ArgumentError, match=rf"no class of the model for .* of 36 images \({said}\)"):
            retrain_head(made("torch"), images, labels, masks=masks)
    with pytest.raises(ArgumentError, match="hold no image of class 2"):
        retrain_head(made("torch"), images, np.minimum(CLASSES, 1), masks=masks)
    wrong = {
        "copies": (0, 1.5, None),
        "batch_size": (0, 2.5),
        "penalty": (-1, np.nan, np.inf, "a", None),
        "seed": (-1, None),
    }
    for name, values in {**wrong, "empty": ("no-object", None)}.items():
        for value in values:
            given: Any = {name: value}
            with pytest.raises(ArgumentError, match=f"{name}={value!r}"):
                retrain_head(made("torch"), images, CLASSES, masks=masks, **given)


def test_a_last_layer_that_is_not_linear_is_refused() -> None:
    images, masks = scenes(CLASSES)
    convolution = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for model in (convolution, nn.Sequential(made("torch"), nn.Hardtanh(-0.1, 0.1))):
        with pytest.raises(UnsupportedModelError, match="SwapSurroundings"):
            retrain_head(model, images, CLASSES, masks=masks)


def test_labels_may_be_floats_as_keras_takes_them() -> None:
    images, masks = scenes([RED] * 12 + [GREEN] * 12)
    model, wanted = network([[0, 5, 0, 0]], [0]), np.array([0] * 12 + [1] * 12)
    first, *others = (
        retrain_head(model, images, labels, masks=masks)[-1].weight.detach()
        for labels in (wanted, wanted.astype(np.float32), wanted.astype(np.float32)[:, None])
    )
    assert all(torch.equal(first, one) for one in others)


def test_images_that_are_not_finite_are_refused_and_make_no_weights() -> None:
    images, masks = scenes(CLASSES)
    images[20, 0, 0, 0] = np.nan
    with pytest.raises(ArgumentError, match="images holds NaN or infinite values"):
        retrain_head(made("torch"), images, np.array(CLASSES), masks=masks)
