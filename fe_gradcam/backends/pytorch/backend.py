"""PyTorch models: one forward pass without gradients up to the explained layer, and with them from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fe_gradcam.backends.errors import check_rows, no_attention, no_gradient, no_slope, not_called
from fe_gradcam.backends.known import Known, known_of
from fe_gradcam.backends.protocol import STRETCHES, reaches, reading_of, warn_of_probabilities
from fe_gradcam.backends.pytorch.attention import BlockLister, ending_behind
from fe_gradcam.backends.pytorch.layers import layer_infos, name_of, seen_by
from fe_gradcam.backends.pytorch.passes import (
    BiasRecorder,
    Front,
    gradient_at,
    hessian_product,
    observe,
)
from fe_gradcam.backends.pytorch.recorder import Lister, Recorder
from fe_gradcam.backends.pytorch.scores import (
    Forward,
    Scored,
    as_rows,
    as_table,
    class_scores,
    head_for,
    is_segmentation,
    is_tensor,
    sums_to_one,
    target_scores,
    within_unit,
)
from fe_gradcam.backends.pytorch.state import left_as_found, unwrapped, without_reentrant_checkpoints
from fe_gradcam.errors import UnsupportedModelError
from fe_gradcam.spec.images import as_tuple, in_dtype, picture_of
from fe_gradcam.spec.layers import default_layer
from fe_gradcam.spec.outputs import ModelOutput, pick
from fe_gradcam.spec.resolved import ClassTarget, RegionTarget, ResolvedTarget, ValueTarget, resolve_target
from fe_gradcam.spec.tokens import Seen, as_map, pulled_back, token_grid
from fe_gradcam.types import BiasGradients, CamInputs, Images, Layer, LayerInfo, LayerRef, Reshape, Score, Target


class TorchBackend:
    """A PyTorch model, ready to be explained.

    Args:
        model: Any module; of DataParallel and torch.compile the module inside is used.
        model_output: Which of its outputs holds the scores; None where that is plain.
        reshape: How a layer's output becomes a map; None recognises it.
        of_pixels: Whether a segmentation is explained.

    Raises:
        UnsupportedModelError: A scripted module, which takes no hooks.
    """

    channels_first = True

    def __init__(
        self,
        model: nn.Module,
        model_output: ModelOutput = None,
        reshape: Reshape | None = None,
        of_pixels: bool = False,
    ) -> None:
        self._model = unwrapped(model)
        self._model_output = model_output
        self._reshape = reshape
        self._of_pixels = of_pixels
        self._asking = False
        self._known = known_of(self._model)
        self._kept_front: tuple[Front, LayerRef, tuple[Tensor, ...]] | None = None
        if isinstance(self._model, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                "model is a scripted module (torch.jit), whose layers cannot be observed. Pass the nn.Module that it "
                "was scripted from, with the same weights (load_state_dict)."
            )

    @property
    def precision(self) -> float:
        """The spacing of the model's numbers at 1."""
        floats = (each.dtype for each in self._model.parameters() if each.is_floating_point())
        return float(torch.finfo(next(floats, torch.float32)).eps)

    def image_size(self, images: Images) -> tuple[int, ...]:
        """(H, W) of the images, (N, C, H, W), or (D, H, W) of volumes."""
        return tuple(int(side) for side in picture_of(images).shape[2:])

    def layers(self, images: Images) -> list[LayerInfo]:
        """The modules in the order in which a forward pass of `images` completes them."""
        return layer_infos(self._listed(images), len(as_tuple(images)[0]), self.image_size(images))

    def _listed(self, images: Images) -> Lister:
        lister = Lister()
        with left_as_found(self._model) as model, torch.no_grad(), lister.watching(model):
            model(*(part.clone() for part in self._inputs(images, model)))
            lister.names = {module: name for name, module in model.named_modules()}
        return lister

    def _seen(self, images: Images) -> Seen:
        """What a pass shows about the layout of the layers' outputs, looked at once per image size."""
        size, known = self.image_size(images), self._known_now()
        found = known.seen.get(size)
        if found is None:
            one_image = tuple(part[:1] for part in as_tuple(images))
            found = known.seen.put(size, seen_by(self._listed(one_image), size))
        return found

    def _known_now(self) -> Known:
        """What is known of the model, of nothing that it was before a module of it was replaced."""
        return self._known.now([one for one in self._model.modules() if "_orig_mod" not in one._modules])

    def resolve(self, layer: Layer, images: Images) -> LayerRef:
        """The place that `layer` names; None chooses the default, once per model and image size."""
        if isinstance(layer, LayerRef):
            return layer
        if layer is None:
            known = self._known_now()
            one_image = tuple(part[:1] for part in as_tuple(images))
            key = (tuple(tuple(part.shape) for part in one_image), self._model_output, self._of_pixels)
            found = known.default_layers.get(key)
            if found is not None:
                return found
            infos = self.layers(one_image)
            found, certain = default_layer(infos, lambda ref: self._reaches(ref, one_image), of_pixels=self._of_pixels)
            return known.default_layers.put(key, found) if certain else found
        return LayerRef(name_of(self._model, layer))

    def _reaches(self, layer: LayerRef, images: Images) -> bool:
        self._asking = True
        try:
            return reaches(self, layer, images)
        finally:
            self._asking = False

    def run(
        self, images: Images, layer: LayerRef, targets: Sequence[ResolvedTarget], *, gradients: bool, score: Score
    ) -> list[CamInputs]:
        """See Backend."""
        with left_as_found(self._model) as model, torch.no_grad():
            inputs = self._inputs(images, model)
            forward, scored = self._scored(model, inputs, layer, targets, gradients, score)
            classes = forward.is_table and not all(isinstance(target, ValueTarget) for target in targets)
            results = []
            for position, its in enumerate(scored):
                gradient = None
                if gradients:
                    more_to_come = position + 1 < len(scored)
                    gradient = gradient_at(forward.leaf, its.scores, retain_graph=more_to_come)
                    if gradient is None:
                        self._refuse_if_detached(model, inputs, layer, forward, targets[position], score)
                        gradient = torch.zeros_like(forward.leaf, dtype=torch.float32)
                results.append(self._cam_inputs(forward, its, gradient, images, layer, classes))
            by_class = any(isinstance(target, (ClassTarget, RegionTarget)) for target in targets)
            if forward.reading != "logits" and score == "logit" and by_class and not self._asking:
                warn_of_probabilities(self._known)
            return results

    def _scored(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        layer: LayerRef,
        targets: Sequence[ResolvedTarget],
        gradients: bool,
        score: Score,
    ) -> tuple[Forward, list[Scored]]:
        """One pass; a second where a no_grad() of the model's own closed behind the layer and took ours with it."""
        of_pixels = any(isinstance(target, RegionTarget) for target in targets)
        forward = self._forward(model, inputs, layer, gradients, of_pixels, whole_graph=False)
        scored = [target_scores(forward, target, score) for target in targets]
        if gradients and not all(its.scores.requires_grad for its in scored):
            forward = self._forward(model, inputs, layer, gradients, of_pixels, whole_graph=True)
            scored = [target_scores(forward, target, score) for target in targets]
        return forward, scored

    def changed_scores(
        self, images: Images, layer: LayerRef, change: Tensor, target: ResolvedTarget, score: Score
    ) -> Tensor:
        """See Backend."""
        changed: list[Tensor] = []
        front: Front | None = None

        def take(tensor: Tensor) -> Tensor:
            if front is not None:
                front.left = True
            leaf = tensor.detach()
            shape = tuple(leaf.shape[1:])
            changed[:] = [leaf + pulled_back(change, shape, lambda zeros: self._as_map(zeros, layer, images)).to(leaf)]
            return changed[0].clone()  # what follows may write in place

        with left_as_found(self._model) as model, torch.no_grad():
            inputs = self._inputs(images, model)
            if len(inputs[0]) == 1 < len(change):
                front = self._front(model, inputs, layer).again(len(change))
                inputs = tuple(part.expand(len(change), *part.shape[1:]) for part in inputs)
            with nullcontext() if front is None else front:
                output, recorder = observe(model, inputs, layer, take, self._known.reached, whole_graph=False)
            forward = self._read(changed[0], output, recorder, inputs, isinstance(target, RegionTarget), altered=True)
            return target_scores(forward, target, score).scores.detach().float()

    def _front(self, model: nn.Module, inputs: tuple[Tensor, ...], layer: LayerRef) -> Front:
        """What lies before the layer, computed once for an image."""
        if self._kept_front is not None:
            kept, its_layer, its_inputs = self._kept_front
            if its_layer == layer and all(map(torch.equal, its_inputs, inputs)):
                return kept
        front = Front()

        def take(tensor: Tensor) -> Tensor:
            front.left = True
            return tensor.clone()  # another object, or a function on it would be taken for the place once more

        with front:
            observe(model, inputs, layer, take, self._known.reached, whole_graph=False)
        self._kept_front = (front, layer, inputs)
        return front

    def hvp(self, images: Images, layer: LayerRef, target: ResolvedTarget, vectors: Tensor, score: Score) -> Tensor:
        """See Backend."""
        with left_as_found(self._model) as model, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            forward, (its,) = self._scored(model, self._inputs(images, model), layer, [target], True, score)
            product, leaf = None, forward.leaf
            if its.scores.requires_grad:
                along = pulled_back(vectors, tuple(leaf.shape[1:]), lambda zeros: self._as_map(zeros, layer, images))
                product = hessian_product(leaf, its.scores, along)
            if product is None:
                return torch.zeros_like(vectors)
            return self._as_map(product, layer, images)

    def bias_gradients(self, images: Images, layer: LayerRef, target: ResolvedTarget, score: Score) -> BiasGradients:
        """See Backend."""
        with left_as_found(self._model) as model, torch.no_grad():
            inputs = self._inputs(images, model)
            leaves = [part.requires_grad_(True) for part in inputs if part.is_floating_point()]
            picture = next(
                (at for at, leaf in enumerate(leaves) if leaf.dim() == len(self.image_size(images)) + 2), None
            )
            if picture is None:
                raise no_slope(inputs)
            biases = BiasRecorder()
            with biases, without_reentrant_checkpoints():
                output, recorder = observe(model, inputs, layer, torch.clone, self._known.reached, whole_graph=True)
            forward = self._read(inputs[0], output, recorder, inputs, isinstance(target, RegionTarget))
            scores = target_scores(forward, target, score).scores
            terms = biases.terms(leaves, scores)
        of_input = terms.pop(picture)
        with_places = [term for term in terms if term.dim() == of_input.dim() and term[0, 0].numel() > 1]
        others = [term for term in terms if not any(term is one for one in with_places)]
        elsewhere = sum((term.flatten(1).sum(1) for term in others), torch.zeros_like(scores, dtype=torch.float32))
        return BiasGradients(of_input, with_places, elsewhere, scores.detach().float(), self.precision)

    def attention_gradients(
        self, images: Images, layer: LayerRef, target: ResolvedTarget, score: Score
    ) -> list[Tensor]:
        """See Backend."""
        maps = []
        with left_as_found(self._model) as model, torch.no_grad():
            inputs = self._inputs(images, model)
            lister = BlockLister(len(inputs[0]))
            with lister.watching(model):
                model(*(part.clone() for part in inputs))
            size = self.image_size(images)
            of_image = self._reshape or (lister.tokens and token_grid(lister.tokens[0], self._seen(images).maps, size))
            blocks = lister.blocks
            if blocks is None or not of_image or len(set(lister.tokens)) > 1:
                raise no_attention()
            for place in range(len(blocks)):
                attentions: list[Tensor] = []
                with ending_behind(blocks, place, attentions), torch.no_grad():
                    output, recorder = observe(
                        model, inputs, layer, torch.clone, self._known.reached, whole_graph=False
                    )
                    of_pixels = isinstance(target, RegionTarget)
                    forward = self._read(inputs[0], output, recorder, inputs, of_pixels, altered=True)
                    scores = target_scores(forward, target, score).scores
                    gradient = gradient_at(attentions[0], scores, retain_graph=False)
                of_heads = torch.zeros_like(attentions[0]) if gradient is None else gradient.clamp(min=0)
                by_key = of_heads.reshape(len(inputs[0]), -1, *of_heads.shape[-2:]).mean((1, 2)).float()
                maps.append(self._as_map(by_key[:, :, None].expand(-1, -1, 2), layer, images)[:, 0])
        return maps

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

        Raises:
            UnsupportedModelError: The model does not return one tensor.
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
        to_map = partial(self._as_map, layer=layer, images=tuple(inputs))
        activations = to_map(leaves[0].detach())
        forward = self._read(leaves[0], output, recorder, inputs, of_pixels=False)

        def gradients() -> Tensor:
            scores = target_scores(forward, resolve_target(target, len(inputs[0])), "logit").scores
            gradient = gradient_at(forward.leaf, scores, retain_graph=keep_graph)
            if gradient is None:
                raise no_gradient(layer, "detach(), inference_mode(), .data, a NumPy step")
            return to_map(gradient)

        are_probabilities = forward.head is not None or forward.reading != "logits"
        return (output if keep_graph else output.detach()), activations, gradients, are_probabilities

    def _forward(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        layer: LayerRef,
        gradients: bool,
        of_pixels: bool,
        whole_graph: bool,
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
            output, recorder = observe(model, inputs, layer, take, self._known.reached, whole_graph=whole_graph)
        leaf = leaves[0]
        check_rows(layer, len(leaf), len(inputs[0]))
        return self._read(leaf, output, recorder, inputs, of_pixels)

    def _read(
        self,
        leaf: Tensor,
        output: Any,
        recorder: Recorder,
        inputs: Sequence[Tensor],
        of_pixels: bool,
        altered: bool = False,
    ) -> Forward:
        """The pass with the scores that its output holds, their head, or else how they are read.

        What an altered network puts out says nothing of the network: it is read as in the last pass of its own.
        """
        picked = self._picked(output, len(leaf), of_pixels)
        if picked is None:
            return Forward(leaf, output, None)
        head = head_for(picked, recorder.head_of(picked), len(leaf))
        if head is not None:
            return Forward(leaf, output, picked, head)
        rows = as_rows(picked, len(leaf))
        which, readings = (self._model_output, of_pixels), self._known.readings
        if not altered or which not in readings:
            readings[which] = reading_of(
                self._known,
                which,
                within=within_unit(rows),
                sums_to_one=sums_to_one(rows),
                stays_within=lambda: self._stays_within(inputs, of_pixels),
            )
        return Forward(leaf, output, picked, None, readings[which])

    def _picked(self, output: Any, count: int, of_pixels: bool) -> Tensor | None:
        """What of the output holds scores: a table, or those of every pixel."""

        def is_table(part: Any) -> bool:
            return as_table(part, count) is not None

        def is_pixels(part: Any) -> bool:
            return is_segmentation(part, count)

        def is_batch(part: Any) -> bool:
            return is_table(part) and part.dim() > 1

        picked = None
        for fits in (is_pixels,) if of_pixels else (is_batch, is_table):  # of one image a loss looks like a table
            if picked is None:
                picked = pick(output, self._model_output, is_tensor=is_tensor, fits=fits)
        return picked if picked is not None and (is_table(picked) or is_pixels(picked)) else None

    def _stays_within(self, inputs: Sequence[Tensor], of_pixels: bool) -> bool:
        """Whether the scores lie in [0, 1] whatever the images."""
        with left_as_found(self._model) as model, torch.no_grad():
            for factor in STRETCHES:
                output = model(*(_stretched(part, factor) for part in inputs))
                picked = self._picked(output, len(inputs[0]), of_pixels)
                if picked is None or not within_unit(picked):
                    return False
        return True

    def _as_map(self, tensor: Tensor, layer: LayerRef, images: Images) -> Tensor:
        """The output of the layer, or its gradients, as (N, K, *S)."""
        size = self.image_size(images)
        return as_map(tensor, layer, size, lambda: self._seen(images), self._reshape, channels_first=True)

    def _cam_inputs(
        self,
        forward: Forward,
        scored: Scored,
        gradient: Tensor | None,
        images: Images,
        layer: LayerRef,
        classes: bool,
    ) -> CamInputs:
        logits = probabilities = None
        if classes:
            tables = class_scores(forward)
            logits, probabilities = tables.logits.detach().float(), tables.probabilities
        return CamInputs(
            activations=self._as_map(forward.leaf.detach(), layer, images).float(),
            gradients=None if gradient is None else self._as_map(gradient, layer, images),
            scores=scored.scores.detach().float(),
            class_ids=scored.class_ids,
            logits=logits,
            probabilities=probabilities,
            images=images,
            pinned=scored.pinned,
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

        output, recorder = observe(model, inputs, layer, disturb, self._known.reached, whole_graph=False)
        of_pixels = isinstance(target, RegionTarget)
        disturbed = target_scores(self._read(place, output, recorder, inputs, of_pixels), target, score).scores
        plain = target_scores(forward, target, score).scores
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


def _stretched(part: Tensor, factor: float) -> Tensor:
    """Images far from any that a model knows; what is no image, such as ids of words, as it is."""
    if part.is_floating_point():
        return part * factor
    return in_dtype(part.float() * factor, part.dtype) if part.dim() >= 4 else part
