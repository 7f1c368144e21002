"""What is differentiated, out of what a PyTorch model put out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fe_gradcam.backends._shared import SUM_TOLERANCE, HeadKind, Reading, no_scores, no_table
from fe_gradcam.backends._torch_recorder import Head
from fe_gradcam.targets import ResolvedTarget, check_class_ids
from fe_gradcam.types import Score


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward pass.

    Attributes:
        leaf: (N, K, h, w) at the explained place, where autograd begins.
        output: Of the model.
        head: The softmax or sigmoid that the output came out of, or None.
        reading: How the output is read where there is no head.
    """

    leaf: Tensor
    output: Any
    head: Head | None
    reading: Reading = "logits"


@dataclass(frozen=True, eq=False)
class ClassScores:
    """The tables of an inference, (N, C); a single output makes two classes.

    Attributes:
        logits: Before softmax or sigmoid, or what was made of probabilities in their place.
        outputs: As the model put them out.
        probabilities: Detached, float32.
    """

    logits: Tensor
    outputs: Tensor
    probabilities: Tensor


def as_table(output: Any, count: int) -> Tensor | None:
    """Class scores as (N, C): of (N, C), (N,), of one image (C,) or (), trailing axes of size 1 left out.

    Returns:
        None where the output is none of these.
    """
    if not isinstance(output, Tensor) or any(size != 1 for size in output.shape[2:]):
        return None
    if output.dim() and output.shape[0] == count:
        return output.reshape(count, -1)
    return output.reshape(1, -1) if count == 1 and output.dim() < 2 else None


def head_for(output: Any, head: Head | None, count: int) -> Head | None:
    """The head, unless classes of its softmax are missing from the output."""
    table = as_table(output, count)
    if head is None or table is None or (head.kind == "softmax" and table.shape[1] != head.classes):
        return None
    return head


def class_scores(forward: Forward) -> ClassScores:
    """The tables of a pass.

    Raises:
        UnsupportedModelError: The output is no table of class scores.
    """
    output, head, count = forward.output, forward.head, len(forward.leaf)
    outputs = as_table(output, count)
    if outputs is None:
        shape = f"a tensor of shape {tuple(output.shape)} for {count} images" if isinstance(output, Tensor) else None
        raise no_table(shape or f"a {type(output).__name__}")
    logits = outputs if head is None else head.logits.reshape(count, -1)
    kind: HeadKind = "softmax" if head is None else head.kind
    are_probabilities = head is not None or forward.reading != "logits"
    if head is None and forward.reading != "logits":
        tiny = torch.finfo(logits.dtype).tiny
        kept = logits.clamp(min=tiny).log()
        if forward.reading == "probabilities":
            kind, kept = "sigmoid", kept - (1 - logits).clamp(min=tiny).log()
        logits = kept
    if logits.shape[1] == 1:
        logits, kind = torch.cat([-logits, logits], 1), "sigmoid"
        outputs = torch.cat([1 - outputs if are_probabilities else -outputs, outputs], 1)
    detached = logits.detach().float()
    probabilities = detached.softmax(1) if kind == "softmax" else detached.sigmoid()
    return ClassScores(logits, outputs, probabilities)


def target_scores(forward: Forward, target: ResolvedTarget, score: Score) -> tuple[Tensor, Tensor]:
    """(N,) scores and the class ids (N,) of a target.

    Raises:
        ArgumentError: A class that the model does not have, or a callable that returns no scores.
        UnsupportedModelError: The output is no table of class scores, and the target is a class.
    """
    count = len(forward.leaf)
    with torch.enable_grad():
        if target.score is not None:
            scores = target.score(forward.output)
            if not isinstance(scores, Tensor) or scores.shape != (count,):
                raise no_scores(tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__)
            return scores, torch.full((count,), -1, device=scores.device)
        tables = class_scores(forward)
        table = tables.logits if score == "logit" else tables.outputs
        wanted = np.asarray(target.class_ids)
        check_class_ids(wanted, table.shape[1])
        class_ids = torch.from_numpy(wanted).to(table.device)
        class_ids = torch.where(class_ids < 0, table.argmax(1), class_ids)
        return table.gather(1, class_ids[:, None])[:, 0], class_ids


def within_unit(table: Tensor) -> bool:
    """Whether all values of the finite rows lie in [0, 1]."""
    values = table.detach().reshape(len(table), -1)
    values = values[values.isfinite().all(1)]
    return bool(((values >= 0) & (values <= 1)).all())


def sums_to_one(table: Tensor) -> bool:
    """Whether there are several columns, and every finite row sums to 1."""
    sums = table.detach().float().sum(1)
    sums = sums[sums.isfinite()]
    return table.shape[1] > 1 and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
