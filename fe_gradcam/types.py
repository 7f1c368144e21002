"""What the rooms of the package pass to each other: data, protocols and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

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
"""A layer's name, its index, the module or Keras layer itself, or None for the default; a list of
these for a map fused from several."""

Fuse: TypeAlias = Literal["mean", "max"]
"""How the maps of several layers become one; see `fe_gradcam.scaling.fuse_maps`."""

Images: TypeAlias = Any
"""An array or tensor in the model's own layout, (N, C, H, W) or (N, H, W, C), of volumes
(N, C, D, H, W) or (N, D, H, W, C); a tuple of them for a model with several inputs."""

ClassNames: TypeAlias = "Sequence[str] | Mapping[int, str]"
"""Names of classes: in the order of the ids, or by id."""

Reshape: TypeAlias = "Callable[[Tensor], Tensor]"
"""Makes a layer's output, as the layer puts it out, a map (N, K, h, w). It may move, split and leave
out, and nothing else: the gradients go the same way."""


class CamError(Exception):
    """Any error that this package raises on purpose."""


class ArgumentError(CamError, ValueError):
    """An argument has a value that is not accepted."""


class UnknownNameError(CamError, KeyError):
    """A name (of a layer, a method, a class) that does not exist; the message lists the nearest."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnsupportedModelError(CamError, TypeError):
    """A model, or an output of one, that cannot be explained as it is."""


class GradientError(CamError, RuntimeError):
    """The score depends on the layer, and yet no gradient reaches it."""


class CamWarning(UserWarning):
    """Something was shown that a user should know about before trusting it."""


class Needs(Flag):
    """What a CAM rule must be given besides the activations."""

    ACTIVATIONS = 0
    GRADIENTS = auto()
    PROBE = auto()


class TargetSpec:
    """A target that says more than a class id: see `fe_gradcam.targets`."""

    @property
    def name(self) -> str:
        """What it is called under a heatmap."""
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class LayerInfo:
    """A layer as one forward pass met it.

    Attributes:
        name: Its path in the model.
        kind: Its class.
        shape: Of its output for one image, channels first: (K, *S). Of tokens that were recognised,
            the map that they make up.
        spatial: Whether the output is a map larger than 1x1.
        activation: The activation function that takes the output up directly and is no layer of
            its own (a functional ReLU), or None.
        tokens: How many tokens the output has, of a transformer; None where it is a map as it is.
        convolution: Whether the layer is a convolution.
        relu: Whether a ReLU follows, directly or behind a batch normalisation, or is fused into it.
        pooled: Whether the layer only pools what it gets, or passes on what such a layer put out.
        default: Whether this is where `layer=None` explains.
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
"""Where at a layer: its output; behind the activation function that directly takes this up; what its
convolution puts out, before an activation fused into the layer; behind the ReLU that follows,
directly or behind a batch normalisation, or is fused into it."""


@dataclass(frozen=True)
class LayerRef:
    """The place in the network that is explained.

    Attributes:
        name: The layer's path in the model.
        place: Where at the layer.
    """

    name: str
    place: Place = "output"

    def __str__(self) -> str:
        return f"{self.name} + {self.place}" if self.place in ("activation", "relu") else self.name


class Probe(Protocol):
    """Asks the model again, for the methods that need more than one pass."""

    def score(self, images: Tensor) -> Tensor:
        """Scores (N,) of the target for other images (N, ...), in the model's own layout."""


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
        probe: Asks the model again, or None where there is no model at hand.
    """

    activations: Tensor
    gradients: Tensor | None
    scores: Tensor
    class_ids: Tensor
    logits: Tensor | None = None
    probabilities: Tensor | None = None
    images: Images = None
    probe: Probe | None = None


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Heatmaps of N images, by one method, for one layer and one target per image.

    Attributes:
        values: (N, H, W) float32 at the size of the images, of volumes (N, D, H, W). Within [0, 1]
            for the two ReLU scalings, where 0 means no evidence; signed and unbounded for
            ``scaling="none"``, save that fused maps of several layers lie in [-1, 1].
        raw: (N, h, w) float32 at the size of the layer, of volumes (N, d, h, w): the signed map of the
            method. Of several layers the fused map, at the size of the images.
        class_ids: (N,) int64, -1 where the target is no class.
        scores: (N,) float32, what was differentiated: by default the logit of the class.
        confidences: (N,) float32, probability of the class in [0, 1], NaN where the target is none.
        blank: (N,) bool, True where the signed map has no positive value beyond rounding, or was not
            finite; the ReLU scalings are zero there.
        method: Name of the method.
        layer: Name of the layer, with `` + activation`` or `` + relu`` where the place is behind that; of
            several ``mean(a, b)`` or ``max(a, b)``.
        scaling: Name of the scaling.
    """

    values: NDArray[np.float32]
    raw: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    confidences: NDArray[np.float32]
    blank: NDArray[np.bool_]
    method: str
    layer: str
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.values)
