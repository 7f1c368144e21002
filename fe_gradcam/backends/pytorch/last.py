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
from fe_gradcam.backends.pytorch.plain import PlainTorch
from fe_gradcam.backends.pytorch.state import unwrapped
from fe_gradcam.spec.images import Inputs


class TorchLast(LastLayer):
    """A copy of a PyTorch model, and its last layer; see LastLayer."""

    _called = "torch.nn.Linear"

    def _copied(self, model: Any) -> Any:
        copied = copy.deepcopy(unwrapped(model))
        self._plain = PlainTorch(copied)
        return copied

    def _watched(self, inputs: Inputs) -> tuple[Any, list[tuple[Any, NDArray[np.float64]]]]:
        calls: list[tuple[Any, NDArray[np.float64]]] = []

        def note(layer: nn.Module, given: Any) -> None:
            if given and isinstance(given[0], Tensor) and given[0].dim() == 2:
                calls.append((layer, as_array(given[0])))

        with ExitStack() as stack:
            for one in self.copy.modules():
                if isinstance(one, nn.Linear) and "weight" in one._parameters:
                    stack.callback(one.register_forward_pre_hook(note).remove)
            output = self._plain.run(inputs.parts)
        return output, calls

    def _weights(self, layer: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        return as_array(layer.weight).T, None if layer.bias is None else as_array(layer.bias)[:, 0]

    def _put(self, layer: Any, weights: NDArray[np.float64], bias: NDArray[np.float64] | None) -> None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weights.T))
            if bias is not None:
                layer.bias.copy_(torch.from_numpy(bias))
