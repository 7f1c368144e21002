"""How a PyTorch model is called, and how its output is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import active_count
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fe_gradcam.backends.errors import exported
from fe_gradcam.backends.interrupts import HeldBack, LetThrough
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import Backend
from fe_gradcam.backends.pytorch.dtypes import as_taken
from fe_gradcam.backends.pytorch.kept import Kept, modules_in, plain_values_in
from fe_gradcam.backends.pytorch.layers import has_layers, kind_of, layer_infos, name_of, seen_by
from fe_gradcam.backends.pytorch.passes import (
    Front,
    call,
    called,
    observe,
)
from fe_gradcam.backends.pytorch.plan import Learnt, OutdatedError, Planned
from fe_gradcam.backends.pytorch.recorder import Lister
from fe_gradcam.backends.pytorch.scores import OF_TORCH, as_rows, is_segmentation, is_table, is_tensor
from fe_gradcam.backends.pytorch.state import LeftAsFound, noted, unwrapped
from fe_gradcam.backends.scoring import Outputs, Scored
from fe_gradcam.errors import Argument, UnsupportedModelError
from fe_gradcam.spec.images import Inputs, in_dtype, in_torch
from fe_gradcam.spec.outputs import ModelOutput, pick
from fe_gradcam.spec.resolved import ResolvedTarget
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import Layer, LayerInfo, LayerRef, Reshape, Score

Given: TypeAlias = Sequence[Tensor]
"""The inputs as the model takes them, on its device and in its precision."""

Take: TypeAlias = Callable[[Tensor], Tensor]
"""See Recorder."""


class ObservedTorch(Backend):
    """What of a PyTorch model's backend calls the model and reads its output; the passes are in TorchBackend."""

    channels_first = True

    def __init__(self, model: nn.Module, model_output: ModelOutput, reshape: Reshape | None, of_pixels: bool) -> None:
        super().__init__(unwrapped(model), model_output, reshape, of_pixels)
        self._noted: Kept | None = None
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

    def _modules(self) -> list[Any]:
        modules = [one for one in modules_in(self._model) if "_orig_mod" not in one._modules]  # compiled or not
        return [self._known.stamp_of(plain_values_in(modules)), *modules]

    def _take(self) -> list[Any]:
        self._noted = noted(self._model, self._known)
        return self._modules()

    def _let_go(self) -> None:
        self._noted = None

    def _name_of(self, layer: Layer) -> str:
        if not isinstance(layer, str):
            return name_of(self._model, layer)
        names = self._known_now().names
        return names.get(layer) or names.put(layer, name_of(self._model, layer))

    def kind_of(self, layer: LayerRef) -> str:
        """See Backend."""
        return kind_of(self._model, layer.name)

    def largest_output(self, inputs: Inputs) -> int:
        """See Backend."""
        with self.held():
            return 0 if self._reshape is not None else self._seen(inputs).largest

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
    def _ready(self, *, replaced: bool = True) -> Iterator[nn.Module]:
        """See Backend; what was noted when the model was taken serves one pass after the other: each puts it back."""
        with HeldBack(), self.held():
            inside, known, kept = self._kept, self._known, self._noted
            if inside is not None or kept is None or not (kept.by_value or known.writes is False):
                kept = noted(self._model, known)
            self._kept = kept
            try:
                with LeftAsFound(self._model, kept, known, replaced=replaced) as model:
                    yield model
            finally:
                self._kept = inside

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
            # A hook that the model puts on, to be told of gradients, is seen by the number of all hooks. If another
            # thread puts on some too, a mode drops those of the model; it looks at each function, and that costs a
            # third of a small network.
            alone = active_count() == 1
            sees = alone or not self._known.others_put_on_hooks
            with Planned(plan, layer, take, model.get_submodule(layer.name)) as planned:
                output = (call if sees else called)(model, [part.clone() for part in given])
                if sees and planned.hooks_were_put_on:
                    self._known.others_put_on_hooks |= not alone
                    raise OutdatedError
            return output, planned
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
        with HeldBack(), torch.enable_grad():
            rows: Any = None if picked is None else as_rows(picked, count)
            head = head if head is not None and head.made(rows) else None
            if head is not None:
                if head.logits.shape != rows.shape:
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


def made_scores(outputs: Outputs, target: ResolvedTarget, score: Score) -> Scored:
    """The result for a target, in a graph for gradients."""
    with HeldBack(), torch.enable_grad():
        device = None if outputs.rows is None else outputs.rows.device
        given = () if target.kind == "classes" and target.is_inferred else target.arrays
        arrays = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in given]
        with LetThrough() if target.kind == "callable" else nullcontext():
            return outputs.scored(target, score, arrays)


def _stretched(part: Tensor, factor: float) -> Tensor:
    """Images far from any that a model knows; other inputs, such as ids of words, are not changed."""
    if part.is_floating_point():
        return part * factor
    return in_dtype(part.float() * factor, part.dtype) if part.dim() >= 4 else part
