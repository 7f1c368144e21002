"""All that a model holds, noted before it is called and put back afterwards."""

from __future__ import annotations

from collections import deque
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

MOST_ENTRIES = 10_000
"""Containers with more entries are not looked at: these hold data, such as the file names of a data set."""

_WITHOUT_PARTS = frozenset(
    (
        *(bool, int, float, complex, str, bytes, type(None), type, range, slice),
        *(FunctionType, BuiltinFunctionType, MethodType, ModuleType),
        *(torch.dtype, torch.device, torch.Size, torch.Generator, nn.Parameter),
    )
)
_CHILDREN = ("_parameters", "_buffers", "_modules")
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)


class Kept:
    """What is reachable from a model: its modules, and their attributes, containers, objects, tensors and arrays.

    Attributes are kept by identity, tensors and arrays by value; the values of parameters are not kept. An object in
    an attribute is looked into, but not the objects that it holds in turn: through these a model may lead to the whole
    training.

    Attributes:
        modules: All modules.
        parameters: All parameters.
        buffers: All buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self._tensors: list[Tensor] = []
        self.parameters: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._others: list[tuple[Any, list[Any]]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._met: set[int] = set()
        self._note_module(model)
        self._values = [(group, [one.shape for one in group], _in_one_piece(group)) for group in _alike(self._tensors)]

    def _note_module(self, module: nn.Module) -> None:
        if id(module) in self._met:
            return
        self._met.add(id(module))
        self.modules.append(module)
        own = module.__dict__
        self._dicts.append((own, own.copy()))
        parameters, buffers, children = (own[name] for name in _CHILDREN)
        self._dicts += [(parameters, parameters.copy()), (buffers, buffers.copy()), (children, children.copy())]
        self.parameters += [one for one in parameters.values() if one is not None]
        for buffer in buffers.values():
            if buffer is not None:
                self.buffers.append(buffer)
                self._note(buffer)
        for child in children.values():
            if child is not None:
                self._note_module(child)
        for name in own.keys() - _OF_EVERY_MODULE:
            if type(own[name]) not in _WITHOUT_PARTS:
                self._note(own[name])

    def _note(self, one: Any, entered: bool = True) -> None:
        kind = type(one)
        if kind in _WITHOUT_PARTS or id(one) in self._met:
            return
        if isinstance(one, nn.Module):
            self._note_module(one)
            return
        self._met.add(id(one))
        if isinstance(one, Tensor):
            self._tensors.append(one)
        elif isinstance(one, np.ndarray):
            self._arrays.append((one, one.copy()))
        elif isinstance(one, dict):
            if len(one) <= MOST_ENTRIES:
                self._dicts.append((one, one.copy()))
                for value in one.values():
                    self._note(value, entered)
        elif isinstance(one, (list, set, deque, tuple)):
            if len(one) <= MOST_ENTRIES:
                if not isinstance(one, tuple):
                    self._others.append((one, list(one)))
                for value in one:
                    self._note(value, entered)
        elif entered and isinstance(getattr(one, "__dict__", None), dict):
            self._dicts.append((one.__dict__, one.__dict__.copy()))
            for value in one.__dict__.values():
                self._note(value, entered=False)

    def put_back(self) -> None:
        """Makes all as it was; what is unchanged is not touched."""
        for live, kept in self._dicts:
            if len(live) != len(kept) or not all(map(is_, live.values(), kept.values())) or list(live) != list(kept):
                live.clear()
                live.update(kept)
        for container, entries in self._others:
            if len(container) != len(entries) or not all(map(is_, container, entries)):
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(entries)
        for array, values in self._arrays:
            if array.tobytes() != values.tobytes():
                array[...] = values
        for group, shapes, values in self._values:
            if [one.shape for one in group] != shapes or not torch.equal(_in_one_piece(group), values):
                _write_back(group, shapes, values)


def _alike(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors whose values can be copied, grouped by dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for one in tensors:
        if not is_lazy(one) and one.layout == torch.strided and not (one.is_quantized or one.is_meta):
            groups.setdefault((one.dtype, one.device), []).append(one)
    return list(groups.values())


def _in_one_piece(tensors: list[Tensor]) -> Tensor:
    """A copy of all values in one step; copies of hundreds of small tensors would take milliseconds."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _write_back(group: list[Tensor], shapes: list[torch.Size], values: Tensor) -> None:
    for one, shape, its in zip(group, shapes, torch.split(values, [shape.numel() for shape in shapes]), strict=True):
        with torch.no_grad(), torch.inference_mode(one.is_inference()):
            if one.shape != shape:  # some observers give their buffers a size with the first batch
                one.resize_(shape)
                one.untyped_storage().resize_(one.numel() * one.element_size())
            one.copy_(its.view(shape))
