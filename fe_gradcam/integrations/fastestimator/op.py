"""Activations and gradients of a layer as keys of the batch, for FastEstimator networks."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from fastestimator.op.tensorop.model import ModelOp
from fastestimator.util.traceability_util import traceable

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import Argument, ArgumentError, UnsupportedModelError, in_short, warn, warnings_logged
from fe_gradcam.integrations.fastestimator import compat
from fe_gradcam.integrations.fastestimator.checked import (
    checked_datasets,
    checked_key,
    checked_modes,
    says_what_cannot_be_recorded,
)
from fe_gradcam.spec.arrays import listed
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from fe_gradcam.types import Layer, LayerRef, Target, TargetSpec

compat.apply()

THREE_KEYS = "three keys, for the predictions, the activations and the gradients."
"""What outputs may be."""


@says_what_cannot_be_recorded
@traceable()
class LayerGradientOp(ModelOp):
    """A forward pass of a model that also writes a layer's activations and gradients to the batch.

    Use it in a network in place of a ModelOp. In train mode the gradients belong to the training forward pass
    (batch statistics, dropout); the training itself is unchanged.

    Args:
        model: A model compiled by fe.build.
        inputs: Key(s) of the model's input(s).
        outputs: Three keys, for the predictions, the activations and the gradients. Activations and gradients
            have the shape (N, K, h, w) on PyTorch, (N, h, w, K) on TensorFlow.
        layer: The layer, as `fe_gradcam.explain` takes it; None chooses the default.
        target: What is explained: None (the inferred class), a class id, a key of the batch that
            holds class ids (N,), or a callable that gets the model's output and returns (N,) scores.
        mode: What mode(s) to execute this Op in, as for every FastEstimator op.
        ds_id: What dataset id(s) to execute this Op in, as for every FastEstimator op.

    Attributes:
        target: The target that was given.
        puts_out_probabilities: True if the predictions are probabilities, False if logits; None before the first pass.

    Raises:
        ArgumentError: `outputs` is not three keys.
        UnknownNameError: The model has no such layer.
        UnsupportedModelError: The model is a DataParallel module, whose replicas cannot be observed.
    """

    def __init__(
        self,
        model: Any,
        inputs: str | Iterable[str],
        outputs: Sequence[str],
        layer: Layer = None,
        target: Target | str = None,
        mode: str | Iterable[str] | None = None,
        ds_id: str | Iterable[str] | None = None,
    ) -> None:
        written = [] if isinstance(outputs, str) else listed("outputs", outputs, THREE_KEYS)
        if len(written) != 3:
            raise ArgumentError(Argument("outputs", in_short(outputs)), f" is not accepted. Accepted: {THREE_KEYS}")
        of_batch = target is None or isinstance(target, str) or callable(target)
        if isinstance(target, TargetSpec) or not (of_batch or resolve_target(target, 1).is_class):
            raise ArgumentError(
                f"target={in_short(target)} is not accepted here. Accepted: None, a class id, a key of the batch with "
                "class ids, or a callable. GradCAM(images=..., model=model, targets=...) takes the others."
            )
        if isinstance(model, torch.nn.DataParallel):
            raise UnsupportedModelError(
                "model is a DataParallel module, whose replicas cannot be observed. Pass the model to the trace "
                "instead of a LayerGradientOp: GradCAM(images=..., model=model)."
            )
        backend = backend_for(model)
        if not hasattr(model, "fe_compiled"):
            raise ArgumentError(Argument("model"), " was not made by FastEstimator. Pass what fe.build returned.")
        keys = [inputs] if isinstance(inputs, str) else listed("inputs", inputs, "one key, or several.")
        keys = [checked_key("inputs", key) for key in keys]
        self._n_images = len(keys)
        if not keys:
            raise ArgumentError("inputs is empty; the key of the images is needed.")
        keys += [checked_key("target", target)] if isinstance(target, str) else []
        written = [checked_key("outputs", key) for key in written]
        when = {"mode": checked_modes(mode), "ds_id": checked_datasets(ds_id)}
        super().__init__(model=model, inputs=keys, outputs=written, **when)
        self.target = target
        self._layer = layer
        self._backend: Any = backend
        self._place: LayerRef | None = None if layer is None else self._backend.resolve(layer)
        self._state: dict[str, Any] = {}
        self.puts_out_probabilities: bool | None = None

    def build(self, framework: str, device: torch.device | None = None) -> None:
        """See ModelOp."""
        super().build(framework, device)
        if self._n_images == 1:
            self.multi_inputs = False

    def forward(self, data: list[Any], state: dict[str, Any]) -> list[Any]:
        """See ModelOp; returns predictions, activations and gradients."""
        images, more = data[: self._n_images], data[self._n_images :]
        self._state = {**state, "target": more[0] if more else self.target}
        try:
            result: list[Any] = super().forward(images[0] if self._n_images == 1 else images, state)
            return result
        finally:
            self._state = {}

    @property
    def place(self) -> str:
        """The explained layer, once it is known."""
        return str(self._place)

    def _forward_pass(self, data: Any, training: bool) -> list[Any]:
        inputs = [data] if self._n_images == 1 else list(data)
        target, how = self._state["target"], {}
        if self._place is None:
            self._place = self._backend.resolve(None, Inputs.of(inputs))
        if isinstance(self.model, torch.nn.Module):
            self.model.train(mode=training)
            if isinstance(target, torch.Tensor):
                target = np.maximum(target.detach().cpu().reshape(-1).numpy(), 0)
        else:
            how = {"tape": self._state["tape"], "training": training}
        passed = self._backend.run_inside(inputs, self._place, target, **how)
        output, activations, gradients, self.puts_out_probabilities = passed
        try:
            return [output, activations, gradients()]
        except Exception:
            if self._state["warmup"]:
                raise
            with warnings_logged(print):
                warn(
                    f"LayerGradientOp could not compute the gradients of layer={str(self._place)!r}; it writes zeros "
                    f"instead, and the training goes on.\n{traceback.format_exc()}"
                )
            return [output, activations, 0 * activations]
