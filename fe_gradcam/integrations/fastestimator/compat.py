"""FastEstimator 1.7 on a newer PyTorch and Python than it was written for: what it needs, and no more."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastestimator.dataset.dataloader import InfiniteSampler
from fastestimator.summary.system import System
from fastestimator.util import traceability_util
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler


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
    """Lets FastEstimator train with the torch, and RestoreWizard save with the Python, that are installed.

    Two things went wrong since torch 2.3, which FastEstimator 1.7 was made for. Its sampler passes
    an argument on that Sampler no longer takes, and no training starts. And BatchSampler now asks
    for the sampler's iterator once per batch, which sets FastEstimator's sampler back: each epoch
    would be its first batch again and again, without a word.

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
        System.save_state = _with_states(System.save_state)
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
    @functools.wraps(start)
    def __iter__(self: Any) -> _Underway:  # noqa: N807
        return _Underway(start(self))

    return __iter__


def _traceable_classes_lack_a_state() -> bool:
    """Whether a class that FastEstimator makes traceable is left without what RestoreWizard asks it for."""
    traced = traceability_util.traceable()(type("Traced", (), {}))
    return getattr(traced, "__getstate__", None) is not traceability_util.__getstate__


def _with_states(save: Any) -> Any:
    @functools.wraps(save)
    def save_state(self: Any, save_dir: str) -> None:
        with _states_as_meant():
            save(self, save_dir)

    return save_state


@contextmanager
def _states_as_meant() -> Iterator[None]:
    """What Python 3.10 has: traceable classes with the host's `__getstate__`, and other data sources without a state.

    For a while only: a copy of data, in a worker process too, is made with `__getstate__` and must not be empty.
    """
    states: dict[type, Any] = {
        kind: traceability_util.__getstate__
        for kind in _all_kinds()
        if vars(kind).get("__setstate__") is traceability_util.__setstate__ and _has_no_state_of_its_own(kind)
    }
    for kind in (Dataset, DataLoader, traceability_util.tf.data.Dataset):
        if _has_no_state_of_its_own(kind):
            states[kind] = _nothing
    for kind, state in states.items():
        kind.__getstate__ = state  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for kind in states:
            del kind.__getstate__  # type: ignore[attr-defined]


def _all_kinds() -> set[type]:
    """Every class there is, also those made since the last time."""
    known: set[type] = {object}
    unseen: list[type] = [object]
    while unseen:
        fresh: set[type] = set(type.__subclasses__(unseen.pop())) - known
        known |= fresh
        unseen += fresh
    return known


def _has_no_state_of_its_own(kind: type) -> bool:
    return getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)


def _nothing(self: Any) -> dict[str, Any]:
    return {}
