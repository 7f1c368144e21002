"""The backend for a model: found by the model's type, without importing a framework that is not in use."""

from __future__ import annotations

import sys
from typing import Any

from fe_gradcam.backends.errors import exported
from fe_gradcam.backends.protocol import Backend
from fe_gradcam.errors import UnsupportedModelError
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.types import Reshape

KERAS_3 = "keras.src.models.model"
"""The module of Keras 3 that holds its class of models."""


def backend_for(
    model: Any, model_output: ModelOutput = None, reshape: Reshape | None = None, *, of_pixels: bool = False
) -> Backend:
    """The backend of the framework that `model` belongs to; `of_pixels` says whether a segmentation is explained.

    Raises:
        UnsupportedModelError: `model` is neither a torch.nn.Module nor a tf.keras.Model.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from fe_gradcam.backends.pytorch.backend import TorchBackend

        return TorchBackend(model, model_output, reshape, of_pixels)
    if type(model).__module__ == "torch.export.exported_program":
        raise exported()
    tensorflow = sys.modules.get("tensorflow")
    of_keras_3 = any(base.__module__ == KERAS_3 for base in type(model).__mro__)
    if tensorflow is not None and isinstance(model, tensorflow.keras.Model) and not of_keras_3:
        from fe_gradcam.backends.keras.backend import KerasBackend

        return KerasBackend(model, model_output, reshape, of_pixels)
    if of_keras_3:
        raise UnsupportedModelError(
            "model is of Keras 3; a model of Keras 2 is needed. Run: pip install 'fe_gradcam[keras]'; then set "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, and build or load the model again."
        )
    raise UnsupportedModelError(
        f"model is a {type(model).__module__}.{type(model).__qualname__}; a torch.nn.Module or a tf.keras.Model is "
        "needed. (A SavedModel loaded without its class has no layers that can be observed: load it as the Keras model "
        "that it was.)"
    )
