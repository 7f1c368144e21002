"""Data by row: sliced, filled and joined together, whatever a field holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fe_gradcam.types import BY_ROW, ByRow
from tests.heat import heatmap_of


@dataclass(frozen=True, eq=False)
class Inner(ByRow):
    values: NDArray[Any] = field(metadata=BY_ROW)
    mask: NDArray[np.bool_] | None = field(default=None, metadata=BY_ROW)


@dataclass(frozen=True, eq=False)
class Outer(ByRow):
    numbers: NDArray[Any] = field(metadata=BY_ROW)
    names: Sequence[str] | None = field(metadata=BY_ROW)
    inner: Inner = field(metadata=BY_ROW)
    columns: Sequence[Inner] = field(metadata=BY_ROW)
    unit: list[int]
    absent: NDArray[Any] | None = field(default=None, metadata=BY_ROW)


def outer(*numbers: int, names: bool = True) -> Outer:
    """Rows that say their number in every field."""
    array = np.array(numbers)
    columns = [Inner(array * 10), Inner(np.stack([array, array], 1), array > 2)]
    return Outer(array, [f"n{one}" for one in numbers] if names else None, Inner(array), columns, [len(numbers)])


def assert_rows(one: Outer, numbers: list[int], *, names: list[str] | None) -> None:
    assert one.numbers.tolist() == one.inner.values.tolist() == numbers
    assert one.names == names
    first, second = one.columns
    assert first.values.tolist() == [10 * number for number in numbers]
    assert second.values.tolist() == [[number, number] for number in numbers]
    assert second.mask is not None and second.mask.tolist() == [number > 2 for number in numbers]
    assert first.mask is one.inner.mask is one.absent is None


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (slice(1, 3), [2, 3]),
        (slice(None, None, 2), [1, 3]),
        (np.array([True, False, False, True]), [1, 4]),
        (np.zeros(4, bool), []),
        (np.array([3, 0, 0]), [4, 1, 1]),
        (np.array([], np.int64), []),
    ],
)
def test_some_rows(which: Any, expected: list[int], names: bool) -> None:
    whole = outer(1, 2, 3, 4, names=names)
    part = whole.rows(which)
    assert_rows(part, expected, names=[f"n{one}" for one in expected] if names else None)
    assert part.unit is whole.unit  # it belongs to no row
    assert_rows(whole, [1, 2, 3, 4], names=["n1", "n2", "n3", "n4"] if names else None)


def test_parts_are_joined_in_order() -> None:
    joined = Outer.joined([outer(1), outer(2, 3), outer(), outer(4)])
    assert_rows(joined, [1, 2, 3, 4], names=["n1", "n2", "n3", "n4"])
    assert joined.unit == [1]  # that of the first
    alone = outer(1, 2)
    assert_rows(Outer.joined([alone]), [1, 2], names=["n1", "n2"])
    unnamed = Outer.joined([outer(1), outer(2, names=False)])
    assert_rows(unnamed, [1, 2], names=None)  # of half of them nothing is known


def test_chosen_rows_are_filled_with_those_of_another() -> None:
    whole, which = outer(1, 2, 3, 4), np.array([False, True, False, True])
    assert_rows(whole.filled(which, outer(7, 8)), [1, 7, 3, 8], names=["n1", "n7", "n3", "n8"])
    assert_rows(whole, [1, 2, 3, 4], names=["n1", "n2", "n3", "n4"])  # as it was
    assert_rows(whole.filled(which, outer(7, 8, names=False)), [1, 7, 3, 8], names=["n1", "n2", "n3", "n4"])
    assert_rows(whole.filled(np.zeros(4, bool), outer()), [1, 2, 3, 4], names=["n1", "n2", "n3", "n4"])
    for other in (outer(7), outer(7, 8, 9)):
        with pytest.raises(ValueError, match="zip"):
            whole.filled(which, other)


def test_columns_must_be_as_many() -> None:
    fewer = replace(outer(2), columns=outer(2).columns[:1])
    with pytest.raises(ValueError, match="zip"):
        Outer.joined([outer(1), fewer])


def test_what_holds_no_columns_is_cut_too() -> None:
    assert replace(outer(1, 2), columns=[]).rows(slice(0, 0)).columns == []


def test_a_heatmap_is_data_by_row() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    whole = heatmap_of(values, [4, 5, 6], blank=[False, True, False], raw=values[:, :1, :1])
    parts = [whole.rows(slice(0, 1)), whole.rows(np.array([1, 2]))]
    again = type(whole).joined(parts)
    assert [len(part) for part in parts] == [1, 2]
    for name in ("values", "raw", "class_ids", "scores", "confidences", "blank"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    assert (again.method, again.layer, again.scaling) == ("grad_cam", "conv3", "scale_after_relu")
    assert "values=(3, 2, 2), raw=(3, 1, 1)" in repr(again)


def test_a_heatmap_as_a_dict_goes_through_json_and_says_all() -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 7
    heatmap = replace(heatmap_of(values, [4, -1]), confidences=np.array([0.25, np.nan], np.float32))
    said = json.loads(json.dumps(heatmap.to_dict()))
    assert set(said) == {one.name for one in fields(heatmap)}
    assert np.array_equal(np.array(said["values"], np.float32), values)
    assert said["class_ids"] == [4, -1] and said["confidences"] == [0.25, None]
    assert said["blank"] == heatmap.blank.tolist() and said["method"] == "grad_cam"
    broken = replace(heatmap, raw=np.array([[[np.inf]], [[2]]], np.float32))
    assert json.loads(json.dumps(broken.to_dict(), allow_nan=False))["raw"] == [[[None]], [[2.0]]]
    assert heatmap.to_dict(maps=False).keys() == said.keys() - {"values", "raw"}
