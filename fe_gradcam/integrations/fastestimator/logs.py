"""What the host logs behind the trace: the trace sees it one epoch later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fe_gradcam.training.pages import Past


class HostLogs:
    """The log of the last epoch of each mode; traces behind ours still write to it.

    Attributes:
        modes: The modes that had an epoch.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, Mapping[str, Any]]] = {}

    @property
    def modes(self) -> list[str]:
        """The modes that had an epoch."""
        return list(self._last)

    def note(self, mode: str, epoch: int, log: Mapping[str, Any]) -> None:
        """Takes note of the log of an epoch, which is not copied: what is written to it later is there too."""
        self._last[mode] = epoch, log

    def past(self, mode: str, history: Mapping[str, Mapping[str, Mapping[int, Any]]]) -> Past:
        """Values by key and epoch: of the last epoch of the mode, and of all epochs that the host's history has.

        Args:
            mode: The mode whose values keep their keys; those of the training are called as "ce (train)".
            history: The history of the host's summary, {mode: {key: {step: value}}}; empty without a summary.
        """
        found: dict[str, dict[int, Any]] = {}
        for of_mode, ending in {"train": " (train)", mode: ""}.items():
            by_key = history.get(of_mode, {})
            epochs = {step: int(epoch) for step, epoch in by_key.get("epoch", {}).items()}
            for key, values in by_key.items():
                if key != "epoch":
                    its = {epochs[step]: value for step, value in values.items() if step in epochs}
                    found.setdefault(f"{key}{ending}", {}).update(its)
        if mode in self._last:
            epoch, log = self._last[mode]
            for key, value in log.items():
                found.setdefault(key, {})[epoch] = value
        return found
