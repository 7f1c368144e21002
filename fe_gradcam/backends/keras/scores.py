"""The output of a Keras model, and the operations that make scores from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fe_gradcam.backends.keras.graph import head_of
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.scoring import Operations, Outputs


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of TensorFlow."""
    return isinstance(value, tf.Tensor)


OF_TENSORFLOW = Operations(
    is_tensor=is_tensor,
    where=tf.where,
    reshape=tf.reshape,
    beside=lambda tables: tf.concat(tables, 1),
    argmax=lambda table: tf.argmax(table, 1),
    top=lambda table: (
        tf.gather(table, ids := tf.argmax(table, 1)[:, None], axis=1, batch_dims=1)[:, 0],
        ids,
    ),
    falling=lambda table: tf.cast(tf.argsort(table, 1, "DESCENDING", stable=True), tf.int64),
    gather=lambda table, ids: tf.gather(table, tf.clip_by_value(ids, 0, table.shape[1] - 1), axis=1, batch_dims=1),
    total=lambda values: tf.reduce_sum(tf.reshape(values, [tf.shape(values)[0], -1]), 1),
    weighted=lambda chosen, weights: tf.reduce_sum(chosen * tf.constant(weights, chosen.dtype), 1),
    log=lambda table: tf.math.log(tf.maximum(table, np.finfo(table.dtype.as_numpy_dtype).tiny)),
    softmax=tf.nn.softmax,
    sigmoid=tf.nn.sigmoid,
    float32=lambda values: tf.cast(values, tf.float32),
    int64=lambda values: tf.cast(values, tf.int64),
)


def outputs_of(output: Any, picked: Any | None, reading: Reading, names: Sequence[str] | None = None) -> Outputs:
    """The outputs of a pass; `picked` is the part that holds the scores, or None."""
    if picked is None:
        return Outputs(OF_TENSORFLOW, output, None, names=names)
    rows, head = rows_of(picked), head_of(picked)
    if head is not None:
        head = head._replace(logits=rows_of(head.logits)) if head.made(rows) else None
    sides = tuple(picked.shape[1:-1]) if is_segmentation(picked) else None
    places = [tf.shape(picked)[axis] for axis in range(1, picked.shape.rank - 1)]
    return Outputs(OF_TENSORFLOW, output, None, rows, is_table(picked), sides, places, head, reading, names)


def is_table(output: Any) -> bool:
    """Whether `output` can be class scores: (N, C) or (N,), with further axes of size 1."""
    if not isinstance(output, tf.Tensor) or not output.shape.rank:
        return False
    return len([size for size in output.shape[1:] if size != 1]) <= 1


def is_segmentation(output: Any) -> bool:
    """Whether `output` can be the class scores of every pixel, (N, h, w, C), or (N, d, h, w, C) for volumes."""
    return isinstance(output, tf.Tensor) and output.shape.rank in (4, 5)


def rows_of(output: Any) -> Any:
    """Class scores as (N, C); for a segmentation, those of all pixels as (N * pixels, C)."""
    if is_table(output):
        sizes = [size for size in output.shape[1:] if size != 1]
        return tf.reshape(output, [-1, sizes[0] if sizes else 1])
    return tf.reshape(output, [-1, output.shape[-1]])
