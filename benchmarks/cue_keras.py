"""A Keras net for the cues, of another shape than `benchmarks.cue_nets`: larger kernels, pooling between, dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cue_nets import BATCH, CACHE, EPOCHS, Key, data, kept

RATE_OF_ADAM = 3e-3


def keras_net(seed: int) -> Any:
    """Three convolutions with pooling between, pooling over all places, dropout and one softmax layer."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    of = tf.keras.layers
    layers = [of.InputLayer((64, 64, 1))]
    for channels, side, pool in ((16, 5, 2), (32, 3, 2), (64, 3, 2), (64, 3, 1)):
        layers += [of.Conv2D(channels, side, padding="same"), of.BatchNormalization(momentum=0.9), of.ReLU()]
        layers += [of.MaxPooling2D(pool)] if pool > 1 else []
    return tf.keras.Sequential([*layers, of.GlobalAveragePooling2D(), of.Dropout(0.1), of.Dense(10, "softmax")])


def keras_trained(key: Key, folder: Path = CACHE) -> Any:
    """The Keras net of a key; it is trained and kept if the folder does not have it."""
    model = keras_net(key.seed)
    if str(key) in (there := kept(folder)):
        path, row = there[str(key)]
        with np.load(path) as file:
            model.set_weights(_parts(file["weights"][row], model.get_weights()))
        return model
    images, labels, _ = data(key)
    _fit(model, images[..., None] / np.float32(255), labels)
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.concatenate([part.astype(np.float16).ravel() for part in model.get_weights()])
    np.savez(folder / f"{key}.npz", names=np.array([str(key)]), weights=weights[None])
    return keras_trained(key, folder)


def _fit(model: Any, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    import tensorflow as tf

    steps = EPOCHS * -(-len(images) // BATCH)
    rate = tf.keras.optimizers.schedules.CosineDecay(RATE_OF_ADAM, steps)
    model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)


def _parts(row: NDArray[np.float16], like: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    ends = np.cumsum([part.size for part in like])
    parts = np.split(row.astype(np.float32), ends[:-1])
    return [part.reshape(one.shape) for part, one in zip(parts, like, strict=True)]
