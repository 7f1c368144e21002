"""The errors of a backend for a model that cannot be observed, or cannot be explained as asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fe_gradcam.errors import LIST_LAYERS, Argument, ArgumentError, GradientError, UnsupportedModelError
from fe_gradcam.types import LayerRef


def check_rows(layer: LayerRef, rows: int, count: int) -> None:
    """Raises ArgumentError unless the layer's output has one row per image."""
    if rows != count:
        raise ArgumentError(
            _named(layer),
            f" puts out {rows} rows for {count} images; one row for each image is needed. Pass another layer. If the "
            "model itself adds rows (by padding its batch, or by augmenting images), pass the network that it calls.",
        )


def exported() -> UnsupportedModelError:
    """The error for a program of torch.export."""
    return UnsupportedModelError(
        Argument("model"),
        " is a program of torch.export, whose layers are not called as modules, so they cannot be observed. Pass the "
        "nn.Module that it was exported from, or torch.export.unflatten(program).",
    )


def needs_names(required: Sequence[str], count: int) -> UnsupportedModelError:
    """The error for a forward that takes its inputs by name, where it is not certain under which."""
    names = ", ".join(map(repr, required)) or "any name"
    return UnsupportedModelError(
        Argument("model"),
        f" takes its inputs by name ({names}), and {count} came, so it is not certain which is which. Pass a module "
        "whose forward takes the inputs by position and calls this model with their names.",
    )


def not_by_image(rows: int, count: int) -> UnsupportedModelError:
    """The error for a model whose biases cannot be told apart by image."""
    return UnsupportedModelError(
        Argument("method", "'full_grad'"),
        f" needs the biases' gradients of each image, and a layer of this model puts out {rows} rows for {count} "
        "images (it folds windows or heads into the batch, or works on weights alone). Use ",
        Argument("method", "'layer_cam'"),
        " or 'grad_cam'.",
    )


class NotCalledError(ArgumentError):
    """The forward pass does not reach a layer."""


def not_called(layer: LayerRef) -> NotCalledError:
    """The error for a place that the forward pass does not reach."""
    return NotCalledError(
        _named(layer),
        " is not called in the model's forward pass, or cannot be observed there, so it has no activations. Pass a "
        "layer that ",
        LIST_LAYERS,
        " lists.",
    )


def no_tensor(layer: LayerRef, output: Any) -> UnsupportedModelError:
    """The error for a layer that does not return a tensor."""
    return UnsupportedModelError(
        Argument("layer", repr(layer.name)),
        f" returns a {type(output).__name__}, not a tensor. Pass ",
        Argument("layer", ""),
        " with a layer inside or behind this one that returns the map alone.",
    )


def takes_channels_first() -> UnsupportedModelError:
    """The error for a TensorFlow model whose images have their channels first."""
    return UnsupportedModelError(
        Argument("model"),
        " takes images with the channels in the second axis; on TensorFlow they are needed in the last axis. Pass "
        "images (N, H, W, C), and put a layer in front that moves their channels: keras.Sequential([keras.Input((H, W, "
        "C)), keras.layers.Permute((3, 1, 2)), model]).",
    )


def has_channels_first() -> UnsupportedModelError:
    """The error for a TensorFlow model whose maps have their channels first."""
    return UnsupportedModelError(
        Argument("model"),
        " has layers with data_format='channels_first'; on TensorFlow the channels are needed in the last axis. Build "
        "the model with 'channels_last', and give it the same weights with set_weights; only a Dense behind a Flatten "
        "has its rows in another order.",
    )


def no_gradient(layer: LayerRef, ways: str) -> GradientError:
    """The error for a score that depends on the layer although no gradient reaches the layer."""
    return GradientError(
        "No gradient reaches ",
        _named(layer),
        f", though the score depends on it: a step behind the layer stops the gradient ({ways}). Pass ",
        Argument("layer", ""),
        " with a layer behind that step, or a model without the step.",
    )


def in_inference_mode(layer: LayerRef) -> GradientError:
    """The error for a layer that runs inside a torch.inference_mode()."""
    return GradientError(
        _named(layer),
        " runs inside a torch.inference_mode() of the model, so no gradient can be taken. Use torch.no_grad() in the "
        "model's forward instead.",
    )


def no_floats(layer: LayerRef, dtype: Any) -> GradientError:
    """The error for a layer that computes in integers."""
    return GradientError(
        _named(layer),
        f" computes in {dtype}, which has no gradients. If the model was quantised, pass the float model that it was "
        "made from, or its quantisation-aware form before the conversion. Otherwise pass ",
        Argument("layer", ""),
        " with a layer that computes in floats.",
    )


def writes_to_parts() -> GradientError:
    """The error for a model that writes to a chunk of a tensor, which autograd forbids."""
    return GradientError(
        "The model writes in place to a part that chunk(), split() or unbind() gave it, and PyTorch has no gradients "
        "for that. Let it write to a slice, such as x[:, :n], or use ",
        Argument("method", "'score_cam'"),
        ", which needs no gradients.",
    )


def no_slope(images: Sequence[Any]) -> ArgumentError:
    """The error for images of a dtype without gradients."""
    kinds = ", ".join(str(part.dtype) for part in images)
    return ArgumentError(
        f"images are of dtype {kinds}, and ",
        Argument("method", "'full_grad'"),
        " needs the gradient of the score with respect to the image, which integers do not have. Pass them as floats, "
        "or use another method.",
    )


def no_attention() -> UnsupportedModelError:
    """The error for a model that is no vision transformer, or whose blocks cannot be told apart."""
    return UnsupportedModelError(
        Argument("method", "'le_grad'"),
        " is defined for vision transformers: each block holds one attention over all tokens of the image and returns "
        "as many tokens. No such blocks were found in this model. Use ",
        Argument("method", "'grad_cam'"),
        ", which is defined for every network.",
    )


def counts_its_images() -> UnsupportedModelError:
    """The error for a model whose classifier cannot take the tokens of several blocks as one batch."""
    return UnsupportedModelError(
        Argument("method", "'le_grad'"),
        " gives the classifier the output tokens of all blocks as one batch. The scores of this model change then, "
        "because its classifier depends on the number of images. Use ",
        Argument("method", "'grad_cam'"),
        ".",
    )


def _named(layer: object) -> Argument:
    return Argument("layer", repr(str(layer)))
