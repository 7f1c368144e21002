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
from fe_gradcam.spec.images import Inputs
from fe_gradcam.types import Heatmap, Layer, LayerRef, Method


class NotApplicableError(Exception):
    """Why a test does not apply."""


@dataclass(eq=False)
class Subject:
    """A model, some images, and the arguments of `explain`."""

    model: Any
    inputs: Inputs
    layer: Layer
    target: Any
    method: Method
    asked: dict[str, Any]

    def __post_init__(self) -> None:
        self.images = self.inputs.given()
        self.plain = plain_for(self.model)
        self.rounding = backend_for(self.model).precision
        self.output = self.plain.run(self.images)
        self.table: NDArray[Any] | None = self.plain.table(self.output, self.asked["model_output"])
        self.before = self.plain.state()
        self.heatmap = self.explained(self.method)
        self.after = self.plain.state()
        name, _, place = self.heatmap.layer.partition(" + ")
        self.ref = LayerRef(name, "activation" if place else "output")

    def explained(self, method: Method, target: Any = None, inputs: Inputs | None = None) -> Heatmap:
        """A heatmap by the package's own route, with signed values."""
        images, target = (inputs or self.inputs).given(), self.target if target is None else target
        return explain(
            self.model, images, method=method, layer=self.layer, target=target, scaling="none", progress=False,
            **self.asked,
        )  # fmt: skip

    # --- the layer, by other means ---------------------------------------------------------------------------

    @cached_property
    def outputs(self) -> list[NDArray[Any]]:
        """What the layer puts out, (N, ...), once for each call; the last one counts."""
        if self.plain.framework == "keras" and self.ref.place != "output":
            raise NotApplicableError("the map is taken behind an activation function that is no layer of its own.")
        return list(self.plain.at(self.images, self.ref))

    @property
    def skip(self) -> int:
        """How many calls of the layer come before the one that counts."""
        return len(self.outputs) - 1

    @property
    def sides(self) -> tuple[int, ...]:
        """The size of the map."""
        return tuple(self.heatmap.raw.shape[1:])

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

    @cached_property
    def kind(self) -> str:
        """How the output is to be read: "logits", or as the probabilities of a "softmax" or a "sigmoid"."""
        table = self.table
        if table is None or self.asked["score"] == "output" or table.min() < 0 or table.max() > 1:
            return "logits"
        if table.shape[1] > 1 and np.allclose(table.sum(1), 1, atol=1e-3):
            return "softmax"
        return "sigmoid" if self.plain.heads(self.images, "sigmoid", table) or self._are_sigmoids(table) else "logits"

    def _are_sigmoids(self, table: NDArray[Any]) -> bool:
        """Whether a sigmoid of the explained scores is what the model puts out, though no layer is one."""
        if callable(self.target) or table.shape[1] == 1:
            return False
        scores = np.asarray(self.heatmap.scores, np.float64)
        return np.allclose(1 / (1 + np.exp(-scores)), table[np.arange(len(table)), self.ids], atol=1e-4)

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
            table = plain.table(plain.run(images, self.ref, change, skip=self.skip), self.asked["model_output"])
            if self.kind == "sigmoid":
                table = np.log(table) - np.log1p(-table)
        rows = np.arange(len(table))
        if table.shape[1] == 1:
            return np.asarray(np.where(self.ids == 1, table[:, 0], -table[:, 0]))
        if self.rivals is not None:
            return np.asarray(np.log(table[rows, self.ids]) - np.log(table[rows, self.rivals]))
        return np.asarray(table[rows, self.ids])

    def maps(self, method: str) -> NDArray[Any]:
        """(N, *S) the package's heatmap of the score of `scores`."""
        own = self.explained(method, None if callable(self.target) else self.ids).raw.astype(np.float64)
        return own if self.rivals is None else own - self.explained(method, self.rivals).raw
