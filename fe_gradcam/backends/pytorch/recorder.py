"""Watches one forward pass of a PyTorch model: finds the tensor at the explained place, and the head's logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fe_gradcam.backends.errors import in_inference_mode, no_floats, no_tensor
from fe_gradcam.backends.pytorch.following import SUMS, Follower, State, Unplaced, layout_at, only_pools
from fe_gradcam.backends.scoring import Head, HeadKind
from fe_gradcam.spec.tokens import Layout
from fe_gradcam.types import LayerRef

_HEADS: dict[str, HeadKind] = {
    "softmax": "softmax",
    "special_softmax": "softmax",
    "log_softmax": "softmax",
    "special_log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "special_expit": "sigmoid",
    "logsigmoid": "sigmoid",
    "log_sigmoid": "sigmoid",
}

_MONOTONE = frozenset({"exp", "log", "clamp", "clip", "clamp_min", "clamp_max", "nan_to_num", "detach"})
"""Functions of a head's output that leave its logits valid."""

_REARRANGING = frozenset(
    (
        "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "permute",
        "transpose", "t", "movedim", "contiguous", "clone", "to", "float", "double", "half", "bfloat16", "type",
        "type_as", "cpu", "cuda", "__getitem__", "select", "narrow", "index_select", "chunk", "split", "unbind",
    )
)  # fmt: skip
"""Functions that are repeated on the logits, so that the logits keep the layout of the output."""

CONVOLUTIONS = frozenset(f"conv{transposed}{axes}d" for transposed in ("", "_transpose") for axes in (1, 2, 3))

RELUS = frozenset({"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "hardtanh", "hardtanh_"})
"""The rectifiers among the activations; ReLU6 is a hardtanh in PyTorch."""

ACTIVATIONS = frozenset(
    (
        "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu",
        "silu", "mish", "hardswish", "hardtanh", "hardtanh_", "softplus", "prelu", "rrelu", "tanh", "tanh_",
    )
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Link:
    """How a tensor was made from its parent: by a head, or by a step that keeps the head valid.

    Attributes:
        version: The version of the tensor; if it has changed, the tensor was written to.
        repeat: Applies the step to the logits; None if the logits stay the same. For a head: applies the head.
    """

    parent: Tensor
    version: int
    head: Head | None = None
    repeat: Callable[[Tensor], Tensor] | None = None


class Taking:
    """What one pass of a model does at the explained place, by hooks on the module of the place.

    Args:
        at: The place that is explained; `reached` counts how many times the pass reached it.
        take: Gets the tensor there, and returns the tensor that the model continues with. It is the same
            tensor if the graph is somebody else's: then nothing is written to it.
        skip: How many times the place is reached before `take` is called: if a layer is called
            several times, the last call counts, and what lies before it needs no gradients.
    """

    def __init__(self, at: LayerRef, take: Callable[[Tensor], Tensor], skip: int = 0) -> None:
        super().__init__()
        self.at = at
        self._take = take
        self._skip = skip
        self._awaited: Tensor | None = None
        self._versions: dict[int, int] = {}
        self.reached = 0

    def _on_input(self, module: nn.Module, args: Any) -> None:
        self._versions = {id(each): _version(each) for each in args if isinstance(each, Tensor)}

    def _is_written(self, output: Tensor, args: Any) -> bool:
        """Whether an output is one of the inputs, written over."""
        written = self._versions.get(id(output)) not in (None, _version(output))
        return written and any(output is each for each in args)

    def _taken(self, tensor: Tensor, *, in_place: bool) -> Tensor:
        if tensor.is_inference():
            raise in_inference_mode(self.at)
        if not tensor.is_floating_point():
            raise no_floats(self.at, tensor.dtype)
        self.reached += 1
        if self.reached <= self._skip:
            return tensor
        if not in_place:
            return self._take(tensor)
        if tensor.requires_grad and self._take(tensor) is tensor:
            return tensor
        taken = self._take(tensor.clone())
        try:  # the model may go on with the tensor that it has, and drop what is returned
            return tensor.copy_(taken)
        except RuntimeError:  # a view that was made without gradients
            return taken


class Recorder(Taking, TorchFunctionMode):
    """A function mode under which a model is called once; see Taking.

    Args:
        at: See Taking, as are `take` and `skip`.
    """

    def __init__(self, at: LayerRef, take: Callable[[Tensor], Tensor], skip: int = 0) -> None:
        super().__init__(at, take, skip)
        self._inside = False
        self._links: MutableMapping[Tensor, _Link] = WeakTensorKeyDictionary()
        self._made_by: MutableMapping[Tensor, tuple[ReferenceType[nn.Module], int]] = WeakTensorKeyDictionary()
        self.returns_input = False
        """Whether the layer returned one of its inputs, as a function in place does."""

    def head_of(self, output: Tensor) -> Head | None:
        """The head that made `output`, or None if it is not the output of a softmax or sigmoid, rearranged at most."""
        link = self._links.get(output)
        if link is None or link.version != output._version:
            return None
        if link.head is not None:
            return link.head
        head = self.head_of(link.parent)
        if head is None or link.repeat is None:
            return head
        try:
            with torch.enable_grad():
                logits = link.repeat(head.logits.contiguous())
        except RuntimeError:  # a step that fails on the logits
            return None
        return head._replace(logits=logits)

    def head_and_maker(
        self, output: Tensor
    ) -> tuple[Callable[[Tensor], Tensor], Tensor, ReferenceType[nn.Module]] | None:
        """The head that made `output` and nothing else, its logits, and the module that put these out; or None."""
        link = self._links.get(output)
        if link is None or link.head is None or link.repeat is None:
            return None
        module, version = self._made_by.get(link.head.logits, (None, 0))
        if module is None or version != _version(link.head.logits):
            return None
        return link.repeat, link.head.logits, module

    @contextmanager
    def watching(self, module: nn.Module, others: Sequence[nn.Module] = ()) -> Iterator[None]:
        """Makes the mode active, with hooks on the module of the place; of the others it is noted what they put out."""
        handles = [each.register_forward_hook(self._note_maker) for each in others if takes_hooks(each)]
        handles += [module.register_forward_pre_hook(self._on_input), module.register_forward_hook(self._on_output)]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._awaited = None

    def _note_maker(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._made_by[output] = ref(module), _version(output)

    def _on_input(self, module: nn.Module, args: Any) -> None:
        self._inside = True
        super()._on_input(module, args)

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._inside = False
        if self.at.place in ("convolution", "relu"):
            return output  # the convolution itself was met as a function, inside
        first = output[0] if isinstance(output, tuple) and output else output  # a transformer's block
        if not isinstance(first, Tensor):
            raise no_tensor(self.at, output)
        self.returns_input = self.returns_input or id(first) in self._versions
        if self.at.place == "activation":
            self._awaited = first
            return output
        taken = self._taken(first, in_place=self._is_written(first, args))
        return taken if first is output else with_first(output, taken)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else kwargs.get("input")
        before = first.clone() if name == "sigmoid_" else first
        out = func(*args, **kwargs)
        if self._inside and name in CONVOLUTIONS:
            if self.at.place == "convolution":
                out = self._taken(out, in_place=False)
            elif self.at.place == "relu":
                self._awaited = out
        elif self._awaited is not None and first is self._awaited:
            if name in (RELUS if self.at.place == "relu" else ACTIVATIONS):
                self._awaited = None
                out = self._taken(out, in_place=out is first)
            elif name == "batch_norm" and self.at.place == "relu":
                self._awaited = out
        if isinstance(first, Tensor):
            self._follow(func, name, before, out, args, kwargs)
        return out

    def _follow(self, func: Any, name: str, first: Tensor, out: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if name in _HEADS:
            axis = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else -1)
            classes = first.shape[-1 if axis is None else axis] if first.dim() else 1
            others = {key: value for key, value in kwargs.items() if key != "input"}  # a plan holds no tensor
            plain = not any(isinstance(value, Tensor) for value in (*args[1:], *others.values()))
            again = partial(_repeated, func, args[1:], others, None) if plain else None
            self._links[out] = _Link(first, out._version, Head(first, _HEADS[name], classes), again)
            return
        if first not in self._links or (name not in _MONOTONE and name not in _REARRANGING):
            return
        pieces = out if isinstance(out, (tuple, list)) else [out]
        for index, piece in enumerate(pieces):
            if isinstance(piece, Tensor) and piece is not first:
                repeat = None
                if name in _REARRANGING:
                    repeat = partial(_repeated, func, args[1:], kwargs, index if pieces is out else None)
                self._links[piece] = _Link(first, piece._version, repeat=repeat)


def _repeated(func: Any, more: tuple[Any, ...], kwargs: dict[str, Any], index: int | None, logits: Tensor) -> Tensor:
    """A rearranging step, applied to the logits."""
    result = func(logits, *more, **{name: value for name, value in kwargs.items() if name != "input"})
    piece: Tensor = result if index is None else result[index]
    return piece


def _version(tensor: Tensor) -> int:
    """How many times the tensor was written to; -1 for tensors of inference mode, which do not count it."""
    return -1 if tensor.is_inference() else tensor._version


def takes_hooks(module: nn.Module) -> bool:
    """Whether hooks on a module are called."""
    return not isinstance(module, torch.jit.ScriptModule)


def with_first(output: Any, first: Tensor) -> Any:
    """The same tuple, named or not, with another first element."""
    if hasattr(output, "_replace"):
        return output._replace(**{output._fields[0]: first})
    return (first, *output[1:])


_PASSING = frozenset(
    ("detach", "clone", "contiguous", "to", "float", "type_as", "view_as", "alias", "requires_grad_", "__get__")
)
"""Functions whose output, if it is of the same shape, is what they got."""


class Lister(TorchFunctionMode):
    """A function mode under which a model is called once to see which layers it has, and where places of images go.

    Args:
        model: The module that will be called.
        picture: The images (N, C, *S) among its arguments, as it gets them.
    """

    def __init__(self, model: nn.Module, picture: Tensor) -> None:
        super().__init__()
        self._follower = Follower(model, picture)
        self.met: list[tuple[nn.Module, tuple[int, ...]]] = []
        """Each module that returned a tensor, or a tuple that begins with one, and the tensor's shape; in order."""
        self.activations: dict[int, str] = {}
        """By position in `met`: the activation function that is applied directly to this output."""
        self.names = {module: name for name, module in model.named_modules()}
        self.same_as: dict[int, int] = {}
        """By position in `met`: where the same tensor was met before, inside a module that returns it unchanged."""
        self.layouts: list[Layout | Unplaced | None] = []
        """By position in `met`: how the output makes up a map, None if it does not; or why this is not known."""
        self._last: tuple[State, Layout | Unplaced | None] = (Unplaced.LOST, Unplaced.LOST)
        self.made_by: list[str] = []
        """By position in `met`: "pool" or "sum" if a function of this kind made the output, else an empty string. A
        module that passes on what it got, as dropout does in inference, did not make it.
        """
        self.rectified: set[nn.Module] = set()
        """The modules whose convolution is followed by a ReLU, directly or after a batch normalisation."""
        self._versions: list[int] = []
        self._made: MutableMapping[Tensor, tuple[str, int]] = WeakTensorKeyDictionary()
        self._pending: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._convolved: MutableMapping[Tensor, nn.Module] = WeakTensorKeyDictionary()
        self._inside: list[nn.Module] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Makes the mode active, with hooks on every module of the model that takes hooks."""
        with ExitStack() as stack:
            for module in model.modules():
                if takes_hooks(module):
                    stack.callback(module.register_forward_pre_hook(self._on_input).remove)
                    stack.callback(module.register_forward_hook(self._on_output).remove)
            stack.enter_context(self)
            yield

    def _on_input(self, module: nn.Module, args: Any) -> None:
        self._inside.append(module)

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            self._follower.bridge(args, first)
            state = self._follower.of(first)
            if state is not self._last[0]:  # many layers leave the places as they are
                self._last = state, state if isinstance(state, Unplaced) else layout_at(state)
            self.layouts.append(self._last[1])
            self.made_by.append(self._maker_of(first))
            earlier = self._pending.get(first)
            if earlier is not None and self._versions[earlier] == _version(first):
                self.same_as[len(self.met)] = earlier
            self._versions.append(_version(first))
            self._pending[first] = len(self.met)
            self.met.append((module, tuple(first.shape)))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("input")
        name = getattr(func, "__name__", "")
        if name in ACTIVATIONS and isinstance(first, Tensor):
            position = self._pending.get(first)
            if position is not None:
                self.activations.setdefault(position, name)
        source = self._convolved.get(first) if isinstance(first, Tensor) else None
        passed_on = self._maker_of(first) if name in _PASSING and isinstance(first, Tensor) else ""
        out = func(*args, **kwargs)
        self._follower.follow(func, name, args, kwargs, out)
        kind = "pool" if only_pools(name) else "sum" if name in SUMS else passed_on
        made = out[0] if isinstance(out, tuple) and out else out
        if kind and isinstance(made, Tensor) and (not passed_on or made.shape == first.shape):
            self._made[made] = kind, _version(made)
        if name in CONVOLUTIONS and self._inside:
            self._convolved[out] = self._inside[-1]
        elif source is not None and name == "batch_norm":
            self._convolved[out] = source
        elif source is not None and name in RELUS:
            self.rectified.add(source)
        return out

    def _maker_of(self, tensor: Tensor) -> str:
        """See `made_by`; empty if the tensor was written to afterwards."""
        kind, version = self._made.get(tensor, ("", 0))
        return kind if kind and version == _version(tensor) else ""
