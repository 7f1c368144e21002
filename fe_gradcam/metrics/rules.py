"""The metrics by name: what each metric says about a heatmap, and which parameters it takes.

Notation: Y is the probability of the explained class for an image, h its heat with negative values set to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from fe_gradcam.errors import ArgumentError
from fe_gradcam.methods.asking import SAME
from fe_gradcam.metrics.asked import Asked
from fe_gradcam.metrics.comparison import Values, randomised, rank_correlation
from fe_gradcam.metrics.imputation import FILLS, falling, filled, interpolated, replaced
from fe_gradcam.parameters import Catalogue, Count, Entry, Level, Within
from fe_gradcam.types import Heatmap

MetricSpec: TypeAlias = "str | tuple[str, Mapping[str, Any]]"
"""The name of a metric, or a pair of the name and its parameters by name."""

Again: TypeAlias = "Callable[[], Heatmap | NDArray[np.floating[Any]]]"
"""Explains the same images again with the model as it is then; returns an array if an array is measured."""

MetricNeeds: TypeAlias = Literal["model", "place", "again"]
"""What a metric needs: the model and the images; where the object is; the model and a way to explain again."""

Better: TypeAlias = Literal["higher", "lower"]

Fill: TypeAlias = Annotated[float | str, FILLS]
Percentages: TypeAlias = Annotated[tuple[float, ...], Within(0, 100)]


@dataclass(frozen=True, eq=False)
class Case:
    """The data that a metric reads; `places`, (N, *S), is True where the object is."""

    heatmap: Heatmap
    asked: Asked
    places: NDArray[np.bool_] | None = None
    again: Again | None = None

    @property
    def positive(self) -> NDArray[np.float32]:
        """(N, *S): the heat with negative values set to 0; all 0 for a blank heatmap."""
        blank = self.heatmap.blank.reshape(-1, *[1] * (self.heatmap.values.ndim - 1))
        return np.where(blank, np.float32(0), self.heatmap.values.clip(min=0))

    @cached_property
    def order(self) -> Tensor:
        """(N, *S): the rank of each pixel, the hottest first; pixels of equal heat are in random order."""
        heat = self.heatmap.values
        ties = self.asked.random.uniform(heat.shape[1:]).cpu().numpy()
        return torch.from_numpy(falling(heat, ties)).to(self.asked.picture.device)

    @cached_property
    def shown(self) -> Values:
        """(N,): the probability O for the image multiplied by its heat within [0, 1]."""
        flat = self.positive.reshape(len(self.heatmap), -1)
        largest = flat.max(1, keepdims=True)
        heat = torch.from_numpy((flat / np.where(largest > 0, largest, 1)).reshape(self.heatmap.values.shape))
        picture = self.asked.picture
        rows = torch.arange(len(picture))
        return _numpy64(self.asked(rows, lambda at: picture[at] * heat[at, None].to(picture.device)))

    @property
    def inside(self) -> tuple[Values, Values]:
        """Both (N,): the object's share of the heat, and its share of the image; NaN if there is none."""
        masks = cast(NDArray[np.bool_], self.places)
        axes = tuple(range(1, masks.ndim))
        heat, area = self.positive.astype(np.float64), masks.mean(axes)
        return _ratio((heat * masks).sum(axes), heat.sum(axes)), np.where(area > 0, area, np.nan)


def _ratio(above: Values, below: Values) -> Values:
    """The quotient; NaN where `below` is 0 or nearly 0."""
    something = below > np.finfo(np.float32).tiny
    return np.where(something, above / np.where(something, below, 1), np.nan)


def _numpy64(tensor: Tensor) -> Values:
    return tensor.double().cpu().numpy()


@dataclass(frozen=True)
class Metric(Entry):
    """A metric; `better` says whether higher or lower values are better."""

    better: Better
    needs: MetricNeeds = "model"

    def __call__(self, case: Case) -> Values:
        """(N,); NaN if an image has no value."""
        found: Values = self.rule(case, **self.given)
        return found


METRICS: Catalogue[Metric] = Catalogue(Metric, "metric", ("deletion", {"steps": 16}))
metric = METRICS.register


@metric("average_drop", paper="arXiv:1710.11063", better="lower")
def average_drop(case: Case) -> Values:
    """The share of the probability that is lost if the image is multiplied by its heat: max(0, Y - O) / Y, 0 to 1.

    O is the probability for the image multiplied by h / max h, or by 0 if the heat is blank. NaN if Y is 0.
    Source: Chattopadhay 2018 (Grad-CAM++).
    """
    before = _numpy64(case.asked.plain)
    return _ratio((before - case.shown).clip(min=0), before)


@metric("increase", paper="arXiv:1710.11063", better="higher")
def increase(case: Case) -> Values:
    """Whether the probability grows if the image is multiplied by its heat: 1 if O > Y beyond rounding, else 0.

    O is that of `average_drop`. Source: Chattopadhay 2018 (Grad-CAM++), whose figure is the mean in percent.
    """
    before = _numpy64(case.asked.plain)
    return (case.shown - before > SAME * case.shown).astype(np.float64)


@metric("deletion", paper="arXiv:1806.07421", better="lower")
def deletion(case: Case, *, steps: Count = 32, baseline: Fill = 0.0) -> Values:
    """The mean probability while the image's pixels are deleted, the hottest first: the area under that curve, 0 to 1.

    Pixels of equal heat are deleted in random order; in blank heat these are all. `baseline` is what pixels become: a
    number, "mean" (each image's, by channel) or "blur"; see `imputation.replaced`. Source: Petsiuk 2018 (RISE).
    """
    picture = case.asked.picture
    return _numpy64(replaced(case.asked, picture, filled(picture, baseline), case.order, steps))


@metric("insertion", paper="arXiv:1806.07421", better="higher")
def insertion(case: Case, *, steps: Count = 32, baseline: Fill = "blur") -> Values:
    """The mean probability while the image's pixels are inserted, the hottest first: the area under that curve, 0 to 1.

    The pixels are inserted into the `baseline`, by default the image under a Gaussian blur, as in the paper. All else
    is as in `deletion`. Source: Petsiuk 2018 (RISE).
    """
    picture = case.asked.picture
    return _numpy64(replaced(case.asked, filled(picture, baseline), picture, case.order, steps))


@metric("road", paper="arXiv:2202.00449", better="higher")
def road(case: Case, *, percentiles: Percentages = (20, 40, 60, 80), noise: Level = 0.01) -> Values:
    """The mean over percentiles of (p without the least relevant pixels - p without the most relevant) / 2.

    A percentile is the percentage of pixels that are removed, the coldest (least relevant) or the hottest ones. They
    are filled in by noisy linear imputation: each is the weighted mean of its eight neighbours (1/6 across an edge,
    1/12 across a corner; a sparse system of equations), plus normal noise of standard deviation `noise` in the units of
    the images. At least one pixel stays. The value is from -1/2 to 1/2; 0 means that the heat knows nothing, and is
    also the mean for blank heat, whose order is random.

    Source: Rong 2022 (ROAD), which gives the imputation and both curves; their difference as one figure is the
    "combined" form of its common implementations. The paper retrains nothing, as here.
    """
    picture, order = case.asked.picture, case.order.cpu().numpy()
    if picture.dim() != 4:
        raise ArgumentError(
            f"metric='road' is defined for images with two axes of space, and images has shape {tuple(picture.shape)}. "
            "Use 'deletion' or 'insertion', which take volumes too."
        )
    pixels = order[0].size
    removed = [min(round(percent / 100 * pixels), pixels - 1) for percent in percentiles]
    versions = 2 * len(removed)
    rows = torch.arange(len(picture)).repeat_interleave(versions)

    def filled_in(at: Tensor) -> Tensor:
        made = []
        for row, which in zip((at // versions).tolist(), (at % versions).tolist(), strict=True):
            place, count = order[row], removed[which // 2]
            missing = place < count if which % 2 else place >= pixels - count
            image = torch.from_numpy(interpolated(picture[row].cpu().numpy(), missing))
            drawn = case.asked.random.normal(torch.tensor([row]), torch.tensor([which + 1]), image.shape)[0]
            made.append(image + noise * drawn * torch.from_numpy(missing))
        return torch.stack(made).to(picture.device)

    without = _numpy64(case.asked(rows, filled_in)).reshape(len(picture), -1, 2)
    return np.asarray((without[..., 0] - without[..., 1]).mean(1) / 2)


@metric("pointing_game", paper="arXiv:1608.00507", better="higher", needs="place")
def pointing_game(case: Case, *, tolerance: Level = 0.0) -> Values:
    """Whether one of the hottest pixels lies in the object: 1 or 0.

    `tolerance` widens the object by so many pixels; the paper has 15. Heat that is blank or the same everywhere points
    nowhere: 0. NaN for an image without an object. Source: Zhang 2018 (excitation backpropagation).
    """
    heat, (_, area) = case.positive, case.inside
    values = np.full(len(heat), np.nan)
    for row in np.flatnonzero(~np.isnan(area)):
        hottest = (heat[row] == heat[row].max()) & (heat[row].min() < heat[row].max())
        near = distance_transform_edt(~cast(NDArray[np.bool_], case.places)[row]) <= tolerance
        values[row] = (hottest & near).any()
    return values


@metric("energy_inside", paper="arXiv:1910.01279", better="higher", needs="place")
def energy_inside(case: Case) -> Values:
    """The share of the heat that lies in the object: the sum of h there divided by the sum of h, 0 to 1.

    NaN for blank heat and for an image without an object. Source: the energy-based pointing game of Wang 2020
    (Score-CAM).
    """
    share, area = case.inside
    return np.where(np.isnan(area), np.nan, share)


@metric("energy_ratio", paper="arXiv:1910.01279", better="higher", needs="place")
def energy_ratio(case: Case) -> Values:
    """`energy_inside` divided by the object's share of the image, from 0; 1 is heat that ignores the object.

    NaN as in `energy_inside`. Source: the energy-based pointing game of Wang 2020 (Score-CAM); the divisor, which makes
    objects of different sizes comparable, is ours.
    """
    share, area = case.inside
    return share / area


@metric("sanity", paper="arXiv:1810.03292", better="lower", needs="again")
def sanity(case: Case) -> Values:
    """How similar the map is to that of the model with shuffled weights: the absolute rank correlation, 0 to 1.

    Near 0 the map depends on what the model learnt; near 1 it would be the same for a model that knows nothing. Both
    maps are signed and at the size of the layer (`Heatmap.raw`); `randomised` shuffles the values of each weight
    tensor. NaN for a blank heatmap; 0 if only the other map is constant.

    Source: Adebayo 2018. This is the last step of its cascading randomisation, but the weights of all layers are
    permuted, not initialised anew.
    """
    asked, raw = case.asked, case.heatmap.raw
    with randomised(asked.model, asked.seed):
        other: Any = cast(Again, case.again)()
    maps = other.raw if isinstance(other, Heatmap) else other
    if not isinstance(maps, np.ndarray) or maps.shape != raw.shape:
        came = f"maps of shape {maps.shape}" if isinstance(maps, np.ndarray) else f"a {type(other).__name__}"
        raise ArgumentError(
            f"again returned {came}. Accepted: a Heatmap, or an array, of the same images at the same layer, with maps "
            f"of shape {raw.shape}."
        )
    return np.where(case.heatmap.blank, np.nan, np.abs(rank_correlation(raw, maps)))
