"""Keras models: forward and gradient in one compiled function per model, layer and kind of input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from torch import Tensor

from fe_gradcam.backends.errors import check_rows, counts_its_images, no_attention, no_gradient, no_slope
from fe_gradcam.backends.keras.attention import attentions_in, by_key, ends_of_blocks, mean_of
from fe_gradcam.backends.keras.compiled import as_torch, compiled, compiled_pass, packed, tensor_of, watched
from fe_gradcam.backends.keras.graph import (
    Call,
    call_model,
    calls_of,
    check_layout,
    depends_on,
    go_on_with,
    unactivated,
)
from fe_gradcam.backends.keras.layers import explained_among, first_of, layer_infos, seen_by
from fe_gradcam.backends.keras.passes import bias_terms, hessian_product
from fe_gradcam.backends.keras.scores import OF_TENSORFLOW, is_segmentation, is_table, is_tensor, outputs_of, rows_of
from fe_gradcam.backends.keras.version import layers_in, named_layers
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import HALF_PRECISION_FACTOR, Backend, Passed, Query
from fe_gradcam.backends.scoring import Outputs, Scored, taken_apart
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.layers import name_among
from fe_gradcam.spec.outputs import pick
from fe_gradcam.spec.resolved import ResolvedTarget
from fe_gradcam.spec.tokens import Seen, no_map
from fe_gradcam.types import BiasGradients, Layer, LayerInfo, LayerRef, Target

AGREES = 1e-3
"""How far a score may differ from the same score in a larger batch."""


class KerasBackend(Backend):
    """A Keras model, functional, sequential or subclassed, with channels last, ready to be explained; see Backend."""

    channels_first = False

    @property
    def precision(self) -> float:
        """The spacing of the model's numbers at 1."""
        compute = tf.as_dtype(self._model.compute_dtype or "float32").as_numpy_dtype
        return float(tf.experimental.numpy.finfo(compute).eps)

    def _modules(self) -> list[Any]:
        layers = [self._model, *layers_in(self._model)]
        return [watched(self._model, layers), *layers]

    def _name_of(self, layer: Layer) -> str:
        named = named_layers(self._model)
        return name_among(layer, named, list(named))

    def kind_of(self, layer: LayerRef) -> str:
        """See Backend."""
        kind = self._known.kinds.get(layer.name)
        if kind is None:
            named = named_layers(self._model)
            kind = self._known.kinds.put(layer.name, type(named[layer.name]).__name__ if layer.name in named else "")
        return kind

    def _listed(self, inputs: Inputs) -> tuple[list[LayerInfo], Seen]:
        """See Backend; nothing is computed."""
        names = {id(layer): name for name, layer in named_layers(self._model).items()}
        size = self.image_size(inputs)
        found: list[tuple[list[LayerInfo], Seen]] = []

        def trace(*given: Any) -> Any:
            calls: list[Call] = []
            with calls_of(self._all_layers(), lambda *call: calls.append(call)):
                result = call_model(self._model, packed(given), training=False)
            check_layout(given)
            found.append((layer_infos(calls, names), seen_by(calls, size)))
            return result

        with tf.init_scope():
            compiled(trace, self._specs(inputs))
        return found[0]

    def _one_of(self, inputs: Inputs) -> Inputs | None:
        """See Backend; symbols, whose size must be known, are replaced by noise."""
        parts = tuple(_one_of(part) for part in inputs.parts)
        return None if any(part is None for part in parts) else Inputs(parts, inputs.at)

    def _reaches(self, layer: LayerRef, asked: tuple[Inputs, ResolvedTarget | None]) -> bool:
        with tf.init_scope():
            return super()._reaches(layer, asked)

    def _passed(self, model: Any, inputs: Inputs, query: Query) -> Passed:
        given, specs = self._given(inputs), self._specs(inputs)
        arrays = [tf.constant(array) for target in query.targets for array in target.passed]
        which = (self._model_output, query.of_pixels)

        def results_for(reading: Reading) -> Any:
            def trace(given: Any, arrays: Any, more: Any) -> Any:
                return self._traced_pass(given, arrays, query, reading)

            key = ("pass", query.layer, query.gradients, query.score, reading, self._model_output)
            return compiled_pass(model, key, specs, query.targets, trace)(*given, *arrays)

        guessed = self._known.readings.get(which, "logits")
        results, reading = results_for(guessed), guessed
        if "headless" in results:
            reading = self._read_as(as_torch(results["headless"]), given, query.of_pixels)
            if reading != guessed:
                results = results_for(reading)
        else:  # it is not asked
            self._known.readings[which] = reading = "logits"
        check_rows(query.layer, int(results["activations"].shape[0]), len(inputs))
        tables = None
        if "tables" in results and query.of_classes:
            tables = as_torch(results["tables"][0]), as_torch(results["tables"][1])
            for target in query.targets:
                if target.kind == "classes":
                    target.check(tables[0].shape[1])
        self._known.shapes.put((query.layer, inputs.shapes), tuple(results["activations"].shape[1:]))
        return Passed(
            as_torch(results["activations"]),
            [as_torch(one) for one in results["gradients"]] if query.gradients else [None] * len(query.targets),
            [
                Scored(as_torch(its.scores), its.came_to if its.came_to is None else as_torch(its.came_to))
                for its in results["scored"]
            ],
            tables,
            reading,
        )

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def run_inside(
        self, inputs: Sequence[Any], layer: LayerRef, target: Target, *, tape: Any, training: bool
    ) -> tuple[Any, Any, Callable[[], Any], bool]:
        """A pass inside a training step of other code, eager or in its graph; class ids may be a tensor.

        `tape`, the gradient tape of that code or None, records the forward pass alone.

        Returns:
            The model's output; the activations (N, h, w, K); a function that takes the gradients
            (N, h, w, K); and whether the output is probabilities.
        """
        eager = tf.executing_eagerly()
        outputs: list[Any] = []
        inner: Any = tf.GradientTape(watch_accessed_variables=False) if eager else nullcontext()

        def on_output(_: Any, __: Any, output: Any) -> None:
            outputs.append(first_of(output))
            if eager:
                inner.watch(outputs[-1])

        with calls_of([named_layers(self._model)[layer.name]], on_output), inner:
            output = call_model(self._model, packed(tuple(inputs)), training=training)
            if outputs and isinstance(outputs[-1], tf.Tensor) and outputs[-1].shape.rank not in (4, 5):
                raise no_map(layer, tuple(outputs[-1].shape[1:]))
            if eager:
                at_layer = explained_among(outputs, LayerRef(layer.name))
                with tape.stop_recording() if tape else nullcontext():
                    reading = self._reading_inside(inputs, output)
                    scores = self._scores_inside(output, target, reading)
            else:
                at_layer = explained_among(outputs, layer)
                reading = self._reading_inside(inputs, output)

        def gradients() -> Any:
            with tape.stop_recording() if tape else nullcontext():
                if not eager:
                    return _gradient(self._scores_inside(output, target, reading), at_layer, layer)
                return tf.cast(inner.gradient(scores, at_layer, unconnected_gradients="zero"), tf.float32)

        headed = isinstance(output, tf.Tensor) and outputs_of(output, output, reading).head is not None
        return output, at_layer, gradients, headed or reading != "logits"

    def _scores_inside(self, output: Any, target: Target, reading: Reading) -> Any:
        if callable(target):
            return target(output)
        explained, _, _ = outputs_of(output, output, reading).scores
        top = tf.argmax(explained, 1)
        ids = top if target is None else tf.broadcast_to(tf.cast(tf.reshape(target, [-1]), tf.int64), tf.shape(top))
        known = (ids >= 0) & (ids < explained.shape[1])  # an image without a class has no gradient
        scores = OF_TENSORFLOW.gather(explained, ids[:, None])[:, 0]
        return tf.where(known, scores, tf.zeros_like(scores))

    def _reading_inside(self, inputs: Sequence[Any], output: Any) -> Reading:
        """How the outputs are read if the images are symbols: found out with other images, made for this."""
        if not is_table(output) or outputs_of(output, output, "logits").head is not None:
            return "logits"
        with tf.init_scope():
            made = [tf.ones([1, *part.shape[1:]], part.dtype) for part in inputs]
            table = self._outputs(made, False)
            return "logits" if table is None else self._read_as(table, made, False)

    def _outputs(self, given: Sequence[Any], of_pixels: bool, factor: float = 1.0) -> Tensor | None:
        def scores(*given: Any) -> Any:
            picked = self._picked(call_model(self._model, packed(given), training=False), of_pixels)
            return None if picked is None else rows_of(picked)

        specs = [tf.TensorSpec(part.shape, part.dtype) for part in given]
        table = compiled(scores, specs)(*(_stretched(part, factor) for part in given))
        return None if table is None else as_torch(table)

    def _picked(self, output: Any, of_pixels: bool) -> Any | None:
        """The part of the output that holds scores: a table, or the scores of every pixel."""
        fits = is_segmentation if of_pixels else is_table
        names = getattr(self._model, "output_names", None)
        picked = pick(output, self._model_output, is_tensor=is_tensor, fits=fits, names=names)
        return picked if picked is not None and (is_table(picked) or is_segmentation(picked)) else None

    def changed_scores(self, inputs: Inputs, query: Query, change: Tensor) -> Tensor:
        """See Backend."""

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            at_layer, output = self._at_layer_and_output(given, query.layer)
            changed = at_layer + tf.cast(more[0], at_layer.dtype)
            go_on_with(at_layer, changed)
            output = tf.nest.map_structure(lambda part: changed if part is at_layer else part, output)
            return score_of(output)

        return as_torch(self._asked("changed", inputs, query, trace, [self._raw(change, query.layer, inputs)]))

    def hvp(self, inputs: Inputs, query: Query, vectors: Tensor) -> Tensor:
        """See Backend."""

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            at_layer, output = self._at_layer_and_output(given, query.layer)
            return hessian_product(score_of(output), at_layer, more[0])

        raw = self._raw(vectors, query.layer, inputs)
        return self._as_map(as_torch(self._asked("hvp", inputs, query, trace, [raw])), query.layer, inputs)

    def bias_gradients(self, inputs: Inputs, query: Query) -> BiasGradients:
        """See Backend."""

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            scores = score_of(call_model(self._model, packed(given), training=False))
            return scores, bias_terms(scores, [part for part in given if part.dtype.is_floating])

        if not self._specs(inputs)[inputs.at].dtype.is_floating:
            raise no_slope([inputs.picture])
        scores, terms = self._asked("biases", inputs, query, trace, [])
        axes = len(self.image_size(inputs)) + 2
        return taken_apart([as_torch(term).movedim(-1, 1) for term in terms], as_torch(scores), axes, self.precision)

    def attention_gradients(self, inputs: Inputs, query: Query, *, mean_token: bool) -> list[Tensor]:
        """See Backend. The classifier gets the output tokens of all blocks at once, as one batch."""
        self._seen(inputs)  # not while a graph is traced

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            output = call_model(self._model, packed(given), training=False)
            picked = self._picked(output, query.of_pixels)
            attentions = [] if picked is None else attentions_in(picked.graph, picked)
            known = self._are_of_image([attention.shape[2] for attention in attentions], inputs)
            ends = ends_of_blocks(attentions, picked) if known else None
            if ends is None:
                raise no_attention()
            count = tf.shape(given[0])[0]
            behind = [*map(mean_of, ends), ends[-1]] if mean_token else ends
            go_on_with(ends[-1], tf.concat(behind, 0))
            scores = [
                score_of(tf.nest.map_structure(lambda part, at=at: part[at * count : (at + 1) * count], output))
                for at in range(len(behind))
            ]
            maps = []
            for of_block, attention, end in zip(scores, attentions, ends, strict=False):  # one score more for the check
                tokens_of = by_key(of_block, attention, [other for other in ends if other is not end])
                maps.append(tf.stack([tokens_of, tokens_of], 2))
            return maps, scores[-1]

        what = f"attentions{' of the mean token' * mean_token}"
        try:
            maps, behind_all = self._asked(what, inputs, query, trace, [])
        except tf.errors.InvalidArgumentError as error:
            raise counts_its_images() from error
        (plain,) = self.run(inputs, replace(query, gradients=False))
        of_all, of_plain = behind_all.numpy(), plain.scores.numpy()
        if of_all.shape != of_plain.shape or not np.allclose(of_all, of_plain, AGREES, AGREES, equal_nan=True):
            raise counts_its_images()
        return [self._as_map(as_torch(one), query.layer, inputs)[:, 0] for one in maps]

    def _raw(self, maps: Tensor, layer: LayerRef, inputs: Inputs) -> Any:
        """Maps (N, K, *S) in the layout of the layer's output."""
        shape = self._known.shapes.get((layer, inputs.shapes))
        if shape is None:
            at_layer = compiled(lambda *given: self._at_layer_and_output(given, layer)[0], self._specs(inputs))
            shape = tuple(at_layer(*self._given(inputs)).shape[1:])
        return tf.constant(self._pulled_back(maps, shape, layer, inputs).numpy())

    def _asked(
        self, what: str, inputs: Inputs, query: Query, trace: Callable[[Any, Any, Any], Any], more: Sequence[Any]
    ) -> Any:
        """The result of a further pass, compiled once, of a model that was explained before."""
        given, (target,) = self._given(inputs), query.targets
        arrays = [tf.constant(array) for array in target.passed]
        reading = self._known_reading(given, target.of_pixels)

        def traced(given: Any, arrays: Any, more: Any) -> Any:
            def score_of(output: Any) -> Any:
                its = self._read(output, query, reading).scored(target, query.score, arrays)
                return tf.cast(its.scores, tf.float32)

            return trace(given, more, score_of)

        key = (what, query.layer, query.score, reading, self._model_output)
        return compiled_pass(self._model, key, self._specs(inputs), [target], traced, more)(*given, *arrays, *more)

    def _traced_pass(self, given: Any, arrays: Sequence[Any], query: Query, reading: Reading) -> dict[str, Any]:
        """Builds the graph of a pass: the forward, the head and one gradient for each target."""
        at_layer, output = self._at_layer_and_output(given, query.layer)
        results: dict[str, Any] = {"activations": tf.cast(at_layer, tf.float32)}
        outputs = self._read(output, query, reading)
        if outputs.is_table:
            results["tables"] = outputs.tables
        if outputs.rows is not None and outputs.head is None:
            results["headless"] = outputs.rows
        results |= {"scored": [], "gradients": []}
        remaining = list(arrays)
        for target in query.targets:
            its = outputs.scored(target, query.score, [remaining.pop(0) for _ in target.passed])
            results["scored"].append(Scored(tf.cast(its.scores, tf.float32), its.came_to))
            if query.gradients:
                results["gradients"].append(_gradient(its.scores, at_layer, query.layer))
        return results

    def _read(self, output: Any, query: Query, reading: Reading) -> Outputs:
        picked = self._picked(output, query.of_pixels)
        return outputs_of(output, picked, reading, getattr(self._model, "output_names", None))

    def _at_layer_and_output(self, given: tuple[Any, ...], layer: LayerRef) -> tuple[Any, Any]:
        keras_layer = named_layers(self._model)[layer.name]
        calls: list[Call] = []
        inner: list[Any] = []
        heard = self._all_layers() if layer.place == "relu" else [keras_layer]
        before = unactivated(keras_layer, inner) if layer.place == "convolution" else nullcontext()
        with calls_of(heard, lambda *call: calls.append(call)), before:
            output = call_model(self._model, packed(given), training=False)
        check_layout(given)
        outputs = inner or [first_of(its_output) for its_layer, _, its_output in calls if its_layer is keras_layer]
        return explained_among(outputs, layer, calls), output

    def _specs(self, inputs: Inputs) -> list[Any]:
        """The inputs' shapes, with any number of images, and the dtypes in which the model takes them."""
        specs = []
        for part, taken in zip(inputs.parts, self._dtypes(len(inputs.parts)), strict=True):
            of_torch = isinstance(part, Tensor)
            dtype = tf.as_dtype(str(part.dtype).removeprefix("torch.") if of_torch else part.dtype)
            specs.append(tf.TensorSpec([None, *part.shape[1:]], taken if dtype.is_floating else dtype))
        return specs

    def _dtypes(self, count: int) -> list[Any]:
        """To which dtype Keras casts each input if it is floating: that of the declared input, or of the computation.

        With mixed precision these differ: what stands in front, such as a rescaling, may compute in float32.
        """
        computed = tf.as_dtype(self._model.compute_dtype or "float32")
        declared = [tf.as_dtype(one.dtype) for one in tf.nest.flatten(getattr(self._model, "inputs", None) or [])]
        if len(declared) != count:
            return [computed] * count
        return [dtype if dtype.is_floating else computed for dtype in declared]

    def _given(self, inputs: Inputs) -> list[Any]:
        """The inputs as tensors of TensorFlow, in the dtypes in which the model takes them."""
        return [
            tf.cast(tensor_of(part), spec.dtype) for part, spec in zip(inputs.parts, self._specs(inputs), strict=True)
        ]

    def _all_layers(self) -> list[Any]:
        return layers_in(self._model)


def _stretched(part: Any, factor: float) -> Any:
    """Images far from any that a model knows; other inputs, such as ids of words, are not changed."""
    if part.dtype.is_floating:
        return part * factor
    return tf.saturate_cast(tf.cast(part, tf.float32) * factor, part.dtype) if part.shape.rank >= 4 else part


def _one_of(part: Any) -> Any:
    """The first image; noise instead if images are symbols, or None if their size is not known."""
    if not isinstance(part, tf.Tensor) or hasattr(part, "numpy"):
        return part[:1]
    if None in part.shape[1:]:
        return None
    return np.random.default_rng(0).random((1, *part.shape[1:])).astype(part.dtype.as_numpy_dtype)


def _gradient(scores: Any, at_layer: Any, layer: LayerRef) -> Any:
    """∂(Σ scores)/∂at_layer in float32; zeros if the scores are not computed from at_layer."""
    factor = HALF_PRECISION_FACTOR if at_layer.dtype == tf.float16 else 1.0
    (gradient,) = tf.gradients(scores, [at_layer], grad_ys=[tf.fill(tf.shape(scores), tf.cast(factor, scores.dtype))])
    if gradient is not None:
        return tf.cast(gradient, tf.float32) / factor
    if depends_on(scores, at_layer):
        raise no_gradient(layer, "tf.stop_gradient, an operation without a derivative")
    return tf.zeros_like(at_layer, tf.float32)
