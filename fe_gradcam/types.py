"""What the rooms of the package pass to each other: data and protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Flag, auto
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


Scaling: TypeAlias = Literal["scale_after_relu", "scale_before_relu", "none"]
"""How a signed map becomes a heatmap; see `fe_gradcam.scaling.scale`."""

Score: TypeAlias = Literal["logit", "output"]
"""Which score is differentiated: the class score before the softmax or sigmoid, or the model's output as it is."""

Target: TypeAlias = "int | str | NDArray[np.integer[Any]] | Sequence[int] | TargetSpec | Callable[[Any], Any] | None"
"""What is explained; see `fe_gradcam.explain`."""

Layer: TypeAlias = Any
"""A layer by its name or its index, or the module or Keras layer itself; None for the default layer; a list of
layers for one map fused from all of them."""

Fuse: TypeAlias = Literal["mean", "max"]
"""How the maps of several layers become one; see `fe_gradcam.scaling.fuse_maps`."""

Images: TypeAlias = Any
"""An array or tensor in the model's own layout: (N, C, H, W) or (N, H, W, C), for volumes (N, C, D, H, W) or
(N, D, H, W, C). A tuple of arrays or tensors for a model with several inputs."""

Method: TypeAlias = "str | tuple[str, Mapping[str, Any]]"
"""The name of a CAM method, or a pair of the name and its parameters by name."""

ClassNames: TypeAlias = "Sequence[str] | Mapping[int, str]"
"""Names of the classes: a sequence in the order of the class ids, or a dict {id: name}."""

Reshape: TypeAlias = "Callable[[Tensor], Tensor]"
"""Turns the output of a layer into a map (N, K, h, w). It may move, split and drop values, but not change them:
the gradients are reshaped by the same function."""

OF_TARGET = "evidence for the class"
"""What the heat of most methods means."""


class Needs(Flag):
    """What a CAM rule needs."""

    ACTIVATIONS = auto()
    """The output of a layer. A method that does not need it explains the whole model, whatever the layer."""
    GRADIENTS = auto()
    """The gradients of the score with respect to that output."""
    PROBE = auto()
    """The model itself, for further passes."""


class TargetSpec:
    """A target that says more than a class id: see `fe_gradcam.spec.targets`."""

    @property
    def name(self) -> str:
        """The target's name, as it is shown with a heatmap."""
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class LayerInfo:
    """A layer of a model, as one forward pass ran it.

    Attributes:
        name: Path of the layer in the model, as ``layer4.1.conv2``.
        kind: Name of the layer's class, as ``Conv2d``.
        shape: Shape of the output for one image, channels first: (K, *S). If tokens were recognised, the shape of
            the map that they make up.
        spatial: Whether the output is a map larger than 1x1.
        activation: Name of the activation function that is applied directly to the output, or None.
        tokens: Number of tokens in the output, if they were recognised as a map; else None.
        convolution: Whether the layer is a convolution.
        relu: Whether a ReLU follows the convolution, directly or behind a batch normalisation, or is fused into it.
        pooled: Whether the layer only pools its input, or passes on the output of such a layer; or has no layers inside
            and passes on what another put out, as dropout does.
        summed: Whether the output is a sum, as at the end of a residual block.
        default: Whether `layer=None` explains this layer.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    spatial: bool
    activation: str | None = None
    tokens: int | None = None
    convolution: bool = False
    relu: bool = False
    pooled: bool = False
    summed: bool = False
    default: bool = False


Place: TypeAlias = Literal["output", "activation", "convolution", "relu"]
"""Which tensor at a layer: its output; the output of the activation function applied directly to that; the output of
its convolution, before an activation fused into the layer; the output of the ReLU that follows, directly or behind a
batch normalisation, or is fused into the layer."""


@dataclass(frozen=True)
class LayerRef:
    """The place in the network that is explained: the path of a layer, and which tensor at that layer."""

    name: str
    place: Place = "output"

    def __str__(self) -> str:
        return f"{self.name} + {self.place}" if self.place in ("activation", "relu") else self.name


class Probe(Protocol):
    """Runs further passes of a model, for the methods that need more than one.

    The target stays as it was in the first pass: for example the class that was inferred then. `rows`, (B,), holds
    the index of the image that each row of a call belongs to.

    Attributes:
        images: (N, C, *S) float32, channels first, the input that is drawn on.
        at_once: How many rows one call should have.
        row_by_row: Whether the score of a row depends on that row alone, so that rows may be asked in any number and
            order. The score of a callable target may depend on the whole batch.
        progress: Whether a long run shows a progress bar.
        precision: The spacing of the model's numbers at 1.
        trial: Whether this run only tries the method: then the first few variants are enough.
    """

    images: Tensor
    at_once: int
    row_by_row: bool
    progress: bool
    precision: float
    trial: bool

    @property
    def at_once_behind(self) -> int:
        """How many rows of one image one call of `score_from` should have."""

    def score(self, images: Tensor, rows: Tensor) -> Tensor:
        """Scores (B,) for other images, (B, C, *S)."""

    def score_from(self, activations: Tensor, rows: Tensor) -> Tensor:
        """Scores (B,) if the output of the layer is replaced by `activations`, (B, K, *S)."""

    def gradients(self, images: Tensor, rows: Tensor) -> Tensor:
        """Gradients (B, K, *S) at the layer for other images, (B, C, *S)."""

    def hvp(self, vectors: Tensor) -> Tensor:
        """(N, K, *S): the Hessian of the score with respect to the activations, times `vectors` (N, K, *S)."""

    def bias_gradients(self) -> BiasGradients:
        """What the input and each bias of the network contribute to the score."""

    def attention_gradients(self, *, mean_token: bool) -> list[Tensor]:
        """A map (N, h, w) for each block of a transformer: how the score of its output tokens depends on its attention.

        With `mean_token` the score is that of the mean of these tokens, which takes the place of each of them.
        The maps hold the positive parts of the gradients, averaged over heads and queries, for the image's tokens.
        """


@dataclass(frozen=True, eq=False)
class BiasGradients:
    """A score split into parts; in a network of piecewise linear layers the parts sum to the score.

    Attributes:
        of_input: (N, C, *S), the input times its gradient.
        of_biases: For each layer with a spatial output, (N, K, *S): its biases times the gradients at its output.
        elsewhere: (N,), the sum of the parts of the layers without a spatial output.
        scores: (N,).
        precision: The spacing of the model's numbers at 1.
    """

    of_input: Tensor
    of_biases: list[Tensor]
    elsewhere: Tensor
    scores: Tensor
    precision: float


@dataclass(frozen=True, eq=False)
class CamInputs:
    """The result of one pass through the network for one target; a CAM rule reads nothing else.

    Attributes:
        activations: (N, K, *S) float32, the output of the explained layer, channels first.
        gradients: (N, K, *S) float32, of the score with respect to the activations, or None.
        scores: (N,) float32, the scores that were differentiated.
        class_ids: (N,) int64, the class of each image's target, -1 where the target is no class.
        logits: (N, C) float32, the class scores before softmax or sigmoid, or None.
        probabilities: (N, C) float32, or None if they are not known.
        images: The images as they were passed in.
        seed: Seed of the methods that draw random numbers.
        probe: Runs further passes of the model, or None if there is no model.
        pinned: The target as this pass resolved it, for example with the classes inferred; see
            `fe_gradcam.spec.resolved`.
    """

    activations: Tensor
    gradients: Tensor | None
    scores: Tensor
    class_ids: Tensor
    logits: Tensor | None = None
    probabilities: Tensor | None = None
    images: Images = None
    seed: int = 0
    probe: Probe | None = None
    pinned: Any = None


Entries: TypeAlias = "slice | NDArray[np.bool_] | NDArray[np.integer[Any]]"
"""Which images: a slice, a mask (N,) or indices."""

T = TypeVar("T", bound="ByRow")

BY_ROW = {"by_row": True}
"""Marks a field of a ByRow that holds an entry for each image: an array, a sequence, None, or several of ByRow."""


class ByRow:
    """Frozen data of N images: fields with an entry for each image are sliced, joined and filled together."""

    def rows(self: T, which: Entries) -> T:
        """The same data for some of the images."""

        def some(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return value[which]
            return [value[at] for at in np.arange(len(value))[which]]

        return self._with(some)

    def filled(self: T, which: NDArray[np.bool_], other: T) -> T:
        """A copy in which the rows that `which` chooses are those of `other`, which has as many rows."""

        def filled(value: Any, others: Any) -> Any:
            if others is None:
                return value
            changed = value.copy() if isinstance(value, np.ndarray) else list(value)
            for at, its in zip(np.flatnonzero(which), others, strict=True):
                changed[at] = its
            return changed

        return self._with(filled, other)

    @classmethod
    def joined(cls: type[T], parts: Sequence[T]) -> T:
        """The images of several parts in one; fields without an entry for each image are those of the first part."""

        def all_of(*values: Any) -> Any:
            if any(value is None for value in values):
                return None
            return np.concatenate(values) if isinstance(values[0], np.ndarray) else list(chain(*values))

        return parts[0]._with(all_of, *parts[1:]) if len(parts) > 1 else parts[0]

    def _with(self: T, change: Callable[..., Any], *others: T) -> T:
        """A copy with `change` applied to each field by row, with the same field of the others; None stays None."""

        def changed(value: Any, *its: Any) -> Any:
            if isinstance(value, ByRow):
                return value._with(change, *its)
            if isinstance(value, (list, tuple)) and value and all(isinstance(one, ByRow) for one in value):
                return [changed(*of_all) for of_all in zip(value, *its, strict=True)]
            return None if value is None else change(value, *its)

        names = [one.name for one in fields(self) if "by_row" in one.metadata]  # type: ignore[arg-type]
        entries = {name: changed(*(getattr(part, name) for part in (self, *others))) for name in names}
        return replace(self, **entries)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Heatmap(ByRow):
    """Heatmaps of N images, by one method, for one layer and one target per image.

    Attributes:
        values: (N, H, W) float32 at the size of the images, (N, D, H, W) for volumes. The two ReLU scalings give
            values within [0, 1], where 0 means no evidence. ``scaling="none"`` gives signed, unbounded values; if
            several layers were fused, these lie within [-1, 1].
        raw: (N, h, w) float32, (N, d, h, w) for volumes: the signed map of the method, at the size of the layer. If
            several layers were fused: the fused map, at the size of the images.
        class_ids: (N,) int64, -1 where the target is no class.
        scores: (N,) float32, the score that was differentiated: by default the logit of the class.
        confidences: (N,) float32, probability of the class in [0, 1]; NaN if it is not known or the target is no class.
        blank: (N,) bool, True where the signed map has no positive value beyond rounding error, or was not
            finite; with the two ReLU scalings the heatmap is zero there.
        method: Name of the method, followed by its parameters if some were given.
        target: What is explained: ``"pred"`` for the inferred class, a class by its name or id, or the target's name.
        smooth: How the map was smoothed, as ``"augment, eigen"``; empty if it was not.
        layer: Name of the layer, with `` + activation`` or `` + relu`` if the output of that function is explained;
            ``mean(a, b)`` or ``max(a, b)`` for several layers; ``whole model`` if the method uses no layer.
        scaling: Name of the scaling.
        of_layer: Whether the method explains a layer; if not, it explains the whole model.
        shows: What the heat means, in words.
        layer_kind: Name of the layer's class, as ``ReLU``; several are separated by commas; empty if it is not known.
    """

    values: NDArray[np.float32] = field(metadata=BY_ROW)
    raw: NDArray[np.float32] = field(metadata=BY_ROW)
    class_ids: NDArray[np.int64] = field(metadata=BY_ROW)
    scores: NDArray[np.float32] = field(metadata=BY_ROW)
    confidences: NDArray[np.float32] = field(metadata=BY_ROW)
    blank: NDArray[np.bool_] = field(metadata=BY_ROW)
    method: str
    layer: str
    scaling: Scaling
    target: str = "pred"
    smooth: str = ""
    of_layer: bool = True
    shows: str = OF_TARGET
    layer_kind: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def to_dict(self, *, maps: bool = True) -> dict[str, Any]:
        """The attributes by name, as lists, numbers and strings that JSON can hold.

        Args:
            maps: Whether `values` and `raw` are included, as nested lists of numbers; without them the dict is small.

        Returns:
            {attribute: value}. An attribute with an entry for each image is a list of N; NaN becomes None.
        """
        said: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if maps or one.name not in ("values", "raw"):
                said[one.name] = _in_lists(value) if isinstance(value, np.ndarray) else value
        return said

    def __repr__(self) -> str:
        said = (f"{name}={getattr(self, name)!r}" for name in ("method", "target", "layer", "scaling", "smooth"))
        return f"Heatmap({', '.join(said)}, values={self.values.shape}, raw={self.raw.shape})"


def _in_lists(array: NDArray[Any]) -> Any:
    """An array as nested lists; None for numbers that JSON does not know."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    table = array.astype(object)
    table[~np.isfinite(array)] = None
    return table.tolist()
