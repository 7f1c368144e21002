"""One model with images: what the package makes of them, and what plain calls of the model say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for, plain_for
from fe_gradcam.checking.places import Reading, readings
from fe_gradcam.errors import UnsupportedModelError
from fe_gradcam.explaining.route import explain
from fe_gradcam.spec.images import Inputs, host_rows
from fe_gradcam.types import Heatmap, Layer, LayerRef, Method

FAR = (-1000.0, -30.0, 30.0, 1000.0)
"""What images are multiplied by to see whether scores stay between 0 and 1."""


class NotApplicableError(Exception):
    """Why a test does not apply."""


@dataclass(eq=False)
class Subject:
    """A model, some images, and the arguments of `explain`."""

    model: Any
    inputs: Inputs
    layer: Layer | LayerRef
    target: Any
    method: Method
    asked: dict[str, Any]

    def __post_init__(self) -> None:
        self.reading: Reading | None = None
        self.images = self.inputs.given()
        self.plain = plain_for(self.model)
        self.rounding = backend_for(self.model).precision
        self.output = self.plain.run(self.images)
        self.repeats = self._same(self.plain.run(self.images))
        self._of_logs = False
        self.table: NDArray[Any] | None = self._table(self.output)
        if self.table is not None and self.asked["score"] != "output" and _are_logs(self.table):
            self._of_logs, self.table = True, np.exp(self.table)
        self.before = self.plain.state()
        self.heatmap = self.explained(self.method)
        self.after = self.plain.state()
        at_layer = self.heatmap if self.heatmap.of_layer else self.explained("grad_cam")
        self.sides: tuple[int, ...] = tuple(at_layer.raw.shape[1:])
        name, _, place = at_layer.layer.partition(" + ")
        self.ref = LayerRef(name, "activation" if place else "output")

    def explained(self, method: Method, target: Any = None, inputs: Inputs | None = None) -> Heatmap:
        """A heatmap by the package's own route, with signed values."""
        images, target = (inputs or self.inputs).given(), self.target if target is None else target
        return explain(
            self.model, images, method=method, layer=self.layer, target=target, scaling="none", progress=False,
            **self.asked,
        )  # fmt: skip

    def left(self) -> list[str]:
        """What of the model, the settings, the random streams and the output is not as it was before."""
        before, after, nothing = self.before, self.after, object()
        found = [name for name in {**before, **after} if before.get(name, nothing) != after.get(name, nothing)]
        unlike = self.repeats and not self._same(self.plain.run(self.images))
        return found + ["what the model puts out"] * unlike

    def _same(self, output: Any) -> bool:
        """Whether an output is that of the first plain call."""
        pairs = zip(self.plain.arrays(self.output), self.plain.arrays(output), strict=True)
        return all(np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True) for one, other in pairs)

    # --- the layer, by other means ---------------------------------------------------------------------------

    @cached_property
    def outputs(self) -> list[NDArray[Any]]:
        """What the layer puts out, (N, ...), once for each call; the last one counts."""
        found = list(self.plain.at(self.images, self.ref))
        if not found:
            raise NotApplicableError("a plain call of the model does not go through the layer.")
        return found

    @property
    def skip(self) -> int:
        """How many calls of the layer come before the one that counts."""
        return len(self.outputs) - 1

    @cached_property
    def readings(self) -> list[Reading]:
        """All ways in which the layer's output may hold maps of this size."""
        shape = self.outputs[-1].shape[1:]
        found = list(readings(shape, self.sides, self.asked["reshape"]))
        if not found:
            raise UnsupportedModelError(
                f"the layer's output, {shape} for an image, holds no map of {self.sides} in any layout. Pass reshape=."
            )
        return found

    # --- the score, by other means ---------------------------------------------------------------------------

    def _table(self, output: Any) -> Any:
        """The table of class scores in an output, or None; probabilities if these are put out as logarithms."""
        table = self.plain.table(output, self.asked["model_output"])
        return np.exp(table) if self._of_logs else table

    @cached_property
    def kind(self) -> str:
        """How the output is to be read: "logits", or as the probabilities of a "softmax" or a "sigmoid"."""
        table = self.table
        if table is None or self.asked["score"] == "output" or table.min() < 0 or table.max() > 1:
            return "logits"
        if table.shape[1] > 1 and np.allclose(table.sum(1), 1, atol=1e-3):
            return "softmax"
        probabilities = self.plain.heads(self.images, "sigmoid", table) or self._are_sigmoids(table) or self._stays()
        return "sigmoid" if probabilities else "logits"

    def _are_sigmoids(self, table: NDArray[Any]) -> bool:
        """Whether a sigmoid of the explained scores is what the model puts out, though no layer is one."""
        if callable(self.target):
            return False
        made = 1 / (1 + np.exp(-np.asarray(self.heatmap.scores, np.float64)))
        return np.allclose(made, self.by_class[np.arange(len(table)), self.ids], atol=1e-4)

    def _stays(self) -> bool:
        """Whether the model puts out nothing but numbers from 0 to 1, even for images far from any it was made for."""
        picture = np.asarray(host_rows(self.inputs.picture))
        if picture.dtype.kind != "f":
            return False
        far = [self.inputs.with_picture(picture * picture.dtype.type(factor)).given() for factor in FAR]
        tables = [self._table(self.plain.run(images)) for images in far]
        return all(bool(((table >= 0) & (table <= 1)).all()) for table in tables)

    @property
    def by_class(self) -> NDArray[Any]:
        """(N, C) the table; of probabilities in one column, which are those of class 1, both of class 0 and class 1."""
        if self.table is None:
            raise NotApplicableError("the model's output is no table of class scores.")
        return np.hstack((1 - self.table, self.table)) if self.table.shape[1] == 1 else self.table

    @cached_property
    def logits(self) -> str | None:
        """The name of the layer that puts out the logits, if the model puts out probabilities."""
        if self.kind == "logits" or self.table is None:
            return None
        name: str | None = self.plain.heads(self.images, self.kind, self.table)
        return name

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """(N,) the explained classes."""
        if self.table is None:
            raise NotApplicableError("the model's output is no table of class scores.")
        if self.target is not None:
            return np.asarray(self.target, np.int64)
        return np.asarray(self.heatmap.class_ids if self.table.shape[1] == 1 else self.table.argmax(1))

    @cached_property
    def rivals(self) -> NDArray[np.int64] | None:
        """The class that each is held against, where only differences of logits are known; otherwise None."""
        if callable(self.target) or self.kind != "softmax" or self.logits is not None or self.table is None:
            return None
        others = self.table.copy()
        others[np.arange(len(others)), self.ids] = -1
        return np.asarray(others.argmax(1))

    def scores(self, plain: Any, images: Any, change: Any) -> NDArray[Any]:
        """(N,) scores of a pass with another output of the layer."""
        if callable(self.target):
            return np.asarray(plain.numbers(self.target(plain.run(images, self.ref, change, skip=self.skip))))
        if self.logits is not None:
            table = plain.logits_of(self.logits, images, self.ref, change, self.skip)
        else:
            table = self._table(plain.run(images, self.ref, change, skip=self.skip))
            if self.kind == "sigmoid":
                table = _log(table) - _log(1 - table)
        rows = np.arange(len(table))
        if table.shape[1] == 1:
            return np.asarray(np.where(self.ids == 1, table[:, 0], -table[:, 0]))
        if self.rivals is not None:
            return np.asarray(_log(table[rows, self.ids]) - _log(table[rows, self.rivals]))
        return np.asarray(table[rows, self.ids])

    def maps(self, method: str) -> NDArray[Any]:
        """(N, *S) the package's heatmap of the score of `scores`."""
        own = self.explained(method, None if callable(self.target) else self.ids).raw.astype(np.float64)
        return own if self.rivals is None else own - self.explained(method, self.rivals).raw


def _are_logs(table: NDArray[Any]) -> bool:
    """Whether these are logarithms of probabilities that sum to 1."""
    return bool(table.shape[1] > 1 and table.max() <= 0 and np.allclose(np.exp(table).sum(1), 1, atol=1e-3))


def _log(table: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.log(np.maximum(table, np.finfo(np.float64).tiny)))
