"""Reads a traced TensorFlow graph: the output of a layer, the operations applied to it, and the way to the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from threading import RLock
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.autograph.impl import api as autograph

from fe_gradcam.backends.errors import has_channels_first, takes_channels_first
from fe_gradcam.backends.interrupts import HeldBack, LetThrough, let_through
from fe_gradcam.backends.keras.version import KERAS_CONVOLUTIONS, is_a, is_keras_3, keras_of, layers_in
from fe_gradcam.backends.scoring import Head, HeadKind

_HEADS: dict[str, HeadKind] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}

REARRANGING_OPS = frozenset(
    {"Cast", "ExpandDims", "GatherV2", "Identity", "Reshape", "Squeeze", "StridedSlice", "Transpose", "Unpack"}
)
"""Operations that are repeated on the logits, so that the logits keep the layout of the output."""

MONOTONE_OPS = frozenset({"ClipByValue", "Exp", "Log", "StopGradient"})
"""Operations on a head's output that leave its logits valid."""

RELU_OPS = frozenset({"LeakyRelu", "Relu", "Relu6"})
"""The rectifiers among the activations."""

ACTIVATION_OPS = frozenset({"Elu", "Gelu", "LeakyRelu", "Relu", "Relu6", "Selu", "Softplus", "Softsign", "Tanh"})

POOL_OPS = frozenset({"AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D", "MaxPoolV2"})

TRACED = RLock()
"""Held while a model is traced, whichever it is: the whole process shares the switch for tf.functions that run eagerly,
and two models may share layers, whose calls are replaced."""

Call: TypeAlias = tuple[Any, Any, Any]
"""A layer, its first input, and its output."""


@contextmanager
def calls_of(layers: list[Any], on_output: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """While active, `on_output(layer, first input, output)` is called whenever one of the layers was called."""
    with TRACED, replaced([(layer, "call", _heard(layer, on_output)) for layer in layers]):
        yield


@contextmanager
def unactivated(layer: Any, outputs: list[Any]) -> Iterator[None]:
    """While active, the inputs of the activation function fused into the layer are added to `outputs`."""
    original: Any = getattr(layer, "activation", None)

    def activation(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        outputs.append(tensor)
        return original(tensor, *args, **kwargs)

    with replaced([(layer, "activation", activation)] if callable(original) else []):
        yield


@contextmanager
def replaced(attributes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """While active, attributes of objects are replaced, without calling any __setattr__."""
    before = [(owner, name, owner.__dict__.get(name, _ABSENT)) for owner, name, _ in attributes]
    try:
        for owner, name, value in attributes:
            owner.__dict__[name] = value
        yield
    finally:
        for owner, name, value in before:
            if value is _ABSENT:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = value


_ABSENT = object()


def _heard(layer: Any, on_output: Callable[[Any, Any, Any], None]) -> Callable[..., Any]:
    original = layer.call

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def call(*args: Any, **kwargs: Any) -> Any:
        let_through()
        function = original if tf.executing_eagerly() else _with_autograph(original)
        output = function(*args, **kwargs)
        on_output(layer, args[0] if args else None, output)
        return output

    heard: Callable[..., Any] = call
    return heard


def _with_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a Keras layer's `call` runs inside a tf.function: its `if` and `for` may depend on tensors."""
    context = ag_ctx.ControlStatusCtx(ag_ctx.Status.ENABLED)

    def converted(*args: Any, **kwargs: Any) -> Any:
        let_through()
        with context:
            return autograph.tf_convert(function, context)(*args, **kwargs)

    return converted


def call_model(model: Any, inputs: Any, *, training: bool) -> Any:
    """The model's output inside a trace; nested tf.functions become part of the trace.

    Keras compiles grouped convolutions with XLA, as not every CPU can compute them otherwise; where it cannot, these
    stay functions.
    """
    layers = [model, *layers_in(model)]
    grouped = [layer for layer in layers if is_a(layer, *KERAS_CONVOLUTIONS) and getattr(layer, "groups", 1) > 1]
    if grouped and _computes_groups():
        grouped = []
    calls: list[tuple[Any, str, Any]] = [(layer, "call", partial(_run, layer.call, False)) for layer in grouped]
    if not tf.executing_eagerly():
        calls += [(layer, "call", _with_autograph(layer.call)) for layer in layers if _is_of_user_in_keras_3(layer)]
    with HeldBack(), replaced(calls):
        return _run(_with_autograph(model), True, inputs, training=training)


def _is_of_user_in_keras_3(layer: Any) -> bool:
    """Whether a layer has code that Keras 3 calls as it is; in Keras 2 it may have an `if` on a tensor in a graph."""
    keras = keras_of(layer)
    return keras is not None and is_keras_3(keras) and not type(layer).__module__.startswith("keras.")


def _run(function: Callable[..., Any], eagerly: bool, *args: Any, **kwargs: Any) -> Any:
    """Calls the function, with nested tf.functions run eagerly or not.

    SIGINT comes through where the function computes, but where it is traced it waits for the next layer: TensorFlow and
    Keras would be left inside the graph.
    """
    with HeldBack():
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(eagerly)
        try:
            with LetThrough() if tf.executing_eagerly() else nullcontext():
                return function(*args, **kwargs)
        finally:
            tf.config.run_functions_eagerly(before)


@cache
def _computes_groups() -> bool:
    """Whether TensorFlow computes a grouped convolution and its gradient here without XLA; tried once on a small one.

    It does on a GPU, and on a CPU with oneDNN.
    """

    def convolved(kernel: Any) -> Any:
        maps = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(tf.ones((1, 3, 3, 4)), kernel, 1, "SAME"), tf.ones(4)))
        return maps, tf.gradients(maps, [kernel])

    with tf.init_scope():
        try:
            _run(tf.function(convolved, autograph=False), False, tf.ones((3, 3, 2, 4)))
        except tf.errors.OpError:
            return False
    return True


def check_layout(inputs: Sequence[Any]) -> None:
    """Raises UnsupportedModelError if channels come first: in the images, or in convolutions of a pass of them."""
    if any(_come_first(part) for part in inputs if part.shape.rank in (4, 5)):
        raise takes_channels_first()
    convolutions = [one for one in inputs[0].graph.get_operations() if one.type.startswith(("Conv", "DepthwiseConv"))]
    if any(one.get_attr("data_format").startswith(b"NC") for one in convolutions if "data_format" in one.node_def.attr):
        raise has_channels_first()


def _come_first(images: Any) -> bool:
    """Whether the first step that does more to the images than change values moves their second axis to the end."""
    waiting = [images]
    while waiting:
        tensor = waiting.pop()
        for operation in tensor.consumers():
            if operation.type == "Transpose":
                order = tf.get_static_value(operation.inputs[1])
                if order is not None and list(order) == [0, *range(2, images.shape.rank), 1]:
                    return True
            elif operation.outputs and "data_format" not in operation.node_def.attr:
                made = operation.outputs[0]
                waiting += [made] if made.shape.rank and made.shape.as_list() == images.shape.as_list() else []
    return False


def activation_behind(tensor: Any) -> Any | None:
    """The output of the activation function that is applied directly to the tensor, or None."""
    for operation in tensor.consumers():
        if operation.type in ACTIVATION_OPS and operation.inputs[0] is tensor:
            return operation.outputs[0]
    return None


def passed_on(tensor: Any) -> Any:
    """The tensor that this one is, if it was only passed on, as dropout does in inference."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def relu_behind(tensor: Any, calls: list[Call]) -> Any | None:
    """The output of the ReLU that made the tensor, or follows it directly or behind a batch normalisation, or None."""
    if tensor.op.type in RELU_OPS:
        return tensor
    for layer, given, output in calls:
        if given is not tensor:
            continue
        if is_a(layer, "BatchNormalization"):
            tensor = output
        elif is_a(layer, "ReLU", "LeakyReLU", "PReLU"):
            return output
    for operation in tensor.consumers():
        if operation.type in RELU_OPS:
            return operation.outputs[0]
    return None


def head_of(output: Any) -> Head | None:
    """The head that made the output, or None."""
    if tf.executing_eagerly():  # eager tensors know no operation, but Keras' activations leave their input on them
        logits = getattr(output, "_keras_logits", None)
        kind: HeadKind = "softmax" if output.shape[-1] != 1 else "sigmoid"
        return None if logits is None else Head(logits, kind, output.shape[-1])
    repeated: list[tuple[Any, int]] = []
    tensor = output
    while tensor.op.type not in _HEADS:
        operation = tensor.op
        if operation.type in REARRANGING_OPS:
            repeated.append((operation, tensor.value_index))
        elif operation.type not in MONOTONE_OPS:
            return None
        tensor = operation.inputs[0]
    logits, kind = tensor.op.inputs[0], _HEADS[tensor.op.type]
    classes = logits.shape[-1]
    for operation, index in reversed(repeated):
        logits = _repeated(operation, logits).outputs[index]
    return Head(logits, kind, classes)


def _repeated(operation: Any, first_input: Any) -> Any:
    """The same operation with another first input."""
    return operation.graph.create_op(
        operation.type,
        [first_input, *operation.inputs[1:]],
        [output.dtype for output in operation.outputs],
        attrs=dict(operation.node_def.attr),
    )


def go_on_with(tensor: Any, other: Any) -> None:
    """Replaces `tensor` by `other`, which may be made from it, as the input of operations in the graph being traced."""
    for operation in tensor.consumers():
        if operation is not other.op and not depends_on(other, operation.outputs[0] if operation.outputs else None):
            for at, given in enumerate(operation.inputs):
                if given is tensor:
                    operation._update_input(at, other)


def depends_on(tensor: Any, source: Any) -> bool:
    """Whether the tensor was computed from the source, in the graph that both are in."""
    seen: set[int] = set()
    waiting = [tensor]
    while waiting:
        current = waiting.pop()
        if current is source:
            return True
        if id(current.op) not in seen:
            seen.add(id(current.op))
            waiting.extend(current.op.inputs)
    return False
