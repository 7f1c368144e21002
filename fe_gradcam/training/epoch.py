"""An epoch that has ended: the data that products read, and their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.drawing.picture import Picture
from fe_gradcam.errors import said_by, warn
from fe_gradcam.explaining.explained import Explained, with_shared_scale
from fe_gradcam.files import write_arrays
from fe_gradcam.metrics.measure import summary
from fe_gradcam.training.folder import Folder
from fe_gradcam.training.history import Followed, History
from fe_gradcam.training.options import Options
from fe_gradcam.training.pages import Past
from fe_gradcam.training.rows import Rows
from fe_gradcam.training.selection import Selection
from fe_gradcam.training.source import Reader

Made = TypeVar("Made")

MOST_FAILURES = 8
"""After so many failures without a heatmap, the images of a dataset are given up."""


class Product(Protocol):
    """Something that is made at the end of an epoch.

    Attributes:
        name: The name of the product in a warning if it fails.
        keys: The keys of its results; none if nobody asked for the product.
        logged: Those of `keys` that are numbers for the log, which other traces may monitor.
        selection: The product's own choice of rows; None: the rows of the grid.
        says: How to read the numbers of the log, by key, such as "lower is better".
    """

    name: str
    keys: Sequence[str]
    logged: Sequence[str] = ()
    selection: Selection | None = None
    says: Mapping[str, str] = MappingProxyType({})

    def make(self, epoch: Epoch) -> None:
        """Makes the product from the epoch's data, and adds the results to the epoch."""

    def end(self, history: History, past: Mapping[str, Past]) -> None:
        """Does what is left after the last epoch, given the values that the loop knows by then, by mode."""


class Put(NamedTuple):
    """The value of a key: for all datasets together, and for each dataset that has a name."""

    of_all: Any
    by_dataset: Mapping[str, Any]


@dataclass(eq=False)
class Cost:
    """The time that the end of an epoch took.

    Attributes:
        seconds: Seconds for each product, and for explaining the images that products share.
        of: Seconds since the end of the epoch before; the cost is a share of these.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    of: float = 0.0

    def add(self, name: str, seconds: float) -> None:
        """Adds the seconds of a product."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        share = f", {total / self.of:.1%} of the epoch's {self.of:.3g} s" if self.of else ""
        return f"{total:.2g} s{share} ({', '.join(f'{name} {took:.2g}' for name, took in self.seconds.items())})"


@dataclass(eq=False)
class Epoch:
    """The data of an epoch, and the results that products make from it.

    Attributes:
        number: Number of the epoch, from 1.
        mode: The mode, such as "eval".
        choose: Gives the rows of a product by dataset; for "grid" the rows of the grid.
        history: The rows that are followed from epoch to epoch.
        log: Values that the loop knows of the epoch, such as its accuracy.
        past: Values that the loop knows by now of earlier epochs.
        says: How to read the numbers of the log, by key.
        found: What products leave for those that are made after them, by name and dataset.
        product: The product that is being made.
        values: The results, by key.
        logged: Numbers for the log, by key.
        counts: The number of images over which a logged number is the mean, by key.
        files: The files that were written, by product.
        messages: Messages for the user, for the log.
        folder: The folder of the training, which names the files.
    """

    number: int
    mode: str
    options: Options
    reader: Reader
    choose: Callable[[str], Mapping[str, Rows]]
    history: History
    log: Mapping[str, Any] = field(default_factory=dict)
    past: Past = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    values: dict[str, Put] = field(default_factory=dict)
    logged: dict[str, Put] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    product: str = ""
    folder: Folder = field(default_factory=Folder)
    cost: Cost = field(default_factory=Cost)
    _made: dict[str, Any] = field(default_factory=dict)
    _incomplete: set[str] = field(default_factory=set)

    def __getitem__(self, key: str) -> Any:
        """The result under a key, for all datasets."""
        return (self.logged if key in self.logged else self.values)[key].of_all

    def __contains__(self, key: str) -> bool:
        return key in self.logged or key in self.values

    def rows(self, product: str = "grid") -> Mapping[str, Rows]:
        """The rows chosen for a product, by dataset."""
        return self._once(f"rows of {product}", lambda: self.choose(product))

    @property
    def parts(self) -> list[Explained]:
        """The rows of each dataset's grid, explained once for all products."""
        return self._once("parts", self._explained)

    def _once(self, what: str, make: Callable[[], Made]) -> Made:
        """Makes something that products share only once; if that fails, each of them gets the same failure."""
        if what not in self._made:
            try:
                self._made[what] = make()
            except Exception as failure:
                self._made[what] = failure
        made: Made | Exception = self._made[what]
        if isinstance(made, Exception):
            raise made
        return made

    def _explained(self) -> list[Explained]:
        started = time.perf_counter()
        kept, parts = dict[str, Rows](), list[Explained]()
        failures: list[Exception] = []
        for dataset, rows in self.rows().items():
            found = self._as_many_as_can(rows, dataset, failures)
            if len(found) == 1:
                kept[dataset], part = found[0]
                parts.append(part)
            elif found:
                kept[dataset] = Rows.joined([its for its, _ in found])
                part = Explained.joined([part for _, part in found])
                parts.append(replace(part, several=self.reader.labels(kept[dataset])[1]))
            if len(kept.get(dataset, ())) < len(rows):
                self._incomplete.add(dataset)
        if failures:
            if not parts:
                raise failures[0]
            self._tell_of(failures[0], sum(map(len, self.rows().values())), sum(map(len, parts)))
        self._made["rows of grid"] = kept
        if self.options.shared_scale and parts:
            parts = with_shared_scale(parts)
        for part in parts:
            if followed := self.followed(part.ds_id):
                followed.add(self.number, part)
        self.cost.add("explaining", time.perf_counter() - started)
        return parts

    def _as_many_as_can(self, rows: Rows, dataset: str, failures: list[Exception]) -> list[tuple[Rows, Explained]]:
        """Rows and their heatmaps; if they cannot be explained together, by halves, and without those that fail alone.

        A model may be out of memory for all of them, or fail on a single image.
        """
        try:
            return [(rows, self.reader.explained(rows, dataset))]
        except Exception as failure:
            if self.options.on_error == "raise":
                raise
            failures.append(failure)
        found, half = list[tuple[Rows, Explained]](), len(rows) // 2
        for some in (slice(0, half), slice(half, None)) if half else ():
            if found or len(failures) <= MOST_FAILURES:
                found += self._as_many_as_can(rows.some(some), dataset, failures)
        return found

    def _tell_of(self, failure: Exception, asked: int, made: int) -> None:
        """Says that images could not be explained together, and how many not at all."""
        lost = "each part by itself could" if made == asked else f"{asked - made} are not shown"
        warn(
            f"GradCAM ({self.options.name!r}): the {asked} images of this epoch could not be explained together; "
            f"{lost}. The training goes on. {type(failure).__name__}: {said_by(failure)}"
        )

    def followed(self, dataset: str) -> Followed | None:
        """The rows that are followed, or None if no rows are followed, or some of them could not be explained."""
        return None if dataset in self._incomplete else self.history.streams.get((self.mode, dataset))

    def title(self, dataset: str = "") -> str:
        """As "eval, epoch 3, night"."""
        return ", ".join(filter(None, (self.mode, f"epoch {self.number}", dataset)))

    def put(self, key: str, by_dataset: Mapping[str, Any], of_all: Any) -> None:
        """Adds results that are not for the log."""
        self.values[key] = Put(of_all, {dataset: value for dataset, value in by_dataset.items() if dataset})

    def show(self, key: str, pictures: Mapping[str, Picture], name: str, of_all: Picture | None = None) -> None:
        """Adds a picture of each dataset, and saves it under `name`; without `of_all` the first one stands for all."""
        self.put(key, pictures, of_all or next(iter(pictures.values())))
        for dataset, picture in pictures.items():
            self._write(name, dataset if len(pictures) > 1 else "", ".png", picture.save)

    def save(self, arrays: Mapping[str, NDArray[Any]], name: str, dataset: str = "") -> None:
        """Saves arrays beside the pictures."""
        self._write(name, dataset, ".npz", lambda path: write_arrays(path, arrays))

    def log_mean(self, key: str, by_dataset: Mapping[str, NDArray[np.float32]]) -> None:
        """Logs the mean of a value over images with four digits: over all images, and over those of each dataset."""
        if by_dataset:
            means = {dataset: _short(values) for dataset, values in by_dataset.items()}
            of_all = np.concatenate(list(by_dataset.values()))
            self.counts[key] = int(np.isfinite(of_all).sum())
            self.log_number(key, _short(of_all), means)

    def log_number(self, key: str, of_all: float | None, by_dataset: Mapping[str, float | None]) -> None:
        """Logs a number; if `of_all` is None, nothing is logged."""
        if of_all is not None:
            known = {dataset: number for dataset, number in by_dataset.items() if dataset and number is not None}
            self.logged[key] = Put(of_all, known)

    def _write(self, name: str, dataset: str, ending: str, write: Callable[[Path], None]) -> None:
        if self.folder.path is not None:
            path = self.folder.file(self.mode, name, ending, dataset)
            write(path)
            self.files.setdefault(self.product, []).append(path)


def _short(values: NDArray[np.float32]) -> float | None:
    mean = summary(values)
    return None if mean is None else float(f"{mean:.4g}")
