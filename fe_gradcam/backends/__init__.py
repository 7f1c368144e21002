"""The backend for a model: found by the model's type, without importing a framework that is not in use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fe_gradcam.backends.errors import exported
from fe_gradcam.backends.keras.version import computes_on
from fe_gradcam.backends.protocol import Backend
from fe_gradcam.errors import Argument, ArgumentError, UnsupportedModelError, in_short
from fe_gradcam.spec.outputs import ModelOutput, check_output
from fe_gradcam.types import Reshape

if TYPE_CHECKING:
    from fe_gradcam.backends.last import LastLayer
    from fe_gradcam.spec.images import Inputs


def backend_for(
    model: Any, model_output: ModelOutput = None, reshape: Reshape | None = None, *, of_pixels: bool = False
) -> Backend:
    """The backend of the framework that `model` belongs to; `of_pixels` says whether a segmentation is explained.

    Raises:
        ArgumentError: `model_output` or `reshape` is of another kind.
        UnsupportedModelError: `model` is neither a torch.nn.Module nor a tf.keras.Model.
    """
    check_output(model_output)
    if reshape is not None and not callable(reshape):
        said = " is not accepted. Accepted: a function that turns the layer's output into a map (N, K, h, w), or None."
        raise ArgumentError(Argument("reshape", in_short(reshape)), said)
    on = computes_on(model)
    if on == "tensorflow":
        from fe_gradcam.backends.keras.backend import KerasBackend
        from fe_gradcam.backends.keras.forked import Forks

        Forks.check()
        return KerasBackend(model, model_output, reshape, of_pixels)
    if on == "torch":
        from fe_gradcam.backends.keras.on_torch import KerasOnTorch

        return KerasOnTorch(model, model_output, reshape, of_pixels)
    if on is not None:
        raise UnsupportedModelError(
            Argument("model"),
            f" is a Keras model that computes on {on}; TensorFlow or PyTorch is needed. Set KERAS_BACKEND to "
            "'tensorflow' or 'torch' before Keras is imported, and load the model again: a .keras file is the same "
            "for all of them.",
        )
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from fe_gradcam.backends.pytorch.backend import TorchBackend

        return TorchBackend(model, model_output, reshape, of_pixels)
    if type(model).__module__ == "torch.export.exported_program":
        raise exported()
    raise UnsupportedModelError(
        f"model is a {type(model).__module__}.{type(model).__qualname__}; a torch.nn.Module or a tf.keras.Model is "
        "needed. (A SavedModel loaded without its class has no layers that can be observed: load it as the Keras model "
        "that it was.)"
    )


def last_layer_of(model: Any, inputs: Inputs, model_output: ModelOutput = None) -> LastLayer:
    """The last layer of a model that `backend_for` accepts; see `fe_gradcam.backends.last.LastLayer`."""
    if computes_on(model) is None:
        from fe_gradcam.backends.pytorch.last import TorchLast

        return TorchLast(model, inputs, model_output)
    from fe_gradcam.backends.keras.last import KerasLast

    return KerasLast(model, inputs, model_output)


def plain_for(model: Any) -> Any:
    """A model that is called plainly, to check what its backend makes of it; of a kind that `backend_for` accepts."""
    backend = backend_for(model)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(backend._model, torch.nn.Module):
        from fe_gradcam.backends.pytorch.plain import PlainTorch

        return PlainTorch(backend._model)
    from fe_gradcam.backends.keras.plain import PlainKeras

    return PlainKeras(model)
