"""Keras models: forward and gradient in one compiled function per model, layer and kind of input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.backends.errors import check_rows, counts_its_images, no_attention, no_gradient, no_slope
from fe_gradcam.backends.keras.attention import attentions_in, by_key, ends_of_blocks
from fe_gradcam.backends.keras.compiled import (
    as_torch,
    compiled,
    compiled_pass,
    packed,
    signature,
    tensor_of,
)
from fe_gradcam.backends.keras.graph import (
    Call,
    call_model,
    calls_of,
    depends_on,
    go_on_with,
    unactivated,
)
from fe_gradcam.backends.keras.layers import first_of, layer_infos, name_of, named_layers, place_among, seen_by
from fe_gradcam.backends.keras.passes import bias_terms, hessian_product
from fe_gradcam.backends.keras.scores import (
    class_scores,
    head_for,
    is_segmentation,
    is_table,
    is_tensor,
    rows_of,
    scored,
    within_unit,
)
from fe_gradcam.backends.known import Known, Reading, known_of
from fe_gradcam.backends.protocol import (
    HALF_PRECISION_FACTOR,
    STRETCHES,
    SUM_TOLERANCE,
    reaches,
    reading_of,
    warn_of_probabilities,
)
from fe_gradcam.spec.images import as_tuple, picture_of
from fe_gradcam.spec.layers import default_layer
from fe_gradcam.spec.outputs import ModelOutput, described, pick
from fe_gradcam.spec.resolved import ClassTarget, RegionTarget, ResolvedTarget, ValueTarget
from fe_gradcam.spec.tokens import Seen, as_map, no_map, pulled_back, token_grid
from fe_gradcam.types import (
    BiasGradients,
    CamInputs,
    Images,
    Layer,
    LayerInfo,
    LayerRef,
    Reshape,
    Score,
    Target,
)

AGREES = 1e-3
"""How far a score may be off the same one of a larger batch."""


class KerasBackend:
    """A Keras model, ready to be explained.

    Args:
        model: Functional, sequential or subclassed, with channels last.
        model_output: Which of its outputs holds the scores; None where that is plain.
        reshape: How a layer's output becomes a map; None recognises it.
        of_pixels: Whether a segmentation is explained.
    """

    channels_first = False

    def __init__(
        self,
        model: Any,
        model_output: ModelOutput = None,
        reshape: Reshape | None = None,
        of_pixels: bool = False,
    ) -> None:
        self._model = model
        self._model_output = model_output
        self._reshape = reshape
        self._of_pixels = of_pixels
        self._asking = False
        self._known = known_of(model)
        self._raw_shapes: dict[LayerRef, tuple[int, ...]] = {}

    @property
    def precision(self) -> float:
        """The spacing of the model's numbers at 1."""
        compute = tf.as_dtype(self._model.compute_dtype or "float32").as_numpy_dtype
        return float(tf.experimental.numpy.finfo(compute).eps)

    def image_size(self, images: Images) -> tuple[int, ...]:
        """(H, W) of the images, (N, H, W, C), or (D, H, W) of volumes."""
        return tuple(picture_of(images).shape[1:-1])

    def layers(self, images: Images) -> list[LayerInfo]:
        """The layers in the order in which a forward pass of `images` completes them; nothing is computed."""
        return self._listed(images)[0]

    def _listed(self, images: Images) -> tuple[list[LayerInfo], Seen]:
        names = {id(layer): name for name, layer in named_layers(self._model).items()}
        size = self.image_size(images)
        found: list[tuple[list[LayerInfo], Seen]] = []

        def trace(*inputs: Any) -> Any:
            calls: list[Call] = []
            with calls_of(self._all_layers(), lambda *call: calls.append(call)):
                result = call_model(self._model, packed(inputs), training=False)
            found.append((layer_infos(calls, names, size), seen_by(calls, size)))
            return result

        with tf.init_scope():
            compiled(trace, self._specs(images))
        self._known_now().seen.put(size, found[0][1])
        return found[0]

    def _seen(self, images: Images) -> Seen:
        """What a pass shows about the layout of the layers' outputs, looked at once per image size."""
        found = self._known_now().seen.get(self.image_size(images))
        return self._listed(images)[1] if found is None else found

    def _known_now(self) -> Known:
        """What is known of the model, of nothing that it was before a layer of it was replaced."""
        return self._known.now(list(self._model._flatten_layers()))

    def resolve(self, layer: Layer, images: Images) -> LayerRef:
        """The place that `layer` names; None chooses the default, once per model and image size."""
        if isinstance(layer, LayerRef):
            return layer
        if layer is None:
            key = (signature(self._specs(images)), self._model_output, self._of_pixels)
            found = self._known_now().default_layers.get(key)
            if found is not None:
                return found
            one_image = tuple(_one_of(part) for part in as_tuple(images))
            found, certain = default_layer(
                self.layers(images), lambda ref: self._reaches(ref, one_image), of_pixels=self._of_pixels
            )
            return self._known_now().default_layers.put(key, found) if certain else found
        return LayerRef(name_of(self._model, layer))

    def _reaches(self, layer: LayerRef, images: Images) -> bool:
        if any(part is None for part in images):
            return True
        self._asking = True
        try:
            with tf.init_scope():
                return reaches(self, layer, images)
        finally:
            self._asking = False

    def run(
        self, images: Images, layer: LayerRef, targets: Sequence[ResolvedTarget], *, gradients: bool, score: Score
    ) -> list[CamInputs]:
        """See Backend."""
        specs = self._specs(images)
        inputs = [tf.cast(tensor_of(part), spec.dtype) for part, spec in zip(as_tuple(images), specs, strict=True)]
        count = int(inputs[0].shape[0])
        given = (*inputs, *(tf.constant(array) for target in targets for array in target.arrays))
        of_pixels = any(isinstance(target, RegionTarget) for target in targets)
        reading = self._known.readings.get((self._model_output, of_pixels), "logits")  # or else traced once more

        def compiled_for(reading: Reading) -> Any:
            def trace(inputs: Any, arrays: Any, more: Any) -> Any:
                return self._traced_pass(inputs, arrays, layer, targets, gradients, score, reading)

            key = ("pass", layer, gradients, score, reading, self._model_output)
            return compiled_pass(self._model, key, specs, targets, trace)

        results = compiled_for(reading)(*given)
        if "headless" in results:
            right = self._reading(inputs, results["headless"].numpy(), of_pixels)
            if right != reading:
                results = compiled_for(right)(*given)
            by_class = any(isinstance(target, (ClassTarget, RegionTarget)) for target in targets)
            if right != "logits" and score == "logit" and by_class and not self._asking:
                warn_of_probabilities(self._known)
        else:  # it is not asked
            self._known.readings[self._model_output, of_pixels] = "logits"
        check_rows(layer, int(results["activations"].shape[0]), count)
        logits = probabilities = None
        if "logits" in results and not all(isinstance(target, ValueTarget) for target in targets):
            logits, probabilities = as_torch(results["logits"]), as_torch(results["probabilities"])
            for target in targets:
                if isinstance(target, ClassTarget):
                    target.check(logits.shape[1])

        self._raw_shapes[layer] = tuple(results["activations"].shape[1:])
        return [
            CamInputs(
                activations=self._as_map(results["activations"], layer, images),
                gradients=self._as_map(results["gradients"][position], layer, images) if gradients else None,
                scores=as_torch(results["scores"][position]),
                class_ids=as_torch(results["class_ids"][position]),
                logits=logits,
                probabilities=probabilities,
                images=images,
                pinned=_pinned(targets[position], results["pinned"][position]),
            )
            for position in range(len(targets))
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

        def on_output(_: Any, __: Any, output: Any) -> None:
            outputs.append(first_of(output))
            if eager:
                inner.watch(outputs[-1])

        with calls_of([named_layers(self._model)[layer.name]], on_output), inner:
            output = call_model(self._model, packed(tuple(inputs)), training=training)
            if outputs and isinstance(outputs[-1], tf.Tensor) and outputs[-1].shape.rank not in (4, 5):
                raise no_map(layer, tuple(outputs[-1].shape[1:]))
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
        tables = class_scores(output, reading)
        top = tf.argmax(tables["logits"], 1)
        ids = top if target is None else tf.broadcast_to(tf.cast(tf.reshape(target, [-1]), tf.int64), tf.shape(top))
        count = tables["explained"].shape[1]
        known = (ids >= 0) & (ids < count)  # an image without a class has no gradient
        scores = tf.gather(tables["explained"], tf.clip_by_value(ids, 0, count - 1), axis=1, batch_dims=1)
        return tf.where(known, scores, tf.zeros_like(scores))

    def _reading(self, inputs: Sequence[Any], outputs: NDArray[Any], of_pixels: bool = False) -> Reading:
        """How the outputs (N, C) of a model without a visible head are read."""

        def stays_within() -> bool:
            stretched = ([_stretched(part, factor) for part in inputs] for factor in STRETCHES)
            return all(within_unit(self._outputs(images, of_pixels)) for images in stretched)

        outputs = outputs[np.isfinite(outputs).all(1)]
        sums = np.abs(outputs.astype(np.float32).sum(1) - 1) < SUM_TOLERANCE
        which = (self._model_output, of_pixels)
        self._known.readings[which] = reading_of(
            self._known_now(),
            which,
            within=within_unit(outputs),
            sums_to_one=outputs.shape[1] > 1 and bool(sums.all()),
            stays_within=stays_within,
        )
        return self._known.readings[which]

    def _reading_inside(self, inputs: Sequence[Any], output: Any) -> Reading:
        """As `_reading`, where the images are symbols: asked of images made for it."""
        if not is_table(output) or head_for(output) is not None:
            return "logits"
        with tf.init_scope():
            made = [tf.ones([1, *part.shape[1:]], part.dtype) for part in inputs]
            return self._reading(made, self._outputs(made))

    def _outputs(self, inputs: Sequence[Any], of_pixels: bool = False) -> NDArray[Any]:
        """The model's table of class scores, in inference."""
        specs = [tf.TensorSpec(part.shape, part.dtype) for part in inputs]

        def scores(*given: Any) -> Any:
            return rows_of(self._picked(call_model(self._model, packed(given), training=False), of_pixels))

        outputs: NDArray[Any] = compiled(scores, specs)(*inputs).numpy()
        return outputs

    def _picked(self, output: Any, of_pixels: bool) -> Any | None:
        """What of the output holds scores: a table, or those of every pixel."""
        fits = is_segmentation if of_pixels else is_table
        names = getattr(self._model, "output_names", None)
        picked = pick(output, self._model_output, is_tensor=is_tensor, fits=fits, names=names)
        return picked if picked is not None and (is_table(picked) or is_segmentation(picked)) else None

    def changed_scores(
        self, images: Images, layer: LayerRef, change: Tensor, target: ResolvedTarget, score: Score
    ) -> Tensor:
        """See Backend."""

        def trace(inputs: Any, more: Any, score_of: Any) -> Any:
            place, output = self._place_and_output(inputs, layer)
            changed = place + tf.cast(more[0], place.dtype)
            go_on_with(place, changed)
            output = tf.nest.map_structure(lambda part: changed if part is place else part, output)
            return score_of(output)

        raw = tf.constant(self._pulled_back(change, layer, images).numpy())
        return as_torch(self._asked("changed", images, layer, target, score, trace, [raw]))

    def hvp(self, images: Images, layer: LayerRef, target: ResolvedTarget, vectors: Tensor, score: Score) -> Tensor:
        """See Backend."""

        def trace(inputs: Any, more: Any, score_of: Any) -> Any:
            place, output = self._place_and_output(inputs, layer)
            scores = score_of(output)
            return hessian_product(scores, place, more[0])

        raw = tf.constant(self._pulled_back(vectors, layer, images).numpy())
        return self._as_map(self._asked("hvp", images, layer, target, score, trace, [raw]), layer, images)

    def bias_gradients(self, images: Images, layer: LayerRef, target: ResolvedTarget, score: Score) -> BiasGradients:
        """See Backend."""

        def trace(inputs: Any, more: Any, score_of: Any) -> Any:
            output = call_model(self._model, packed(inputs), training=False)
            scores = score_of(output)
            return scores, bias_terms(scores, [part for part in inputs if part.dtype.is_floating])

        if not tf.as_dtype(self._specs(picture_of(images))[0].dtype).is_floating:
            raise no_slope([picture_of(images)])
        scores, terms = self._asked("biases", images, layer, target, score, trace, [])
        maps = [as_torch(term) for term in terms]
        picture = next(at for at, term in enumerate(maps) if term.dim() == len(self.image_size(images)) + 2)
        of_input = maps.pop(picture).movedim(-1, 1)
        maps = [term.movedim(-1, 1) for term in maps]
        with_places = [term for term in maps if term.dim() == of_input.dim() and term[0, 0].numel() > 1]
        others = [term for term in maps if not any(term is one for one in with_places)]
        elsewhere = sum((term.flatten(1).sum(1) for term in others), torch.zeros(len(of_input)))
        return BiasGradients(of_input, with_places, elsewhere, as_torch(scores), self.precision)

    def attention_gradients(
        self, images: Images, layer: LayerRef, target: ResolvedTarget, score: Score
    ) -> list[Tensor]:
        """See Backend. The classifier gets the tokens behind all blocks at once, as one batch."""
        size, seen = self.image_size(images), self._seen(images)

        def trace(inputs: Any, more: Any, score_of: Any) -> Any:
            output = call_model(self._model, packed(inputs), training=False)
            picked = self._picked(output, isinstance(target, RegionTarget))
            attentions = [] if picked is None else attentions_in(picked.graph, picked)
            tokens = {attention.shape[2] for attention in attentions}
            known = len(tokens) == 1 and (self._reshape or token_grid(tokens.pop(), seen.maps, size))
            ends = ends_of_blocks(attentions, picked) if known else None
            if ends is None:
                raise no_attention()
            count = tf.shape(inputs[0])[0]
            go_on_with(ends[-1], tf.concat(ends, 0))
            maps, scores = [], None
            for at, (attention, end) in enumerate(zip(attentions, ends, strict=True)):
                own = tf.nest.map_structure(lambda part, at=at: part[at * count : (at + 1) * count], output)
                scores = score_of(own)
                tokens_of = by_key(scores, attention, [other for other in ends if other is not end])
                maps.append(tf.stack([tokens_of, tokens_of], 2))
            return maps, scores

        try:
            maps, behind_all = self._asked("attentions", images, layer, target, score, trace, [])
        except tf.errors.InvalidArgumentError as error:
            raise counts_its_images() from error
        (plain,) = self.run(images, layer, [target], gradients=False, score=score)
        of_all, of_plain = behind_all.numpy(), plain.scores.numpy()
        if of_all.shape != of_plain.shape or not np.allclose(of_all, of_plain, AGREES, AGREES, equal_nan=True):
            raise counts_its_images()
        return [self._as_map(one, layer, images)[:, 0] for one in maps]

    def _pulled_back(self, maps: Tensor, layer: LayerRef, images: Images) -> Tensor:
        """Maps (N, K, *S) in the layout that the layer puts out."""
        size = self.image_size(images)
        raw = self._raw_shapes[layer]
        return pulled_back(
            maps,
            raw,
            lambda zeros: as_map(zeros, layer, size, lambda: self._seen(images), self._reshape, channels_first=False),
        )

    def _as_map(self, tensor: Any, layer: LayerRef, images: Images) -> Tensor:
        """The output of the layer, or its gradients, as (N, K, *S)."""
        size = self.image_size(images)
        return as_map(as_torch(tensor), layer, size, lambda: self._seen(images), self._reshape, channels_first=False)

    def _known_reading(self, inputs: Sequence[Any], of_pixels: bool) -> Reading:
        """How the outputs were read in the last pass of the network as it is; without one, in a pass made for it."""
        found = self._known.readings.get((self._model_output, of_pixels))
        return self._reading(inputs, self._outputs(inputs, of_pixels), of_pixels) if found is None else found

    def _asked(
        self,
        what: str,
        images: Images,
        layer: LayerRef,
        target: ResolvedTarget,
        score: Score,
        trace: Callable[[Any, Any, Any], Any],
        more: Sequence[Any],
    ) -> Any:
        """What another pass yields, compiled once, of a model that was explained before."""
        specs = self._specs(images)
        inputs = [tf.cast(tensor_of(part), spec.dtype) for part, spec in zip(as_tuple(images), specs, strict=True)]
        arrays = [tf.constant(array) for array in target.arrays]
        reading = self._known_reading(inputs, isinstance(target, RegionTarget))

        def traced(inputs: Any, arrays: Any, more: Any) -> Any:
            return trace(inputs, more, lambda output: self._target_score(output, target, arrays, score, reading))

        key = (what, layer, score, reading, self._model_output)
        return compiled_pass(self._model, key, specs, [target], traced, more)(*inputs, *arrays, *more)

    def _traced_pass(
        self,
        inputs: tuple[Any, ...],
        arrays: tuple[Any, ...],
        layer: LayerRef,
        targets: Sequence[ResolvedTarget],
        gradients: bool,
        score: Score,
        reading: Reading,
    ) -> dict[str, Any]:
        """Builds the graph of a pass: the forward, the head and one gradient for each target."""
        place, output = self._place_and_output(inputs, layer)
        results: dict[str, Any] = {"activations": tf.cast(place, tf.float32)}
        picked = self._picked(output, any(isinstance(target, RegionTarget) for target in targets))
        tables: dict[str, Any] = {}
        if picked is not None:
            tables = class_scores(picked, reading)
            wanted = ("logits", "probabilities", "headless") if is_table(picked) else ("headless",)
            results |= {name: tables[name] for name in wanted if name in tables}
        results |= {"scores": [], "class_ids": [], "gradients": [], "pinned": []}
        remaining = list(arrays)
        for target in targets:
            of_target = [remaining.pop(0) for _ in target.arrays]
            its = scored(output, picked, tables, target, of_target, score, self._described)
            no_class = tf.fill([tf.shape(inputs[0])[0]], tf.constant(-1, tf.int64))
            is_class = isinstance(target, ClassTarget) and target.is_class
            results["scores"].append(tf.cast(its.scores, tf.float32))
            results["class_ids"].append(its.came_to[:, 0] if is_class else no_class)
            results["pinned"].append(no_class if its.came_to is None else its.came_to)
            if gradients:
                results["gradients"].append(_gradient(its.scores, place, layer))
        return results

    def _target_score(
        self, output: Any, target: ResolvedTarget, arrays: Sequence[Any], score: Score, reading: Reading
    ) -> Any:
        """(N,) scores of one target, float32."""
        picked = self._picked(output, isinstance(target, RegionTarget))
        tables = {} if picked is None else class_scores(picked, reading)
        return tf.cast(scored(output, picked, tables, target, list(arrays), score, self._described).scores, tf.float32)

    def _described(self, output: Any) -> str:
        return described(output, is_tensor, getattr(self._model, "output_names", None))

    def _place_and_output(self, inputs: tuple[Any, ...], layer: LayerRef) -> tuple[Any, Any]:
        keras_layer = named_layers(self._model)[layer.name]
        calls: list[Call] = []
        inner: list[Any] = []
        heard = self._all_layers() if layer.place == "relu" else [keras_layer]
        before = unactivated(keras_layer, inner) if layer.place == "convolution" else nullcontext()
        with calls_of(heard, lambda *call: calls.append(call)), before:
            output = call_model(self._model, packed(inputs), training=False)
        outputs = inner or [first_of(its_output) for its_layer, _, its_output in calls if its_layer is keras_layer]
        return place_among(outputs, layer, calls), output

    def _specs(self, images: Images) -> list[Any]:
        """The inputs' shapes, with any number of images, and dtypes as the model computes."""
        like = tf.as_dtype(self._model.compute_dtype or "float32")
        specs = []
        for part in as_tuple(images):
            of_torch = isinstance(part, Tensor)
            dtype = tf.as_dtype(str(part.dtype).removeprefix("torch.") if of_torch else part.dtype)
            specs.append(tf.TensorSpec([None, *part.shape[1:]], like if dtype.is_floating else dtype))
        return specs

    def _all_layers(self) -> list[Any]:
        return list(self._model._flatten_layers(include_self=False, recursive=True))


def _pinned(target: ResolvedTarget, came_to: Any) -> ResolvedTarget:
    """The target with what it came to: the classes inferred, the pixels that are a class's own."""
    if isinstance(target, ClassTarget):
        return ClassTarget(came_to.numpy(), target.weights)
    return RegionTarget(target.class_id, came_to.numpy()) if isinstance(target, RegionTarget) else target


def _stretched(part: Any, factor: float) -> Any:
    """Images far from any that a model knows; what is no image, such as ids of words, as it is."""
    if part.dtype.is_floating:
        return part * factor
    return tf.saturate_cast(tf.cast(part, tf.float32) * factor, part.dtype) if part.shape.rank >= 4 else part


def _one_of(part: Any) -> Any:
    """The first image; noise in its place where images are symbols, or None where their size is not known."""
    if not isinstance(part, tf.Tensor) or hasattr(part, "numpy"):
        return part[:1]
    if None in part.shape[1:]:
        return None
    return np.random.default_rng(0).random((1, *part.shape[1:])).astype(part.dtype.as_numpy_dtype)


def _gradient(scores: Any, place: Any, layer: LayerRef) -> Any:
    """∂(Σ scores)/∂place in float32; zeros where the scores are not computed from the place."""
    factor = HALF_PRECISION_FACTOR if place.dtype == tf.float16 else 1.0
    (gradient,) = tf.gradients(scores, [place], grad_ys=[tf.fill(tf.shape(scores), tf.cast(factor, scores.dtype))])
    if gradient is not None:
        return tf.cast(gradient, tf.float32) / factor
    if depends_on(scores, place):
        raise no_gradient(layer, "tf.stop_gradient, an operation without a derivative")
    return tf.zeros_like(place, tf.float32)
