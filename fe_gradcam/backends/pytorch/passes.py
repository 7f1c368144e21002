"""One pass of a PyTorch model through the explained place, and the gradient there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, MutableMapping, Sequence
from functools import wraps
from inspect import CO_VARARGS, signature
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from fe_gradcam.backends.errors import needs_names, not_called, writes_to_parts
from fe_gradcam.backends.interrupts import HeldBack, LetThrough
from fe_gradcam.backends.protocol import HALF_PRECISION_FACTOR
from fe_gradcam.backends.pytorch.recorder import ACTIVATIONS, CONVOLUTIONS, Recorder
from fe_gradcam.backends.scoring import Scored
from fe_gradcam.types import LayerRef

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class _NoHooks(TorchFunctionMode):
    """A function mode that drops what a model asks to be told of gradients: it fails where a tensor has none.

    It belongs to training. To replace the methods of Tensor would slow down whatever the process computes later.
    """

    dropped = 0
    """How many times a model asked."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.register_hook and func is not Tensor.retain_grad:
            return func(*args, **(kwargs or {}))
        self.dropped += 1
        return None if func is Tensor.retain_grad else RemovableHandle(OrderedDict())


NO_HOOKS = _NoHooks()


class _ModesKept:
    """A context: if an exception leaves it, the function modes are as they were.

    A function of torch that is written in Python takes a mode off while it calls it, and an interrupt may come there.
    """

    def __enter__(self) -> None:
        self._modes = _function_modes()

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None and _function_modes() != self._modes:
            while torch._C._len_torch_function_stack():
                torch._C._pop_torch_function_stack()
            for mode in self._modes:
                torch._C._push_on_torch_function_stack(mode)


def _function_modes() -> list[TorchFunctionMode]:
    return [torch._C._get_function_stack_at(at) for at in range(torch._C._len_torch_function_stack())]


def called(model: nn.Module, inputs: Sequence[Any]) -> Any:
    """The output of `call`, outside of any training: what the model asks to be told of gradients is dropped."""
    with HeldBack(), NO_HOOKS:
        return call(model, inputs)


def call(model: nn.Module, inputs: Sequence[Any]) -> Any:
    """The model's output for inputs, which are passed by name if its forward takes nothing by position.

    While the model runs, SIGINT comes through.
    """
    if _takes_positions(model.forward):
        with _ModesKept(), LetThrough():
            return model(*inputs)
    its = signature(model.forward).parameters.values()
    named = sorted((one for one in its if one.kind == one.KEYWORD_ONLY), key=lambda one: one.default is not one.empty)
    required = [one.name for one in named if one.default is one.empty]
    if len(required) > len(inputs) or len(named) < len(inputs):
        raise needs_names(required, len(inputs))
    with _ModesKept(), LetThrough():
        return model(**{one.name: part for one, part in zip(named, inputs, strict=False)})


def _takes_positions(forward: Any) -> bool:
    function = getattr(forward, "__func__", forward)
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__") or hasattr(function, "__signature__"):
        its = signature(forward).parameters.values()
        return any(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.VAR_POSITIONAL) for one in its)
    return bool(code.co_flags & CO_VARARGS) or code.co_argcount > (function is not forward)


def observe(
    model: nn.Module,
    inputs: Sequence[Tensor],
    layer: LayerRef,
    take: Callable[[Tensor], Tensor],
    times: MutableMapping[LayerRef, int],
    *,
    whole_graph: bool,
    learns: bool = False,
) -> tuple[Any, Recorder]:
    """The model's output for inputs, and the Recorder under which the model was called.

    Args:
        model: The module to call.
        inputs: Its positional arguments.
        layer: The place whose tensor `take` gets.
        take: See Recorder.
        times: How many times the last pass reached each place.
        whole_graph: Whether autograd is on from the start.
        learns: Whether it is noted what each module puts out, for a plan.
    """
    calls, others = times.get(layer, 1), list(model.modules()) if learns else []
    while True:
        recorder = Recorder(layer, take, skip=calls - 1)
        watching = recorder.watching(model.get_submodule(layer.name), others)
        with torch.set_grad_enabled(whole_graph), watching:
            output = called(model, [part.clone() for part in inputs])  # some write to what they get
        if not 0 < recorder.reached < calls:
            break
        calls = recorder.reached  # fewer than before: nothing was taken
    if not recorder.reached:
        raise not_called(layer)
    times[layer] = recorder.reached
    return output, recorder


def forbids_view(error: RuntimeError) -> bool:
    """Whether torch refuses a step with gradients that writes to a view from before them; throughout, it does not."""
    return "view was created in no_grad mode" in str(error)


def whatever_is_written(passed: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A pass, which is repeated if the model wrote over values that the gradient needs: with copies of them.

    Some models do that where they are only meant for inference; autograd alone refuses them.

    Raises:
        GradientError: The model writes to a part of a tensor in a way that has no gradients.
    """

    @wraps(passed)
    def repeated(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        try:
            return passed(*args, **kwargs)
        except RuntimeError as error:
            if "multiple views" in str(error):
                raise writes_to_parts() from error
            if "modified by an inplace operation" not in str(error):
                raise
        with HeldBack(), allow_mutation_on_saved_tensors():
            return passed(*args, **kwargs)

    return repeated


def in_own_graph(scored: Scored) -> Scored:
    """The scores, whose graph is this package's own, with a fault of PyTorch's mended in it.

    On the CPU a batch normalisation takes a gradient that was cut out of a single image's tokens for a contiguous one.
    """
    waiting, met = [scored.scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in met:
            met.add(node)
            waiting += [before for before, _ in node.next_functions]
            if "BatchNorm" in node.name():
                node.register_prehook(_contiguous)
    return scored


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(one.contiguous() if one is not None and len(one) == 1 else one for one in gradients)


def gradient_at(leaf: Tensor, scored: Scored, *, retain_graph: bool, edge: Any = None) -> Tensor | None:
    """∂(Σ scores)/∂leaf in float32, or None if the scores were not computed from the leaf.

    If an edge of the graph is given, the gradient is taken there, and the leaf is what the tensor held.
    """
    scores, class_ids, table = scored
    if not scores.requires_grad:
        return None
    factors = (HALF_PRECISION_FACTOR, 1.0) if leaf.dtype == torch.float16 else (1.0,)
    for factor in factors:
        keep, outputs = retain_graph or factor != factors[-1], scores
        if table is None:
            weights = torch.full_like(scores, factor)
        else:  # the same, without the steps that pick the scores
            outputs, weights = table, torch.zeros_like(table).scatter_(1, class_ids, factor)
        with LetThrough():
            (gradient,) = torch.autograd.grad(outputs, edge or leaf, weights, retain_graph=keep, allow_unused=True)
        if gradient is None:
            return None
        gradient = gradient.detach().float()
        if len(factors) == 1:
            return gradient
        gradient = gradient / factor
        if bool(gradient.isfinite().all()):
            break
    return gradient


def hessian_product(leaf: Tensor, scores: Tensor, vectors: Tensor) -> Tensor | None:
    """∂²(Σ scores)/∂leaf² times vectors in float32, or None if it is zero because nothing there is curved."""
    factor = HALF_PRECISION_FACTOR if leaf.dtype == torch.float16 else 1.0
    with torch.enable_grad():
        weights = torch.full_like(scores, factor)
        (gradient,) = torch.autograd.grad(scores, leaf, weights, create_graph=True, allow_unused=True)
        if gradient is None or not gradient.requires_grad:
            return None
        along = (gradient * vectors.to(gradient)).sum()
        (product,) = torch.autograd.grad(along, leaf, allow_unused=True)
    return None if product is None else product.detach().float() / factor


class Front(TorchFunctionMode):
    """The part of a network before a place, computed for one image and repeated for any number of rows.

    A function mode: while it records, it keeps the output of every function. After that the functions are not
    computed; each returns its kept output, expanded to so many rows. Once the place is reached, `left` is set, and
    functions are computed again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []
        self._at = 0
        self._rows: int | None = None
        self.left = False

    def again(self, rows: int) -> Front:
        """This object, ready to repeat its outputs for so many rows."""
        self._rows, self._at, self.left = rows, 0, False
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._rows is not None and not self.left:
            kept = self._kept[self._at] if self._at < len(self._kept) else None  # a mode must not raise: exits use it
            self._at += 1
            if isinstance(kept, Tensor) and kept.dim() and len(kept) == 1:
                return kept.expand(self._rows, *kept.shape[1:])
        out = func(*args, **(kwargs or {}))
        if self._rows is None and not self.left:
            self._kept.append(out.clone() if isinstance(out, Tensor) else None)  # what follows may write in place
        return out


class BiasRecorder(TorchFunctionMode):
    """A function mode that records what layers add: biases, and where the tangents of activation functions meet 0."""

    def __init__(self) -> None:
        super().__init__()
        self._met: list[tuple[Tensor, Tensor]] = []
        self._channels_last: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()

    def terms(self, leaves: Sequence[Tensor], scores: Tensor) -> list[Tensor]:
        """The leaves, and then all recorded terms, each times the gradient of Σ scores there; channels first."""
        tensors = [*leaves, *(output for output, _ in self._met)]
        values = [*leaves, *(bias for _, bias in self._met)]
        if not scores.requires_grad:
            return [torch.zeros_like(value, dtype=torch.float32) for value in values]
        gradients = torch.autograd.grad(scores, tensors, torch.ones_like(scores), allow_unused=True)
        terms = []
        for tensor, value, gradient in zip(tensors, values, gradients, strict=True):
            term = torch.zeros_like(tensor, dtype=torch.float32)
            if gradient is not None:
                term = value.detach().float() * gradient.float()
            terms.append(term.movedim(-1, 1) if tensor in self._channels_last else term)
        return terms

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else kwargs.get("input")
        before = first.detach().clone() if name in CURVED else None  # it may be written over
        out = func(*args, **kwargs)
        if (name in AFFINE or name in CURVED) and out.requires_grad:
            others = {key: value for key, value in kwargs.items() if key != "input"}
            if before is None:
                with torch.no_grad():
                    self._met.append((out, func(torch.zeros_like(first), *args[1:], **others)))
            else:
                self._met.append((out, _intercept(lambda given: func(given, *args[1:], **others), before)))
            goes_on: Tensor = out.clone()  # what follows may write in place
            if name == "linear" or first in self._channels_last:
                self._channels_last[out] = self._channels_last[goes_on] = True
            return goes_on
        return out


def _intercept(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The intercept, at 0, of the tangents of an element-wise function."""
    with torch.enable_grad():
        leaf = at.requires_grad_(True)
        out = function(leaf.clone())
        (slope,) = torch.autograd.grad(out.sum(), leaf)
    return (out - slope * at).detach()


AFFINE = CONVOLUTIONS | {"linear", "batch_norm"}
"""Functions that multiply their first input and add something; their output for zeros is what they add."""

CURVED = (ACTIVATIONS | {"sigmoid", "sigmoid_"}) - {"relu", "relu_"}
"""Element-wise functions whose tangents have an intercept; those of a plain ReLU have none."""
