"""Makes a PyTorch model ready for one pass, and puts it back as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.checkpoint import CheckpointFunction

from fe_gradcam.backends.pytorch.kept import Kept
from fe_gradcam.errors import Argument, UnsupportedModelError


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
    """The model in eval mode, uncompiled, ready for gradients; afterwards all that is reachable from it is as it was.

    Yields:
        The model itself; or a copy if its weights were made in inference mode, so that autograd cannot use them.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        kept = Kept(model)
        tensors = [*kept.parameters, *kept.buffers]
        _check_values(model, tensors)
        devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices, key=str)))
        if any(tensor.is_inference() for tensor in tensors):
            model = copy.deepcopy(model)
            kept = Kept(model)
        stack.callback(kept.put_back)
        stack.enter_context(uncompiled(kept.modules))
        stack.enter_context(without_reentrant_checkpoints())
        stack.enter_context(_module_by_module())
        _evaluate(kept.modules)
        yield model


def _check_values(model: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Raises UnsupportedModelError if a parameter or buffer has no values."""
    lazy = any(map(is_lazy, tensors))
    if not lazy and not any(tensor.is_meta for tensor in tensors):
        return
    named = chain(model.named_parameters(), model.named_buffers())
    name = next(name for name, tensor in named if is_lazy(tensor) or tensor.is_meta)
    if lazy:
        raise UnsupportedModelError(
            Argument("model"),
            f" has layers that get their shapes with the first images (torch.nn.Lazy...), and {name!r} has none yet. "
            "Call the model once with images, then explain it.",
        )
    raise UnsupportedModelError(
        Argument("model"),
        f" has no values: {name!r} is on the device 'meta'. Run model.to_empty(device='cpu'), then load its weights "
        "with load_state_dict.",
    )


@contextmanager
def without_reentrant_checkpoints() -> Iterator[None]:
    """While active, reentrant checkpoints are plain calls: no gradient can be taken at a tensor through others."""

    def call(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)

    before = CheckpointFunction.__dict__.get("apply")
    CheckpointFunction.apply = staticmethod(call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del CheckpointFunction.apply
        else:  # inside another call
            setattr(CheckpointFunction, "apply", before)  # noqa: B010


@contextmanager
def _module_by_module() -> Iterator[None]:
    """While active, transformer layers call their modules, and no fused function that computes a whole layer."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _evaluate(modules: list[nn.Module]) -> None:
    """Turns training flags off, directly, as a module's train() may do more; and what else belongs to training.

    Backward hooks would be called by a backward pass that is none of the training, and forbid in-place steps behind
    their module. In quantisation-aware training the observers of value ranges go on learning in eval mode, so that the
    map of an image would depend on the images before it. One that has not seen a value yet is left to look.
    """
    for module in modules:
        if module.training:
            module.training = False
        for name in ("_backward_hooks", "_backward_pre_hooks"):
            if module.__dict__.get(name):
                module.__dict__[name] = OrderedDict()
        if "observer_enabled" in module._buffers and _has_a_range(module):
            module._buffers["observer_enabled"] = torch.zeros_like(cast(Tensor, module.observer_enabled))


def _has_a_range(fake_quantise: nn.Module) -> bool:
    lowest = getattr(fake_quantise.activation_post_process, "min_val", None)
    return lowest is None or (lowest.numel() > 0 and bool(lowest.isfinite().all()))


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
