"""Targets beyond a class id, each against numbers worked by hand on the toys, in both frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import (
    ArgumentError,
    CamWarning,
    Contrast,
    OutputValue,
    Rank,
    Segmentation,
    UnknownNameError,
    UnsupportedModelError,
    explain,
    explain_many,
    gen_dl_model_heatmap,
    top_k,
)
from fe_gradcam.backends.scoring import taken_apart
from fe_gradcam.spec.targets import target_name
from tests.models.kerases import KERASES, applied
from tests.models.toys import FRAMEWORKS, HEAD, IMAGE, TOYS, TorchToy
from tests.trainings import as_layout

A0 = IMAGE[0]
A1 = np.array([[2, 1, 0], [0, 0, 0]], np.float32)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pooled(weights: tuple[float, float]) -> np.ndarray:
    """The Grad-CAM of the pooled toy for a score with these weights on the two means."""
    return (weights[0] * A0 + weights[1] * A1) / 6


@pytest.mark.parametrize(
    ("target", "score", "weights"),
    [
        (Rank(1), 8.0, (3, 1)),
        (Rank(2), -1.5, (-1, 2)),
        (Contrast(0, 1), 9.5, (4, -1)),
        (Contrast(1, 0), -9.5, (-4, 1)),
        (Contrast(0, 1, strength=0.5), 8.75, (3.5, 0)),
        (Contrast(None, 1), 9.5, (4, -1)),
        (Contrast(), 9.5, (4, -1)),
        (Contrast(1), -9.5, (-4, 1)),
        (Contrast(1, [0]), -9.5, (-4, 1)),
        (Contrast(0, strength=0), 8.0, (3, 1)),
        (OutputValue(1), -1.5, (-1, 2)),
        (OutputValue(1, sign=-1), 1.5, (1, -2)),
        ("cat", 8.0, (3, 1)),
        ("dog", -1.5, (-1, 2)),
        (Contrast("dog", "cat"), -9.5, (-4, 1)),
    ],
    ids=str,
)
def test_scores_and_maps_worked_by_hand(
    framework: str, target: Any, score: float, weights: tuple[float, float]
) -> None:
    model, image, layer = TOYS[framework]("pooled")
    heatmap = explain(model, image, layer=layer, target=target, class_names=["cat", "dog"])
    assert_allclose(heatmap.scores, score, rtol=1e-6)
    assert_allclose(heatmap.raw[0], pooled(weights), atol=1e-6)
    is_class = isinstance(target, (str, Rank))
    assert (heatmap.class_ids[0] >= 0) == is_class
    assert np.isnan(heatmap.confidences[0]) != is_class


def test_the_classes_of_the_highest_scores_each_image_by_itself(framework: str) -> None:
    model, image, layer = TOYS[framework]("pooled")
    images = np.concatenate([image, np.zeros_like(image)])  # of the second A0 = 0 and A1 = 2: y = (2, 4)
    first, second = explain_many(model, images, layers=[layer], targets=top_k(2))
    assert first.class_ids.tolist() == [0, 1]
    assert second.class_ids.tolist() == [1, 0]
    assert_allclose(first.scores, [8, 4], rtol=1e-6)
    assert_allclose(second.scores, [-1.5, 2], rtol=1e-6)
    assert_allclose(explain(model, images, layer=layer, target=Contrast()).scores, [9.5, 2], rtol=1e-6)


def test_rivals_are_those_of_the_highest_scores_besides_the_class(framework: str) -> None:
    scores = np.array([[1, 5, 3, 4], [7, 1, 2, 0]], np.float32)
    images = np.broadcast_to(scores[:, None, None], (2, 2, 2, 4))
    if framework == "torch":
        model: Any = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    else:
        keras = KERASES[framework]
        steps = [keras.layers.ReLU(name="0"), keras.layers.GlobalAveragePooling2D()]
        model = keras.Sequential([keras.Input((2, 2, 4)), *steps])
    for target, expected in [
        (Contrast(rivals=2), [5 - (4 + 3) / 2, 7 - (2 + 1) / 2]),
        (Contrast(2), [3 - 5, 2 - 7]),
        (Contrast(2, rivals=3, strength=0.6), [3 - 0.6 * (5 + 4 + 1) / 3, 2 - 0.6 * (7 + 1 + 0) / 3]),
        (Contrast(0, [1, 3]), [1 - (5 + 4) / 2, 7 - (1 + 0) / 2]),
        (Rank(4), [1, 0]),
    ]:
        heatmap = explain(model, as_layout(framework, images), layer="0", target=target)
        assert_allclose(heatmap.scores, expected, rtol=1e-5, err_msg=str(target))


# --- segmentation ------------------------------------------------------------------------------------


class TorchSegmentation(nn.Module):
    """The toy with W at every pixel instead of on the means."""

    def __init__(self, softmax: bool) -> None:
        super().__init__()
        self.base, _, _ = TOYS["torch"]("pooled")
        self.softmax = softmax

    def forward(self, x: torch.Tensor) -> Any:
        scores = torch.einsum("ck,nkhw->nchw", torch.from_numpy(HEAD), self.base.relu(self.base.conv(x)))
        return {"out": scores.softmax(1) if self.softmax else scores, "aux": scores[:, :, :1]}


def segmentation(framework: str, softmax: bool = False) -> tuple[Any, np.ndarray, str]:
    if framework == "torch":
        return TorchSegmentation(softmax), IMAGE[:, None], "base.relu"
    (toy, image, layer), keras = TOYS[framework]("pooled"), KERASES[framework]
    classes = keras.layers.Conv2D(2, 1, use_bias=False, activation="softmax" if softmax else None)
    model = keras.Model(toy.input, classes(toy.get_layer(layer).output))
    classes.set_weights([HEAD.T[None, None]])
    return model, image, layer


@pytest.mark.parametrize("softmax", [False, True])
def test_a_class_within_a_mask(framework: str, softmax: bool) -> None:
    # y_0 = [[2, 4, 6], [9, 12, 15]] and y_1 = [[4, 1, -2], [-3, -4, -5]]
    model, image, layer = segmentation(framework, softmax)
    mask = np.zeros((2, 3), bool)
    mask[1, 2] = True
    gradient, places = explain_many(
        model, image, methods=["grad_cam", "hires_cam"], layers=[layer], targets=[Segmentation(0, mask)]
    )
    assert_allclose(gradient.scores, 15, rtol=1e-5)
    assert_allclose(gradient.raw[0], pooled((3, 1)), atol=1e-5)
    assert_allclose(places.raw[0], np.where(mask, 15, 0), atol=1e-5)
    assert gradient.class_ids[0] == -1


def test_a_class_within_the_pixels_that_the_model_gives_to_it(framework: str) -> None:
    model, image, layer = segmentation(framework)
    of_all, of_one, weighted = explain_many(
        model,
        np.concatenate([image, image + 1]),  # of the second y_0 = [[4, 6, 9], [12, 15, 18]], the larger everywhere
        layers=[layer],
        targets=[Segmentation(0), Segmentation("dog"), Segmentation(0, np.full((2, 2, 3), 0.5))],
        class_names={1: "dog"},
        batch_size=1,
    )
    assert_allclose(of_all.scores, [4 + 6 + 9 + 12 + 15, 64], rtol=1e-6)
    assert_allclose(of_one.scores, [4, 0], rtol=1e-6)
    assert_allclose(weighted.scores, [24, 32], rtol=1e-6)
    assert of_one.blank.tolist() == [False, True]  # a class without pixels has no evidence


def test_every_image_has_its_own_mask_in_whatever_batches(framework: str) -> None:
    model, image, layer = segmentation(framework)
    masks = np.zeros((3, 2, 3), np.float32)
    masks[0, 1, 2] = masks[1, 0, 0] = masks[2, 0, 1] = 1
    images = np.repeat(image, 3, 0)
    for batch_size in (None, 1, 2):
        heatmap = explain(model, images, layer=layer, target=Segmentation(0, masks), batch_size=batch_size)
        assert_allclose(heatmap.scores, [15, 2, 4], rtol=1e-5)


def test_a_class_held_against_itself_in_some_images_is_said(framework: str) -> None:
    model, image, layer = TOYS[framework]("pooled")
    images = np.concatenate([image, np.zeros_like(image)])  # inferred as 0 and as 1
    with pytest.warns(CamWarning, match=r"against itself in 1 of 2 images"):
        heatmap = explain(model, images, layer=layer, target=Contrast(None, 1))
    assert heatmap.blank.tolist() == [False, True]


def test_mistakes_about_segmentations(framework: str) -> None:
    model, image, layer = segmentation(framework)
    with pytest.raises(ArgumentError, match=r"mask has shape \(3, 3\) per image; \(2, 3\)"):
        explain(model, image, layer=layer, target=Segmentation(0, np.ones((3, 3))))
    with pytest.raises(ArgumentError, match=r"class_id=2 is not a class of this model: it has 2"):
        explain(model, image, layer=layer, target=Segmentation(2))
    with pytest.raises(UnsupportedModelError, match="pass target=Segmentation"):
        explain(model, image, layer=layer, target=0)


# --- regression --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2])
def test_a_regression_has_no_classes(framework: str, columns: int) -> None:
    model, image, layer = TOYS[framework]("pooled")
    if columns == 1:
        if framework == "torch":
            model = TorchToy("pooled", lambda y: y[:, 0])
        else:
            model = KERASES[framework].Model(model.input, applied(lambda y: y[:, 0], model.output))
    result = gen_dl_model_heatmap(model, {"image": image[0]}, target_classes=OutputValue(0))
    assert result["classification_class_ids"] == []
    assert list(result["heatmap_grad_cam"]) == ["heatmap_image_output_0"]
    heatmap = explain(model, image, layer=layer, target=OutputValue(0))
    assert_allclose(heatmap.scores, 8, rtol=1e-6)
    assert_allclose(heatmap.raw[0], pooled((3, 1)), atol=1e-6)


# --- mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("bird", UnknownNameError, r"target='bird' is no class.*Classes: cat, dog"),
        ("cats", UnknownNameError, r"did you mean 'cat'"),
        (2, ArgumentError, r"target=2 is not a class of this model: it has 2 classes"),
        (Rank(3), ArgumentError, r"asks for 3 different classes, and this model has 2"),
        (Contrast(rivals=2), ArgumentError, r"asks for 3 different classes, and this model has 2"),
        (Contrast(1, 1), ArgumentError, r"a class against itself"),
        (Contrast(0, 5), ArgumentError, r"target=5 is not a class"),
        (OutputValue(2), ArgumentError, r"index=2 is out of range; the output has 2 column"),
        ([0, 1], ArgumentError, r"is not accepted for 1 image"),
        (1.5, ArgumentError, r"Accepted: None \(the inferred class\)"),
        ("crane", ArgumentError, r"'crane' is the name of 2 classes: pass the id, one of 2, 3"),
        (Segmentation(0), UnsupportedModelError, "needs the class scores of every pixel"),
        (Segmentation(0, [[1], [1, 2]]), ArgumentError, "Accepted"),
        (Segmentation(0, np.ones(3)), ArgumentError, "Accepted"),
    ],
    ids=str,
)
def test_mistakes_are_named(framework: str, target: Any, error: type[Exception], message: str) -> None:
    model, image, layer = TOYS[framework]("pooled")
    with pytest.raises(error, match=message):
        explain(model, image, layer=layer, target=target, class_names=["cat", "dog", "crane", "crane"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rank(0),
        lambda: Rank(1.5),  # type: ignore[arg-type]
        lambda: top_k(0),
        lambda: Contrast(strength=-1),
        lambda: Contrast(strength=float("nan")),
        lambda: Contrast(-2),
        lambda: Contrast(0, []),
        lambda: Contrast(0, 1.5),  # type: ignore[arg-type]
        lambda: Contrast(0, [None]),  # type: ignore[list-item]
        lambda: Contrast(0, {1}),  # type: ignore[arg-type]
        lambda: Contrast(rivals=0),
        lambda: OutputValue(-1),
        lambda: OutputValue(0, sign=2),
        lambda: Segmentation(-1),
        lambda: explain(TOYS["torch"]("pooled")[0], IMAGE[:, None], class_names="cat", target="c"),
        lambda: explain(TOYS["torch"]("pooled")[0], IMAGE[:, None], class_names={"cat": 0}, target="cat"),
    ],
)
def test_a_specification_that_says_nothing_is_an_error(make: Any) -> None:
    with pytest.raises(ArgumentError, match="Accepted"):
        make()


def test_names_of_targets() -> None:
    assert target_name(3, {3: "cat"}) == "cat"
    assert target_name(4, {3: "cat"}) == "4"
    assert target_name(Contrast("cat", ["dog", "fox"])) == "cat against dog and fox"
    assert target_name(Contrast()) == "top class against its rival"
    assert target_name(OutputValue(1, -1)) == "output 1, falling"
    assert target_name(Segmentation(2, np.ones((2, 2)))) == "2 in the mask"


def test_one_compiled_pass_serves_other_ids_and_checks_them(framework: str) -> None:
    model, image, layer = TOYS[framework]("pooled")
    explain(model, image, layer=layer, target=Contrast(0, 1))
    assert_allclose(explain(model, image, layer=layer, target=Contrast(1, 0)).scores, -9.5, rtol=1e-6)
    with pytest.raises(ArgumentError, match="target=7 is not a class"):
        explain(model, image, layer=layer, target=Contrast(0, 7))


def test_a_score_is_taken_apart_into_what_has_places_and_the_sum_of_the_rest() -> None:
    """Of two inputs the second is the picture; maps of one place are none."""
    numbers, picture, pooled = torch.tensor([[2.0, 1], [0, 3]]), torch.ones(2, 3, 4, 4), torch.full((2, 5, 1, 1), 0.5)
    maps, biases, scores = torch.ones(2, 4, 2, 2), torch.tensor([[-1.0], [4]]), torch.tensor([7.0, 8])
    parts = taken_apart([numbers, picture, maps, pooled, biases], scores, 4, 2.0**-23)
    assert parts.of_input is picture
    assert [term is maps for term in parts.of_biases] == [True]
    assert_allclose(parts.elsewhere, [3 + 2.5 - 1, 3 + 2.5 + 4])
    assert_allclose(parts.scores, scores)
