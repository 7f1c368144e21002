"""What labels say: the true class of each image, or several of them. Every argument `labels` is read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, nearest
from fe_gradcam.spec.arrays import array_of

UNLABELLED = -1
"""The id of a row without a true class."""

WITHOUT_A_CLASS = (str(UNLABELLED), "nan", "an empty row")
"""How a row is written that plainly has no class; most of a batch may have none, in semi-supervised training."""

TRUE_FROM = 0.5
"""In a row of several classes, a class is a true one from this value on; smoothed labels stay on their side of it."""

LARGEST_ID = 2**31
"""Ids reach up to here while the number of classes is not known."""


class ReadLabels(NamedTuple):
    """The true classes of N images.

    Attributes:
        ids: (N,) the true class, the first if there are several; UNLABELLED for an image without one.
        several: (N, C) whether a class is a true one, if images have several; None if each has one at the most.
        faults: The values of the images without one, as text.
    """

    ids: NDArray[np.int64]
    several: NDArray[np.bool_] | None
    faults: list[str]


def read_labels(values: Any, count: int | None = None, names: Mapping[str, int] | None = None) -> ReadLabels | None:
    """The true classes that labels of any accepted form say; None if they have no such form.

    - Ids (N,) or (N, 1): whole numbers of any dtype. NaN, infinite and negative ones, and ids that are not classes of
      the model, say that the image has no true class.
    - Names (N,) or (N, 1), strings or bytes, with the ids that `names` has for them.
    - Tables (N, C). If the values of each row have the sum 1 (one-hot, label smoothing, mixup), the largest is the
      true class. Else each image may have several true classes, those with a value of 0.5 or more. NaN and -1 in a
      table say that a class is not known to be true. A row without a true class is an image without one.

    Args:
        values: The labels, on the CPU.
        count: How many classes the model has, if that is known.
        names: Class ids by name.
    """
    try:
        labels = np.asarray(values)
    except ValueError:  # a ragged list
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    words = words_of(labels)
    if words is not None:
        return None if not names else _of_names(words, count, names)
    if labels.dtype.kind not in "biuf":
        return None
    if labels.ndim == 1 and _whole(labels):
        usable = np.isfinite(labels) & (labels >= 0) & (labels < (LARGEST_ID if count is None else count))
        ids = np.full(len(labels), UNLABELLED, np.int64)  # bytes would make 255 of -1
        ids[usable] = labels[usable]
        return ReadLabels(ids, None, [f"{one:g}" for one in labels[~usable]])
    return _of_table(labels, count) if labels.ndim == 2 and labels.shape[1] else None


def words_of(labels: NDArray[Any]) -> list[str] | None:
    """Labels (N,) or (N, 1) that are strings or bytes, as strings; None for other labels."""
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "USO" or not len(flat):
        return None
    every = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in flat.tolist()]
    return every if all(isinstance(one, str) for one in every) else None


def labels_of_images(
    labels: Any, count: int, names: Mapping[int, str] | None, classes: int | None = None
) -> ReadLabels:
    """The true classes of N images that a caller passes along with them; see `read_labels`.

    Args:
        labels: The labels in any accepted form.
        count: The number of images.
        names: Names of the classes by id; None if the caller has no argument for them.
        classes: How many classes the model has, if that is known; tables have as many columns.

    Raises:
        ArgumentError: The labels have no such form, or are of another number of images.
        UnknownNameError: A name is not one of `names`.
    """
    given = array_of("labels", labels, f"({count},) class ids, or a table of 0 and 1.", kinds="biufUSO")
    known = {name: class_id for class_id, name in (names or {}).items()}
    words = words_of(given)
    if words is not None and names is not None and not known:
        raise ArgumentError(
            Argument("labels"),
            f" holds names, such as {words[0]!r}, and class_names is not given. Pass class_names= too, or class ids.",
        )
    for word in words or ():
        if names is not None and word not in known:
            raise UnknownNameError(
                Argument("labels"), f" holds {word!r}, which is no name of class_names{nearest(word, known)}"
            )
    found = read_labels(given, classes, known)
    width = given.shape[1] if given.ndim == 2 and given.shape[1] != 1 else None
    if found is None or len(found.ids) != count or (width is not None and classes not in (None, width)):
        raise ArgumentError(
            Argument("labels"),
            f" has shape {given.shape} and dtype {given.dtype}; ({count},) class ids are needed,"
            f"{' or names,' * (names is not None)} or ({count}, {classes or 'C'}) of 0 and 1 if an image may be of "
            "several classes.",
        )
    return found


def inferred_of(probabilities: NDArray[Any]) -> NDArray[np.int64]:
    """(N,) the most probable class of each row of (N, C); UNLABELLED where the probabilities are NaN, and none is."""
    known = ~np.isnan(probabilities)
    most = np.where(known, probabilities, -np.inf).argmax(1)
    return np.where(known.any(1), most, UNLABELLED).astype(np.int64)


def is_true(
    class_ids: NDArray[np.int64], labels: NDArray[np.int64], several: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """(N,) whether a class is a true one of each image; False for an image without one.

    Args:
        class_ids: (N,) a class for each image, such as the inferred one.
        labels: (N,) as `ReadLabels.ids`.
        several: (N, C) as `ReadLabels.several`.
    """
    found = (labels >= 0) & (labels == class_ids)
    if several is not None:
        known = (class_ids >= 0) & (class_ids < several.shape[1])
        found = found | (known & several[np.arange(len(several)), np.where(known, class_ids, 0)])
    return np.asarray(found)


def is_wrong(
    inferred: NDArray[np.int64], labels: NDArray[np.int64], several: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """(N,) whether the inferred class is no true one; False where one of them is not known. Arguments as `is_true`."""
    return np.asarray((labels >= 0) & (inferred >= 0) & ~is_true(inferred, labels, several))


def _of_names(words: list[str], count: int | None, names: Mapping[str, int]) -> ReadLabels:
    ids = np.array([names.get(word, UNLABELLED) for word in words], np.int64)
    usable = (ids >= 0) & (count is None or ids < count)
    faults = [repr(word) for word, fits in zip(words, usable, strict=True) if not fits]
    return ReadLabels(np.where(usable, ids, UNLABELLED), None, faults)


def _of_table(labels: NDArray[Any], count: int | None) -> ReadLabels | None:
    """Labels (N, C) of one class or several for each image; None if a value is no truth value."""
    given = labels.astype(np.float64)
    table = np.where(np.isnan(given) | (given == UNLABELLED), 0, given)
    if (table < 0).any() or (table > 1).any():
        return None
    empty = (table == 0).all(1)
    one_each = bool(np.allclose(table[~empty].sum(1), 1, atol=1e-3))
    largest = np.where(empty, UNLABELLED, table.argmax(1))
    true = np.arange(table.shape[1]) == largest[:, None] if one_each else table >= TRUE_FROM
    fits = true[:, : count or table.shape[1]]
    usable = fits.any(1)
    ids = np.where(usable, fits.argmax(1), UNLABELLED).astype(np.int64)
    faults = [str(int(row.argmax())) if row.any() else WITHOUT_A_CLASS[-1] for row in true[~usable]]
    return ReadLabels(ids, None if one_each else fits, faults)


def _whole(labels: NDArray[Any]) -> bool:
    """Whether all finite labels are whole numbers."""
    finite = labels[np.isfinite(labels)]
    return np.array_equal(finite, np.floor(finite))
