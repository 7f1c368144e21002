"""FastEstimator 1.7 on a newer PyTorch and Python than it was written for: what it needs, and no more."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat, starmap
from typing import Any

from fastestimator.dataset.dataloader import InfiniteSampler
from fastestimator.summary.system import System
from fastestimator.util import traceability_util
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler


class _TolerantSampler(Sampler[Any]):
    """A Sampler that still takes the argument `data_source`, which torch dropped in 2.10."""

    def __init__(self, data_source: Any = None) -> None:
        super().__init__()


def apply() -> list[str]:
    """Lets FastEstimator train with the torch, and RestoreWizard save with the Python, that are installed.

    Two things went wrong since torch 2.3, which FastEstimator 1.7 was made for. Its sampler passes an argument on that
    Sampler no longer takes, and no training starts. And BatchSampler now asks for the sampler's iterator once per
    batch, which sets FastEstimator's sampler back: each epoch would be its first batch again and again, without a word.

    A third went wrong with Python 3.11, where every object has a `__getstate__`: FastEstimator gives
    its classes one of its own only where there is none yet. RestoreWizard then saves all that a trace
    or an op holds, the whole training among it, and fails as it saves or as it restores.

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
    if hasattr(System.save_state, "__wrapped__"):
        mended.append("state")
    elif _traceable_classes_lack_a_state():
        System.save_state = _states_as_meant()(System.save_state)
        mended.append("state")
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
    """An `__iter__` whose iterator goes on where it is, and does not start anew, when it is asked for one."""

    @functools.wraps(start)
    def __iter__(self: Any) -> Iterator[Any]:  # noqa: N807
        return starmap(start(self).__next__, repeat(()))

    return __iter__


def _traceable_classes_lack_a_state() -> bool:
    """Whether a class that FastEstimator makes traceable is left without what RestoreWizard asks it for."""
    traced = traceability_util.traceable()(type("Traced", (), {}))
    return getattr(traced, "__getstate__", None) is not traceability_util.__getstate__


@contextmanager
def _states_as_meant() -> Iterator[None]:
    """What Python 3.10 has: traceable classes with the host's `__getstate__`, and other data sources without a state.

    For a while only: a copy of data, in a worker process too, is made with `__getstate__` and must not be empty.
    """
    traced = (kind for kind in _all_kinds() if vars(kind).get("__setstate__") is traceability_util.__setstate__)
    states = dict.fromkeys(traced, traceability_util.__getstate__)
    states |= dict.fromkeys((Dataset, DataLoader, traceability_util.tf.data.Dataset), lambda self: {})
    none_yet = getattr(object, "__getstate__", None)
    states = {kind: state for kind, state in states.items() if getattr(kind, "__getstate__", None) is none_yet}
    for kind, state in states.items():
        kind.__getstate__ = state
    try:
        yield
    finally:
        for kind in states:
            del kind.__getstate__


def _all_kinds() -> set[type]:
    """Every class there is, also those made since the last time."""
    known: set[type] = {object}
    unseen: list[type] = [object]
    while unseen:
        fresh: set[type] = set(type.__subclasses__(unseen.pop())) - known
        known |= fresh
        unseen += fresh
    return known
