"""Rows of an epoch, and probabilities from predictions of any form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError

OFF = 1e-3
"""How far rounding may move a probability outside 0 and 1."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an epoch, on the CPU.

    Attributes:
        values: An array (N, ...) for each part of the batches, or a list if the batches held lists.
        positions: (N,) the positions of the rows in the epoch.
        largest_batch: How many rows the largest batch had.
        of: How many rows the epoch had, as far as they were looked at.
    """

    values: Mapping[str, Any]
    positions: NDArray[np.int64]
    largest_batch: int = 1
    of: int = 0

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: str) -> Any:
        return self.values[part]

    def get(self, part: str) -> Any:
        """The values of a part, or None if the batches did not have it."""
        return self.values.get(part)

    def some(self, which: slice) -> Rows:
        """Some of the rows."""
        return replace(
            self, values={key: its[which] for key, its in self.values.items()}, positions=self.positions[which]
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several parts of the same rows."""
        values = {
            key: np.concatenate([part[key] for part in parts])
            if isinstance(its, np.ndarray)
            else [one for part in parts for one in part[key]]
            for key, its in parts[0].values.items()
        }
        return replace(parts[0], values=values, positions=np.concatenate([part.positions for part in parts]))


def input_names(count: int) -> list[str]:
    """The names of the model's inputs among the parts of a batch."""
    return ["images", *(f"images {number}" for number in range(2, count + 1))]


def probabilities_of(predictions: Any, called: str, are_probabilities: bool | None = None) -> NDArray[np.float32]:
    """Probabilities (N, C) from predictions (N, C), or from a single output (N,) or (N, 1) for two classes.

    Args:
        predictions: The output of a model.
        called: The name of the predictions in an error.
        are_probabilities: True for probabilities, False for logits. None if that is not known: predictions are
            probabilities if they lie in [0, 1] and, for several classes, every row sums to 1.

    Raises:
        ArgumentError: The predictions have another shape.
    """
    if np.asarray(predictions).dtype.kind in "iub":
        raise ArgumentError(
            f"{called} holds integers of shape {np.shape(predictions)}, so they seem to be class ids; the model's "
            "probabilities or logits (N, C) are needed, or (N, 1) if it has a single output."
        )
    table = np.asarray(predictions, np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise ArgumentError(f"{called} holds an array of shape {table.shape}; (N, C) or (N, 1) is needed.")
    inside = bool((table >= -OFF).all() and (table <= 1 + OFF).all())
    if are_probabilities is not None:
        inside = inside and are_probabilities  # outputs of a log-softmax are logarithms, which serve as logits
    elif table.shape[1] > 1:
        inside = inside and np.allclose(table.sum(1), 1, atol=1e-3)
    if inside:
        table = table.clip(0, 1)
    if table.shape[1] == 1:
        positive = table if inside else 1 / (1 + np.exp(-np.clip(table, -500, 500)))
        return np.asarray(np.concatenate([1 - positive, positive], 1), np.float32)
    if not inside:
        table = np.exp(table - table.max(1, keepdims=True))
        table = table / table.sum(1, keepdims=True)
    return np.asarray(table, np.float32)


def are_probabilities(predictions: Any, known: NDArray[np.float32]) -> bool | None:
    """Whether predictions are probabilities or logits, by comparison with the probabilities (N, C) of the same images.

    None if a row of several classes is neither; then the sums of the rows decide.
    """
    table = np.asarray(predictions, np.float64).reshape(len(known), -1)
    if table.shape[1] > 1:
        return True if table.shape == known.shape and np.allclose(table, known, atol=0.02) else None
    if (table < 0).any() or (table > 1).any():
        return False
    of_logits = 1 / (1 + np.exp(-table[:, 0]))
    return bool(np.abs(table[:, 0] - known[:, 1]).sum() <= np.abs(of_logits - known[:, 1]).sum())
