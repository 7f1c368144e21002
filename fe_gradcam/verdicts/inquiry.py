"""What the tests of a network's classes start from: images, what the network says of them, and where objects are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.metrics.asked import Asked
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.types import Heatmap, Images

TOLD = 0.5
"""With sigmoid outputs an image is told to be of every class that has at least this probability."""

SUMS_TO_ONE = 1e-2
"""How far the probabilities of an image may be from a sum of 1 if it is of one class."""


class Inquiry:
    """The images of a network, its answers, and a limit to what may be asked of it.

    Args:
        model: A torch.nn.Module or a tf.keras.Model that classifies.
        images: N images as `fe_gradcam.explain` takes them.
        heatmap: Their heatmaps for the inferred class.
        probabilities: (N, C), the answers to the images as they are.
        masks: (N, H, W), where the object is; an image without an object has an empty mask. None: not known.
        labels: (N,) the true classes, or (N, C) bools where an image may be of several; negative if not known.
        names: Names of the classes by id.
        explains: Gives the heatmap of some rows, (n,), for one class; needed if an image may be of several classes.
        batch_size: The most images of a pass.
        seed: Seed of all random choices.
        model_output: See `fe_gradcam.explain`.
        most: The most images that may be asked in all; None: as many as are needed.
        accused: Classes that were accused before, whose images may carry a cue.

    Attributes:
        accused: Those, and the classes that tests accused since: their images give no object surroundings.
        several: Whether an image may be of several classes at once: its probabilities come from sigmoids.
        asked: How many images were asked so far.
    """

    def __init__(
        self,
        model: Any,
        images: Images,
        heatmap: Heatmap,
        probabilities: NDArray[np.float32],
        *,
        masks: NDArray[np.bool_] | None = None,
        labels: NDArray[Any] | None = None,
        names: Mapping[int, str] | None = None,
        explains: Callable[[NDArray[np.int64], int], Heatmap] | None = None,
        batch_size: int = 32,
        seed: int = 0,
        model_output: ModelOutput = None,
        most: int | None = None,
        accused: Collection[int] = (),
    ) -> None:
        self.heatmap, self.probabilities, self.masks, self.labels = heatmap, probabilities, masks, labels
        self.seed, self.most, self.asked, self.accused = seed, most, 0, set(accused)
        self.several = bool((np.abs(probabilities.sum(1) - 1) > SUMS_TO_ONE).any())
        self._explains, self._names = explains, dict(names or {})
        self._asks = Asked(model, images, heatmap, batch_size, seed, model_output)
        self._told = self.told(probabilities)
        self._heat: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        height, width = self.heatmap.values.shape[1:]
        return height, width

    @cached_property
    def pictures(self) -> NDArray[np.float32]:
        """(N, C, H, W), the images as the model takes them, channels first, on the CPU."""
        found: NDArray[np.float32] = self._asks.picture.cpu().numpy()
        return found

    @property
    def classes(self) -> list[int]:
        """The classes that some image is told to be of, in order."""
        return [int(one) for one in np.flatnonzero(self._told.any(0))]

    def called(self, *classes: int) -> str:
        """The names of classes in the order of their ids, or the ids where there is none, as in "cat, dog, 7"."""
        return ", ".join(self._names.get(one, str(one)) for one in sorted(classes))

    def told(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(V, C), the classes that images with these probabilities are told to be of; none if these are not finite."""
        if self.several:
            return np.asarray(probabilities >= TOLD)
        first = np.arange(probabilities.shape[1]) == probabilities.argmax(1)[:, None]
        return np.asarray(first & np.isfinite(probabilities).all(1, keepdims=True))

    def rows_of(self, class_id: int) -> NDArray[np.int64]:
        """(n,) the images that are told to be of a class; if labels are known, only those that are."""
        its = self._told[:, class_id]
        if self.labels is not None:
            its = its & (self.labels[:, class_id] > 0 if self.labels.ndim == 2 else self.labels == class_id)
        return np.flatnonzero(its)

    def heat_of(self, class_id: int) -> NDArray[np.float32]:
        """(n, h, w) at the layer's size, from 0: the heat of `rows_of` for the class."""
        if class_id not in self._heat:
            rows = self.rows_of(class_id)
            raw, blank = self.heatmap.raw[rows], self.heatmap.blank[rows]
            if self.several and self._explains is not None and len(rows):
                found = self._explains(rows, class_id)
                raw, blank = found.raw, found.blank
            self._heat[class_id] = np.where(blank[:, None, None], np.float32(0), np.maximum(raw, 0))
        return self._heat[class_id]

    def affords(self, count: int) -> bool:
        """Whether so many images may still be asked."""
        return self.most is None or self.asked + count <= self.most

    def answers(self, rows: Sequence[int] | NDArray[np.int64], pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """(V, C), the probabilities for changed pictures (V, C, H, W); `rows` says which image each one comes from."""
        if not len(pictures):
            return np.zeros((0, self.probabilities.shape[1]), np.float32)
        at = torch.as_tensor(np.asarray(rows, np.int64)).to(self._asks.picture.device)
        given = torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).to(self._asks.picture.device)
        self.asked += len(given)
        found: NDArray[np.float32] = self._asks.table(at, lambda which: given[which]).numpy()
        return found
