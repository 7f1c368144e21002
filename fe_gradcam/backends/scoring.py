"""What is differentiated, out of what a model put out: written once, over the operations of a framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from fe_gradcam.backends.known import Reading
from fe_gradcam.errors import Argument, ArgumentError, UnsupportedModelError
from fe_gradcam.spec.outputs import described
from fe_gradcam.spec.resolved import RegionTarget, ResolvedTarget
from fe_gradcam.types import Score

HeadKind = Literal["softmax", "sigmoid"]


class Head(NamedTuple):
    """The last softmax or sigmoid of a model, and over how many classes it went; logits are in the output's layout."""

    logits: Any
    kind: HeadKind
    classes: int

    def made(self, rows: Any) -> bool:
        """Whether a table came out of it: of a softmax with fewer classes some are missing."""
        return self.kind == "sigmoid" or bool(rows.shape[1] == self.classes)


Operation: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Operations:
    """What a framework calls what scores are made with; along the classes of a table (N, C), where there is an axis."""

    is_tensor: Callable[[Any], bool]
    where: Operation
    reshape: Operation
    beside: Operation
    argmax: Operation
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
    """What a target comes to: scores (N,), and the classes (N, M) or the mask (N, *S) that they are of, or None."""

    scores: Any
    came_to: Any = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model put out in a pass, as it is read.

    Attributes:
        by: The operations of its framework.
        output: As it is.
        count: N, where it is known.
        rows: (N, C) of the scores, of a segmentation (N * pixels, C); None where nothing plainly holds them.
        is_table: Whether the scores are a table (N, C).
        sides: *S where they can be those of every pixel, or None.
        places: The same where sides are symbols.
        head: The one that the rows came out of, with logits in their layout.
        reading: How the rows are read where there is no head.
        names: Of the model's outputs, where it knows them.
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
        """(N, C) the logits or what is made of probabilities in their place; the outputs; what makes the one the other.

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
        """What a target comes to, whose arrays are given as tensors.

        Raises:
            ArgumentError: A class that the model does not have, or a callable that returns no scores.
            UnsupportedModelError: The output does not hold what the target asks for.
        """
        if target.kind == "callable":
            return Scored(self._checked(target.called(self.output)))
        if target.kind == "region" and self.sides is None:
            raise UnsupportedModelError(
                "target=Segmentation needs the class scores of every pixel, (N, C, h, w) or on Keras (N, h, w, C), and "
                f"model returns {self._described}. Where the output has several parts, pass model_output= with the "
                "name or position of one."
            )
        if self.rows is None or (target.kind != "region" and not self.is_table):
            raise UnsupportedModelError(
                Argument("model"),
                f" returns {self._described} for {self.count or 1} image(s); one tensor (N, C) of class scores is "
                "needed. If the output has several parts, pass ",
                Argument("model_output", ""),
                " with the name or position of the one that holds them; of a segmentation pass "
                "target=Segmentation(class_id); else a callable target= that makes one score per image of it.",
            )
        if target.kind == "value":
            target.check(self.rows.shape[1])
            return Scored(target.sign * self.rows[:, target.index])
        logits, outputs, _ = self.scores
        table = logits if score == "logit" else outputs
        if target.kind == "region":
            return self._of_region(target, table, arrays)
        target.check(table.shape[1])
        class_ids = self._class_ids(table, arrays[0], target.ranked)
        chosen = self.by.gather(table, class_ids)
        return Scored(chosen[:, 0] if target.is_class else self.by.weighted(chosen, target.weights), class_ids)

    def _class_ids(self, table: Any, wanted: Any, ranked: bool) -> Any:
        """(N, M) class ids of scores (N, C), with the places in the order resolved; see ClassTarget."""
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
        mask = by.reshape(arrays[0] if arrays else by.float32(by.argmax(table) == target.class_id), shape)
        return Scored(by.total(by.reshape(by.float32(table[:, target.class_id]), shape) * mask), mask)

    def _checked(self, scores: Any) -> Any:
        came = tuple(scores.shape) if self.by.is_tensor(scores) else type(scores).__name__
        if isinstance(came, str) or len(came) != 1 or self.count not in (None, came[0]):
            raise ArgumentError(
                f"target, a callable, returned {came}; a tensor of shape (N,), one score per image, is needed."
            )
        return scores

    @property
    def _described(self) -> str:
        return described(self.output, self.by.is_tensor, self.names)
