"""The source of a training's heatmaps, here a model; and reading the other parts of its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.backends import backend_for
from fe_gradcam.errors import ArgumentError
from fe_gradcam.explaining.explained import Column, Explained
from fe_gradcam.explaining.route import Explanation, check_reshape, explained
from fe_gradcam.metrics.measure import measure
from fe_gradcam.metrics.rules import Metric
from fe_gradcam.spec.images import host_rows
from fe_gradcam.spec.labels import inferred_of, is_wrong
from fe_gradcam.spec.objects import object_masks
from fe_gradcam.training.labels import TrueClasses
from fe_gradcam.training.options import Options
from fe_gradcam.training.rows import Rows, are_probabilities, probabilities_of
from fe_gradcam.training.selection import Selection
from fe_gradcam.types import Heatmap, Layer
from fe_gradcam.verdicts.inquiry import Inquiry

ENOUGH_ASKED = 512
"""So many images may be asked for verdicts though the epoch had fewer, or a small one would never judge a class."""

Labels: TypeAlias = "NDArray[np.int64] | None"
Several: TypeAlias = "NDArray[np.bool_] | None"
Masks: TypeAlias = "NDArray[np.bool_] | None"
Probabilities: TypeAlias = "NDArray[np.float32] | None"
Found: TypeAlias = "tuple[list[Column], Probabilities]"
"""The columns of heatmaps, and the probabilities (N, C) if they are known."""


class Source(Protocol):
    """Where heatmaps come from.

    Attributes:
        channels_last: True for images (N, H, W, C), False for (N, C, H, W).
        reads_as_probabilities: True if predictions are probabilities, False for logits; None if that is not known.
    """

    @property
    def channels_last(self) -> bool: ...  # noqa: D102

    @property
    def reads_as_probabilities(self) -> bool | None: ...  # noqa: D102

    def explain(self, rows: Rows, labels: Labels, several: Several = None, *, trial: bool = False) -> Found:
        """The heatmaps of some rows; with `trial` only to see whether they can be made."""

    def measured(
        self, rows: Rows, heatmap: Heatmap, metrics: Sequence[Metric], masks: Masks
    ) -> Mapping[str, NDArray[np.float32]]:
        """Metrics of the heatmaps of some rows, by label, with a value for each row."""


class Reader:
    """Reads rows: pictures, true classes, the places of objects, and heatmaps.

    Args:
        called: The names of parts of a batch in errors, such as ``{"labels": "labels='y'"}``.
    """

    def __init__(self, source: Source, options: Options, called: Mapping[str, str]) -> None:
        self.source, self.options, self.called = source, options, called
        self._preds_are_probabilities: bool | None = None
        self._true = TrueClasses(options.name, self._name("labels"), options.classes)

    def facts(self, batch: Mapping[str, Any], selections: Sequence[Selection]) -> tuple[Labels, Probabilities, Several]:
        """The true classes and probabilities of a batch, if the choice of rows needs them."""
        labels = several = probabilities = None
        if "labels" in batch and any(one.by_class or "labels" in one.needs for one in selections):
            labels, several, _ = self._true.read(host_rows(batch["labels"]))
        if self.needs_preds(batch, selections):
            known = self.source.reads_as_probabilities
            known = self._preds_are_probabilities if known is None else known
            probabilities = probabilities_of(host_rows(batch["preds"]), self._name("preds"), known)
        return labels, probabilities, several

    def needs_preds(self, batch: Mapping[str, Any], selections: Sequence[Selection]) -> bool:
        """Whether predictions decide which rows are chosen."""
        asked = any("preds" in one.needs or (one.by_class and "labels" not in batch) for one in selections)
        return asked and "preds" in batch

    def learn(self, rows: Rows, probabilities: Probabilities) -> None:
        """Learns from a trial how many classes there are, and whether predictions are probabilities or logits.

        Raises:
            ArgumentError: label_mapping does not fit these classes.
        """
        if probabilities is None:
            return
        if "preds" in rows.values:
            self._preds_are_probabilities = are_probabilities(rows["preds"], probabilities)
        self._true.count = probabilities.shape[1]
        self._true.check_names()

    def check(self, batch: Mapping[str, Any], selections: Sequence[Selection]) -> None:
        """Checks the labels and predictions of the first batch, even if nothing reads them later.

        Raises:
            ArgumentError: The labels or predictions do not fit the model.
        """
        if "labels" in batch:
            labels = host_rows(batch["labels"])
            self._true.check(labels)
            self._true.read(labels)  # whose warning names single rows
        _, probabilities, _ = self.facts(batch, selections)
        if probabilities is not None and self._true.count not in (None, probabilities.shape[1]):
            raise ArgumentError(
                f"{self._name('preds')} has {probabilities.shape[1]} classes, and the model has {self._true.count}. "
                "Pass the key of this model's predictions."
            )

    def explained(self, rows: Rows, dataset: str) -> Explained:
        """Some rows with their heatmaps."""
        labels, several = self.labels(rows)
        columns, probabilities = self.source.explain(rows, labels, several)
        return Explained(
            pictures=self.pictures(rows),
            columns=columns,
            probabilities=probabilities,
            labels=labels,
            ids=None if rows.get("ids") is None else list(rows["ids"]),
            ds_id=dataset,
            positions=rows.positions,
            masks=self.masks(rows),
            several=several,
        )

    def labels(self, rows: Rows) -> tuple[Labels, Several]:
        """(N,) the true classes, the first of several, and (N, C) all of them if images have several; or None."""
        return (None, None) if rows.get("labels") is None else self._true.read(rows["labels"])[:2]

    def masks(self, rows: Rows) -> NDArray[np.bool_] | None:
        """The pixels of the object in each of the network's images, (N, H, W), or None if not known."""
        masks, boxes = rows.get("masks"), rows.get("boxes")
        if masks is None and boxes is None:
            return None
        shape = np.shape(rows["images"])
        height, width = shape[1:3] if self.source.channels_last else shape[2:4]
        return object_masks(masks, boxes, (int(height), int(width)), len(rows))

    def pictures(self, rows: Rows) -> NDArray[np.uint8]:
        """(N, H, W, 3), the pictures over which heat is drawn."""
        images = rows["images"] if rows.get("display") is None else rows["display"]
        return self.options.look.pictures(images, channels_first=not self.source.channels_last)

    def _name(self, part: str) -> str:
        return self.called.get(part, part)


class ModelSource:
    """Asks a model, with its weights at that time.

    Args:
        model: A torch.nn.Module or a tf.keras.Model.
        options: The options of the watcher.
        layer: The layer, as `fe_gradcam.explain` takes it.
        called: The name of the images in an error.

    Raises:
        UnsupportedModelError: The model is of another kind.
        UnknownNameError: The model has no such layer.
    """

    reads_as_probabilities: bool | None = None

    def __init__(self, model: Any, options: Options, layer: Layer = None, called: str = "images") -> None:
        backend = backend_for(model)
        self.model, self.methods, self._options, self._called = model, options.rules, options, called
        self.channels_last = not backend.channels_first
        several = isinstance(layer, (list, tuple)) and len(layer) > 0
        check_reshape(options.settings.reshape, [layer])
        found = [None if one is None else backend.resolve(one, None) for one in (layer if several else [layer])]
        self._layer: Layer = found if several else found[0] if not isinstance(layer, (list, tuple)) else layer

    def explain(self, rows: Rows, labels: Labels, several: Several = None, *, trial: bool = False) -> Found:
        """See Source."""
        shape = np.shape(rows["images"])
        if len(shape) == 5:
            raise ArgumentError(
                f"{self._called} holds volumes of shape {shape[1:]}, and a grid shows only pictures. Pass the volumes "
                "to fe_gradcam.explain, and draw slices of the Heatmap."
            )
        known = None if labels is None else np.maximum(labels, 0)
        targets = self._options.named_targets
        asked = [known if isinstance(target, str) else target for _, target in targets]
        done = self._explained(rows, asked, trial=trial)
        named = [(method.label, name) for method in self.methods for name, _ in targets]
        columns = [Column(*names, heatmap) for names, heatmap in zip(named, done.heatmaps, strict=True)]
        columns = [_unlabelled_left_out(column, labels) for column in columns]
        if labels is not None and done.probabilities is not None:
            columns = self._with_true_class(columns, rows, labels, several, done.probabilities)
        return columns, done.probabilities

    def of_inferred_class(self, rows: Rows) -> Explanation:
        """The heatmaps of the first method for the inferred class of each image, and the probabilities."""
        return self._explained(rows, [None], methods=self.methods[:1])

    def measured(
        self, rows: Rows, heatmap: Heatmap, metrics: Sequence[Metric], masks: Masks
    ) -> Mapping[str, NDArray[np.float32]]:
        """See Source."""
        again = partial(self._again, rows, heatmap)
        return measure(self.model, _inputs(rows), heatmap, metrics, masks=masks, again=again, **self._asking(rows))

    def inquiry(
        self,
        rows: Rows,
        done: Explanation,
        labels: Labels,
        masks: Masks,
        several: Several = None,
        *,
        accused: Collection[int] = (),
        whole: bool = False,
    ) -> Inquiry | None:
        """What verdicts on the classes start from; None if the model puts out no classes.

        No more images are asked than the epoch had, but always ENOUGH_ASKED; as many as are needed if `whole`.
        """

        def of_class(which: NDArray[np.int64], class_id: int) -> Heatmap:
            return self._explained(rows, [class_id], methods=self.methods[:1], which=which).heatmaps[0]

        if done.probabilities is None:
            return None
        more: dict[str, Any] = {
            "masks": masks,
            "labels": labels if several is None else several,
            "names": self._options.classes.names,
            "explains": of_class,
            "accused": accused,
            "most": None if whole else max(rows.of, ENOUGH_ASKED),
        }
        return Inquiry(self.model, _inputs(rows), done.heatmaps[0], done.probabilities, **more, **self._asking(rows))

    def _asking(self, rows: Rows) -> dict[str, Any]:
        """The arguments for asking the model about changed pictures of these rows."""
        settings = self._options.settings
        batch_size = settings.batch_size or rows.largest_batch
        return {"batch_size": batch_size, "seed": settings.seed, "model_output": settings.model_output}

    def _again(self, rows: Rows, heatmap: Heatmap) -> Heatmap:
        """The same classes explained once more by the same method, with the weights of the model at that time."""
        method = next(method for method in self.methods if method.label == heatmap.method)
        known = heatmap.class_ids >= 0
        target = np.maximum(heatmap.class_ids, 0) if known.any() else self._options.named_targets[0][1]
        return self._explained(rows, [target], methods=[method]).heatmaps[0]

    def _explained(
        self, rows: Rows, targets: Any, *, methods: Any = None, which: Any = slice(None), trial: bool = False
    ) -> Explanation:
        how, methods = replace(self._options.settings, **self._asking(rows), trial=trial), methods or self.methods
        return explained(self.model, _inputs(rows, which), how, methods=methods, layers=[self._layer], targets=targets)

    def _with_true_class(
        self,
        columns: list[Column],
        rows: Rows,
        labels: NDArray[np.int64],
        several: Several,
        probabilities: NDArray[np.float32],
    ) -> list[Column]:
        """The heatmaps of the inferred class, and those of the true class, which are shown where the two differ."""
        names = [name for name, _ in self._options.named_targets]
        if "pred" not in names or "label" in names:
            return columns
        wrong = is_wrong(inferred_of(probabilities), labels, several) & (labels < probabilities.shape[1])
        of_true: dict[str, Heatmap] = {}
        if wrong.any():
            found = self._explained(rows, [labels[wrong]], which=wrong).heatmaps
            of_true = dict(zip((method.label for method in self.methods), found, strict=True))
        both = []
        for column in columns:
            both.append(column)
            if column.target == "pred":
                heatmap = column.heatmap.filled(wrong, of_true[column.method]) if of_true else column.heatmap
                heatmap = replace(heatmap, target="label")
                both.append(_unlabelled_left_out(Column(column.method, "label", heatmap, shown=wrong), labels))
        return both


def _inputs(rows: Rows, which: Any = slice(None)) -> Any:
    """The inputs of a model as `fe_gradcam.explain` takes them: a single input is not in a tuple."""
    images = [np.asarray(rows[name])[which] for name in rows.values if name.partition(" ")[0] == "images"]
    return tuple(images) if len(images) > 1 else images[0]


def _unlabelled_left_out(column: Column, labels: Labels) -> Column:
    """The column of the true classes; an image without a true class shows nothing."""
    if column.target != "label" or labels is None or (labels >= 0).all():
        return column
    heatmap, lacks = column.heatmap, labels < 0
    empty = lacks[:, None, None]
    left = replace(
        heatmap,
        values=np.where(empty, np.float32(0), heatmap.values),
        raw=np.where(empty, np.float32(0), heatmap.raw),
        class_ids=np.where(lacks, -1, heatmap.class_ids),
        confidences=np.where(lacks, np.float32(np.nan), heatmap.confidences),
        blank=heatmap.blank | lacks,
    )
    return replace(column, heatmap=left)
