"""Makes a PyTorch model ready for one pass, and puts it back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, uncompiled, ready for gradients; afterwards all is as it was.

    Yields:
        The model itself; or a copy if its weights were made in inference mode, so that autograd cannot use them.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        modules = list(model.modules())  # walked once: in a deep network that alone takes half a millisecond
        tensors = [tensor for module in modules for tensor in _own_tensors(module)]
        devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices, key=str)))
        if any(tensor.is_inference() for tensor in tensors):
            model = copy.deepcopy(model)
            modules = list(model.modules())
        stack.enter_context(uncompiled(modules))
        stack.enter_context(_evaluating(modules))
        stack.enter_context(_with_their_buffers(modules))
        stack.enter_context(_module_by_module())
        yield model


def _own_tensors(module: nn.Module) -> list[Tensor]:
    own = chain(module._parameters.values(), module._buffers.values())
    return [tensor for tensor in own if tensor is not None]


@contextmanager
def without_reentrant_checkpoints() -> Iterator[None]:
    """While active, reentrant checkpoints are plain calls; otherwise their inner steps would not be in the graph."""

    def call(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)

    CheckpointFunction.apply = staticmethod(call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del CheckpointFunction.apply


@contextmanager
def _module_by_module() -> Iterator[None]:
    """While active, transformer layers call their modules, and no fused function that computes a whole layer."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """While active, the training flag of every module is off. It is set directly, as a module's train() may do more."""
    before = [(module, module.training) for module in modules]
    try:
        for module, training in before:
            if training:
                module.training = False
        yield
    finally:
        for module, training in before:
            if module.training != training:
                module.training = training


@contextmanager
def _with_their_buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Afterwards the buffers that a forward pass writes to, even in inference, are put back."""
    places = [
        (module, name, buffer) for module in modules for name, buffer in module._buffers.items() if buffer is not None
    ]
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for _, _, buffer in places:
        groups.setdefault((buffer.dtype, buffer.device), []).append(buffer)
    before = [(group, _in_one_piece(group)) for group in groups.values()]
    try:
        yield
    finally:
        for module, name, buffer in places:
            module._buffers[name] = buffer
        for group, values in before:
            if not torch.equal(_in_one_piece(group), values):
                with torch.no_grad():
                    pieces = torch.split(values, [buffer.numel() for buffer in group])
                    for buffer, its in zip(group, pieces, strict=True):
                        buffer.copy_(its.view_as(buffer))


def _in_one_piece(tensors: list[Tensor]) -> Tensor:
    """A copy of all values in one step; copies of hundreds of small tensors would take milliseconds."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@contextmanager
def uncompiled(modules: list[nn.Module]) -> Iterator[None]:
    """While active, compiled submodules are replaced by the originals, whose hooks are called."""
    swapped = [
        (parent, name, child)
        for parent in modules
        for name, child in parent._modules.items()
        if child is not None and "_orig_mod" in child._modules
    ]
    compiled = [module for module in modules if getattr(module, "_compiled_call_impl", None) is not None]
    calls = [module._compiled_call_impl for module in compiled]
    try:
        for parent, name, child in swapped:
            parent._modules[name] = cast(nn.Module, child._orig_mod)
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for parent, name, child in swapped:
            parent._modules[name] = child
        for module, call in zip(compiled, calls, strict=True):
            module._compiled_call_impl = call
