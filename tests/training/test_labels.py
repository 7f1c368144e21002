"""Labels in every form that a training has them in, and what is said of those that name no class."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from fe_gradcam import ArgumentError, CamWarning
from fe_gradcam.training.labels import TrueClasses
from fe_gradcam.training.options import Classes

NAMES = {"cat": 0, "dog": 2, "Kuh": 1}


def reader(count: int | None = 3, names: Any = None) -> TrueClasses:
    true = TrueClasses("gradcam", "labels='y'", Classes.of(names))
    true.count = count
    return true


@pytest.mark.parametrize(
    ("labels", "ids", "shown"),
    [
        ([0, -1, 1], [0, -1, 1], "1 of 3 rows (-1)"),
        ([0, np.nan, 1], [0, -1, 1], "1 of 3 rows (nan)"),
        ([0, np.inf, -100, 2], [0, -1, -1, 2], "2 of 4 rows (inf, -100)"),
        ([0, 1, 2, 3], [0, 1, 2, -1], "1 of 4 rows (3)"),
        ([[0, 1, 0], [0, 0, 0], [1, 0, 0]], [1, -1, 0], "1 of 3 rows (an empty row)"),
        ([[0, 1, 0], [np.nan, 0, 0]], [1, -1], "1 of 2 rows (an empty row)"),
        ([[0, 1, 1], [0, 0, 0], [-1, 0, 1]], [1, -1, 2], "1 of 3 rows (an empty row)"),
        ([7, 8, 0], [-1, -1, 0], "2 of 3 rows (7, 8)"),
        ([77], [-1], "1 of 1 rows (77)"),
        ([[1, 0, 0, 0], [0, 0, 0, 1]], [0, -1], "1 of 2 rows (3)"),
        (["cat", "cow", "dog"], [0, -1, 2], "1 of 3 rows ('cow')"),
    ],
)
def test_a_row_without_a_class_is_minus_one_and_told_of_once(labels: Any, ids: list[int], shown: str) -> None:
    true = reader(names=NAMES)
    true.check(labels)
    with pytest.warns(CamWarning) as caught:
        assert true.read(labels).ids.tolist() == ids
        assert true.read(labels).ids.tolist() == ids
    (warning,) = caught
    assert f"labels='y' holds no true class in {shown}" in str(warning.message)
    assert "3 classes, ids 0 to 2" in str(warning.message)


def test_while_the_number_of_classes_is_not_known_any_id_may_be_one() -> None:
    assert reader(None).read([5, 7]).ids.tolist() == [5, 7]
    reader(None).check([5, 7])


@pytest.mark.parametrize(
    ("labels", "count", "refused"),
    [
        ([1, 2, 3, 3], 3, True),
        ([1, 2, 3], 3, False),  # a single image is no reason to end a training
        ([2, 3, 1, 1, 3], 3, True),
        ([0, 1, 2, 3], 3, False),  # 0 is there: the 3 is a fault of its own
        ([1, 2, 1, 2], 3, False),
        ([40, 7, 13, 52, 100], 100, False),  # too few of a hundred to say that 0 is missing
        ([*range(1, 60), 100, 100], 100, True),
    ],
)
def test_ids_that_count_from_one_are_told_from_single_faults(labels: list[int], count: int, refused: bool) -> None:
    true = reader(count)
    if not refused:
        true.check(labels)
        if count in labels:
            with pytest.warns(CamWarning) as caught:
                true.read(labels)
            advised = "If your ids count from 1, subtract 1." in str(caught[0].message)
            assert advised == (labels == [1, 2, 3])
        return
    with pytest.raises(ArgumentError, match=f"holds ids up to {count}, and none that is 0.*subtract 1"):
        true.check(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([7, 8, -1], r"no true class in 2 of 3 rows \(7, 8\).*Is it the right key"),
        ([-5, -5], r"2 of 2 rows \(-5\)"),
        ([10, 11, 12, 13, 14, 15, 16], r"7 of 7 rows \(10, 11, 12, 13, 14, \.\.\.\)"),
        (
            ["cow", "sow", "eel"],
            r"names that label_mapping lacks in 3 of 3 rows \('cow', 'sow', 'eel'\).*label_mapping has: 'cat'",
        ),
        ([0.5, 0.25], r"an array of shape \(2,\) and dtype float64"),
        ([[1, 2, 0], [0, 1, 0]], r"an array of shape \(2, 3\).*or a table \(N, C\)"),
        ([[0, 1], [1]], "holds a ragged list"),
        (np.zeros((2, 3, 3)), r"an array of shape \(2, 3, 3\)"),
        ([None, "cat"], "dtype object"),
    ],
)
def test_labels_none_of_which_can_be_read_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        reader(names=NAMES).check(labels)


def test_rows_that_say_that_they_have_no_class_are_never_an_error() -> None:
    reader().check([-1, -1, -1])


def test_names_need_a_mapping() -> None:
    with pytest.raises(ArgumentError, match=r"labels='y' holds strings \('cat', 'dog'\); class ids are needed"):
        reader().read(["cat", "dog", "cat"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": 1, "b": 2, "c": 3}, r"label_mapping has ids that are no classes \('c': 3\).*subtract 1"),
        ({"a": 0, "b": 7, "c": 8}, r"\('b': 7, 'c': 8\).*with ids of this model"),
    ],
)
def test_a_mapping_of_other_classes_is_refused(names: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        reader(names=names).check_names()
    reader(None, names).check_names()  # while nothing is known of the model


def test_of_a_mapping_with_one_name_too_many_the_warning_comes_once() -> None:
    true = reader(names={**NAMES, "void": 255})
    with pytest.warns(CamWarning, match=r"label_mapping has ids that are no classes \('void': 255\)") as caught:
        true.check_names()
        true.check_names()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(names=NAMES).check_names()


def test_a_byte_that_is_no_class_is_minus_one() -> None:
    with pytest.warns(CamWarning, match=r"labels='y' holds no true class in 1 of 2 rows \(255\)"):
        assert reader().read(np.array([255, 2], np.uint8)).ids.tolist() == [-1, 2]


@pytest.mark.parametrize("labels", [[np.nan, np.nan, np.nan, 2.0], np.eye(3)[[0, 0, 0, 2]] * [[0], [0], [0], [1]]])
def test_most_rows_of_a_first_batch_may_have_no_class(labels: Any) -> None:
    """As in semi-supervised training."""
    reader().check(labels)


def test_the_names_that_there_are_stand_in_the_warning() -> None:
    with pytest.warns(CamWarning, match=r"in 1 of 2 rows \('cow'\).*label_mapping has: 'cat', 'dog', 'Kuh'\."):
        reader(names=NAMES).read(["cow", "dog"])


def test_several_true_classes_are_no_mistake() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        true = reader(4)
        true.check([[0, 1, 0, 1], [1, 0, 0, 0]])
        found = true.read([[0, 1, 0, 1], [1, 0, 0, 0]])
    assert found.ids.tolist() == [1, 0]
    assert found.several is not None
    assert found.several.astype(int).tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
