"""Further passes of a model, for the methods that need more than one."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from fe_gradcam.backends.protocol import Backend, Query
from fe_gradcam.errors import Argument, CamError, GradientError
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.spec.images import Inputs
from fe_gradcam.types import BiasGradients, CamInputs

MOST_ROWS_ASKED = {"cpu": 64, "cuda": 256}
"""The most rows of one pass, if no batch size is given."""

LEAST_ROWS_ASKED = 4
"""The rows of a pass are not made fewer than this for the size of outputs alone."""

PLACES_AT_ONCE = {"cpu": 4 * 224 * 224, "cuda": 128 * 224 * 224}
"""How many pixels the rows of one pass have together, if no batch size is given. On a CPU more rows of large images
are slower: their maps leave the caches, and the memory of each is asked from the system anew. On a GPU they are faster
up to some hundreds: a pass of few takes the host longer to ask for than the GPU to make. The number of rows hangs on
sizes alone, so that the same call has the same result to the last bit."""

NUMBERS_AT_ONCE = 1_050_000
"""How many numbers the largest output of a layer holds in one pass on a CPU, if no batch size is given: beyond some
megabytes the memory of each goes back to the system, which costs half as much again. The rows are a power of two."""

TRIED_ALONE = 3
"""Rows of the trial that shows whether the part behind the layer can run alone."""

AGREES = 1e-3
"""How far the scores of the part behind the layer may differ from those of the whole model, relative to the largest."""


class ModelProbe:
    """See `fe_gradcam.types.Probe`.

    `first` is the result of the first pass for one target of `query`; further passes keep the target as resolved there.
    """

    def __init__(self, backend: Backend, inputs: Inputs, query: Query, first: CamInputs, settings: Settings) -> None:
        self._backend = backend
        self._query = replace(query, targets=[first.pinned], gradients=True)
        self._first = first
        self._device = first.activations.device
        self._inputs = inputs.in_torch()
        self.images: Tensor = self._inputs.seen(channels_first=backend.channels_first).to(self._device)
        self._batch_size = settings.batch_size
        self.at_once = self._rows_of(self.images, backend.largest_output(inputs))
        self.row_by_row = first.pinned.row_by_row
        self.precision = backend.precision
        self.progress, self.trial = settings.progress, settings.trial

    @cached_property
    def at_once_behind(self) -> int:
        """See Probe."""
        return max(self.at_once, self._rows_of(self._first.activations)) if self._behind_alone else self.at_once

    def score(self, images: Tensor, rows: Tensor) -> Tensor:
        """See Probe."""
        return self._run(images, rows, gradients=False).scores.to(self._device)

    def gradients(self, images: Tensor, rows: Tensor) -> Tensor:
        """See Probe."""
        gradients = self._run(images, rows, gradients=True).gradients
        return torch.zeros_like(self._first.activations[rows]) if gradients is None else gradients

    def score_from(self, activations: Tensor, rows: Tensor) -> Tensor:
        """See Probe. If all rows belong to one image, only the part behind the layer is computed for each row.

        The part before the layer then runs once, on that image alone, and tensors that bypass the layer are
        broadcast. Whether the model allows this is tried once.
        """
        one_image = bool((rows == rows[0]).all())
        change = activations - self._first.activations[rows[:1] if one_image else rows]
        return self._changed(rows[:1] if one_image and self._behind_alone else rows, change, rows)

    def hvp(self, vectors: Tensor) -> Tensor:
        """See Probe."""
        try:
            return self._backend.hvp(self._inputs, self._query, vectors)
        except (LookupError, NotImplementedError, RuntimeError) as error:
            if isinstance(error, CamError) or not any(word in str(error).lower() for word in ("deriv", "gradient")):
                raise
            raise GradientError(
                "No second derivative is defined for an operation behind ",
                Argument("layer", repr(str(self._query.layer))),
                f" ({error}). Use ",
                Argument("method", "'grad_cam'"),
                ", which needs the first derivative alone, or pass ",
                Argument("layer", ""),
                " with a layer behind that operation.",
            ) from error

    def bias_gradients(self) -> BiasGradients:
        """See Probe."""
        return self._backend.bias_gradients(self._inputs, self._query)

    def attention_gradients(self, *, mean_token: bool) -> list[Tensor]:
        """See Probe."""
        return self._backend.attention_gradients(self._inputs, self._query, mean_token=mean_token)

    def _run(self, images: Tensor, rows: Tensor, *, gradients: bool) -> CamInputs:
        (inputs,) = self._backend.run(self._asked(images, rows), self._query_of(rows, gradients))
        return inputs

    def _changed(self, before: Tensor, change: Tensor, rows: Tensor) -> Tensor:
        given = self._asked(self.images[before], before)
        return self._backend.changed_scores(given, self._query_of(rows), change).to(self._device)

    def _rows_of(self, maps: Tensor, largest: int = 0) -> int:
        """How many rows with maps (N, K, *S), and outputs of at most `largest` numbers, one pass should have."""
        if self._batch_size is not None:
            return self._batch_size
        device = self._device.type if self._device.type in PLACES_AT_ONCE else "cuda"
        rows = min(MOST_ROWS_ASKED[device], max(1, PLACES_AT_ONCE[device] // maps[0, 0].numel()))
        if device == "cpu" and largest:
            fitting = max(LEAST_ROWS_ASKED, NUMBERS_AT_ONCE // largest)
            rows = min(rows, 2 ** (fitting.bit_length() - 1))
        return rows

    @cached_property
    def _behind_alone(self) -> bool:
        """Whether the part behind the layer, run alone, gives the same scores for several rows of one image."""
        if not self.row_by_row or (self._batch_size or TRIED_ALONE) < TRIED_ALONE:
            return False
        rows = torch.zeros(TRIED_ALONE, dtype=torch.int64, device=self._device)
        activations = self._first.activations[0]
        change = torch.stack([torch.zeros_like(activations), -activations, activations.flip(0) - activations])
        whole = self._changed(rows, change, rows)
        try:
            alone = self._changed(rows[:1], change, rows)
        except Exception:  # a model may do anything with a batch that grows on its way
            return False
        same = alone.shape == whole.shape and bool(whole.isfinite().all())
        return same and bool(((alone - whole).abs() <= AGREES * whole.abs().max()).all())

    def _asked(self, images: Tensor, rows: Tensor) -> Inputs:
        """The model's inputs: `images` as the picture, and the other inputs of the rows."""
        return self._inputs.asked(images, rows, channels_first=self._backend.channels_first)

    def _query_of(self, rows: Tensor, gradients: bool = False) -> Query:
        return replace(self._query, targets=[self._first.pinned.rows(rows.cpu().numpy())], gradients=gradients)
