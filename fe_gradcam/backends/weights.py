"""The weights of a model as one number, by which a reader knows that two files are of the same model."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import torch

MOST_HASHED = 500_000_000
"""Bytes of weights up to which they are hashed: more would take seconds."""


def weights_sha256(model: Any) -> str | None:
    """The SHA-256 of the weights and buffers of a model; None if they are more than MOST_HASHED, or no plain arrays."""
    found, size = sha256(), 0
    try:
        for name, data in _weights(model):
            size += len(data)
            if size > MOST_HASHED:
                return None
            found.update(name.encode())
            found.update(data)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # sparse, quantised, on no device
        return None
    return found.hexdigest() if size else None


def _weights(model: Any) -> Iterator[tuple[str, bytes]]:
    """The name of each weight, and its bytes."""
    if isinstance(model, torch.nn.Module):
        for name, value in model.state_dict().items():
            if isinstance(value, torch.Tensor):
                plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                yield f"{name} {value.dtype} {tuple(value.shape)}", plain.numpy().tobytes()
    else:
        for at, one in enumerate(model.weights):
            array = np.asarray(one.numpy())
            yield f"{at} {array.dtype} {array.shape}", array.tobytes()
