"""The linear layer that makes a model's class scores: what it gets, and the model with other weights in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

from fe_gradcam.errors import Argument, UnsupportedModelError
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.outputs import ModelOutput, pick

Behind = Literal["nothing", "softmax", "sigmoid"]
"""What follows the linear layer in the model."""

AGREEING = 1e-3
"""How far the output of a model may differ from that of its last layer, computed again in float64."""


class LastLayer(ABC):
    """A copy of a model, of which the last layer, a linear one, is looked at and may get other weights.

    Args:
        model: The model, which stays as it is.
        inputs: Some rows of its inputs, to find the layer with.
        model_output: See `fe_gradcam.explain`.

    Attributes:
        copy: The copy.
        weights: (K, C) float64.
        bias: (C,) float64, or None if the layer has none.
        behind: What follows the layer.

    Raises:
        UnsupportedModelError: The class scores are not made by a linear layer, or the model cannot be copied.
    """

    def __init__(self, model: Any, inputs: Inputs, model_output: ModelOutput) -> None:
        self.copy = self._copied(model)
        output, calls = self._watched(inputs)
        table = pick(output, model_output, is_tensor=_is_tensor, fits=_is_table, names=self._names)
        scores = None if table is None or not _is_table(table) else as_array(table)
        for layer, given in reversed(calls):
            weights, bias = self._weights(layer)
            behind = None if scores is None else _behind(given, weights, bias, scores)
            if behind is not None:
                self._layer, self.weights, self.bias, self.behind = layer, weights, bias, behind
                return
        raise UnsupportedModelError(
            Argument("model"),
            " makes its class scores by something else than a linear layer over one vector for each image (a "
            f"{self._called}, with nothing but a softmax or sigmoid behind it), so its last layer cannot be re-trained "
            "alone. Train the whole network with SwapSurroundings, or end the model in such a layer.",
        )

    def features(self, inputs: Inputs) -> NDArray[np.float64]:
        """(N, K), what the last layer gets for the inputs."""
        _, calls = self._watched(inputs)
        return [given for layer, given in calls if layer is self._layer][-1]

    def renewed(self, weights: NDArray[np.float64], bias: NDArray[np.float64] | None) -> Any:
        """The copy, with weights (K, C) and bias (C,) in its last layer."""
        self._put(self._layer, weights, bias)
        return self.copy

    _called = ""
    """What a linear layer is called in the framework."""

    _names: Sequence[str] | None = None
    """The names of the model's outputs, if it knows them."""

    @abstractmethod
    def _copied(self, model: Any) -> Any: ...

    @abstractmethod
    def _watched(self, inputs: Inputs) -> tuple[Any, list[tuple[Any, NDArray[np.float64]]]]:
        """The output of a pass in evaluation mode; and each linear layer that was called on (N, K), with these."""

    @abstractmethod
    def _weights(self, layer: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]: ...

    @abstractmethod
    def _put(self, layer: Any, weights: NDArray[np.float64], bias: NDArray[np.float64] | None) -> None: ...


def as_array(tensor: Any) -> NDArray[np.float64]:
    """A tensor of any framework as (N, C); a single score for each image, (N,), as (N, 1)."""
    array = np.asarray(tensor.detach().double().cpu() if hasattr(tensor, "detach") else tensor, np.float64)
    return array.reshape(len(array), -1)


def _is_tensor(part: Any) -> bool:
    return hasattr(part, "shape") and hasattr(part, "dtype")


def _is_table(part: Any) -> bool:
    return _is_tensor(part) and (len(part.shape) == 2 or (len(part.shape) > 0 and np.prod(part.shape[1:]) == 1))


def _behind(
    given: NDArray[np.float64],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    scores: NDArray[np.float64],
) -> Behind | None:
    """What makes the scores (N, C) of the layer's output; None if nothing that is known does."""
    if given.shape[0] != scores.shape[0] or weights.shape != (given.shape[1], scores.shape[1]):
        return None
    logits = given @ weights + (0 if bias is None else bias)
    made: list[tuple[Behind, NDArray[np.float64]]] = [
        ("nothing", logits),
        ("softmax", softmax(logits, axis=1)),
        ("softmax", log_softmax(logits, axis=1)),
        ("sigmoid", expit(logits)),
    ]
    scale = max(1.0, float(np.abs(scores).max()))
    return next((what for what, one in made if np.abs(one - scores).max() <= AGREEING * scale), None)
