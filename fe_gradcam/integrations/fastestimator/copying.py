"""Copies of a trace: a new trace with the same arguments and state."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from fe_gradcam.errors import ArgumentError, in_one_line, warn

Own = TypeVar("Own", bound="Copied")


class Copied:
    """A trace that is copied by making it anew; by itself Python would copy what RestoreWizard saves, and nothing else.

    A copy has the same arguments, and goes on with the images that this trace follows. What belongs to one training is
    not copied: its Estimator, and the latest verdicts, which are found anew.

    Attributes:
        model: The model that is explained, or None.
        outputs: The keys that are written.
    """

    model: Any
    outputs: list[str]

    def _made_with(self, given: Mapping[str, Any]) -> None:
        """Takes note of the arguments of the constructor."""
        self._given, self._was_pickled = given, False

    def __getstate__(self) -> dict[str, Any]:
        """What the trace follows; see `GradCAM`."""
        raise NotImplementedError

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes over what another trace follows; see `GradCAM`."""
        raise NotImplementedError

    def __copy__(self: Own) -> Own:
        """A new trace with the same arguments, the model among them."""
        return _copied(type(self), self._given, self.__getstate__())

    def __deepcopy__(self: Own, memo: dict[int, Any]) -> Own:
        """A copy with arguments of its own; the model stays the one that is trained.

        If the model was copied before the trace, as in a copy of a whole Estimator, the copy explains that copy.
        """
        known, layer = dict(memo), self._given["layer"]
        for one in (self.model, *(layer if isinstance(layer, (list, tuple)) else [layer])):
            known.setdefault(id(one), one)
        return _copied(type(self), copy.deepcopy(self._given, known), copy.deepcopy(self.__getstate__(), known))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is pickled: the arguments, the model among them, and what is followed.

        Raises:
            ArgumentError: The model cannot be pickled, as those that FastEstimator builds for PyTorch.
        """
        try:
            pickle.dumps(self.model)
        except Exception as error:
            raise ArgumentError(
                f"GradCAM ({self.outputs[0]!r}) cannot be pickled, as its model cannot: {in_one_line(error)}. Make the "
                "trace anew where it is needed, or copy it inside of a process with copy.copy."
            ) from error
        return _unpickled, (type(self), self._given, self.__getstate__())

    def _say_whose_model(self, trained: Iterable[Any]) -> None:
        """Warns if the model came with a pickled trace, and is none of a network's models."""
        if self._was_pickled and self.model is not None and all(one is not self.model for one in trained):
            warn(
                f"GradCAM ({self.outputs[0]!r}) was pickled, and its model with it: it explains that copy, and not a "
                "model of this network. Make the trace anew, with model= of this network."
            )


def _copied(kind: type[Own], given: Mapping[str, Any], state: dict[str, Any]) -> Own:
    """A trace with the same arguments and state."""
    trace = kind(**given)
    trace.__setstate__(state)
    return trace


def _unpickled(kind: type[Own], given: Mapping[str, Any], state: dict[str, Any]) -> Own:
    """A trace that was pickled, with a model that was pickled too."""
    trace = _copied(kind, given, state)
    trace._was_pickled = True
    return trace
