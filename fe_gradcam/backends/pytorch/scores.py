"""What is differentiated, out of what a PyTorch model put out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fe_gradcam.backends.errors import no_scores, no_segmentation, no_table
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import HeadKind, Scored
from fe_gradcam.backends.pytorch.recorder import Head
from fe_gradcam.spec.outputs import described
from fe_gradcam.spec.resolved import ClassTarget, RegionTarget, ResolvedTarget
from fe_gradcam.types import Score


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward pass.

    Attributes:
        leaf: (N, ...) at the explained place, where autograd begins.
        output: Of the model.
        picked: What of it holds the scores, or None where nothing plainly does.
        head: The softmax or sigmoid that the scores came out of, or None.
        reading: How they are read where there is no head.
    """

    leaf: Tensor
    output: Any
    picked: Tensor | None
    head: Head | None = None
    reading: Reading = "logits"

    @property
    def is_table(self) -> bool:
        """Whether the scores are a table (N, C)."""
        return self.picked is not None and as_table(self.picked, len(self.leaf)) is not None


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


def is_segmentation(output: Any, count: int) -> bool:
    """Whether it can be the class scores of every pixel, (N, C, h, w) or of volumes (N, C, d, h, w)."""
    return isinstance(output, Tensor) and output.dim() in (4, 5) and len(output) == count


def as_rows(output: Tensor, count: int) -> Tensor:
    """A table as it is; of a segmentation the table of its pixels, (N * pixels, C)."""
    table = as_table(output, count)
    return output.movedim(1, -1).reshape(-1, output.shape[1]) if table is None else table


def head_for(output: Tensor, head: Head | None, count: int) -> Head | None:
    """The head, unless classes of its softmax are missing from the output."""
    if head is None or (head.kind == "softmax" and as_rows(output, count).shape[1] != head.classes):
        return None
    return head


def class_scores(forward: Forward) -> ClassScores:
    """The tables of a pass, of a segmentation those of its pixels.

    Raises:
        UnsupportedModelError: The output is no table of class scores.
    """
    head, count = forward.head, len(forward.leaf)
    if forward.picked is None:
        raise no_table(described(forward.output, is_tensor), count)
    outputs = as_rows(forward.picked, count)
    logits = outputs if head is None else as_rows(head.logits, count).reshape(outputs.shape)
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


def target_scores(forward: Forward, target: ResolvedTarget, score: Score) -> Scored:
    """The scores of a target.

    Raises:
        ArgumentError: A class that the model does not have, or a callable that returns no scores.
        UnsupportedModelError: The output does not hold what the target asks for.
    """
    count = len(forward.leaf)
    with torch.enable_grad():
        if target.kind == "callable":
            scores = target.called(forward.output)
            if not isinstance(scores, Tensor) or scores.shape != (count,):
                raise no_scores(tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__)
            return Scored(scores)
        if target.kind == "region":
            return _region_score(forward, target, score)
        if forward.picked is None or not forward.is_table:
            raise no_table(described(forward.output, is_tensor), count)
        if target.kind == "value":
            table = as_rows(forward.picked, count)
            target.check(table.shape[1])
            return Scored(target.sign * table[:, target.index])
        tables = class_scores(forward)
        table = tables.logits if score == "logit" else tables.outputs
        target.check(table.shape[1])
        class_ids = _class_ids(table.detach(), target)
        chosen = table.gather(1, class_ids)
        of_one = target.is_class
        return Scored(chosen[:, 0] if of_one else (chosen * chosen.new_tensor(target.weights)).sum(1), class_ids)


def _class_ids(table: Tensor, target: ClassTarget) -> Tensor:
    """(N, M) class ids of scores (N, C), with the places in the order resolved."""
    wanted = torch.from_numpy(np.asarray(target.by_image)).to(table.device)
    if not target.ranked:
        top = table.argmax(1, keepdim=True)
        return torch.where(wanted < 0, top, wanted)
    order = torch.argsort(table, dim=1, descending=True, stable=True)
    first = torch.where(wanted[:, :1] < 0, order.gather(1, (-1 - wanted[:, :1]).clamp(min=0)), wanted[:, :1])
    rank_of_first = (order == first).int().argmax(1, keepdim=True)
    rank = (-1 - wanted[:, 1:]).clamp(min=0)
    rank = (rank + (rank >= rank_of_first)).clamp(max=table.shape[1] - 1)
    others = torch.where(wanted[:, 1:] < 0, order.gather(1, rank), wanted[:, 1:])
    return torch.cat([first, others], 1)


def _region_score(forward: Forward, target: RegionTarget, score: Score) -> Scored:
    """The scores, and the mask (N, *S) that they are summed over."""
    count = len(forward.leaf)
    if forward.picked is None or not is_segmentation(forward.picked, count):
        raise no_segmentation(described(forward.output, is_tensor))
    tables = class_scores(forward)
    table = tables.logits if score == "logit" else tables.outputs
    target.check(tuple(forward.picked.shape[2:]), table.shape[1])
    of_class = table[:, target.class_id].reshape(count, -1)
    if target.by_image is None:
        counts = table.detach().argmax(1).reshape(count, -1) == target.class_id
    else:
        counts = torch.from_numpy(np.ascontiguousarray(target.by_image)).to(table.device).reshape(count, -1)
    mask = counts.reshape(count, *forward.picked.shape[2:])
    return Scored((of_class.float() * counts).sum(1), mask.float())


def is_tensor(value: Any) -> bool:
    """Whether it is a PyTorch tensor."""
    return isinstance(value, Tensor)
