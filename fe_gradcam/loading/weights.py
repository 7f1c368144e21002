"""Loading files of weights into a model."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fe_gradcam.errors import Argument, ArgumentError, in_one_line

KERAS_FILES = (".keras", ".h5", ".hdf5")


def load_torch_weights(model: Any, path: Path) -> None:
    """Loads a state dict, also one inside a checkpoint, or .safetensors; only tensors are unpickled.

    Raises:
        ArgumentError: The file holds no tensors, or its tensors do not fit the model.
    """
    from fe_gradcam.backends.pytorch.state import unwrapped

    model = unwrapped(model)
    state = _without_prefix(_state_dict(path), model.state_dict())
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        shapes = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise _refused(path, f"does not fit the model: {shapes or error}") from error
    if missing or unexpected:
        raise _refused(
            path,
            f"does not fit the model: {_some(missing, 'tensors of the model are not in the file')}; "
            f"{_some(unexpected, 'tensors of the file are not in the model')}.",
        )


def load_keras_weights(model: Any, path: Path) -> None:
    """Loads a file of Keras weights, or the weights in the file of a Keras model.

    Raises:
        ArgumentError: The file holds no Keras weights, or they do not fit the model.
    """
    if path.suffix.lower() not in KERAS_FILES:
        raise _refused(path, f"is no file of Keras weights. Accepted: {', '.join(KERAS_FILES)}.")
    try:
        model.load_weights(str(path))
    except Exception as error:
        raise _refused(path, f"does not fit the model: {in_one_line(error)}") from error


def type_of(value: Any) -> str:
    """For example "an object of type int"."""
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _refused(path: Path, said: str) -> ArgumentError:
    return ArgumentError(Argument("weights", repr(str(path))), f" {said}")


def _some(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a file by name."""
    import torch

    if path.suffix.lower() == ".safetensors":
        loaded = _safetensors(path)
    else:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise _refused(
                path,
                f"cannot be read as a file of tensors: {type(error).__name__}: {_first_line(error)} Pass a file that "
                "torch.save(model.state_dict(), path) wrote; a whole pickled model is not opened.",
            ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        held = f"the keys {', '.join(map(str, loaded))}" if isinstance(loaded, Mapping) else type_of(loaded)
        needed = "a state dict is needed, alone or under the key state_dict, model_state_dict or model."
        raise _refused(path, f"holds {held}; {needed}")
    return {str(name): value for name, value in loaded.items()}


def _safetensors(path: Path) -> Any:
    try:
        library = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise _refused(path, "needs the package safetensors. Run: pip install safetensors") from error
    try:
        return library.load_file(path)
    except Exception as error:
        raise _refused(path, f"cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')}."


def _without_prefix(state: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors without the prefixes that DataParallel, torch.compile and Lightning put in front of their names."""
    prefixes = ("module.", "_orig_mod.", "model.")
    added = [one for one in prefixes if not any(name.startswith(one) for name in wanted)]
    while found := next((one for one in added if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(found): value for name, value in state.items()}
    return state
