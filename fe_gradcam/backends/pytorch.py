"""PyTorch models: one forward pass without gradients up to the explained layer, and with them from there."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from fe_gradcam.backends._torch_recorder import Head, Lister, Recorder
from fe_gradcam.layers import check_map, default_layer, unknown_layer
from fe_gradcam.targets import ResolvedTarget, check_class_ids, resolve_target
from fe_gradcam.types import (
    ArgumentError,
    CamInputs,
    CamWarning,
    GradientError,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Score,
    Target,
    UnsupportedModelError,
)

HALF_PRECISION_FACTOR = 1024.0
"""Scales the score of an fp16 model, so that small gradients do not fall below what fp16 can hold."""

_default_layers: WeakKeyDictionary[nn.Module, dict[Any, LayerRef]] = WeakKeyDictionary()
_times_reached: WeakKeyDictionary[nn.Module, dict[LayerRef, int]] = WeakKeyDictionary()
_told_of_probabilities: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, eq=False)
class _Forward:
    """One forward pass: the leaf at the place, the model's output and the head it came out of."""

    leaf: Tensor
    output: Any
    head: Head | None


class TorchBackend:
    """A PyTorch model, ready to be explained.

    Args:
        model: Any module; of DataParallel and torch.compile the module inside is used.

    Raises:
        UnsupportedModelError: A scripted module, which takes no hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        if isinstance(self._model, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                "model is a scripted module (torch.jit), whose layers cannot be observed. Pass the nn.Module that it "
                "was scripted from, with the same weights (load_state_dict)."
            )

    def image_size(self, images: Images) -> tuple[int, int]:
        """(H, W) of the first input, (N, C, H, W)."""
        first = _as_tuple(images)[0]
        height, width = tuple(first.shape)[-2:]
        return int(height), int(width)

    def layers(self, images: Images) -> list[LayerInfo]:
        """The modules in the order in which a forward pass of `images` completes them."""
        lister = Lister()
        with self._left_as_found() as model, torch.no_grad(), lister.watching(model):
            inputs = self._inputs(images, model)
            model(*inputs)
        names = _names(model)
        infos = []
        for position, (module, shape) in enumerate(lister.met):
            name = names[id(module)]
            spatial = len(shape) == 4 and shape[2] * shape[3] > 1
            kind = type(module).__name__
            infos.append(LayerInfo(name, kind, shape[1:], spatial, lister.activations.get(position)))
        return infos

    def resolve(self, layer: Layer, images: Images) -> LayerRef:
        """The place that `layer` names; None chooses the default, once per model and image size."""
        if isinstance(layer, LayerRef):
            return layer
        if layer is None:
            known = _default_layers.setdefault(self._model, {})
            one_image = tuple(part[:1] for part in _as_tuple(images))
            key = (tuple(map(id, self._model.modules())), tuple(tuple(part.shape) for part in one_image))
            if key not in known:
                infos = self.layers(one_image)
                known[key] = default_layer(infos)
                times = sum(info.name == known[key].name for info in infos)
                _times_reached.setdefault(self._model, {})[known[key]] = times
            return known[key]
        return LayerRef(self._name_of(layer))

    def run(
        self, images: Images, layer: LayerRef, targets: Sequence[Target], *, gradients: bool, score: Score
    ) -> list[CamInputs]:
        """One forward pass of `images`, and one backward pass for each target.

        Raises:
            GradientError: The score depends on the layer, and no gradient reaches it.
            UnsupportedModelError: The output is no tensor of class scores, and a target is a class.
        """
        with self._left_as_found() as model, torch.no_grad():
            inputs = self._inputs(images, model)
            resolved = [resolve_target(target, len(inputs[0])) for target in targets]
            forward = self._forward(model, inputs, layer, gradients, whole_graph=False)
            scored = [self._score(forward, target, score) for target in resolved]
            if gradients and not all(scores.requires_grad for scores, _ in scored):
                # a no_grad() of the model's own closed behind the layer, and took ours with it
                forward = self._forward(model, inputs, layer, gradients, whole_graph=True)
                scored = [self._score(forward, target, score) for target in resolved]
            results = []
            for position, (scores, class_ids) in enumerate(scored):
                gradient = None
                if gradients:
                    more_to_come = position + 1 < len(scored)
                    gradient = gradient_at(forward.leaf, scores, retain_graph=more_to_come)
                    if gradient is None:
                        self._refuse_if_detached(model, inputs, layer, forward, resolved[position], score)
                        gradient = torch.zeros_like(forward.leaf, dtype=torch.float32)
                results.append(self._cam_inputs(forward, scores, class_ids, gradient, images))
            return results

    def run_inside(
        self, inputs: Sequence[Tensor], layer: LayerRef, target: Target
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
        """A pass that is part of somebody else's: modes and graph are theirs, and are kept.

        Args:
            inputs: The model's inputs.
            layer: What is explained.
            target: What is explained.

        Returns:
            The model's output, the activations (N, K, h, w), and a function that takes the
            gradients (N, K, h, w) from the graph, which it leaves to be used again.
        """
        keep_graph = torch.is_grad_enabled()
        leaves: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            leaf = tensor if keep_graph and tensor.requires_grad else tensor.detach().requires_grad_(True)
            torch.set_grad_enabled(True)
            leaves[:] = [leaf]
            return leaf.clone()  # what follows may write in place

        recorder = Recorder(layer, take)
        with torch.set_grad_enabled(keep_graph), recorder.watching(self._model.get_submodule(layer.name)):
            output = self._model(*inputs)
        if not leaves:
            raise _not_called(layer)
        check_map(layer, leaves[0].shape[1:])
        head = recorder.head_of(output) if isinstance(output, Tensor) else None
        forward = _Forward(leaves[0], output, head)

        def gradients() -> Tensor:
            scores, _ = self._score(forward, resolve_target(target, len(inputs[0])), "logit")
            gradient = gradient_at(forward.leaf, scores, retain_graph=keep_graph)
            return torch.zeros_like(forward.leaf) if gradient is None else gradient

        return (output if keep_graph else output.detach()), leaves[0].detach(), gradients

    def _forward(
        self, model: nn.Module, inputs: tuple[Tensor, ...], layer: LayerRef, gradients: bool, whole_graph: bool
    ) -> _Forward:
        leaves: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            leaf = tensor.detach()
            if gradients:
                leaf.requires_grad_(True)
                torch.set_grad_enabled(True)
            leaves[:] = [leaf]
            return leaf.clone()  # what follows may write in place

        with _without_reentrant_checkpoints() if whole_graph else nullcontext():
            output, recorder = observe(model, inputs, layer, take, whole_graph=whole_graph)
        leaf = leaves[0]
        if leaf.shape[0] != len(inputs[0]):
            raise ArgumentError(
                f"layer={str(layer)!r} has an output of {leaf.shape[0]} rows for {len(inputs[0])} images; one row per "
                "image is needed. Pass another layer."
            )
        check_map(layer, leaf.shape[1:])
        return _Forward(leaf, output, recorder.head_of(output) if isinstance(output, Tensor) else None)

    def _score(self, forward: _Forward, target: ResolvedTarget, score: Score) -> tuple[Tensor, Tensor]:
        """(N,) scores and the class ids of a target."""
        count = len(forward.leaf)
        with torch.enable_grad():
            if target.score is not None:
                scores = target.score(forward.output)
                if not isinstance(scores, Tensor) or scores.shape != (count,):
                    came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                    raise ArgumentError(
                        f"target, a callable, returned {came}; a tensor of shape ({count},), one score per image, is "
                        "needed."
                    )
                return scores, torch.full((count,), -1, device=scores.device)
            table, _ = self._class_scores(forward, score)
            ids = target.class_ids
            check_class_ids(ids, table.shape[1])  # type: ignore[arg-type]
            class_ids = torch.from_numpy(ids).to(table.device)
            class_ids = torch.where(class_ids < 0, table.argmax(1), class_ids)
            return table.gather(1, class_ids[:, None])[:, 0], class_ids

    def _class_scores(self, forward: _Forward, score: Score) -> tuple[Tensor, Tensor]:
        """What is explained and the probabilities, both (N, C); a single output makes two classes."""
        output = forward.output
        if not isinstance(output, Tensor):
            raise UnsupportedModelError(
                f"model returns a {type(output).__name__}, not a tensor (N, C) of class scores. Pass "
                "target=lambda output: ... that picks one score per image out of it, or wrap the model."
            )
        head = forward.head
        table, outputs = _table(output if head is None else head.logits), _table(output)
        kind = head.kind if head is not None else "softmax"
        if table.shape[1] == 1:
            table, kind = torch.cat([-table, table], 1), "sigmoid"
            outputs = torch.cat([1 - outputs if head is not None else -outputs, outputs], 1)
        elif head is None and _are_probabilities(table):
            if score == "logit" and self._model not in _told_of_probabilities:
                _told_of_probabilities.add(self._model)
                warnings.warn(
                    "The model's outputs are probabilities, and the softmax that made them was not found: log p is "
                    "explained in place of the logit. Pass a model that returns logits to be exact.",
                    CamWarning,
                    stacklevel=2,
                )
            table = table.clamp(min=torch.finfo(table.dtype).tiny).log()
        detached = table.detach().float()
        probabilities = detached.softmax(1) if kind == "softmax" else detached.sigmoid()
        return (outputs if score == "output" else table), probabilities

    def _cam_inputs(
        self, forward: _Forward, scores: Tensor, class_ids: Tensor, gradient: Tensor | None, images: Images
    ) -> CamInputs:
        logits = probabilities = None
        if isinstance(forward.output, Tensor) and _is_table(forward.output):
            table, probabilities = self._class_scores(forward, "logit")
            logits = table.detach().float()
        return CamInputs(
            activations=forward.leaf.detach().float(),
            gradients=gradient,
            scores=scores.detach().float(),
            class_ids=class_ids,
            logits=logits,
            probabilities=probabilities,
            images=images,
        )

    def _refuse_if_detached(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        layer: LayerRef,
        forward: _Forward,
        target: ResolvedTarget,
        score: Score,
    ) -> None:
        """No gradient came: right where the score ignores the layer, an error where it does not."""
        place = forward.leaf

        def disturb(tensor: Tensor) -> Tensor:
            return 1 - tensor

        output, recorder = observe(model, inputs, layer, disturb, whole_graph=False)
        head = recorder.head_of(output) if isinstance(output, Tensor) else None
        disturbed, _ = self._score(_Forward(place, output, head), target, score)
        plain, _ = self._score(forward, target, score)
        if not torch.equal(disturbed.detach(), plain.detach()):
            raise GradientError(
                f"No gradient reaches layer={str(layer)!r}, though the score depends on it: the model detaches what "
                "comes behind (detach(), inference_mode(), .data, a NumPy step). Pass layer= with a layer behind that "
                "place, or a model without it."
            )

    def _inputs(self, images: Images, model: nn.Module) -> tuple[Tensor, ...]:
        like = next((p for p in model.parameters() if p.is_floating_point()), None)
        inputs = []
        for part in _as_tuple(images):
            tensor = torch.as_tensor(part)
            if like is not None:
                tensor = tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
            inputs.append(tensor.clone() if tensor.is_inference() else tensor.detach())
        return tuple(inputs)

    def _name_of(self, layer: Layer) -> str:
        named: dict[str, nn.Module] = dict(self._model.named_modules(remove_duplicate=False))
        if isinstance(layer, nn.Module):
            wanted = unwrapped(layer)
            for name, module in named.items():
                if unwrapped(module) is wanted:
                    return name
        elif isinstance(layer, str):
            for name in (layer, layer.removeprefix("module."), layer.removeprefix("_orig_mod.")):
                if name in named:
                    return name
        elif isinstance(layer, int) and not isinstance(layer, bool):
            names: list[str] = [name for name, _ in self._model.named_modules()]
            if -len(names) <= layer < len(names):
                return names[layer]
        raise unknown_layer(layer if isinstance(layer, (str, int)) else type(layer).__name__, list(named))

    @contextmanager
    def _left_as_found(self) -> Iterator[nn.Module]:
        """The model in eval mode, uncompiled, fit for gradients; afterwards all is as it was."""
        model = self._model
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
            stack.enter_context(torch.random.fork_rng(devices=sorted(devices, key=str)))
            if any(tensor.is_inference() for tensor in chain(model.parameters(), model.buffers())):
                model = copy.deepcopy(model)
            stack.enter_context(_uncompiled(model))
            stack.enter_context(_evaluating(model))
            yield model


def observe(
    model: nn.Module,
    inputs: Sequence[Tensor],
    layer: LayerRef,
    take: Callable[[Tensor], Tensor],
    *,
    whole_graph: bool,
) -> tuple[Any, Recorder]:
    """Calls the model once under a Recorder.

    Args:
        model: The module to call.
        inputs: Its positional arguments.
        layer: The place that `take` gets the tensor of.
        take: See Recorder.
        whole_graph: Whether autograd is on from the start.

    Returns:
        The model's output and the recorder.

    Raises:
        ArgumentError: The pass never came to the place.
    """
    times = _times_reached.setdefault(model, {})
    module = model.get_submodule(layer.name)
    recorder = Recorder(layer, take, skip=times.get(layer, 1) - 1)
    with torch.set_grad_enabled(whole_graph), recorder.watching(module):
        output = model(*inputs)
    if 0 < recorder.reached < times.get(layer, 1):  # called fewer times than before: nothing was taken
        recorder = Recorder(layer, take, skip=recorder.reached - 1)
        with torch.set_grad_enabled(whole_graph), recorder.watching(module):
            output = model(*inputs)
    if not recorder.reached:
        raise _not_called(layer)
    times[layer] = recorder.reached
    return output, recorder


def _not_called(layer: LayerRef) -> ArgumentError:
    return ArgumentError(
        f"layer={str(layer)!r} is not called in the model's forward pass, so it has no activations. Pass a layer that "
        "fe_gradcam.list_layers(model, images) shows."
    )


def gradient_at(leaf: Tensor, scores: Tensor, *, retain_graph: bool) -> Tensor | None:
    """∂(Σ scores)/∂leaf in float32, or None where the scores were not computed from the leaf."""
    if not scores.requires_grad:
        return None
    factor = HALF_PRECISION_FACTOR if leaf.dtype == torch.float16 else 1.0
    (gradient,) = torch.autograd.grad(
        scores, leaf, torch.full_like(scores, factor), retain_graph=retain_graph, allow_unused=True
    )
    return None if gradient is None else gradient.detach().float() / factor


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
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module's training flag off. The flags are set directly: train() of a module may do more."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Compiled submodules replaced by the originals, whose hooks are called."""
    swapped = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent._modules.items()
        if child is not None and hasattr(child, "_orig_mod")
    ]
    compiled = [module for module in model.modules() if getattr(module, "_compiled_call_impl", None) is not None]
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


@contextmanager
def _without_reentrant_checkpoints() -> Iterator[None]:
    """Reentrant checkpoints as plain calls: what they hold is cut off from the graph until they are run again."""

    def call(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)

    CheckpointFunction.apply = staticmethod(call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del CheckpointFunction.apply


def _names(model: nn.Module) -> dict[int, str]:
    """The first name of every module, by id."""
    return {id(module): name for name, module in model.named_modules()}


def _as_tuple(images: Images) -> tuple[Any, ...]:
    return tuple(images) if isinstance(images, (tuple, list)) else (images,)


def _is_table(output: Tensor) -> bool:
    """Whether an output is class scores: (N, C), (N,), or those with trailing axes of size 1."""
    return output.dim() >= 1 and all(size == 1 for size in output.shape[2:])


def _table(output: Tensor) -> Tensor:
    """Class scores as (N, C)."""
    if not _is_table(output):
        raise UnsupportedModelError(
            f"model returns a tensor of shape {tuple(output.shape)}; class scores (N, C) are needed. Pass "
            "target=lambda output: ... that makes one score per image out of it."
        )
    return output.reshape(len(output), -1)


def _are_probabilities(table: Tensor) -> bool:
    """Whether every row lies in [0, 1] and sums to 1."""
    rows = table.detach().float()
    return bool((rows >= 0).all() and (rows <= 1).all() and ((rows.sum(1) - 1).abs() < 1e-3).all())
