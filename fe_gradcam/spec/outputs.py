"""Which tensor of a model's output holds the scores, if the output is a tuple, a dict or a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeAlias

from fe_gradcam.errors import Argument, ArgumentError, UnknownNameError, in_short, nearest

ModelOutput: TypeAlias = "str | int | None"
"""The name or position of the output that holds the scores, or None to find it."""

PLAIN_NAMES = ("logits", "out")
"""The names of the class scores in libraries: Hugging Face, and the segmentation models of torchvision."""


def check_output(wanted: Any) -> None:
    """Raises ArgumentError if `wanted` can name no output, whatever the model."""
    if wanted is not None and not isinstance(wanted, (str, Integral)):
        said = " is not accepted. Accepted: the name or position of one of the model's outputs, or None."
        raise ArgumentError(Argument("model_output", in_short(wanted)), said)


def entries_of(output: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The parts of an output that is no tensor, by name or by position; `names` are those that the model knows."""
    if isinstance(output, Mapping):
        return {str(name): part for name, part in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, (tuple, list)):
        named = getattr(output, "_fields", None) or names
        if named is None or len(named) != len(output):
            named = [str(position) for position in range(len(output))]
        return dict(zip(named, output, strict=True))
    return {"logits": output.logits} if hasattr(output, "logits") else {}


def pick(
    output: Any,
    wanted: ModelOutput,
    *,
    is_tensor: Callable[[Any], bool],
    fits: Callable[[Any], bool],
    names: Sequence[str] | None = None,
) -> Any | None:
    """The tensor that holds the scores, or None if it is not certain which one does.

    It is the output itself, the part that is `wanted`, the part called "logits" or "out", or the only part that `fits`
    what is asked for.

    Raises:
        UnknownNameError: There is no output of that name or position.
        ArgumentError: The output of that name is no tensor.
    """
    if is_tensor(output):
        if wanted in (None, 0):
            return output
        said = " is no output of this model, which returns one tensor. Leave "
        raise UnknownNameError(Argument("model_output", in_short(wanted)), said, Argument("model_output"), " out.")
    entries = entries_of(output, names)
    if wanted is not None:
        return _named(entries, wanted, is_tensor)
    tensors = {name: part for name, part in entries.items() if is_tensor(part)}
    for name in PLAIN_NAMES:
        if name in tensors:
            return tensors[name]
    fitting = [part for part in tensors.values() if fits(part)]
    return fitting[0] if len(fitting) == 1 else None


def _named(entries: Mapping[str, Any], wanted: str | int, is_tensor: Callable[[Any], bool]) -> Any:
    known = list(entries)
    is_position = isinstance(wanted, Integral) and not isinstance(wanted, bool)
    if is_position and -len(known) <= int(wanted) < len(known):
        wanted = known[int(wanted)]
    if wanted not in entries:
        raise UnknownNameError(
            Argument("model_output", in_short(wanted)),
            f" is no output of this model{nearest(wanted, known)} Accepted: {', '.join(known) or 'none'}; or a "
            "position, from 0.",
        )
    part = entries[str(wanted)]
    if not is_tensor(part):
        raise ArgumentError(
            Argument("model_output", in_short(wanted)),
            f" is a {type(part).__name__}, no tensor of scores. Outputs that are tensors: "
            f"{', '.join(name for name in known if is_tensor(entries[name])) or 'none'}.",
        )
    return part


def described(output: Any, is_tensor: Callable[[Any], bool], names: Sequence[str] | None = None) -> str:
    """The output of a model in words, for errors: its type, and its parts with their shapes."""
    if is_tensor(output):
        return f"a tensor of shape {tuple(output.shape)}"
    parts = [
        f"{name}: {tuple(part.shape) if is_tensor(part) else type(part).__name__}"
        for name, part in entries_of(output, names).items()
    ]
    return f"a {type(output).__name__}" + (f" of {{{', '.join(parts)}}}" if parts else "")
