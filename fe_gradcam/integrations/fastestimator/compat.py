"""Repairs of FastEstimator 1.7 on newer PyTorch and Python: only what it needs."""

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
    """Makes FastEstimator train with the installed torch, and RestoreWizard save with the installed Python.

    FastEstimator 1.7 was made for torch 2.3, and newer torch breaks it twice. FastEstimator's sampler passes on an
    argument that Sampler no longer takes, so no training starts. And BatchSampler now asks for the sampler's iterator
    once per batch, which resets FastEstimator's sampler: each epoch would silently repeat its first batch.

    Python 3.11 breaks a third thing, because every object now has a `__getstate__`, and FastEstimator adds its
    own only to classes that have none. RestoreWizard then saves all that a trace or an op holds, even the
    whole training, and fails when it saves or restores.

    Returns:
        What is repaired, now or before; empty if nothing needs repair.
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
    """An `__iter__` whose iterator continues, and does not start anew, when it is itself asked for an iterator."""

    @functools.wraps(start)
    def __iter__(self: Any) -> Iterator[Any]:  # noqa: N807
        return starmap(start(self).__next__, repeat(()))

    return __iter__


def _traceable_classes_lack_a_state() -> bool:
    """Whether a class that FastEstimator makes traceable lacks the state that RestoreWizard asks for."""
    traced = traceability_util.traceable()(type("Traced", (), {}))
    return getattr(traced, "__getstate__", None) is not traceability_util.__getstate__


@contextmanager
def _states_as_meant() -> Iterator[None]:
    """The state as in Python 3.10: traceable classes have the host's `__getstate__`, other data sources have none.

    This holds only inside the context: data is also copied with `__getstate__`, and such a copy must not be empty.
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
    """Every class that exists now, also those made since the last call."""
    known: set[type] = {object}
    unseen: list[type] = [object]
    while unseen:
        fresh: set[type] = set(type.__subclasses__(unseen.pop())) - known
        known |= fresh
        unseen += fresh
    return known
