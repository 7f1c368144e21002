"""Values that no argument expects, made anew for each call."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import torch

from tests.fuzzing.valid import OwnError

ENOUGH = 100_000
"""Who reads so many entries of what has no end would read on."""


class HungError(BaseException):
    """A call that did not come back, or would not."""


class TrapError(Exception):
    """Raised by an object that is looked at; never the error of a callable that the user handed over to be called."""


class Trap:
    """Raises whatever is asked of it."""

    def __init__(self, *given: object) -> None:
        pass

    def _raise(self, *given: object) -> Any:
        raise TrapError("looked at")

    __str__ = __repr__ = __len__ = __iter__ = __bool__ = __eq__ = __lt__ = __int__ = __float__ = __index__ = _raise  # type: ignore[assignment]
    __getitem__ = __contains__ = __array__ = __fspath__ = __format__ = _raise  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Unspoken:
    """Cannot say what it is."""

    def __repr__(self) -> str:
        raise TrapError("repr")

    __str__ = __repr__


class Boundless:
    """A sequence by its methods, which says that it is empty, and holds many ones."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, at: int) -> int:
        if isinstance(at, int) and at > ENOUGH:
            raise IndexError(at)
        return 1


class NoTruth:
    """Has no truth value, as an array has none."""

    def __bool__(self) -> bool:
        raise TrapError("bool")

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]


class NoArray:
    """Says that it is an array, and is none."""

    shape = (2, 3, 8, 8)
    dtype = "float32"
    ndim = 4

    def __array__(self, *given: object, **more: object) -> Any:
        raise TrapError("array")

    def __len__(self) -> int:
        return 2


class LiesAboutItsLength(list):  # type: ignore[type-arg]
    """A list of two that says that it holds nothing."""

    def __len__(self) -> int:
        return 0


class RaisingDict(dict):  # type: ignore[type-arg]
    """A dict whose entries cannot be listed."""

    def items(self) -> Any:
        raise TrapError("items")

    __iter__ = keys = items


class OddWord(str):
    """A word that raises if it is compared or shown."""

    def __repr__(self) -> str:
        raise TrapError("repr")

    __str__ = __repr__


class Slow:
    """An attribute of any name, which is this object again."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def raises(*given: object, **more: object) -> Any:
    """A callable of the user that fails: its error passes as it is."""
    raise OwnError("the user's own")


class OwnModel(torch.nn.Module):
    """A model that fails: its error passes as it is."""

    def forward(self, *given: object) -> Any:
        raise OwnError("the user's own")


def returns_text(*given: object, **more: object) -> str:
    """A callable that returns what nobody expects."""
    return "text"


def endless() -> Iterator[int]:
    """Numbers without end."""
    for _ in range(ENOUGH):
        yield 1
    raise HungError("read without end")


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def holds_itself() -> list[Any]:
    """A list that is its own entry."""
    found: list[Any] = []
    found.append(found)
    return found


NUMBERS: list[Callable[[], Any]] = [
    lambda: 0, lambda: -1, lambda: 1, lambda: 3, lambda: 2**31, lambda: 2**63, lambda: 2**64, lambda: 10**30,
    lambda: -(10**30), lambda: 10**5000, lambda: True, lambda: False, lambda: 0.5, lambda: -0.5, lambda: 1e308,
    lambda: float("nan"), lambda: float("inf"), lambda: -float("inf"), lambda: 1 + 2j, lambda: Decimal("0.5"),
    lambda: Decimal("NaN"), lambda: Fraction(1, 3), lambda: np.float32(0.5), lambda: np.int8(-1),
    lambda: np.uint64(2**63), lambda: np.bool_(True), lambda: np.datetime64("NaT"), lambda: np.float64("nan"),
    lambda: np.array(3), lambda: np.array(0.5), lambda: torch.tensor(1), lambda: tf.constant(1),
]  # fmt: skip

WORDS: list[Callable[[], Any]] = [
    lambda: "", lambda: " ", lambda: "x", lambda: "pred", lambda: "\x00", lambda: "a\x00b", lambda: "\ud800",
    lambda: "a\nb", lambda: "\x1b[31mred", lambda: "<script>alert(1)</script>", lambda: "热图", lambda: "🙂" * 3,
    lambda: "a" * 5000, lambda: "../../up", lambda: "/", lambda: "0", lambda: "-1", lambda: "nan", lambda: "{0}%s",
    lambda: "grad_cam", lambda: b"bytes", lambda: bytearray(b"b"), lambda: memoryview(b"m"), lambda: np.str_("relu"),
    lambda: Path("x"), lambda: Path("/nowhere/\x00"), lambda: OddWord("odd"), lambda: "a|b", lambda: "!a",
]  # fmt: skip

HELD: list[Callable[[], Any]] = [
    list, tuple, dict, set, lambda: [None], lambda: (None, None), lambda: [1, "a"], lambda: [[1], [2, 3]],
    lambda: {"a": 1}, lambda: {1: 2}, lambda: {None: None}, lambda: {0: "a", 1: None}, lambda: {(1, 2): "x"},
    lambda: range(3), lambda: range(10**12), lambda: (one for one in range(3)), endless, lambda: iter("ab"),
    lambda: frozenset({1}), lambda: nested(50), lambda: nested(3000), holds_itself, lambda: LiesAboutItsLength([1, 2]),
    lambda: RaisingDict(a=1), lambda: ["a"] * 1000, lambda: (0, 1), lambda: ("grad_cam", {"x": 1}),
    lambda: ("score_cam", {1: 2}), lambda: ("grad_cam", None), lambda: slice(None),
    lambda: zip("ab", "cd", strict=True),
]  # fmt: skip

ARRAYS: list[Callable[[], Any]] = [
    lambda: np.zeros(0), lambda: np.zeros((0, 3, 8, 8), np.float32), lambda: np.zeros((2, 3, 0, 8), np.float32),
    lambda: np.zeros((2, 3, 8), np.float32), lambda: np.zeros((2, 8, 8, 3), np.float32),
    lambda: np.zeros((2, 3, 8, 8, 1, 1), np.float32), lambda: np.zeros((2, 0, 8, 8), np.float32),
    lambda: np.zeros((1, 3, 1, 1), np.float32), lambda: np.full((2, 3, 8, 8), np.nan, np.float32),
    lambda: np.full((2, 3, 8, 8), np.inf, np.float32), lambda: np.full((2, 3, 8, 8), 1e308),
    lambda: np.full((2, 3, 8, 8), -(2**62)), lambda: np.zeros((2, 3, 8, 8), np.uint8),
    lambda: np.zeros((2, 3, 8, 8), np.complex64), lambda: np.zeros((2, 3, 8, 8), object),
    lambda: np.full((2, 3, 8, 8), None), lambda: np.zeros((2, 3, 8, 8), "U3"), lambda: np.zeros((2, 3, 8, 8), "M8[s]"),
    lambda: np.zeros((2, 3, 8, 8), "m8[s]"), lambda: np.zeros((2, 3, 8, 8), [("a", "f4")]), lambda: np.zeros(2, "V4"),
    lambda: np.ma.masked_all((2, 3, 8, 8)), lambda: np.zeros((2, 3, 8, 8), ">f4"), lambda: np.zeros((2, 3, 8, 8), "f2"),
    lambda: np.array([2**63, 0], np.uint64), lambda: np.array([0, 99]), lambda: np.array([-1, 0]),
    lambda: np.array([0.5, np.nan]), lambda: np.array(["a", "b"]), lambda: np.array([None, 1]), lambda: np.eye(2),
    lambda: np.array([0, 1]), lambda: np.array([True, False]), lambda: np.zeros((2, 4)), lambda: np.ones((2, 5, 4)),
    lambda: np.full((2, 4), np.nan), lambda: np.zeros((2, 8, 8), bool), lambda: np.full((2, 8, 8), np.nan),
    lambda: np.broadcast_to(np.float32(0), (2, 3, 8, 8)), lambda: np.zeros((2, 3, 8, 8), np.longdouble),
    lambda: np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), lambda: np.zeros((1,) * 32),
]  # fmt: skip

TENSORS: list[Callable[[], Any]] = [
    lambda: torch.zeros(0), lambda: torch.zeros(2, 3, 8, 8, device="meta"), lambda: torch.zeros(2, 3, 8, 8).to_sparse(),
    lambda: torch.zeros(2, 3, 8, 8, dtype=torch.complex64), lambda: torch.zeros(2, 3, 8, 8, requires_grad=True),
    lambda: torch.full((2, 3, 8, 8), torch.nan), lambda: torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16),
    lambda: torch.zeros(2, 3, 8, 8, dtype=torch.float8_e4m3fn), lambda: torch.zeros(2, 3, 8, 8, dtype=torch.int64),
    lambda: torch.quantize_per_tensor(torch.zeros(2, 3, 8, 8), 0.1, 0, torch.quint8), lambda: torch.tensor([0, 1]),
    lambda: torch.zeros(2, 8, 8).to_sparse(), lambda: torch.zeros(2, device="meta"),
    lambda: torch.zeros(2, 3, 8, 8).conj(),
    lambda: torch.nested.nested_tensor([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]),
    lambda: torch.nn.Parameter(torch.zeros(2, 3, 8, 8)), lambda: tf.zeros((2, 3, 8, 8)),
    lambda: tf.constant(["a", "b"]),
    lambda: tf.Variable(tf.zeros((2, 3, 8, 8))), lambda: tf.ragged.constant([[1], [2, 3]]),
    lambda: tf.sparse.from_dense(tf.zeros((2, 3))), lambda: tf.keras.Input((8, 8, 3)), lambda: tf.zeros((2, 8, 8, 3)),
    lambda: tf.TensorSpec((2, 3, 8, 8)), lambda: torch.zeros(2, 3, 8, 8, dtype=torch.uint16),
    lambda: tf.cast(tf.zeros((2, 3, 8, 8)), tf.bfloat16), lambda: tf.zeros((2, 3, 8, 8), tf.complex64),
]  # fmt: skip

OBJECTS: list[Callable[[], Any]] = [
    lambda: None, object, Trap, Unspoken, Boundless, NoTruth, NoArray, Slow, lambda: Trap, lambda: raises,
    lambda: lambda *given: None, lambda: lambda output: output, lambda: returns_text, lambda: np, lambda: Ellipsis,
    lambda: NotImplemented, lambda: datetime(2020, 1, 1), lambda: ValueError("x"), lambda: torch.float32,
    lambda: torch.device("cpu"), torch.nn.Identity, torch.nn.ReLU,
    OwnModel, lambda: random.Random(0), lambda: property(len),
]  # fmt: skip

EVERY: list[Callable[[], Any]] = [*NUMBERS, *WORDS, *HELD, *ARRAYS, *TENSORS, *OBJECTS]
"""What makes each of the values."""


def one(draw: random.Random, fitting: Callable[[], Any]) -> Any:
    """A hostile value: of the kind that fits, of any, or one of them in a list, a dict, or beside a fitting value."""
    beside, way = fitting(), draw.randrange(16)
    pool = EVERY if way < 10 else _of_the_kind_of(beside)
    value = draw.choice(pool)()
    around: list[Callable[[], Any]] = [
        lambda: [value], lambda: (beside, value), lambda: {"x": value}, lambda: [beside, value], lambda: {0: value},
    ]  # fmt: skip
    return around[way]() if way < len(around) else value


def _of_the_kind_of(value: Any) -> list[Callable[[], Any]]:
    if hasattr(value, "shape"):
        return [*ARRAYS, *TENSORS]
    if isinstance(value, (int, float)):
        return NUMBERS
    return WORDS if isinstance(value, str) else [*HELD, *OBJECTS]
