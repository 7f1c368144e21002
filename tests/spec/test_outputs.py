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
from tests.methods.inputs import Net
from tests.models.kerases import KERASES
from tests.models.kits import KITS
from tests.models.toys import IMAGE, TOYS


@dataclass
class Classified:
    loss: Any
    logits: Any


Pair = namedtuple("Pair", ["features", "classes"])

LAYER = {"torch": "toy.relu"} | dict.fromkeys(KERASES, "relu")
IMAGES = IMAGE[:, None]


def wrapped(form: Callable[[Any, Any], Any], framework: str = "torch") -> Any:
    """The pooled toy that returns what `form` makes of its scores and its maps."""
    toy, _, _ = TOYS[framework]("pooled")
    if framework == "torch":
        return Net(lambda net, x: form(net.toy(x), net.toy.relu(net.toy.conv(x))), toy=toy)
    both = KERASES[framework].Model(toy.input, [toy.output, toy.get_layer("relu").output])
    return KITS[framework].behind(both, lambda outputs: form(*outputs))


def softmax(scores: Any) -> Any:
    return tf.nn.softmax(scores) if tf.is_tensor(scores) else scores.softmax(-1)


PLAIN = {
    "logits beside another table": lambda scores, maps: {"other": scores * 0, "logits": scores},
    "a dataclass": lambda scores, maps: Classified(None, scores),
    "the only table of a tuple": lambda scores, maps: (maps, scores),
    "the only table of a named tuple": lambda scores, maps: Pair(maps, scores),
    "the only table of a dict": lambda scores, maps: OrderedDict(maps=maps, classes=scores),
    "a tuple of one": lambda scores, maps: (scores,),
    "beside None": lambda scores, maps: [None, scores],
    "beside a loss, which is no table of one image": lambda scores, maps: {"loss": scores[0, 0], "scores": scores},
    "before the head of the output called logits": lambda scores, maps: {"logits": softmax(scores), "maps": maps},
}


@pytest.mark.parametrize("framework", KITS)
@pytest.mark.parametrize("form", PLAIN)
def test_the_scores_are_found_where_that_is_plain(framework: str, form: str) -> None:
    heatmap = explain(wrapped(PLAIN[form], framework), TOYS[framework]("pooled")[1], layer=LAYER[framework])
    assert_allclose(heatmap.scores, 8, rtol=1e-6)
    assert_allclose(heatmap.confidences, 1 / (1 + np.exp(-9.5)), rtol=1e-5)


@pytest.mark.parametrize("framework", KITS)
def test_the_scores_are_named_where_it_is_not(framework: str) -> None:
    def form(scores: Any, maps: Any) -> Any:
        return {"first": scores, "second": 2 * scores, "map": maps}

    model, layer = wrapped(form, framework), LAYER[framework]
    _, image, _ = TOYS[framework]("pooled")
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


@pytest.mark.parametrize("framework", KERASES)
def test_outputs_of_a_functional_keras_model_have_names(framework: str) -> None:
    (toy, image, layer), keras = TOYS[framework]("pooled"), KERASES[framework]
    doubled = keras.layers.Lambda(lambda x: 2 * x, name="doubled")(toy.output)
    model = keras.Model(toy.input, [toy.output, doubled])
    assert_allclose(explain(model, image, layer=layer, model_output="doubled").scores, 16, rtol=1e-6)
    with pytest.raises(UnsupportedModelError, match=r"returns a list of \{fc: .*, doubled: .*\}"):
        explain(model, image, layer=layer)


def test_positions_count_every_output() -> None:
    model = wrapped(lambda scores, maps: (None, scores, 2 * scores))
    for position in (1, -2, np.int64(1)):
        assert_allclose(explain(model, IMAGES, layer="toy.relu", model_output=position).scores, 8, rtol=1e-6)


def test_each_output_is_read_by_itself() -> None:
    def form(scores: Any, maps: Any) -> Any:
        return {"bounded": torch.tanh(scores) / 2 + 0.5, "raw": scores / 20}

    model = wrapped(form)
    with pytest.warns(CamWarning, match="probabilities"):
        explain(model, IMAGES, layer="toy.relu", model_output="bounded")
    small = 0.1 * IMAGES  # its scores lie in [0, 1] by chance
    scores = explain(model, small, layer="toy.relu", model_output="raw", target=0).scores
    with torch.no_grad():
        expected = model.toy(torch.from_numpy(small))[:, 0] / 20
    assert 0 < expected < 1
    assert_allclose(scores, expected, rtol=1e-5)


def test_a_name_for_a_model_that_returns_one_tensor_is_an_error() -> None:
    model, image, _ = TOYS["torch"]("pooled")
    with pytest.raises(UnknownNameError, match="which returns one tensor"):
        explain(model, image, model_output="logits")
    assert_allclose(explain(model, image, model_output=0).scores, 8, rtol=1e-6)


def test_an_output_that_is_no_tensor_is_an_error() -> None:
    model = wrapped(lambda scores, maps: {"text": "cat", "a": scores, "b": scores})
    with pytest.raises(ArgumentError, match=r"model_output='text' is a str.*Outputs that are tensors: a, b"):
        explain(model, IMAGES, model_output="text")


@pytest.mark.parametrize("framework", KITS)
def test_inputs_that_are_no_images_stand_beside_them(framework: str) -> None:
    images, ages = KITS[framework].images(np.random.rand(3, 8, 10, 2)), np.random.rand(3, 4).astype(np.float32)
    if framework == "torch":

        def compute(net: Any, ages: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            return net.fc(torch.cat([net.conv(images).mean((2, 3)), ages], 1))

        model: Any = Net(compute, conv=nn.Conv2d(2, 4, 3), fc=nn.Linear(8, 2))
    else:
        keras = KERASES[framework]
        inputs, of = [keras.Input((4,)), keras.Input((8, 10, 2))], keras.layers
        pooled = of.GlobalAveragePooling2D()(of.Conv2D(4, 3)(inputs[1]))
        model = keras.Model(inputs, of.Dense(2)(of.Concatenate()([pooled, inputs[0]])))
    (heatmap,) = explain_many(model, (ages, images), targets=[0])
    assert heatmap.values.shape == (3, 8, 10)
    assert len(set(heatmap.scores.tolist())) == 3


def test_pick_knows_the_form_from_the_content() -> None:
    def is_tensor(part: Any) -> bool:
        return isinstance(part, torch.Tensor)

    table, maps = torch.zeros(2, 3), torch.zeros(2, 3, 4, 4)
    found = pick({"out": maps, "aux": maps}, None, is_tensor=is_tensor, fits=lambda part: part.dim() == 4)
    assert found is maps
    assert pick((table, table), None, is_tensor=is_tensor, fits=lambda part: True) is None
    assert pick("text", None, is_tensor=is_tensor, fits=lambda part: True) is None
    assert list(entries_of(Pair(1, 2))) == ["features", "classes"]
    assert entries_of(Classified(1, 2)) == {"loss": 1, "logits": 2}
    assert entries_of(Classified) == {}
    assert list(entries_of([1, 2], ["a", "b"])) == ["a", "b"]
    assert list(entries_of([1, 2], ["a"])) == ["0", "1"]
