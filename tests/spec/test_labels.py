"""What labels of every form say: the same in the trace, in draw and report, in verdicts and remedies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import given
from hypothesis import strategies as st

from fe_gradcam import ArgumentError, UnknownNameError, draw, explain, find_shortcuts, retrain_head
from fe_gradcam.drawing.picture import as_explained
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.spec.images import host_rows
from fe_gradcam.spec.labels import inferred_of, is_true, is_wrong, labels_of_images, read_labels
from tests.models.toys import SmallTorch

NAMES = {"cat": 0, "dog": 2, "Kuh": 1}


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0, 1],
        [[2], [0], [1]],
        [2.0, 0.0, 1.0],
        np.array([2, 0, 1], np.uint8),
        np.eye(3)[[2, 0, 1]],
        [[0.1, 0.1, 0.8], [0.9, 0.05, 0.05], [0, 1, 0]],
        torch.tensor([2, 0, 1]),
        ["dog", "cat", "Kuh"],
        [["dog"], ["cat"], ["Kuh"]],
        [b"dog", b"cat", b"Kuh"],
        np.array(["dog", "cat", "Kuh"], object),
        tf.constant(["dog", "cat", "Kuh"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [None, 3])
def test_ids_are_read_from_every_form(labels: Any, count: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_labels(host_rows(labels), count, NAMES)
        passed = labels_of_images(labels, 3, {at: name for name, at in NAMES.items()}, count)
    assert found is not None
    for one in (found, passed):
        assert one.ids.tolist() == [2, 0, 1]
        assert one.ids.dtype == np.int64
        assert one.several is None
        assert not one.faults


@pytest.mark.parametrize(
    ("table", "ids", "several"),
    [
        ([[0, 1, 1], [1, 0, 0]], [1, 0], [[0, 1, 1], [1, 0, 0]]),
        ([[False, True, True], [True, True, True]], [1, 0], [[0, 1, 1], [1, 1, 1]]),
        ([[0.05, 0.95, 0.95], [0.95, 0.05, 0.05]], [1, 0], [[0, 1, 1], [1, 0, 0]]),  # smoothed
        ([[np.nan, 1, 1], [-1, 0, 0]], [1, -1], [[0, 1, 1], [0, 0, 0]]),  # not annotated
        ([[0, 0, 0], [1, 0, 1]], [-1, 0], [[0, 0, 0], [1, 0, 1]]),
        ([[0.3, 0.7, 0], [0.5, 0, 0.5]], [1, 0], None),  # mixup: one class
        ([[0, 0, 1], [0, 0, 0]], [2, -1], None),
        ([[0, 0, 0], [0, 0, 0]], [-1, -1], None),
    ],
)
def test_a_table_says_one_class_or_several(table: Any, ids: list[int], several: Any) -> None:
    found = read_labels(np.array(table))
    assert found is not None
    assert found.ids.tolist() == ids
    assert (found.several is None) == (several is None)
    if found.several is not None:
        assert found.several.astype(int).tolist() == several
    assert found.faults == ["an empty row"] * ids.count(-1)


def test_classes_that_the_model_lacks_are_not_true_ones() -> None:
    found = read_labels(np.array([[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 0]]), 3)
    assert found is not None
    assert found.ids.tolist() == [0, -1, 1]
    assert found.faults == ["3"]
    assert found.several is not None
    assert found.several.astype(int).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    "labels",
    [
        [0.5, 1.5],
        [[0, 255], [255, 0]],
        [[0.2, -0.5], [0.1, 0.4]],
        [[0, np.inf], [1, 0]],
        np.zeros((2, 0)),
        np.zeros((2, 2, 2)),
        [[1, 2], [3]],
        [None, None],
        ["cat", "dog"],
        [1 + 2j, 3],
    ],
    ids=str,
)
def test_what_has_no_form_of_labels_is_none(labels: Any) -> None:
    assert read_labels(labels) is None


@given(st.lists(st.lists(st.sampled_from([0, 1, np.nan, -1, 0.05, 0.95]), min_size=4, max_size=4), min_size=1))
def test_the_first_of_the_true_classes_is_shown_and_all_count(rows: list[list[float]]) -> None:
    found = read_labels(np.array(rows, float))
    assert found is not None
    classes = range(4)
    true = np.stack([is_true(np.full(len(rows), one), found.ids, found.several) for one in classes], 1)
    assert ((found.ids >= 0) == true.any(1)).all()
    assert (true.argmax(1)[found.ids >= 0] == found.ids[found.ids >= 0]).all()
    assert len(found.faults) == (found.ids < 0).sum()
    if found.several is not None:
        assert (true == (np.nan_to_num(np.array(rows)) >= 0.5)).all()


def test_no_class_is_a_true_one_of_an_image_without_one() -> None:
    assert is_true(np.array([-1, 0, 3]), np.array([-1, -1, -1])).tolist() == [False] * 3
    assert is_true(np.array([-1, 9]), np.array([0, 0]), np.array([[True], [True]])).tolist() == [False] * 2


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([1, 0, 1], ArgumentError, r"labels has shape \(3,\) and dtype int64; \(2,\) class ids are needed"),
        ([0.5, 1], ArgumentError, r"shape \(2,\) and dtype float64"),
        ([[0, 1], [1]], ArgumentError, "labels is a list that cannot be read as an array"),
        (5, ArgumentError, r"labels has shape \(\)"),
        (["one", "tow"], UnknownNameError, "labels holds 'tow', which is no name of class_names; did you mean 'two'"),
        (np.zeros((2, 4)), ArgumentError, r"or \(2, 5\) of 0 and 1"),
    ],
)
def test_labels_that_are_passed_along_are_checked(labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        labels_of_images(labels, 2, {1: "one", 2: "two"}, 5)


def test_names_need_class_names() -> None:
    with pytest.raises(ArgumentError, match="labels holds names, such as 'one', and class_names is not given"):
        labels_of_images(["one", "two"], 2, {})


TRUE = [2, 0, 1, 3, 4, 2]
FORMS: dict[str, Any] = {
    "ids": TRUE,
    "a column of floats": np.array(TRUE, np.float32)[:, None],
    "one-hot": np.eye(5, dtype=np.uint8)[TRUE],
    "smoothed": np.eye(5)[TRUE] * 0.9 + 0.02,
    "names": list("cabdec"),
    "a tensor": torch.tensor(TRUE),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_function_reads_labels_in_the_same_way(form: str) -> None:
    labels, names = FORMS[form], list("abcde")
    model, images = SmallTorch().eval(), torch.rand(6, 3, 9, 12)
    heat = explain(model, images)
    part = as_explained(images, heat, Look(), labels, class_names=names)
    assert part.labels is not None
    assert part.labels.tolist() == TRUE
    picture = draw(images, heat, labels=labels, class_names=names)
    assert (picture.rgb == draw(images, heat, labels=TRUE, class_names=names).rgb).all()
    found, of_ids = (find_shortcuts(model, images, each, class_names=names) for each in (labels, TRUE))
    assert list(map(str, found)) == list(map(str, of_ids))
    if form != "names":  # retrain_head has no class_names
        masks = np.ones((6, 9, 12), bool)
        one, other = (retrain_head(model, images, each, masks=masks, copies=1) for each in (labels, TRUE))
        for of_one, of_other in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(of_one, of_other)


def test_with_several_true_classes_each_is_right_everywhere() -> None:
    model, images = SmallTorch().eval(), torch.rand(6, 3, 9, 12)
    heat = explain(model, images)
    told = heat.class_ids
    table = np.zeros((6, 5), int)
    table[np.arange(6), (told + 1) % 5] = table[np.arange(6), told] = 1
    table[0] = [one not in (told[0],) for one in range(5)]
    part = as_explained(images, heat, Look(), table)
    assert part.wrong.tolist() == [True] + [False] * 5
    assert part.labels is not None
    assert part.labels.tolist() == table.argmax(1).tolist()


def test_where_the_probabilities_are_nan_no_class_is_inferred_and_none_is_wrong() -> None:
    nan = np.nan
    table = np.array([[0.2, 0.8], [nan, nan], [nan, 0.1], [0.4, nan], [nan, nan]], np.float32)
    inferred = inferred_of(table)
    assert inferred.tolist() == [1, -1, 1, 0, -1]
    assert inferred.dtype == np.int64
    assert is_wrong(inferred, np.array([0, 0, 1, -1, -1])).tolist() == [True, False, False, False, False]
    several = np.array([[1, 1], [1, 1], [1, 0], [0, 0], [0, 1]], bool)
    assert is_wrong(inferred, np.array([0, 0, 0, -1, 1]), several).tolist() == [False, False, True, False, False]
