"""The settings of an explanation: all but the model, the images, and the methods, layers and targets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

from fe_gradcam.explaining.views import View, smoothing
from fe_gradcam.parameters import flag, one_of, whole
from fe_gradcam.scaling import FUSES, SCALINGS
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.targets import names_by_id
from fe_gradcam.types import ClassNames, Fuse, Reshape, Scaling, Score

SCORES: tuple[Score, ...] = ("logit", "output")


@dataclass(frozen=True, eq=False)
class Settings:
    """What `explain` takes besides model, images, method, layer and target; see `fe_gradcam.explain`."""

    scaling: Scaling = "scale_after_relu"
    score: Score = "logit"
    batch_size: int | None = None
    seed: int = 0
    class_names: ClassNames | None = None
    model_output: ModelOutput = None
    reshape: Reshape | None = None
    fuse: Fuse = "mean"
    smooth: Any = None
    progress: bool = True
    trial: bool = False
    """Whether heatmaps are made only to see whether they can be made; then the first few variants are enough."""

    def __post_init__(self) -> None:
        one_of("scaling", self.scaling, SCALINGS)
        one_of("score", self.score, SCORES)
        one_of("fuse", self.fuse, FUSES)
        whole("seed", self.seed, 0)
        if self.batch_size is not None:
            whole("batch_size", self.batch_size, 1, none=" or None")
        flag("progress", self.progress)
        names_by_id(self.class_names)
        assert self.smoothing

    @cached_property
    def smoothing(self) -> tuple[list[View], bool]:
        """The views to average over, and whether channels are smoothed."""
        return smoothing(self.smooth)

    @cached_property
    def smoothed(self) -> str:
        """How maps are smoothed, in words; empty if they are not."""
        views, eigen = self.smoothing
        return ", ".join(["augment"] * (len(views) > 1 or not views[0].is_plain) + ["eigen"] * eigen)


def settings_of(*values: Any) -> Settings:
    """The settings with these values, checked; those of plain values are kept, and checked once."""
    if values[_RESHAPE] is not None:  # it may hold the model
        return Settings(*values)
    try:
        return _kept(*values)
    except TypeError:  # a list of names cannot be looked up
        return Settings(*values)


_RESHAPE = [one.name for one in fields(Settings)].index("reshape")
_kept = lru_cache(maxsize=32, typed=True)(Settings)
