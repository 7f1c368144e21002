"""What a pass of a PyTorch model learnt, for later passes: hooks do where a function mode looked at every function.

A plan says where the head is and how often the layer is called. Nothing of it is believed: each pass that relies on it
looks again at all that it says, and if it no longer holds, the pass is made anew without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import ReferenceType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fe_gradcam.backends.known import within_unit
from fe_gradcam.backends.pytorch.recorder import ACTIVATIONS, Recorder, Taking, with_first
from fe_gradcam.backends.scoring import Head
from fe_gradcam.types import LayerRef

STEPS_COMPARED = 16
"""So many steps of the graph, from the output backwards, must be the same."""

MOST_OUTDATED = 3
"""So many plans may turn out not to hold before no further one is made, for a model that goes another way each time."""

PLACES = ("output", "activation")
"""The places that hooks find; the others lie between the functions that a layer calls."""

ZERO = 1e-4
"""Logarithms of probabilities are at most so large, with rounding."""


class OutdatedError(Exception):
    """A pass did not go the way of the plan that it relied on."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a pass learnt.

    Attributes:
        calls: How many times the pass reached the place.
        again: Applies the head to logits; None if the output was made by no head.
        logits: The module that put out the logits, if there is a head.
        head: The head without its logits, if there is one.
        steps: The last steps of the graph, by name, from the output backwards; None if there was no graph.
        returns_input: Whether the layer returns one of its inputs, as a function in place does.
        replaced: Whether the pass called a function that is replaced while a model is explained.
    """

    calls: int
    again: Callable[[Tensor], Tensor] | None = None
    logits: ReferenceType[nn.Module] | None = None
    head: Head | None = None
    steps: Sequence[str] | None = None
    returns_input: bool = False
    replaced: bool = False

    @classmethod
    def of(cls, recorder: Recorder, output: Tensor | None, *, replaced: bool = False) -> Learnt | None:
        """The plan for passes as the one that a recorder saw, or None if they need the recorder."""
        returned = recorder.returns_input
        if recorder.at.place not in PLACES or (returned and recorder.at.place != "output"):
            return None
        plan = cls(recorder.reached, returns_input=returned, replaced=replaced)
        if output is None:
            return plan
        plan, logits = replace(plan, steps=_steps(output)), None
        head = recorder.head_of(output)
        if head is not None:
            made = recorder.head_and_maker(output)
            if made is None:
                return None
            again, logits, module = made
            plan = replace(plan, again=again, logits=module, head=head._replace(logits=None))
        return plan if plan.holds(output, logits) else None

    def holds(self, output: Tensor, logits: Tensor | None) -> bool:
        """Whether an output was made as the plan says, from these logits if it has a head."""
        if self.steps is not None and self.steps != _steps(output):
            return False
        if self.again is None:  # without a graph it is not seen how the output was made
            return self.steps is not None or not _may_be_of_a_head(output)
        return logits is not None and self.is_head_of(logits, output)

    def is_head_of(self, logits: Tensor, output: Tensor) -> bool:
        """Whether the output is the head of the logits: by its values, and by the graph if there is one."""
        assert self.again is not None
        if output.grad_fn is not None and output.grad_fn.next_functions[0][0] is not logits.grad_fn:
            return False
        made, output = self.again(logits.detach()), output.detach()
        return made.shape == output.shape and (
            torch.equal(made, output) or torch.allclose(made, output, 0, 0, equal_nan=True)
        )


def _steps(output: Tensor) -> list[str] | None:
    node = output.grad_fn
    if node is None:
        return None
    names: list[str] = []
    while node is not None and len(names) < STEPS_COMPARED:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def _may_be_of_a_head(output: Tensor) -> bool:
    """Whether the values may be probabilities, or logarithms of probabilities."""
    values = output.detach().float()
    values = values.reshape(len(values), -1) if values.dim() < 2 else values
    return within_unit(values.flatten(1)) or bool((values <= ZERO).all())


class Planned(Taking):
    """A context under which a model is called once, with hooks on the modules of the place and of the logits.

    Args:
        plan: What an earlier pass learnt.
        at: See Taking, as is `take`.
        module: The module of the place.
    """

    def __init__(self, plan: Learnt, at: LayerRef, take: Callable[[Tensor], Tensor], module: nn.Module) -> None:
        super().__init__(at, take, skip=plan.calls - 1)
        self._plan = plan
        self._module = module
        self._logits: Tensor | None = None

    def __enter__(self) -> Planned:
        self._handles = [self._module.register_forward_hook(self._on_output)]
        if self._plan.returns_input:
            self._handles.append(self._module.register_forward_pre_hook(self._on_input))
        logits = None if self._plan.logits is None else self._plan.logits()
        if logits is not None:
            self._handles.append(logits.register_forward_hook(self._on_logits))
        self._hooks = RemovableHandle.next_id
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._awaited = None  # or it would wait on, in the user's hands
        if kind is None and self.reached < self._plan.calls:
            raise OutdatedError

    @property
    def hooks_were_put_on(self) -> bool:
        """Whether hooks were put on anything in the process since this context was entered."""
        return bool(RemovableHandle.next_id != self._hooks)

    def head_of(self, output: Tensor) -> Head | None:
        """The head that made `output`, or None if none did.

        Raises:
            OutdatedError: The output was not made as the plan says.
        """
        if not self._plan.holds(output, self._logits):
            raise OutdatedError
        return None if self._plan.head is None else self._plan.head._replace(logits=self._logits)

    def _on_logits(self, module: nn.Module, args: Any, output: Any) -> None:
        self._logits = output if isinstance(output, Tensor) else None

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) and output else output
        if type(first) is not Tensor or (any(first is each for each in args) and not self._plan.returns_input):
            raise OutdatedError
        if self.at.place == "activation":
            taken: Tensor = Awaited.of(first, self)
            self._awaited = taken
        else:
            taken = self._taken(first, in_place=self._is_written(first, args))
        return taken if first is output else with_first(output, taken)

    def on_function(self, name: str, first: Any, out: Any) -> Any:
        """Gets what a function made of an awaited tensor, and returns what the model goes on with."""
        if first is not self._awaited or name not in ACTIVATIONS:
            return out
        self._awaited = None
        return self._taken(out, in_place=out is first)


class Awaited(Tensor):
    """The output of a layer that says to which function it is given; it holds the same numbers."""

    observer: Planned

    @classmethod
    def of(cls, tensor: Tensor, observer: Planned) -> Awaited:
        """The same numbers, outside of any graph."""
        awaited: Awaited = cls._make_subclass(cls, tensor)
        awaited.observer = observer
        return awaited

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
        first = args[0] if args else kwargs.get("input")
        return first.observer.on_function(getattr(func, "__name__", ""), first, out) if type(first) is cls else out
