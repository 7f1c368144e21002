"""The last layer of a PyTorch model."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fe_gradcam.backends.last import LastLayer, as_array
from fe_gradcam.backends.pytorch.passes import called
from fe_gradcam.backends.pytorch.state import unwrapped
from fe_gradcam.spec.images import Inputs, in_torch


class TorchLast(LastLayer):
    """A copy of a PyTorch model, and its last layer; see LastLayer."""

    _called = "torch.nn.Linear"

    def _copied(self, model: Any) -> Any:
        return copy.deepcopy(unwrapped(model))

    def _watched(self, inputs: Inputs) -> tuple[Any, list[tuple[Any, NDArray[np.float64]]]]:
        calls: list[tuple[Any, NDArray[np.float64]]] = []

        def note(layer: nn.Module, given: Any) -> None:
            if given and isinstance(given[0], Tensor) and given[0].dim() == 2:
                calls.append((layer, as_array(given[0])))

        linear = [one for one in self.copy.modules() if isinstance(one, nn.Linear) and "weight" in one._parameters]
        modes = [(one, one.training) for one in self.copy.modules()]
        with ExitStack() as stack, torch.no_grad():
            for one in linear:
                stack.callback(one.register_forward_pre_hook(note).remove)
            try:
                self.copy.eval()
                output = called(self.copy, [self._as_taken(part) for part in inputs.parts])
            finally:
                for module, training in modes:
                    module.training = training
        return output, calls

    def _as_taken(self, part: Any) -> Tensor:
        """An input on the device of the model; floats in the dtype of its parameters."""
        tensor, like = in_torch(part), next((one for one in self.copy.parameters() if one.is_floating_point()), None)
        if like is None:
            return tensor
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)

    def _weights(self, layer: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        return as_array(layer.weight).T, None if layer.bias is None else as_array(layer.bias)[:, 0]

    def _put(self, layer: Any, weights: NDArray[np.float64], bias: NDArray[np.float64] | None) -> None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weights.T))
            if bias is not None:
                layer.bias.copy_(torch.from_numpy(bias))
