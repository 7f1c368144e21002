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
from fe_gradcam.backends.interrupts import HeldBack, held_back
from fe_gradcam.backends.keras.attention import attentions_in, by_key, ends_of_blocks, mean_of
from fe_gradcam.backends.keras.compiled import compiled, compiled_pass, constant, packed, tensor_specs
from fe_gradcam.backends.keras.graph import (
    call_model,
    calls_of,
    depends_on,
    go_on_with,
)
from fe_gradcam.backends.keras.layers import explained_among, first_of
from fe_gradcam.backends.keras.observed import ObservedKeras
from fe_gradcam.backends.keras.passes import bias_terms, hessian_product
from fe_gradcam.backends.keras.scores import OF_TENSORFLOW, is_table, outputs_of
from fe_gradcam.backends.keras.version import named_layers
from fe_gradcam.backends.known import Reading
from fe_gradcam.backends.protocol import HALF_PRECISION_FACTOR, Passed, Query
from fe_gradcam.backends.scoring import Scored, taken_apart
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import ResolvedTarget
from fe_gradcam.spec.tokens import no_map
from fe_gradcam.types import BiasGradients, LayerRef, Target

AGREES = 1e-3
"""How far a score may differ from the same score in a larger batch."""


class KerasBackend(ObservedKeras):
    """A Keras model, functional, sequential or subclassed, with channels last, ready to be explained; see Backend."""

    def _reaches(self, layer: LayerRef, asked: tuple[Inputs, ResolvedTarget | None]) -> bool:
        with HeldBack(), tf.init_scope():
            return super()._reaches(layer, asked)

    def _passed(self, model: Any, inputs: Inputs, query: Query) -> Passed:
        specs, known = self._specs(inputs), self._known
        given = self._given(inputs, specs)
        arrays = [constant(array) for target in query.targets for array in target.arrays]
        which = (self._model_output, query.of_pixels)

        def results_for(reading: Reading) -> tuple[Any, list[Tensor]]:
            def trace(given: Any, arrays: Any, more: Any) -> Any:
                return self._traced_pass(given, arrays, query, reading)

            key = ("pass", query.layer, query.gradients, query.score, reading, self._model_output)
            made = compiled_pass(model, key, specs, query.targets, trace)
            return made.places, made.run([*given, *arrays])

        guessed = known.readings.get(which, "logits")
        (at, made), reading = results_for(guessed), guessed
        if "headless" in at:
            reading = self._read_as(made[at["headless"]], given, query.of_pixels)
            if reading != guessed:
                at, made = results_for(reading)
        else:  # it is not asked
            known.readings[which] = reading = "logits"
        activations = made[at["activations"]]
        check_rows(query.layer, activations.shape[0], len(inputs))
        tables = None
        if "tables" in at and query.of_classes:
            tables = made[at["tables"][0]], made[at["tables"][1]]
            for target in query.targets:
                if target.kind == "classes" and not target.is_inferred:
                    target.check(tables[0].shape[1])
        known.shapes.put((query.layer, inputs.shapes), tuple(activations.shape[1:]))
        return Passed(
            activations,
            [made[one] for one in at["gradients"]] if query.gradients else [None] * len(query.targets),
            [Scored(made[its.scores], None if its.came_to is None else made[its.came_to]) for its in at["scored"]],
            tables,
            reading,
        )

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    @held_back
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
                    return _gradient(Scored(self._scores_inside(output, target, reading)), at_layer, layer)
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

    def changed_scores(self, inputs: Inputs, query: Query, change: Tensor) -> Tensor:
        """See Backend."""

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            at_layer, output = self._at_layer_and_output(given, query.layer)
            changed = at_layer + tf.cast(more[0], at_layer.dtype)
            go_on_with(at_layer, changed)
            output = tf.nest.map_structure(lambda part: changed if part is at_layer else part, output)
            return score_of(output)

        changed: Tensor = self._asked("changed", inputs, query, trace, [self._raw(change, query.layer, inputs)])
        return changed

    def hvp(self, inputs: Inputs, query: Query, vectors: Tensor) -> Tensor:
        """See Backend."""

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            at_layer, output = self._at_layer_and_output(given, query.layer)
            return hessian_product(score_of(output), at_layer, more[0])

        raw = self._raw(vectors, query.layer, inputs)
        return self._as_map(self._asked("hvp", inputs, query, trace, [raw]), query.layer, inputs)

    def bias_gradients(self, inputs: Inputs, query: Query) -> BiasGradients:
        """See Backend."""

        def trace(given: Any, more: Any, score_of: Any) -> Any:
            scores = score_of(call_model(self._model, packed(given), training=False))
            return scores, bias_terms(scores, [part for part in given if part.dtype.is_floating])

        if not self._specs(inputs)[inputs.at][1].is_floating:
            raise no_slope([inputs.picture])
        scores, terms = self._asked("biases", inputs, query, trace, [])
        axes = len(self.image_size(inputs)) + 2
        return taken_apart([term.movedim(-1, 1) for term in terms], scores, axes, self.precision)

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
        return [self._as_map(one, query.layer, inputs)[:, 0] for one in maps]

    @held_back
    def _raw(self, maps: Tensor, layer: LayerRef, inputs: Inputs) -> Any:
        """Maps (N, K, *S) in the layout of the layer's output."""
        shape = self._known.shapes.get((layer, inputs.shapes))
        if shape is None:
            specs = self._specs(inputs)
            at_layer = compiled(lambda *given: self._at_layer_and_output(given, layer)[0], tensor_specs(specs))
            shape = tuple(at_layer(*self._given(inputs, specs)).shape[1:])
        return tf.constant(self._pulled_back(maps, shape, layer, inputs).numpy())

    @held_back
    def _asked(
        self, what: str, inputs: Inputs, query: Query, trace: Callable[[Any, Any, Any], Any], more: Sequence[Any]
    ) -> Any:
        """The result of a further pass, compiled once, of a model that was explained before."""
        specs, (target,) = self._specs(inputs), query.targets
        given = self._given(inputs, specs)
        arrays = [constant(array) for array in target.arrays]
        reading = self._known_reading(given, target.of_pixels)

        def traced(given: Any, arrays: Any, more: Any) -> Any:
            def score_of(output: Any) -> Any:
                its = self._read(output, query, reading).scored(target, query.score, arrays)
                return tf.cast(its.scores, tf.float32)

            return trace(given, more, score_of)

        key = (what, query.layer, query.score, reading, self._model_output)
        made = compiled_pass(self._model, key, specs, [target], traced, more)
        return made([*given, *arrays, *more])

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
            its = outputs.scored(target, query.score, [remaining.pop(0) for _ in target.arrays])
            results["scored"].append(Scored(tf.cast(its.scores, tf.float32), its.came_to))
            if query.gradients:
                results["gradients"].append(_gradient(its, at_layer, query.layer))
        return results


def _gradient(scored: Scored, at_layer: Any, layer: LayerRef) -> Any:
    """∂(Σ scores)/∂at_layer in float32; zeros if the scores are not computed from at_layer."""
    scores, class_ids, table = scored
    factor = HALF_PRECISION_FACTOR if at_layer.dtype == tf.float16 else 1.0
    if table is None:
        weights = tf.fill(tf.shape(scores), tf.cast(factor, scores.dtype))
    else:  # the same, without the steps that pick the scores
        chosen = tf.equal(class_ids, tf.range(table.shape[1], dtype=class_ids.dtype))
        scores, weights = table, tf.cast(chosen, table.dtype) * factor
    (gradient,) = tf.gradients(scores, [at_layer], grad_ys=[weights])
    if gradient is not None:
        return tf.cast(gradient, tf.float32) / factor
    if depends_on(scores, at_layer):
        raise no_gradient(layer, "tf.stop_gradient, an operation without a derivative")
    return tf.zeros_like(at_layer, tf.float32)
