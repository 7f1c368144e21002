"""Keras models: forward and gradient in one compiled function per model, layer and kind of input."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.backends._keras_graph import activation_behind, call_model, calls_of, depends_on, head_of
from fe_gradcam.backends._shared import (
    HALF_PRECISION_FACTOR,
    STRETCH,
    SUM_TOLERANCE,
    HeadKind,
    Reading,
    as_tuple,
    check_rows,
    no_gradient,
    no_scores,
    no_table,
    no_tensor,
    not_called,
    reading_of,
    warn_of_probabilities,
)
from fe_gradcam.layers import check_map, default_layer, unknown_layer
from fe_gradcam.targets import ResolvedTarget, check_class_ids, resolve_target
from fe_gradcam.types import CamInputs, Images, Layer, LayerInfo, LayerRef, Score, Target

KEPT_TRACES = 32
"""Compiled functions kept per model; the oldest goes first."""

_traces: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
atexit.register(_traces.clear)  # TensorFlow cannot free its functions once the interpreter is shutting down


class KerasBackend:
    """A Keras model, ready to be explained.

    Args:
        model: Functional, sequential or subclassed, with channels last.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def image_size(self, images: Images) -> tuple[int, int]:
        """(H, W) of the first input, (N, H, W, C)."""
        first = as_tuple(images)[0]
        height, width = tuple(first.shape)[1:3]
        return int(height), int(width)

    def layers(self, images: Images) -> list[LayerInfo]:
        """The layers in the order in which a forward pass of `images` completes them; nothing is computed."""
        names = {id(layer): name for name, layer in self._named_layers().items()}
        infos: list[LayerInfo] = []

        def trace(*inputs: Any) -> Any:
            outputs: list[tuple[Any, Any]] = []
            with calls_of(self._all_layers(), lambda layer, output: outputs.append((layer, output))):
                result = call_model(self._model, _packed(inputs), training=False)
            for layer, output in outputs:
                if not isinstance(output, tf.Tensor):
                    continue
                channels_last = tuple(output.shape[1:])
                shape = channels_last[-1:] + channels_last[:-1]
                spatial = len(shape) == 3 and (shape[1] or 2) * (shape[2] or 2) > 1
                behind = activation_behind(output)
                activation = None if behind is None else behind.op.type.lower()
                infos.append(LayerInfo(names[id(layer)], type(layer).__name__, shape, spatial, activation))
            return result

        with tf.init_scope():
            _compiled(trace, self._specs(images))
        return infos

    def resolve(self, layer: Layer, images: Images) -> LayerRef:
        """The place that `layer` names; None chooses the default, once per model and image size."""
        if isinstance(layer, LayerRef):
            return layer
        if layer is None:
            known = _traces.setdefault(self._model, {})
            key = ("default layer", _signature(self._specs(images)), *map(id, self._model._flatten_layers()))
            if key not in known:
                known[key] = default_layer(self.layers(images))
            found: LayerRef = known[key]
            return found
        return LayerRef(self._name_of(layer))

    def run(
        self, images: Images, layer: LayerRef, targets: Sequence[Target], *, gradients: bool, score: Score
    ) -> list[CamInputs]:
        """One forward pass of `images`, and one backward pass for each target.

        Raises:
            GradientError: The score depends on the layer, and no gradient reaches it.
            UnsupportedModelError: The output is no tensor of class scores, and a target is a class.
        """
        specs = self._specs(images)
        inputs = [tf.cast(_tensor(part), spec.dtype) for part, spec in zip(as_tuple(images), specs, strict=True)]
        count = int(inputs[0].shape[0])
        resolved = [resolve_target(target, count) for target in targets]
        ids = [np.full(count, -1) if target.class_ids is None else target.class_ids for target in resolved]
        given = (*inputs, tf.constant(np.stack(ids), tf.int64))
        known = _traces.setdefault(self._model, {})
        reading: Reading = known.get("reading", "logits")
        results = self._compiled_pass(specs, layer, resolved, gradients, score, reading)(*given)
        if "headless" in results:
            right = self._reading(inputs, results["headless"].numpy())
            known["reading"] = right
            if right != reading:
                results = self._compiled_pass(specs, layer, resolved, gradients, score, right)(*given)
            by_class = any(target.score is None for target in resolved)
            if right != "logits" and score == "logit" and by_class:
                warn_of_probabilities(self._model)
        activations = _channels_first(results["activations"])
        check_rows(layer, len(activations), count)
        logits = probabilities = None
        if "logits" in results:
            logits, probabilities = _as_torch(results["logits"]), _as_torch(results["probabilities"])
            for class_ids in ids:
                check_class_ids(class_ids, logits.shape[1])
        return [
            CamInputs(
                activations=activations,
                gradients=_channels_first(results["gradients"][position]) if gradients else None,
                scores=_as_torch(results["scores"][position]),
                class_ids=_as_torch(results["class_ids"][position]),
                logits=logits,
                probabilities=probabilities,
                images=images,
            )
            for position in range(len(resolved))
        ]

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def run_inside(
        self, inputs: Sequence[Any], layer: LayerRef, target: Target, *, tape: Any, training: bool
    ) -> tuple[Any, Any, Callable[[], Any], bool]:
        """A pass that is part of somebody else's, eager or in their graph.

        Args:
            inputs: The model's inputs.
            layer: What is explained.
            target: What is explained; class ids may be a tensor.
            tape: Their gradient tape, or None; it records the forward pass alone.
            training: As Keras has it.

        Returns:
            The model's output, the activations (N, h, w, K), a function that takes the gradients
            (N, h, w, K), and whether the output is probabilities.
        """
        eager = tf.executing_eagerly()
        outputs: list[Any] = []
        inner: Any = tf.GradientTape(watch_accessed_variables=False) if eager else nullcontext()

        def on_output(_: Any, output: Any) -> None:
            outputs.append(output)
            if eager:
                inner.watch(output)

        with calls_of([self._named_layers()[layer.name]], on_output), inner:
            output = call_model(self._model, _packed(tuple(inputs)), training=training)
            if eager:
                place = place_among(outputs, LayerRef(layer.name))
                with tape.stop_recording() if tape else nullcontext():
                    reading = self._reading_inside(inputs, output)
                    scores = self._scores_inside(output, target, reading)
            else:
                place = place_among(outputs, layer)
                reading = self._reading_inside(inputs, output)

        def gradients() -> Any:
            with tape.stop_recording() if tape else nullcontext():
                if not eager:
                    return _gradient(self._scores_inside(output, target, reading), place, layer)
                return tf.cast(inner.gradient(scores, place, unconnected_gradients="zero"), tf.float32)

        headed = isinstance(output, tf.Tensor) and head_for(output) is not None
        return output, place, gradients, headed or reading != "logits"

    def _scores_inside(self, output: Any, target: Target, reading: Reading) -> Any:
        if callable(target):
            return target(output)
        tables = self._class_scores(output, reading)
        top = tf.argmax(tables["logits"], 1)
        ids = top if target is None else tf.broadcast_to(tf.cast(tf.reshape(target, [-1]), tf.int64), tf.shape(top))
        count = tables["explained"].shape[1]
        known = (ids >= 0) & (ids < count)  # an image without a class has no gradient
        scores = tf.gather(tables["explained"], tf.clip_by_value(ids, 0, count - 1), axis=1, batch_dims=1)
        return tf.where(known, scores, tf.zeros_like(scores))

    def _reading(self, inputs: Sequence[Any], outputs: NDArray[Any]) -> Reading:
        """How the outputs (N, C) of a model without a visible head are read."""

        def stays_within() -> bool:
            stretched = ([part * factor for part in inputs] for factor in (STRETCH, -STRETCH))
            return all(_within_unit(self._outputs(images)) for images in stretched)

        outputs = outputs[np.isfinite(outputs).all(1)]
        sums = np.abs(outputs.astype(np.float32).sum(1) - 1) < SUM_TOLERANCE
        return reading_of(
            self._model,
            within=_within_unit(outputs),
            sums_to_one=outputs.shape[1] > 1 and bool(sums.all()),
            stays_within=stays_within,
        )

    def _reading_inside(self, inputs: Sequence[Any], output: Any) -> Reading:
        """As `_reading`, where the images are symbols: asked of images made for it."""
        if not isinstance(output, tf.Tensor) or not _is_table(output) or head_for(output) is not None:
            return "logits"
        with tf.init_scope():
            made = [tf.ones([1, *part.shape[1:]], part.dtype) for part in inputs]
            return self._reading(made, self._outputs(made))

    def _outputs(self, inputs: Sequence[Any]) -> NDArray[Any]:
        """The model's table of class scores, in inference."""
        specs = [tf.TensorSpec(part.shape, part.dtype) for part in inputs]
        forward = _compiled(lambda *given: _table(call_model(self._model, _packed(given), training=False)), specs)
        outputs: NDArray[Any] = forward(*inputs).numpy()
        return outputs

    def _compiled_pass(
        self,
        specs: list[Any],
        layer: LayerRef,
        targets: list[ResolvedTarget],
        gradients: bool,
        score: Score,
        reading: Reading,
    ) -> Any:
        """The compiled pass, made once; it lives no longer than the model."""
        known = _traces.setdefault(self._model, {})
        callables = [target.score for target in targets]
        key = ("pass", *self._identity(specs), layer, gradients, score, reading, tuple(map(id, callables)))
        kept = known.get(key)
        if kept is not None and all(_same(held, fn) for held, fn in zip(kept[1], callables, strict=True)):
            return kept[0]
        ids = tf.TensorSpec([len(targets), None], tf.int64)
        function = _compiled(
            lambda *given: self._traced_pass(given[:-1], given[-1], layer, callables, gradients, score, reading),
            specs,
            ids,
        )
        while len(known) >= KEPT_TRACES:
            del known[next(iter(known))]
        known[key] = (function, [_held(fn) for fn in callables])
        return function

    def _traced_pass(
        self,
        inputs: tuple[Any, ...],
        class_ids: Any,
        layer: LayerRef,
        callables: list[Callable[[Any], Any] | None],
        gradients: bool,
        score: Score,
        reading: Reading,
    ) -> dict[str, Any]:
        """Builds the graph of a pass: the forward, the head and one gradient for each target."""
        place, output = self._place_and_output(inputs, layer)
        results: dict[str, Any] = {"activations": tf.cast(place, tf.float32)}
        explained, n_classes = None, 0
        if isinstance(output, tf.Tensor) and _is_table(output):
            tables = self._class_scores(output, reading)
            explained, n_classes = tables["explained" if score == "logit" else "outputs"], tables["logits"].shape[1]
            results |= {name: tables[name] for name in ("logits", "probabilities", "headless") if name in tables}
        results |= {"scores": [], "class_ids": [], "gradients": []}
        for position, callable_target in enumerate(callables):
            if callable_target is not None:
                scores, ids = callable_target(output), class_ids[position]
                if not isinstance(scores, tf.Tensor) or scores.shape.rank != 1:
                    raise no_scores(scores.shape if isinstance(scores, tf.Tensor) else type(scores).__name__)
            else:
                if explained is None:
                    raise no_table(_described(output))
                wanted = class_ids[position]
                ids = tf.where(wanted < 0, tf.argmax(results["logits"], 1), wanted)
                scores = tf.gather(explained, tf.minimum(ids, n_classes - 1), axis=1, batch_dims=1)
            results["scores"].append(tf.cast(scores, tf.float32))
            results["class_ids"].append(ids)
            if gradients:
                results["gradients"].append(_gradient(scores, place, layer))
        return results

    def _place_and_output(self, inputs: tuple[Any, ...], layer: LayerRef) -> tuple[Any, Any]:
        keras_layer = self._named_layers()[layer.name]
        outputs: list[Any] = []
        with calls_of([keras_layer], lambda _, output: outputs.append(output)):
            output = call_model(self._model, _packed(inputs), training=False)
        return place_among(outputs, layer), output

    def _class_scores(self, output: Any, reading: Reading) -> dict[str, Any]:
        """The tables of the inference, (N, C); a single output makes two classes.

        Returns:
            ``explained``: the logits in the model's own precision, or what stands in for them;
            ``outputs``: as the model put them out; ``logits`` and ``probabilities``: float32;
            ``headless``: the output as it is, where no softmax or sigmoid was found behind it.
        """
        found = head_for(output)
        results = {} if found is not None else {"headless": _table(output)}
        outputs = _table(output)
        table, kind = (outputs, "softmax") if found is None else (_table(found[0]), found[1])
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

    def _specs(self, images: Images) -> list[Any]:
        """The inputs' shapes, with any number of images, and dtypes as the model computes."""
        like = tf.as_dtype(self._model.compute_dtype or "float32")
        specs = []
        for part in as_tuple(images):
            of_torch = isinstance(part, Tensor)
            dtype = tf.as_dtype(str(part.dtype).removeprefix("torch.") if of_torch else part.dtype)
            specs.append(tf.TensorSpec([None, *part.shape[1:]], like if dtype.is_floating else dtype))
        return specs

    def _identity(self, specs: list[Any]) -> tuple[Any, ...]:
        """What a trace depends on besides the place and the targets."""
        layers = list(self._model._flatten_layers())
        weights = (
            weight for layer in layers for weight in chain(layer._trainable_weights, layer._non_trainable_weights)
        )
        return _signature(specs), tuple(map(id, layers)), tuple(map(id, weights))

    def _all_layers(self) -> list[Any]:
        return list(self._model._flatten_layers(include_self=False, recursive=True))

    def _named_layers(self) -> dict[str, Any]:
        """The layers by name; where a nested model repeats a name, by its path."""
        return named_layers(self._model)

    def _name_of(self, layer: Layer) -> str:
        named = self._named_layers()
        if isinstance(layer, str) and layer in named:
            return layer
        if isinstance(layer, int) and not isinstance(layer, bool):
            names = list(named)
            if -len(names) <= layer < len(names):
                return names[layer]
        for name, its_layer in named.items():
            if its_layer is layer:
                return name
        raise unknown_layer(layer if isinstance(layer, (str, int)) else type(layer).__name__, list(named))


def named_layers(model: Any) -> dict[str, Any]:
    """A Keras model's layers by name, in the order of FastEstimator's ``intermediate_layers``."""
    layers = list(model._flatten_layers(include_self=False, recursive=True))
    named: dict[str, Any] = {}
    for layer in layers:
        name, count = layer.name, 1
        while name in named and named[name] is not layer:
            count += 1
            name = f"{layer.name}#{count}"
        named[name] = layer
    return named


def place_among(outputs: list[Any], layer: LayerRef) -> Any:
    """The explained tensor among what a layer put out in one pass: the last call counts.

    Raises:
        ArgumentError: The layer was not called, or its output is no map.
        UnsupportedModelError: The layer returns something that is no tensor.
    """
    if not outputs:
        raise not_called(layer)
    place = outputs[-1]
    if not isinstance(place, tf.Tensor):
        raise no_tensor(layer, place)
    check_map(layer, tuple(place.shape[1:]))
    if layer.activated:
        behind = activation_behind(place)
        place = place if behind is None else behind
    return place


def _gradient(scores: Any, place: Any, layer: LayerRef) -> Any:
    """∂(Σ scores)/∂place in float32; zeros where the scores are not computed from the place."""
    factor = HALF_PRECISION_FACTOR if place.dtype == tf.float16 else 1.0
    (gradient,) = tf.gradients(scores, [place], grad_ys=[tf.fill(tf.shape(scores), tf.cast(factor, scores.dtype))])
    if gradient is not None:
        return tf.cast(gradient, tf.float32) / factor
    if depends_on(scores, place):
        raise no_gradient(layer, "tf.stop_gradient, an operation without a derivative")
    return tf.zeros_like(place, tf.float32)


def _compiled(function: Callable[..., Any], specs: list[Any], *more: Any) -> Any:
    untouched = tf.autograph.experimental.do_not_convert(function)
    return tf.function(untouched, autograph=False).get_concrete_function(*specs, *more)


def _signature(specs: list[Any]) -> tuple[Any, ...]:
    return tuple((tuple(spec.shape), spec.dtype) for spec in specs)


def _held(function: Any) -> Any:
    """A reference that does not keep a callable target, and what it may hold of the model, alive where it can."""
    try:
        return None if function is None else ref(function)
    except TypeError:
        return lambda: function


def _same(held: Any, function: Any) -> bool:
    return function is None if held is None else held() is function


def _tensor(part: Any) -> Any:
    return tf.convert_to_tensor(part.detach().cpu().numpy() if isinstance(part, Tensor) else part)


def _packed(inputs: tuple[Any, ...]) -> Any:
    """The inputs as a Keras model takes them: a tensor, or a list of several."""
    return inputs[0] if len(inputs) == 1 else list(inputs)


def head_for(output: Any) -> tuple[Any, HeadKind] | None:
    """The logits and the kind of the head that the output came out of, unless classes of its softmax are missing."""
    found = head_of(output)
    if found is None or (found[1] == "softmax" and _table(output).shape[1] != found[2]):
        return None
    return found[:2]


def _within_unit(values: NDArray[Any]) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _is_table(output: Any) -> bool:
    rank = output.shape.rank
    return rank is not None and rank >= 1 and all(size == 1 for size in output.shape[2:])


def _table(output: Any) -> Any:
    """Class scores as (N, C)."""
    return tf.reshape(output, [-1, 1 if output.shape.rank == 1 else output.shape[1]])


def _described(output: Any) -> str:
    if isinstance(output, tf.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


def _as_torch(tensor: Any) -> Tensor:
    """The tensor in host memory; shared, not copied, where it is there already."""
    if tensor.device.endswith("CPU:0") and tensor.dtype != tf.bool:
        return torch.utils.dlpack.from_dlpack(tf.experimental.dlpack.to_dlpack(tensor))
    return torch.from_numpy(tensor.numpy())


def _channels_first(tensor: Any) -> Tensor:
    return torch.movedim(_as_torch(tensor), -1, 1)
