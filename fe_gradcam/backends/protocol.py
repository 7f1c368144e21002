"""What both backends say and do alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from fe_gradcam.backends.known import Known, Reading, Which
from fe_gradcam.errors import CamError, CamWarning, UnsupportedModelError
from fe_gradcam.spec.images import as_tuple
from fe_gradcam.spec.resolved import ResolvedTarget, resolve_target
from fe_gradcam.types import BiasGradients, CamInputs, Images, Layer, LayerInfo, LayerRef, Score

if TYPE_CHECKING:
    from torch import Tensor


HALF_PRECISION_FACTOR = 1024.0
"""Scales the score of an fp16 model, so that small gradients do not fall below what fp16 can hold."""


SUM_TOLERANCE = 1e-3
"""How far from 1 a row of probabilities may sum; fp16 comes to 5e-4 over a thousand classes."""


STRETCHES = (30.0, -30.0, 1000.0, -1000.0)
"""By how much the images are scaled to see whether a model's outputs leave [0, 1]; bytes stay within their range."""


HeadKind = Literal["softmax", "sigmoid"]


def reading_of(
    known: Known, which: Which, *, within: bool, sums_to_one: bool, stays_within: Callable[[], bool]
) -> Reading:
    """How the outputs of a model without a visible head are read.

    Args:
        known: Of the model; what is found out of it is kept.
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
    if which not in known.bounded:
        known.bounded[which] = stays_within()
    return "probabilities" if known.bounded[which] else "logits"


def warn_of_probabilities(known: Known) -> None:
    """Says once per model that what stands in for the logit was made of the probability."""
    if not known.told:
        known.told = True
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
