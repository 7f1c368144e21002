"""PyTorch models: one forward pass without gradients up to the explained layer, and with them from there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from fe_gradcam.backends.errors import check_rows, no_attention, no_gradient, no_slope, not_called
from fe_gradcam.backends.interrupts import HeldBack
from fe_gradcam.backends.protocol import Passed, Query
from fe_gradcam.backends.pytorch.attention import BlockLister, ending_behind
from fe_gradcam.backends.pytorch.observed import Given, ObservedTorch, made_scores
from fe_gradcam.backends.pytorch.passes import (
    NO_HOOKS,
    BiasRecorder,
    Front,
    call,
    called,
    forbids_view,
    gradient_at,
    hessian_product,
    in_own_graph,
    whatever_is_written,
)
from fe_gradcam.backends.pytorch.plan import MOST_OUTDATED, Learnt, OutdatedError
from fe_gradcam.backends.pytorch.recorder import Recorder
from fe_gradcam.backends.pytorch.state import AS_WRITTEN, FUSED
from fe_gradcam.backends.scoring import Outputs, Scored, taken_apart
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.types import BiasGradients, LayerRef, Target

_STOPPING = "detach(), inference_mode(), .data, a NumPy step, a quantised layer"
"""Steps that stop a gradient."""


class TorchBackend(ObservedTorch):
    """A PyTorch model, ready to be explained, without the wrappers of DataParallel and torch.compile; see Backend."""

    def _pass(self, inputs: Inputs, query: Query) -> Passed:
        """See Backend; by what an earlier pass learnt, if that holds."""
        key, plans = self._kind_of_pass(inputs.parts, query), self._known.plans
        plan, outdated = plans.get(key) or (None, 0)
        if plan is not None:
            known_of_others = self._known.others_put_on_hooks
            try:
                with self._ready(replaced=plan.replaced) as model:
                    if query.layer.place == "activation" and self._kept is not None and self._kept.hooked:
                        raise OutdatedError  # a hook of the user's may get what waits for its activation
                    return self._passed(model, inputs, query, plan)
            except Exception:  # whatever it is, a pass that relies on nothing shows it
                if self._known.others_put_on_hooks != known_of_others:
                    return self._pass(inputs, query)
                plans.put(key, (None, outdated + 1))
        return super()._pass(inputs, query)

    @whatever_is_written
    def _passed(self, model: nn.Module, inputs: Inputs, query: Query, plan: Learnt | None = None) -> Passed:
        given = self._given(inputs, model)
        learns = self._reshape is None and self._known.seen.get(self.image_size(inputs)) is None
        with self._learning(model, given, inputs) if learns else nullcontext():
            leaf, outputs, scored = self._scored(model, given, query, plan)
        found: list[Tensor | None] = [None] * len(scored)
        for at, (target, its) in enumerate(zip(query.targets, scored, strict=True)) if query.gradients else ():
            found[at] = gradient_at(leaf, its, retain_graph=at + 1 < len(scored))
            if found[at] is None and plan is not None:
                raise OutdatedError
            if found[at] is None:
                self._refuse_if_detached(model, given, leaf, outputs, replace(query, targets=[target]))
                found[at] = torch.zeros_like(leaf, dtype=torch.float32)
        tables = None
        if outputs.is_table and query.of_classes:
            logits, probabilities = outputs.tables
            tables = logits.detach(), probabilities.detach()
        plain = [Scored(its.scores.detach().float(), its.came_to) for its in scored]
        # a layer may put out a buffer of the model, which is put back
        return Passed(leaf.detach().clone(), found, plain, tables, outputs.reading)

    def _scored(
        self, model: nn.Module, given: Given, query: Query, plan: Learnt | None = None
    ) -> tuple[Tensor, Outputs, list[Scored]]:
        """One pass; or two, the second with gradients throughout.

        The second is for a no_grad() of the model that ends behind the layer and turns gradients off again, and for a
        step behind the layer that writes to a view from before it: torch forbids that where the view has no gradients.
        """
        leaves: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            leaf = tensor.detach()
            if query.gradients:
                leaf.requires_grad_(True)
                torch.set_grad_enabled(True)
            leaves[:] = [leaf]
            return leaf.clone()  # what follows may write in place

        key = None if plan is not None else self._kind_of_pass(given, query)
        _, outdated = (None, 0) if key is None else self._known_now().plans.get(key) or (None, 0)
        learns, used, dropped = key is not None and outdated < MOST_OUTDATED, AS_WRITTEN.used, NO_HOOKS.dropped
        for whole_graph in (False, True):
            try:
                passed = self._observed(
                    model, given, query.layer, take, whole_graph=whole_graph, plan=plan, learns=learns
                )
            except RuntimeError as error:
                if whole_graph or plan is not None or not forbids_view(error):
                    raise
                continue
            check_rows(query.layer, len(leaves[0]), len(given[0]))
            outputs = self._read(leaves[0], passed, given, query.of_pixels)
            scored = [in_own_graph(made_scores(outputs, target, query.score)) for target in query.targets]
            if plan is not None or not query.gradients or all(its.scores.requires_grad for its in scored):
                break
        if learns and not whole_graph:
            picked = self._picked(passed[0], len(leaves[0]), query.of_pixels)
            replaced = AS_WRITTEN.used > used or any(isinstance(one, FUSED) for one in model.modules())
            asked = NO_HOOKS.dropped > dropped  # by a plan it would be told of gradients
            learnt = None if asked else Learnt.of(passed[1], picked, replaced=replaced)
            self._known_now().plans.put(key, (learnt, outdated + asked))
        return leaves[0], outputs, scored

    def _kind_of_pass(self, given: Sequence[Any], query: Query) -> Hashable:
        """What a plan is kept for: passes of other shapes may go another way."""
        shapes = tuple(tuple(part.shape[1:]) for part in given)
        return query.layer, self._model_output, query.of_pixels, query.gradients, shapes, len(given[0]) == 1

    def changed_scores(self, inputs: Inputs, query: Query, change: Tensor) -> Tensor:
        """See Backend."""
        changed: list[Tensor] = []
        front: Front | None = None

        def take(tensor: Tensor) -> Tensor:
            if front is not None:
                front.left = True
            check_rows(query.layer, len(tensor), len(change))
            leaf = tensor.detach()
            changed[:] = [leaf + self._pulled_back(change, tuple(leaf.shape[1:]), query.layer, inputs).to(leaf)]
            return changed[0].clone()  # what follows may write in place

        with self._ready() as model:
            given = self._given(inputs, model)
            reading = self._known_reading(given, query.of_pixels)
            if len(inputs) == 1 < len(change):
                front = self._front(model, given, query.layer).again(len(change))
                given = tuple(part.expand(len(change), *part.shape[1:]) for part in given)
            with nullcontext() if front is None else front:
                passed = self._observed(model, given, query.layer, take)
            outputs = self._read(changed[0], passed, given, query.of_pixels, reading)
            scores: Tensor = made_scores(outputs, query.targets[0], query.score).scores
            return scores.detach().float()

    def _front(self, model: nn.Module, given: Given, layer: LayerRef) -> Front:
        """The part before the layer, computed once for an image."""
        if self._kept_front is not None:
            kept, its_layer, its_inputs = self._kept_front
            if its_layer == layer and all(map(torch.equal, its_inputs, given)):
                return kept
        front = Front()

        def take(tensor: Tensor) -> Tensor:
            front.left = True
            return tensor.clone()  # another object, or a function on it would be taken for the place once more

        with front:
            self._observed(model, given, layer, take)
        self._kept_front = (front, layer, given)
        return front

    @whatever_is_written
    def hvp(self, inputs: Inputs, query: Query, vectors: Tensor) -> Tensor:
        """See Backend."""
        with self._ready() as model, sdpa_kernel(SDPBackend.MATH):
            leaf, _, (its,) = self._scored(model, self._given(inputs, model), query)
            product = None
            if its.scores.requires_grad:
                along = self._pulled_back(vectors, tuple(leaf.shape[1:]), query.layer, inputs)
                product = hessian_product(leaf, its.scores, along)
            return torch.zeros_like(vectors) if product is None else self._as_map(product, query.layer, inputs)

    @whatever_is_written
    def bias_gradients(self, inputs: Inputs, query: Query) -> BiasGradients:
        """See Backend."""
        with self._ready() as model:
            given = self._given(inputs, model)
            leaves = [part.requires_grad_(True) for part in given if part.is_floating_point()]
            if not any(leaf.dim() == len(self.image_size(inputs)) + 2 for leaf in leaves):
                raise no_slope(given)
            biases = BiasRecorder()
            with biases:
                passed = self._observed(model, given, query.layer, lambda tensor: tensor, whole_graph=True)
            outputs = self._read(given[0], passed, given, query.of_pixels)
            scores = in_own_graph(made_scores(outputs, query.targets[0], query.score)).scores
            axes = len(self.image_size(inputs)) + 2
            return taken_apart(biases.terms(leaves, scores), scores, axes, self.precision)

    @whatever_is_written
    def attention_gradients(self, inputs: Inputs, query: Query, *, mean_token: bool) -> list[Tensor]:
        """See Backend."""
        maps = []
        with self._ready() as model:
            given = self._given(inputs, model)
            reading = self._known_reading(given, query.of_pixels)
            lister = BlockLister(len(inputs))
            with lister.watching(model):
                called(model, [part.clone() for part in given])
            blocks = lister.blocks
            if blocks is None or not self._are_of_image(lister.tokens, inputs):
                raise no_attention()
            for last in range(len(blocks)):
                attentions: list[Tensor] = []
                with ending_behind(blocks, last, attentions, mean_token=mean_token), torch.no_grad():
                    passed = self._observed(model, given, query.layer, torch.clone)
                    outputs = self._read(given[0], passed, given, query.of_pixels, reading)
                    its = in_own_graph(made_scores(outputs, query.targets[0], query.score))
                    gradient = gradient_at(attentions[0], its, retain_graph=False)
                of_heads = torch.zeros_like(attentions[0]) if gradient is None else gradient.clamp(min=0)
                by_key = of_heads.reshape(len(inputs), -1, *of_heads.shape[-2:]).mean((1, 2)).float()
                maps.append(self._as_map(by_key[:, :, None].expand(-1, -1, 2), query.layer, inputs)[:, 0])
        return maps

    def run_inside(
        self, inputs: Sequence[Tensor], layer: LayerRef, target: Target
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor], bool]:
        """A pass inside a training step of other code, whose modes and graph are kept.

        Returns:
            The model's output; the activations (N, K, h, w); a function that takes the gradients (N, K, h, w) from the
            graph, which can be used again afterwards; and whether the output is probabilities.
        """
        keep_graph = torch.is_grad_enabled()
        leaves: list[Tensor] = []
        edges: list[Any] = []

        def take(tensor: Tensor) -> Tensor:
            if keep_graph and tensor.requires_grad:  # their graph stays theirs: it is only looked at
                edges[:], leaves[:] = [get_gradient_edge(tensor)], [tensor.detach().clone()]
                return tensor
            torch.set_grad_enabled(True)
            edges[:], leaves[:] = [None], [tensor.detach().clone().requires_grad_(True)]
            return leaves[0].clone()  # what follows may write in place

        for whole_graph in (True,) if keep_graph else (False, True):  # the second for a no_grad() of the model's own
            recorder = Recorder(layer, take)
            watching = recorder.watching(self._model.get_submodule(layer.name))
            try:
                with HeldBack(), torch.set_grad_enabled(whole_graph), AS_WRITTEN, watching:
                    output = call(self._model, inputs)
            except RuntimeError as error:
                if whole_graph or not forbids_view(error):
                    raise
                continue
            if not leaves:
                raise not_called(layer)
            if isinstance(output, Tensor) and output.requires_grad:
                break
        to_map = partial(self._as_map, layer=layer, inputs=Inputs.of(tuple(inputs)))
        activations = to_map(leaves[0].detach())
        outputs = self._read(leaves[0], (output, recorder), inputs, of_pixels=False)

        def gradients() -> Tensor:
            its = made_scores(outputs, resolve_target(target, len(inputs[0])), "logit")
            gradient = gradient_at(leaves[0], its, retain_graph=keep_graph, edge=edges[0])
            if gradient is None:
                raise no_gradient(layer, _STOPPING)
            return to_map(gradient)

        return (output if keep_graph else output.detach()), activations, gradients, outputs.are_probabilities

    def _refuse_if_detached(self, model: nn.Module, given: Given, leaf: Tensor, outputs: Outputs, query: Query) -> None:
        """Raises GradientError if the score depends on the layer, although no gradient came."""
        passed = self._observed(model, given, query.layer, lambda tensor: 1 - tensor)
        altered = self._read(leaf, passed, given, query.of_pixels, outputs.reading)
        disturbed, plain = (made_scores(one, query.targets[0], query.score).scores for one in (altered, outputs))
        if not torch.equal(disturbed.detach(), plain.detach()):
            raise no_gradient(query.layer, _STOPPING)
