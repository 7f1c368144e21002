"""Values of parameters, and how an entry of a catalogue is asked for: by name, as a pair, as one word."""

from __future__ import annotations

import inspect
from typing import Any, Union

import numpy as np
import pytest

from fe_gradcam import METHODS, METRICS, ArgumentError, UnknownNameError, atlas, draw, explain, explain_many, measure
from fe_gradcam.errors import CamError, in_short
from fe_gradcam.parameters import (
    LARGEST_WHOLE,
    OptionalCount,
    Parameter,
    Within,
    checked_text,
    flag,
    fraction,
    is_pair,
    level,
    one_of,
    several,
    whole,
)

ACCEPTED = {
    ("is_cam", "samples"): [1, np.int64(3), np.uint8(200)],
    ("ss_cam", "noise"): [0, 0.5, np.float32(0.5), np.float64(0), np.int16(2)],
    ("occlusion", "fill"): [None, -3.5],
    ("occlusion", "patch"): [None, 2],
    ("eigen_cam", "center"): [True, np.bool_(False)],
}


@pytest.mark.parametrize(("method", "parameter"), ACCEPTED)
@pytest.mark.parametrize("pair", [tuple, list])
def test_values_that_are_accepted_reach_the_method(method: str, parameter: str, pair: type) -> None:
    for value in ACCEPTED[method, parameter]:
        found = METHODS.find(pair((method, {parameter: value})))
        assert found.rule is METHODS[method].rule
        assert found.given == {parameter: value}
        assert METHODS[method].given == {}, "the registry itself stays as it is"


REFUSED: dict[tuple[str, str, str], list[Any]] = {
    ("is_cam", "samples", "an integer from 1"): [
        0, -1, 2.0, True, np.bool_(True), None, "3", [3], np.array([3]), 10**400,
    ],
    ("ss_cam", "noise", "a number from 0"): [-0.1, float("nan"), np.float32("nan"), float("inf"), True, 1j],
    ("occlusion", "fill", "a number or None"): [float("-inf"), "mean"],
    ("occlusion", "patch", "an integer from 1 or None"): [0, False],
    ("eigen_cam", "center", "True or False"): [1, "true", None],
}  # fmt: skip


@pytest.mark.parametrize(("method", "parameter", "accepted"), REFUSED)
def test_values_that_are_refused_are_told_with_what_is_accepted(method: str, parameter: str, accepted: str) -> None:
    for value in REFUSED[method, parameter, accepted]:
        with pytest.raises(ArgumentError) as caught:
            METHODS.find((method, {parameter: value}))
        assert (
            str(caught.value)
            == f"method={method!r}: {parameter}={in_short(value)} is not accepted. Accepted: {accepted}."
        )


def test_bounds_are_both_included() -> None:
    share = Parameter("share", 0.5, float, Within(0, 1))
    assert share.accepted == "a number from 0 to 1"
    assert [share.accepts(value) for value in (-1e-9, 0, 0.5, 1, 1 + 1e-9)] == [False, True, True, True, False]


def test_numpy_integers_cannot_overflow_in_a_method() -> None:
    (found,) = METHODS.find(("is_cam", {"samples": np.int8(100)})).given.values()
    assert type(found) is int
    assert found * 1000 == 100_000


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


@pytest.mark.parametrize(
    "method", [None, 3, METRICS["road"], ("is_cam",), ("is_cam", 3), ("is_cam", {}, {}), (3, {}), {"is_cam": {}}]
)
def test_what_is_neither_a_name_nor_a_pair_is_refused(method: Any) -> None:
    with pytest.raises(ArgumentError, match=r"is not accepted. Accepted: a name, or a pair \('ss_cam', {'samples': 8"):
        METHODS.find(method)


def test_two_names_are_no_pair() -> None:
    assert is_pair(("is_cam", {}))
    assert is_pair(["is_cam", {"samples": 2}])
    assert not is_pair(["is_cam", "score_cam"])
    assert not is_pair("ab")


def test_labels() -> None:
    given: list[Any] = ["ss_cam", ("ss_cam", {}), ("ss_cam", {"noise": 0.5, "samples": np.int64(2)})]
    labels = [METHODS.find(one).label for one in (*given, ("occlusion", {"fill": None}))]
    assert labels == ["ss_cam", "ss_cam", "ss_cam(noise=0.5, samples=2)", "occlusion(fill=None)"]
    assert METHODS.find(METHODS.find(("is_cam", {"samples": 2}))).label == "is_cam(samples=2)"


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


# --- numbers, and what else errors say ---------------------------------------------------------------


def test_a_default_of_none_that_python_reads_as_optional_changes_nothing() -> None:
    """As Python 3.10 does."""
    wrapped = Union[OptionalCount, None]  # noqa: UP007
    assert Parameter.of("patch", None, wrapped) == Parameter.of("patch", None, OptionalCount)
    assert Parameter.of("patch", None, wrapped).accepted == "an integer from 1 or None"


def test_integers_from_one() -> None:
    for value in (1, 7, np.int64(3), np.uint8(200)):
        found = whole("count", value, 1)
        assert (found, type(found)) == (value, int)
    for value in (0, True, 1.0, "2", None, np.bool_(True), [1], 10**400):
        with pytest.raises(ArgumentError) as caught:
            whole("count", value, 1, none=", or None for all")
        most = f", at most {LARGEST_WHOLE}" * (type(value) is int and value > LARGEST_WHOLE)
        accepted = f"an integer from 1{most}, or None for all."
        assert str(caught.value) == f"count={in_short(value)} is not accepted. Accepted: {accepted}"
        assert caught.value.argument == "count"


def test_numbers_from_zero_to_one() -> None:
    assert [fraction("alpha", value) for value in (0, 1, 0.25, np.float32(0.5))] == [0, 1, 0.25, 0.5]
    for value in (-0.1, 1.1, True, "0.5", None, float("nan")):
        with pytest.raises(ArgumentError, match=r"alpha=.* is not accepted. Accepted: a number from 0 to 1\."):
            fraction("alpha", value)


def test_names_that_who_asks_knows_besides_are_accepted_names_too() -> None:
    with pytest.raises(UnknownNameError, match=r"metric='drif' is not known; did you mean 'drift'.*, sanity, drift\."):
        METRICS.find("drif", also=["drift"])


def test_one_of_them_alone_is_a_list_of_one() -> None:
    pair, entry = ("ss_cam", {"samples": 2}), METHODS["fem"]
    assert [several(one) for one in ("fem", pair, entry)] == [["fem"], [pair], [entry]]
    assert several(["fem", pair]) == ["fem", pair]
    assert several(3) == 3, "who asks says what is accepted"


def test_further_parameters_leave_the_others() -> None:
    found = METHODS.find(("eigen_cam", {"center": True})).with_parameters(component=2)
    assert found.given == {"center": True, "component": 2}
    assert METHODS["eigen_cam"].given == {}


# --- keywords ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "keyword", "says"),
    [
        (explain, "methods", "explain has no argument 'methods'; pass method= with one, or call explain_many"),
        (explain, "target_layers", "pass layer=, which fuses a list of layers into one map"),
        (explain, "taget", "explain has no argument 'taget'; did you mean 'target'"),
        (explain_many, "method", r"pass methods= with a list, as \['grad_cam'\]\. It has: model, images, methods"),
        (measure, "metric", "measure has no argument 'metric'; pass metrics="),
        (draw, "names", "draw has no argument 'names'; pass class_names="),
        (atlas, "labels", "atlas has no argument 'labels'; pass no labels: each image counts for the class"),
        (explain, "device", "pass nothing: the model is asked where it is"),
    ],
)
def test_a_keyword_of_another_function_says_which_one_is_meant(function: Any, keyword: str, says: str) -> None:
    for error in (ArgumentError, TypeError):  # as Python has it, and as this package has it
        with pytest.raises(error, match=says):
            function(**{keyword: 1})


def test_a_function_that_knows_its_keywords_is_told_by_its_own_signature() -> None:
    assert list(inspect.signature(explain).parameters)[:3] == ["model", "images", "method"]
    assert explain.__doc__ and explain.__module__ == "fe_gradcam.explaining.route"
    with pytest.raises(TypeError, match="required positional argument"):
        explain(None)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [LARGEST_WHOLE + 1, 10**5000], ids=["one more", "digits"])
def test_integers_that_no_array_holds_are_refused(value: int) -> None:
    assert whole("seed", LARGEST_WHOLE, 0) == LARGEST_WHOLE
    with pytest.raises(ArgumentError, match=f"Accepted: an integer from 0, at most {LARGEST_WHOLE}"):
        whole("seed", value, 0)
    with pytest.raises(ArgumentError, match=r"count=11 is not accepted\. Accepted: an integer from 1 to 10\."):
        whole("count", 11, 1, most=10)


def test_levels_flags_and_texts() -> None:
    assert level("penalty", 2) == 2.0
    assert flag("progress", np.False_) is False
    assert checked_text("title", "a") == "a"
    for call, value in ((level, -1), (level, 10**5000), (level, "1"), (flag, 1), (flag, None), (checked_text, 3)):
        with pytest.raises(ArgumentError, match=r"it=.* is not accepted") as caught:
            call("it", value)
        assert caught.value.argument == "it"


@pytest.mark.parametrize("value", [np.zeros(2), [1], object, 1 + 0j, None])
def test_what_cannot_be_compared_is_none_of_them(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"sign=.* is not known.*Accepted: 1, -1\."):
        one_of("sign", value, (1, -1))
    one_of("sign", np.int64(-1), (1, -1))


def test_a_mapping_that_raises_is_no_pair() -> None:
    class Raises(dict[str, Any]):
        def keys(self) -> Any:
            raise KeyError("no")

        __iter__ = keys

    with pytest.raises(ArgumentError, match=r"method=.*is not accepted"):
        METHODS.find(("grad_cam", Raises(a=1)))
