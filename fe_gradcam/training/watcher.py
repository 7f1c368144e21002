"""The engine: keeps chosen rows of an epoch, and makes all products at its end, for any training loop."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import ArgumentError, CamError, said_by, warn, warnings_logged
from fe_gradcam.training.chosen import Chosen
from fe_gradcam.training.epoch import Epoch
from fe_gradcam.training.folder import Folder
from fe_gradcam.training.history import Followed, History
from fe_gradcam.training.legend import legend_of
from fe_gradcam.training.options import Options
from fe_gradcam.training.pages import KeptPage, Past
from fe_gradcam.training.products import PRODUCTS
from fe_gradcam.training.rows import Rows, input_names
from fe_gradcam.training.selection import Selection
from fe_gradcam.training.source import Reader, Source


class Watcher:
    """Shows, for each epoch of a training, what the network looks at.

    The loop calls `begin`, and for each epoch and mode `begin_epoch`, `see` with each batch, and `end_epoch`. After
    the first batch, no failure of the watcher ends a training: it is reported as a warning.

    Args:
        source: The source of heatmaps, such as a ModelSource.
        options: The options.
        called: The names of parts of a batch in errors, such as ``{"labels": "labels='y'"}``.
        around: Makes a context in which the source is asked, such as one that keeps the model on its device.
        say: Writes a line to the log; warnings go there if they would be errors (``python -W error``).

    Attributes:
        keys: The keys of all results.
        logged: Those of `keys` that are logged.
        says: How to read the numbers of the log, by key.
    """

    def __init__(
        self,
        source: Source,
        options: Options,
        called: Mapping[str, str] | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        say: Callable[[str], None] = print,
    ) -> None:
        self.source, self.options, self._called, self._around = source, options, dict(called or {}), around
        self.history, self.folder, self._log = History(), Folder(options.save_dir, options.name), say
        self._epoch, self._mode, self._ended = 0, "eval", (0, time.perf_counter())
        self._legend_told = False
        self._made_anew()
        self._reset()

    def begin(self, *, anew: bool = True, modes: Iterable[str] = ()) -> None:
        """Begins a training; with `anew` it is not a resumed one, so no rows are followed yet.

        If another training that has not ended writes files of the same names, a warning says so, and the files of this
        one get other names.

        Args:
            anew: Whether the training is not a resumed one.
            modes: The modes that it may have; of others a warning comes with their first files.

        Raises:
            ArgumentError: Files cannot be written to the folder.
        """
        self._made_anew()
        self._ended = self._epoch, time.perf_counter()
        with warnings_logged(self._log):
            self.folder.begin(modes)
        if anew:
            self.history = History()

    def try_out(self, images: tuple[NDArray[Any], ...]) -> None:
        """Explains one made-up image, so that mistakes show before the first epoch.

        Args:
            images: The model's inputs, each (1, ...).

        Raises:
            CamError: Something that was asked for cannot be made.
        """
        rows = Rows(dict(zip(input_names(len(images)), images, strict=True)), np.zeros(1, np.int64))
        with self._named(), self.forgiven("explain a dummy image", but=CamError):  # what ones do to it says little
            self._try(rows)
            if "display" not in self.options.given:
                self._reader.pictures(rows)

    def check(self, images: tuple[Any, ...], more: Mapping[str, Any] | None = None) -> None:
        """Checks a batch before the first epoch, as `see` checks its first batch; nothing of it is kept.

        Args:
            images: The model's inputs.
            more: Other parts of the batch, by name.

        Raises:
            CamError: The batch shows a mistake in the arguments.
        """
        selections = [product.selection for product in self._products if product.selection]
        selections = [one for one in (self.options.selection, *selections) if not Chosen(one).full]
        if selections:
            self._check(_parts(images, more or {}), selections)

    def begin_epoch(self, epoch: int | None = None, mode: str = "eval") -> None:
        """Begins an epoch; without a number it is the one after the last."""
        self._epoch, self._mode = self._epoch + 1 if epoch is None else epoch, mode
        self._reset()

    def wants(self, dataset: str = "") -> bool:
        """Whether a batch of a dataset may hold a row to keep; if not, `see` need not be called."""
        if self._mode in ("train", "eval") and self._epoch % self.options.frequency:
            return False
        if dataset not in self._choices:
            selections = {product.name: product.selection for product in self._products if product.selection}
            if not (self.options.track and (self._mode, dataset) in self.history.streams):
                selections = {"grid": self.options.selection, **selections}
            self._choices[dataset] = {name: Chosen(one, self._called) for name, one in selections.items()}
        return any(not chosen.full for chosen in self._choices[dataset].values())

    def see(
        self,
        images: Any,
        labels: Any = None,
        preds: Any = None,
        *,
        ids: Any = None,
        masks: Any = None,
        boxes: Any = None,
        display: Any = None,
        dataset: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Keeps the chosen rows of a batch; a batch without chosen rows costs nothing.

        Args:
            images: The images as the model takes them; a tuple for a model with several inputs. The first is the
                picture, unless `display` is given.
            labels: True classes: ids (N,) or (N, 1), or (N, C), one-hot or of several; negative for an image without
                one.
            preds: Predictions (N, C), or (N, 1) of a single output, by which rows are chosen.
            ids: N names of the images.
            masks: (N, H, W), where the object is.
            boxes: (N, 4) or (N, M, 4): left, top, width and height in pixels.
            display: The pictures to draw on.
            dataset: The name of the batch's dataset, if there are several.
            more: Further parts by name, such as parts that the source reads.

        Raises:
            CamError: The first batch shows a mistake in the arguments.
        """
        with self.forgiven("look at a batch", self._lost, once=True):
            if not self.wants(dataset):
                return
        given = {"labels": labels, "preds": preds, "ids": ids, "masks": masks, "boxes": boxes, "display": display}
        batch = _parts(images if isinstance(images, tuple) else (images,), given | dict(more or {}))
        if not self._batch_checked:
            self._check(batch, [chosen.selection for chosen in self._choices[dataset].values()])
        count = len(self._lost)
        with self.forgiven("keep the images of a batch", self._lost, once=True):
            facts = self._reader.facts(batch, [chosen.selection for chosen in self._choices[dataset].values()])
            for chosen in self._choices[dataset].values():
                with self.forgiven("keep the images of a batch", self._lost, once=True):
                    if not chosen.full:
                        chosen.add(batch, *facts)
        self._lost_batches += len(self._lost) > count

    def end_epoch(self, log: Mapping[str, Any] | None = None, past: Past | None = None) -> Epoch:
        """Makes all products from the kept rows; one that fails gives a warning, and the others are still made.

        Args:
            log: Values that the loop knows of the epoch, such as its accuracy.
            past: Values that it knows by now of earlier epochs, by key and epoch.

        Returns:
            The epoch with all results; without results if its rows were not wanted, or could not be kept.
        """
        choose = partial(self._rows_of, self._choices)
        known = dict(log or {}), dict(past or {}), self.says
        done = self._epoch, self._mode, self.options, self._reader, choose, self.history
        epoch = Epoch(*done, *known, folder=self.folder)
        told: list[BaseException] = []
        if self._lost_batches > 1:
            said = f"{self._lost_batches} batches of this epoch could not be read, and are not shown."
            epoch.messages.append(f"GradCAM ({self.options.name!r}): {said}")
        if self._choices:
            with self.forgiven("look after the names of its files", told):
                self.folder.claim([self._mode])
            with self.forgiven("have the model at hand", told), self._around():
                for product in self._products:
                    epoch.product = product.name
                    before, started = epoch.cost.seconds.get("explaining", 0.0), time.perf_counter()
                    with self.forgiven(f"make the {product.name} of this epoch", told):
                        if not epoch.rows("grid" if product.selection is None else product.name):
                            continue
                        product.make(epoch)
                    shared = epoch.cost.seconds.get("explaining", 0.0) - before
                    epoch.cost.add(product.name, time.perf_counter() - started - shared)
        last, ended = self._ended
        self._ended = self._epoch, time.perf_counter()
        if self._epoch - last <= 1:  # else nobody knows when this epoch began
            epoch.cost.of = self._ended[1] - ended
        self._reset()
        return epoch

    def end(self, past: Mapping[str, Past] | None = None) -> None:
        """Ends a training; products take up what the loop knows by now of its epochs.

        Args:
            past: Values by mode, key and epoch.
        """
        for product in self._products:
            with self.forgiven(f"end the {product.name}", []):
                product.end(self.history, past or {})
        self.folder.end()

    def legend(self, epoch: Epoch) -> list[str]:
        """Says where files are and how to read numbers, for the first epoch with results; later nothing."""
        if self._legend_told or not (epoch.values or epoch.logged):
            return []
        self._legend_told = True
        return legend_of(epoch, self.says)

    def state(self) -> dict[Any, Any]:
        """The state that a resumed training needs, in plain containers."""
        pages = {mode: page.state() for mode, page in self.history.pages.items()}
        return {"called": self._called, "streams": self.history.state(), "pages": pages}

    def restore(self, state: Mapping[Any, Any]) -> None:
        """Restores a state; one that does not fit is left out, with a warning."""
        with self.forgiven("go on with the filmstrip of the training that is resumed"):
            of_others = {part for part, called in self._called.items() if state["called"].get(part) != called}
            if of_others and state["streams"]:
                raise ArgumentError(f"The followed images were saved with other keys for {sorted(of_others)}.")
            self.history.restore(state["streams"], {"images", *self.options.given} - {"model"})
        with self.forgiven("go on with the page of the training that is resumed"):
            self.history.pages = {mode: KeptPage.of(page) for mode, page in state.get("pages", {}).items()}

    @contextmanager
    def forgiven(
        self,
        what: str,
        told: list[BaseException] | None = None,
        but: type[Exception] | tuple[()] = (),
        *,
        once: bool = False,
    ) -> Iterator[None]:
        """Turns a failure inside into a warning, and a warning that would be an error into a line of the log.

        Args:
            what: The words for what could not be done.
            told: Failures that already had a warning; a new one is added.
            but: Failures that are raised nevertheless.
            once: Whether only the first failure of those has a warning.
        """
        with warnings_logged(self._log):
            try:
                yield
            except Exception as error:
                if self.options.on_error == "raise" or isinstance(error, but):
                    raise
                known = [] if told is None else told
                if any(error is one for one in known):
                    return
                known.append(error)
                if once and len(known) > 1:
                    return
                warn(
                    f"GradCAM ({self.options.name!r}) could not {what}; the training goes on. "
                    f"{type(error).__name__}: {said_by(error)}\n{traceback.format_exc()}",
                    stacklevel=3,
                )

    def _made_anew(self) -> None:
        made = [make(self.options) for make in PRODUCTS]
        self._products = [product for product in made if product.keys]
        self.keys = list(dict.fromkeys(key for product in made for key in product.keys))
        self.logged = [key for product in made for key in product.logged]
        self.says = {key: words for product in made for key, words in product.says.items()}
        self._reader: Reader = Reader(self.source, self.options, self._called)
        self._tried: set[Any] = set()
        self._batch_checked = self._legend_told = False

    def _reset(self) -> None:
        self._choices: dict[str, dict[str, Chosen]] = {}
        self._lost: list[BaseException] = []
        self._lost_batches = 0

    def _rows_of(self, choices: Mapping[str, Mapping[str, Chosen]], product: str) -> dict[str, Rows]:
        """The rows of a product by dataset; for the grid, the followed rows, if rows are followed."""
        rows = {}
        for dataset, of_products in choices.items():
            chosen, stream = of_products.get(product), (self._mode, dataset)
            if chosen is not None:
                if len(chosen):
                    rows[dataset] = chosen.rows()
                if chosen.missing:
                    said = f"select: the epoch had {chosen.seen} images, and none at {chosen.missing}."
                    warn(f"GradCAM ({self.options.name!r}): {said}", stacklevel=3)
            if self.options.track and product == "grid":
                if dataset in rows:
                    self.history.streams[stream] = Followed(rows[dataset])
                elif stream in self.history.streams:
                    rows[dataset] = self.history.streams[stream].rows
        return rows

    def _check(self, batch: Mapping[str, Any], selections: Sequence[Selection]) -> None:
        """Tries one image of the first batch, so that a wrong argument is an error here, not a warning every epoch."""
        chosen = Chosen(Selection(limit=1), self._called)
        with self._named(), self.forgiven("explain the first image", but=CamError):
            if lacking := sorted(self.options.given - {"model"} - set(batch)):
                raise ArgumentError(f"see() got no {' and no '.join(lacking)}, which the options need.")
            chosen.add(batch)
            one = chosen.rows()
            if _kinds(one) not in self._tried or self._reader.needs_preds(batch, selections):
                self._try(one)
            self._reader.pictures(one)
            self._reader.masks(one)
            self._reader.check(batch, selections)
        self._batch_checked = True

    def _try(self, rows: Rows) -> None:
        """Explains rows, whatever their labels are, and learns from the result."""
        with self._around():
            _, probabilities = self.source.explain(rows, np.zeros(len(rows), np.int64), trial=True)
        self._tried.add(_kinds(rows))
        self._reader.learn(rows, probabilities)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Makes errors name the trace, and call the parts of a batch by the user's keys."""
        try:
            yield
        except CamError as error:
            told = type(error)(f"GradCAM ({self.options.name!r}): {error.told(self._called)}")
            raise told.with_traceback(error.__traceback__) from error.__cause__


def _parts(inputs: tuple[Any, ...], more: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a batch that are given, by name."""
    parts = dict(zip(input_names(len(inputs)), inputs, strict=True)) | dict(more)
    return {name: part for name, part in parts.items() if part is not None}


def _kinds(rows: Rows) -> tuple[Any, ...]:
    """The shapes and dtypes of the model's inputs; a trial with other shapes or dtypes does not count for these."""
    inputs = [np.asarray(rows[name]) for name in rows.values if name.partition(" ")[0] == "images"]
    return tuple((part.shape[1:], part.dtype) for part in inputs)
