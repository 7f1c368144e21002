"""The nets that costs are measured on, and Grad-CAM of each written by hand, which does the same work as `explain`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.measure import one_thread
from tutorials.real_data import normalise, photos, pretrained_torch

Framework = Literal["torch", "tf"]


@dataclass(frozen=True)
class Net:
    """A net, what goes in, and what its own Grad-CAM must know.

    Attributes:
        make: Builds it, in eval mode.
        size: Pixels of a side.
        channels: Of the images.
        batch: Images at once.
        layer: That `explain` explains by default.
        observe: The layer's output and the scores of the classes, by the net and images; None: a hook on the layer.
    """

    make: Callable[[], Any]
    size: int
    channels: int
    batch: int
    layer: str
    observe: Callable[[Any, Any], tuple[Any, Any]] | None = None


def lenet5() -> Any:
    """LeNet-5 with functional activations and a softmax at its end."""
    import torch
    from torch import nn
    from torch.nn import functional

    class LeNet5(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
            self.f1, self.f2, self.f3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.softmax(lenet5_by_hand(self, x)[1], dim=-1)

    return LeNet5().eval()


def lenet5_by_hand(model: Any, x: Any) -> tuple[Any, Any]:
    """The same forward, which keeps what a hook cannot see: the output of an activation that is no module."""
    from torch.nn import functional

    x = functional.max_pool2d(functional.relu(model.c1(x)), 2)
    maps = functional.relu(model.c2(x))
    x = functional.max_pool2d(maps, 2).flatten(1)
    return maps, model.f3(functional.relu(model.f2(functional.relu(model.f1(x)))))


def lenet_of_modules() -> Any:
    """A LeNet (32, 64, 64) that puts out logits."""
    from torch import nn

    convolutions = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*convolutions, *head).eval()


def host_lenet() -> Any:
    """The one that FastEstimator brings."""
    from fastestimator.architecture.pytorch import LeNet

    return LeNet().eval()


def host_lenet_by_hand(model: Any, x: Any) -> tuple[Any, Any]:
    """Its forward, once more."""
    from torch.nn import functional

    x = functional.max_pool2d(functional.relu(model.conv1(x)), 2)
    x = functional.max_pool2d(functional.relu(model.conv2(x)), 2)
    maps = functional.relu(model.conv3(x))
    return maps, model.fc2(functional.relu(model.fc1(maps.flatten(1))))


def resnet(depth: Literal[18, 50]) -> Any:
    """With random weights and ten classes, or a thousand."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            small = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
            config = ResNetConfig(num_labels=10, **small) if depth == 18 else ResNetConfig(num_labels=1000)
            self.net = ResNetForImageClassification(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x).logits
            return logits

    return Logits().eval()


def keras_lenet() -> Any:
    """The one that FastEstimator brings for TensorFlow."""
    from fastestimator.architecture.tensorflow import LeNet

    return LeNet()


def keras_lenet_by_hand(model: Any, x: Any) -> tuple[Any, Any]:
    """Its layers one after the other, the last without its softmax."""
    for layer in model.layers[:5]:
        x = layer(x)
    maps, last = x, model.layers[-1]
    for layer in model.layers[5:-1]:
        x = layer(x)
    return maps, x @ last.kernel + last.bias


def keras_lenet_of_modules() -> Any:
    """The layers of `lenet_of_modules`."""
    import tensorflow as tf

    of = tf.keras.layers
    images = x = tf.keras.Input((28, 28, 1))
    for index, filters in enumerate((32, 64, 64)):
        x = of.ReLU(name=f"relu_{index}")(of.Conv2D(filters, 3)(x))
        x = of.MaxPooling2D()(x) if index < 2 else of.Flatten()(x)
    return tf.keras.Model(images, of.Dense(10)(of.Dense(64, activation="relu")(x)))


def keras_resnet18() -> Any:
    """The same layers as those of `resnet`."""
    import tensorflow as tf

    of = tf.keras.layers

    def unit(x: Any, filters: int, size: int, stride: int) -> Any:
        return of.BatchNormalization()(of.Conv2D(filters, size, stride, padding="same", use_bias=False)(x))

    images = tf.keras.Input((32, 32, 3))
    x = of.MaxPooling2D(3, 2, padding="same")(of.ReLU()(unit(images, 64, 7, 2)))
    for filters in (64, 128, 256, 512):
        for block in (1, 2):
            stride = 2 if block == 1 and filters > 64 else 1
            whole = x if x.shape[-1] == filters else unit(x, filters, 1, stride)
            branch = unit(of.ReLU()(unit(x, filters, 3, stride)), filters, 3, 1)
            x = of.ReLU(name=f"relu_{filters}_{block}")(of.Add()([whole, branch]))
    return tf.keras.Model(images, of.Dense(10)(of.GlobalAveragePooling2D()(x)))


def keras_resnet50() -> Any:
    """With random weights and logits."""
    import tensorflow as tf

    return tf.keras.applications.ResNet50(weights=None, classifier_activation=None)


def keras_efficientnet() -> Any:
    """The pretrained classifier, converted."""
    from tests.models.keras_twin import pretrained_keras

    return pretrained_keras()


NETS: dict[Framework, dict[str, Net]] = {
    "torch": {
        "lenet5": Net(lenet5, 28, 1, 4, "c2 + activation", lenet5_by_hand),
        "lenet_of_modules": Net(lenet_of_modules, 28, 1, 4, "7"),
        "host_lenet": Net(host_lenet, 28, 1, 4, "conv3 + activation", host_lenet_by_hand),
        "resnet18": Net(lambda: resnet(18), 32, 3, 8, "net.resnet.encoder.stages.2"),
        "resnet50": Net(lambda: resnet(50), 224, 3, 8, "net.resnet.encoder.stages.3"),
        "efficientnet_lite0": Net(pretrained_torch, 224, 3, 8, "_swish"),
    },
    "tf": {
        "host_lenet": Net(keras_lenet, 28, 1, 4, "conv2d_2", keras_lenet_by_hand),
        "lenet_of_modules": Net(keras_lenet_of_modules, 28, 1, 4, "relu_2"),
        "resnet18": Net(keras_resnet18, 32, 3, 8, "relu_256_2"),
        "resnet50": Net(keras_resnet50, 224, 3, 8, "conv5_block3_out"),
        "efficientnet_lite0": Net(keras_efficientnet, 224, 3, 8, "head_relu6"),
    },
}
"""By framework and name."""


def images(count: int) -> np.ndarray[Any, Any]:
    """Photos, over and over, (count, 224, 224, 3), normalised."""
    originals = normalise(photos()[0])
    return np.concatenate([originals] * (count // len(originals) + 1))[:count]


def batch(framework: Framework, net: Net, count: int | None = None) -> Any:
    """Images as the net takes them, photos or noise, in memory of the framework's own."""
    count = count or net.batch
    shape = (count, net.size, net.size, net.channels)
    values = images(count) if net.size == 224 else np.random.default_rng(0).random(shape, np.float32)
    if framework == "torch":
        import torch

        return torch.from_numpy(values.transpose(0, 3, 1, 2)).clone(memory_format=torch.contiguous_format)
    import tensorflow as tf

    return tf.constant(values)


def ready(framework: Framework, name: str, count: int | None = None) -> tuple[Net, Any, Any]:
    """A net, its model with the same weights at each call, and images; they compute in one thread."""
    import torch

    torch.manual_seed(0)
    if framework == "tf":
        import tensorflow as tf

        tf.random.set_seed(0)
    one_thread()
    net = NETS[framework][name]
    return net, net.make(), batch(framework, net, count)


def plain(framework: Framework, model: Any, x: Any) -> Callable[[], Any]:
    """Inference as one would write it, its output as a NumPy array."""
    if framework == "torch":
        import torch

        def infer() -> Any:
            with torch.inference_mode():
                return model(x).numpy()

        return infer
    import tensorflow as tf

    compiled = tf.function(lambda given: model(given, training=False))
    concrete = compiled.get_concrete_function(tf.TensorSpec([None, *x.shape[1:]]))
    return lambda: concrete(x).numpy()


def by_hand(framework: Framework, net: Net, model: Any, x: Any) -> Callable[[], Any]:
    """Grad-CAM of the inferred classes for this one net: the heat (N, H, W), divided by its largest, in NumPy."""
    return torch_by_hand(net, model, x) if framework == "torch" else tf_by_hand(net, model, x)


def torch_by_hand(net: Net, model: Any, x: Any) -> Callable[[], Any]:
    """A hook, gradients at the layer, their means as weights, the sum, ReLU, upsampling, division."""
    import torch
    from torch.nn import functional

    def hooked(model: Any, x: Any) -> tuple[Any, Any]:
        kept: dict[str, Any] = {}
        handle = model.get_submodule(net.layer).register_forward_hook(lambda _, given, put: kept.update(put=put))
        try:
            scores = model(x)
        finally:
            handle.remove()
        return kept["put"], scores

    observe = net.observe or hooked

    def heat() -> Any:
        maps, scores = observe(model, x)
        (gradients,) = torch.autograd.grad(scores.max(1).values.sum(), maps)
        raw = (gradients.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
        values = functional.interpolate(raw, size=x.shape[2:], mode="bilinear")[:, 0]
        most = values.amax((1, 2), keepdim=True)
        return (values / torch.where(most > 0, most, 1)).numpy()

    return heat


def tf_by_hand(net: Net, model: Any, x: Any) -> Callable[[], Any]:
    """One compiled function with the gradient inside."""
    import tensorflow as tf

    observe = net.observe
    if observe is None:
        watched = tf.keras.Model(model.inputs, [model.get_layer(net.layer).output, model.output])

        def observe(_: Any, given: Any) -> Any:
            return watched(given, training=False)

    def heat(given: Any) -> Any:
        with tf.GradientTape() as tape:
            maps, scores = observe(model, given)
            best = tf.reduce_max(scores, 1)
        weights = tf.reduce_mean(tape.gradient(best, maps), (1, 2), keepdims=True)
        raw = tf.nn.relu(tf.reduce_sum(weights * maps, -1, keepdims=True))
        values = tf.image.resize(raw, x.shape[1:3])[..., 0]
        return tf.math.divide_no_nan(values, tf.reduce_max(values, (1, 2), keepdims=True))

    compiled = tf.function(heat, input_signature=[tf.TensorSpec([None, *x.shape[1:]])])
    return lambda: compiled(x).numpy()
