"""All that a model holds, noted before it is called and put back afterwards."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, filterfalse
from operator import attrgetter, is_, itemgetter
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import CallableProxyType, ProxyType, ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors
from torch.optim import Optimizer

MOST_ENTRIES = 10_000
"""Containers with more entries are not looked at: these hold data, such as the file names of a data set."""

MOST_BYTES = 2**30
"""The values of parameters are not kept if they need more memory than this."""

_WITHOUT_PARTS = frozenset(
    (
        *(bool, int, float, complex, str, bytes, type(None), type, range, slice),
        *(FunctionType, BuiltinFunctionType, torch.dtype, torch.device, torch.Size),
        *(ReferenceType, ProxyType, CallableProxyType),
    )
)
_NUMBERS_AND_WORDS = frozenset((bool, int, float, str, type(None)))
_PLAIN_DICTS = frozenset((dict, OrderedDict))
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)
_TABLES_OF_HOOKS = tuple(name for name, value in nn.Module().__dict__.items() if "_hooks" in name and value == {})
_requires_grad: Callable[[Tensor], bool] = attrgetter("requires_grad")
_grad: Callable[[Tensor], Tensor | None] = attrgetter("grad")
_hooks: Callable[[Tensor], Any] = attrgetter("_backward_hooks")
_tables_of: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(
    "_parameters", "_buffers", "_modules", *_TABLES_OF_HOOKS
)


class Kept:
    """What is reachable from a model: its modules, and their attributes, hooks, containers, objects and tensors.

    Attributes are kept by identity; tensors, arrays and the states of random streams by value. An object in an
    attribute is looked into, but not the objects that it holds in turn: through these a model may lead to the whole
    training. An optimiser is not looked into: it holds more than the model, and changes only by its own step.

    Args:
        model: The model.
        values: Whether parameters are kept by value too, which costs a copy of them. Their data, gradients and flags
            are always kept by identity.

    Attributes:
        modules: All modules.
        training: The modules in training mode.
        hooked: The modules with hooks of any kind.
        by_value: Whether parameters are kept by value; no longer, once a call was seen not to change them.
        compiled: Whether a module is compiled, or holds one that is.
        parameters: All parameters.
        registered: Those of the modules; the others stand in attributes, lists and so on.
        buffers: All buffers.
        gradients: The gradient that each parameter holds, or None.
    """

    def __init__(self, model: nn.Module, *, values: bool = False) -> None:
        self.modules: list[nn.Module] = []
        self.training: list[nn.Module] = []
        self.hooked: list[nn.Module] = []
        self.compiled = False
        self.parameters: list[Tensor] = []
        self.registered: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self._tensors: list[Tensor] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._others: list[tuple[Any, Any, list[Any]]] = []
        self._tables: list[Any] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._states: list[tuple[Callable[[Any], Any], Any]] = []
        self._met: set[int] = set()
        self._note_module(model)
        self._empty = list(filterfalse(None, self._tables))
        self.registered, self.buffers = _each_once(self.registered), _each_once(self.buffers)
        self.parameters = _each_once([*self.registered, *self.parameters]) if self.parameters else self.registered
        tensors = _each_once([*self.buffers, *self._tensors])
        alike = _alike(tensors) if tensors else []
        self._groups = [(group, [one.shape for one in group], _in_one_piece(group)) for group in alike]
        self._tensors = [*self.parameters, *tensors]
        self._flags = list(map(_requires_grad, self._tensors))
        self.gradients = list(map(_grad, self.parameters))
        self._hooks = list(map(_hooks, self.parameters))
        self._dicts += [(one, one.copy()) for one in self._hooks if one is not None]
        self._plain = [one for one in self.parameters if type(one) is nn.Parameter]
        self._data = list(map(Tensor.detach, self._plain))
        self._versions = _versions_of(self._data)
        size = sum(data.numel() * data.element_size() for data in self._data) if values else 0
        self._values = [data.clone() for data in self._data] if 0 < size <= MOST_BYTES else []
        self.by_value = values

    def _note_module(self, module: nn.Module) -> None:
        if id(module) in self._met:
            return
        self._met.add(id(module))
        self.modules.append(module)
        if isinstance(module, torch.jit.ScriptModule):  # its attributes are not Python's
            self._states.append((partial(setattr, module, "training"), module.training))
            if module.training:
                self.training.append(module)
            self.registered += module.parameters(recurse=False)
            self.buffers += module.buffers(recurse=False)
            for child in module.children():
                self._note_module(child)
            return
        own = module.__dict__
        if module.training:
            self.training.append(module)
        dicts = self._dicts
        dicts.append((own, own.copy()))
        tables = _tables_of(own)
        self._tables += tables
        parameters, buffers, children, *hooks = tables
        if parameters:
            dicts.append((parameters, parameters.copy()))
            self.registered += parameters.values()
        if buffers:
            dicts.append((buffers, buffers.copy()))
            self.buffers += buffers.values()
        if any(hooks):
            self.hooked.append(module)
            for one in filter(None, hooks):
                self._note(one)
        if children:
            dicts.append((children, children.copy()))
            self.compiled = self.compiled or "_orig_mod" in children
            for child in children.values():
                if child is not None:
                    self._note_module(child)
        if len(own) > len(_OF_EVERY_MODULE):
            self.compiled = self.compiled or own.get("_compiled_call_impl") is not None
            for one in [own[name] for name in own if name not in _OF_EVERY_MODULE]:
                kind = type(one)
                if kind not in _WITHOUT_PARTS and not (kind is tuple and _WITHOUT_PARTS.issuperset(map(type, one))):
                    self._note(one)

    def _note(self, one: Any, entered: bool = True) -> None:
        kind = type(one)
        if kind in _WITHOUT_PARTS or id(one) in self._met:
            return
        if isinstance(one, nn.Module):
            self._note_module(one)
            return
        self._met.add(id(one))
        if kind in _PLAIN_DICTS:
            self._note_container(one, entered)
        elif isinstance(one, Tensor):
            (self.parameters if isinstance(one, nn.Parameter) else self._tensors).append(one)
        elif kind is np.ndarray:
            self._arrays.append((one, one.copy()))
        elif isinstance(one, tuple(_STREAMS)):
            get, put = next(its for base, its in _STREAMS.items() if isinstance(one, base))
            self._states.append((partial(put, one), get(one)))
        elif isinstance(one, MethodType):
            self._note(one.__self__, entered)
        elif isinstance(one, partial):  # it gets a dict by being asked for one
            self._note((one.func, one.args, one.keywords), entered)
        elif not isinstance(one, (Optimizer, ModuleType)):
            if isinstance(one, (dict, list, set, deque, tuple)):
                self._note_container(one, entered)
            own = _dict_of(one) if entered else None
            if isinstance(own, dict):
                self._note_container(own, entered=False)

    def _note_container(self, one: Any, entered: bool) -> None:
        if len(one) > MOST_ENTRIES:
            return
        entries: Iterable[Any] = one
        if type(one) in _PLAIN_DICTS:
            self._dicts.append((one, one.copy()))
            entries = one.values()
        elif not isinstance(one, tuple):
            base = next(base for base in (OrderedDict, dict, list, set, deque) if isinstance(one, base))
            self._others.append((base, one, _entries_of(base, one)))
            entries = dict.values(one) if isinstance(one, dict) else one
        for value in list(entries):
            self._note(value, entered)

    def put_back(self) -> bool:
        """Makes all as it was; what is unchanged is not touched.

        Returns:
            Whether values of parameters had changed; if these were not kept, whether they were written to.
        """
        for live, kept in self._dicts:
            if len(live) != len(kept) or not all(map(is_, live.values(), kept.values())) or list(live) != list(kept):
                live.clear()
                live.update(kept)
        for container in filter(None, self._empty):
            container.clear()
        for base, container, entries in self._others:
            now = _entries_of(base, container)
            if len(now) != len(entries) or not all(map(is_, now, entries)):
                _fill(base, container, entries)
        for array, values in self._arrays:
            if array.tobytes() != values.tobytes():
                array[...] = values
        for put, state in self._states:
            put(state)
        return self._put_back_tensors()

    def _put_back_tensors(self) -> bool:
        if list(map(Tensor.data_ptr, self._plain)) != list(map(Tensor.data_ptr, self._data)):
            for parameter, data in zip(self._plain, self._data, strict=True):
                if parameter.data_ptr() != data.data_ptr():
                    parameter.data = data
        for group, shapes, values in self._groups:
            if [one.shape for one in group] != shapes or not torch.equal(_in_one_piece(group), values):
                pieces = torch.split(values, [shape.numel() for shape in shapes])
                for one, shape, piece in zip(group, shapes, pieces, strict=True):
                    _write_back(one, shape, piece)
        if list(map(_requires_grad, self._tensors)) != self._flags:
            for one, required in zip(self._tensors, self._flags, strict=True):
                if one.requires_grad != required and not one._is_view():
                    one.detach_().requires_grad_(required)
        if not all(map(is_, map(_grad, self.parameters), self.gradients)):
            for one, gradient in zip(self.parameters, self.gradients, strict=True):
                if one.grad is not gradient:
                    one.grad = gradient
        if not all(map(is_, map(_hooks, self.parameters), self._hooks)):
            for one, hooks in zip(self.parameters, self._hooks, strict=True):
                if _hooks(one) is not hooks:
                    one._backward_hooks = hooks
        if not self._values:
            return _versions_of(self._data) != self._versions
        changed = False
        for data, values in zip(self._data, self._values, strict=True):
            if not torch.equal(data, values):
                changed = _write_back(data, data.shape, values.reshape(-1)) or changed
        if not changed:
            self._values, self.by_value = [], False
        return changed


def _versions_of(tensors: list[Tensor]) -> list[int]:
    try:
        return [one._version for one in tensors]
    except RuntimeError:  # those of inference mode do not count
        return []


def _dict_of(one: Any) -> Any:
    """The attributes of an object, or None; its class is not asked, which may raise whatever it likes."""
    try:
        return object.__getattribute__(one, "__dict__")
    except AttributeError:
        return None


def _entries_of(base: Any, container: Any) -> list[Any]:
    """The entries, of dicts keys and values in turn, as the built-in type gives them; a subclass may differ."""
    return list(chain.from_iterable(base.items(container)) if issubclass(base, dict) else base.__iter__(container))


def _fill(base: Any, container: Any, entries: list[Any]) -> None:
    base.clear(container)
    if issubclass(base, dict):
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            base.__setitem__(container, key, value)
    else:
        (set.update if base is set else base.extend)(container, entries)


def modules_in(model: nn.Module) -> list[nn.Module]:
    """The module and all inside it, each once, in the order of ``model.modules()``, which takes five times as long."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            waiting += reversed(module._modules.values())
    return list(found.values())


def plain_values_in(modules: Iterable[nn.Module]) -> list[Any]:
    """The numbers, words and truth values that stand in attributes; a forward may hang on them."""
    return [
        value
        for module in modules
        if len(module.__dict__) > len(_OF_EVERY_MODULE)
        for name, value in module.__dict__.items()
        if type(value) in _NUMBERS_AND_WORDS and name != "training"
    ]


def _each_once(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(one): one for one in tensors if one is not None}.values())


def _alike(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors whose values can be copied, grouped by dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for one in tensors:
        strided = one.layout == torch.strided and not (one.is_quantized or one.is_meta or one.is_nested)
        if strided and type(one) is Tensor:  # another class may forbid any step
            groups.setdefault((one.dtype, one.device), []).append(one)
    return list(groups.values())


def _in_one_piece(tensors: list[Tensor]) -> Tensor:
    """A copy of all values in one step; copies of hundreds of small tensors would take milliseconds."""
    if len(tensors) == 1 or any(map(_requires_grad, tensors)):
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    values: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    return values


def _write_back(one: Tensor, shape: torch.Size, values: Tensor) -> bool:
    """Writes values to a tensor if it holds others, and returns whether it did; a NaN is the same as itself."""
    with torch.no_grad(), torch.inference_mode(one.is_inference()):
        if one.shape != shape:  # some observers give their buffers a size with the first batch
            one.resize_(shape)
            one.untyped_storage().resize_(one.numel() * one.element_size())
        differs = not torch.equal(_bytes_of(one), _bytes_of(values))
        if differs:
            one.copy_(values.view(shape))
        return differs


def _bytes_of(one: Tensor) -> Tensor:
    return one.detach().reshape(-1).resolve_conj().resolve_neg().contiguous().view(torch.uint8)


_STREAMS: dict[Any, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    np.random.Generator: (
        lambda its: its.bit_generator.state,
        lambda its, state: setattr(its.bit_generator, "state", state),
    ),
}
"""How the state of a stream of random numbers is read and written."""
