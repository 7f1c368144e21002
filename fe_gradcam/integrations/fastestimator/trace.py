"""The GradCAM trace: heatmaps of some images at the end of each epoch of a FastEstimator training."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal, cast

import cv2
import numpy as np
from fastestimator.schedule.schedule import get_current_items
from fastestimator.summary.system import System
from fastestimator.trace.trace import Trace
from fastestimator.util.data import Data
from fastestimator.util.traceability_util import traceable
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.drawing.atlas import atlas_grid
from fe_gradcam.drawing.film import CELL, Follower
from fe_gradcam.drawing.grid import Grid
from fe_gradcam.drawing.pixels import colormap_lut, to_rgb
from fe_gradcam.drawing.sheet import Look, compose_grid, with_shared_scale
from fe_gradcam.errors import ArgumentError, CamError, CamWarning
from fe_gradcam.explaining.explained import Explained
from fe_gradcam.explaining.results import compose_arrays, compose_results
from fe_gradcam.explaining.route import check_reshape
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.explaining.views import Smooth
from fe_gradcam.integrations.fastestimator import compat
from fe_gradcam.integrations.fastestimator.display import HeatmapGrid
from fe_gradcam.integrations.fastestimator.keyed import KeyedSource
from fe_gradcam.metrics.measure import MetricSpec
from fe_gradcam.metrics.objects import object_places
from fe_gradcam.spec.images import host_rows
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.training import options as arguments
from fe_gradcam.training.chosen import Chosen
from fe_gradcam.training.epoch import Writer
from fe_gradcam.training.products.metrics import measures_of
from fe_gradcam.training.rows import Rows, are_probabilities, class_ids_of, ids_by_name, names_by_id, probabilities_of
from fe_gradcam.training.selection import Select, Selection, selection_of
from fe_gradcam.training.source import ModelSource, dummy_inputs, resolved
from fe_gradcam.types import Fuse, Layer, Method, Reshape, Scaling, Target
from fe_gradcam.verdicts.atlas import FEWEST, Atlas
from fe_gradcam.verdicts.places import Alarm

compat.apply()

ATLAS_SIZE = 128
"""Images that the atlas is made of, where no number is given."""

ALL_MODES = frozenset({"train", "eval", "test", "infer"})


@traceable()
class GradCAM(Trace):
    """Heatmaps of what the network looks at, drawn at the end of each epoch.

    With `model` (the plain way) the trace keeps some images of the epoch, the first `n_samples` or those that
    `select` asks for, and explains them at its end, with the weights of that moment; training is not touched. With
    `grads` and `activations` it draws what a LayerGradientOp put into the batch. In both cases it writes a
    GridDisplay under `outputs` and a list of dicts under ``f"{outputs}_results"`` to the epoch's
    data, for ImageSaver, ImageViewer, TensorBoard and other traces; with `save_dir` also to files.

    Mistakes in the arguments are errors: at once, before the first epoch, or with the first batch. Behind that no
    failure here ends a training: it is reported as a warning.

    Args:
        images: Key of the images, as the model takes them; several keys for a model with several
            inputs. The first is the picture, unless `display` names another.
        grads: Key of the gradients (N, K, h, w), or (N, h, w, K) on TensorFlow. Not with `model`.
        n_components: How many principal components eigen_cam, eigen_grad_cam and kpca_cam show, side by side, unless
            ``component`` is passed to them; no other method has any.
        n_samples: How many images, of each dataset, are explained every epoch; None for all, 0 for
            none.
        labels: Key of the true classes: ids (N,) or (N, 1), or one-hot (N, C).
        preds: Key of the predictions. With `model` what is shown was inferred in the pass that
            explains; with `grads` this is where predictions come from.
        label_mapping: {class name: class id}, as FastEstimator has it.
        outputs: The key under which the grid is written.
        mode: What mode(s) to run in: "train", "eval", "test", "infer", None for all, "!train" for all
            but one.
        ds_id: What dataset id(s) to run for, None for all, "!ds1" for all but one.
        model: The model to explain, of either framework.
        activations: Key of the activations that belong to `grads`.
        layer: The layer to explain, as `fe_gradcam.explain` takes it; of a list the layers are fused.
        methods: One method or several, side by side: names of `fe_gradcam.METHODS`, or pairs of a name and its
            parameters as `fe_gradcam.explain` takes them. Methods that ask the model again (score_cam and the like)
            need `model`, and take as long as `fe-gradcam methods` says.
        targets: What is explained, one or several, side by side: "pred" (the inferred class), "label"
            (the true class), a class id, a class name of `label_mapping`, or `Rank`, `Contrast`,
            `OutputValue`, `Segmentation` or a callable as `fe_gradcam.explain` takes them.
        scaling: "scale_after_relu", "scale_before_relu" or "none"; see `fe_gradcam.scaling.scale`.
        colormap: Any colormap of matplotlib.
        alpha: Weight of the heat over the picture, 0 to 1.
        display: Key of the picture to draw on, where it is not the network's input.
        mean: Mean that the images were normalised with, a number or one per channel, to undo it.
        std: Standard deviation that they were normalised with. Without both, each image is shown by
            its own range.
        ids: Key of a name (file, patient) that is shown and kept with each image.
        frequency: Run every so many epochs.
        save_dir: Folder for ``{outputs}_{mode}_epoch_{n}.png`` and ``.npz``, with ``_{ds_id}`` where
            there are several datasets. It is made where it does not exist.
        model_output: Which of the model's outputs holds the scores, as `fe_gradcam.explain` takes it.
        reshape: How the layer's output becomes a map, as `fe_gradcam.explain` takes it.
        fuse: "mean" or "max": how several layers become one map; see `fe_gradcam.scaling.fuse_maps`.
        smooth: "augment", "eigen" or both, as `fe_gradcam.explain` takes them.
        seed: For the methods that draw random numbers; the global streams are not touched.
        batch_size: Rows asked at once by methods that ask the model again; None: as many as the largest batch had.
        shared_scale: Whether all heatmaps of a method have one scale in a grid, so that magnitudes compare.
        select: Which images are explained. "first"; "random"; "misclassified" (a random choice of the mistakes);
            "confident_mistakes", the most confident first; "least_confident"; "best" and "worst", by the probability of
            the true class; "best_and_worst" of each class; or positions in the order of the epoch, ``[0, 7, 12]``, and
            then n_samples says nothing. What is random is drawn from `seed`, and the same in every epoch whose images
            come in the same order. Predictions under `preds` choose, with the weights that the model had when it made
            them; what is shown is inferred anew at the end of the epoch.
        per_class: So many images of each class, instead of `n_samples` in all: of each true class, or of each inferred
            one where `labels` is not given.
        track: Whether the images chosen in the first epoch are followed through all epochs. Then a filmstrip (rows
            images, columns epochs) stands under ``f"{outputs}_film"`` and in ``{outputs}_{mode}_film.png``. Needs
            `model`.
        masks: Key of masks (N, H, W), of one channel too: the object is where integers are not 0 and floats are 0.5 or
            more. It is outlined, and metrics of place are measured against it.
        boxes: Key of boxes (N, 4) or (N, M, 4): left, top, width and height in pixels of the images; what stands behind
            these four is not read. Used as `masks` are; of both the part that they share.
        metrics: Names of `fe_gradcam.METRICS`, or pairs of a name and its parameters: measured on the explained
            images, of the first target, and logged as ``{outputs}_{metric}``, with ``_{method}`` where there are
            several. With `track` also "drift" (1 - rank correlation with the epoch before) and "overlap" (of the
            hottest fifth with that of the epoch before, intersection over union).
        atlas: Whether the mean heat of each class is drawn, under ``f"{outputs}_atlas"`` and beside the grids, and a
            warning given where the net seems to tell a class by a fixed place; see `fe_gradcam.verdicts.places`. A
            number says of how many images, chosen at random, as many of each class as there are; True of 128. Needs
            `model`.
        on_error: "warn", or "raise" to let failures through (in tests).

    Raises:
        ArgumentError: An argument is not accepted.
        UnknownNameError: A method, layer, colormap or class name does not exist.
    """

    mode: set[str]
    ds_id: set[str]

    def __init__(
        self,
        images: str | Sequence[str],
        grads: str | None = None,
        n_components: int = 3,
        n_samples: int | None = 5,
        labels: str | None = None,
        preds: str | None = None,
        label_mapping: Mapping[str, Any] | None = None,
        outputs: str = "gradcam",
        mode: str | Iterable[str] | None = "!train",
        ds_id: str | Iterable[str] | None = None,
        *,
        model: Any = None,
        activations: str | None = None,
        layer: Layer = None,
        methods: Method | Sequence[Method] = "grad_cam",
        targets: Target | str | Sequence[Target | str] = "pred",
        scaling: Scaling = "scale_after_relu",
        colormap: str = "turbo",
        alpha: float = 0.5,
        display: str | None = None,
        mean: ArrayLike | None = None,
        std: ArrayLike | None = None,
        ids: str | None = None,
        frequency: int = 1,
        save_dir: str | os.PathLike[str] | None = None,
        model_output: ModelOutput = None,
        reshape: Reshape | None = None,
        fuse: Fuse = "mean",
        smooth: Smooth | Sequence[Smooth] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        shared_scale: bool = False,
        select: Select = "first",
        per_class: int | None = None,
        track: bool = False,
        masks: str | None = None,
        boxes: str | None = None,
        metrics: MetricSpec | Sequence[MetricSpec] = (),
        atlas: bool | int = False,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        several = list(images) if isinstance(images, (list, tuple)) and images else [images]
        self.image_keys = [arguments.key("images", image, optional=False) for image in several]
        self.label_key, self.pred_key = arguments.key("labels", labels), arguments.key("preds", preds)
        self.display_key, self.id_key = arguments.key("display", display), arguments.key("ids", ids)
        self.mask_key, self.box_key = arguments.key("masks", masks), arguments.key("boxes", boxes)
        arguments.key("outputs", outputs, optional=False)
        if n_samples is not None:
            n_samples = arguments.whole("n_samples", n_samples, 0, none=", or None for all")
        self.frequency = arguments.whole("frequency", frequency, 1)
        self.model = model
        class_ids = ids_by_name(arguments.mapping(label_mapping))
        self.names = names_by_id(class_ids)
        self.mean, self.std = arguments.per_channel("mean", mean), arguments.per_channel("std", std)
        self.save_dir = arguments.folder(save_dir)
        self.settings = Settings(
            scaling=scaling,
            seed=seed,
            batch_size=None if batch_size is None else arguments.whole("batch_size", batch_size, 1),
            class_names=self.names,
            model_output=model_output,
            reshape=reshape,
            fuse=fuse,
            smooth=smooth,
        )
        colormap_lut(colormap)
        self.look = Look(colormap, arguments.fraction("alpha", alpha), bool(shared_scale))
        if on_error not in ("warn", "raise"):
            raise ArgumentError(f"on_error={on_error!r} is not known. Accepted: 'warn', 'raise'.")
        self.on_error = on_error
        arguments.check_source(model, arguments.key("grads", grads), arguments.key("activations", activations))
        if model is None:
            arguments.check_keyed(
                layer=layer, model_output=model_output, reshape=reshape, smooth=smooth, track=track, atlas=atlas
            )
        check_reshape(reshape, [layer])
        n_components = arguments.whole("n_components", n_components, 1)
        rules = arguments.methods_of(methods, n_components, model=model is not None)
        known = {"model": model, "labels": labels, "preds": preds, "places": masks or boxes, "track": track or None}
        given = {name for name, value in known.items() if value is not None}
        self.selection = selection_of(select, n_samples, per_class, seed, given)
        size = int(atlas) * ATLAS_SIZE if isinstance(atlas, bool) else atlas
        self.atlas_size = arguments.whole("atlas", size, 0, none=", or True or False")
        if not isinstance(track, bool):
            raise ArgumentError(f"track={track!r} is not accepted. Accepted: True or False.")
        named = arguments.named_targets(
            targets, self.names, class_ids, labels="labels" in given, model="model" in given
        )
        self.source: ModelSource | KeyedSource
        if model is None:
            self.source = KeyedSource(
                self.image_keys[0], str(grads), activations, preds, labels, rules, self.names, self.settings
            )
        else:
            self.source = ModelSource(model, self.image_keys, resolved(layer, model), rules, named, self.settings)
        self.measures = measures_of(metrics, outputs, [method.label for method in rules], given)
        self.follower = Follower() if track else None
        keys = [*self.image_keys, grads, activations, labels, preds, display, ids, masks, boxes]
        self._keys = list(dict.fromkeys(key for key in keys if key is not None))
        self.writer = Writer(outputs, self.save_dir)
        self._modes: set[str] = set()
        of_atlas = [f"{outputs}_fixed_place", f"{outputs}_shortcuts"] if self.atlas_size else []
        self._logged = [*self.measures.keys, *of_atlas]
        written = [outputs, f"{outputs}_results", *self._logged]
        written += [f"{outputs}_film"] if track else []
        written += [f"{outputs}_atlas", f"{outputs}_alarms"] if self.atlas_size else []
        super().__init__(inputs=self._keys, outputs=written, mode=mode, ds_id=ds_id)
        self._modes, self._ds_ids = set(self.mode), set(self.ds_id)
        self._preds_are_probabilities: bool | None = None
        self._read: set[str] = set()
        self._accused: set[tuple[str, str, int]] = set()
        self._last: dict[tuple[str, str], float] = {}
        self._reset()
        self._model_checked = self._batch_checked = False

    # --- the host's hooks ------------------------------------------------------------------------

    @property
    def system(self) -> System:
        """The state of the training."""
        return self._system

    @system.setter
    def system(self, system: System) -> None:
        # A trace that reads our key in modes where we do not run (TensorBoard has none of its own)
        # stops the host's warmup: for the host we are there too, and run where we were asked to.
        self._system = system
        for other in get_current_items(system.traces):
            read = {key for key in other.inputs if key.partition("|")[0] in self.outputs}
            if other is not self and read:
                self._read |= read
                if self._modes:
                    self.mode = set(self.mode) | set(other.mode or ALL_MODES)
                if self._ds_ids and not other.ds_id:
                    self.ds_id = set()
        twins = [
            other for other in system.traces if isinstance(other, GradCAM) and set(other.outputs) & set(self.outputs)
        ]
        if len(twins) > 1 and any(self._shares_an_epoch_with(twin) for twin in twins):
            raise ArgumentError(
                f"outputs={self.outputs[0]!r} is the key of {len(twins)} GradCAM traces, which would overwrite each "
                "other. Give each an outputs= of its own."
            )

    def __getstate__(self) -> dict[str, Any]:
        """What a RestoreWizard saves of the trace: the images that are followed, and their filmstrips."""
        return {"follower": None if self.follower is None else self.follower.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes up what was saved; what does not fit is left, with a warning."""
        follower = getattr(self, "follower", None)  # of a copy, which has nothing
        if follower is not None and state.get("follower") is not None:
            with self._forgiven("go on with the filmstrip of the training that is resumed"):
                follower.restore(state["follower"], self._keys)

    def _shares_an_epoch_with(self, other: GradCAM) -> bool:
        same_mode = not self._modes or not other._modes or self._modes & other._modes
        return other is not self and bool(same_mode) and self._ds_ids == other._ds_ids

    def get_outputs(self, ds_ids: str | list[str] | None) -> list[str]:
        """The keys written: each output, each with every dataset's id, and those of other datasets that are read."""
        several = [ds_ids] if isinstance(ds_ids, str) else list(ds_ids or ())
        of_datasets = [f"{key}|{ds_id}" for key in self.outputs for ds_id in several if ds_id]
        return list(dict.fromkeys([*self.outputs, *of_datasets, *sorted(self._read)]))

    def on_begin(self, data: Data) -> None:
        """Explains a dummy image where the model's input is known, so that mistakes show at once."""
        self._model_checked = self._batch_checked = False
        self._accused, self._last = set(), {}
        if self.save_dir is not None:
            arguments.make_folder(self.save_dir)
        if self.follower is not None and self.system.epoch_idx == 0:
            self.follower.clear()
        dummy = None if self.model is None else dummy_inputs(self.model)
        if dummy is not None and len(dummy) == len(self.image_keys):
            rows = Rows(dict(zip(self.image_keys, dummy, strict=True)), np.zeros(1, np.int64))
            try:
                self.source.explain(rows, np.zeros(1, np.int64), self.system, trial=True)
                if self.display_key is None:
                    self._pictures(dummy[0])
            except CamError:
                raise
            except Exception:  # what a picture of ones does to a model says little
                with self._forgiven("explain a dummy image"):
                    raise
            else:
                self._model_checked = True

    def on_epoch_begin(self, data: Data) -> None:
        """Starts anew."""
        self._reset()

    def on_batch_end(self, data: Data) -> None:
        """Keeps the rows that are wanted."""
        ds_id = self.system.ds_id
        if not self._runs_now(ds_id):
            return
        if ds_id not in self._choices:
            self._choices[ds_id] = self._new_choices(ds_id)
        wanted = [chosen for chosen in self._choices[ds_id].values() if not chosen.full]
        if not wanted:
            return
        if not self._batch_checked:
            self._check_first(data)
        with self._forgiven("keep the images of a batch"):
            facts = self._facts(data)
            for chosen in wanted:
                chosen.add(data, *facts)

    def on_epoch_end(self, data: Data) -> None:
        """Explains the kept images, and hands out grid, results, metrics and files."""
        drawn = not self._failed and bool(self._choices)
        try:
            if drawn:
                with self._forgiven("draw the heatmaps of this epoch"):
                    self._draw(data)
            if drawn and self.atlas_size:
                with self._forgiven("draw the atlas of the classes"):
                    self._draw_atlas(data)
        finally:
            self._fill_in(data)
            self._reset()

    # --- collecting ------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._choices: dict[str, dict[str, Chosen]] = {}
        self._failed = False

    def _new_choices(self, ds_id: str) -> dict[str, Chosen]:
        """What is chosen of a dataset: the rows of the grid, unless they are followed, and those of the atlas."""
        choices = {}
        if self.follower is None or (self.system.mode, ds_id) not in self.follower.rows:
            choices["grid"] = Chosen(self._keys, self.selection)
        if self.atlas_size:
            by_class = self.label_key is not None or self.pred_key is not None
            limit, most = (None, self.atlas_size) if by_class else (self.atlas_size, None)
            every = Selection("random", ("random",), limit, by_class, most, seed=self.settings.seed)
            choices["atlas"] = Chosen(self._keys, every)
        return choices

    def _runs_now(self, ds_id: str) -> bool:
        return not self._failed and self._runs_in(self.system.mode, ds_id)

    def _runs_in(self, mode: str, ds_id: str) -> bool:
        if mode in ("train", "eval") and self.system.epoch_idx % self.frequency:
            return False
        asked = SimpleNamespace(mode=self._modes, ds_id=self._ds_ids)
        return bool(get_current_items([asked], run_modes=mode, ds_id=ds_id))

    def _facts(self, data: Mapping[str, Any]) -> tuple[NDArray[np.int64] | None, NDArray[np.float32] | None]:
        """The labels and probabilities of a batch, as far as choosing rows needs them."""
        needs, by_class = self.selection.needs, self.selection.by_class or bool(self.atlas_size)
        labels = probabilities = None
        if self.label_key is not None and ("labels" in needs or by_class):
            labels = class_ids_of(host_rows(data[self.label_key]), self.label_key)
        if self._needs_preds:
            probabilities = self._probabilities(host_rows(data[self.pred_key]))
        return labels, probabilities

    @property
    def _needs_preds(self) -> bool:
        """Whether predictions say which rows are chosen."""
        by_class = self.selection.by_class or bool(self.atlas_size)
        asked = "preds" in self.selection.needs or (by_class and self.label_key is None)
        return asked and self.pred_key is not None

    def _probabilities(self, preds: Any) -> NDArray[np.float32]:
        if isinstance(self.source, KeyedSource):
            return self.source.probabilities(preds, self.system)
        return probabilities_of(preds, str(self.pred_key), self._preds_are_probabilities)

    def _check_first(self, data: Mapping[str, Any]) -> None:
        """One image of the first batch: a wrong argument is an error here, and no warning at every epoch's end."""
        chosen = Chosen(self._keys, Selection(limit=1))
        try:
            chosen.add(data)
            one = chosen.rows()
            self._pictures(one[self.display_key or self.image_keys[0]])
            self._places(one)
            self._labels(one)
            if not self._model_checked or self._needs_preds:
                part = self._explain(one, self.system.ds_id, trial=True)
                if self.pred_key is not None and part.probabilities is not None:
                    self._preds_are_probabilities = are_probabilities(one[self.pred_key], part.probabilities)
            self._facts(data)
        except CamError:
            raise
        except Exception:
            with self._forgiven("explain the first image"):
                raise
        self._batch_checked = True

    @contextmanager
    def _forgiven(self, what: str) -> Iterator[None]:
        """A failure inside is a warning, and the trace rests until the next epoch."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._failed = True
            warnings.warn(
                f"GradCAM ({self.outputs[0]!r}) could not {what}; the training goes on. "
                f"{type(error).__name__}: {error}\n{traceback.format_exc()}",
                CamWarning,
                stacklevel=3,
            )

    # --- explaining ------------------------------------------------------------------------------

    def _explain(self, rows: Rows, ds_id: str, *, trial: bool = False) -> Explained:
        labels = self._labels(rows)
        columns, probabilities = self.source.explain(rows, labels, self.system, trial=trial)
        pictures = self._pictures(rows[self.display_key or self.image_keys[0]])
        return Explained(
            pictures=pictures,
            columns=columns,
            probabilities=probabilities,
            labels=labels,
            ids=None if self.id_key is None else list(rows[self.id_key]),
            ds_id=ds_id,
            positions=rows.positions,
            masks=self._places(rows),
        )

    def _labels(self, rows: Rows) -> NDArray[np.int64] | None:
        return None if self.label_key is None else class_ids_of(rows[self.label_key], self.label_key)

    def _places(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Where the object is in each of the network's images, (N, H, W), or None where that is not known."""
        if self.mask_key is None and self.box_key is None:
            return None
        masks = None if self.mask_key is None else rows[self.mask_key]
        boxes = None if self.box_key is None else rows[self.box_key]
        shape = np.shape(rows[self.image_keys[0]])
        height, width = shape[1:3] if self._channels_last else shape[2:4]
        return object_places(masks, boxes, (int(height), int(width)))

    def _pictures(self, given: Any) -> NDArray[np.uint8]:
        images = np.asarray(given)
        channels_first = not self._channels_last
        if images.ndim == 4:
            fits = [images.shape[axis] in (1, 3) for axis in (1, 3)]
            channels_first = fits[0] if fits[0] != fits[1] else channels_first
        return to_rgb(images, channels_first=channels_first, mean=self.mean, std=self.std)

    @property
    def _channels_last(self) -> bool:
        return bool(self.system.network.target_type == "tf")

    def _rows_of_grid(self) -> dict[str, Rows]:
        """The rows that are explained of each dataset: those followed, or those chosen in this epoch."""
        found: dict[str, Rows] = {}
        for ds_id, choices in self._choices.items():
            place = (self.system.mode, ds_id)
            if self.follower is not None and place in self.follower.rows:
                found[ds_id] = self.follower.rows[place]
            elif "grid" in choices and len(choices["grid"]):
                found[ds_id] = choices["grid"].rows()
                if self.follower is not None:
                    self.follower.rows[place] = found[ds_id]
            if "grid" in choices and choices["grid"].missing:
                warnings.warn(
                    f"select: the epoch had {choices['grid'].seen} images, and none at {choices['grid'].missing}.",
                    CamWarning,
                    stacklevel=2,
                )
        return found

    # --- handing out -----------------------------------------------------------------------------

    def _draw(self, data: Data) -> None:
        rows = self._rows_of_grid()
        if not rows:
            return
        parts = [self._explain(kept, ds_id) for ds_id, kept in rows.items()]
        grids = self._hand_out(parts, data)
        if self.follower is not None:
            self._show_film(self.follower, parts, grids, data)
        if self.measures.keys:
            with self._forgiven("measure the heatmaps of this epoch"):
                self._measure(parts, rows, data)

    def _hand_out(self, parts: list[Explained], data: Data) -> dict[str, HeatmapGrid]:
        """Writes grid, results and files; gives the grid of each dataset."""
        epoch, mode = self.system.epoch_idx, self.system.mode
        if self.look.shared_scale:
            parts = with_shared_scale(parts)
        grids = {part.ds_id: self._grid([part], part.ds_id) for part in parts}
        of_all = self._grid(parts) if len(parts) > 1 else None
        self.writer.show(data, self.outputs[0], grids, mode, f"epoch_{epoch}", of_all)
        results = {part.ds_id: compose_results([part], self.names, epoch, mode) for part in parts}
        self.writer.put(data, self.outputs[1], results, [one for part in results.values() for one in part])
        for part in parts:
            arrays = compose_arrays(part, epoch, mode)
            self.writer.save(arrays, mode, f"epoch_{epoch}", part.ds_id if len(parts) > 1 else "")
        return grids

    def _grid(self, parts: list[Explained], ds_id: str = "") -> HeatmapGrid:
        numbered = self.selection.name != "first"
        rule = self.selection.name.replace("_", " ") if numbered else ""
        title = f"{self._title(ds_id)}, {rule}" if rule else self._title(ds_id)
        if rule and self.follower is not None:
            title += " when first seen"
        return HeatmapGrid(compose_grid(parts, self.names, self.look, title, numbered=numbered))

    def _title(self, ds_id: str) -> str:
        parts = [self.system.mode, f"epoch {self.system.epoch_idx}", ds_id]
        return ", ".join(filter(None, parts))

    def _measure(self, parts: list[Explained], rows: Mapping[str, Rows], data: Data) -> None:
        """Logs the metrics."""
        found = {}
        for part in parts:
            kept = rows[part.ds_id]
            of_classes = (column.target for column in part.columns if (column.heatmap.class_ids >= 0).any())
            first = next(of_classes, part.columns[0].target)
            heatmaps = {column.method: column.heatmap for column in part.columns if column.target == first}
            found[part.ds_id] = self.measures.of(self.source, kept, heatmaps, part.masks, self.system)
            if self.follower is not None:
                compared = self.follower.compared((self.system.mode, part.ds_id), heatmaps)
                found[part.ds_id] |= self.measures.followed(compared)
        for key in self.measures.keys:
            self.writer.log(data, key, {ds_id: values[key] for ds_id, values in found.items() if key in values})

    def _fill_in(self, data: Data) -> None:
        """The last value under the metrics that were not measured, or NaN: a missing key would stop who monitors it."""
        if self._modes and self.system.mode not in self._modes:
            return
        of_datasets = {key for key in self._read if key.partition("|")[0] in self._logged}
        for key in {*self._logged, *of_datasets}:
            place = (self.system.mode, key)
            if key in data:
                self._last[place] = float(data[key])
            else:
                data.write_without_log(key, self._last.get(place, float("nan")))

    def _show_film(
        self, follower: Follower, parts: list[Explained], grids: Mapping[str, HeatmapGrid], data: Data
    ) -> None:
        """Adds the epoch to the filmstrip of each dataset, and writes it."""
        films = {}
        for part in parts:
            place, grid = (self.system.mode, part.ds_id), grids[part.ds_id].grid
            follower.add(place, self.system.epoch_idx, grid, part.columns[0].method)
            films[part.ds_id] = HeatmapGrid(follower.film(place, grid), cell=CELL)
        self.writer.show(data, f"{self.outputs[0]}_film", films, self.system.mode, "film")

    def _draw_atlas(self, data: Data) -> None:
        """Draws the mean heat of each class, and warns of those that seem to be told by a place."""
        prefix, pictures, every = self.outputs[0], {}, []
        fixed: dict[str, NDArray[np.float32]] = {}
        counts: dict[str, int] = {}
        for ds_id, choices in self._choices.items():
            if len(choices["atlas"]):
                grid, atlas, found = self._atlas_of(choices["atlas"].rows(), ds_id)
                pictures[ds_id] = HeatmapGrid(grid, cell=CELL)
                fixed[ds_id] = np.array([atlas.fixed_place], np.float32)
                if self._has_enough(atlas, ds_id):
                    counts[ds_id] = len(found)
                every += found
                self._warn(found, ds_id)
        if pictures:
            self.writer.show(
                data, f"{prefix}_atlas", pictures, self.system.mode, f"atlas_epoch_{self.system.epoch_idx}"
            )
            self.writer.log(data, f"{prefix}_fixed_place", fixed)
            data.write_without_log(f"{prefix}_alarms", every)
            if counts:
                data.write_with_log(f"{prefix}_shortcuts", len(every))
            for ds_id, count in counts.items():
                if ds_id:
                    data.write_with_log(f"{prefix}_shortcuts|{ds_id}", count)

    def _has_enough(self, atlas: Atlas, ds_id: str) -> bool:
        """Whether a class has the images that a test for shortcuts needs; says once where there cannot be enough."""
        place, classes = (self.system.mode, ds_id, -1), len(atlas.classes)
        if self.atlas_size < FEWEST * classes and place not in self._accused:
            self._accused.add(place)
            warnings.warn(
                f"GradCAM ({self.outputs[0]!r}): atlas={self.atlas_size} images are too few for {classes} classes; a "
                f"class with fewer than {FEWEST} is not tested for shortcuts. Pass atlas={2 * FEWEST * classes}.",
                CamWarning,
                stacklevel=2,
            )
        return any(one.warm >= FEWEST for one in atlas.classes.values())

    def _warn(self, found: Sequence[Alarm], ds_id: str) -> None:
        """Says in the log which classes seem to be told by a place; at length when it is the first time."""
        for alarm in found:
            accused = (self.system.mode, ds_id, alarm.class_id)
            text = alarm.text_again(self.names) if accused in self._accused else alarm.text(self.names)
            self._accused.add(accused)
            of = f"{self.outputs[0]!r}, {ds_id}" if ds_id else repr(self.outputs[0])
            print(f"FastEstimator-Warn: GradCAM ({of}): {text}", flush=True)

    def _atlas_of(self, rows: Rows, ds_id: str) -> tuple[Grid, Atlas, list[Alarm]]:
        source = cast(ModelSource, self.source)  # of keys no atlas is drawn
        method = source.methods[0]
        pictures = self._pictures(rows[self.display_key or self.image_keys[0]])
        heatmap = source.of_inferred_class(rows, self.system)
        height, width = heatmap.values.shape[1:]
        if pictures.shape[1:3] != (height, width):
            pictures = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in pictures])
        atlas = Atlas.of(heatmap, pictures)
        found = source.alarms(rows, heatmap, atlas, self._places(rows), self.system)
        title = self._title(ds_id)
        warned = {alarm.class_id: alarm.box for alarm in found}
        look = self.look
        grid = atlas_grid(atlas, self.names, f"{title}: the classes", method.label, look.colormap, look.alpha, warned)
        return grid, atlas, found
