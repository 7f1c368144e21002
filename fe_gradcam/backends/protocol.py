"""What both backends say and do alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakKeyDictionary, WeakSet

from fe_gradcam.spec.targets import ResolvedTarget, resolve_target
from fe_gradcam.types import (
    ArgumentError,
    BiasGradients,
    CamError,
    CamInputs,
    CamWarning,
    GradientError,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Score,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from torch import Tensor

HALF_PRECISION_FACTOR = 1024.0
"""Scales the score of an fp16 model, so that small gradients do not fall below what fp16 can hold."""

SUM_TOLERANCE = 1e-3
"""How far from 1 a row of probabilities may sum; fp16 comes to 5e-4 over a thousand classes."""

STRETCHES = (30.0, -30.0, 1000.0, -1000.0)
"""By how much the images are scaled to see whether a model's outputs leave [0, 1]; bytes stay within their range."""

HeadKind = Literal["softmax", "sigmoid"]

Reading = Literal["logits", "distribution", "probabilities"]
"""How outputs are read where no softmax or sigmoid was found behind them: as logits, as rows of
probabilities that sum to 1, or as probabilities each by itself."""

_told_of_probabilities: WeakSet[Any] = WeakSet()
_bounded: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()


def reading_of(model: Any, which: Any, *, within: bool, sums_to_one: bool, stays_within: Callable[[], bool]) -> Reading:
    """How the outputs of a model without a visible head are read.

    Args:
        model: Whose outputs they are; what is found out of it is kept.
        which: Which of its outputs.
        within: Whether all outputs lie in [0, 1].
        sums_to_one: Whether every row of several sums to 1.
        stays_within: Whether they lie in [0, 1] for images far from any that the model knows; logits
            that lie there by chance do not.
    """
    if not within:
        return "logits"
    if sums_to_one:
        return "distribution"
    known = _bounded.setdefault(model, {})
    if which not in known:
        known[which] = stays_within()
    return "probabilities" if known[which] else "logits"


def as_tuple(images: Images) -> tuple[Any, ...]:
    """The inputs of a model, one or several."""
    return tuple(images) if isinstance(images, (tuple, list)) else (images,)


def picture_of(images: Images) -> Any:
    """The input that is drawn on: the first with two axes of space or more, or else the first."""
    parts = as_tuple(images)
    return next((part for part in parts if len(part.shape) >= 4), parts[0])


def warn_of_probabilities(model: Any) -> None:
    """Says once per model that what stands in for the logit was made of the probability."""
    if model not in _told_of_probabilities:
        _told_of_probabilities.add(model)
        warnings.warn(
            "The model's outputs are probabilities, and the softmax or sigmoid that made them was not found: log p (of "
            "probabilities that do not sum to 1, log p - log(1 - p)) is explained in place of the logit. Pass a model "
            "that returns logits to be exact.",
            CamWarning,
            stacklevel=2,
        )


def reaches(backend: Backend, layer: LayerRef, images: Images) -> bool:
    """Whether the score of the inferred class depends on the places of a layer's output."""
    target = resolve_target(None, len(as_tuple(images)[0]))
    try:
        (inputs,) = backend.run(images, layer, [target], gradients=True, score="logit")
    except UnsupportedModelError:  # no classes: a target of another kind will be asked for
        return True
    except CamError:
        return False
    return inputs.gradients is not None and bool((inputs.gradients != 0).any())


def check_rows(layer: LayerRef, rows: int, count: int) -> None:
    """Raises ArgumentError unless the layer's output has one row per image."""
    if rows != count:
        raise ArgumentError(
            f"layer={str(layer)!r} has an output of {rows} rows for {count} images; one row per image is needed. Pass "
            "another layer."
        )


def not_called(layer: LayerRef) -> ArgumentError:
    """The error for a place that the forward pass does not come by."""
    return ArgumentError(
        f"layer={str(layer)!r} is not called in the model's forward pass, or cannot be observed there, so it has no "
        "activations. Pass a layer that fe_gradcam.list_layers(model, images) shows."
    )


def no_tensor(layer: LayerRef, output: Any) -> UnsupportedModelError:
    """The error for a layer that returns something else."""
    return UnsupportedModelError(
        f"layer={layer.name!r} returns a {type(output).__name__}, not a tensor. Pass layer= with a layer inside it or "
        "behind it that returns the map alone."
    )


def no_gradient(layer: LayerRef, ways: str) -> GradientError:
    """The error for a score that depends on the layer while no gradient reaches it."""
    return GradientError(
        f"No gradient reaches layer={str(layer)!r}, though the score depends on it: the model stops it behind the "
        f"layer ({ways}). Pass layer= with a layer behind that place, or a model without it."
    )


def no_scores(came: object) -> ArgumentError:
    """The error for a callable target that returns something else than one score per image."""
    return ArgumentError(
        f"target, a callable, returned {came}; a tensor of shape (N,), one score per image, is needed."
    )


def no_table(described: str, count: int) -> UnsupportedModelError:
    """The error for a model whose output does not plainly hold a table of class scores."""
    return UnsupportedModelError(
        f"model returns {described} for {count} image(s); one tensor (N, C) of class scores is needed. Where the "
        "output has several parts, pass model_output= with the name or position of the one that holds them; of a "
        "segmentation pass target=Segmentation(class_id); else a callable target= that makes one score per image of it."
    )


def no_slope(images: Sequence[Any]) -> ArgumentError:
    """The error for images that no gradient can be taken of."""
    kinds = ", ".join(str(part.dtype) for part in images)
    return ArgumentError(
        f"images are of dtype {kinds}, and method='full_grad' needs the gradient of the score by the image, which "
        "integers do not have. Pass them as floats, or use another method."
    )


def no_attention() -> UnsupportedModelError:
    """The error for a model that is no vision transformer, or none whose blocks can be told apart."""
    return UnsupportedModelError(
        "method='le_grad' is defined for vision transformers, whose blocks each hold one attention over all tokens of "
        "the image and hand on as many tokens; no such blocks were seen in this model. Use method='grad_cam', which is "
        "defined for every network."
    )


def counts_its_images() -> UnsupportedModelError:
    """The error for a model behind whose blocks the tokens of several blocks cannot be asked as one batch."""
    return UnsupportedModelError(
        "method='le_grad' asks the classifier about the tokens behind all blocks as one batch, and this model gives "
        "another score then: behind its blocks it goes by the number of images in front. Use method='grad_cam'."
    )


def no_segmentation(described: str) -> UnsupportedModelError:
    """The error for a model whose output does not plainly hold scores of every pixel."""
    return UnsupportedModelError(
        f"target=Segmentation needs the class scores of every pixel, (N, C, h, w) or on Keras (N, h, w, C), and model "
        f"returns {described}. Where the output has several parts, pass model_output= with the name or position of one."
    )


class Backend(Protocol):
    """A model of one framework, made ready to be explained.

    Attributes:
        channels_first: Whether images are (N, C, *S), or else (N, *S, C).
        precision: The spacing of the model's numbers at 1.
    """

    channels_first: bool

    @property
    def precision(self) -> float:
        """The spacing of the model's numbers at 1."""

    def layers(self, images: Images) -> list[LayerInfo]:
        """The layers in the order in which a forward pass of `images` completes them."""

    def image_size(self, images: Images) -> tuple[int, ...]:
        """(H, W) of the images, of volumes (D, H, W); of the first input that is one where there are several."""

    def resolve(self, layer: Layer, images: Images) -> LayerRef:
        """The place that `layer` names; None chooses the default.

        Raises:
            UnknownNameError: There is no such layer.
        """

    def run(
        self, images: Images, layer: LayerRef, targets: Sequence[ResolvedTarget], *, gradients: bool, score: Score
    ) -> list[CamInputs]:
        """One forward pass of `images`, and one backward pass for each target where `gradients` are asked for.

        What comes back has no probe yet, and the seed is 0.

        Raises:
            GradientError: The score depends on the layer, and no gradient reaches it.
            UnsupportedModelError: The output does not plainly hold what a target asks for.
        """

    def changed_scores(
        self, images: Images, layer: LayerRef, change: Tensor, target: ResolvedTarget, score: Score
    ) -> Tensor:
        """Scores (B,) of a pass in which `change`, (B, K, *S), is added to what the layer puts out.

        There may be one image and several changes: then the network goes on with as many rows as there are changes.
        """

    def hvp(self, images: Images, layer: LayerRef, target: ResolvedTarget, vectors: Tensor, score: Score) -> Tensor:
        """The Hessian of the score with respect to the layer's output times `vectors`, both (N, K, *S)."""

    def bias_gradients(self, images: Images, layer: LayerRef, target: ResolvedTarget, score: Score) -> BiasGradients:
        """See `fe_gradcam.types.Probe`; the layer says nothing here."""

    def attention_gradients(
        self, images: Images, layer: LayerRef, target: ResolvedTarget, score: Score
    ) -> list[Tensor]:
        """See `fe_gradcam.types.Probe`; the layer says nothing here.

        Raises:
            UnsupportedModelError: The network has no blocks of attention over the image's tokens.
        """
