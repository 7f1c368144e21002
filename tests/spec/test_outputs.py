"""Models that return more than one tensor: the scores are found where that is plain, named, or asked for."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import ArgumentError, CamWarning, UnknownNameError, UnsupportedModelError, explain, explain_many
from fe_gradcam.spec.outputs import entries_of, pick
from tests.models.toys import TOYS


@dataclass
class Classified:
    loss: Any
    logits: Any


Pair = namedtuple("Pair", ["features", "classes"])


class Wrapped(nn.Module):
    def __init__(self, form: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.toy, _, _ = TOYS["torch"]("pooled")
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(self.toy(x), self.toy.relu(self.toy.conv(x)))


def keras_wrapped(form: Callable[[Any, Any], Any]) -> Any:
    class KerasWrapped(tf.keras.Model):
        def __init__(self) -> None:
            super().__init__()
            toy, _, _ = TOYS["keras"]("pooled")
            self.inner = tf.keras.Model(toy.input, [toy.output, toy.get_layer("relu").output])

        def call(self, x: Any) -> Any:
            return form(*self.inner(x))

    return KerasWrapped()


PLAIN = {
    "logits beside another table": lambda scores, maps: {"other": scores * 0, "logits": scores},
    "a dataclass": lambda scores, maps: Classified(None, scores),
    "the only table of a tuple": lambda scores, maps: (maps, scores),
    "the only table of a named tuple": lambda scores, maps: Pair(maps, scores),
    "the only table of a dict": lambda scores, maps: OrderedDict(maps=maps, classes=scores),
    "a tuple of one": lambda scores, maps: (scores,),
    "beside None": lambda scores, maps: [None, scores],
}


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("form", PLAIN)
def test_the_scores_are_found_where_that_is_plain(framework: str, form: str) -> None:
    if framework == "keras" and form in ("a dataclass", "beside None"):
        pytest.skip("no structure that Keras returns from a tf.function")
    model = Wrapped(PLAIN[form]) if framework == "torch" else keras_wrapped(PLAIN[form])
    _, image, _ = TOYS[framework]("pooled")
    heatmap = explain(model, image, layer="toy.relu" if framework == "torch" else "relu")
    assert_allclose(heatmap.scores, 8, rtol=1e-6)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_scores_are_named_where_it_is_not(framework: str) -> None:
    def form(scores: Any, maps: Any) -> Any:
        return {"first": scores, "second": 2 * scores, "map": maps}

    model = Wrapped(form) if framework == "torch" else keras_wrapped(form)
    _, image, _ = TOYS[framework]("pooled")
    layer = "toy.relu" if framework == "torch" else "relu"
    parts = r"\{first: \((1|None), 2\), second: .*, map: .*\}"
    with pytest.raises(UnsupportedModelError, match=f"returns a dict of {parts}.*pass model_output="):
        explain(model, image, layer=layer)
    for name, score in (("first", 8), ("second", 16), (1, 16), (-2, 16), (0, 8)):
        assert_allclose(explain(model, image, layer=layer, model_output=name).scores, score, rtol=1e-6)
    with pytest.raises(UnknownNameError, match=r"model_output='secnd' is no output.*did you mean 'second'"):
        explain(model, image, layer=layer, model_output="secnd")
    with pytest.raises(UnknownNameError, match=r"model_output=3 is no output"):
        explain(model, image, layer=layer, model_output=3)
    with pytest.raises(UnsupportedModelError, match="one tensor"):
        explain(model, image, layer=layer, model_output="map", target=0)
    by_callable = explain(model, image, layer=layer, target=lambda output: output["second"][:, 0])
    assert_allclose(by_callable.scores, 16, rtol=1e-6)


def test_outputs_of_a_functional_keras_model_have_names() -> None:
    toy, image, layer = TOYS["keras"]("pooled")
    doubled = tf.keras.layers.Lambda(lambda x: 2 * x, name="doubled")(toy.output)
    model = tf.keras.Model(toy.input, [toy.output, doubled])
    assert_allclose(explain(model, image, layer=layer, model_output="doubled").scores, 16, rtol=1e-6)
    with pytest.raises(UnsupportedModelError, match=r"returns a list of \{fc: .*, doubled: .*\}"):
        explain(model, image, layer=layer)


def test_positions_count_every_output() -> None:
    model, image = Wrapped(lambda scores, maps: (None, scores, 2 * scores)), TOYS["torch"]("pooled")[1]
    for position in (1, -2, np.int64(1)):
        assert_allclose(explain(model, image, layer="toy.relu", model_output=position).scores, 8, rtol=1e-6)


def test_a_loss_beside_the_scores_is_no_table_of_one_image() -> None:
    model, image = Wrapped(lambda scores, maps: {"loss": scores.mean(), "scores": scores}), TOYS["torch"]("pooled")[1]
    assert_allclose(explain(model, image, layer="toy.relu").scores, 8, rtol=1e-6)


def test_each_output_is_read_by_itself() -> None:
    def form(scores: Any, maps: Any) -> Any:
        return {"bounded": torch.tanh(scores) / 2 + 0.5, "raw": scores / 20}

    model, image = Wrapped(form), TOYS["torch"]("pooled")[1]
    with pytest.warns(CamWarning, match="probabilities"):
        explain(model, image, layer="toy.relu", model_output="bounded")
    small = 0.1 * image  # its scores lie in [0, 1] by chance
    scores = explain(model, small, layer="toy.relu", model_output="raw", target=0).scores
    with torch.no_grad():
        expected = model.toy(torch.from_numpy(small))[:, 0] / 20
    assert 0 < expected < 1
    assert_allclose(scores, expected, rtol=1e-5)


def test_heads_are_found_behind_a_picked_output() -> None:
    model, image = (
        Wrapped(lambda scores, maps: {"logits": scores.softmax(-1), "maps": maps}),
        TOYS["torch"]("pooled")[1],
    )
    heatmap = explain(model, image, layer="toy.relu")
    assert_allclose(heatmap.scores, 8, rtol=1e-6)
    assert_allclose(heatmap.confidences, 1 / (1 + torch.tensor(-9.5).exp()), rtol=1e-5)


def test_a_name_for_a_model_that_returns_one_tensor_is_an_error() -> None:
    model, image, _ = TOYS["torch"]("pooled")
    with pytest.raises(UnknownNameError, match="which returns one tensor"):
        explain(model, image, model_output="logits")
    assert_allclose(explain(model, image, model_output=0).scores, 8, rtol=1e-6)


def test_an_output_that_is_no_tensor_is_an_error() -> None:
    model, image = Wrapped(lambda scores, maps: {"text": "cat", "a": scores, "b": scores}), TOYS["torch"]("pooled")[1]
    with pytest.raises(ArgumentError, match=r"model_output='text' is a str.*Outputs: a, b"):
        explain(model, image, model_output="text")


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_inputs_that_are_no_images_stand_beside_them(framework: str) -> None:
    model, images, ages = two_inputs(framework)
    (heatmap,) = explain_many(model, (ages, images), targets=[0])
    assert heatmap.values.shape == (3, 8, 10)
    assert len(set(heatmap.scores.tolist())) == 3


def two_inputs(framework: str) -> tuple[Any, Any, Any]:
    images, ages = torch.rand(3, 2, 8, 10), torch.rand(3, 4)
    if framework == "torch":

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(8, 2)

            def forward(self, ages: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
                return self.fc(torch.cat([self.conv(images).mean((2, 3)), ages], 1))

        return Both(), images, ages
    of = tf.keras.layers
    inputs = [tf.keras.Input((4,)), tf.keras.Input((8, 10, 2))]
    pooled = of.GlobalAveragePooling2D()(of.Conv2D(4, 3)(inputs[1]))
    model = tf.keras.Model(inputs, of.Dense(2)(of.Concatenate()([pooled, inputs[0]])))
    return model, images.movedim(1, -1).numpy(), ages.numpy()


def test_pick_knows_the_form_from_the_content() -> None:
    def is_tensor(part: Any) -> bool:
        return isinstance(part, torch.Tensor)

    table, maps = torch.zeros(2, 3), torch.zeros(2, 3, 4, 4)
    found = pick({"out": maps, "aux": maps}, None, is_tensor=is_tensor, fits=lambda part: part.dim() == 4)
    assert found is maps
    assert pick((table, table), None, is_tensor=is_tensor, fits=lambda part: True) is None
    assert pick("text", None, is_tensor=is_tensor, fits=lambda part: True) is None
    assert list(entries_of(Pair(1, 2))) == ["features", "classes"]
    assert list(entries_of([1, 2], ["a", "b"])) == ["a", "b"]
    assert list(entries_of([1, 2], ["a"])) == ["0", "1"]
