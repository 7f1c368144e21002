"""What the values of a batch say, whatever their framework and form: rows, class ids, probabilities, names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.metrics.measure import masks_of_boxes
from fe_gradcam.types import ArgumentError

OFF = 1e-3
"""How far a probability may be off 0 and 1 by rounding."""


def host_rows(value: Any, rows: slice | None = None) -> Any:
    """Rows of a tensor, all of them by default, as a NumPy array of its own; of a list, a list."""
    chosen = value[rows or slice(None)]
    if isinstance(chosen, torch.Tensor):
        kept = chosen.detach().cpu()
        return (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy().copy()
    if hasattr(chosen, "numpy"):
        return np.array(chosen.numpy())
    if isinstance(chosen, np.ndarray):
        return chosen.copy()
    return list(chosen)


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
    if np.asarray(predictions).dtype.kind in "iub":
        raise ArgumentError(
            f"preds={key!r} holds integers of shape {np.shape(predictions)}, as if they were class ids; the "
            "probabilities or logits (N, C) that the model puts out are needed, or (N, 1) of a single output."
        )
    table = np.asarray(predictions, np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise ArgumentError(f"preds={key!r} holds an array of shape {table.shape}; (N, C) or (N, 1) is needed.")
    inside = bool((table >= -OFF).all() and (table <= 1 + OFF).all())
    if are_probabilities is not None:
        inside = inside and are_probabilities  # of a log-softmax they are logarithms, which serve as logits
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
    """Whether predictions are probabilities, or else logits, held against the probabilities (N, C) of the same images.

    None, where a row of several classes is neither, and its sum is to tell.
    """
    table = np.asarray(predictions, np.float64).reshape(len(known), -1)
    if table.shape[1] > 1:
        return True if table.shape == known.shape and np.allclose(table, known, atol=0.02) else None
    if (table < 0).any() or (table > 1).any():
        return False
    of_logits = 1 / (1 + np.exp(-table[:, 0]))
    return bool(np.abs(table[:, 0] - known[:, 1]).sum() <= np.abs(of_logits - known[:, 1]).sum())


def object_places(masks: Any, boxes: Any, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Where the object of each image is, (N, H, W), from masks, boxes or both; None where neither is given.

    Args:
        masks: (N, h, w), or with one channel in front or behind; stretched to `size` where they have another. Of
            integers what is not 0 is the object, of floats what is 0.5 and more.
        boxes: (N, 4) or (N, M, 4): left, top, width and height in pixels; what stands behind these is not read.
        size: Of the images, (H, W).

    Raises:
        ArgumentError: They have another shape.
    """
    found = []
    if masks is not None:
        found.append(_of_masks(np.asarray(masks), size))
    if boxes is not None:
        table = np.asarray(boxes, np.float64)
        real = table[..., :4][(table[..., 2:4] > 0).all(-1)] if table.shape[-1] >= 4 else table[:0]
        if real.size and real.max() <= 1 and (real != np.floor(real)).any():
            raise ArgumentError(
                "boxes hold no number above 1, as if they were shares of the image; left, top, width and height in "
                f"pixels are needed: multiply by the size, {size[1]} and {size[0]}."
            )
        found.append(masks_of_boxes(table[:, None] if table.ndim == 2 else table, size))
    return None if not found else found[0] if len(found) == 1 else found[0] & found[1]


def _of_masks(masks: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    if masks.ndim != 3 or masks.dtype.kind not in "buif":
        raise ArgumentError(
            f"masks hold an array of shape {masks.shape} and dtype {masks.dtype}; (N, H, W), or with one channel, is "
            "needed."
        )
    inside = (masks >= 0.5 if masks.dtype.kind == "f" else masks != 0).astype(np.uint8)
    if inside.shape[1:] != tuple(size):
        stretched = [cv2.resize(one, (size[1], size[0]), interpolation=cv2.INTER_NEAREST) for one in inside]
        inside = np.stack(stretched)
    return np.asarray(inside > 0)


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
