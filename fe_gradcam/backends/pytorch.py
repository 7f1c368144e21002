"""PyTorch models: one forward pass without gradients up to the explained layer, and with them from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fe_gradcam.backends._shared import (
    HALF_PRECISION_FACTOR,
    STRETCH,
    as_tuple,
    check_rows,
    no_gradient,
    not_called,
    reading_of,
    warn_of_probabilities,
)
from fe_gradcam.backends._torch_recorder import Lister, Recorder
from fe_gradcam.backends._torch_scores import (
    Forward,
    as_table,
    class_scores,
    head_for,
    sums_to_one,
    target_scores,
    within_unit,
)
from fe_gradcam.backends._torch_state import (
    left_as_found,
    uncompiled,
    unwrapped,
    without_reentrant_checkpoints,
)
from fe_gradcam.layers import check_map, default_layer, unknown_layer
from fe_gradcam.targets import ResolvedTarget, resolve_target
from fe_gradcam.types import (
    CamInputs,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Score,
    Target,
    UnsupportedModelError,
)

_default_layers: WeakKeyDictionary[nn.Module, dict[Any, LayerRef]] = WeakKeyDictionary()
_times_reached: WeakKeyDictionary[nn.Module, dict[LayerRef, int]] = WeakKeyDictionary()


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
        first = as_tuple(images)[0]
        height, width = tuple(first.shape)[-2:]
        return int(height), int(width)

    def layers(self, images: Images) -> list[LayerInfo]:
        """The modules in the order in which a forward pass of `images` completes them."""
        lister = Lister()
        with left_as_found(self._model) as model, torch.no_grad(), lister.watching(model):
            model(*(part.clone() for part in self._inputs(images, model)))
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
            one_image = tuple(part[:1] for part in as_tuple(images))
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
        with left_as_found(self._model) as model, torch.no_grad():
            inputs = self._inputs(images, model)
            resolved = [resolve_target(target, len(inputs[0])) for target in targets]
            forward = self._forward(model, inputs, layer, gradients, whole_graph=False)
            scored = [target_scores(forward, target, score) for target in resolved]
            if gradients and not all(scores.requires_grad for scores, _ in scored):
                # a no_grad() of the model's own closed behind the layer, and took ours with it
                forward = self._forward(model, inputs, layer, gradients, whole_graph=True)
                scored = [target_scores(forward, target, score) for target in resolved]
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
            by_class = any(target.score is None for target in resolved)
            if forward.reading != "logits" and score == "logit" and by_class:
                warn_of_probabilities(self._model)
            return results

    def run_inside(
        self, inputs: Sequence[Tensor], layer: LayerRef, target: Target
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor], bool]:
        """A pass that is part of somebody else's: modes and graph are theirs, and are kept.

        Args:
            inputs: The model's inputs.
            layer: What is explained.
            target: What is explained.

        Returns:
            The model's output, the activations (N, K, h, w), a function that takes the gradients
            (N, K, h, w) from the graph, which it leaves to be used again, and whether the output is
            probabilities.
        """
        keep_graph = torch.is_grad_enabled()
        leaves: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            leaf = tensor if keep_graph and tensor.requires_grad else tensor.detach().requires_grad_(True)
            torch.set_grad_enabled(True)
            leaves[:] = [leaf]
            return leaf.clone()  # what follows may write in place

        for whole_graph in (True,) if keep_graph else (False, True):  # the second for a no_grad() of the model's own
            recorder = Recorder(layer, take)
            with torch.set_grad_enabled(whole_graph), recorder.watching(self._model.get_submodule(layer.name)):
                output = self._model(*inputs)
            if not leaves:
                raise not_called(layer)
            if isinstance(output, Tensor) and output.requires_grad:
                break
        check_map(layer, leaves[0].shape[1:])
        forward = self._read(leaves[0], output, recorder, inputs)

        def gradients() -> Tensor:
            scores, _ = target_scores(forward, resolve_target(target, len(inputs[0])), "logit")
            gradient = gradient_at(forward.leaf, scores, retain_graph=keep_graph)
            if gradient is None:
                raise no_gradient(layer, "detach(), inference_mode(), .data, a NumPy step")
            return gradient

        are_probabilities = forward.head is not None or forward.reading != "logits"
        return (output if keep_graph else output.detach()), leaves[0].detach(), gradients, are_probabilities

    def _forward(
        self, model: nn.Module, inputs: tuple[Tensor, ...], layer: LayerRef, gradients: bool, whole_graph: bool
    ) -> Forward:
        leaves: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            leaf = tensor.detach()
            if gradients:
                leaf.requires_grad_(True)
                torch.set_grad_enabled(True)
            leaves[:] = [leaf]
            return leaf.clone()  # what follows may write in place

        with without_reentrant_checkpoints() if whole_graph else nullcontext():
            output, recorder = observe(model, inputs, layer, take, whole_graph=whole_graph)
        leaf = leaves[0]
        check_rows(layer, len(leaf), len(inputs[0]))
        check_map(layer, leaf.shape[1:])
        return self._read(leaf, output, recorder, inputs)

    def _read(self, leaf: Tensor, output: Any, recorder: Recorder, inputs: Sequence[Tensor]) -> Forward:
        """The pass with its head, or else with how its output is read."""
        table = as_table(output, len(leaf))
        if table is None:
            return Forward(leaf, output, None)
        head = head_for(output, recorder.head_of(output), len(leaf))
        if head is not None:
            return Forward(leaf, output, head)
        reading = reading_of(
            self._model,
            within=within_unit(table),
            sums_to_one=sums_to_one(table),
            stays_within=lambda: self._stays_within(inputs),
        )
        return Forward(leaf, output, None, reading)

    def _stays_within(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the outputs lie in [0, 1] whatever the images."""
        with left_as_found(self._model) as model, torch.no_grad():
            for factor in (STRETCH, -STRETCH):
                output = model(*(part * factor if part.is_floating_point() else part for part in inputs))
                if not within_unit(output):
                    return False
        return True

    def _cam_inputs(
        self, forward: Forward, scores: Tensor, class_ids: Tensor, gradient: Tensor | None, images: Images
    ) -> CamInputs:
        logits = probabilities = None
        if as_table(forward.output, len(forward.leaf)) is not None:
            tables = class_scores(forward)
            logits, probabilities = tables.logits.detach().float(), tables.probabilities
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
        forward: Forward,
        target: ResolvedTarget,
        score: Score,
    ) -> None:
        """No gradient came: right where the score ignores the layer, an error where it does not."""
        place = forward.leaf

        def disturb(tensor: Tensor) -> Tensor:
            return 1 - tensor

        output, recorder = observe(model, inputs, layer, disturb, whole_graph=False)
        disturbed, _ = target_scores(self._read(place, output, recorder, inputs), target, score)
        plain, _ = target_scores(forward, target, score)
        if not torch.equal(disturbed.detach(), plain.detach()):
            raise no_gradient(layer, "detach(), inference_mode(), .data, a NumPy step")

    def _inputs(self, images: Images, model: nn.Module) -> tuple[Tensor, ...]:
        like = next((p for p in model.parameters() if p.is_floating_point()), None)
        inputs = []
        for part in as_tuple(images):
            tensor = torch.as_tensor(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part)
            if like is not None:
                tensor = tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
            inputs.append(tensor.clone() if tensor.is_inference() else tensor.detach())
        return tuple(inputs)

    def _name_of(self, layer: Layer) -> str:
        if isinstance(layer, nn.Module):
            layer = unwrapped(layer)
        elif isinstance(layer, str):
            layer = layer.replace("_orig_mod.", "")
        with uncompiled(list(self._model.modules())):
            return self._plain_name_of(layer)

    def _plain_name_of(self, layer: Layer) -> str:
        named: dict[str, nn.Module] = dict(self._model.named_modules(remove_duplicate=False))
        if isinstance(layer, nn.Module):
            for name, module in named.items():
                if module is layer:
                    return name
        elif isinstance(layer, str):
            for name in (layer, layer.removeprefix("module.")):
                if name in named:
                    return name
        elif isinstance(layer, int) and not isinstance(layer, bool):
            names: list[str] = [name for name, _ in self._model.named_modules()]
            if -len(names) <= layer < len(names):
                return names[layer]
        raise unknown_layer(layer if isinstance(layer, (str, int)) else type(layer).__name__, list(named))


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
        output = model(*(part.clone() for part in inputs))  # some write to what they get
    if 0 < recorder.reached < times.get(layer, 1):  # called fewer times than before: nothing was taken
        recorder = Recorder(layer, take, skip=recorder.reached - 1)
        with torch.set_grad_enabled(whole_graph), recorder.watching(module):
            output = model(*(part.clone() for part in inputs))
    if not recorder.reached:
        raise not_called(layer)
    times[layer] = recorder.reached
    return output, recorder


def gradient_at(leaf: Tensor, scores: Tensor, *, retain_graph: bool) -> Tensor | None:
    """∂(Σ scores)/∂leaf in float32, or None where the scores were not computed from the leaf."""
    if not scores.requires_grad:
        return None
    factors = (HALF_PRECISION_FACTOR, 1.0) if leaf.dtype == torch.float16 else (1.0,)
    for factor in factors:
        keep = retain_graph or factor != factors[-1]
        (gradient,) = torch.autograd.grad(
            scores, leaf, torch.full_like(scores, factor), retain_graph=keep, allow_unused=True
        )
        if gradient is None:
            return None
        gradient = gradient.detach().float() / factor
        if bool(gradient.isfinite().all()):
            break
    return gradient


def _names(model: nn.Module) -> dict[int, str]:
    """The first name of every module, by id."""
    return {id(module): name for name, module in model.named_modules()}
