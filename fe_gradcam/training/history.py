"""Rows that are followed over the epochs; small pictures and heat at the layer's size are kept of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fe_gradcam.drawing.pixels import shrunk
from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.explained import Column, Explained, evidence
from fe_gradcam.explaining.heat import values_of
from fe_gradcam.metrics.comparison import overlap_of_hottest, rank_correlation
from fe_gradcam.training.pages import KeptPage
from fe_gradcam.training.rows import Rows
from fe_gradcam.types import BY_ROW, ByRow

Stream: TypeAlias = tuple[str, str]
"""A mode and a dataset."""

MOST_EPOCHS = 24
"""The most epochs that are kept; if there are more, every second one is left out, but never the last."""

MOST_IMAGES = 24
"""The most images of which past epochs are kept."""

PICTURE_SIDE = 128
"""The most pixels of the longer side of a kept picture."""

HEAT_SIDE = 32
"""The longest side of the heat of past epochs; heat of methods that explain the whole model is larger at first."""


@dataclass(frozen=True, eq=False)
class Heat(ByRow):
    """A column of heatmaps at the size of the layer.

    Attributes:
        raw: (N, h, w) signed maps: float32, or for a past epoch int8, in which 127 means `largest` (N,).
        unit: See `Column`.
        size: (H, W) of the heatmaps.
    """

    method: str
    target: str
    raw: NDArray[Any] = field(metadata=BY_ROW)
    largest: NDArray[np.float32] = field(metadata=BY_ROW)
    blank: NDArray[np.bool_] = field(metadata=BY_ROW)
    scaling: Any
    unit: float | None
    size: tuple[int, int]

    @classmethod
    def of(cls, column: Column) -> Heat:
        """The heat of a column, in full precision."""
        heatmap, ones = column.heatmap, np.full(len(column.heatmap), 127, np.float32)
        size = (heatmap.values.shape[1], heatmap.values.shape[2])
        return cls(column.method, column.target, heatmap.raw, ones, heatmap.blank, heatmap.scaling, column.unit, size)

    def past(self) -> Heat:
        """The same heat with one byte for each value."""
        raw = np.stack([shrunk(one, HEAT_SIDE) for one in self.raw])
        largest = np.abs(raw).max((1, 2))
        coarse = np.rint(raw / np.where(largest > 0, largest, 1)[:, None, None] * 127)
        return replace(self, raw=coarse.astype(np.int8), largest=largest)

    @property
    def maps(self) -> NDArray[np.float32]:
        """(N, h, w), the signed maps."""
        return np.asarray(self.raw.astype(np.float32) * (self.largest / np.float32(127))[:, None, None])

    def values(self, size: Sequence[int] | None = None) -> NDArray[np.float32]:
        """The heatmaps at a size (H, W), by default their own size."""
        raw = self.maps
        if self.unit is not None and self.scaling != "none":
            return np.asarray(evidence(raw, size or self.size) / np.float32(self.unit))
        return values_of(torch.from_numpy(raw), torch.from_numpy(self.blank), self.scaling, size or self.size).numpy()


@dataclass(frozen=True, eq=False)
class Record:
    """The kept part of an epoch: the heat of its first column, and the inference of the n images.

    Attributes:
        wrong: Whether the inferred class differs from the true one.
    """

    epoch: int
    heat: Heat
    predictions: NDArray[np.int64] | None
    confidences: NDArray[np.float32] | None
    wrong: NDArray[np.bool_]


@dataclass(eq=False)
class Followed:
    """Rows that are followed.

    Attributes:
        rows: The rows as the model takes them.
        pictures: (n, h, w, 3) uint8, small pictures of the first MOST_IMAGES rows; None before the first epoch.
        records: The kept epochs of these rows, the oldest first.
        newest: The heat of every column in the last epoch, in full precision.
        before: The same for the epoch before.
    """

    rows: Rows
    pictures: NDArray[np.uint8] | None = None
    records: list[Record] = field(default_factory=list)
    newest: list[Heat] = field(default_factory=list)
    before: list[Heat] = field(default_factory=list)

    def add(self, epoch: int, part: Explained) -> None:
        """Keeps the heat and the inference of the rows in an epoch."""
        self.before, self.newest = self.newest, [Heat.of(column) for column in part.columns]
        part = part.rows(slice(0, MOST_IMAGES))
        self.pictures = np.stack([shrunk(one, PICTURE_SIDE) for one in part.pictures])
        confidences = None if part.probabilities is None else part.probabilities.max(1)
        record = Record(epoch, Heat.of(part.columns[0]), part.predictions, confidences, part.wrong)
        kept = [
            one if one.heat.raw.dtype == np.int8 else replace(one, heat=one.heat.past())
            for one in self.records
            if one.epoch < epoch and len(one.wrong) == len(part) and one.heat.method == record.heat.method
        ]
        self.records = _thinned([*kept, record])

    def moved(self, target: str) -> dict[str, dict[str, NDArray[np.float32]]]:
        """How the heat of a target differs from that of the epoch before: "drift" and "overlap", (N,), by method."""
        found: dict[str, dict[str, NDArray[np.float32]]] = {}
        before = {heat.method: heat for heat in self.before if heat.target == target}
        for heat in self.newest:
            if heat.target == target and heat.method in before:
                then, now = (np.maximum(one.values(), 0) for one in (before[heat.method], heat))
                if compared := compare(then, now):
                    found[heat.method] = compared
        return found


def compare(before: NDArray[np.float32], now: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Drift and overlap (N,) of two heatmaps (N, H, W) without negative values; empty if their sizes differ."""
    if before.shape != now.shape:
        return {}
    warm = (before.max((1, 2)) > 0) & (now.max((1, 2)) > 0)  # blank heat has no drift and no overlap
    return {
        "drift": np.where(warm, 1 - rank_correlation(before, now), np.nan).astype(np.float32),
        "overlap": np.where(warm, overlap_of_hottest(before, now), np.nan).astype(np.float32),
    }


class History:
    """The rows that are followed from epoch to epoch, by stream, and what pages keep, by mode."""

    def __init__(self) -> None:
        self.streams: dict[Stream, Followed] = {}
        self.pages: dict[str, KeptPage] = {}

    def state(self) -> dict[Stream, Any]:
        """The whole history in plain containers, for a training that is resumed."""
        return {
            stream: {
                "rows": (dict(kept.rows.values), kept.rows.positions, kept.rows.largest_batch),
                "pictures": kept.pictures,
                "records": [astuple(one) for one in kept.records],
                "newest": [astuple(heat) for heat in kept.newest],
            }
            for stream, kept in self.streams.items()
        }

    def restore(self, state: Mapping[Any, Any], parts: Collection[str] = ()) -> None:
        """Restores a result of `state`, completely or, if something raises, not at all; each image needs `parts`.

        Raises:
            ArgumentError: The saved images lack one of the parts.
        """
        streams = {}
        for stream, saved in state.items():
            records = [Record(epoch, Heat(*heat), *more) for epoch, heat, *more in saved["records"]]
            newest = [Heat(*heat) for heat in saved["newest"]]
            streams[stream] = Followed(Rows(*saved["rows"]), saved["pictures"], records, newest)
        missing = sorted({part for one in streams.values() for part in parts if part not in one.rows.values})
        if missing:
            raise ArgumentError(f"The followed images were saved without {', '.join(map(repr, missing))}.")
        self.streams = streams


def _thinned(records: list[Record]) -> list[Record]:
    """At most MOST_EPOCHS records, at equal steps of epochs, and the last one.

    If there are more, every second record is dropped, and the former last one if it does not fit the steps.
    """
    if len(records) > 3 and (records[-2].epoch - records[0].epoch) % (records[1].epoch - records[0].epoch):
        records = [*records[:-2], records[-1]]
    return records if len(records) <= MOST_EPOCHS else [*records[:-1:2], records[-1]]
