"""The attentions of a Keras vision transformer, and the ends of its blocks, found in a traced graph."""

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
    """For each attention the tokens (N, T, K) that its block returns, or None if no such place is found.

    The whole effect of an attention on the output goes through these tokens, and none of the next attention's effect.
    The last block has no next attention: its end has the same number among such places as in the blocks before.
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
    """The tokens (N, T, K) on every path from one tensor to another, in the order of the graph."""
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
    """The operations that depend on the tensor, by paths that avoid those in `without`."""
    found: set[Any] = set()
    waiting = list(tensor.consumers())
    while waiting:
        operation = waiting.pop()
        if operation not in found and operation not in without:
            found.add(operation)
            waiting.extend(consumer for output in operation.outputs for consumer in output.consumers())
    return found


def _ancestors(tensor: Any) -> set[Any]:
    """The operations that lead to the tensor, including the one that made it."""
    found: set[Any] = set()
    waiting = [tensor.op]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting.extend(given.op for given in operation.inputs)
    return found


def by_key(score: Any, attention: Any, others: list[Any]) -> Any:
    """(N, T): the mean over heads and queries of the positive gradients of scores at an attention (N, heads, T, T).

    No gradient passes through the `others`: tokens on which the score does not depend, or only through others.
    """
    (gradient,) = tf.gradients(score, [attention], stop_gradients=others)
    gradient = tf.zeros_like(attention) if gradient is None else gradient
    return tf.reduce_mean(tf.nn.relu(tf.cast(gradient, tf.float32)), [1, 2])
