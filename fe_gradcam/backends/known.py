"""Facts about a model, apart from anything compiled for it: one object per model, which lives as long as the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from math import isfinite
from operator import is_
from threading import Lock, get_ident
from types import CodeType, FunctionType, ModuleType
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from fe_gradcam.backends.interrupts import HeldBack, let_through
from fe_gradcam.errors import CamError
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import LayerRef

KEPT_SIZES = 32
"""For how many image sizes facts of one kind are kept; a fact that is missing is found anew."""

KEPT_SEEN = 8
"""For how many image sizes the layouts of all layers are kept: for a network of 453 modules they take 140 KB each."""

LOOKED_AFTER = 0.05
"""So many seconds pass, while a model is waited for, until Ctrl+C is looked after."""

Reading = Literal["logits", "distribution", "probabilities"]
"""How outputs are read if the softmax or sigmoid that made them was not found: as logits, as rows of
probabilities that sum to 1, or as probabilities each by itself."""

Which: TypeAlias = "tuple[str | int | None, bool]"
"""Which of a model's outputs, and whether this output is read as a segmentation."""

SUM_TOLERANCE = 1e-3
"""How far the sum of a row of probabilities may be from 1; in fp16 it is off by 5e-4 over a thousand classes."""

Kept = TypeVar("Kept")


class Recent(Generic[Kept]):
    """A store of the last few values; the least recently used one is dropped first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Kept | None:
        """The value under a key, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, value: Kept) -> Kept:
        """Keeps a value, and returns it."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value


class Alike:
    """Holds objects, weakly if possible, to tell whether others are the very same; an id() may be used again."""

    def __init__(self, objects: Sequence[Any]) -> None:
        self._held = [_held(one) for one in objects]

    def are(self, objects: Sequence[Any]) -> bool:
        """Whether these objects are the same, in the same order."""
        return len(objects) == len(self._held) and all(map(is_, [held() for held in self._held], objects))


def _held(one: Any) -> Callable[[], Any]:
    try:
        return ref(one)
    except TypeError:
        return lambda: one


def same_code(called: Callable[..., Any]) -> Hashable:
    """A key that is the same for functions of one code that read the same plain values, as of a lambda in a loop.

    A function that reads anything else but modules and classes, and any other callable, is told apart by itself: its
    score may hang on an array, an object or a function that this cannot compare.
    """
    if not isinstance(called, FunctionType):
        return _held(called)
    names = {name for code in _codes_in(called.__code__) for name in code.co_names}
    read = [called.__globals__[name] for name in sorted(names) if name in called.__globals__]
    read += [*(called.__defaults__ or ()), *(called.__kwdefaults__ or {}).values()]
    try:
        read += [cell.cell_contents for cell in called.__closure__ or ()]
    except ValueError:  # it is assigned to later
        return _held(called)
    if not all(isinstance(one, (str, int, float, type(None), ModuleType, type)) for one in read):
        return _held(called)
    return (called.__code__, *((type(one), one) for one in read))


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of the functions and comprehensions inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes_in(inner)


class Known:
    """What is known of a model. If a module of the model is replaced, all is forgotten but `told`.

    Attributes:
        told: Whether the user was warned that the outputs are probabilities.
        readings: How each output was read in the last pass of the unchanged network.
        bounded: Whether an output that lies in [0, 1] stays there for images far from any that the model knows.
        reached: How many times the last pass reached each place.
        seen: What a pass showed about the layout of outputs, by the size of the images.
        default_layers: The default layers that are certain, by the shapes of the inputs, the output, and the callable
            that is explained, if it is one.
        taken: The dtype to which floating inputs must be cast, or None, by dtypes; see backends/pytorch/dtypes.
        shapes: The shape of a layer's output for one image, by the layer and the shapes of the inputs.
        writes: Whether a call of the model writes to its own parameters; None before the first one.
        others_put_on_hooks: Whether another thread put hooks on something while the model was called.
        kinds: The classes of layers, by the layer's name.
        names: The names of layers, by a name that was asked for.
        plans: What a pass learnt, or None, and how many times it did not hold; see backends/pytorch/plan.
    """

    def __init__(self) -> None:
        self.told = self.others_put_on_hooks = False
        self._lock = Lock()
        self._owner: int | None = None
        self._values: Sequence[Any] | None = None
        self._stamp = object()
        self._modules: Alike | None = None
        self._forget()

    def _forget(self) -> None:
        self.readings: dict[Which, Reading] = {}
        self.bounded: dict[Which, bool] = {}
        self.reached: dict[LayerRef, int] = {}
        self.seen: Recent[Seen] = Recent(KEPT_SEEN)
        self.default_layers: Recent[LayerRef] = Recent(KEPT_SIZES)
        self.taken: dict[Any, Any] = {}
        self.shapes: Recent[tuple[int, ...]] = Recent(KEPT_SIZES)
        self.writes: bool | None = None
        self.plans: Recent[Any] = Recent(KEPT_SIZES)
        self.kinds: Recent[str] = Recent(KEPT_SIZES)
        self.names: Recent[str] = Recent(KEPT_SIZES)

    def stamp_of(self, values: Sequence[Any]) -> object:
        """An object that stays the same for as long as plain values of the model do."""
        if values != self._values:
            self._values, self._stamp = values, object()
        return self._stamp

    def forget_defaults(self) -> bool:
        """Forgets the default layers, and returns whether there were any."""
        known, self.default_layers = len(self.default_layers) > 0, Recent(KEPT_SIZES)
        return known

    def hold(self, modules: Callable[[], Sequence[Any]]) -> None:
        """Waits until no other thread explains the model; until `let_go` its modules are looked through once."""
        if not self._lock.acquire(blocking=False):
            self._wait()
        try:
            self.now(modules)
        except BaseException:
            self._lock.release()
            raise
        self._owner = get_ident()

    def let_go(self) -> None:
        """Ends what `hold` began."""
        self._owner = None
        self._lock.release()

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the model."""
        return self._owner == get_ident()

    def _wait(self) -> None:
        """Waits for the lock; raises CamError if its owner waits for what this thread holds."""
        _WAITING[get_ident()] = self
        try:
            waits: Known | None = self
            while waits is not None and waits._owner is not None:
                if waits._owner == get_ident():
                    raise CamError(
                        "Two threads wait for each other: each explains a model, and inside a callable target the "
                        "model of the other. Explain one of the models outside of the target."
                    )
                waits = _WAITING.get(waits._owner)
            while not self._lock.acquire(timeout=LOOKED_AFTER):
                let_through()
        finally:
            del _WAITING[get_ident()]

    def now(self, modules: Callable[[], Sequence[Any]]) -> Known:
        """This object; if the model's modules are no longer the same, its facts are forgotten first."""
        its = modules()
        if self._modules is None or not self._modules.are(its):
            if self._modules is not None:
                self._forget()
            self._modules = Alike(its)
        return self


class Held:
    """A context in which a model is held, and SIGINT waits; see `Known.hold` and `HeldBack`."""

    def __init__(self, known: Known, modules: Callable[[], Sequence[Any]], at_the_end: Callable[[], None]) -> None:
        self._known = known
        self._modules = modules
        self._at_the_end = at_the_end
        self._interrupts = HeldBack()

    def __enter__(self) -> None:
        self._interrupts.__enter__()
        try:
            self._known.hold(self._modules)
        except BaseException:
            self._interrupts.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._at_the_end()
            self._known.let_go()
        finally:
            self._interrupts.__exit__()


_WAITING: dict[int, Known] = {}
"""By thread, the model that it waits for."""

_KNOWN: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()


def known_of(model: Any) -> Known:
    """What is known of a model; nothing is stored on the model itself, so that copies begin anew."""
    known = _KNOWN.get(model)
    return _KNOWN.setdefault(model, Known()) if known is None else known


def within_unit(table: Tensor) -> bool:
    """Whether all values of the finite rows lie in [0, 1]."""
    values = table.detach()
    if values.numel():
        least, most = map(float, torch.stack(values.aminmax()).tolist())
        if isfinite(least) and isfinite(most):
            return least >= 0 and most <= 1
        values = values[values.isfinite().all(1)]
    return not values.numel() or within_unit(values)


def sums_to_one(table: Tensor) -> bool:
    """Whether there are several columns, and every finite row sums to 1."""
    sums = table.detach().float().sum(1)
    sums = sums[sums.isfinite()]
    return table.shape[1] > 1 and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
