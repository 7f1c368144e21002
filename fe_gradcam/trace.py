"""The GradCAM trace: heatmaps of some images at the end of each epoch of a FastEstimator training."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from fastestimator.schedule.schedule import get_current_items
from fastestimator.summary.system import System
from fastestimator.trace.trace import Trace
from fastestimator.util.data import Data
from fastestimator.util.traceability_util import traceable
from numpy.typing import ArrayLike, NDArray

from fe_gradcam import arguments, compat
from fe_gradcam.backends import backend_for
from fe_gradcam.catalogue import CamMethod, get_method, is_pair
from fe_gradcam.collect import Collected, class_ids_of, ids_by_name, names_by_id, probabilities_of
from fe_gradcam.compose import (
    Column,
    Explained,
    Look,
    compose_arrays,
    compose_grid,
    compose_results,
    with_shared_scale,
)
from fe_gradcam.display import HeatmapGrid
from fe_gradcam.export import write_arrays, write_png
from fe_gradcam.heat import Passes, heatmap_of
from fe_gradcam.op import LayerGradientOp
from fe_gradcam.outputs import ModelOutput
from fe_gradcam.render import colormap_lut, to_rgb
from fe_gradcam.route import check_reshape, explained
from fe_gradcam.settings import Settings
from fe_gradcam.smoothing import PLAIN, Smooth, smoothing
from fe_gradcam.types import (
    ArgumentError,
    CamError,
    CamInputs,
    CamWarning,
    Fuse,
    Layer,
    Method,
    Needs,
    Reshape,
    Scaling,
    Target,
)

compat.apply()

ALL_MODES = frozenset({"train", "eval", "test", "infer"})

MEAN_GRADIENT = CamMethod(
    "mean_gradient",
    lambda inputs: inputs.activations.mean(1),
    "the map of FastEstimator's own GradCAM",
    Needs.ACTIVATIONS,
)
"""What is drawn of gradients alone: their mean over the channels, which is no Grad-CAM."""


@traceable()
class GradCAM(Trace):
    """Heatmaps of what the network looks at, drawn at the end of each epoch.

    With `model` (the plain way) the trace keeps the first `n_samples` images of the epoch and
    explains them at its end, with the weights of that moment; training is not touched. With `grads`
    and `activations` it draws what a LayerGradientOp put into the batch. In both cases it writes a
    GridDisplay under `outputs` and a list of dicts under ``f"{outputs}_results"`` to the epoch's
    data, for ImageSaver, ImageViewer, TensorBoard and other traces; with `save_dir` also to files.

    From the first batch on no failure here ends a training: it is reported as a warning.

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
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        several = list(images) if isinstance(images, (list, tuple)) and images else [images]
        self.image_keys = [arguments.key("images", image, optional=False) for image in several]
        self.grad_key = arguments.key("grads", grads)
        self.activation_key = arguments.key("activations", activations)
        self.n_components = arguments.whole("n_components", n_components, 1)
        if n_samples is not None:
            n_samples = arguments.whole("n_samples", n_samples, 0, none=", or None for all")
        self.n_samples = n_samples
        self.label_key = arguments.key("labels", labels)
        self.pred_key = arguments.key("preds", preds)
        self.display_key = arguments.key("display", display)
        self.id_key = arguments.key("ids", ids)
        arguments.key("outputs", outputs, optional=False)
        self.frequency = arguments.whole("frequency", frequency, 1)
        self.model = model
        class_ids = ids_by_name(arguments.mapping(label_mapping))
        self.names = names_by_id(class_ids)
        self.mean, self.std = arguments.per_channel("mean", mean), arguments.per_channel("std", std)
        self.on_error = on_error
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
        self._check_source()
        self.methods = self._methods(methods)
        has_model, has_labels = model is not None, labels is not None
        self.targets = arguments.named_targets(targets, self.names, class_ids, labels=has_labels, model=has_model)
        if layer is not None and model is None:
            raise ArgumentError("layer goes with model=; of gradients under a key, pass it to the LayerGradientOp.")
        if model is None and (model_output is not None or reshape is not None):
            raise ArgumentError("model_output and reshape go with model=; keys hold maps that were taken already.")
        if model is None and smoothing(smooth)[0] != [PLAIN]:
            raise ArgumentError(
                f"smooth={smooth!r} shows the model other views of the images, and of gradients under a key there is "
                "no model at hand. Pass model= instead of grads=, or smooth='eigen'."
            )
        check_reshape(reshape, [layer])
        self.layer = _resolved(layer, model)
        keys = [*self.image_keys, grads, activations, labels, preds, display, ids]
        self._keys = list(dict.fromkeys(key for key in keys if key is not None))
        self._modes: set[str] = set()
        super().__init__(inputs=self._keys, outputs=[outputs, f"{outputs}_results"], mode=mode, ds_id=ds_id)
        self._modes, self._ds_ids = set(self.mode), set(self.ds_id)
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
            if other is not self and set(self.outputs) & set(other.inputs):
                if self._modes:
                    self.mode = set(self.mode) | set(other.mode or ALL_MODES)
                if self._ds_ids and not other.ds_id:
                    self.ds_id = set()
        twins = [other for other in system.traces if isinstance(other, GradCAM) and other.outputs == self.outputs]
        if len(twins) > 1 and any(self._shares_an_epoch_with(twin) for twin in twins):
            raise ArgumentError(
                f"outputs={self.outputs[0]!r} is the key of {len(twins)} GradCAM traces, which would overwrite each "
                "other. Give each an outputs= of its own."
            )

    def _shares_an_epoch_with(self, other: GradCAM) -> bool:
        same_mode = not self._modes or not other._modes or self._modes & other._modes
        return other is not self and bool(same_mode) and self._ds_ids == other._ds_ids

    def get_outputs(self, ds_ids: str | list[str] | None) -> list[str]:
        """The keys written: each output, and each with every dataset's id."""
        several = [ds_ids] if isinstance(ds_ids, str) else list(ds_ids or ())
        return [*self.outputs, *(f"{key}|{ds_id}" for key in self.outputs for ds_id in several if ds_id)]

    def on_begin(self, data: Data) -> None:
        """Explains a dummy image where the model's input is known, so that mistakes show at once."""
        self._model_checked = self._batch_checked = False
        if self.save_dir is not None:
            arguments.make_folder(self.save_dir)
        dummy = None if self.model is None else _dummy_inputs(self.model)
        if dummy is not None and len(dummy) == len(self.image_keys):
            try:
                self._explain_model(dummy, np.zeros(1, np.int64), batch_size=1, trial=True)
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
        """Keeps the rows that are still wanted."""
        if not self._runs_now(self.system.ds_id):
            return
        collected = self._collected.setdefault(self.system.ds_id, Collected(self._keys, self.n_samples))
        if collected.full:
            return
        if not self._batch_checked:
            self._check_first(data)
        with self._forgiven("keep the images of a batch"):
            collected.add(data)

    def on_epoch_end(self, data: Data) -> None:
        """Explains the kept images, and hands out grid, results and files."""
        try:
            collected = {ds_id: kept for ds_id, kept in self._collected.items() if kept.count}
            if collected and not self._failed:
                with self._forgiven("draw the heatmaps of this epoch"):
                    parts = [self._explain(kept, ds_id) for ds_id, kept in collected.items()]
                    self._hand_out(parts, data)
        finally:
            self._reset()

    # --- collecting ------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._collected: dict[str, Collected] = {}
        self._failed = False

    def _runs_now(self, ds_id: str) -> bool:
        system = self.system
        if self._failed or self.n_samples == 0:
            return False
        if system.mode in ("train", "eval") and system.epoch_idx % self.frequency:
            return False
        asked = SimpleNamespace(mode=self._modes, ds_id=self._ds_ids)
        return bool(get_current_items([asked], run_modes=system.mode, ds_id=ds_id))

    def _check_first(self, data: Mapping[str, Any]) -> None:
        """One image of the first batch: a wrong argument is an error here, and no warning at every epoch's end."""
        one = Collected(self._keys, 1)
        try:
            one.add(data)
            if self._model_checked:
                self._labels(one)
                self._pictures(one[self.display_key or self.image_keys[0]])
            else:
                self._explain(one, self.system.ds_id, trial=True)
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

    def _explain(self, kept: Collected, ds_id: str, *, trial: bool = False) -> Explained:
        labels = self._labels(kept)
        images = tuple(np.asarray(kept[key]) for key in self.image_keys)
        if self.model is not None:
            columns, probabilities = self._explain_model(images, labels, kept.largest_batch, trial=trial)
        else:
            columns, probabilities = self._explain_keys(kept, images[0], labels)
        return Explained(
            pictures=self._pictures(kept[self.display_key or self.image_keys[0]]),
            columns=columns,
            probabilities=probabilities,
            labels=labels,
            ids=None if self.id_key is None else list(kept[self.id_key]),
            ds_id=ds_id,
        )

    def _labels(self, kept: Collected) -> NDArray[np.int64] | None:
        return None if self.label_key is None else class_ids_of(kept[self.label_key], self.label_key)

    def _explain_model(
        self,
        images: tuple[NDArray[Any], ...],
        labels: NDArray[np.int64] | None,
        batch_size: int,
        *,
        trial: bool = False,
    ) -> tuple[list[Column], NDArray[np.float32] | None]:
        if images[0].ndim == 5:
            raise ArgumentError(
                f"images={self.image_keys[0]!r} holds volumes of shape {images[0].shape[1:]}, and a grid draws "
                "pictures. Pass the volumes to fe_gradcam.explain, and draw slices of what it returns."
            )
        known = None if labels is None else np.maximum(labels, 0)
        targets = [known if isinstance(target, str) else target for _, target in self.targets]
        with self._on_network_device():
            done = explained(
                self.model,
                images if len(images) > 1 else images[0],
                replace(self.settings, batch_size=self.settings.batch_size or batch_size, trial=trial),
                methods=self.methods,
                layers=[self.layer],
                targets=targets,
            )
        places = [(method.label, name) for method in self.methods for name, _ in self.targets]
        columns = [Column(*place, heatmap) for place, heatmap in zip(places, done.heatmaps, strict=True)]
        return [_unlabelled_left_out(column, labels) for column in columns], done.probabilities

    def _explain_keys(
        self, kept: Collected, images: NDArray[Any], labels: NDArray[np.int64] | None
    ) -> tuple[list[Column], NDArray[np.float32] | None]:
        op = self._gradient_op()
        probabilities = None
        if self.pred_key is not None:
            known = None if op is None or self.pred_key not in op.outputs else op.puts_out_probabilities
            probabilities = probabilities_of(kept[self.pred_key], self.pred_key, known)
        target, class_ids = self._keyed_target(op, probabilities, labels, kept.count)
        gradients = self._map_of(kept, self.grad_key)
        alone = self.activation_key is None
        inputs = CamInputs(
            activations=gradients if alone else self._map_of(kept, self.activation_key),
            gradients=None if alone else gradients,
            scores=torch.full((kept.count,), torch.nan),
            class_ids=torch.from_numpy(class_ids),
            probabilities=None if probabilities is None else torch.from_numpy(probabilities),
            images=images,
            seed=self.settings.seed,
        )
        methods = [MEAN_GRADIENT] if alone else self.methods
        height, width = images.shape[1:3] if self._channels_last else images.shape[2:4]
        place = (self.activation_key or str(self.grad_key)) if op is None else op.place
        passes, size = [Passes.of(inputs)], (height, width)
        maps = [heatmap_of(passes, method, [place], size, self.settings) for method in methods]
        columns = [Column(method.label, target, heatmap) for method, heatmap in zip(methods, maps, strict=True)]
        return columns, probabilities

    def _gradient_op(self) -> LayerGradientOp | None:
        """The op of the network that writes our gradients, or None where another does."""
        for op in get_current_items(self.system.network.ops, run_modes=self.system.mode):
            if isinstance(op, LayerGradientOp) and self.grad_key in op.outputs:
                return op
        return None

    def _keyed_target(
        self,
        op: LayerGradientOp | None,
        probabilities: NDArray[np.float32] | None,
        labels: NDArray[np.int64] | None,
        count: int,
    ) -> tuple[str, NDArray[np.int64]]:
        """What the gradients under a key were taken of: its name and the class ids, -1 where they are not known."""
        unknown = np.full(count, -1, np.int64)
        if op is None:
            return str(self.grad_key), unknown
        if op.target is None:
            return "pred", unknown if probabilities is None else probabilities.argmax(1).astype(np.int64)
        if isinstance(op.target, str):
            return ("label", labels) if op.target == self.label_key and labels is not None else (op.target, unknown)
        name, target = arguments.named_target(op.target, self.names, {}, labels=False)
        return name, np.full(count, target, np.int64) if isinstance(target, int) else unknown

    def _map_of(self, kept: Collected, key: str | None) -> torch.Tensor:
        values = np.asarray(kept[str(key)])
        if values.ndim != 4:
            raise ArgumentError(
                f"The key {key!r} holds an array of shape {values.shape}; (N, K, h, w), or (N, h, w, K) on TensorFlow, "
                "is needed, as LayerGradientOp puts it out."
            )
        maps = torch.from_numpy(values).float()
        return maps.movedim(-1, 1) if self._channels_last else maps

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

    @contextmanager
    def _on_network_device(self) -> Iterator[None]:
        """A PyTorch model on the device that it trains on; the host brings it to the CPU after each epoch."""
        device = getattr(self.system.network, "device", None)
        first = next(self.model.parameters(), None) if isinstance(self.model, torch.nn.Module) else None
        if device is None or first is None or first.device == device:
            yield
            return
        before = first.device
        try:
            self.model.to(device)
            yield
        finally:
            self.model.to(before)

    # --- handing out -----------------------------------------------------------------------------

    def _hand_out(self, parts: list[Explained], data: Data) -> None:
        epoch, mode = self.system.epoch_idx, self.system.mode
        if self.look.shared_scale:
            parts = with_shared_scale(parts)
        key, results_key = self.outputs
        grids = {}
        for part in parts:
            title = f"{mode}, epoch {epoch}" + (f", {part.ds_id}" if part.ds_id else "")
            grids[part.ds_id] = HeatmapGrid(compose_grid([part], self.names, self.look, title))
            if part.ds_id:
                data.write_without_log(f"{key}|{part.ds_id}", grids[part.ds_id])
                results = compose_results([part], self.names, epoch, mode)
                data.write_without_log(f"{results_key}|{part.ds_id}", results)
        whole = grids[parts[0].ds_id]
        if len(parts) > 1:
            whole = HeatmapGrid(compose_grid(parts, self.names, self.look, f"{mode}, epoch {epoch}"))
        data.write_without_log(key, whole)
        data.write_without_log(results_key, compose_results(parts, self.names, epoch, mode))
        if self.save_dir is not None:
            for part in parts:
                suffix = f"_{part.ds_id}" if len(parts) > 1 else ""
                path = self.save_dir / arguments.file_name(f"{key}_{mode}_epoch_{epoch}{suffix}")
                write_png(path.with_name(path.name + ".png"), grids[part.ds_id].raster)
                write_arrays(path.with_name(path.name + ".npz"), compose_arrays(part, epoch, mode))

    # --- arguments -------------------------------------------------------------------------------

    def _methods(self, given: Any) -> list[CamMethod]:
        """The methods asked for, those with components as often as components are shown."""
        several = [given] if isinstance(given, str) or is_pair(given) else given
        if not isinstance(several, (list, tuple)) or not several:
            raise ArgumentError(
                f"methods={given!r} is not accepted. Accepted: a name, a pair ('score_cam', {{parameter: value}}), or "
                "a list of these, with at least one."
            )
        methods: list[CamMethod] = []
        for method in map(get_method, several):
            if self.model is None and Needs.PROBE in method.needs:
                raise ArgumentError(
                    f"methods: {method.name!r} asks the model again, and of gradients under a key there is none at "
                    "hand. Pass model= instead of grads=."
                )
            expands = "component" in method.parameters and "component" not in method.given
            methods.append(method)
            if expands:
                more = range(2, self.n_components + 1)
                methods += [replace(method, given={**method.given, "component": number}) for number in more]
        if len({method.label for method in methods}) < len(methods):
            raise ArgumentError(f"methods={given!r} holds a method twice.")
        return methods

    def _check_source(self) -> None:
        if self.model is not None and (self.grad_key is not None or self.activation_key is not None):
            raise ArgumentError(
                "model and grads (or activations) are both given. Pass model=, and the trace takes the gradients "
                "itself, or grads= and activations= with the keys that a LayerGradientOp writes."
            )
        if self.model is None and self.grad_key is None:
            raise ArgumentError(
                "model is not given, and neither is grads. Pass model= with the model to explain; or grads= and "
                "activations= with the keys that a LayerGradientOp writes."
            )
        if self.model is not None:
            backend_for(self.model)
        elif self.activation_key is None:
            warnings.warn(
                "GradCAM is given grads without activations: it draws the gradients averaged over the channels, as "
                "FastEstimator's own trace does. That is no Grad-CAM, and is flat under global average pooling. Pass "
                "activations= (LayerGradientOp puts both out) or model=.",
                CamWarning,
                stacklevel=3,
            )


def _resolved(layer: Layer, model: Any) -> Layer:
    """The place that a layer names, or the places of several; None where the default is to be chosen."""
    if layer is None:
        return None
    backend = backend_for(model)
    if isinstance(layer, (list, tuple)) and layer:
        return [None if one is None else backend.resolve(one, None) for one in layer]
    return backend.resolve(layer, None)


def _unlabelled_left_out(column: Column, labels: NDArray[np.int64] | None) -> Column:
    """The column of the true classes, with nothing shown where an image has none."""
    if column.target != "label" or labels is None or (labels >= 0).all():
        return column
    heatmap, lacks = column.heatmap, labels < 0
    empty = lacks[:, None, None]
    return replace(
        column,
        heatmap=replace(
            heatmap,
            values=np.where(empty, np.float32(0), heatmap.values),
            raw=np.where(empty, np.float32(0), heatmap.raw),
            class_ids=np.where(lacks, -1, heatmap.class_ids),
            confidences=np.where(lacks, np.float32(np.nan), heatmap.confidences),
            blank=heatmap.blank | lacks,
        ),
    )


def _dummy_inputs(model: Any) -> tuple[NDArray[Any], ...] | None:
    """One image of ones for each input of the model, or None where the shapes are not known."""
    spec = getattr(model, "fe_input_spec", None)
    if spec is not None:
        dummy = spec.get_dummy_input()
        parts = list(dummy) if isinstance(dummy, (list, tuple)) else [dummy]
        if all(isinstance(part, torch.Tensor) for part in parts):
            return tuple(part[:1].cpu().numpy() for part in parts)
        return None
    if isinstance(model, torch.nn.Module):
        return None
    try:
        shapes = model.input_shape
    except AttributeError:
        return None
    shapes = shapes if isinstance(shapes, list) else [shapes]
    if not all(isinstance(shape, tuple) and None not in shape[1:] for shape in shapes):
        return None
    return tuple(np.ones((1, *shape[1:]), np.float32) for shape in shapes)
