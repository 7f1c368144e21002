"""What the rows of an epoch say: pictures, true classes, where the object is, and how they are explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.explaining.explained import Explained
from fe_gradcam.metrics.objects import object_masks
from fe_gradcam.spec.images import host_rows
from fe_gradcam.training.options import Options
from fe_gradcam.training.rows import Rows, are_probabilities, class_ids_of, probabilities_of
from fe_gradcam.training.selection import Selection
from fe_gradcam.training.source import Source

Labels = NDArray[np.int64] | None
Probabilities = NDArray[np.float32] | None


class Reader:
    """Reads rows.

    Args:
        source: Where heatmaps come from.
        options: What is asked for.
        called: What parts of a batch are called in errors, such as ``{"labels": "labels='y'"}``.
    """

    def __init__(self, source: Source, options: Options, called: Mapping[str, str]) -> None:
        self.source, self.options, self.called = source, options, called
        self._preds_are_probabilities: bool | None = None

    def facts(self, batch: Mapping[str, Any], selections: Sequence[Selection]) -> tuple[Labels, Probabilities]:
        """The true classes and probabilities of a batch, as far as choosing rows needs them."""
        labels = probabilities = None
        if "labels" in batch and any(one.by_class or "labels" in one.needs for one in selections):
            labels = class_ids_of(host_rows(batch["labels"]), self._name("labels"))
        if self.needs_preds(batch, selections):
            probabilities = self._probabilities(host_rows(batch["preds"]))
        return labels, probabilities

    def needs_preds(self, batch: Mapping[str, Any], selections: Sequence[Selection]) -> bool:
        """Whether predictions say which rows are chosen."""
        asked = any("preds" in one.needs or (one.by_class and "labels" not in batch) for one in selections)
        return asked and "preds" in batch

    def learn(self, rows: Rows, part: Explained) -> None:
        """Finds out whether predictions are probabilities or logits, of rows that were explained."""
        if "preds" in rows.values and part.probabilities is not None:
            self._preds_are_probabilities = are_probabilities(rows["preds"], part.probabilities)

    def explained(self, rows: Rows, dataset: str, *, trial: bool = False) -> Explained:
        """Some rows with their heatmaps."""
        labels = self.labels(rows)
        columns, probabilities = self.source.explain(rows, labels, trial=trial)
        return Explained(
            pictures=self.pictures(rows),
            columns=columns,
            probabilities=probabilities,
            labels=labels,
            ids=None if rows.get("ids") is None else list(rows["ids"]),
            ds_id=dataset,
            positions=rows.positions,
            masks=self.masks(rows),
        )

    def labels(self, rows: Rows) -> Labels:
        """(N,) the true classes, or None."""
        return None if rows.get("labels") is None else class_ids_of(rows["labels"], self._name("labels"))

    def masks(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Where the object is in each of the network's images, (N, H, W), or None where that is not known."""
        masks, boxes = rows.get("masks"), rows.get("boxes")
        if masks is None and boxes is None:
            return None
        shape = np.shape(rows["images"])
        height, width = shape[1:3] if self.source.channels_last else shape[2:4]
        return object_masks(masks, boxes, (int(height), int(width)))

    def pictures(self, rows: Rows) -> NDArray[np.uint8]:
        """(N, H, W, 3), what is drawn on."""
        images = rows["images"] if rows.get("display") is None else rows["display"]
        return self.options.look.pictures(images, channels_first=not self.source.channels_last)

    def _probabilities(self, preds: Any) -> NDArray[np.float32]:
        known = self.source.reads_as_probabilities
        return probabilities_of(preds, self._name("preds"), self._preds_are_probabilities if known is None else known)

    def _name(self, part: str) -> str:
        return self.called.get(part, part)
