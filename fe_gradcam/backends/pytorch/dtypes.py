"""The dtype in which a PyTorch model takes its inputs."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fe_gradcam.backends.pytorch.passes import called

Dtypes: TypeAlias = tuple[torch.dtype, ...]
Taken: TypeAlias = MutableMapping[tuple[Dtypes, Dtypes], torch.dtype | None]
"""The dtype to which floating inputs are cast, or None for none, by the dtypes of the inputs and of the parameters."""


def as_taken(
    model: nn.Module, inputs: Sequence[Tensor], parameters: Sequence[Tensor], kept: Callable[[], Taken]
) -> list[Tensor]:
    """The inputs, of which floating ones are cast only if the model does not take them as they are.

    Parameters do not tell which dtype the inputs must have: a temperature or the steps behind a cast may be of another.
    If all floating inputs and parameters are of one dtype, there is nothing to ask. Otherwise the model is
    tried with one row: as it is, in the dtypes of its parameters, and in float32. The answer goes into what `kept`
    returns.
    """
    floating = {part.dtype for part in inputs if part.is_floating_point()}
    own = tuple(dict.fromkeys([parameter.dtype for parameter in parameters]))
    if not floating or floating == set(own):
        return list(inputs)
    known, given = kept(), tuple(part.dtype for part in inputs)
    if (given, own) not in known:
        rows = [part[:1] for part in inputs]
        for dtype in (None, *dict.fromkeys((*own, torch.float32))):
            if _takes(model, _cast(rows, dtype)):
                known[given, own] = dtype
                break
        else:  # it fails for another reason, which is to be seen
            return _cast(inputs, next(iter(own), None))
    return _cast(inputs, known[given, own])


def _takes(model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    try:
        with torch.no_grad():
            called(model, [part.clone() for part in inputs])  # some write to what they get
    except Exception:
        return False
    return True


def _cast(inputs: Sequence[Tensor], dtype: torch.dtype | None) -> list[Tensor]:
    return [part.to(dtype) if dtype is not None and part.is_floating_point() else part for part in inputs]
