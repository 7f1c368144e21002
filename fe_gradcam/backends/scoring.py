"""From the output of a model to the scores that are differentiated; written once, over a framework's operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fe_gradcam.backends.errors import not_by_image
from fe_gradcam.backends.known import Reading
from fe_gradcam.errors import Argument, ArgumentError, UnsupportedModelError
from fe_gradcam.spec.outputs import described
from fe_gradcam.spec.resolved import TOP_CLASS, RegionTarget, ResolvedTarget
from fe_gradcam.types import BiasGradients, Score

HeadKind = Literal["softmax", "sigmoid"]


class Head(NamedTuple):
    """The last softmax or sigmoid of a model, and its number of classes; logits are in the output's layout."""

    logits: Any
    kind: HeadKind
    classes: int

    def made(self, rows: Any) -> bool:
        """Whether the table is the output of this head; for a softmax, no class may be missing."""
        return self.kind == "sigmoid" or bool(rows.shape[1] == self.classes)


Operation: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Operations:
    """The operations of a framework that make scores; an operation along an axis goes along the classes (N, C).

    `top` makes the highest scores (N,) and their classes (N, 1).
    """

    is_tensor: Callable[[Any], bool]
    where: Operation
    reshape: Operation
    beside: Operation
    argmax: Operation
    top: Operation
    falling: Operation
    gather: Operation
    total: Operation
    weighted: Operation
    log: Operation
    softmax: Operation
    sigmoid: Operation
    float32: Operation
    int64: Operation


class Scored(NamedTuple):
    """The result for a target.

    Attributes:
        scores: (N,).
        came_to: The classes (N, M) or the mask (N, *S) of these, or None.
        table: The table (N, C) in which `came_to` says the place of each score, or None if they are made otherwise.
    """

    scores: Any
    came_to: Any = None
    table: Any = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """The output of a model in one pass, and how it is read.

    Attributes:
        by: The operations of the framework.
        output: The output as it is.
        count: N, if it is known.
        rows: The scores (N, C), for a segmentation (N * pixels, C); None if it is not certain which part holds them.
        is_table: Whether the scores are a table (N, C).
        sides: *S if the scores can be those of every pixel, or None.
        places: The same sides; symbols in a traced graph.
        head: The head that made the rows, with logits in their layout.
        reading: How the rows are read if there is no head.
        names: Names of the model's outputs, if the model has them.
    """

    by: Operations
    output: Any
    count: int | None
    rows: Any = None
    is_table: bool = False
    sides: tuple[int, ...] | None = None
    places: Sequence[Any] = ()
    head: Head | None = None
    reading: Reading = "logits"
    names: Sequence[str] | None = None

    @property
    def are_probabilities(self) -> bool:
        """Whether the outputs are probabilities."""
        return self.head is not None or self.reading != "logits"

    @cached_property
    def scores(self) -> tuple[Any, Any, HeadKind]:
        """The logits (N, C), or what replaces them if there are only probabilities; the outputs; the function between.

        A single output makes two classes.
        """
        by, outputs = self.by, self.rows
        kind: HeadKind
        logits, kind = (outputs, "softmax") if self.head is None else self.head[:2]
        if self.head is None and self.reading != "logits":
            kept = by.log(outputs)
            if self.reading == "probabilities":
                kind, kept = "sigmoid", kept - by.log(1 - outputs)
            logits = kept
        if logits.shape[1] == 1:
            logits, kind = by.beside([-logits, logits]), "sigmoid"
            outputs = by.beside([1 - outputs if self.are_probabilities else -outputs, outputs])
        return logits, outputs, kind

    @property
    def tables(self) -> tuple[Any, Any]:
        """The logits and probabilities (N, C), float32."""
        logits, _, kind = self.scores
        logits = self.by.float32(logits)
        return logits, self.by.softmax(logits) if kind == "softmax" else self.by.sigmoid(logits)

    def scored(self, target: ResolvedTarget, score: Score, arrays: Sequence[Any]) -> Scored:
        """The result for a target, with the target's arrays given as tensors; without them the inferred class is meant.

        Raises:
            ArgumentError: The model does not have the class, or the callable returns no scores.
            UnsupportedModelError: The output does not hold what the target needs.
        """
        if target.kind == "callable":
            return Scored(self._checked(target.called(self.output)))
        if target.kind == "region" and self.sides is None:
            raise UnsupportedModelError(
                "target=Segmentation needs the class scores of every pixel, (N, C, h, w) or on Keras (N, h, w, C), and "
                f"model returns {self._described}. If the output has several parts, pass model_output= with the "
                "name or position of the one that holds them."
            )
        if self.rows is None or (target.kind != "region" and not self.is_table):
            raise UnsupportedModelError(
                Argument("model"),
                f" returns {self._described} for {self.count or 1} image(s); one tensor (N, C) of class scores is "
                "needed. If the output has several parts, pass ",
                Argument("model_output", ""),
                " with the name or position of the one that holds them. For a segmentation model pass "
                "target=Segmentation(class_id). For any other output pass a callable target= that returns (N,) scores.",
            )
        if target.kind == "value":
            target.check(self.rows.shape[1])
            return Scored(target.sign * self.rows[:, target.index])
        logits, outputs, _ = self.scores
        table = logits if score == "logit" else outputs
        if target.kind == "region":
            return self._of_region(target, table, arrays)
        if not arrays:
            scores, class_ids = self.by.top(table)
            return Scored(scores, class_ids, table)
        target.check(table.shape[1])
        class_ids = self._class_ids(table, arrays[0], target.ranked)
        chosen = self.by.gather(table, class_ids)
        if target.is_class:
            return Scored(chosen[:, 0], class_ids, table)
        return Scored(self.by.weighted(chosen, target.weights), class_ids)

    def _class_ids(self, table: Any, wanted: Any, ranked: bool) -> Any:
        """(N, M) class ids for scores (N, C), with ranks turned into ids; see ClassTarget."""
        by = self.by
        if not ranked:
            return by.where(wanted < 0, by.argmax(table)[:, None], wanted)
        order = by.falling(table)
        first = by.where(wanted[:, :1] < 0, by.gather(order, -1 - wanted[:, :1]), wanted[:, :1])
        rank_of_first = by.argmax(by.int64(order == first))[:, None]
        rank = -1 - wanted[:, 1:]
        others = by.gather(order, rank + by.int64(rank >= rank_of_first))
        return by.beside([first, by.where(wanted[:, 1:] < 0, others, wanted[:, 1:])])

    def _of_region(self, target: RegionTarget, table: Any, arrays: Sequence[Any]) -> Scored:
        """The scores, and the mask (N, *S) that they are summed over."""
        by, shape = self.by, (-1, *self.places)
        target.check(self.sides or (), table.shape[1])
        if target.class_id == TOP_CLASS:
            top = by.gather(table, by.argmax(table)[:, None])[:, 0]
            return Scored(by.total(by.reshape(by.float32(top), shape)))
        mask = by.reshape(arrays[0] if arrays else by.float32(by.argmax(table) == target.class_id), shape)
        return Scored(by.total(by.reshape(by.float32(table[:, target.class_id]), shape) * mask), mask)

    def _checked(self, scores: Any) -> Any:
        came = tuple(scores.shape) if self.by.is_tensor(scores) else type(scores).__name__
        if isinstance(came, str) or len(came) != 1 or self.count not in (None, came[0]):
            raise ArgumentError(
                f"target is a callable that returned {came}; it must return a tensor (N,), one score per image."
            )
        return scores

    @property
    def _described(self) -> str:
        return described(self.output, self.by.is_tensor, self.names)


def taken_apart(terms: Sequence[Tensor], scores: Tensor, axes: int, precision: float) -> BiasGradients:
    """The terms of inputs and biases, split into spatial and others; the picture's is the first with so many axes.

    The terms are float32 and channels first: those of the inputs, and then those of the layers.
    """
    picture = next(at for at, term in enumerate(terms) if term.dim() == axes)
    with_places, elsewhere = [], torch.zeros_like(scores, dtype=torch.float32)
    for term in (*terms[:picture], *terms[picture + 1 :]):
        if len(term) != len(scores):
            raise not_by_image(len(term), len(scores))
        if term.dim() == axes and term[0, 0].numel() > 1:
            with_places.append(term)
        else:
            elsewhere = elsewhere + term.flatten(1).sum(1)
    return BiasGradients(terms[picture], with_places, elsewhere, scores.detach().float(), precision)
