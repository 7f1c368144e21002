"""Arguments that the host would refuse without saying which."""

from __future__ import annotations

from typing import Any

import pytest
from fastestimator.trace.trace import Trace
from fastestimator.util.traceability_util import traceable

from fe_gradcam import ArgumentError
from fe_gradcam.integrations.fastestimator.checked import (
    checked_datasets,
    checked_key,
    checked_modes,
    says_what_cannot_be_recorded,
)

KEYS = ("x", "x|ds1", "热图", "a b")
NO_KEYS = ("", "a:b", "a;b", "a|b|c", "|ds1", None, 3, ["x"])


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_those_of_the_host(key: str) -> None:
    assert checked_key("images", key) == key
    Trace(inputs=key)


@pytest.mark.parametrize("key", NO_KEYS)
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(ArgumentError, match=r"images=.* is not accepted\. Accepted: one key") as caught:
        checked_key("images", key)
    assert caught.value.argument == "images"


@pytest.mark.parametrize("mode", [None, "train", "!train", ["eval", "test"], {"infer"}, ("!eval", "!test"), []])
def test_modes_are_those_of_the_host(mode: Any) -> None:
    assert Trace(mode=checked_modes(mode)).mode == Trace(mode=mode).mode


@pytest.mark.parametrize("mode", ["x", "", 3, ["train", "!eval"], [["train"]], ["train", None], object])
def test_other_modes_are_refused(mode: Any) -> None:
    with pytest.raises(ArgumentError, match=r"mode=.*Accepted: one or several of train, eval, test, infer"):
        checked_modes(mode)


@pytest.mark.parametrize("ds_id", [None, "ds1", "!ds1", ["a", "b"], ["!a", "!b"]])
def test_datasets_are_those_of_the_host(ds_id: Any) -> None:
    assert Trace(ds_id=checked_datasets(ds_id)).ds_id == Trace(ds_id=ds_id).ds_id


@pytest.mark.parametrize("ds_id", ["", "!", "a:b", "a|b", 3, ["a", "!b"], [[]]])
def test_other_datasets_are_refused(ds_id: Any) -> None:
    with pytest.raises(ArgumentError, match=r"ds_id=.*Accepted: one or several ids of datasets"):
        checked_datasets(ds_id)


@says_what_cannot_be_recorded
@traceable()
class Recorded:
    """Has arguments that the host writes down."""

    def __init__(self, plain: Any, other: Any = None) -> None:
        if plain == "fails":
            raise KeyError("its own")


def test_what_the_host_cannot_write_down_is_named() -> None:
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ArgumentError, match="other is a list that FastEstimator cannot write down") as caught:
        Recorded(3, itself)
    assert caught.value.argument == "other"
    assert isinstance(caught.value.__cause__, RecursionError)
    with pytest.raises(KeyError, match="its own"):
        Recorded("fails")
    assert isinstance(Recorded(3, [1, {"a": 2}]), Recorded)
