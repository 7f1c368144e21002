"""Ctrl+C waits while something is put on a model or taken off it, so that nothing is left there.

Python calls the handler of SIGINT, which raises KeyboardInterrupt, between any two steps of the main thread: also at
the first step of an `__exit__`, which then takes nothing off. So from the first set-up to the last tear-down a handler
stands in that notes the signal; only while the model itself is called does the caller's handler get it at once. Other
threads get no signals, and handlers that Python did not set raise nothing: with these all stays as it is.

`_signal` is what `signal` calls; the names that `signal` makes of the results would take 40 microseconds of each call.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from threading import get_ident, main_thread
from types import CodeType, FrameType
from typing import Any, Generic, ParamSpec, TypeVar

SIGINT = int(_signal.SIGINT)
"""The number of the signal."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_Yielded = TypeVar("_Yielded")


class _StandIn:
    """The handler of SIGINT while signals are held back.

    Attributes:
        before: The caller's handler.
        open: Whether a signal is handed on at once.
        waits: Whether one has come that was not handed on; of several that wait, one is, as the system does it.
        over: Whether the caller's handler is back in its place.
    """

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.before = before
        self.open = self.waits = self.over = False
        self._thread = get_ident()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.over or get_ident() != self._thread:  # somebody kept it, or forked the process in another thread
            self.before(number, frame)
            return
        self.waits = True
        if self.open and (frame is None or frame.f_code not in _ENDS):
            self.hand_on(frame)

    def hand_on(self, frame: FrameType | None) -> None:
        """Hands on what waits, and is open afterwards; if the caller's handler raises, it is closed."""
        self.open = True
        while self.waits:
            self.open = False
            self.waits = False
            self.before(SIGINT, frame)
            self.open = True


_ACTIVE: dict[int, _StandIn] = {}
"""The handler that stands in, by the thread whose signals it holds back: the main thread, if there is one."""


class HeldBack:
    """A context in which SIGINT waits, but for where `LetThrough` is inside it; at its end what waited is handed on.

    It stands first in a ``with``: what is behind it is put on and taken off in peace. It may lie inside another.
    """

    __slots__ = ("_outer", "_stands_in", "_was_open")

    def __enter__(self) -> None:
        self._stands_in = self._outer = _ACTIVE.get(get_ident())
        if self._outer is not None:
            self._was_open, self._outer.open = self._outer.open, False
        elif get_ident() == main_thread().ident:
            before = _signal.getsignal(SIGINT)
            if callable(before):  # not if the signal is ignored, ends the process, or is handled outside of Python
                self._begin(before)

    def _begin(self, before: Callable[[int, FrameType | None], Any]) -> None:
        stands_in = _StandIn(before)
        try:
            _signal.signal(SIGINT, stands_in)
        except ValueError:  # an interpreter inside another one gets no signals
            return
        self._stands_in = _ACTIVE[get_ident()] = stands_in

    def __exit__(self, *_: object) -> None:
        its = self._stands_in
        if self._outer is not None:
            self._outer.open = self._was_open
            if self._was_open and self._outer.waits:
                self._outer.hand_on(sys._getframe())
        elif its is not None:
            del _ACTIVE[get_ident()]
            try:
                if _signal.getsignal(SIGINT) is its:  # or another was set inside, and stays
                    _signal.signal(SIGINT, its.before)
            finally:
                its.over = True
            if its.waits:
                its.before(SIGINT, sys._getframe())


class LetThrough:
    """A context in which SIGINT comes through at once; it stands last in a ``with``, around what may take long."""

    __slots__ = ("_stands_in", "_was_open")

    def __enter__(self) -> None:
        self._stands_in = its = _ACTIVE.get(get_ident())
        if its is not None:
            self._was_open, its.open = its.open, True
            if its.waits:
                its.hand_on(sys._getframe())

    def __exit__(self, *_: object) -> None:
        if self._stands_in is not None:
            self._stands_in.open = self._was_open


def let_through() -> None:
    """Hands on what waits, here and now."""
    with LetThrough():
        pass


class _BothEnds(AbstractContextManager[_Yielded], Generic[_Yielded]):
    def __init__(self, inner: AbstractContextManager[_Yielded]) -> None:
        self._inner = inner

    def __enter__(self) -> _Yielded:
        with ExitStack() as stack:
            stack.enter_context(HeldBack())
            value = stack.enter_context(self._inner)
            let_through()
            self._stack = stack.pop_all()
        self._stands_in = its = _ACTIVE.get(get_ident())
        if its is not None:
            its.open = True
        return value

    def __exit__(self, *error: Any) -> bool | None:
        if self._stands_in is not None:
            self._stands_in.open = False
        return self._stack.__exit__(*error)


_ENDS: frozenset[CodeType] = frozenset((_BothEnds.__enter__.__code__, _BothEnds.__exit__.__code__))
"""Where a signal waits although it is let through around them: a context is entered or left there."""


def held_back(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """The function, in a `HeldBack`."""

    @wraps(function)
    def held(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with HeldBack():
            return function(*args, **kwargs)

    return held


def interruptible(
    made: Callable[_Given, Iterator[_Yielded]],
) -> Callable[_Given, AbstractContextManager[_Yielded]]:
    """As `contextlib.contextmanager`, with SIGINT held back at both ends, and let through in the caller's block."""
    plain = contextmanager(made)

    @wraps(made)
    def context(*args: _Given.args, **kwargs: _Given.kwargs) -> AbstractContextManager[_Yielded]:
        return _BothEnds(plain(*args, **kwargs))

    return context
