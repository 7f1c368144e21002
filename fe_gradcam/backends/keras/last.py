"""The last layer of a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.backends.keras.version import is_a, keras_of, layers_in
from fe_gradcam.backends.last import LastLayer, as_array
from fe_gradcam.errors import Argument, UnsupportedModelError, in_one_line
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.outputs import ModelOutput


class KerasLast(LastLayer):
    """A copy of a Keras model, and its last layer; see LastLayer."""

    _called = "Dense layer"

    def __init__(self, model: Any, inputs: Inputs, model_output: ModelOutput) -> None:
        self._names: Sequence[str] | None = getattr(model, "output_names", None)
        super().__init__(model, inputs, model_output)

    def _copied(self, model: Any) -> Any:
        keras: Any = keras_of(model)
        try:
            copied = keras.models.clone_model(model)
            copied.set_weights(model.get_weights())
        except Exception as error:  # whatever a layer or a model of the user's own does not allow
            raise UnsupportedModelError(
                Argument("model"),
                " cannot be copied by keras.models.clone_model, so it cannot be returned with another last layer. Pass "
                "a functional or Sequential model, whose own layers have get_config. "
                f"It raised {in_one_line(error)}",
            ) from error
        return copied

    def _watched(self, inputs: Inputs) -> tuple[Any, list[tuple[Any, NDArray[np.float64]]]]:
        calls: list[tuple[Any, NDArray[np.float64]]] = []
        parts = [
            np.asarray(part.detach().cpu()) if hasattr(part, "detach") else np.asarray(part) for part in inputs.parts
        ]
        with ExitStack() as stack:
            for layer in layers_in(self.copy):
                if is_a(layer, "Dense"):
                    layer.__dict__["call"] = _heard(layer, calls)
                    stack.callback(layer.__dict__.pop, "call")
            output = self.copy(parts[0] if len(parts) == 1 else parts, training=False)
        return output, calls

    def _weights(self, layer: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        weights, *bias = layer.get_weights()
        return np.asarray(weights, np.float64), np.asarray(bias[0], np.float64) if bias else None

    def _put(self, layer: Any, weights: NDArray[np.float64], bias: NDArray[np.float64] | None) -> None:
        layer.set_weights([weights] if bias is None else [weights, bias])


def _heard(layer: Any, calls: list[tuple[Any, NDArray[np.float64]]]) -> Callable[..., Any]:
    """The layer's call, which also notes what it is called on, if that is one vector for each image."""
    original = layer.call

    def call(given: Any, *args: Any, **kwargs: Any) -> Any:
        if len(given.shape) == 2:
            calls.append((layer, as_array(given)))
        return original(given, *args, **kwargs)

    return call
