"""The attentions of a Keras vision transformer, and where each of its blocks ends, read from a traced graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def attentions_in(graph: Any, output: Any) -> list[Any]:
    """The attentions that lead to the output, in their order: softmaxes (N, heads, T, T) over T > 1 tokens."""
    before = _ancestors(output)
    found = []
    for operation in graph.get_operations():
        if operation.type == "Softmax" and operation in before:
            attention = operation.outputs[0]
            shape = attention.shape
            if shape.rank == 4 and shape[2] is not None and shape[2] == shape[3] and shape[2] > 1:
                found.append(attention)
    return found


def ends_of_blocks(attentions: list[Any], output: Any) -> list[Any] | None:
    """For each attention the output tokens (N, T, K) of its block, or None if they are not found.

    They are the last tensor before the next attention through which the whole influence of the attention passes. The
    last block has no next attention: blocks are built alike, so the tensor at the same position as in the blocks before
    is taken.
    """
    ends: list[Any] = []
    places = 0
    for attention, following in zip(attentions, [*attentions[1:], None], strict=True):
        passed = _passed_by_all(attention, output)
        if following is not None:
            before = _ancestors(following)
            passed = [tensor for tensor in passed if tensor.op in before]
            if not passed or (ends and len(passed) != places):
                return None
            places = len(passed)
        if len(passed) < max(places, 1):
            return None
        ends.append(passed[(places or len(passed)) - 1])
    return ends


def _passed_by_all(start: Any, end: Any) -> list[Any]:
    """The tokens (N, T, K) that every path from one tensor to another passes through, in the order of the graph."""
    between = _descendants(start, set()) & _ancestors(end)
    tokens = start.shape[2]
    ordered = [operation for operation in start.graph.get_operations() if operation in between]
    return [
        operation.outputs[0]
        for operation in ordered
        if operation.outputs
        and operation.outputs[0].shape.rank == 3
        and operation.outputs[0].shape[1] == tokens
        and end.op not in _descendants(start, {operation})
    ]


def _descendants(tensor: Any, without: set[Any]) -> set[Any]:
    """The operations that the tensor leads to, by paths that do not pass through those in `without`."""
    found: set[Any] = set()
    waiting = list(tensor.consumers())
    while waiting:
        operation = waiting.pop()
        if operation not in found and operation not in without:
            found.add(operation)
            waiting.extend(consumer for output in operation.outputs for consumer in output.consumers())
    return found


def _ancestors(tensor: Any) -> set[Any]:
    """The operations that lead to the tensor, with the one that makes it."""
    found: set[Any] = set()
    waiting = [tensor.op]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting.extend(given.op for given in operation.inputs)
    return found


def mean_of(tokens: Any) -> Any:
    """The mean of the tokens (N, T, K), in the place of each of them."""
    return tf.repeat(tf.reduce_mean(tokens, 1, keepdims=True), tf.shape(tokens)[1], 1)


def by_key(score: Any, attention: Any, others: list[Any]) -> Any:
    """(N, T): the mean over heads and queries of the positive gradients of scores at an attention (N, heads, T, T).

    No gradient flows through `others`: tokens that the score does not depend on, or only through other blocks.
    """
    (gradient,) = tf.gradients(score, [attention], stop_gradients=others)
    gradient = tf.zeros_like(attention) if gradient is None else gradient
    return tf.reduce_mean(tf.nn.relu(tf.cast(gradient, tf.float32)), [1, 2])
