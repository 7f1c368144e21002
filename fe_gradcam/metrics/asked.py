"""The probabilities of a model for changed versions of the images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fe_gradcam.backends import backend_for
from fe_gradcam.backends.protocol import Backend, Query
from fe_gradcam.errors import ArgumentError
from fe_gradcam.methods.asking import RandomNumbers
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.spec.resolved import ClassTarget
from fe_gradcam.types import CamInputs, Heatmap, Images, LayerRef

Make: TypeAlias = Callable[[Tensor], Tensor]
"""Makes the versions (B, C, *S) that have these indices."""

Ask: TypeAlias = Callable[[Tensor, Make], Tensor]
"""Gets the index of each version's image, (V,), and returns the probabilities of the images' classes, (V,)."""


class Asked:
    """The probabilities of a heatmap's classes for changed images; see `measure`."""

    def __init__(
        self, model: Any, images: Images, heatmap: Heatmap, batch_size: int, seed: int, model_output: ModelOutput
    ) -> None:
        self.model = model
        self.seed = seed
        self._inputs = Inputs.of(images).checked()
        self._class_ids = heatmap.class_ids
        self._batch_size = batch_size
        self._backend = backend_for(model, model_output)
        picture = self._inputs.picture
        size = self._backend.image_size(self._inputs) if len(picture.shape) > 3 else ()
        if (len(picture), *size) != heatmap.values.shape:
            raise ArgumentError(
                f"images has shape {tuple(picture.shape)}, and heatmap has values of shape {heatmap.values.shape}: "
                "pass the images that were explained, in the model's own layout."
            )

    @cached_property
    def picture(self) -> Tensor:
        """(N, C, *S) float32, the input that is changed, channels first."""
        return self._in_torch.seen(channels_first=self._backend.channels_first)

    @cached_property
    def random(self) -> RandomNumbers:
        """Random numbers for each image."""
        nothing = torch.zeros(len(self.picture), dtype=torch.float32)
        return RandomNumbers(CamInputs(self.picture, None, nothing, nothing, images=self.picture, seed=self.seed))

    @cached_property
    def plain(self) -> Tensor:
        """(N,): the probabilities for the images as they are."""
        return self(torch.arange(len(self.picture)), lambda at: self.picture[at])

    def __call__(self, rows: Tensor, make: Make) -> Tensor:
        """See `Ask`; 0 for images without a class."""
        answers = torch.zeros(len(rows), dtype=torch.float32)
        known = torch.from_numpy(self._class_ids >= 0)[rows.cpu()].nonzero()[:, 0]
        for at in torch.split(known, max(1, self._batch_size - 1)) if len(known) else ():
            its = rows[at.to(rows.device)]
            ids = self._class_ids[its.cpu().numpy()][:, None]
            table = self._probabilities(make(at.to(rows.device)), its, ids)
            answers[at] = table.gather(1, torch.from_numpy(ids))[:, 0]
        return answers

    def table(self, rows: Tensor, make: Make) -> Tensor:
        """The probabilities of all classes, (V, C); see `Ask`."""
        parts = []
        for at in torch.split(torch.arange(len(rows)), max(1, self._batch_size - 1)):
            its = rows[at.to(rows.device)]
            parts.append(self._probabilities(make(at.to(rows.device)), its))
        return torch.cat(parts)

    def _probabilities(self, pictures: Tensor, rows: Tensor, ids: NDArray[np.int64] | None = None) -> Tensor:
        """(B, C) on the CPU. An unchanged image is added: of empty images alone logits may look like probabilities."""
        rows, ids = torch.cat([rows[:1], rows]), None if ids is None else np.concatenate([ids[:1], ids])
        pictures = torch.cat([self.picture[rows[:1].to(self.picture.device)], pictures])
        asked = self._in_torch.asked(pictures, rows, channels_first=self._backend.channels_first)
        probabilities = answers_of(self._backend, asked, self._layer, ids).probabilities
        return cast(Tensor, probabilities)[1:].cpu()  # a model without classes was refused

    @cached_property
    def _layer(self) -> Any:
        """A layer, since every pass needs one; its output is not used."""
        return self._backend.resolve(None, self._inputs)

    @cached_property
    def _in_torch(self) -> Inputs:
        """The model's inputs as tensors of PyTorch."""
        return self._inputs.in_torch()


def answers_of(backend: Backend, inputs: Inputs, layer: LayerRef, ids: NDArray[np.int64] | None = None) -> CamInputs:
    """One pass without gradients, for its logits and probabilities.

    Args:
        backend: The backend of the model.
        inputs: What to ask.
        layer: Any layer, since every pass needs one; its output is not used.
        ids: (N, 1) classes that the model must have; None: any.
    """
    target = ClassTarget(np.zeros((len(inputs), 1), np.int64) if ids is None else ids)
    (found,) = backend.run(inputs, Query(layer, [target], "output", gradients=False))
    return found
