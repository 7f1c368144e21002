"""The GradCAM trace: heatmaps of some images at the end of each epoch of a FastEstimator training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import torch
from fastestimator.schedule.schedule import get_current_items
from fastestimator.summary.system import System
from fastestimator.trace.trace import Trace
from fastestimator.util.data import Data
from fastestimator.util.traceability_util import traceable
from numpy.typing import ArrayLike, NDArray

from fe_gradcam.backends.interrupts import interruptible
from fe_gradcam.drawing.picture import Picture
from fe_gradcam.drawing.sheet import Look
from fe_gradcam.errors import ArgumentError, CamError, UnknownNameError, nearest
from fe_gradcam.explaining.settings import Settings
from fe_gradcam.explaining.views import Smooth
from fe_gradcam.integrations.fastestimator import compat, warmup
from fe_gradcam.integrations.fastestimator.checked import (
    checked_datasets,
    checked_key,
    checked_modes,
    says_what_cannot_be_recorded,
)
from fe_gradcam.integrations.fastestimator.copying import Copied
from fe_gradcam.integrations.fastestimator.display import HeatmapGrid
from fe_gradcam.integrations.fastestimator.keyed import KeyedSource, check_source
from fe_gradcam.integrations.fastestimator.logs import HostLogs
from fe_gradcam.metrics.rules import MetricSpec
from fe_gradcam.parameters import class_knows_its_keywords, flag
from fe_gradcam.spec.outputs import ModelOutput
from fe_gradcam.training.epoch import Cost, Put
from fe_gradcam.training.options import Classes, Options
from fe_gradcam.training.pages import Past
from fe_gradcam.training.rows import input_names
from fe_gradcam.training.selection import Select, selection_of
from fe_gradcam.training.source import ModelSource, Source
from fe_gradcam.training.watcher import Watcher
from fe_gradcam.types import Fuse, Layer, Method, Reshape, Scaling, Target

compat.apply()
warmup.apply()

ALL_MODES = frozenset({"train", "eval", "test", "infer"})


@class_knows_its_keywords(
    method="methods= with a name or a list of names",
    target="targets= with one or a list",
    layers="layer= with one, or with a list that is fused to one map",
    target_layers="layer= with one, or with a list that is fused to one map",
    class_names="label_mapping= with {name: id}",
    image="images= with the key of the images",
    network="model= with the model itself",
    output="outputs= with the key of the grid",
    bbox="boxes= with a key",
    bboxes="boxes= with a key",
    mask="masks= with a key",
    places="masks= or boxes= with a key",
)
@says_what_cannot_be_recorded
@traceable()
class GradCAM(Copied, Trace):
    """Heatmaps of what the network looks at, drawn at the end of each epoch.

    With `model` (the usual way) the trace keeps some images of the epoch, the first `n_samples` or those that
    `select` chooses, and explains them at the end of the epoch, with the weights at that time; training is not
    changed. With `grads` and `activations` it draws what a LayerGradientOp wrote to the batch. In both cases it writes
    a GridDisplay under `outputs` and a list of dicts under ``f"{outputs}_results"`` to the epoch's data, for
    ImageSaver, ImageViewer, TensorBoard and other traces; with `save_dir` it also writes files.

    With TensorFlow 2.16 or newer, importing the trace makes ``tf.keras`` Keras 2 (tf_keras): FastEstimator needs it.

    A mistake in the arguments is an error, at once or before the first step: the trace checks the batches of
    FastEstimator's warmup, and explains one image of them. Without a warmup it checks the first batch. After that, no
    failure of the trace ends a training: it is reported as a warning, or as a line of the log where warnings are
    errors. An image without a true class (-1, NaN, not a class of the model) is shown as not labelled, with one
    warning. A copy of a trace is a trace with the same arguments and model.

    Args:
        images: Key of the images, as the model takes them; several keys for a model with several
            inputs. The first is the picture, unless `display` names another.
        grads: Key of the gradients (N, K, h, w), or (N, h, w, K) on TensorFlow. Not with `model`.
        n_components: How many principal components eigen_cam, eigen_grad_cam and kpca_cam show, side by side, unless
            ``component`` is passed to them; other methods have no components.
        n_samples: How many images of each dataset are explained every epoch; None for all, 0 for none.
        labels: Key of the true classes: ids (N,) or (N, 1), names in `label_mapping`, or (N, C), one-hot or of 0 and 1
            if an image may have several; -1 for an image without one. Of several the first is shown, and all count as
            right. If the inferred class is wrong, the heatmap of the true class is drawn below.
        preds: Key of the predictions. With `grads` the predictions that are shown come from here; with `model`
            they come from the pass that explains.
        label_mapping: {class name: class id}, as in FastEstimator.
        outputs: The key under which the grid is written, and the beginning of the names of files (see `save_dir`).
        mode: What mode(s) to run in: "train", "eval", "test", "infer", None for all, "!train" for all but one.
        ds_id: What dataset id(s) to run for, None for all, "!ds1" for all but one.

        --- what is explained ---
        model: The model to explain, of either framework.
        layer: The layer whose output is explained: its name, its index, or the layer itself; None chooses one. A list
            of layers gives one heatmap, fused from all (see `fuse`). `fe_gradcam.list_layers` lists the layers.
        methods: One method or several, side by side: names of `fe_gradcam.METHODS`, or pairs of a name and its
            parameters as `fe_gradcam.explain` takes them. Methods that ask the model again (score_cam and the like)
            need `model`; `fe-gradcam methods` says what they cost.
        targets: What is explained, one or several, side by side: "pred" (the inferred class), "label"
            (the true class), a class id, a class name of `label_mapping`, or `Rank`, `Contrast`,
            `OutputValue`, `Segmentation` or a callable as `fe_gradcam.explain` takes them.
        model_output: Which of the model's outputs holds the scores, as `fe_gradcam.explain` takes it.
        reshape: How the layer's output becomes a map, as `fe_gradcam.explain` takes it.
        fuse: "mean" or "max": how several layers become one map; see `fe_gradcam.scaling.fuse_maps`.
        smooth: "augment", "eigen" or both, as `fe_gradcam.explain` takes them.
        batch_size: Rows per pass of methods that ask the model again; None: as many as the largest batch had.
        seed: Seed of random numbers; the global streams are not touched.

        --- which images ---
        select: Which images are explained: "first"; "random"; "misclassified" (a random choice of the mistakes);
            "confident_mistakes", the most confident first; "least_confident"; "best" and "worst", by the probability of
            the true class; "best_and_worst" of each class; or a list of positions in the order of the epoch,
            ``[0, 7, 12]``, which makes n_samples meaningless. A random choice depends on `seed`, and is the same in
            every epoch if the images come in the same order. Rules that need predictions take those under `preds`, from
            the weights at that time; the predictions that are shown are made anew at the end of the epoch.
        per_class: How many images of each class, instead of `n_samples` in all: of each true class, or, without
            `labels`, of each inferred class.
        frequency: Run every so many epochs.

        --- where the object is ---
        masks: Key of masks (N, H, W), also with one channel: the object is where integers are not 0, or floats are 0.5
            or more. The object is outlined, and the metrics that need its place read it.
        boxes: Key of boxes (N, 4) or (N, M, 4): left, top, width and height in pixels of the images; further numbers
            are not read. Used like `masks`; with both, the object is where both say so.

        --- how it is drawn ---
        mean: Mean of the normalisation of the images, a number or one per channel; the picture undoes it.
        std: Standard deviation of that normalisation. Without mean and std, each image is shown by its own range.
        scaling: "scale_after_relu", "scale_before_relu" or "none"; see `fe_gradcam.scaling.scale`.
        shared_scale: Whether all heatmaps of a method in a grid share one scale, so that magnitudes compare.
        colormap: Any colormap of matplotlib.
        alpha: Weight of the heat over the picture, 0 to 1.

        --- what else is made ---
        track: Whether the images chosen in the first epoch are followed through all epochs. Then a filmstrip (a row
            for each image, a column for each epoch) is written under ``f"{outputs}_film"`` and to
            ``{outputs}_{mode}_film.png``. Needs `model`.
        metrics: Names of `fe_gradcam.METRICS`, or pairs of a name and its parameters. They are measured on the
            explained images for the first target, and logged as ``{outputs}_{metric}``, with ``_{method}`` if there
            are several methods. With `track` there are also "drift" (1 - rank correlation with the epoch before) and
            "overlap" (intersection over union of the hottest fifth with that of the epoch before). The log says once
            which direction is better; to compare trainings, take n_samples=32 or more.
        atlas: Whether to draw the mean heat of each class, under ``f"{outputs}_atlas"`` and beside the grids, and to
            judge whether each class is told by something else than the object; see `fe_gradcam.find_shortcuts`. True
            takes 128 images at random, as many of each class as possible; a number, or ``{"n_samples": a number}``,
            takes so many, and ``{"ignore": ["place"]}`` leaves out verdicts that you know to be right. With `labels`
            those count that are told rightly; an empty mask says that there is no object. ``f"{outputs}_verdicts"``
            holds a Verdict for each class, ``f"{outputs}_alarms"`` those that accuse, ``f"{outputs}_experiments"`` the
            images of the tests; ``f"{outputs}_shortcuts"`` in the log counts those that accuse, and with `masks` or
            `boxes` ``f"{outputs}_surroundings"`` is the largest gap between surroundings. An epoch asks the model no
            more images than it had, or 512, those classes first that were not judged for longest; a test judges all.
            ``f"{outputs}_fixed_place"`` holds how much the heat stays at one place; it is not logged, because a high
            value is no fault in itself. Needs `model`.
        report: Whether to write one HTML page of the training, ``{outputs}_{mode}_report.html``, anew after each epoch:
            verdicts with their experiments, curves, the images of all epochs with their heat, the atlas. It needs
            nothing but a browser, and ``f"{outputs}_report"`` holds its path. A dict has settings: ``"pictures"``
            (False leaves all pictures out), ``"title"``, and ``"track"``: as with `track`, images are followed, unless
            it is False; then the page has the pictures of the last epoch alone. Needs `save_dir`.

        --- where to ---
        save_dir: Folder for the pictures and arrays, ``{outputs}_{mode}_epoch_{n:03d}.png`` and ``.npz``, with
            ``_{ds_id}`` if there are several datasets. A missing folder is made; the log says once what to open there.
            In names of files, letters of any script stay; other signs become ``_``, with a hash at the end that keeps
            names apart. If a training that still goes on writes under the same name, a warning says so at the start,
            and the files begin with ``{outputs}~2``.
        on_error: "warn", or "raise" to let failures through (in tests).

        --- more keys ---
        activations: Key of the activations that belong to `grads`.
        display: Key of the picture to draw on, if it is not the network's input.
        ids: Key of a name (file, patient) that is shown and kept with each image.

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
        # what is explained
        model: Any = None,
        layer: Layer = None,
        methods: Method | Sequence[Method] = "grad_cam",
        targets: Target | str | Sequence[Target | str] = "pred",
        model_output: ModelOutput = None,
        reshape: Reshape | None = None,
        fuse: Fuse = "mean",
        smooth: Smooth | Sequence[Smooth] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        # which images
        select: Select = "first",
        per_class: int | None = None,
        frequency: int = 1,
        # where the object is
        masks: str | None = None,
        boxes: str | None = None,
        # how it is drawn
        mean: ArrayLike | None = None,
        std: ArrayLike | None = None,
        scaling: Scaling = "scale_after_relu",
        shared_scale: bool = False,
        colormap: str = "turbo",
        alpha: float = 0.5,
        # what else is made
        track: bool = False,
        metrics: MetricSpec | Sequence[MetricSpec] = (),
        atlas: bool | int | Mapping[str, Any] = False,
        report: bool | Mapping[str, Any] = False,
        # where to
        save_dir: str | os.PathLike[str] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        # more keys
        activations: str | None = None,
        display: str | None = None,
        ids: str | None = None,
    ) -> None:
        self._made_with({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        several = images if isinstance(images, (list, tuple)) and images else [images]
        self._image_keys = [checked_key("images", image) for image in several]
        keys = {"labels": labels, "preds": preds, "ids": ids, "masks": masks, "boxes": boxes, "display": display}
        keys |= {"grads": grads, "activations": activations}
        self._keys = {part: checked_key(part, key) for part, key in keys.items() if key is not None}
        checked_key("outputs", outputs)
        mode, ds_id = checked_modes(mode), checked_datasets(ds_id)
        self.model = model
        check_source(model, grads, activations)
        given = self._keys.keys() - {"grads", "activations"} | ({"model"} if model is not None else set())
        options = Options(
            given,
            name=outputs,
            classes=Classes.of(label_mapping),
            settings=Settings(
                scaling=scaling,
                batch_size=batch_size,
                seed=seed,
                model_output=model_output,
                reshape=reshape,
                fuse=fuse,
                smooth=smooth,
            ),
            look=Look(colormap, alpha, mean, std),
            selection=selection_of(select, n_samples, per_class, seed, given),
            methods=methods,
            n_components=n_components,
            targets=targets,
            frequency=frequency,
            save_dir=save_dir,
            shared_scale=flag("shared_scale", shared_scale),
            track=track,
            metrics=metrics,
            atlas=cast(int, atlas),  # the options make a number of it
            report=report,
            on_error=on_error,
        )
        called = {part: f"{part}={key!r}" for part, key in self._keys.items()}
        of_images = [f"images={key!r}" for key in self._image_keys]
        called |= dict(zip(input_names(len(of_images)), of_images, strict=True))
        source: Source
        if model is None:
            source = KeyedSource(self._keys, options, lambda: self.system, layer)
        else:
            source = ModelSource(model, options, layer, called["images"])
        around = lambda: _on_device_of(self.system.network, model)  # noqa: E731
        self.watcher = Watcher(source, options, called, around, _warn_in_the_log)
        # Ours first, then what stands in the log, then the rest.
        written = dict.fromkeys([*self.watcher.keys[:2], *self.watcher.logged, *self.watcher.keys])
        read = list(dict.fromkeys([*self._image_keys, *self._keys.values()]))
        super().__init__(inputs=read, outputs=list(written), mode=mode, ds_id=ds_id)
        self._modes, self._ds_ids = set(self.mode), set(self.ds_id)
        self._read: set[str] = set()
        self._foreseen: dict[tuple[str, str], dict[str, Any]] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._cost, self._costly, self._logs = Cost(), "", HostLogs()

    # --- the host's hooks ------------------------------------------------------------------------

    @property
    def system(self) -> System:
        """The state of the training."""
        return self._system

    @system.setter
    def system(self, system: System) -> None:
        # A trace that reads our key in modes where we do not run (TensorBoard has none of its own)
        # stops the host's warmup: for the host we are there too, and run where we were asked to.
        self._system, self._foreseen = system, {}
        for other in get_current_items(system.traces):
            read = {key for key in other.inputs if key.partition("|")[0] in self.outputs}
            if other is not self and read:
                self._read |= read
                if self._modes:
                    self.mode = set(self.mode) | set(other.mode or ALL_MODES)
                if self._ds_ids and not other.ds_id:
                    self.ds_id = set()
        twins = [one for one in system.traces if isinstance(one, GradCAM) and set(one.outputs) & set(self.outputs)]
        if len(twins) > 1 and any(self._shares_an_epoch_with(twin) for twin in twins):
            raise ArgumentError(
                f"outputs={self.outputs[0]!r} is the key of {len(twins)} GradCAM traces, which would overwrite each "
                "other. Pass a different outputs= to each."
            )

    def __getstate__(self) -> dict[str, Any]:
        """The part of the trace that a RestoreWizard saves: the rows that are followed from epoch to epoch."""
        return {"history": self.watcher.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a saved state; a state that does not fit is left out, with a warning."""
        if state and (self.watcher.options.track or self.watcher.options.report):
            self.watcher.restore(state.get("history", state))

    def _shares_an_epoch_with(self, other: GradCAM) -> bool:
        same_mode = not self._modes or not other._modes or self._modes & other._modes
        folders = {trace.watcher.folder.path for trace in (self, other)}
        same_rows = self._ds_ids == other._ds_ids or (len(folders) == 1 and None not in folders)
        return other is not self and bool(same_mode) and same_rows

    def get_outputs(self, ds_ids: str | list[str] | None) -> list[str]:
        """The keys that are written: each output, alone and with each dataset's id, and all that other traces read."""
        several = [ds_ids] if isinstance(ds_ids, str) else list(ds_ids or ())
        of_datasets = [f"{key}|{ds_id}" for key in self.outputs for ds_id in several if ds_id]
        return list(dict.fromkeys([*self.outputs, *of_datasets, *sorted(self._read)]))

    def foresee(self, mode: str, dataset: str, batch: Mapping[str, Any]) -> None:
        """Takes note of a batch of the host's warmup, the first of each mode and dataset that has all our keys."""
        keys = [*self._image_keys, *self._keys.values()]
        if self._runs_in(mode, dataset) and all(key in batch for key in keys):
            self._foreseen.setdefault((mode, dataset), {key: batch[key] for key in keys})

    def miss(self, keys: Sequence[str], there: Sequence[str], mode: str) -> None:
        """Raises an UnknownNameError that names the argument with the missing key, and the keys in the batch."""
        called = {key: f"images={key!r}" for key in self._image_keys}
        called |= {key: f"{part}={key!r}" for part, key in self._keys.items()}
        said = " and ".join(called.get(key, repr(key)) for key in keys)
        raise UnknownNameError(
            f"GradCAM ({self.outputs[0]!r}): {said} is no key of the batches in mode {mode!r}{nearest(keys[0], there)} "
            f"Keys there: {', '.join(there)}.{self._fed() if set(keys) & set(self._image_keys) else ''}"
        )

    def on_begin(self, data: Data) -> None:
        """Explains an image of the host's warmup, or a dummy image, so that mistakes show before the first step."""
        self._last, self._cost, self._logs = {}, Cost(), HostLogs()
        foreseen, self._foreseen = self._foreseen, {}
        modes = {"test"} if self.system.mode == "test" else {"train", "eval"}
        self.watcher.begin(anew=self.system.epoch_idx == 0, modes=sorted(modes & (self._modes or modes)))
        with self._told_what_is_fed():
            for batch in foreseen.values():
                self.watcher.check(*self._parts(batch))
        with self.watcher.forgiven("try a dummy image", but=CamError):
            self._say_whose_model(self.system.network.models)
            dummy = None if foreseen or self.model is None else dummy_inputs(self.model)
            if dummy is not None and len(dummy) == len(self._image_keys):
                self.watcher.try_out(dummy)

    def on_epoch_begin(self, data: Data) -> None:
        """Starts a new epoch."""
        with self.watcher.forgiven("say what the epoch cost"):
            if self.system.mode == "train":
                self._say_cost()
        self.watcher.begin_epoch(self.system.epoch_idx, self.system.mode)

    def on_batch_end(self, data: Data) -> None:
        """Keeps the rows that are chosen."""
        with self.watcher.forgiven("look at a batch", but=CamError):
            if self._runs_in(self.system.mode, self.system.ds_id) and self.watcher.wants(self.system.ds_id):
                images, more = self._parts(data)
                with self._told_what_is_fed():
                    self.watcher.see(images, dataset=self.system.ds_id, more=more)

    def on_epoch_end(self, data: Data) -> None:
        """Explains the kept images, and writes grid, results, metrics and files."""
        with self.watcher.forgiven("put out the results of an epoch"):
            log = data.read_logs()
            epoch = self.watcher.end_epoch(log, self._known_by_now(self.system.mode))
            self._logs.note(self.system.mode, self.system.epoch_idx, log)
            for key, put in (epoch.values | epoch.logged).items():
                with self.watcher.forgiven(f"hand out {key!r}"):
                    self._hand_out(key, put, data, logged=key in epoch.logged)
            for message in epoch.messages:
                _warn_in_the_log(message)
            self._say(*self.watcher.legend(epoch))
            self._add_cost(epoch.cost)
        with self.watcher.forgiven("put out metrics that were not measured"):
            self._fill_in(data)

    def on_end(self, data: Data) -> None:
        """Says what the last epoch cost, if that was not said yet, and hands on what was logged behind us."""
        with self.watcher.forgiven("end the training"):
            self.watcher.end({mode: self._known_by_now(mode) for mode in self._logs.modes})
            self._say_cost()

    # --- between the engine and the host ---------------------------------------------------------

    def _fed(self) -> str:
        """The end of a message: the keys that the network passes to the model, if they are not ours."""
        return "" if self.model is None else _fed_beside(self._image_keys, self.model, self.system.network.ops)

    @contextmanager
    def _told_what_is_fed(self) -> Iterator[None]:
        """If the model fails on our images, the error says which keys the network passes to the model."""
        try:
            yield
        except ArgumentError as error:
            if isinstance(error.__cause__, (CamError, type(None))) or not self._fed():
                raise
            raise ArgumentError(f"{error}{self._fed()}") from error.__cause__

    def _runs_in(self, mode: str, dataset: str) -> bool:
        """Whether the user wants the trace to run there; the host may run it in more modes."""
        asked = SimpleNamespace(mode=self._modes, ds_id=self._ds_ids)
        return bool(get_current_items([asked], run_modes=mode, ds_id=dataset))

    def _parts(self, batch: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The images and the other parts of a batch; the watcher reports missing parts."""
        images = tuple(batch.get(key) for key in self._image_keys)
        return images, {part: batch.get(key) for part, key in self._keys.items()}

    def _known_by_now(self, mode: str) -> Past:
        """What the host has logged of earlier epochs of a mode, also behind us."""
        return self._logs.past(mode, self.system.summary.history) if self.watcher.options.report else {}

    def _hand_out(self, key: str, put: Put, data: Data, *, logged: bool) -> None:
        """Writes a value under the host's keys: ``key``, and ``key|ds_id`` of a dataset with a name."""
        write = data.write_with_log if logged else data.write_without_log
        named = {key: put.of_all} | {f"{key}|{dataset}": value for dataset, value in put.by_dataset.items()}
        for name, value in named.items():
            write(name, HeatmapGrid(value) if isinstance(value, Picture) else value)

    def _fill_in(self, data: Data) -> None:
        """Writes the last value of metrics that were not measured, or NaN: a trace that monitors them needs the key."""
        if self._modes and self.system.mode not in self._modes:
            return
        logged = self.watcher.logged
        of_datasets = {key for key in self._read if key.partition("|")[0] in logged}
        for key in {*logged, *of_datasets}:
            if key in data:
                self._last[self.system.mode, key] = float(data[key])
            else:
                data.write_without_log(key, self._last.get((self.system.mode, key), float("nan")))

    def _add_cost(self, cost: Cost) -> None:
        """Says once per epoch what the trace cost: after the evaluation, if the trace runs there."""
        for name, seconds in cost.seconds.items():
            self._cost.add(name, seconds)
        self._cost.of += cost.of
        mode, epoch = self.system.mode, self.system.epoch_idx
        self._costly = f"epoch: {epoch}" if mode in ("train", "eval") else mode
        if mode != "train" or (self._modes and "eval" not in self._modes):
            self._say_cost()

    def _say_cost(self) -> None:
        if self._cost.seconds:
            self._say(f"{self._costly}; {self.outputs[0]} took {self._cost}")
        self._cost = Cost()

    def _say(self, *lines: str) -> None:
        """Prints lines where the host prints too."""
        for line in lines:
            if self.system.log_steps is not None:
                _print(f"FastEstimator-GradCAM: {line}")


def _fed_beside(keys: list[str], model: Any, ops: Sequence[Any]) -> str:
    """The end of a message: the keys that the ops pass to the model, if they are others."""
    its = (list(op.inputs) for op in get_current_items(ops) if getattr(op, "model", None) is model)
    fed = next(its, keys)
    return "" if fed == keys else f" The network gives this model {', '.join(map(repr, fed))}."


def _print(line: str) -> None:
    """Prints a line; letters that the log cannot hold are escaped."""
    try:
        print(line, flush=True)
    except UnicodeEncodeError:
        print(line.encode("ascii", "backslashreplace").decode(), flush=True)


def _warn_in_the_log(message: str) -> None:
    """Prints a message as the host prints its warnings."""
    _print(f"FastEstimator-Warn: {message}")


@interruptible
def _on_device_of(network: Any, model: Any) -> Iterator[None]:
    """Keeps a PyTorch model on the device of its training; the host moves it to the CPU after each epoch."""
    device = getattr(network, "device", None)
    first = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    if device is None or first is None or first.device == device:
        yield
        return
    before = first.device
    try:
        model.to(device)
        yield
    finally:
        model.to(before)


def dummy_inputs(model: Any) -> tuple[NDArray[Any], ...] | None:
    """One image of ones for each input of the model, or None if the shapes are not known."""
    spec = getattr(model, "fe_input_spec", None)
    if spec is not None:
        dummy = spec.get_dummy_input()
        parts = dummy if isinstance(dummy, (list, tuple)) else [dummy]
        known = all(isinstance(part, torch.Tensor) for part in parts)
        return tuple(part[:1].cpu().numpy() for part in parts) if known else None
    shapes = None if isinstance(model, torch.nn.Module) else getattr(model, "input_shape", None)
    shapes = shapes if isinstance(shapes, list) else [shapes]
    known = all(isinstance(shape, tuple) and None not in shape[1:] for shape in shapes)
    return tuple(np.ones((1, *shape[1:]), np.float32) for shape in shapes) if known else None
