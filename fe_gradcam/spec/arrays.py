"""Arrays and lists that a user passes, of whatever kind, as plain ones; what is no such thing is refused here."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fe_gradcam.errors import Argument, ArgumentError, in_short

LONGEST_LIST = 100_000_000
"""Entries of a list; more would fill the memory."""

NUMERIC = "biuf"
"""Kinds of dtypes: bools, integers, integers without a sign, floats."""


def array_of(name: str, value: Any, accepted: str, kinds: str = NUMERIC) -> NDArray[Any]:
    """What a user passes as an array, on the CPU: an array, a list, a tensor of any framework.

    Args:
        name: The argument, for the message.
        value: What was passed.
        accepted: What is accepted and what to do, as the end of the message: "class ids, (N,)."
        kinds: The kinds of dtypes that are accepted, as NumPy names them.

    Raises:
        ArgumentError: It is nothing of that, holds something else, or cannot be read.
    """
    try:
        array = _read(value)
    except Exception as error:  # what a user's object does if it is read
        said = f" is a {type(value).__name__} that cannot be read as an array ({type(error).__name__}). Accepted: "
        raise ArgumentError(Argument(name), said + accepted) from error
    if array.dtype.kind not in kinds:
        came = (
            f"={in_short(value)} is not accepted"
            if not array.ndim
            else f" has shape {array.shape} and dtype {array.dtype}"
        )
        raise ArgumentError(Argument(name), f"{came}. Accepted: {accepted}")
    return array


def _read(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    if hasattr(value, "numpy") and callable(value.numpy):
        value = value.numpy()
    of_numpy = hasattr(value, "__array__") or hasattr(value, "__array_interface__")  # Pillow's pictures have the latter
    if not of_numpy and not isinstance(value, (Sequence, Number)):
        raise TypeError("no array, list or number")
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def listed(name: str, value: Any, accepted: str) -> list[Any]:
    """What a user passes as a list: anything of a known length that is no text.

    Raises:
        ArgumentError: It is something else, or its entries cannot be read; `accepted` ends the message.
    """
    try:
        is_list = isinstance(value, Sized) and not isinstance(value, (str, bytes, bytearray, memoryview))
        if is_list and len(value) <= LONGEST_LIST:
            return [one for one, _ in zip(value, range(len(value)), strict=False)]
    except Exception as error:
        said = f" is a {type(value).__name__} whose entries cannot be read ({type(error).__name__}). Accepted: "
        raise ArgumentError(Argument(name), said + accepted) from error
    raise ArgumentError(Argument(name, in_short(value)), f" is not accepted. Accepted: {accepted}")
