"""Arrays and lists of users: what is read, and what is refused with the name of the argument."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from numpy.testing import assert_array_equal

from fe_gradcam import ArgumentError
from fe_gradcam.spec.arrays import LONGEST_LIST, array_of, listed

ROWS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        tuple(map(tuple, ROWS)),
        np.array(ROWS),
        torch.tensor(ROWS, requires_grad=True),
        torch.tensor(ROWS, dtype=torch.bfloat16),
        tf.constant(ROWS),
        tf.Variable(ROWS),
        tf.constant(ROWS, tf.bfloat16),
        deque(ROWS),
    ],
    ids=["list", "tuple", "array", "graph", "bfloat16", "tf", "variable", "tf bfloat16", "deque"],
)
def test_what_holds_numbers_is_read(given: Any) -> None:
    assert_array_equal(array_of("mean", given, ""), ROWS)


class Odd:
    def __array__(self, *given: Any, **more: Any) -> Any:
        raise KeyError("odd")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1], [2, 3]], r"mean is a list that cannot be read as an array \(ValueError\)\. Accepted: a number\."),
        (Odd(), r"mean is a Odd that cannot be read as an array \(KeyError\)"),
        ({"a": 1}, r"mean is a dict that cannot be read as an array \(TypeError\)"),
        (torch.zeros(2, device="meta"), r"mean is a Tensor that cannot be read as an array"),
        ("half", r"mean='half' is not accepted\. Accepted: a number\."),
        (np.zeros((2, 3), complex), r"mean has shape \(2, 3\) and dtype complex128\. Accepted: a number\."),
        (None, r"mean is a NoneType that cannot be read"),
    ],
    ids=["ragged", "raises", "dict", "meta", "text", "complex", "none"],
)
def test_what_holds_none_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        array_of("mean", given, "a number.")
    assert caught.value.argument == "mean"


def test_other_kinds_are_taken_where_they_are_asked_for() -> None:
    assert array_of("labels", ["a", "b"], "", kinds="U").tolist() == ["a", "b"]
    with pytest.raises(ArgumentError):
        array_of("labels", [0.5], "", kinds="iu")


@pytest.mark.parametrize("given", [[1, 2], (1, 2), {1: "a", 2: "b"}, np.array([1, 2]), range(1, 3), deque([1, 2])])
def test_lists_of_any_kind(given: Any) -> None:
    assert listed("ids", given, "") == [1, 2]


class Liar(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        raise KeyError("odd")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ab", r"ids='ab' is not accepted\. Accepted: names\."),
        (b"ab", "ids=b'ab' is not accepted"),
        (3, "ids=3 is not accepted"),
        (iter([1]), "ids=<list_iterator .* is not accepted"),
        (range(LONGEST_LIST + 1), "ids=range.* is not accepted"),
        (Liar([1]), r"ids is a Liar whose entries cannot be read \(KeyError\)\. Accepted: names\."),
    ],
    ids=["text", "bytes", "number", "iterator", "endless", "raises"],
)
def test_what_is_no_list_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        listed("ids", given, "names.")
    assert caught.value.argument == "ids"
