"""FastEstimator 1.7 on newer TensorFlow, NumPy and plotly: only its own modules get what they were written for.

FastEstimator needs Keras 2, and since TensorFlow 2.16 ``tf.keras`` is Keras 3. Then the package tf_keras takes its
place, as with ``TF_USE_LEGACY_KERAS=1`` (https://keras.io/getting_started), for the user's code too: otherwise the
host builds no model of either framework. NumPy and Keras themselves stay as they are.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from fe_gradcam.errors import CamWarning, HostError

LEGACY = "TF_USE_LEGACY_KERAS"
API = "tf_keras.api._v2.keras"

OLD_NAMES = {"Inf": np.inf, "NaN": np.nan}
"""Names of NumPy 1 that the host uses."""


def apply() -> list[str]:
    """Makes the host work with the libraries that are installed.

    Call it before a module of the host is imported; some modules can also be repaired after their import.

    Returns:
        What is repaired; empty if nothing needs repair.

    Raises:
        HostError: Keras 3 is in use already, or plotly is too new.
    """
    if _major("plotly") >= 6:
        raise HostError(
            f"plotly {version('plotly')} is too new for FastEstimator's logs. Run: pip install 'plotly<6' "
            "'kaleido==0.2.1'"
        )
    mended = [*["triton"] * triton_first(), *["keras"] * use_keras_2()]
    if not any(type(one).__qualname__ == HostFinder.__qualname__ for one in sys.meta_path):  # ours, reloaded or not
        sys.meta_path.insert(0, HostFinder())
        for name in MENDS:
            if name in sys.modules:
                MENDS[name](sys.modules[name])
    return [*mended, *["numpy"] * (not hasattr(np, "Inf"))]


def _major(package: str) -> int:
    """The major version of a package that can be imported, or 0; its distribution may have another name."""
    try:
        return int(version(package).partition(".")[0])
    except PackageNotFoundError:
        there = package in sys.modules or find_spec(package) is not None
        return int(str(getattr(sys.modules.get(package), "__version__", 2)).partition(".")[0]) if there else 0


def triton_first() -> bool:
    """Whether Triton is kept from loading after TensorFlow: that would end the process, because both bring an LLVM.

    If TensorFlow is already loaded, torch works without Triton; only torch.compile on a GPU is lost.
    """
    if not _major("triton") or not _major("tensorflow") or "triton" in sys.modules:
        return False
    if "tensorflow" not in sys.modules:
        with suppress(ImportError):
            importlib.import_module("triton")
        return True
    import torch

    sys.modules["triton"] = None  # type: ignore[assignment]
    if torch.cuda.is_available():
        warnings.warn(
            "TensorFlow was imported before Triton, and importing Triton now would end the process, so torch.compile "
            "on the GPU is off. To turn it on, put `from fe_gradcam import GradCAM` above the imports of TensorFlow "
            "and FastEstimator.",
            CamWarning,
            stacklevel=4,
        )
    return True


def use_keras_2() -> bool:
    """Whether ``tf.keras`` is Keras 2 only because this function put it there, now or before.

    Raises:
        HostError: The user's code already uses something of Keras 3, which cannot be mixed with Keras 2.
    """
    if _major("keras") < 3 or not _major("tensorflow"):
        return False
    if not _major("tf_keras"):
        raise HostError("FastEstimator needs Keras 2, and tf.keras is Keras 3 here. Run: pip install 'tf_keras'")
    asked, tensorflow = os.environ.get(LEGACY), sys.modules.get("tensorflow")
    os.environ[LEGACY] = "1"
    folder = str(Path(str(getattr(find_spec("tf_keras"), "origin", ""))).parent / "api" / "_v2")
    if tensorflow is None or folder in tensorflow.__path__:  # it looks at the variable when it is imported
        return True
    held = list(_held_of_keras_3())
    of_user = next((f"{name}.{attribute}" for name, attribute in held if not _of_a_library(name)), None)
    if of_user is not None:
        os.environ.pop(LEGACY)
        os.environ.update({} if asked is None else {LEGACY: asked})
        raise HostError(
            f"FastEstimator needs Keras 2 (tf_keras), and {of_user} is already of Keras 3. Put `from fe_gradcam import "
            f"GradCAM` above the imports of Keras and TensorFlow, or set {LEGACY}=1 before Python starts."
        )
    for name in [one for one in sys.modules if one == "tensorflow.keras" or one.startswith("tensorflow.keras.")]:
        del sys.modules[name]
    tensorflow.__path__ = [folder, *tensorflow.__path__]
    importlib.import_module("tensorflow.keras")
    for alias in ("losses", "metrics", "optimizers", "initializers"):
        setattr(tensorflow, alias, importlib.import_module(f"{API}.{alias}"))
    _take_over_settings()
    of_host = dict.fromkeys(name for name, _ in held if name.startswith("fastestimator.") and name not in MENDS)
    for name in reversed(of_host):  # its layers and architectures; what they import themselves was met behind them
        importlib.reload(sys.modules[name])
    return True


def _take_over_settings() -> None:
    """Copies settings from Keras 3 to Keras 2: the dtype, the layout of images, the precision."""
    old, new = importlib.import_module("keras"), importlib.import_module(API)
    new.backend.set_floatx(old.backend.floatx())
    new.backend.set_epsilon(old.backend.epsilon())
    new.backend.set_image_data_format(old.backend.image_data_format())
    new.mixed_precision.set_global_policy(old.mixed_precision.dtype_policy().name)


def _of_a_library(name: str) -> bool:
    """Whether a module belongs to an installed library; such a module may use Keras 3."""
    file = getattr(sys.modules[name], "__file__", None) or ""
    return bool(file) and any(Path(file).is_relative_to(get_path(one)) for one in ("stdlib", "purelib", "platlib"))


def _held_of_keras_3() -> Iterator[tuple[str, str]]:
    """Modules outside of TensorFlow and Keras, in the order of their imports, and what they hold of Keras 3."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("tensorflow", "keras", "tf_keras"):
            continue
        with suppress(Exception):  # anything may stand there; nothing of it is to be loaded by this
            for attribute, value in list(object.__getattribute__(module, "__dict__").items()):
                if not attribute.startswith(("_", "Out")) and _is_of_keras_3(value):  # a notebook keeps what it showed
                    yield name, attribute


def _is_of_keras_3(value: Any) -> bool:
    """Whether a value is a module, class, function or object of Keras 3, or of a class derived from one of Keras 3."""
    whose: list[Any] = []
    with suppress(Exception):
        kind = type(value)  # not isinstance, which some objects answer with a warning
        if issubclass(kind, ModuleType):
            whose = [object.__getattribute__(value, "__name__")]
        elif issubclass(kind, FunctionType):
            whose = [value.__module__]
        else:
            whose = [one.__module__ for one in type.mro(value if issubclass(kind, type) else kind)]
    return any(isinstance(one, str) and f"{one}.".startswith(("keras.", "tensorflow.keras.")) for one in whose)


class HostFinder(MetaPathFinder):
    """Repairs modules of the host when they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in {*MENDS, *OF_KERAS_2} else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Mending(spec.loader)
        return spec


class _Mending(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _keras_2_as_keras() if module.__name__ in OF_KERAS_2 else nullcontext():
            self._loader.exec_module(module)
        MENDS.get(module.__name__, lambda module: None)(module)


@contextmanager
def _keras_2_as_keras() -> Iterator[None]:
    """Makes ``keras`` be Keras 2 while a module is imported that imports from ``keras``."""
    if _major("keras") < 3:
        yield
        return
    for name in ("tensorflow", "tensorboard", "torch.utils.tensorboard", "tf_keras.src.callbacks"):
        importlib.import_module(name)  # these must not get Keras 2 as keras
    own = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "keras"}
    for name in own:
        del sys.modules[name]
    as_keras = {name[3:]: module for name, module in sys.modules.items() if name.partition(".")[0] == "tf_keras"}
    sys.modules.update(as_keras)
    try:
        yield
    finally:
        for name in [one for one in sys.modules if one.partition(".")[0] == "keras"]:
            del sys.modules[name]
        sys.modules.update(own)


class _WithOldNames(ModuleType):
    """NumPy for one module, with names that it no longer has."""

    def __getattr__(self, name: str) -> Any:
        return OLD_NAMES[name] if name in OLD_NAMES else getattr(np, name)


def _old_numpy(module: Any) -> None:
    if not hasattr(np, "Inf"):
        module.np = _WithOldNames("numpy")


def _keras_2_names(module: Any) -> None:
    if _major("keras") >= 3:
        keras = importlib.import_module(API)
        module.Sequential, module.mixed_precision_tf = keras.Sequential, keras.mixed_precision
        module.LossScaleOptimizer = keras.mixed_precision.LossScaleOptimizer


def _keras_2_precision(module: Any) -> None:
    if _major("keras") >= 3:
        module.mixed_precision = importlib.import_module(f"{API}.mixed_precision")


OF_KERAS_2 = ("fastestimator.trace.io.tensorboard",)
"""Modules of the host that cannot be imported without Keras 2."""

MENDS: dict[str, Callable[[Any], None]] = {
    "fastestimator.network": _keras_2_names,
    "fastestimator.summary.history": _keras_2_precision,
    "fastestimator.trace.adapt.early_stopping": _old_numpy,
    "fastestimator.trace.adapt.reduce_lr_on_plateau": _old_numpy,
    "fastestimator.trace.io.best_model_saver": _old_numpy,
}
"""Modules of the host, and the repair of each after its import."""
