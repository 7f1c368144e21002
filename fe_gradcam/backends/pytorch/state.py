"""Makes a PyTorch model ready for one pass, and puts it back as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from operator import attrgetter
from threading import Lock, get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.checkpoint import CheckpointFunction

from fe_gradcam.backends.known import Known
from fe_gradcam.backends.pytorch.kept import Kept
from fe_gradcam.errors import Argument, UnsupportedModelError


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        if "_orig_mod" in model._modules:
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def noted(model: nn.Module, known: Known) -> Kept:
    """All that the model holds, for passes; parameters by value too, unless calls are known not to write to them."""
    return Kept(model, values=known.writes is not False)


class LeftAsFound:
    """A context with the model in eval mode, uncompiled, without gradients; what is reachable from it is put back.

    It enters with the model itself, or a copy if its weights were made in inference mode: autograd cannot use them.

    Args:
        model: The model.
        kept: What it holds.
        known: What is known of it.
        replaced: Whether checkpoints are plain calls, and layers are not computed by fused functions.

    Raises:
        UnsupportedModelError: A parameter or buffer has no values.
    """

    def __init__(self, model: nn.Module, kept: Kept, known: Known, *, replaced: bool = True) -> None:
        self._model, self._kept, self._known = model, kept, known
        self._replaced = replaced
        self._streams: list[tuple[Callable[[Any], None], Any]] = []
        self._around: list[AbstractContextManager[None]] = []
        self._inside: list[AbstractContextManager[None]] = []

    def __enter__(self) -> nn.Module:
        tensors = [*self._kept.parameters, *self._kept.buffers]
        _check_values(self._model, tensors)
        if torch.is_inference_mode_enabled():
            self._enter(self._around, torch.inference_mode(False))
        self._graphs = torch.is_grad_enabled()
        self._streams.append((torch.set_rng_state, torch.get_rng_state()))
        for device in {tensor.device for tensor in filter(_is_cuda, tensors)}:
            self._streams.append((partial(torch.cuda.set_rng_state, device=device), torch.cuda.get_rng_state(device)))
        try:
            if any(map(Tensor.is_inference, tensors)):
                self._model = copy.deepcopy(self._model)
                self._kept = Kept(self._model)
            if self._kept.compiled:
                self._enter(self._inside, uncompiled(self._kept.modules))
            if self._replaced:
                self._enter(self._inside, AS_WRITTEN)
            _evaluate(self._kept)
            torch.set_grad_enabled(False)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self._model

    @staticmethod
    def _enter(contexts: list[AbstractContextManager[None]], one: AbstractContextManager[None]) -> None:
        one.__enter__()
        contexts.append(one)

    def __exit__(self, kind: Any, *_: object) -> None:
        for context in reversed(self._inside):
            context.__exit__(None, None, None)
        torch.set_grad_enabled(self._graphs)
        for restore, stream in self._streams:
            restore(stream)
        try:
            written = self._kept.put_back()
        finally:
            for context in self._around:
                context.__exit__(None, None, None)
        if written or (kind is None and self._known.writes is None):  # it is learnt from the first call that ends
            self._known.writes = written


_PLAIN = frozenset((nn.Parameter, Tensor))
_is_meta, _is_cuda = attrgetter("is_meta"), attrgetter("is_cuda")


def _check_values(model: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Raises UnsupportedModelError if a parameter or buffer has no values."""
    lazy = not _PLAIN.issuperset(map(type, tensors)) and any(map(is_lazy, tensors))
    if not lazy and not any(map(_is_meta, tensors)):
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


class Replaced:
    """Functions of torch that do something else, while this context is active, in the threads that entered it."""

    def __init__(self, *others: tuple[Any, str, Any]) -> None:
        self._lock = Lock()
        self._inside: dict[int, int] = {}
        self.used = 0
        """How many times one of the others was called."""
        self._before: dict[str, Any] = {}
        self._calls: list[tuple[Any, str, Any]] = [
            (owner, name, self._either(name, other)) for owner, name, other in others
        ]
        self._own: list[Any] = []

    def _either(self, name: str, other: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inside = get_ident() in self._inside
            self.used += inside
            return (other if inside else self._before[name])(*args, **kwargs)

        return call

    def __enter__(self) -> None:
        thread = get_ident()
        with self._lock:
            if not self._inside:
                self._own = [owner.__dict__.get(name) for owner, name, _ in self._calls]
                for owner, name, call in self._calls:
                    self._before[name] = getattr(owner, name)
                    setattr(owner, name, call)
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = get_ident()
        with self._lock:
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
            if not self._inside:
                for (owner, name, _), own in zip(self._calls, self._own, strict=True):
                    if own is None:
                        delattr(owner, name)
                    else:
                        setattr(owner, name, own)


def _called(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    return function(*args)


AS_WRITTEN = Replaced(
    (CheckpointFunction, "apply", _called), (torch.backends.mha, "get_fastpath_enabled", lambda: False)
)
"""Reentrant checkpoints are plain calls: no gradient can be taken at a tensor through others. Transformer layers call
their modules, and no fused function that computes a whole layer."""

FUSED = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
"""Modules that PyTorch may compute by fused functions."""


def _evaluate(kept: Kept) -> None:
    """Turns training flags off, directly, as a module's train() may do more; and what else belongs to training.

    Backward hooks would be called by a backward pass that is none of the training, and forbid in-place steps behind
    their module. In quantisation-aware training the observers of value ranges go on learning in eval mode, so that the
    map of an image would depend on the images before it. One that has not seen a value yet is left to look. The
    gradients that parameters hold are taken off: a backward pass of the model's own would add to them.
    """
    for module in kept.training:
        module.training = False
    for module in kept.hooked:
        for name in ("_backward_hooks", "_backward_pre_hooks"):
            if module.__dict__[name]:
                module.__dict__[name] = OrderedDict()
    for module in kept.modules if kept.buffers else ():
        for name in ("observer_enabled", "static_enabled"):  # the second of those that learn their scales
            if name in module._buffers and _has_a_range(module):
                module._buffers[name] = torch.zeros_like(cast(Tensor, module._buffers[name]))
    for parameter, gradient in zip(kept.parameters, kept.gradients, strict=True):
        if gradient is not None:
            parameter.grad = None


def _has_a_range(fake_quantise: nn.Module) -> bool:
    lowest = getattr(getattr(fake_quantise, "activation_post_process", None), "min_val", None)
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
