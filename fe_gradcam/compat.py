"""FastEstimator 1.7 on a newer PyTorch than it was written for."""

from __future__ import annotations

import inspect
from typing import Any

from fastestimator.dataset.dataloader import InfiniteSampler
from torch.utils.data import Sampler


class _TolerantSampler(Sampler[Any]):
    """A Sampler that still takes the argument `data_source`, which torch dropped in 2.10."""

    def __init__(self, data_source: Any = None) -> None:
        super().__init__()


def apply() -> bool:
    """Lets FastEstimator's data loader build its sampler; nothing is changed where that works already.

    Returns:
        Whether anything had to be changed, now or before.
    """
    if issubclass(InfiniteSampler, _TolerantSampler):
        return True
    if "data_source" in inspect.signature(Sampler.__init__).parameters:
        return False
    InfiniteSampler.__bases__ = tuple(
        _TolerantSampler if base is Sampler else base for base in InfiniteSampler.__bases__
    )
    return True
