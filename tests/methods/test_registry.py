"""Methods asked for by name, with parameters, and as one word; and what registering one comes to."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from fe_gradcam import METHODS, ArgumentError, UnknownNameError, explain, explain_many
from fe_gradcam.errors import CamError
from fe_gradcam.methods.registry import CamMethod, cam_method
from fe_gradcam.parameters import Count, Fraction, OptionalCount, Parameter, Within, is_pair
from fe_gradcam.types import CamInputs, Needs
from tests.models.toys import TOYS, SmallTorch

PARAMETERS = [(name, one) for name, method in METHODS.items() for one in method.parameters.values()]

A0 = np.array([[0, 1, 2], [3, 4, 5]], np.float64)
A1 = np.array([[2, 1, 0], [0, 0, 0]], np.float64)


def ids(value: Any) -> str:
    return value.name if isinstance(value, Parameter) else str(value)[:60]


# --- values ------------------------------------------------------------------------------------------

ACCEPTED = [
    ("is_cam", "samples", 1),
    ("is_cam", "samples", np.int64(3)),
    ("is_cam", "samples", np.uint8(200)),
    ("ss_cam", "noise", 0),
    ("ss_cam", "noise", 0.5),
    ("ss_cam", "noise", np.float32(0.5)),
    ("ss_cam", "noise", np.float64(0)),
    ("ss_cam", "noise", np.int16(2)),
    ("occlusion", "fill", None),
    ("occlusion", "fill", -3.5),
    ("occlusion", "patch", None),
    ("occlusion", "patch", 2),
    ("eigen_cam", "center", True),
    ("eigen_cam", "center", np.bool_(False)),
]


@pytest.mark.parametrize(("method", "parameter", "value"), ACCEPTED, ids=ids)
@pytest.mark.parametrize("pair", [tuple, list])
def test_values_that_are_accepted_reach_the_method(method: str, parameter: str, value: Any, pair: type) -> None:
    found = METHODS.find(pair((method, {parameter: value})))
    assert found.rule is METHODS[method].rule
    assert found.given == {parameter: value}
    assert METHODS[method].given == {}, "the registry itself stays as it is"


REFUSED = [
    ("is_cam", "samples", 0, "an integer from 1"),
    ("is_cam", "samples", -1, "an integer from 1"),
    ("is_cam", "samples", 2.0, "an integer from 1"),
    ("is_cam", "samples", True, "an integer from 1"),
    ("is_cam", "samples", np.bool_(True), "an integer from 1"),
    ("is_cam", "samples", None, "an integer from 1"),
    ("is_cam", "samples", "3", "an integer from 1"),
    ("is_cam", "samples", [3], "an integer from 1"),
    ("is_cam", "samples", np.array([3]), "an integer from 1"),
    ("is_cam", "samples", 10**400, "an integer from 1"),
    ("ss_cam", "noise", -0.1, "a number from 0"),
    ("ss_cam", "noise", float("nan"), "a number from 0"),
    ("ss_cam", "noise", np.float32("nan"), "a number from 0"),
    ("ss_cam", "noise", float("inf"), "a number from 0"),
    ("ss_cam", "noise", True, "a number from 0"),
    ("ss_cam", "noise", 1j, "a number from 0"),
    ("occlusion", "fill", float("-inf"), "a number or None"),
    ("occlusion", "fill", "mean", "a number or None"),
    ("occlusion", "patch", 0, "an integer from 1 or None"),
    ("occlusion", "patch", False, "an integer from 1 or None"),
    ("eigen_cam", "center", 1, "True or False"),
    ("eigen_cam", "center", "true", "True or False"),
    ("eigen_cam", "center", None, "True or False"),
]


@pytest.mark.parametrize(("method", "parameter", "value", "accepted"), REFUSED, ids=ids)
def test_values_that_are_refused_are_told_with_what_is_accepted(
    method: str, parameter: str, value: Any, accepted: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        METHODS.find((method, {parameter: value}))
    assert str(caught.value) == f"method={method!r}: {parameter}={value!r} is not accepted. Accepted: {accepted}."


def test_bounds_are_both_included() -> None:
    share = Parameter("share", 0.5, float, Within(0, 1))
    assert share.accepted == "a number from 0 to 1"
    assert [share.accepts(value) for value in (-1e-9, 0, 0.5, 1, 1 + 1e-9)] == [False, True, True, True, False]


def test_numpy_integers_cannot_overflow_in_a_method() -> None:
    (found,) = METHODS.find(("is_cam", {"samples": np.int8(100)})).given.values()
    assert type(found) is int
    assert found * 1000 == 100_000


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=ids)
def test_a_default_is_a_value_that_is_accepted(name: str, parameter: Parameter) -> None:
    assert parameter.default is not inspect.Parameter.empty
    assert parameter.accepts(parameter.default)
    assert METHODS.find((name, {parameter.name: parameter.default})).given == {parameter.name: parameter.default}


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_documented_and_no_other(name: str) -> None:
    described = inspect.getdoc(METHODS[name].rule).partition("Args:")[2].partition("\n\n")[0]
    arguments = [line.strip().partition(":")[0] for line in described.splitlines() if line.startswith("    ")]
    starts = [word for word in arguments if word.isidentifier()]
    parameters = METHODS[name].parameters
    assert starts == (["inputs", *parameters] if parameters else [])


# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("scorecam", r"method='scorecam' is not known; did you mean 'score_cam'.* Accepted: grad_cam, hires_cam, "),
        ("", r"method='' is not known\. Accepted: grad_cam"),
        (("iscam", {"samples": 2}), r"method='iscam' is not known; did you mean 'is_cam'"),
        (("ss_cam", {"sample": 2}), r"method='ss_cam' has no parameter 'sample'; did you mean 'samples'\?"
                                    r" Accepted: samples, noise\."),
        (("ss_cam", {"q": 2}), r"method='ss_cam' has no parameter 'q'\. Accepted: samples, noise\."),
        (("ss_cam", {1: 2}), r"method='ss_cam' has no parameter 1\."),
        (("grad_cam", {"samples": 2}), r"Accepted: none, this method has no parameters\."),
    ],
)  # fmt: skip
def test_unknown_names_are_told_with_the_nearest(method: Any, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        METHODS.find(method)


@pytest.mark.parametrize("method", [None, 3, ("is_cam",), ("is_cam", 3), ("is_cam", {}, {}), (3, {}), {"is_cam": {}}])
def test_what_is_neither_a_name_nor_a_pair_is_refused(method: Any) -> None:
    with pytest.raises(ArgumentError, match=r"is not accepted. Accepted: a name, or a pair \('ss_cam', {'samples': 8"):
        METHODS.find(method)


def test_two_names_are_no_pair() -> None:
    assert is_pair(("is_cam", {}))
    assert is_pair(["is_cam", {"samples": 2}])
    assert not is_pair(["is_cam", "score_cam"])
    assert not is_pair("ab")


def test_labels() -> None:
    assert METHODS.find("ss_cam").label == "ss_cam"
    assert METHODS.find(("ss_cam", {})).label == "ss_cam"
    assert METHODS.find(("ss_cam", {"noise": 0.5, "samples": np.int64(2)})).label == "ss_cam(noise=0.5, samples=2)"
    assert METHODS.find(("occlusion", {"fill": None})).label == "occlusion(fill=None)"
    assert METHODS.find(METHODS.find(("is_cam", {"samples": 2}))).label == "is_cam(samples=2)"


# --- as one word -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score_cam", "score_cam"),
        ("no_such", "no_such"),
        ("is_cam:samples=2", ("is_cam", {"samples": 2})),
        ("ss_cam:samples=2,noise=0.5", ("ss_cam", {"samples": 2, "noise": 0.5})),
        ("ss_cam: samples = 2 , noise = 1e-1", ("ss_cam", {"samples": 2, "noise": 0.1})),
        ("occlusion:fill=None", ("occlusion", {"fill": None})),
        ("occlusion:fill=null,patch=3", ("occlusion", {"fill": None, "patch": 3})),
        ("occlusion:fill=-2.5", ("occlusion", {"fill": -2.5})),
        ("eigen_cam:center=True", ("eigen_cam", {"center": True})),
        ("eigen_cam:center=false,component=2", ("eigen_cam", {"center": False, "component": 2})),
    ],
)
def test_one_word(text: str, expected: Any) -> None:
    found = METHODS.parse(text)
    assert found == expected
    if isinstance(expected, tuple):
        assert [type(value) for value in found[1].values()] == [type(value) for value in expected[1].values()]


@pytest.mark.parametrize(
    "text",
    ["score_cam:", "is_cam:samples", "is_cam:samples=", "is_cam:samples=2,", "is_cam:,samples=2", "is_cam:samples=two",
     "is_cam:samples=2,samples=3", "occlusion:fill=[1,2]", "is_cam:samples=2;", "is_cam:samples='2'"],
)  # fmt: skip
def test_words_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        METHODS.parse(text)
    assert str(caught.value).startswith(f"method={text!r} is not accepted. Accepted: a name, or a name with parameters")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("is_cam:sample=2", UnknownNameError, "has no parameter 'sample'; did you mean 'samples'"),
        ("is_cam:=2", UnknownNameError, "has no parameter ''"),
        ("is_cam:samples=2.5", ArgumentError, "samples=2.5 is not accepted. Accepted: an integer from 1"),
        ('is_cam:samples="2"', ArgumentError, "samples='2' is not accepted"),
        ("is_cam:samples=[2]", ArgumentError, r"samples=\[2\] is not accepted"),
        ("ss_cam:noise=NaN", ArgumentError, "noise=nan is not accepted"),
        ("ss_cam:noise=Infinity", ArgumentError, "noise=inf is not accepted"),
        (":samples=2", UnknownNameError, "method='' is not known"),
    ],
)
def test_words_of_the_form_with_wrong_content(text: str, error: type[CamError], message: str) -> None:
    with pytest.raises(error, match=message):
        METHODS.find(METHODS.parse(text))


# --- registering -------------------------------------------------------------------------------------


@pytest.fixture
def weighed() -> Iterator[str]:
    """A method of our own, for the time of a test."""
    assert "weighed" not in METHODS

    @cam_method("weighed", paper="of this test", needs=Needs.ACTIVATIONS, cost="1 forward")
    def weighed(
        inputs: CamInputs,
        *,
        first: Fraction = 0.25,
        times: Count = 1,
        only: OptionalCount = None,
        square: bool = False,
    ) -> Tensor:
        """Times (first A_0 + (1 - first) A_1)."""
        maps = inputs.activations**2 if square else inputs.activations
        weights = torch.tensor([first, 1 - first], device=maps.device).reshape(1, 2, 1, 1)
        terms = times * weights * maps
        return terms if only is None else terms[:, only - 1]

    yield "weighed"
    del METHODS["weighed"]


@pytest.mark.parametrize("framework", TOYS)
def test_a_registered_method_is_found_with_its_parameters(framework: str, weighed: str) -> None:
    model, image, layer = TOYS[framework]("pooled")
    asked = [
        (weighed, A0 / 4 + 3 * A1 / 4),
        ((weighed, {"first": 1}), A0),
        ([weighed, {"first": 0.5, "times": 3, "square": True}], 1.5 * (A0**2 + A1**2)),
        ((weighed, {"only": 2, "first": 0}), A1),
    ]
    heatmaps = explain_many(model, image, methods=[method for method, _ in asked], layers=[layer])
    assert [heatmap.method for heatmap in heatmaps] == [
        "weighed", "weighed(first=1)", "weighed(first=0.5, times=3, square=True)", "weighed(only=2, first=0)",
    ]  # fmt: skip
    for heatmap, (_, expected) in zip(heatmaps, asked, strict=True):
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


def test_the_method_of_the_test_is_gone() -> None:
    with pytest.raises(UnknownNameError, match="method='weighed' is not known"):
        METHODS.find("weighed")


def test_terms_and_maps() -> None:
    """What a rule returns by channel, or as a whole, has its terms, and their sum is the map."""
    inputs = CamInputs(
        activations=torch.randn(2, 3, 4, 5),
        gradients=torch.randn(2, 3, 4, 5),
        scores=torch.zeros(2),
        class_ids=torch.zeros(2, dtype=torch.int64),
    )
    by_channel = METHODS["hires_cam"]
    assert_array_equal(by_channel.terms(inputs), inputs.gradients * inputs.activations)
    assert_array_equal(by_channel(inputs), (inputs.gradients * inputs.activations).sum(1))
    whole = METHODS["eigen_cam"]
    assert whole.terms(inputs).shape == (2, 1, 4, 5)
    assert_array_equal(whole(inputs), whole.rule(inputs))


def test_a_method_without_a_function_has_no_parameters() -> None:
    method = CamMethod("plain", lambda inputs: inputs.activations.mean(1), Needs.ACTIVATIONS)
    assert method.parameters == {}
    assert method.summary == ""


def test_several_methods_are_a_list_and_one_pair_is_one_method() -> None:
    model, images = SmallTorch().eval(), np.random.randn(2, 3, 9, 12).astype(np.float32)
    (one,) = explain_many(model, images, methods=("eigen_cam", {"component": 2}))
    two = explain_many(model, images, methods=[("eigen_cam", {"component": 2}), "eigen_cam"])
    assert [one.method, *(each.method for each in two)] == ["eigen_cam(component=2)"] * 2 + ["eigen_cam"]
    assert_array_equal(one.raw, two[0].raw)
    assert np.abs(two[0].raw - two[1].raw).max() > 1e-3
