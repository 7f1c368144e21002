"""The pretrained classifier as a Keras model with the weights of the PyTorch one, so that both can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tutorials.real_data import IMAGE_SIZE, pretrained_torch

if TYPE_CHECKING:
    import tensorflow as tf
    import torch

# The torch module whose output the last feature map is, and the Keras layer that gives the same map.
# The torch network also calls its `_swish` after the stem: the head is the second call of a forward pass.
TORCH_HEAD = "_swish"
KERAS_HEAD = "head_relu6"


def pretrained_keras() -> tf.keras.Model:
    """Build the network of `pretrained_torch` as a functional Keras model with the same weights.

    Returns:
        A model from `normalise`d images (N, 224, 224, 3) to logits (N, 1000), without dropout or drop
        connect. Layers are named as the torch modules are, see
        `_KerasTwin`.
    """
    return _KerasTwin(pretrained_torch()).build()


class _KerasTwin:
    """Convert the torch EfficientNet-Lite layer by layer.

    Layers with weights, paddings and the pooling have the dotted name of their torch module without
    its first underscore, with which TensorFlow allows no name to begin: `blocks.3._depthwise_conv`
    for `_blocks.3._depthwise_conv`. The activations, which torch shares within a block, are
    `stem_relu6`, `blocks.<i>.expand_relu6`, `blocks.<i>.depthwise_relu6` and `head_relu6`, the
    residual additions `blocks.<i>.add`.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._network: Any = network

    def build(self) -> tf.keras.Model:
        """Return the functional model, with the weights set."""
        from tensorflow.keras import Input, Model, layers

        inputs = Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="images")
        x = self._relu6(self._batch_norm(self._conv(inputs, "_conv_stem"), "_bn0"), "stem_relu6")
        for index, block in enumerate(self._network._blocks):
            x = self._block(x, f"_blocks.{index}", block._block_args)
        x = self._relu6(self._batch_norm(self._conv(x, "_conv_head"), "_bn1"), KERAS_HEAD)
        x = layers.GlobalAveragePooling2D(name=_keras_name("_avg_pooling"))(x)
        dense = self._network._fc
        weights = [_numpy(dense.weight).T, _numpy(dense.bias)]
        logits = self._with_weights(x, layers.Dense(dense.out_features, name=_keras_name("_fc")), weights)
        return Model(inputs, logits, name="efficientnet_lite0")

    def _block(self, inputs: Any, name: str, args: Any) -> Any:
        from tensorflow.keras import layers

        x = inputs
        if args.expand_ratio != 1:
            x = self._batch_norm(self._conv(x, f"{name}._expand_conv"), f"{name}._bn0")
            x = self._relu6(x, f"{name}.expand_relu6")
        x = self._batch_norm(self._conv(x, f"{name}._depthwise_conv"), f"{name}._bn1")
        x = self._relu6(x, f"{name}.depthwise_relu6")
        x = self._batch_norm(self._conv(x, f"{name}._project_conv"), f"{name}._bn2")
        if args.id_skip and args.stride == 1 and args.input_filters == args.output_filters:
            x = layers.Add(name=_keras_name(f"{name}.add"))([x, inputs])
        return x

    def _conv(self, x: Any, name: str) -> Any:
        from tensorflow.keras import layers

        conv = self._network.get_submodule(name)
        padding = getattr(conv.static_padding, "padding", None)
        if padding is not None:
            left, right, top, bottom = padding
            pad = layers.ZeroPadding2D(((top, bottom), (left, right)), name=_keras_name(f"{name}.static_padding"))
            x = pad(x)
        options = {
            "strides": tuple(conv.stride),
            "padding": "valid",
            "use_bias": False,
            "name": _keras_name(name),
        }
        kernel = _numpy(conv.weight)
        if conv.groups == 1:
            layer = layers.Conv2D(conv.out_channels, conv.kernel_size, **options)
            return self._with_weights(x, layer, [kernel.transpose(2, 3, 1, 0)])
        # A depthwise kernel is (C, 1, h, w) in torch and (h, w, C, 1) in Keras.
        layer = layers.DepthwiseConv2D(conv.kernel_size, **options)
        return self._with_weights(x, layer, [kernel.transpose(2, 3, 0, 1)])

    def _batch_norm(self, x: Any, name: str) -> Any:
        from tensorflow.keras import layers

        norm = self._network.get_submodule(name)
        # Torch's momentum is the share of the new batch, Keras's that of the old average.
        layer = layers.BatchNormalization(epsilon=norm.eps, momentum=1.0 - norm.momentum, name=_keras_name(name))
        weights = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        return self._with_weights(x, layer, [_numpy(weight) for weight in weights])

    @staticmethod
    def _relu6(x: Any, name: str) -> Any:
        from tensorflow.keras import layers

        return layers.ReLU(6.0, name=_keras_name(name))(x)

    @staticmethod
    def _with_weights(x: Any, layer: Any, weights: list[npt.NDArray[np.float32]]) -> Any:
        outputs = layer(x)
        layer.set_weights(weights)
        return outputs


def _keras_name(torch_name: str) -> str:
    return torch_name.removeprefix("_")


def _numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return tensor.detach().cpu().numpy()
