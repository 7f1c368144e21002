"""The images that a model takes, whatever their framework: one input or several, one of them the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fe_gradcam.types import Images


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


def as_tuple(images: Images) -> tuple[Any, ...]:
    """The inputs of a model, one or several."""
    return tuple(images) if isinstance(images, (tuple, list)) else (images,)


def picture_of(images: Images) -> Any:
    """The input that is drawn on: the first with two axes of space or more, or else the first."""
    parts = as_tuple(images)
    return next((part for part in parts if len(part.shape) >= 4), parts[0])


def in_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in a dtype that a model may go by: of integers rounded, and within their range."""
    if dtype.is_floating_point or dtype == torch.bool:
        return images.to(dtype)
    reach = torch.iinfo(dtype)
    return images.round().clamp(reach.min, reach.max).to(dtype)
