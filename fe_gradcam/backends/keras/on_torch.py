"""Models of Keras 3 that compute on PyTorch: observed as PyTorch modules, with the layers and the layout of Keras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from fe_gradcam.backends.keras.version import is_a, layers_in, named_layers
from fe_gradcam.backends.known import Known, known_of
from fe_gradcam.backends.protocol import Query
from fe_gradcam.backends.pytorch.backend import TorchBackend
from fe_gradcam.backends.pytorch.observed import Given, Take
from fe_gradcam.errors import Argument, UnsupportedModelError
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.layers import name_among
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.tokens import Seen
from fe_gradcam.types import BiasGradients, Layer, LayerInfo, LayerRef, Reshape

POOLINGS = [f"{what}Pooling{axes}D" for what in ("Max", "Average") for axes in (1, 2, 3)]


class KerasOnTorch(TorchBackend):
    """A Keras model on PyTorch, with channels last, ready to be explained; see Backend."""

    channels_first = False

    def __init__(self, model: Any, model_output: ModelOutput, reshape: Reshape | None, of_pixels: bool) -> None:
        super().__init__(_Module(model, of_pixels), model_output, reshape, of_pixels)

    @cached_property
    def _known(self) -> Known:
        return known_of(self._model.keras_model)

    def _modules(self) -> list[Any]:
        return [self._model.keras_model, *layers_in(self._model.keras_model)]

    def bias_gradients(self, inputs: Inputs, query: Query) -> BiasGradients:
        """Refused: Keras adds biases by functions of their own, which are not told from any other sum."""
        raise _on_tensorflow_alone("full_grad")

    def attention_gradients(self, inputs: Inputs, query: Query, *, mean_token: bool) -> list[Tensor]:
        """Refused: a block of a Keras model need not be a module, so its end is not known."""
        raise _on_tensorflow_alone("le_grad")

    def _listed(self, inputs: Inputs) -> tuple[list[LayerInfo], Seen]:
        infos, seen = super()._listed(inputs)
        layers = _layers_of(self._model.keras_model)  # Keras moves axes behind the pooling of PyTorch
        pooled = {name for name, layer in layers.items() if is_a(layer, *POOLINGS)}
        return [replace(info, pooled=info.pooled or info.name in pooled) for info in infos if info.name], seen

    def _name_of(self, layer: Layer) -> str:
        named = _layers_of(self._model.keras_model)
        return name_among(layer, named, list(named))

    def kind_of(self, layer: LayerRef) -> str:
        """See Backend."""
        found = _layers_of(self._model.keras_model).get(layer.name)
        return "" if found is None else type(found).__name__

    def _observed(self, model: Any, given: Given, layer: LayerRef, take: Take, **how: Any) -> tuple[Any, Any]:
        if layer.place != "convolution":
            return super()._observed(model, given, layer, take, **how)
        its_layer, before = model.get_submodule(layer.name), nn.Identity()
        activation = its_layer.activation  # Keras adds the bias behind the conv2d of PyTorch, and calls this then
        its_layer.__dict__["activation"] = lambda tensor, *more, **named: activation(before(tensor), *more, **named)
        model.added[layer.name] = before
        try:
            plain = LayerRef(layer.name)
            return super()._observed(model, given, plain, take, **how)
        finally:
            its_layer.__dict__["activation"] = activation
            del model.added[layer.name]


def _on_tensorflow_alone(method: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        Argument("method", repr(method)),
        " is not available for a Keras model that computes on PyTorch. Load the model with KERAS_BACKEND=tensorflow, "
        "or use ",
        Argument("method", "'grad_cam'"),
        ".",
    )


class _Module(nn.Module):
    """A Keras model as a module whose submodules have the names of its layers; its output is that of inference."""

    def __init__(self, keras_model: Any, of_pixels: bool) -> None:
        super().__init__()
        self.keras_model: Any
        self.__dict__["keras_model"] = keras_model  # no submodule: its layers are, by their own names
        self.added: dict[str, nn.Module] = {}
        """Modules that stand for a layer for a time."""
        self.of_pixels = of_pixels
        self.output_names = getattr(keras_model, "output_names", None)

    def forward(self, *inputs: Tensor) -> Any:
        """The output; the scores of pixels with channels first, as PyTorch has them."""
        output = self.keras_model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        if isinstance(output, Tensor) and self.of_pixels and output.dim() > 3:
            return output.movedim(-1, 1)
        return output

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """This module, the layers, and then what else is inside them."""
        yield prefix, self
        layers = _layers_of(self.keras_model)
        seen = set(map(id, layers.values()))
        yield from layers.items()
        for name, module in self.keras_model.named_modules():
            if name and id(module) not in seen:
                yield name, module

    def get_submodule(self, target: str) -> nn.Module:
        """See nn.Module; by the names of `named_modules`."""
        return self.added.get(target) or dict(self.named_modules())[target]


def _layers_of(keras_model: Any) -> dict[str, nn.Module]:
    """The layers by name; the functions of a functional model are no modules, and cannot be observed here."""
    return {name: one for name, one in named_layers(keras_model).items() if isinstance(one, nn.Module)}
