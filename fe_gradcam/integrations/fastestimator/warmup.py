"""Shows traces the batches of the host's warmup, before the training begins, and the keys that are missing.

The warmup runs the pipeline and the network of every mode once, without traces. Its batches are shown to the traces
that want to see them, so that no data is read and no random number is drawn for these traces: the training stays
the same as without them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from fastestimator.estimator import Estimator
from fastestimator.schedule.schedule import get_current_items

from fe_gradcam.backends.interrupts import interruptible


@runtime_checkable
class Foreseeing(Protocol):
    """A trace that wants to see batches before the training."""

    inputs: list[str]

    def foresee(self, mode: str, dataset: str, batch: Mapping[str, Any]) -> None:
        """Sees a batch of the warmup."""

    def miss(self, keys: Sequence[str], there: Sequence[str], mode: str) -> None:
        """Raises an error for keys that the trace reads and the batches of a mode lack."""


MARK = "_shows_what_it_sees"
"""An attribute of a warmup that is ours."""


def apply() -> None:
    """Has the warmup of FastEstimator show what it sees; once, whenever it is called."""
    if not hasattr(Estimator._warmup, MARK):
        Estimator._warmup = _shown(Estimator._warmup)


def _shown(warmup: Callable[..., None]) -> Callable[..., None]:
    """A warmup that shows its batches, or the host's own if no trace wants to see them."""

    @functools.wraps(warmup)
    def _warmup(self: Any, *args: Any, **options: Any) -> None:
        traces = [trace for trace in get_current_items(self.traces_in_use) if isinstance(trace, Foreseeing)]
        if not traces:
            return warmup(self, *args, **options)
        with _batches_shown(self.network, self.pipeline, traces):
            try:
                warmup(self, *args, **options)
            except AssertionError as error:
                _tell_of_missing_keys(error, warmup, self, traces)
                raise

    setattr(_warmup, MARK, True)
    return _warmup


@interruptible
def _batches_shown(network: Any, pipeline: Any, traces: Sequence[Foreseeing]) -> Iterator[None]:
    """What the network makes of a batch is shown to the traces."""
    run_step, own = network.run_step, vars(network).get("run_step")

    def shown(batch: Any) -> Any:
        found = run_step(batch)
        for trace in traces:
            trace.foresee(pipeline.ctx_mode, pipeline.ctx_ds_id, found)
        return found

    network.run_step = shown
    try:
        yield
    finally:
        if own is None:
            del network.run_step
        else:  # somebody else's, such as a profiler's
            network.run_step = own


def _tell_of_missing_keys(
    error: AssertionError, warmup: Callable[..., None], estimator: Any, traces: Sequence[Foreseeing]
) -> None:
    """Lets a trace report its missing keys, if these stopped the warmup."""
    known = _locals_of(error, warmup)
    missing: set[str] = known.get("unmet_requirements") or set()
    mode, epoch, dataset = known.get("mode", ""), known.get("epoch", 1), known.get("ds_id", "")
    asked = {id(trace) for trace in known.get("traces", ())}
    theirs = [(trace, sorted(missing & set(trace.inputs))) for trace in traces if id(trace) in asked]
    theirs = [(trace, keys) for trace, keys in theirs if keys]
    if theirs:
        there = set(known.get("pipeline_output_keys", ())) | set(known.get("network_output_keys", ()))
        with suppress(Exception):  # the warmup leaves out keys that nobody reads
            ops = get_current_items(estimator.network.ops, run_modes=mode, epoch=epoch, ds_id=dataset)
            there |= {key for op in ops for key in op.outputs}
            there |= set(estimator.pipeline.get_results(mode=mode, epoch=epoch, ds_id=dataset, shuffle=False))
        trace, keys = theirs[0]
        trace.miss(keys, sorted(there), mode)


def _locals_of(error: BaseException, function: Any) -> Mapping[str, Any]:
    """The variables of a function that an error went through."""
    step, code = error.__traceback__, inspect.unwrap(function).__code__
    while step is not None:
        frame: FrameType = step.tb_frame
        if frame.f_code is code:
            return frame.f_locals
        step = step.tb_next
    return {}
