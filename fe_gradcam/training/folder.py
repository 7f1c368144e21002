"""The folder of a training: what its files are called, and that no other training writes over them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fe_gradcam.errors import ArgumentError, warn
from fe_gradcam.files import HASHED, NAME_BYTES, file_name, folds_case
from fe_gradcam.training.claims import Claim, claimed
from fe_gradcam.training.options import make_folder

MOST_BYTES_OF_NAME = 200
"""How long the name of a trace may be in a file name: mode, epoch and dataset stand behind it."""


class Folder:
    """The folder of a training.

    Args:
        path: The folder; None if nothing is written.
        name: The name of the trace, with which its files begin.

    Raises:
        ArgumentError: The name can be in no file name.
    """

    def __init__(self, path: Path | None = None, name: str = "gradcam") -> None:
        try:
            self._stem = file_name(name, MOST_BYTES_OF_NAME)
        except ArgumentError as error:
            raise ArgumentError(f"outputs: {error}") from None
        self.path, self._name = path, name
        self._claims: dict[str, Claim] = {}
        self._datasets: list[str] = []
        self._folds = False

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy, which has no claims."""
        return self.__dict__ | {"_claims": {}}

    def begin(self, modes: Iterable[str] = ()) -> None:
        """Makes the folder, and claims the names of the files of modes for a training that begins.

        Raises:
            ArgumentError: Files cannot be written to the folder.
        """
        self.end()
        if self.path is not None:
            make_folder(self.path)
            self._folds = folds_case(self.path)
            self.claim(modes)

    def claim(self, modes: Iterable[str]) -> None:
        """Claims the names of the files of further modes; if another training holds them, a warning says so."""
        if self.path is None:
            return
        new = {mode: claimed(self.path, self._stem, file_name(mode)) for mode in modes if mode not in self._claims}
        self._claims |= new
        others = list(dict.fromkeys(other for claim in new.values() for other in claim.others))
        if others:
            begins = " and ".join(f"{claim.stem}_{mode}" for mode, claim in new.items() if claim.others)
            warn(
                f"GradCAM ({self._name!r}): another training writes under this name to {str(self.path)!r} "
                f"({', '.join(others)}). So that neither is lost, the files of this one begin with {begins}. Pass "
                "another save_dir= or outputs= to choose yourself.",
                stacklevel=2,
            )

    def end(self) -> None:
        """Gives the names back, after the last file is written."""
        for claim in self._claims.values():
            claim.end()
        self._claims = {}

    def file(self, mode: str, name: str, ending: str, dataset: str = "") -> Path:
        """The path of a file.

        Args:
            mode: The mode of the epoch.
            name: What the file shows, as "epoch_001".
            ending: As ".png".
            dataset: The name of the dataset, if there are several.
        """
        claim = self._claims.get(mode)
        parts = [self._stem if claim is None else claim.stem, file_name(mode), name]
        if dataset:
            room = max(2 * HASHED, NAME_BYTES - len("_".join([*parts, ending]).encode()))
            parts.append(file_name(dataset, room, marked=self._is_like_another(dataset)))
        return (self.path or Path()) / f"{'_'.join(parts)}{ending}"

    def _is_like_another(self, dataset: str) -> bool:
        """Whether the folder takes the name of a dataset for that of one before."""
        if dataset not in self._datasets:
            self._datasets.append(dataset)
        before = self._datasets[: self._datasets.index(dataset)]
        return self._folds and any(dataset.casefold() == other.casefold() for other in before)
