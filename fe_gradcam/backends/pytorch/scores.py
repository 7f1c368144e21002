"""The output of a PyTorch model, and the operations that make scores from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fe_gradcam.backends.scoring import Operations


def is_tensor(value: Any) -> bool:
    """Whether `value` is a PyTorch tensor."""
    return isinstance(value, Tensor)


OF_TORCH = Operations(
    is_tensor=is_tensor,
    where=torch.where,
    reshape=torch.reshape,
    beside=lambda tables: torch.cat(tables, 1),
    argmax=lambda table: table.argmax(1),
    top=lambda table: (lambda scores, ids: (scores, ids[:, None]))(*table.max(1)),
    falling=lambda table: torch.argsort(table, dim=1, descending=True, stable=True),
    gather=lambda table, ids: table.gather(1, ids.clamp(0, table.shape[1] - 1)),
    total=lambda values: values.flatten(1).sum(1),
    weighted=lambda chosen, weights: (chosen * chosen.new_tensor(weights)).sum(1),
    log=lambda table: table.clamp(min=torch.finfo(table.dtype).tiny).log(),
    softmax=lambda table: table.softmax(1),
    sigmoid=torch.sigmoid,
    float32=Tensor.float,
    int64=Tensor.long,
)


def is_table(output: Any, count: int) -> bool:
    """Whether `output` can be class scores: (N, C) or (N,), with trailing axes of size 1; for one image (C,) or ()."""
    if not isinstance(output, Tensor) or (output.dim() > 2 and output.shape[2:].numel() != 1):
        return False
    return output.shape[:1] == (count,) or (count == 1 and output.dim() < 2)


def is_segmentation(output: Any, count: int) -> bool:
    """Whether `output` can be the class scores of every pixel, (N, C, h, w), or (N, C, d, h, w) for volumes."""
    return isinstance(output, Tensor) and output.dim() in (4, 5) and len(output) == count


def as_rows(output: Tensor, count: int) -> Tensor:
    """Class scores as (N, C); for a segmentation, those of all pixels as (N * pixels, C)."""
    if is_table(output, count):
        return output if output.dim() == 2 else output.reshape(count, -1)
    return output.movedim(1, -1).reshape(-1, output.shape[1])
