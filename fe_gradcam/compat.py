"""FastEstimator 1.7 on a newer PyTorch than it was written for: what its data loader needs, and no more."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from fastestimator.dataset.dataloader import InfiniteSampler
from torch.utils.data import BatchSampler, Sampler


class _TolerantSampler(Sampler[Any]):
    """A Sampler that still takes the argument `data_source`, which torch dropped in 2.10."""

    def __init__(self, data_source: Any = None) -> None:
        super().__init__()


class _Underway:
    """Goes on with a sampler that starts from its beginning whenever it is asked for an iterator."""

    def __init__(self, sampler: Iterator[Any]) -> None:
        self._sampler = sampler

    def __iter__(self) -> _Underway:
        return self

    def __next__(self) -> Any:
        return next(self._sampler)


def apply() -> list[str]:
    """Lets FastEstimator's data loader work with the torch that is installed.

    Two things went wrong since torch 2.3, which FastEstimator 1.7 was made for. Its sampler passes
    an argument on that Sampler no longer takes, and no training starts. And BatchSampler now asks
    for the sampler's iterator once per batch, which sets FastEstimator's sampler back: each epoch
    would be its first batch again and again, without a word.

    Returns:
        What is mended, now or before; empty where all works as it is.
    """
    mended = []
    if issubclass(InfiniteSampler, _TolerantSampler):
        mended.append("data_source")
    elif "data_source" not in inspect.signature(Sampler.__init__).parameters:
        bases = (_TolerantSampler if base is Sampler else base for base in InfiniteSampler.__bases__)
        InfiniteSampler.__bases__ = tuple(bases)
        mended.append("data_source")
    if hasattr(InfiniteSampler.__iter__, "__wrapped__"):
        mended.append("restart")
    elif _batches_restart_their_sampler():
        InfiniteSampler.__iter__ = _without_restart(InfiniteSampler.__iter__)
        mended.append("restart")
    return mended


def _batches_restart_their_sampler() -> bool:
    """Whether a BatchSampler asks for the sampler's iterator more than once in one pass."""

    class Counting:
        asked = 0

        def __iter__(self) -> Counting:
            self.asked += 1
            return self

        def __next__(self) -> int:
            return 0

    counting = Counting()
    batches = iter(BatchSampler(counting, batch_size=1, drop_last=False))
    next(batches)
    next(batches)
    return counting.asked > 1


def _without_restart(start: Any) -> Any:
    @functools.wraps(start)
    def __iter__(self: Any) -> _Underway:  # noqa: N807
        return _Underway(start(self))

    return __iter__
