"""Models by name: imported or read from files, with their weights, on their device; and their layers as a table."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click

from fe_gradcam.command.messages import refuse, told

KERAS_FILES = (".keras", ".h5", ".hdf5")


Framework: TypeAlias = Literal["torch", "keras"]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, ready.

    Attributes:
        model: With its weights, on its device.
        name: As it was asked for.
        framework: Whose it is.
    """

    model: Any
    name: str
    framework: Framework


@dataclass(frozen=True)
class _Geometry:
    """(H, W) and the number of channels of a model's images."""

    size: tuple[int, int]
    channels: int


def load_model(name: str, weights: Path | None, device: str | None) -> Loaded:
    """The model of that name or file, with its weights, on its device."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    path = Path(name)
    model = _from_keras_file(path) if path.suffix.lower() in KERAS_FILES else _from_factory(name)
    framework = _framework_of(model)
    if framework is None:
        refuse("MODEL", f"{name!r} made {_kind(model)}; a torch.nn.Module or a tf.keras.Model is needed.")
    if framework == "keras":
        if device is not None:
            refuse(
                "--device",
                "this option is for PyTorch; TensorFlow takes a GPU where it sees one (CUDA_VISIBLE_DEVICES).",
            )
        if weights is not None:
            _load_keras_weights(model, weights)
    else:
        if weights is not None:
            _load_torch_weights(model, weights)
        model = _on_device(model, device)
    return Loaded(model, name, framework)


def _framework_of(model: Any) -> Framework | None:
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    if tensorflow is not None and isinstance(model, tensorflow.keras.Model):
        return "keras"
    return None


def _kind(value: Any) -> str:
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _from_keras_file(path: Path) -> Any:
    if not path.is_file():
        refuse("MODEL", f"{str(path)!r} does not exist.")
    import tensorflow as tf

    try:
        return tf.keras.models.load_model(path, compile=False)
    except Exception as error:
        refuse(
            "MODEL",
            f"{str(path)!r} cannot be loaded as a Keras model: {told(error)}. Where it has layers of your own, or "
            "holds weights alone, pass package.module:factory that builds the model, and this file as --weights.",
            error,
        )


def _from_factory(name: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if not colon or not re.fullmatch(r"\w+(\.\w+)*", module_name) or not re.fullmatch(r"\w+(\.\w+)*", attribute):
        refuse("MODEL", f"{name!r} is neither package.module:factory nor a .keras, .h5 or .hdf5 file.{_hint(name)}")
    found = _imported(name, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            refuse("MODEL", f"{name!r}: {_no_attribute(found, part)}")
        found = getattr(found, part)
    if _framework_of(found):
        return found
    if not callable(found):
        refuse("MODEL", f"{name!r} is {_kind(found)}; a model, or a function that returns one, is needed.")
    try:
        return found()
    except (Exception, SystemExit) as error:
        refuse("MODEL", f"{name!r} was called without arguments and raised {told(error)}", error)


def _hint(name: str) -> str:
    file = name.partition(":")[0]
    if file.endswith(".py"):
        return f" Write the module, not the file: {'.'.join(Path(file).with_suffix('').parts)}:factory."
    if file.endswith((".pt", ".pth", ".safetensors")):
        return f" A file of weights needs the model that takes them: package.module:factory --weights {file}."
    return ""


def _imported(name: str, module_name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            refuse(
                "MODEL",
                f"{name!r}: there is no module {error.name!r}, neither in the current folder ({folder}) nor among the "
                f"installed packages of {sys.executable}.{_hint(name)}",
                error,
            )
        refuse("MODEL", f"{name!r}: importing {module_name!r} raised {told(error)}", error)
    except (Exception, SystemExit) as error:
        refuse("MODEL", f"{name!r}: importing {module_name!r} raised {told(error)}", error)


def _no_attribute(found: Any, part: str) -> str:
    from fe_gradcam.errors import nearest

    public = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
    whose = f"module {found.__name__!r} ({found.__file__})" if hasattr(found, "__file__") else _kind(found)
    return f"{whose} has no {part!r}{nearest(part, public)}"


def _on_device(model: Any, device: str | None) -> Any:
    import torch

    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(torch.device(wanted))
    except (RuntimeError, AssertionError) as error:
        refuse("--device", f"{wanted!r} cannot be used: {str(error).splitlines()[0]}", error)


def _load_torch_weights(model: Any, path: Path) -> None:
    from fe_gradcam.backends.pytorch.state import unwrapped

    model = unwrapped(model)
    wanted = model.state_dict()
    state = _without_prefix(_state_dict(path), wanted)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        shapes = " ".join(line.strip() for line in str(error).splitlines()[1:])
        refuse("--weights", f"{str(path)!r} does not fit the model: {shapes or error}", error)
    if missing or unexpected:
        refuse(
            "--weights",
            f"{str(path)!r} does not fit the model: {_some(missing, 'of its tensors are not in the file')}; "
            f"{_some(unexpected, 'tensors in the file are not of the model')}.",
        )


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
            refuse(
                "--weights",
                f"{str(path)!r} cannot be read as a file of tensors: {type(error).__name__}: {_first_line(error)} What "
                "torch.save(model.state_dict(), path) writes is needed; a whole pickled model is not opened.",
                error,
            )
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        held = f"the keys {', '.join(map(str, loaded))}" if isinstance(loaded, Mapping) else _kind(loaded)
        refuse(
            "--weights",
            f"{str(path)!r} holds {held}; a state dict is needed, as it is or under state_dict, model_state_dict or "
            "model.",
        )
    return {str(name): value for name, value in loaded.items()}


def _safetensors(path: Path) -> Any:
    try:
        library = importlib.import_module("safetensors.torch")
    except ImportError as error:
        refuse("--weights", f"{str(path)!r} needs the package safetensors, which is not installed.", error)
    try:
        return library.load_file(path)
    except Exception as error:
        refuse("--weights", f"{str(path)!r} cannot be read: {_first_line(error)}", error)


def _first_line(error: BaseException) -> str:
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')}."


def _without_prefix(state: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors without what DataParallel, torch.compile and Lightning put in front of their names."""
    prefixes = ("module.", "_orig_mod.", "model.")
    while True:
        found = [
            prefix
            for prefix in prefixes
            if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in wanted)
        ]
        if not found:
            return state
        state = {name.removeprefix(found[0]): value for name, value in state.items()}


def _load_keras_weights(model: Any, path: Path) -> None:
    if path.suffix.lower() not in KERAS_FILES:
        refuse("--weights", f"{str(path)!r} is no file of weights for Keras: {', '.join(KERAS_FILES)}.")
    try:
        model.load_weights(str(path))
    except Exception as error:
        refuse("--weights", f"{str(path)!r} does not fit the model: {told(error)}", error)


def geometry_of(loaded: Loaded, size: tuple[int, int] | None, channels: str | None) -> _Geometry:
    """What the model's images are: as it was asked for, else as the model says."""
    by_torch = loaded.framework == "torch"
    stated_size, stated_channels = (_torch_geometry if by_torch else _keras_geometry)(loaded.model)
    wanted = stated_channels if channels is None else int(channels)
    if not by_torch and size is not None and stated_size is not None and size != stated_size:
        refuse("--size", f"{_sides(size)} does not fit the model, which takes {_sides(stated_size)}.")
    if not by_torch and stated_channels not in (None, wanted):
        refuse("--channels", f"{wanted} does not fit the model, which takes {stated_channels}.")
    size = size or stated_size
    if size is None:
        raise click.UsageError("--size is needed: this model does not say how large its images are, as in --size 224.")
    if wanted not in (None, 1, 3):
        refuse("MODEL", f"it takes images of {wanted} channels; image files have 1 or 3. fe_gradcam.explain takes any.")
    return _Geometry(size, wanted or 3)


def _sides(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _keras_geometry(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    try:
        shape = model.input_shape
    except AttributeError:  # a subclassed model that was not called yet
        return None, None
    if not isinstance(shape, tuple) or len(shape) != 4:
        refuse("MODEL", f"it takes inputs {shape}; one image (N, H, W, C) is needed. fe_gradcam.explain takes more.")
    _, height, width, channels = shape
    return (height, width) if height and width else None, channels


def _torch_geometry(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    """What timm, transformers and torchvision's transformers say of the size; the channels of the first convolution."""
    import torch

    from fe_gradcam.backends.pytorch.state import unwrapped

    model = unwrapped(model)
    of_timm, of_transformers = getattr(model, "pretrained_cfg", None), getattr(model, "config", None)
    said = of_timm.get("input_size") if isinstance(of_timm, Mapping) else None
    said = said or getattr(model, "image_size", None) or getattr(of_transformers, "image_size", None)
    sides = (said, said) if isinstance(said, int) else tuple(said or ())[-2:]
    channels = next((module.in_channels for module in model.modules() if isinstance(module, torch.nn.Conv2d)), None)
    return (sides[0], sides[1]) if len(sides) == 2 else None, channels if channels in (1, 3) else None


@contextmanager
def model_errors(loaded: Loaded, shape: Sequence[int]) -> Iterator[None]:
    """What a model itself raises, as an error of MODEL."""
    from fe_gradcam.errors import CamError

    try:
        yield
    except CamError:
        raise
    except Exception as error:
        said = f"{loaded.name!r} failed on images of shape {tuple(shape)}: {told(error)}"
        refuse("MODEL", f"{said}. Do --size and --channels fit it?", error)
