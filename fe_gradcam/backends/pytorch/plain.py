"""A PyTorch model called plainly, to check the route by other means: none of its code is used here."""

from __future__ import annotations

import copy
import hashlib
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fe_gradcam.backends.interrupts import HeldBack, interruptible
from fe_gradcam.backends.marks import Itself, mark
from fe_gradcam.backends.pytorch.passes import called
from fe_gradcam.spec.outputs import ModelOutput, pick
from fe_gradcam.types import LayerRef

Change = Callable[[NDArray[Any]], NDArray[Any]]
"""From the output of a layer to what the model goes on with; both (N, ...)."""

_SETTINGS = (
    "are_deterministic_algorithms_enabled",
    "get_default_dtype",
    "get_num_threads",
    "is_anomaly_enabled",
    "is_autocast_enabled",
    "is_grad_enabled",
    "is_inference_mode_enabled",
)


class PlainTorch:
    """A PyTorch model in evaluation mode, whose layers can be read and changed by plain forward hooks."""

    framework = "torch"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._cast: Callable[[Tensor], Tensor] | None = None

    def exact(self, images: Any) -> tuple[PlainTorch, Any] | None:
        """A copy in float64, and its images, in which differences are free of rounding; None if there is none."""
        try:
            twin = PlainTorch(copy.deepcopy(self.model).double())
            parts = tuple(_double(part) for part in self.parts(images))
            near = [np.allclose(one, other, rtol=1e-2, atol=1e-3) for one, other in zip(
                self.arrays(self.run(images)), self.arrays(twin.run(parts)), strict=True)]  # fmt: skip
        except Exception:  # whatever a model does not allow: there is no such copy
            return None
        return (twin, parts) if near and all(near) else None

    @staticmethod
    def parts(images: Any) -> tuple[Any, ...]:
        """The inputs, one by one."""
        return tuple(images) if isinstance(images, (tuple, list)) else (images,)

    def run(
        self, images: Any, layer: LayerRef | None = None, change: Change | None = None, seen: Any = None, skip: int = 0
    ) -> Any:
        """The model's own output.

        Args:
            images: One input or several.
            layer: A place, whose tensor is noted in `seen`, a list, once for each call.
            change: Makes of that tensor what the model goes on with.
            seen: See layer.
            skip: How many calls of the layer are left as they are.
        """
        device = next((one.device for one in self._tensors()), None)
        given = [torch.as_tensor(part).to(device).clone() for part in self.parts(images)]
        with HeldBack(), self._evaluating(), torch.no_grad():
            given = self._as_taken(given)
            if layer is None:
                return called(self.model, given)
            hook = _Hook(layer, change, skip, [] if seen is None else seen)
            handle = self.model.get_submodule(layer.name).register_forward_hook(hook)
            try:
                with hook:
                    return called(self.model, given)
            finally:
                handle.remove()

    def _as_taken(self, given: list[Tensor]) -> list[Tensor]:
        """The inputs as they are if the model takes them so; else cast as it was first seen to take them."""
        if self._cast is None:
            dtypes = dict.fromkeys(one.dtype for one in self._tensors() if one.is_floating_point())
            casts: list[Callable[[Tensor], Tensor]] = [_as_it_is]
            for only_floats in (True, False):
                casts += [partial(_to, dtype, only_floats) for dtype in (*dtypes, torch.float32)]
            self._cast = next((one for one in casts if self._takes([one(part).clone() for part in given])), _as_it_is)
        return [self._cast(part) for part in given]

    def _takes(self, given: list[Tensor]) -> bool:
        try:
            called(self.model, given)
        except Exception:
            return False
        return True

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()

    @staticmethod
    def numbers(scores: Any) -> NDArray[Any]:
        """Scores as an array."""
        return np.asarray(scores.detach().double().cpu())

    @staticmethod
    def arrays(output: Any) -> list[NDArray[Any]]:
        """The numbers in an output, whatever it is."""
        if isinstance(output, Tensor):
            return [output.double().cpu().numpy()] if output.is_floating_point() else []
        if isinstance(output, Mapping):
            output = list(output.values())
        if hasattr(output, "__dict__") and not isinstance(output, (tuple, list)):
            output = list(vars(output).values())
        each = output if isinstance(output, (tuple, list)) else []
        return [its for one in each for its in PlainTorch.arrays(one)]

    @staticmethod
    def table(output: Any, model_output: ModelOutput) -> NDArray[Any] | None:
        """The table (N, C) of class scores in an output, or None."""

        def fits(part: Any) -> bool:
            return isinstance(part, Tensor) and part.dim() == 2

        picked = pick(output, model_output, is_tensor=lambda part: isinstance(part, Tensor), fits=fits)
        return PlainTorch.numbers(picked) if fits(picked) else None

    def at(self, images: Any, layer: LayerRef) -> list[NDArray[Any]]:
        """What a place puts out, once for each call."""
        seen: list[NDArray[Any]] = []
        self.run(images, layer, seen=seen)
        return seen

    def heads(self, images: Any, kind: str, table: NDArray[Any]) -> str | None:
        """The name of a module whose output, under a softmax or sigmoid, is the table of probabilities; or None."""
        found: list[str] = []

        def looked(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(_: Any, __: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.numel() == table.size and output.is_floating_point():
                    logits = output.double().reshape(table.shape)
                    made = logits.softmax(1) if kind == "softmax" else logits.sigmoid()
                    normalised = bool((logits.logsumexp(1).abs() < 1e-4).all()) and kind == "softmax"
                    if not normalised and np.allclose(made.cpu().numpy(), table, atol=1e-4):
                        found.append(name)

            return hook

        with HeldBack(), ExitStack() as stack:
            for name, module in self.model.named_modules():
                stack.callback(module.register_forward_hook(looked(name)).remove)
            self.run(images)
        return found[-1] if found else None

    def logits_of(self, name: str, images: Any, layer: LayerRef, change: Change, skip: int) -> NDArray[Any]:
        """The output of the module `name` in a pass that is changed at a layer; see `run`."""
        seen: list[NDArray[Any]] = []
        with HeldBack(), ExitStack() as stack:
            handle = self.model.get_submodule(name).register_forward_hook(
                lambda _, __, output: seen.append(output.double().cpu().numpy())
            )
            stack.callback(handle.remove)
            self.run(images, layer, change, skip=skip)
        return seen[-1].reshape(len(seen[-1]), -1)

    @interruptible
    def reweighted(self, factors: Callable[[Any], NDArray[Any]]) -> Iterator[bool]:
        """While active, all tables of weights are multiplied by factors of their shape; yields whether there is one."""
        tables = [one.data for one in self.model.parameters() if one.dim() >= 2 and one.is_floating_point()]
        before = [one.clone() for one in tables]
        try:
            for one in tables:
                one.mul_(torch.as_tensor(factors(tuple(one.shape))).to(one))
            yield bool(tables)
        finally:
            for one, its in zip(tables, before, strict=True):
                one.copy_(its)

    def state(self) -> dict[str, Any]:
        """What can be seen of the model, the settings of PyTorch and the random streams, by what it is of."""
        found: dict[str, Any] = {
            "Python's random stream": random.getstate(),
            "NumPy's random stream": pickle.dumps(np.random.get_state()),
            "PyTorch's random stream": torch.get_rng_state().numpy().tobytes(),
            **{f"torch.{name}": getattr(torch, name)() for name in _SETTINGS},
            "hooks of all modules": [len(hooks) for name, hooks in vars(nn.modules.module).items()
                                     if name.startswith("_global_") and isinstance(hooks, dict)],
            "all that pickle reaches": _pickled(self.model),
        }  # fmt: skip
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            found["random streams of CUDA"] = [one.numpy().tobytes() for one in torch.cuda.get_rng_state_all()]
        for name, module in self.model.named_modules():
            said = name or "the model"
            own = {key: value for key, value in module.__dict__.items() if key != "training"}
            found[f"training flag of {said}"] = module.training
            found[f"attributes of {said}"] = {key: mark(value, _of_tensor) for key, value in own.items()}
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            found[f"values of {name}"] = _digest(tensor)
            found[f"gradient of {name}"] = None if tensor.grad is None else (Itself(tensor.grad), _digest(tensor.grad))
            found[f"flag and hooks of {name}"] = (tensor.requires_grad, len(tensor._backward_hooks or ()))
        return found

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        before = [(module, module.training) for module in self.model.modules()]
        try:
            for module, _ in before:
                module.training = False
            yield
        finally:
            for module, training in before:
                module.training = training


class _Hook(TorchFunctionMode):
    """A forward hook that notes or changes an output; of an activation function behind it, a function mode does."""

    def __init__(self, layer: LayerRef, change: Change | None, skip: int, seen: list[NDArray[Any]]) -> None:
        super().__init__()
        self._layer, self._change, self._skip, self._seen = layer, change, skip, seen
        self._awaited: Tensor | None = None

    def __call__(self, _: Any, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if self._layer.place != "output":
            self._awaited = first
            return None
        changed = self._changed(first)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if given is not None and given is self._awaited and isinstance(out, Tensor) and out.shape == given.shape:
            self._awaited = None
            changed = self._changed(out)
            return out.copy_(changed) if out is given else changed
        return out

    def _changed(self, tensor: Tensor) -> Tensor:
        self._seen.append(tensor.detach().double().cpu().numpy())
        if self._change is None or len(self._seen) <= self._skip:
            return tensor
        return torch.as_tensor(self._change(self._seen[-1])).to(tensor)


def _double(part: Any) -> Any:
    tensor = part if isinstance(part, Tensor) else torch.as_tensor(np.asarray(part))
    return tensor.double() if tensor.is_floating_point() else tensor


class _Hashed:
    """A file that keeps nothing but the hash of what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return memoryview(data).nbytes


def _pickled(model: nn.Module) -> str | None:
    """The hash of the model as pickle writes it, or None if it cannot."""
    written = _Hashed()
    try:
        pickle.dump(model, written)
    except Exception:  # of local classes, lambdas, open files
        return None
    return written.hash.hexdigest()


def _of_tensor(value: Any) -> Any:
    """Values of a tensor; None of modules and parameters, which are noted by themselves; all else as it is."""
    if isinstance(value, (nn.Module, nn.Parameter)):
        return None
    return (value.requires_grad, value.grad_fn is None, _digest(value)) if isinstance(value, Tensor) else value


def _digest(tensor: Tensor) -> Any:
    if tensor.is_quantized or tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
        return str(tensor.layout)
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return (tuple(tensor.shape), hashlib.sha256(data.data).hexdigest())


def _as_it_is(part: Tensor) -> Tensor:
    return part


def _to(dtype: torch.dtype, only_floats: bool, part: Tensor) -> Tensor:
    return part.to(dtype) if part.is_floating_point() or not only_floats else part
