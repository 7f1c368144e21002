"""The pretrained classifier as a Keras model with the weights of the PyTorch one, so that both can be compared."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tutorials.real_data import IMAGE_SIZE, pretrained_torch


def pretrained_keras(keras: Any = tf.keras) -> Any:
    """The network of `pretrained_torch` as a functional Keras model, without dropout or drop connect.

    It goes from `normalise`d images (N, 224, 224, 3) to logits (N, 1000); its layers are named as `_KerasTwin` says.
    """
    return _KerasTwin(pretrained_torch(), keras).build()


class _KerasTwin:
    """Convert the torch EfficientNet-Lite layer by layer.

    Layers with weights, paddings and the pooling have the dotted name of their torch module without its first
    underscore, with which TensorFlow allows no name to begin: `blocks.3._depthwise_conv` for
    `_blocks.3._depthwise_conv`. The activations, which torch shares within a block, are `stem_relu6`,
    `blocks.<i>.expand_relu6`, `blocks.<i>.depthwise_relu6` and `head_relu6`, the residual additions `blocks.<i>.add`.
    """

    def __init__(self, network: Any, keras: Any) -> None:
        self.network, self.keras = network, keras

    def build(self) -> Any:
        """Return the functional model, with the weights set."""
        inputs = self.keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="images")
        x = self.unit(inputs, "_conv_stem", "_bn0", "stem_relu6")
        for index, block in enumerate(self.network._blocks):
            x = self.block(x, f"_blocks.{index}", block._block_args)
        x = self.unit(x, "_conv_head", "_bn1", "head_relu6")
        x = self.keras.layers.GlobalAveragePooling2D(name="avg_pooling")(x)
        dense = self.network._fc
        logits = _with_weights(x, self.keras.layers.Dense(dense.out_features, name="fc"), dense.weight.T, dense.bias)
        return self.keras.Model(inputs, logits, name="efficientnet_lite0")

    def block(self, inputs: Any, name: str, args: Any) -> Any:
        x = inputs
        if args.expand_ratio != 1:
            x = self.unit(x, f"{name}._expand_conv", f"{name}._bn0", f"{name}.expand_relu6")
        x = self.unit(x, f"{name}._depthwise_conv", f"{name}._bn1", f"{name}.depthwise_relu6")
        x = self.unit(x, f"{name}._project_conv", f"{name}._bn2")
        if args.id_skip and args.stride == 1 and args.input_filters == args.output_filters:
            x = self.keras.layers.Add(name=_keras_name(f"{name}.add"))([x, inputs])
        return x

    def unit(self, x: Any, conv: str, norm: str, relu6: str | None = None) -> Any:
        x = self.batch_norm(self.conv(x, conv), norm)
        return x if relu6 is None else self.keras.layers.ReLU(6.0, name=_keras_name(relu6))(x)

    def conv(self, x: Any, name: str) -> Any:
        conv = self.network.get_submodule(name)
        padding = getattr(conv.static_padding, "padding", None)
        if padding is not None:
            left, right, top, bottom = padding
            x = self.keras.layers.ZeroPadding2D(
                ((top, bottom), (left, right)), name=_keras_name(f"{name}.static_padding")
            )(x)
        options = {"strides": tuple(conv.stride), "use_bias": False, "name": _keras_name(name)}
        if conv.groups == 1:
            layer = self.keras.layers.Conv2D(conv.out_channels, conv.kernel_size, **options)
            return _with_weights(x, layer, conv.weight.permute(2, 3, 1, 0))
        # A depthwise kernel is (C, 1, h, w) in torch and (h, w, C, 1) in Keras.
        layer = self.keras.layers.DepthwiseConv2D(conv.kernel_size, **options)
        return _with_weights(x, layer, conv.weight.permute(2, 3, 0, 1))

    def batch_norm(self, x: Any, name: str) -> Any:
        norm = self.network.get_submodule(name)
        # Torch's momentum is the share of the new batch, Keras's that of the old average.
        how = {"epsilon": norm.eps, "momentum": 1.0 - norm.momentum, "name": _keras_name(name)}
        weights = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return _with_weights(x, self.keras.layers.BatchNormalization(**how), *weights)


def _with_weights(x: Any, layer: Any, *weights: Any) -> Any:
    outputs = layer(x)
    layer.set_weights([weight.detach().cpu().numpy() for weight in weights])
    return outputs


def _keras_name(torch_name: str) -> str:
    return torch_name.removeprefix("_")
