"""What is differentiated, out of what a Keras model put out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from fe_gradcam.backends.errors import no_scores, no_segmentation, no_table
from fe_gradcam.backends.keras.graph import head_of
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import HeadKind, Scored
from fe_gradcam.spec.resolved import RegionTarget, ResolvedTarget
from fe_gradcam.types import Score


def class_scores(picked: Any, reading: Reading) -> dict[str, Any]:
    """The tables of the inference, (N, C), of a segmentation those of its pixels; one output makes two classes.

    Returns:
        ``explained``: the logits in the model's own precision, or what stands in for them;
        ``outputs``: as the model put them out; ``logits`` and ``probabilities``: float32;
        ``headless``: the output as it is, where no softmax or sigmoid was found behind it.
    """
    found = head_for(picked)
    outputs = rows_of(picked)
    results = {} if found is not None else {"headless": outputs}
    table, kind = (outputs, "softmax") if found is None else (rows_of(found[0]), found[1])
    are_probabilities = found is not None or reading != "logits"
    if found is None and reading != "logits":
        tiny = np.finfo(table.dtype.as_numpy_dtype).tiny
        kept = tf.math.log(tf.maximum(table, tiny))
        if reading == "probabilities":
            kind, kept = "sigmoid", kept - tf.math.log(tf.maximum(1 - table, tiny))
        table = kept
    if table.shape[1] == 1:
        table, kind = tf.concat([-table, table], 1), "sigmoid"
        outputs = tf.concat([1 - outputs if are_probabilities else -outputs, outputs], 1)
    logits = tf.cast(table, tf.float32)
    probabilities = tf.nn.softmax(logits) if kind == "softmax" else tf.nn.sigmoid(logits)
    return results | {
        "explained": table,
        "outputs": outputs,
        "logits": logits,
        "probabilities": probabilities,
    }


def class_ids_among(table: Any, wanted: Any, ranked: bool) -> Any:
    """(N, M) class ids of scores (N, C), with the places in the order resolved; see ClassTarget."""
    if not ranked:
        return tf.where(wanted < 0, tf.argmax(table, 1)[:, None], wanted)
    order = tf.cast(tf.argsort(table, 1, "DESCENDING", stable=True), tf.int64)
    last = table.shape[1] - 1
    rank = tf.clip_by_value(-1 - wanted[:, :1], 0, last)
    first = tf.where(wanted[:, :1] < 0, tf.gather(order, rank, axis=1, batch_dims=1), wanted[:, :1])
    rank_of_first = tf.argmax(tf.cast(order == first, tf.int32), 1)[:, None]
    rank = tf.maximum(-1 - wanted[:, 1:], 0)
    rank = tf.minimum(rank + tf.cast(rank >= rank_of_first, tf.int64), last)
    others = tf.where(wanted[:, 1:] < 0, tf.gather(order, rank, axis=1, batch_dims=1), wanted[:, 1:])
    return tf.concat([first, others], 1)


def region_score(picked: Any, table: Any, target: RegionTarget, arrays: list[Any]) -> tuple[Any, Any]:
    """(N,) the scores of a class summed over the pixels of the mask, or over its own; and that mask (N, *S)."""
    target.check(tuple(picked.shape[1:-1]), table.shape[1])
    pixels = tf.reduce_prod(tf.shape(picked)[1:-1])
    of_class = tf.reshape(tf.cast(table[:, target.class_id], tf.float32), [-1, pixels])
    if arrays:
        counts = tf.reshape(arrays[0], [-1, pixels])
    else:
        counts = tf.reshape(tf.cast(tf.argmax(table, 1) == target.class_id, tf.float32), [-1, pixels])
    mask = tf.reshape(counts, tf.concat([[-1], tf.shape(picked)[1:-1]], 0))
    return tf.reduce_sum(of_class * tf.stop_gradient(counts), 1), mask


def head_for(picked: Any) -> tuple[Any, HeadKind] | None:
    """The logits and the kind of the head that the scores came out of, unless classes of its softmax are missing."""
    found = head_of(picked)
    if found is None or (found[1] == "softmax" and rows_of(picked).shape[1] != found[2]):
        return None
    return found[:2]


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of TensorFlow."""
    return isinstance(value, tf.Tensor)


def is_table(output: Any) -> bool:
    """Whether it can be class scores (N, C): of one axis besides the images', or with others of size 1."""
    if not isinstance(output, tf.Tensor) or not output.shape.rank:
        return False
    return len([size for size in output.shape[1:] if size != 1]) <= 1


def is_segmentation(output: Any) -> bool:
    """Whether it can be the class scores of every pixel, (N, h, w, C) or of volumes (N, d, h, w, C)."""
    return isinstance(output, tf.Tensor) and output.shape.rank in (4, 5)


def rows_of(output: Any) -> Any:
    """Class scores as (N, C); of a segmentation the table of its pixels, (N * pixels, C)."""
    if is_table(output):
        sizes = [size for size in output.shape[1:] if size != 1]
        return tf.reshape(output, [-1, sizes[0] if sizes else 1])
    return tf.reshape(output, [-1, output.shape[-1]])


def scored(
    output: Any,
    picked: Any | None,
    tables: dict[str, Any],
    target: ResolvedTarget,
    arrays: list[Any],
    score: Score,
    described: Callable[[Any], str],
) -> Scored:
    """What a target comes to.

    Args:
        output: Of the model.
        picked: What of it holds scores, or None.
        tables: Of `class_scores`, empty where there are none.
        target: What is explained.
        arrays: Of the target, as tensors.
        score: What is differentiated.
        described: Says what an output is, for errors.
    """
    table = tables.get("explained" if score == "logit" else "outputs")
    if target.kind == "callable":
        scores = target.called(output)
        if not isinstance(scores, tf.Tensor) or scores.shape.rank != 1:
            raise no_scores(scores.shape if isinstance(scores, tf.Tensor) else type(scores).__name__)
        return Scored(scores)
    if target.kind == "region":
        if picked is None or not is_segmentation(picked):
            raise no_segmentation(described(output))
        return Scored(*region_score(picked, table, target, arrays))
    if picked is None or table is None or not is_table(picked):
        raise no_table(described(output), 1)
    if target.kind == "value":
        rows = rows_of(picked)
        target.check(rows.shape[1])
        return Scored(target.sign * rows[:, target.index])
    chosen = class_ids_among(tables["logits"] if score == "logit" else table, arrays[0], target.ranked)
    scores = tf.gather(table, tf.clip_by_value(chosen, 0, table.shape[1] - 1), axis=1, batch_dims=1)
    return Scored(tf.reduce_sum(scores * tf.constant(target.weights, scores.dtype), 1), chosen)
