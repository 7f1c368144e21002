"""Facts about a model, apart from anything compiled for it: one object per model, which lives as long as the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, ref

from torch import Tensor

from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import LayerRef

KEPT_SIZES = 32
"""For how many sizes of images each kind of fact is kept; a missing fact is found anew."""

Reading = Literal["logits", "distribution", "probabilities"]
"""How outputs are read if no softmax or sigmoid was found that made them: as logits, as rows of
probabilities that sum to 1, or as separate probabilities."""

Which: TypeAlias = "tuple[str | int | None, bool]"
"""Which of a model's outputs, and whether this output is read as a segmentation."""

SUM_TOLERANCE = 1e-3
"""How far the sum of a row of probabilities may be off 1; fp16 is off by 5e-4 over a thousand classes."""

Kept = TypeVar("Kept")


class Recent(Generic[Kept]):
    """A store of limited size that drops the entry whose last use is longest ago."""

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
    """Objects to compare others with by identity, held weakly if their kind allows it: an id may be used again."""

    def __init__(self, objects: Sequence[Any]) -> None:
        self._held = [_held(one) for one in objects]

    def are(self, objects: Sequence[Any]) -> bool:
        """Whether `objects` are the same ones, in the same order."""
        return len(objects) == len(self._held) and all(
            held() is one for held, one in zip(self._held, objects, strict=True)
        )


def _held(one: Any) -> Callable[[], Any]:
    try:
        return ref(one)
    except TypeError:
        return lambda: one


class Known:
    """Facts about a model; if a module of the model is replaced, all are forgotten except `told`.

    Attributes:
        told: Whether the user was told that the outputs are probabilities.
        readings: How each output was read in the last pass of the unchanged network.
        bounded: Whether an output within [0, 1] stays there for images far from any that the model knows.
        reached: How many times the last pass reached a place.
        seen: The layout of outputs that a pass showed, by the size of the images.
        default_layers: Default layers, by output and the shapes of the inputs; only certain ones are kept.
        shapes: Shapes of a layer's output for one image, by the layer and the shapes of the inputs.
    """

    def __init__(self) -> None:
        self.told = False
        self._modules: Alike | None = None
        self._forget()

    def _forget(self) -> None:
        self.readings: dict[Which, Reading] = {}
        self.bounded: dict[Which, bool] = {}
        self.reached: dict[LayerRef, int] = {}
        self.seen: Recent[Seen] = Recent(KEPT_SIZES)
        self.default_layers: Recent[LayerRef] = Recent(KEPT_SIZES)
        self.shapes: Recent[tuple[int, ...]] = Recent(KEPT_SIZES)

    def now(self, modules: Sequence[Any]) -> Known:
        """The facts for a model that has these modules now."""
        if self._modules is None or not self._modules.are(modules):
            if self._modules is not None:
                self._forget()
            self._modules = Alike(modules)
        return self


_KNOWN: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()


def known_of(model: Any) -> Known:
    """The facts about a model; they are not stored on the model, so that copies begin anew."""
    known = _KNOWN.get(model)
    return _KNOWN.setdefault(model, Known()) if known is None else known


def within_unit(table: Tensor) -> bool:
    """Whether all values of the finite rows lie in [0, 1]."""
    values = table.detach()
    values = values[values.isfinite().all(1)]
    return bool(((values >= 0) & (values <= 1)).all())


def sums_to_one(table: Tensor) -> bool:
    """Whether there are several columns, and every finite row sums to 1."""
    sums = table.detach().float().sum(1)
    sums = sums[sums.isfinite()]
    return table.shape[1] > 1 and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
