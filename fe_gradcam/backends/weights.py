"""The weights of a model as one number, by which a reader knows that two files are of the same model."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MOST_HASHED = 500_000_000
"""Bytes of weights up to which they are hashed: more would take seconds."""


def weights_sha256(model: Any) -> str | None:
    """The SHA-256 of the weights and buffers of a model; None if they are more than MOST_HASHED, or no plain arrays."""
    found, size = sha256(), 0
    try:
        for name, data in _weights(model):
            size += data.size
            if size > MOST_HASHED:
                return None
            found.update(name.encode())
            found.update(data.data)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # sparse, quantised, on no device
        return None
    return found.hexdigest() if size else None


def _weights(model: Any) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The name of each weight, and its bytes (n,), which are not copied where they lie in one piece."""
    if isinstance(model, torch.nn.Module):
        for name, value in model.state_dict().items():
            if isinstance(value, torch.Tensor):
                plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                yield f"{name} {value.dtype} {tuple(value.shape)}", plain.numpy()
    else:
        for at, one in enumerate(model.weights):
            array = np.asarray(one.numpy())
            yield f"{at} {array.dtype} {array.shape}", np.ascontiguousarray(array).reshape(-1).view(np.uint8)
