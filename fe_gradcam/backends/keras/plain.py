"""A Keras model called plainly, eagerly, to check the route by other means: none of its code is used here."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import op_callbacks

from fe_gradcam.backends.interrupts import held_back, interruptible
from fe_gradcam.backends.keras.graph import replaced
from fe_gradcam.backends.keras.version import PACKAGES, named_layers
from fe_gradcam.backends.marks import mark
from fe_gradcam.spec.outputs import ModelOutput, pick
from fe_gradcam.types import LayerRef


class PlainKeras:
    """A Keras model in inference, whose layers can be read and changed by another `call` of theirs."""

    framework = "keras"

    def __init__(self, model: Any) -> None:
        self.model = model
        self._graphs: dict[tuple[LayerRef, str], Any] = {}
        self._change: Callable[[Any], Any] = _as_it_is
        self._noted: list[Any] = []

    def exact(self, images: Any) -> None:
        """A copy in float64: there is none, as the layers of a Keras model keep their precision."""

    @held_back
    def run(
        self, images: Any, layer: LayerRef | None = None, change: Any = None, seen: Any = None, skip: int = 0
    ) -> Any:
        """The model's own output; see PlainTorch."""
        parts = images if isinstance(images, (tuple, list)) else (images,)
        given = [tf.convert_to_tensor(np.asarray(part)) for part in parts]
        if layer is not None and layer.place != "output":
            return self._in_a_graph(given, layer, change, [] if seen is None else seen, skip)
        with nullcontext() if layer is None else self._changed(layer, change, [] if seen is None else seen, skip):
            return self.model(given[0] if len(given) == 1 else given, training=False)

    @contextmanager
    def _changed(self, layer: LayerRef, change: Any, seen: list[Any], skip: int) -> Iterator[None]:
        def behind(_: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, (tuple, list)) else output
            seen.append(np.asarray(first, np.float64))
            if change is None or len(seen) <= skip:
                return output
            changed = tf.cast(tf.constant(change(seen[-1])), first.dtype)
            return type(output)([changed, *output[1:]]) if isinstance(output, (tuple, list)) else changed

        with _heard(named_layers(self.model)[layer.name], "call", behind):
            yield

    def _in_a_graph(
        self, given: list[Any], layer: LayerRef, change: Any, seen: list[Any], skip: int, noting: str = ""
    ) -> Any:
        """The output of a pass that is changed behind the activation function that takes up what a layer puts out.

        While a graph is made, TensorFlow tells its debugger of each operation, and takes other outputs from it.
        """

        def changed(values: Any) -> Any:
            seen.append(values.astype(np.float64))
            return values if change is None or len(seen) <= skip else change(seen[-1]).astype(values.dtype)

        def traced(*given: Any) -> Any:
            awaited: list[Any] = []

            def behind(_: Any, output: Any) -> Any:
                awaited.append(output)
                return output

            def computed(_: Any, taken: Any, __: Any, made: Any, **___: Any) -> Any:
                if not awaited or len(taken) != 1 or taken[0] is not awaited[-1] or taken[0].shape != made[0].shape:
                    return None
                awaited.clear()
                return [_by_numpy(lambda values: self._change(values), made[0])]

            with _heard(named_layers(self.model)[layer.name], "call", behind), _each_operation(computed):
                return self.model(given[0] if len(given) == 1 else list(given), training=False)

        self._change = changed
        if (layer, noting) not in self._graphs:
            self._graphs[layer, noting] = tf.function(traced, autograph=False)
        return self._graphs[layer, noting](*given)

    def at(self, images: Any, layer: LayerRef) -> list[NDArray[Any]]:
        """What a place puts out, once for each call."""
        seen: list[NDArray[Any]] = []
        self.run(images, layer, seen=seen)
        return seen

    @staticmethod
    def arrays(output: Any) -> list[NDArray[Any]]:
        """The numbers in an output, whatever it is."""
        parts = [part for part in tf.nest.flatten(output) if tf.is_tensor(part)]
        return [np.asarray(part, np.float64) for part in parts if part.dtype.is_floating]

    @staticmethod
    def numbers(scores: Any) -> NDArray[Any]:
        """Scores as an array."""
        return np.asarray(scores, np.float64)

    def table(self, output: Any, model_output: ModelOutput) -> NDArray[Any] | None:
        """The table (N, C) of class scores in an output, or None."""

        def fits(part: Any) -> bool:
            return tf.is_tensor(part) and len(part.shape) == 2

        names = getattr(self.model, "output_names", None)
        picked = pick(output, model_output, is_tensor=tf.is_tensor, fits=fits, names=names)
        return self.numbers(picked) if fits(picked) else None

    def heads(self, images: Any, kind: str, table: NDArray[Any]) -> str | None:
        """The name of a layer whose activation makes the table of probabilities; or None."""
        for name in reversed(list(named_layers(self.model))):
            logits = self._before_activation(name, lambda: self.run(images))
            if logits is not None and logits.size == table.size:
                logits = logits.reshape(table.shape)
                shifted = np.exp(logits - logits.max(1, keepdims=True))
                made = shifted / shifted.sum(1, keepdims=True) if kind == "softmax" else 1 / (1 + np.exp(-logits))
                if np.allclose(made, table, atol=1e-4) and not np.allclose(logits, table, atol=1e-4):
                    return name
        return None

    def logits_of(self, name: str, images: Any, layer: LayerRef, change: Any, skip: int) -> NDArray[Any]:
        """What the activation of the layer `name` gets in a pass that is changed at a layer."""

        def run() -> None:
            if layer.place == "output":
                self.run(images, layer, change, skip=skip)
            else:
                parts = images if isinstance(images, (tuple, list)) else (images,)
                given = [tf.convert_to_tensor(np.asarray(part)) for part in parts]
                self._in_a_graph(given, layer, change, [], skip, noting=name)

        found = self._before_activation(name, run)
        return np.empty((0, 0)) if found is None else found.reshape(len(found), -1)

    def _note(self, values: Any) -> Any:
        self._noted.append(values)
        return values

    @held_back
    def _before_activation(self, name: str, run: Callable[[], Any]) -> NDArray[Any] | None:
        layer, self._noted = named_layers(self.model)[name], []
        attribute = "call" if type(layer).__name__ == "Softmax" else "activation"
        if not callable(getattr(layer, attribute, None)):
            return None

        def behind(given: Any, output: Any) -> Any:
            if tf.executing_eagerly():
                self._noted.append(given)
            else:
                _by_numpy(self._note, given)
            return output

        with _heard(layer, attribute, behind):
            run()
        return np.asarray(self._noted[-1], np.float64) if self._noted else None

    @interruptible
    def reweighted(self, factors: Callable[[Any], NDArray[Any]]) -> Iterator[bool]:
        """While active, all tables of weights are multiplied by factors of their shape; yields whether there is one."""
        tables = [one for one in self.model.trainable_weights if len(one.shape) >= 2]
        before = [np.array(one) for one in tables]
        try:
            for one, its in zip(tables, before, strict=True):
                one.assign((its * factors(its.shape)).astype(its.dtype))
            yield bool(tables)
        finally:
            for one, its in zip(tables, before, strict=True):
                one.assign(its)

    def state(self) -> dict[str, Any]:
        """What can be seen of the model and the random streams, by what it is of."""
        found: dict[str, Any] = {
            "Python's random stream": random.getstate(),
            "NumPy's random stream": pickle.dumps(np.random.get_state()),
            "whether functions run eagerly": tf.config.functions_run_eagerly(),
        }
        for name, layer in {"the model": self.model, **named_layers(self.model)}.items():
            found[f"attributes of {name}"] = {key: mark(value, _of_tensor) for key, value in layer.__dict__.items()}
            found[f"{name} trains"] = getattr(layer, "trainable", None)
        for at, weights in enumerate(self.model.variables):
            found[f"weights {at}, {weights.name}"] = hashlib.sha256(np.array(weights).tobytes()).hexdigest()
        return found


def _as_it_is(values: Any) -> Any:
    return values


def _by_numpy(function: Callable[[Any], Any], tensor: Any) -> Any:
    """What a function of arrays makes of a tensor once the graph is run."""
    made = tf.numpy_function(function, [tensor], tensor.dtype)
    made.set_shape(tensor.shape)
    return made


@contextmanager
def _each_operation(computed: Callable[..., Any]) -> Iterator[None]:
    op_callbacks.add_op_callback(computed)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(computed)


@contextmanager
def _heard(owner: Any, name: str, behind: Callable[[Any, Any], Any]) -> Iterator[None]:
    """While active, `behind` gets the first argument and the result of a function of an object, and returns another."""
    original = getattr(owner, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        return behind(args[0] if args else None, original(*args, **kwargs))

    with replaced([(owner, name, function)]):
        yield


def _of_tensor(value: Any) -> Any:
    """Values of a tensor; None of layers, variables and graphs, which are noted by themselves; all else as it is."""
    if isinstance(value, (tf.Module, tf.Variable, tf.Graph)) or type(value).__module__.partition(".")[0] in PACKAGES:
        return None
    return np.asarray(value).tobytes() if tf.is_tensor(value) and hasattr(value, "numpy") else value
