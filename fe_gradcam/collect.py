"""What the trace keeps of an epoch: the chosen rows of the batches, on the CPU, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.types import ArgumentError


@dataclass(eq=False)
class Collected:
    """The first rows of an epoch under some keys of the batch.

    Args:
        keys: Which keys are kept.
        limit: How many rows are kept at the most; None keeps all.
    """

    keys: Sequence[str]
    limit: int | None
    count: int = 0
    largest_batch: int = 1
    _parts: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether no further row is wanted."""
        return self.limit is not None and self.count >= self.limit

    def add(self, batch: Mapping[str, Any]) -> None:
        """Keeps copies of the rows that are still wanted.

        Raises:
            ArgumentError: The keys hold different numbers of rows.
        """
        if self.full:
            return
        sizes = {key: len(batch[key]) for key in self.keys}
        if len(set(sizes.values())) != 1:
            raise ArgumentError(f"The keys of one batch hold different numbers of rows: {sizes}.")
        size = sizes[self.keys[0]]
        wanted = size if self.limit is None else min(size, self.limit - self.count)
        for key in self.keys:
            self._parts.setdefault(key, []).append(host_copy(batch[key], wanted))
        self.count += wanted
        self.largest_batch = max(self.largest_batch, size)

    def __getitem__(self, key: str) -> Any:
        """All kept rows of a key: an array, or a list where the batches held lists."""
        parts = self._parts[key]
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)
        return [row for part in parts for row in part]


def host_copy(value: Any, rows: int) -> Any:
    """The first rows of a tensor as a NumPy array of its own; of a list, a list."""
    if isinstance(value, torch.Tensor):
        kept = value[:rows].detach().cpu()
        return (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy().copy()
    if hasattr(value, "numpy"):
        return np.array(value[:rows].numpy())
    if isinstance(value, np.ndarray):
        return value[:rows].copy()
    return list(value[:rows])


def class_ids_of(values: Any, key: str) -> NDArray[np.int64]:
    """Class ids (N,) from labels (N,), (N, 1) or rows (N, C) that are one-hot or sum to 1; negative where unlabelled.

    Raises:
        ArgumentError: They are none of these, such as multi-hot rows.
    """
    labels = np.asarray(values)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and np.allclose(labels.sum(1), 1, atol=1e-3):
        return np.asarray(labels.argmax(1), np.int64)
    if labels.ndim == 1 and labels.dtype.kind in "biuf" and np.array_equal(labels, np.floor(labels)):
        return labels.astype(np.int64)
    raise ArgumentError(
        f"labels={key!r} holds an array of shape {labels.shape} and dtype {labels.dtype}; class ids (N,) or (N, 1), or "
        "one-hot rows (N, C), are needed. Several true classes per image cannot be shown: leave labels= out there."
    )


def probabilities_of(predictions: Any, key: str, are_probabilities: bool | None = None) -> NDArray[np.float32]:
    """Probabilities (N, C) from predictions: (N, C), or of a single output (N,) or (N, 1) for two classes.

    Args:
        predictions: What a model put out.
        key: Where they stood, for errors.
        are_probabilities: Whether they are probabilities, or else logits. None, where it is not known:
            they are if they lie in [0, 1] and, of several classes, every row sums to 1.

    Raises:
        ArgumentError: They have another shape.
    """
    table = np.asarray(predictions, np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise ArgumentError(f"preds={key!r} holds an array of shape {table.shape}; (N, C) or (N, 1) is needed.")
    inside = bool((table >= 0).all() and (table <= 1).all())
    if are_probabilities is not None:
        inside = inside and are_probabilities  # of a log-softmax they are logarithms, which serve as logits
    elif table.shape[1] > 1:
        inside = inside and np.allclose(table.sum(1), 1, atol=1e-3)
    if table.shape[1] == 1:
        positive = table if inside else 1 / (1 + np.exp(-np.clip(table, -500, 500)))
        return np.asarray(np.concatenate([1 - positive, positive], 1), np.float32)
    if not inside:
        table = np.exp(table - table.max(1, keepdims=True))
        table = table / table.sum(1, keepdims=True)
    return np.asarray(table, np.float32)


def ids_by_name(label_mapping: Mapping[str, Any] | None) -> dict[str, int]:
    """The class ids of a label mapping {class name: value}, by name.

    A value is a class id or a one-hot row; entries of another kind name no class.
    """
    ids: dict[str, int] = {}
    for name, value in (label_mapping or {}).items():
        try:
            array = np.asarray(value)
        except ValueError:
            continue
        if array.dtype.kind in "biuf" and array.size:
            ids[str(name)] = int(array.reshape(-1)[0]) if array.size == 1 else int(array.argmax())
    return ids


def names_by_id(ids: Mapping[str, int]) -> dict[int, str]:
    """The class names by id; of several names of one class the first."""
    names: dict[int, str] = {}
    for name, class_id in ids.items():
        names.setdefault(class_id, name)
    return names
