"""Smoothing that composes with every method: over views of the image, and over the channels of a map."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress, product
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fe_gradcam.errors import Argument, ArgumentError, in_short, nearest
from fe_gradcam.methods.components import component_of, signed_like
from fe_gradcam.spec.arrays import listed
from fe_gradcam.spec.images import in_dtype

Flip: TypeAlias = Literal["horizontal", "vertical"]

FLIPS: dict[str, int] = {"horizontal": -1, "vertical": -2}
"""The axis that each flip reverses, counted from the last axis of space."""


@dataclass(frozen=True)
class Augment:
    """Test-time augmentation: the mean of the signed maps over several views of each image, flipped back.

    The views are all combinations of flips and factors. The target is that of the image itself in all views.

    Args:
        flips: A tuple of ``"horizontal"`` (swaps left and right) and ``"vertical"`` (swaps top and bottom), or an empty
            one: for an X-ray or a part in its fixture neither may make sense.
        factors: A tuple of numbers above 0 that the values of the input are multiplied by, with or without 1. Integers
            are rounded, and bytes are limited to 255.

    Raises:
        ArgumentError: `flips` or `factors` holds another value, or `factors` is empty; a ValueError.
    """

    flips: tuple[Flip, ...] = ("horizontal",)
    factors: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        accepted = f"a tuple of {', '.join(FLIPS)}, each once."
        given = listed("flips", self.flips, accepted)
        of_text = all(isinstance(flip, str) for flip in given)
        if not of_text or any(flip not in FLIPS or given.count(flip) > 1 for flip in given):
            raise ArgumentError(f"flips={in_short(self.flips)} is not accepted. Accepted: {accepted}")
        numbers = listed("factors", self.factors, "a tuple of numbers above 0.")
        if not numbers or not all(
            isinstance(one, Real) and not isinstance(one, bool) and 0 < float(one) < float("inf") for one in numbers
        ):
            raise ArgumentError(f"factors={in_short(numbers)} is not accepted. Accepted: a tuple of numbers above 0.")

    @property
    def views(self) -> list[View]:
        """All views; the image itself comes first if it is one of them."""
        axes = [
            tuple(FLIPS[flip] for flip in compress(self.flips, bits))
            for bits in product((False, True), repeat=len(self.flips))
        ]
        views = [View(flipped, float(factor)) for flipped in axes for factor in self.factors]
        return sorted(views, key=lambda view: not view.is_plain)


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Attributes:
        axes: The axes of space that are reversed, counted from the last.
        factor: The number that the values are multiplied by.
    """

    axes: tuple[int, ...] = ()
    factor: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether the view is the image as it is."""
        return not self.axes and self.factor == 1

    def of(self, images: Tensor, *, channels_first: bool) -> Tensor:
        """This view of images (N, C, *S) or (N, *S, C)."""
        turned = torch.flip(images, [axis if channels_first else axis - 1 for axis in self.axes])
        return turned if self.factor == 1 else in_dtype(turned * self.factor, images.dtype)

    def back(self, maps: Tensor) -> Tensor:
        """Maps (..., *S) of this view, flipped back onto the images themselves."""
        return torch.flip(maps, list(self.axes)) if self.axes else maps


PLAIN = View()

Smooth: TypeAlias = "Literal['augment', 'eigen'] | Augment"
"""``"augment"``: test-time augmentation with the settings of `Augment`; ``"eigen"``: see `eigen_smoothed`."""

SMOOTHS = ("augment", "eigen")


def smoothing(smooth: Any) -> tuple[list[View], bool]:
    """The views to average over, and whether channels are smoothed; `smooth` is None, a Smooth or several of them."""
    given = [] if smooth is None else list(smooth) if isinstance(smooth, (tuple, list)) else [smooth]
    kinds = ["augment" if isinstance(one, Augment) else one for one in given]
    words = [kind for kind in kinds if isinstance(kind, str)]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in SMOOTHS or words.count(kind) > 1:
            raise ArgumentError(
                Argument("smooth", in_short(smooth)),
                f" is not accepted{nearest(kind, SMOOTHS)} Accepted: None, 'augment' or an Augment, 'eigen', or a "
                "tuple of both.",
            )
    augments = [one if isinstance(one, Augment) else Augment() for one in given if one != "eigen"]
    return augments[0].views if augments else [PLAIN], "eigen" in kinds


def eigen_smoothed(terms: Tensor) -> Tensor:
    """The first principal component of a map's terms by channel, instead of their sum: what the channels share.

    A map without terms by channel stays as it is. The component is not centred, its sign agrees with the map, and its
    sum of squares is that of the map.

    Args:
        terms: (N, K, *S).

    Returns:
        (N, *S).
    """
    whole = terms.sum(1)
    if terms.shape[1] == 1:
        return whole
    shared = signed_like(component_of(terms, 1), whole)
    sizes = [maps.flatten(1).norm(dim=1) for maps in (whole, shared)]
    factor = sizes[0] / sizes[1].where(sizes[1] != 0, 1)
    smoothed: Tensor = shared * factor.reshape(-1, *[1] * (whole.dim() - 1))
    return smoothed
