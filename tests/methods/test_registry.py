"""The methods as a catalogue: what each says of itself, and what registering one comes to."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from fe_gradcam import METHODS, ArgumentError, explain, explain_many
from fe_gradcam.methods.registry import CamMethod, cam_method
from fe_gradcam.parameters import Count, Fraction, OptionalCount
from fe_gradcam.types import CamInputs, Needs
from tests.methods.inputs import A0, A1, inputs_of, small
from tests.models.toys import FRAMEWORKS, TOYS

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("name", METHODS)
def test_a_default_is_a_value_that_is_accepted(name: str) -> None:
    for key, parameter in METHODS[name].parameters.items():
        assert parameter.default is not inspect.Parameter.empty, key
        assert parameter.accepts(parameter.default), key
        assert METHODS.find((name, {key: parameter.default})).given == {key: parameter.default}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_documented_and_so_is_each_parameter_and_no_other(name: str) -> None:
    method = METHODS[name]
    assert method.summary.endswith(".") and method.cost
    unpublished = name in ("random_cam", "grad_cam_elementwise")
    assert unpublished or any(source in method.paper for source in ("arXiv:", "doi:"))
    described = inspect.getdoc(method.rule).partition("Args:")[2].partition("\n\n")[0]
    arguments = [line.strip().partition(":")[0] for line in described.splitlines() if line.startswith("    ")]
    starts = [word for word in arguments if word.isidentifier()]
    assert starts == (["inputs", *method.parameters] if method.parameters else [])


@pytest.fixture
def weighed() -> Iterator[str]:
    """A method of our own, for the time of a test."""
    assert "weighed" not in METHODS

    @cam_method("weighed", paper="of this test", needs=Needs.ACTIVATIONS, cost="1 forward")
    def weighed(
        inputs: CamInputs, *, first: Fraction = 0.25, times: Count = 1, only: OptionalCount = None, square: bool = False
    ) -> Tensor:
        """Times (first A_0 + (1 - first) A_1)."""
        maps = inputs.activations**2 if square else inputs.activations
        weights = torch.tensor([first, 1 - first], device=maps.device).reshape(1, 2, 1, 1)
        terms = times * weights * maps
        return terms if only is None else terms[:, only - 1]

    yield "weighed"
    del METHODS["weighed"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_registered_method_is_found_with_its_parameters(framework: str, weighed: str) -> None:
    model, image, layer = TOYS[framework]("pooled")
    three = {"first": 0.5, "times": 3, "square": True}
    asked = [
        ("weighed", weighed, A0 / 4 + 3 * A1 / 4),
        ("weighed(first=1)", (weighed, {"first": 1}), A0),
        ("weighed(first=0.5, times=3, square=True)", [weighed, three], 1.5 * (A0**2 + A1**2)),
        ("weighed(only=2, first=0)", (weighed, {"only": 2, "first": 0}), A1),
    ]
    heatmaps = explain_many(model, image, methods=[method for _, method, _ in asked], layers=[layer])
    for heatmap, (name, _, expected) in zip(heatmaps, asked, strict=True):
        assert heatmap.method == name
        assert_allclose(heatmap.raw[0], expected, rtol=1e-6, atol=1e-6)
    assert METHODS[weighed].summary == "Times (first A_0 + (1 - first) A_1)."
    assert {name: one.accepted for name, one in METHODS[weighed].parameters.items()} == {
        "first": "a number from 0 to 1",
        "times": "an integer from 1",
        "only": "an integer from 1 or None",
        "square": "True or False",
    }
    with pytest.raises(ArgumentError, match=r"first=1.5 is not accepted. Accepted: a number from 0 to 1\."):
        explain(model, image, method=(weighed, {"first": 1.5}))


def test_terms_and_maps() -> None:
    """What a rule returns by channel, or as a whole, has its terms, and their sum is the map."""
    inputs = inputs_of(0, 2, 3, 4, 5)
    by_channel = METHODS["hires_cam"]
    assert_array_equal(by_channel.terms(inputs), inputs.gradients * inputs.activations)
    assert_array_equal(by_channel(inputs), (inputs.gradients * inputs.activations).sum(1))
    whole = METHODS["eigen_cam"]
    assert whole.terms(inputs).shape == (2, 1, 4, 5)
    assert_array_equal(whole(inputs), whole.rule(inputs))


def test_a_method_of_a_lambda_has_no_parameters() -> None:
    method = CamMethod("plain", lambda inputs: inputs.activations.mean(1), Needs.ACTIVATIONS)
    assert method.parameters == {} and method.summary == ""


def test_several_methods_are_a_list_and_one_pair_is_one_method() -> None:
    model, images = small("torch")
    (one,) = explain_many(model, images, methods=("eigen_cam", {"component": 2}))
    two = explain_many(model, images, methods=[("eigen_cam", {"component": 2}), "eigen_cam"])
    assert [one.method, *(each.method for each in two)] == ["eigen_cam(component=2)"] * 2 + ["eigen_cam"]
    assert_array_equal(one.raw, two[0].raw)
    assert np.abs(two[0].raw - two[1].raw).max() > 1e-3


def test_the_order_is_that_of_the_thoughts() -> None:
    """Gradients first, then components, what asks about variants with its baseline, and what looks at all layers."""
    names = list(METHODS)
    assert names[0] == "grad_cam"
    assert names[-3:] == ["random_cam", "full_grad", "le_grad"]
    assert names.index("cam") < names.index("eigen_cam") < names.index("score_cam")
