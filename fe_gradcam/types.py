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
"""What is differentiated: the score before the softmax or sigmoid, or the output as it is."""

Target: TypeAlias = "int | str | NDArray[np.integer[Any]] | Sequence[int] | TargetSpec | Callable[[Any], Any] | None"
"""What is explained; see `fe_gradcam.explain`."""

Layer: TypeAlias = Any
"""A layer's name, its index, the module or Keras layer itself, or None for the default; or a list of
layers, whose maps are fused into one."""

Fuse: TypeAlias = Literal["mean", "max"]
"""How the maps of several layers become one; see `fe_gradcam.scaling.fuse_maps`."""

Images: TypeAlias = Any
"""An array or tensor in the model's own layout: (N, C, H, W) or (N, H, W, C); for volumes (N, C, D, H, W) or
(N, D, H, W, C). A model with several inputs takes a tuple of arrays."""

Method: TypeAlias = "str | tuple[str, Mapping[str, Any]]"
"""The name of a CAM method, or a pair of the name and its parameters by name."""

ClassNames: TypeAlias = "Sequence[str] | Mapping[int, str]"
"""Names of classes: in the order of the ids, or by id."""

Reshape: TypeAlias = "Callable[[Tensor], Tensor]"
"""Turns a layer's output, as the layer returns it, into a map (N, K, h, w). It may move, split and leave out
entries, and nothing else, because the gradients go the same way."""

OF_TARGET = "evidence for the class"
"""What the heat of most methods means."""


class Needs(Flag):
    """What a CAM rule must be given."""

    ACTIVATIONS = auto()
    """The output of a layer. A method without it explains the whole model, whatever the layer."""
    GRADIENTS = auto()
    """The gradients there."""
    PROBE = auto()
    """The model, to be asked again."""


class TargetSpec:
    """A target that says more than a class id: see `fe_gradcam.spec.targets`."""

    @property
    def name(self) -> str:
        """The name that stands under a heatmap."""
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class LayerInfo:
    """A layer as one forward pass met it.

    Attributes:
        name: The path of the layer in the model.
        kind: The class of the layer.
        shape: Shape of the output for one image, channels first: (K, *S). If the output is tokens that were
            recognised, the shape of the map that the tokens make up.
        spatial: Whether the output is a map larger than 1x1.
        activation: The activation function that is applied directly to the output and is not a layer
            itself (a functional ReLU), or None.
        tokens: How many tokens a transformer layer puts out; None if the output already is a map.
        convolution: Whether the layer is a convolution.
        relu: Whether a ReLU follows, directly or behind a batch normalisation, or is fused into it.
        pooled: Whether the layer only pools its input, or passes on the output of a layer that does.
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
    default: bool = False


Place: TypeAlias = Literal["output", "activation", "convolution", "relu"]
"""Where at a layer: at its output; behind the activation function that is applied directly to the output; at the
output of its convolution, before an activation that is fused into the layer; behind the ReLU that follows directly
or after a batch normalisation, or that is fused into the layer."""


@dataclass(frozen=True)
class LayerRef:
    """The place in the network that is explained: the path of a layer, and where at it."""

    name: str
    place: Place = "output"

    def __str__(self) -> str:
        return f"{self.name} + {self.place}" if self.place in ("activation", "relu") else self.name


class Probe(Protocol):
    """Asks the model again, for the methods that need more than one pass.

    What is explained stays what it was in the first pass: the class inferred there, for one. Rows say which
    image each asked row belongs to, (B,) of ids into the images of the pass.

    Attributes:
        images: (N, C, *S) float32, channels first, the input that is drawn on.
        at_once: How many rows to ask at once.
        row_by_row: Whether the score of a row does not depend on the other rows, so that rows may be asked in any
            number and order; a callable target may need the whole batch.
        progress: Whether a progress bar is shown during a long run.
        precision: The spacing of the model's numbers at 1.
        trial: Whether this run only tries whether all works, so that the first few of many variants are enough.
    """

    images: Tensor
    at_once: int
    row_by_row: bool
    progress: bool
    precision: float
    trial: bool

    def score(self, images: Tensor, rows: Tensor) -> Tensor:
        """Scores (B,) for other images, (B, C, *S)."""

    def score_from(self, activations: Tensor, rows: Tensor) -> Tensor:
        """Scores (B,) where the layer puts out `activations`, (B, K, *S), instead of its own."""

    def gradients(self, images: Tensor, rows: Tensor) -> Tensor:
        """Gradients (B, K, *S) at the layer for other images, (B, C, *S)."""

    def hvp(self, vectors: Tensor) -> Tensor:
        """The Hessian of the score with respect to the activations times `vectors`, both (N, K, *S)."""

    def bias_gradients(self) -> BiasGradients:
        """What the input and each bias of the network contribute to the score."""

    def attention_gradients(self) -> list[Tensor]:
        """For each block of a transformer, (N, h, w): how the score of the tokens behind it depends on its attention.

        These are the positive parts of the gradients, averaged over heads and queries, at the places of the image.
        """


@dataclass(frozen=True, eq=False)
class BiasGradients:
    """A score taken apart; in a network of piecewise linear layers the parts sum to the score.

    Attributes:
        of_input: (N, C, *S), the input times the gradient there.
        of_biases: For each layer with places, (N, K, *S): its biases times the gradients at its output.
        elsewhere: (N,), the sum of the parts of layers without places.
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
    """What one pass through the network yields for one target; a CAM rule reads nothing else.

    Attributes:
        activations: (N, K, *S) float32, the output of the explained layer, channels first.
        gradients: (N, K, *S) float32, of the score with respect to the activations, or None.
        scores: (N,) float32, what was differentiated.
        class_ids: (N,) int64, the class of each image's target, -1 where the target is no class.
        logits: (N, C) float32, the class scores before softmax or sigmoid, or None.
        probabilities: (N, C) float32, or None where they are not known.
        images: The images as they were passed in.
        seed: For the methods that draw random numbers.
        probe: Asks the model again, or None where there is no model at hand.
        pinned: The target with what it meant for these images, such as the class that was inferred; see
            `fe_gradcam.spec.targets`.
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
"""Some of the images: a slice, a mask (N,) or their numbers."""

T = TypeVar("T", bound="ByRow")

BY_ROW = {"by_row": True}
"""Marks a field of a ByRow that holds an entry for each image: an array, a sequence, None, or several of ByRow."""


class ByRow:
    """Frozen data of N images: the fields that hold an entry for each image are sliced, joined and filled together."""

    def rows(self: T, which: Entries) -> T:
        """The same for some of the images."""

        def some(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return value[which]
            return [value[at] for at in np.arange(len(value))[which]]

        return self._with(some)

    def filled(self: T, which: NDArray[np.bool_], other: T) -> T:
        """The same with the chosen entries replaced by those of `other`, which has as many as are chosen."""

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
        """The images of several parts, one after the other; fields that are not by image come from the first part."""

        def all_of(*values: Any) -> Any:
            if any(value is None for value in values):
                return None
            return np.concatenate(values) if isinstance(values[0], np.ndarray) else list(chain(*values))

        return parts[0]._with(all_of, *parts[1:]) if len(parts) > 1 else parts[0]

    def _with(self: T, change: Callable[..., Any], *others: T) -> T:
        """The same, each field by row changed together with that field of `others`; None stays None."""

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
        values: (N, H, W) float32 at the size of the images; for volumes (N, D, H, W). The two ReLU scalings
            give values in [0, 1], where 0 means no evidence. ``scaling="none"`` gives signed values without
            bounds, except that fused maps of several layers lie in [-1, 1].
        raw: (N, h, w) float32 at the size of the layer; for volumes (N, d, h, w): the signed map of the
            method. For several layers: the fused map, at the size of the images.
        class_ids: (N,) int64, -1 where the target is not a class.
        scores: (N,) float32, the score that was differentiated: by default the logit of the class.
        confidences: (N,) float32, probability of the class in [0, 1], NaN where the target is not a class.
        blank: (N,) bool, True where the signed map has no positive value beyond rounding, or was not
            finite; the ReLU scalings are zero there.
        method: Name of the method, followed by its parameters where some were given.
        target: What is explained: ``"pred"`` for the inferred class, a class by its name or id, or the target's name.
        smooth: How the map was smoothed, such as ``"augment, eigen"``; empty if it was not smoothed.
        layer: Name of the layer, with `` + activation`` or `` + relu`` if the map was taken behind these;
            ``mean(a, b)`` or ``max(a, b)`` for several layers; ``whole model`` if the method uses no layer.
        scaling: Name of the scaling.
        of_layer: True if the method explains a layer, False if it explains the whole model.
        shows: What the heat means, in words.
        layer_kind: Class of the layer, such as ``ReLU``; several are separated by commas; empty if not known.
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
            maps: Whether to include `values` and `raw`, as nested lists of numbers; without them the dict is small.

        Returns:
            {attribute: value}; an attribute with an entry for each image is a list of N, and NaN becomes None.
        """
        said: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if maps or one.name not in ("values", "raw"):
                said[one.name] = value.tolist() if isinstance(value, np.ndarray) else value
        for name in ("scores", "confidences"):
            said[name] = [number if np.isfinite(number) else None for number in said[name]]
        return said

    def __repr__(self) -> str:
        said = (f"{name}={getattr(self, name)!r}" for name in ("method", "target", "layer", "scaling", "smooth"))
        return f"Heatmap({', '.join(said)}, values={self.values.shape}, raw={self.raw.shape})"
