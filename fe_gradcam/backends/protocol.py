"""The part of a backend that all frameworks share, and the methods that each framework must have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fe_gradcam.backends.interrupts import HeldBack
from fe_gradcam.backends.known import Held, Known, Reading, known_of, same_code, sums_to_one, within_unit
from fe_gradcam.backends.scoring import Scored
from fe_gradcam.errors import Argument, ArgumentError, CamError, UnsupportedModelError, warn
from fe_gradcam.spec.images import Inputs, in_torch
from fe_gradcam.spec.layers import default_layer, with_maps
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.resolved import TOP_CLASS, RegionTarget, ResolvedTarget, resolve_target
from fe_gradcam.spec.tokens import Seen, as_map, pulled_back
from fe_gradcam.types import BiasGradients, CamInputs, Layer, LayerInfo, LayerRef, Reshape, Score

HALF_PRECISION_FACTOR = 1024.0
"""Scales the score of an fp16 model, so that small gradients do not underflow."""

STRETCHES = (30.0, -30.0, 1000.0, -1000.0)
"""Factors on the images that show whether a model's outputs can leave [0, 1]; bytes stay within their range."""


_HELD = nullcontext()


@dataclass(frozen=True, eq=False)
class Query:
    """What a pass should yield; a pass that changes the network takes one target."""

    layer: LayerRef
    targets: Sequence[ResolvedTarget]
    score: Score
    gradients: bool = True

    @property
    def of_pixels(self) -> bool:
        """Whether a segmentation is read."""
        return any(target.of_pixels for target in self.targets)

    @property
    def of_classes(self) -> bool:
        """Whether class probabilities are needed: not if all targets are plain values of the output."""
        return not all(target.kind == "value" for target in self.targets)


class Passed(NamedTuple):
    """The results of one pass.

    Attributes:
        activations: The output of the layer, in its own layout.
        gradients: For each target, in the same layout, float32; None if no gradients are asked for.
        tables: The logits and probabilities (N, C), float32, or None if there are none.
        reading: How the outputs are read; "logits" if there is a head.
    """

    activations: Tensor
    gradients: Sequence[Tensor | None]
    scored: Sequence[Scored]
    tables: tuple[Tensor, Tensor] | None
    reading: Reading


class _Plainly:
    """A context: if a model fails on inputs but takes them in another layout or dtype, an error says so."""

    def __init__(self, backend: Backend, inputs: Inputs) -> None:
        self._backend, self._inputs = backend, inputs

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None or not isinstance(error, Exception) or isinstance(error, CamError):
            return
        told = None
        with suppress(Exception):  # a failing trial must not hide the first failure
            told = self._remedy()
        if told is not None:
            raise ArgumentError(Argument("images"), told) from error

    def _remedy(self) -> str | None:
        """The advice for inputs that the model takes in another form alone, tried with one row; or None."""
        inputs, first = self._inputs, self._backend.channels_first
        if self._takes(inputs.rows(slice(1))):
            return None
        return next((told for other, told in inputs.remedies(channels_first=first) if self._takes(other)), None)

    def _takes(self, inputs: Inputs) -> bool:
        """Whether a pass of the inputs succeeds."""
        try:
            self._backend._listed(inputs)
        except Exception:
            return False
        return True


class Backend(ABC):
    """A model of one framework, prepared for explaining; see `backend_for`."""

    channels_first: ClassVar[bool]
    """True for images (N, C, *S), False for (N, *S, C)."""

    def __init__(self, model: Any, model_output: ModelOutput, reshape: Reshape | None, of_pixels: bool) -> None:
        self._model = model
        self._model_output = model_output
        self._reshape = reshape
        self._of_pixels = of_pixels

    @property
    @abstractmethod
    def precision(self) -> float:
        """The spacing of the model's numbers at 1."""

    def layers(self, inputs: Inputs) -> list[LayerInfo]:
        """The layers in the order in which a forward pass of the inputs completes them.

        Raises:
            ArgumentError: The model fails on the inputs, and takes them in another layout or dtype.
        """
        with self.held(), _Plainly(self, inputs):
            return self._layers(inputs)

    def image_size(self, inputs: Inputs) -> tuple[int, ...]:
        """(H, W) of the images; for volumes (D, H, W)."""
        return inputs.size(channels_first=self.channels_first)

    def resolve(self, layer: Layer, inputs: Inputs | None = None, target: ResolvedTarget | None = None) -> LayerRef:
        """The place that `layer` names; None chooses the default, once per model and size of the inputs.

        If the target is a callable, the default is a layer that its score depends on, and is chosen once per callable.
        """
        if isinstance(layer, LayerRef):
            return layer
        with self.held():
            return (
                LayerRef(self._name_of(layer)) if layer is not None or inputs is None else self._default(inputs, target)
            )

    def _default(self, inputs: Inputs, target: ResolvedTarget | None) -> LayerRef:
        called = None if target is None else target.called
        key = (inputs.shapes, self._model_output, self._of_pixels, None if called is None else same_code(called))
        found = self._known.default_layers.get(key)
        if found is None:
            with _Plainly(self, inputs):
                one, infos = self._layers_of_one(inputs)
                asked = (one or inputs, None) if called is None else (inputs, target)  # it may need the whole batch
                reaches = (lambda _: True) if one is None else partial(self._reaches, asked=asked)
                found, certain = default_layer(infos, reaches, of_pixels=self._of_pixels)
            if certain:
                self._known_now().default_layers.put(key, found)
        return found

    def forget_defaults(self) -> bool:
        """Forgets the default layers, and returns whether there were any."""
        return self._known.forget_defaults()

    def run(self, inputs: Inputs, query: Query) -> list[CamInputs]:
        """One forward pass of the inputs, and one backward pass for each target if gradients are asked for.

        The results have no probe yet, and their seed is 0.

        Raises:
            GradientError: The score depends on the layer, but no gradient reaches the layer.
            UnsupportedModelError: It is not certain which part of the output holds what a target needs.
            ArgumentError: The model fails on the inputs, and takes them in another layout or dtype.
        """
        with self.held(), _Plainly(self, inputs):
            results, reading = self._run(inputs, query)
        if reading != "logits" and query.score == "logit" and any(target.of_classes for target in query.targets):
            self._tell_of_probabilities()
        return results

    @abstractmethod
    def changed_scores(self, inputs: Inputs, query: Query, change: Tensor) -> Tensor:
        """Scores (B,) of a pass in which `change`, (B, K, *S), is added to the output of the layer.

        There may be one image and several changes; the network then continues with one row for each change.
        """

    @abstractmethod
    def hvp(self, inputs: Inputs, query: Query, vectors: Tensor) -> Tensor:
        """The Hessian of the score with respect to the layer's output times `vectors`, both (N, K, *S)."""

    @abstractmethod
    def bias_gradients(self, inputs: Inputs, query: Query) -> BiasGradients:
        """See `fe_gradcam.types.Probe`; the layer has no influence here."""

    @abstractmethod
    def attention_gradients(self, inputs: Inputs, query: Query, *, mean_token: bool) -> list[Tensor]:
        """See `fe_gradcam.types.Probe`; the layer has no influence here."""

    def largest_output(self, inputs: Inputs) -> int:
        """How many numbers the largest output of a layer holds for one image; 0 if this is not looked at."""
        return 0

    # --- what a framework must be able to do -----------------------------------------------------------------

    @abstractmethod
    def _modules(self) -> list[Any]:
        """All modules of the model, in a fixed order."""

    @abstractmethod
    def _name_of(self, layer: Layer) -> str:
        """The name of a layer that is given by its name or its index, or as the layer itself."""

    @abstractmethod
    def kind_of(self, layer: LayerRef) -> str:
        """The class of a layer, as in its `LayerInfo`."""

    @abstractmethod
    def _listed(self, inputs: Inputs) -> tuple[list[LayerInfo], Seen]:
        """The layers that a pass completes, with unchanged shapes, and what it shows about the layout of outputs."""

    @abstractmethod
    def _passed(self, model: Any, inputs: Inputs, query: Query) -> Passed:
        """See `run`; the model was made ready."""

    @abstractmethod
    def _outputs(self, given: Sequence[Any], of_pixels: bool, factor: float = 1.0) -> Tensor | None:
        """The table (N, C) of scores, or that of all pixels, from the unchanged network for images times a factor."""

    def _pass(self, inputs: Inputs, query: Query) -> Passed:
        """One pass of the model, made ready."""
        with self._ready() as model:
            return self._passed(model, inputs, query)

    @contextmanager
    def _ready(self) -> Iterator[Any]:
        """Prepares the model for passes, and restores it afterwards; SIGINT waits, see `HeldBack`."""
        with HeldBack():
            yield self._model

    def _one_of(self, inputs: Inputs) -> Inputs | None:
        """One row of the inputs to try things with, or None if there is none."""
        return inputs.rows(slice(1))

    # --- what is the same for all ----------------------------------------------------------------------------

    def _layers(self, inputs: Inputs) -> list[LayerInfo]:
        (infos, seen), size = self._listed(inputs), self.image_size(inputs)
        inputs.check_maps(seen.maps, channels_first=self.channels_first)
        self._known_now().seen.put(size, seen)
        return with_maps(infos, seen, size, channels_first=self.channels_first)

    def _layers_of_one(self, inputs: Inputs) -> tuple[Inputs | None, list[LayerInfo]]:
        """One row, if there is one, and the layers that its pass shows; all rows for a model of a fixed batch."""
        one = self._one_of(inputs)
        try:
            return one, self._layers(one or inputs)
        except CamError:
            raise
        except Exception:
            if one is None or len(inputs) == 1:
                raise
            return inputs, self._layers(inputs)

    @cached_property
    def _known(self) -> Known:
        """What is known of the model; a copy of the backend, with its model, begins anew."""
        return known_of(self._model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def _known_now(self) -> Known:
        """What is known of the model as it is now, without facts from before one of its modules was replaced."""
        return self._known if self._known.is_mine else self._known.now(self._modules)

    def _take(self) -> list[Any]:
        """All modules, when the model is taken; what passes put back may be noted here."""
        return self._modules()

    def _let_go(self) -> None:  # noqa: B027
        """Drops what was noted of the model when it was taken."""

    def held(self) -> AbstractContextManager[None]:
        """While active, no other thread explains this model, and it is not looked through again for changes.

        The same thread may hold it already: a callable target may explain the model again.
        """
        return _HELD if self._known.is_mine else Held(self._known, self._take, self._let_go)

    def _seen(self, inputs: Inputs) -> Seen:
        """What a pass shows about the layout of the layers' outputs; made once for each size of the images."""
        size = self.image_size(inputs)
        found = self._known_now().seen.get(size)
        if found is None:
            _, found = self._listed(self._one_of(inputs) or inputs)
            inputs.check_maps(found.maps, channels_first=self.channels_first)
            self._known_now().seen.put(size, found)
        return found

    def _reaches(self, layer: LayerRef, asked: tuple[Inputs, ResolvedTarget | None]) -> bool:
        """Whether the score depends on the places of a layer's output; without a target that of the inferred class."""
        inputs, target = asked
        try:
            if target is None:
                target = RegionTarget(TOP_CLASS, None) if self._of_pixels else resolve_target(None, len(inputs))
            ((found,), _) = self._run(inputs, Query(layer, [target], "logit"))
        except UnsupportedModelError:  # no classes: a target of another kind will be asked for
            return True
        except CamError:
            return False
        return found.gradients is not None and bool((found.gradients != 0).any())

    def _run(self, inputs: Inputs, query: Query) -> tuple[list[CamInputs], Reading]:
        passed = self._pass(inputs, query)
        activations = self._as_map(passed.activations, query.layer, inputs).float()
        logits, probabilities = passed.tables or (None, None)
        results = []
        for target, its, gradient in zip(query.targets, passed.scored, passed.gradients, strict=True):
            came_to = None if its.came_to is None else its.came_to.cpu().numpy()
            no_class = None if target.is_class else activations.new_full((len(activations),), -1, dtype=torch.int64)
            results.append(
                CamInputs(
                    activations=activations,
                    gradients=None if gradient is None else self._as_map(gradient, query.layer, inputs),
                    scores=its.scores,
                    class_ids=its.came_to[:, 0] if no_class is None else no_class,
                    logits=logits,
                    probabilities=probabilities,
                    images=inputs.given(),
                    pinned=target.pinned(came_to),
                )
            )
        return results, passed.reading

    def _as_map(self, tensor: Tensor, layer: LayerRef, inputs: Inputs) -> Tensor:
        """The output of the layer, or its gradients, as (N, K, *S)."""
        size, seen = self.image_size(inputs), lambda: self._seen(inputs)
        return as_map(tensor, layer, size, seen, self._reshape, channels_first=self.channels_first)

    def _pulled_back(self, maps: Tensor, shape: tuple[int, ...], layer: LayerRef, inputs: Inputs) -> Tensor:
        """Maps (N, K, *S) in the layout (N, *shape) of the layer's output."""
        return pulled_back(maps, shape, lambda zeros: self._as_map(zeros, layer, inputs))

    def _read_as(self, table: Tensor, given: Sequence[Any], of_pixels: bool) -> Reading:
        """How a table (N, C) from the unchanged network, made by no visible head, is read; the answer is kept."""
        which = (self._model_output, of_pixels)
        reading: Reading = "logits"
        if within_unit(table):
            table = table[_tells_something(table, given)]
            if not len(table):
                return self._known.readings.get(which, reading)
            if sums_to_one(table):
                reading = "distribution"
            elif self._stays_within(given, of_pixels):  # logits that are within [0, 1] by chance leave it
                reading = "probabilities"
        self._known.readings[which] = reading
        return reading

    def _stays_within(self, given: Sequence[Any], of_pixels: bool) -> bool:
        """Whether the outputs lie in [0, 1] for images far from any that the model knows."""
        which, bounded = (self._model_output, of_pixels), self._known_now().bounded
        if which not in bounded:
            tables = (self._outputs(given, of_pixels, factor) for factor in STRETCHES)
            bounded[which] = all(table is not None and within_unit(table) for table in tables)
        return bounded[which]

    def _known_reading(self, given: Sequence[Any], of_pixels: bool) -> Reading:
        """How the outputs were read in the last pass of the unchanged network; if there was none, one is made."""
        found = self._known_now().readings.get((self._model_output, of_pixels))
        if found is not None:
            return found
        table = self._outputs(given, of_pixels)
        return "logits" if table is None else self._read_as(table, given, of_pixels)

    def _tell_of_probabilities(self) -> None:
        """Warns once per model that the logit is replaced by a function of the probability."""
        if not self._known.told:
            self._known.told = True
            warn(
                "The model's outputs are probabilities, and the softmax or sigmoid that made them was not found. So "
                "log p (or log p - log(1 - p), if the probabilities do not sum to 1) is explained instead of the "
                "logit. To be exact, pass a model that returns logits.",
                stacklevel=3,
            )

    def _are_of_image(self, tokens: Collection[int], inputs: Inputs) -> bool:
        """Whether attentions over these numbers of tokens each cover the whole image."""
        if len(set(tokens)) != 1:
            return False
        count = next(iter(tokens))
        return bool(self._reshape or self._seen(inputs).of_tokens(count, self.image_size(inputs)))


def _tells_something(table: Tensor, given: Sequence[Any]) -> Tensor:
    """Which rows of a table are finite and come from finite inputs: a ReLU may turn NaN into 0."""
    tells = table.isfinite().all(1)
    for part in (in_torch(part) for part in given):
        if part.is_floating_point():
            finite = part.flatten(1).isfinite().all(1).to(tells.device)
            tells = tells & finite.repeat_interleave(len(tells) // len(finite))
    return tells
