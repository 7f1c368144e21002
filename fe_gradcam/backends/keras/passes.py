"""Second derivatives of a traced Keras pass, and what every layer adds in it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fe_gradcam.backends.protocol import HALF_PRECISION_FACTOR

CURVED_OPS = frozenset({"Elu", "LeakyRelu", "Relu6", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh"})
"""Element-wise functions whose tangents have an intercept; those of a plain ReLU have none."""


def hessian_product(scores: Any, at_layer: Any, vectors: Any) -> Any:
    """∂²(Σ scores)/∂at_layer² times vectors in float32; zero if nothing there is curved."""
    factor = HALF_PRECISION_FACTOR if at_layer.dtype == tf.float16 else 1.0
    (gradient,) = tf.gradients(scores * tf.cast(factor, scores.dtype), [at_layer])
    product = None
    if gradient is not None:
        along = tf.reduce_sum(gradient * tf.cast(vectors, gradient.dtype))
        (product,) = tf.gradients(along, [at_layer])
    return tf.zeros_like(at_layer, tf.float32) if product is None else tf.cast(product, tf.float32) / factor


def bias_terms(scores: Any, inputs: list[Any]) -> list[Any]:
    """The inputs, and then all terms that layers add on the way to the scores, each times its gradient; float32."""
    from_input = {part.ref() for part in inputs}
    outputs, values = list(inputs), list(inputs)
    for operation in list(scores.graph.get_operations()):
        given = [tensor.ref() in from_input for tensor in operation.inputs]
        if not any(given):
            continue
        from_input |= {output.ref() for output in operation.outputs if output.dtype.is_floating}
        added = _added(operation, given)
        if added is not None:
            outputs.append(operation.outputs[0])
            values.append(added)
    gradients = tf.gradients(scores, outputs)
    return [
        tf.zeros_like(output, tf.float32)
        if gradient is None
        else tf.cast(tf.zeros_like(output) + tf.cast(value, output.dtype), tf.float32) * tf.cast(gradient, tf.float32)
        for output, value, gradient in zip(outputs, values, gradients, strict=True)
    ]


def _added(operation: Any, from_input: list[bool]) -> Any | None:
    """What an operation adds to a multiple of its input, or None; `from_input` marks inputs that depend on images."""
    inputs, kind = operation.inputs, operation.type
    if kind in ("BiasAdd", "Add", "AddV2", "Sub") and sum(from_input) == 1:
        constant = inputs[1] if from_input[0] else inputs[0]
        return -constant if kind == "Sub" and from_input[0] else constant
    if kind == "FusedBatchNormV3" and from_input[0]:
        _, scale, offset, mean, variance = inputs
        return offset - scale * mean * tf.math.rsqrt(variance + operation.get_attr("epsilon"))
    if kind in CURVED_OPS:  # the value at which the tangent meets the axis
        (slope,) = tf.gradients(operation.outputs[0], [inputs[0]])
        return operation.outputs[0] - slope * inputs[0]
    return None
