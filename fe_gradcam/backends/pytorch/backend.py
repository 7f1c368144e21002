"""PyTorch models: one forward pass without gradients up to the explained layer, and with them from there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from fe_gradcam.backends.errors import check_rows, exported, no_attention, no_gradient, no_slope, not_called
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import Backend, Passed, Query
from fe_gradcam.backends.pytorch.attention import BlockLister, ending_behind
from fe_gradcam.backends.pytorch.dtypes import as_taken
from fe_gradcam.backends.pytorch.kept import Kept, modules_in
from fe_gradcam.backends.pytorch.layers import has_layers, kind_of, layer_infos, name_of, seen_by
from fe_gradcam.backends.pytorch.passes import (
    BiasRecorder,
    Front,
    called,
    called_with_copies,
    forbids_view,
    gradient_at,
    hessian_product,
    observe,
    whatever_is_written,
)
from fe_gradcam.backends.pytorch.plan import MOST_OUTDATED, OutdatedError, Learnt, Planned
from fe_gradcam.backends.pytorch.recorder import Lister, Recorder
from fe_gradcam.backends.pytorch.scores import OF_TORCH, as_rows, is_segmentation, is_table, is_tensor
from fe_gradcam.backends.pytorch.state import PLAIN_CHECKPOINTS, left_as_found, unwrapped
from fe_gradcam.backends.scoring import Outputs, Scored
from fe_gradcam.errors import Argument, UnsupportedModelError
from fe_gradcam.spec.images import Inputs, in_dtype, in_torch
from fe_gradcam.spec.outputs import ModelOutput, pick
from fe_gradcam.spec.resolved import ResolvedTarget, resolve_target
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import BiasGradients, Layer, LayerInfo, LayerRef, Reshape, Score, Target

Given: TypeAlias = Sequence[Tensor]
"""The inputs as the model takes them, on its device and in its precision."""

Take: TypeAlias = Callable[[Tensor], Tensor]
"""See Recorder."""

_STOPPING = "detach(), inference_mode(), .data, a NumPy step, a quantised layer"
"""Steps that stop a gradient."""


class TorchBackend(Backend):
    """A PyTorch model, ready to be explained, without the wrappers of DataParallel and torch.compile; see Backend."""

    channels_first = True

    def __init__(self, model: nn.Module, model_output: ModelOutput, reshape: Reshape | None, of_pixels: bool) -> None:
        super().__init__(unwrapped(model), model_output, reshape, of_pixels)
        self._kept: Kept | None = None
        self._kept_front: tuple[Front, LayerRef, Given] | None = None
        if isinstance(self._model, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                Argument("model"),
                " is a scripted module (torch.jit), whose layers cannot be observed. Pass the nn.Module that it was "
                "scripted from, with the same weights (load_state_dict).",
            )
        if isinstance(self._model, GraphModule) and not has_layers(self._model):
            raise exported()

    @property
    def precision(self) -> float:
        """The spacing of the model's numbers at 1, the coarsest if it has several."""
        own = {one.dtype for one in self._model.parameters() if one.is_floating_point()} or {torch.float32}
        return max(float(torch.finfo(dtype).eps) for dtype in own)

    def _modules(self) -> list[nn.Module]:
        return [one for one in modules_in(self._model) if "_orig_mod" not in one._modules]  # compiled or not

    def _name_of(self, layer: Layer) -> str:
        return name_of(self._model, layer)

    def kind_of(self, layer: LayerRef) -> str:
        """See Backend."""
        return kind_of(self._model, layer.name)

    def _listed(self, inputs: Inputs) -> tuple[list[LayerInfo], Seen]:
        with self._ready() as model:
            given = [part.clone() for part in self._given(inputs, model)]
            lister = Lister(model, given[inputs.at])
            with lister.watching(model):
                called(model, given)
        size = self.image_size(inputs)
        return layer_infos(lister, len(inputs)), seen_by(lister, size, channels_first=self.channels_first)

    @contextmanager
    def _learning(self, model: nn.Module, given: Given, inputs: Inputs) -> Iterator[None]:
        """While active, a pass shows the layout of the layers' outputs too."""
        size = self.image_size(inputs)
        lister = Lister(model, given[inputs.at])
        with lister.watching(model):
            yield
        seen = seen_by(lister, size, channels_first=self.channels_first)
        inputs.check_maps(seen.maps, channels_first=self.channels_first)
        self._known_now().seen.put(size, seen)

    @contextmanager
    def _ready(self) -> Iterator[nn.Module]:
        before = self._kept
        with left_as_found(self._model) as (model, self._kept), torch.no_grad():
            try:
                yield model
            finally:
                self._kept = before

    def _pass(self, inputs: Inputs, query: Query) -> Passed:
        """See Backend; by what an earlier pass learnt, if that holds."""
        key, plans = self._kind_of_pass(inputs.parts, query), self._known_now().plans
        plan, outdated = plans.get(key) or (None, 0)
        if plan is not None:
            try:
                with self._ready() as model:
                    return self._passed(model, inputs, query, plan)
            except Exception:  # whatever it is, a pass that relies on nothing shows it
                plans.put(key, (None, outdated + 1))
        return super()._pass(inputs, query)

    @whatever_is_written
    def _passed(self, model: nn.Module, inputs: Inputs, query: Query, plan: Learnt | None = None) -> Passed:
        given = self._given(inputs, model)
        learns = self._reshape is None and self._known_now().seen.get(self.image_size(inputs)) is None
        with self._learning(model, given, inputs) if learns else nullcontext():
            leaf, outputs, scored = self._scored(model, given, query, plan)
        found: list[Tensor | None] = [None] * len(scored)
        for at, (target, its) in enumerate(zip(query.targets, scored, strict=True)) if query.gradients else ():
            found[at] = gradient_at(leaf, its.scores, retain_graph=at + 1 < len(scored))
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
        learns = key is not None and outdated < MOST_OUTDATED
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
            scored = [_scores(outputs, target, query.score) for target in query.targets]
            if not query.gradients or all(its.scores.requires_grad for its in scored):
                break
            if plan is not None:
                raise OutdatedError
        if learns and not whole_graph:
            picked = self._picked(passed[0], len(leaves[0]), query.of_pixels)
            self._known_now().plans.put(key, (Learnt.of(passed[1], picked), outdated))
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
            scores: Tensor = _scores(outputs, query.targets[0], query.score).scores
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
            scores = _scores(outputs, query.targets[0], query.score).scores
            return self._taken_apart(biases.terms(leaves, scores), scores, inputs)

    @whatever_is_written
    def attention_gradients(self, inputs: Inputs, query: Query, *, mean_token: bool) -> list[Tensor]:
        """See Backend."""
        maps = []
        with self._ready() as model:
            given = self._given(inputs, model)
            reading = self._known_reading(given, query.of_pixels)
            lister = BlockLister(len(inputs))
            with lister.watching(model):
                called_with_copies(model, given)
            blocks = lister.blocks
            if blocks is None or not self._are_of_image(lister.tokens, inputs):
                raise no_attention()
            for last in range(len(blocks)):
                attentions: list[Tensor] = []
                with ending_behind(blocks, last, attentions, mean_token=mean_token), torch.no_grad():
                    passed = self._observed(model, given, query.layer, torch.clone)
                    outputs = self._read(given[0], passed, given, query.of_pixels, reading)
                    scores = _scores(outputs, query.targets[0], query.score).scores
                    gradient = gradient_at(attentions[0], scores, retain_graph=False)
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
                with torch.set_grad_enabled(whole_graph), PLAIN_CHECKPOINTS, watching:
                    output = called(self._model, inputs)
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
            scores = _scores(outputs, resolve_target(target, len(inputs[0])), "logit").scores
            gradient = gradient_at(leaves[0], scores, retain_graph=keep_graph, edge=edges[0])
            if gradient is None:
                raise no_gradient(layer, _STOPPING)
            return to_map(gradient)

        return (output if keep_graph else output.detach()), activations, gradients, outputs.are_probabilities

    def _observed(
        self,
        model: nn.Module,
        given: Given,
        layer: LayerRef,
        take: Take,
        *,
        whole_graph: bool = False,
        plan: Learnt | None = None,
        learns: bool = False,
    ) -> tuple[Any, Any]:
        if plan is not None:
            planned = Planned(plan, layer, take)
            with planned.watching(model.get_submodule(layer.name)):
                return called_with_copies(model, given), planned
        return observe(model, given, layer, take, self._known.reached, whole_graph=whole_graph, learns=learns)

    def _read(
        self, leaf: Tensor, passed: tuple[Any, Any], given: Given, of_pixels: bool, reading: Reading | None = None
    ) -> Outputs:
        """The outputs with their scores, and the head of these or else how they are read.

        The output of an altered network does not show how the network is read: `reading` is passed in then.
        """
        (output, recorder), count = passed, len(leaf)
        picked: Any = self._picked(output, count, of_pixels)
        of_table = is_table(picked, count)
        head = None if picked is None else recorder.head_of(picked)
        with torch.enable_grad():
            rows: Any = None if picked is None else as_rows(picked, count)
            head = head if head is not None and head.made(rows) else None
            if head is not None:
                head = head._replace(logits=as_rows(head.logits, count).reshape(rows.shape))
            elif of_table:  # some models have a buffer for their output, and write the next one there too
                rows = rows.clone()
        if rows is not None and head is None:
            reading = reading or self._read_as(rows, given, of_pixels)
        else:
            if reading is None:  # it is not asked
                self._known.readings[self._model_output, of_pixels] = "logits"
            reading = "logits"
        sides = tuple(picked.shape[2:]) if is_segmentation(picked, count) else None
        return Outputs(OF_TORCH, output, count, rows, of_table, sides, sides or (), head, reading)

    def _picked(self, output: Any, count: int, of_pixels: bool) -> Tensor | None:
        """The part of the output that holds scores: a table, or the scores of every pixel."""
        is_pixels, of_table = partial(is_segmentation, count=count), partial(is_table, count=count)
        if isinstance(output, Tensor) and self._model_output is None:
            return output if of_table(output) or is_pixels(output) else None
        picked, names = None, getattr(self._model, "output_names", None)
        # of one image a loss looks like a table: batches first
        for fits in (is_pixels,) if of_pixels else (lambda part: of_table(part) and part.dim() > 1, of_table):
            if picked is None:
                picked = pick(output, self._model_output, is_tensor=is_tensor, fits=fits, names=names)
        return picked if of_table(picked) or is_pixels(picked) else None

    def _refuse_if_detached(self, model: nn.Module, given: Given, leaf: Tensor, outputs: Outputs, query: Query) -> None:
        """Raises GradientError if the score depends on the layer, although no gradient came."""
        passed = self._observed(model, given, query.layer, lambda tensor: 1 - tensor)
        altered = self._read(leaf, passed, given, query.of_pixels, outputs.reading)
        disturbed, plain = (_scores(one, query.targets[0], query.score).scores for one in (altered, outputs))
        if not torch.equal(disturbed.detach(), plain.detach()):
            raise no_gradient(query.layer, _STOPPING)

    def _outputs(self, given: Given, of_pixels: bool, factor: float = 1.0) -> Tensor | None:
        with self._ready() as model:
            output = called(model, [_stretched(part, factor) for part in given])
            picked = self._picked(output, len(given[0]), of_pixels)
            return None if picked is None else as_rows(picked, len(given[0])).clone()

    def _given(self, inputs: Inputs, model: nn.Module) -> Given:
        assert self._kept is not None
        own = [one for one in self._kept.registered if one.is_floating_point()]
        given = []
        for part in inputs.parts:
            tensor = torch.as_tensor(np.ascontiguousarray(part)) if isinstance(part, np.ndarray) else in_torch(part)
            tensor = tensor.to(own[0].device) if own else tensor
            given.append(tensor.clone() if tensor.is_inference() else tensor)
        return tuple(as_taken(model, given, own, lambda: self._known_now().taken))


def _scores(outputs: Outputs, target: ResolvedTarget, score: Score) -> Scored:
    """The result for a target, in a graph for gradients."""
    with torch.enable_grad():
        device = None if outputs.rows is None else outputs.rows.device
        given = () if target.kind == "classes" and target.is_inferred else target.arrays
        arrays = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in given]
        return outputs.scored(target, score, arrays)


def _stretched(part: Tensor, factor: float) -> Tensor:
    """Images far from any that a model knows; other inputs, such as ids of words, are not changed."""
    if part.is_floating_point():
        return part * factor
    return in_dtype(part.float() * factor, part.dtype) if part.dim() >= 4 else part
