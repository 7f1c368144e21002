"""Models by name: imported or read from files, with their weights, on their device; and the size of their images."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fe_gradcam.errors import Argument, ArgumentError, UnsupportedModelError, in_one_line, nearest
from fe_gradcam.loading.weights import KERAS_FILES, load_keras_weights, load_torch_weights, type_of

MOST_SAID = 50_000_000
"""Bytes that are read of what a file says of itself."""

Framework: TypeAlias = Literal["torch", "keras"]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with its weights, on its device, and the name that the user gave for it."""

    model: Any
    name: str
    framework: Framework


@dataclass(frozen=True)
class Geometry:
    """The size (H, W) and the number of channels of a model's images."""

    size: tuple[int, int]
    channels: int


def load_model(name: str, weights: str | Path | None = None, device: str | None = None) -> Loaded:
    """The model of a name or file, with its weights, on its device.

    Args:
        name: package.module:factory, the name of a function without arguments that returns a model, or of a model;
            modules in the current folder are found too. Or the file of a Keras model.
        weights: File of a state dict, of a checkpoint that holds one, or of Keras weights; None: the model as it is.
        device: The device, for PyTorch alone; None: cuda if there is one.

    Raises:
        ArgumentError: The model or weights cannot be loaded, or the device cannot be used; a ValueError.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    path = Path(name)
    model = _from_keras_file(path) if path.suffix.lower() in KERAS_FILES else _from_factory(name)
    framework = _framework_of(model)
    if framework is None:
        raise _refused(name, f" returned {type_of(model)}; a torch.nn.Module or a tf.keras.Model is needed.")
    if framework == "keras" and device is not None:
        said = " is for PyTorch alone. Leave it out: TensorFlow uses a GPU if it sees one (CUDA_VISIBLE_DEVICES)."
        raise ArgumentError(Argument("device", repr(device)), said)
    if weights is not None:
        (load_keras_weights if framework == "keras" else load_torch_weights)(model, Path(weights))
    return Loaded(model if framework == "keras" else _on_device(model, device), name, framework)


def _refused(name: str, *said: str | Argument) -> ArgumentError:
    return ArgumentError(Argument("model", repr(name)), *said)


def _framework_of(model: Any) -> Framework | None:
    from fe_gradcam.backends.keras.version import computes_on

    if computes_on(model) is not None:  # of Keras 3 on PyTorch too: its images are those of Keras
        return "keras"
    torch = sys.modules.get("torch")
    return "torch" if torch and isinstance(model, torch.nn.Module) else None


def _from_keras_file(path: Path) -> Any:
    if not path.is_file():
        raise _refused(str(path), " does not exist.")
    code = sorted(_code_named_by(_said_by(path, "config.json", "model_config")))
    if code:
        said = f" names code outside of Keras, which is not run: {code[0]}. "
        more = "Pass package.module:factory that builds the model, and this file as "
        raise _refused(str(path), said + more, Argument("weights", ""), ".")
    failed: list[Exception] = []
    for package in _kerases_for(path):
        try:
            keras = importlib.import_module(package)
        except ImportError as error:
            needed = " needs TensorFlow, which cannot be imported. Run: pip install 'fe_gradcam[keras]'"
            raise _refused(str(path), needed) from error
        try:
            with _safe_mode(package):
                return keras.models.load_model(path, compile=False)
        except Exception as error:
            failed.append(error)
    raise _refused(
        str(path),
        f" cannot be loaded as a Keras model: {in_one_line(failed[0])}. If it has layers of your own, or holds weights "
        "alone, pass package.module:factory that builds the model, and this file as ",
        Argument("weights", ""),
        ".",
    ) from failed[0]


def _safe_mode(package: str) -> Any:
    """Refuses the code of Lambda layers, which a file holds as bytecode; Keras 2 does so for ``.keras`` files alone."""
    for place in ("src.saving", "saving"):  # Keras 2.13 and later; earlier ones
        with suppress(ImportError):
            return importlib.import_module(f"{package}.{place}.serialization_lib").SafeModeScope(True)
    raise ImportError(f"{package} has no safe mode, so a file may run code of its own: install a newer one")


def _kerases_for(path: Path) -> list[str]:
    """The packages that may load a file of a Keras model: first the Keras that wrote it, if it is installed.

    Keras 2 needs no tf_keras, which is the same again; where both are loaded, opening a file may not end.
    """
    with suppress(PackageNotFoundError):  # it is installed under another name, as nightly builds are
        if version("keras").startswith("2."):
            return ["keras"]
    packages = ["keras", *["tf_keras"] * (find_spec("tf_keras") is not None)]
    return packages if _written_by(path) >= 3 else packages[::-1]


def _written_by(path: Path) -> int:
    """The major version of the Keras that wrote a file; 2 if the file does not say."""
    said = _said_by(path, "metadata.json", "keras_version")
    major = str(said.get("keras_version") if isinstance(said, Mapping) else said or "").partition(".")[0]
    return int(major) if major.isdecimal() else 2


def _said_by(path: Path, member: str, attribute: str) -> Any:
    """What a file says of itself: a member of a ``.keras`` file, an attribute of an ``.h5`` file; None if nothing."""
    with suppress(Exception):  # what is wrong with the file is said where it is loaded
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(member) as opened:
                return json.loads(opened.read(MOST_SAID))
        with importlib.import_module("h5py").File(path) as file:
            said = file.attrs[attribute]
        text = said.decode() if isinstance(said, bytes) else str(said)
        return json.loads(text) if text.startswith("{") else text
    return None


OF_KERAS = ("keras", "tf_keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")
"""The packages whose layers a file of a model may name."""


def _code_named_by(config: Any) -> set[str]:
    """The modules, none of Keras, that the configuration of a model names, and the functions that it holds as bytecode.

    Keras 2 would import the modules. The functions it refuses, but Keras 2.15 may not end in doing so.
    """
    found, waiting = set[str](), [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            module = part.get("module")
            if isinstance(module, str) and "class_name" in part and module.partition(".")[0] not in OF_KERAS:
                found.add(f"the module {module!r}")
            if part.get("class_name") == "__lambda__" or part.get("function_type") == "lambda":
                found.add("a Lambda layer's function, held as bytecode")
            waiting += [value for key, value in part.items() if key != "compile_config"]  # it is not compiled
        elif isinstance(part, list):
            waiting += part
    return found


def _from_factory(name: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if not colon or not re.fullmatch(r"\w+(\.\w+)*", module_name) or not re.fullmatch(r"\w+(\.\w+)*", attribute):
        said = " is neither package.module:factory nor a .keras, .h5 or .hdf5 file."
        raise _refused(name, said, *_hint(name))
    found = _imported(name, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [one for one in getattr(found, "__dict__", ()) if not one.startswith("_")]
            file = getattr(found, "__file__", None)
            whose = f"module {found.__name__!r} ({file})" if file else type_of(found)
            raise _refused(name, f": {whose} has no {part!r}{nearest(part, public)}")
        found = getattr(found, part)
    if _framework_of(found):
        return found
    if not callable(found):
        raise _refused(name, f" is {type_of(found)}; a model, or a function that returns one, is needed.")
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise _refused(name, f" was called without arguments and raised {in_one_line(error)}") from error


def _hint(name: str) -> tuple[str | Argument, ...]:
    file = name.partition(":")[0]
    if file.endswith(".py"):
        return (f" Write the module, not the file: {'.'.join(Path(file).with_suffix('').parts)}:factory.",)
    if file.endswith((".pt", ".pth", ".safetensors")):
        told = " A file of weights needs the model that takes them: package.module:factory "
        return told, Argument("weights", file), "."
    return ()


def _imported(name: str, module_name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise _refused(name, f": importing {module_name!r} raised {in_one_line(error)}") from error
        raise _refused(
            name,
            f": there is no module {missing!r}, neither in the current folder ({folder}) nor among the installed "
            f"packages of {sys.executable}.",
            *_hint(name),
        ) from error


def _on_device(model: Any, device: str | None) -> Any:
    import torch

    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(torch.device(wanted))
    except (RuntimeError, AssertionError) as error:
        said = f" cannot be used: {str(error).splitlines()[0]}"
        raise ArgumentError(Argument("device", repr(wanted)), said) from error


def geometry_of(loaded: Loaded, size: tuple[int, int] | None = None, channels: int | None = None) -> Geometry:
    """The size (H, W) and channels, 1 or 3, of the model's images: as they are given, or else as the model states.

    Raises:
        ArgumentError: A given value does not fit the model, or the size is not known; a ValueError.
        UnsupportedModelError: The model takes no images that files can hold; a TypeError.
    """
    by_torch = loaded.framework == "torch"
    stated_size, stated_channels = (_torch_geometry if by_torch else _keras_geometry)(loaded.model)
    wanted = stated_channels if channels is None else channels
    if not by_torch and size and stated_size and size != stated_size:
        said = f" does not fit the model, which takes {in_pixels(stated_size)}."
        raise ArgumentError(Argument("size", in_pixels(size)), said)
    if not by_torch and stated_channels not in (None, wanted):
        said = f" does not fit the model, which takes {stated_channels}."
        raise ArgumentError(Argument("channels", str(wanted)), said)
    size = size or stated_size
    if size is None:
        said = " is needed, height and width, because this model does not say how large its images are."
        raise ArgumentError(Argument("size"), said)
    if wanted not in (None, 1, 3):
        said = f" takes images of {wanted} channels; image files have 1 or 3."
        raise UnsupportedModelError(Argument("model", repr(loaded.name)), said)
    return Geometry(size, wanted or 3)


def in_pixels(size: Sequence[int]) -> str:
    """For example "224x224"."""
    return "x".join(map(str, size))


def _keras_geometry(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    try:
        shape = model.input_shape
    except AttributeError:  # a subclassed model that was not called yet
        return None, None
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise UnsupportedModelError(Argument("model"), f" takes inputs {shape}; one image (N, H, W, C) is needed.")
    _, height, width, channels = shape
    return (height, width) if height and width else None, channels


def _torch_geometry(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    """The size that models of timm, transformers and torchvision state; the channels of the first convolution."""
    import torch

    from fe_gradcam.backends.pytorch.state import unwrapped

    model = unwrapped(model)
    of_timm, of_transformers = getattr(model, "pretrained_cfg", None), getattr(model, "config", None)
    said = of_timm.get("input_size") if isinstance(of_timm, Mapping) else None
    said = said or getattr(model, "image_size", None) or getattr(of_transformers, "image_size", None)
    sides = (said, said) if isinstance(said, int) else tuple(said or ())[-2:]
    channels = next((module.in_channels for module in model.modules() if isinstance(module, torch.nn.Conv2d)), None)
    return (sides[0], sides[1]) if len(sides) == 2 else None, channels if channels in (1, 3) else None
