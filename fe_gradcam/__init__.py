"""Heatmaps of what a network looks at, while it trains."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fe_gradcam.checking.check import check_model as check_model
    from fe_gradcam.checking.result import Check as Check
    from fe_gradcam.checking.result import Finding as Finding
    from fe_gradcam.drawing.atlas import AtlasPicture as AtlasPicture
    from fe_gradcam.drawing.atlas import atlas as atlas
    from fe_gradcam.drawing.picture import Picture as Picture
    from fe_gradcam.drawing.picture import draw as draw
    from fe_gradcam.drawing.verdicts import draw_verdicts as draw_verdicts
    from fe_gradcam.errors import ArgumentError as ArgumentError
    from fe_gradcam.errors import CamError as CamError
    from fe_gradcam.errors import CamWarning as CamWarning
    from fe_gradcam.errors import GradientError as GradientError
    from fe_gradcam.errors import UnknownNameError as UnknownNameError
    from fe_gradcam.errors import UnsupportedModelError as UnsupportedModelError
    from fe_gradcam.explaining.route import explain as explain
    from fe_gradcam.explaining.route import explain_many as explain_many
    from fe_gradcam.explaining.route import list_layers as list_layers
    from fe_gradcam.explaining.views import Augment as Augment
    from fe_gradcam.halcon import gen_dl_model_heatmap as gen_dl_model_heatmap
    from fe_gradcam.integrations.fastestimator.op import LayerGradientOp as LayerGradientOp
    from fe_gradcam.integrations.fastestimator.swap import SwapSurroundings as SwapSurroundings
    from fe_gradcam.integrations.fastestimator.trace import GradCAM as GradCAM
    from fe_gradcam.methods import METHODS as METHODS
    from fe_gradcam.metrics.measure import measure as measure
    from fe_gradcam.metrics.rules import METRICS as METRICS
    from fe_gradcam.reporting.report import report as report
    from fe_gradcam.spec.objects import masks_of_boxes as masks_of_boxes
    from fe_gradcam.spec.targets import Contrast as Contrast
    from fe_gradcam.spec.targets import OutputValue as OutputValue
    from fe_gradcam.spec.targets import Rank as Rank
    from fe_gradcam.spec.targets import Segmentation as Segmentation
    from fe_gradcam.spec.targets import top_k as top_k
    from fe_gradcam.types import Heatmap as Heatmap
    from fe_gradcam.types import LayerInfo as LayerInfo
    from fe_gradcam.verdicts.find import find_shortcuts as find_shortcuts
    from fe_gradcam.verdicts.remedy import retrain_head as retrain_head
    from fe_gradcam.verdicts.stamps import Reaction as Reaction
    from fe_gradcam.verdicts.stamps import react as react
    from fe_gradcam.verdicts.verdict import Evidence as Evidence
    from fe_gradcam.verdicts.verdict import Trial as Trial
    from fe_gradcam.verdicts.verdict import Verdict as Verdict

__version__ = "0.1.0"

_NAMES = {
    "checking.check": "check_model",
    "checking.result": "Check Finding",
    "drawing.atlas": "AtlasPicture atlas",
    "drawing.picture": "Picture draw",
    "drawing.verdicts": "draw_verdicts",
    "errors": "ArgumentError CamError CamWarning GradientError UnknownNameError UnsupportedModelError",
    "explaining.route": "explain explain_many list_layers",
    "explaining.views": "Augment",
    "halcon": "gen_dl_model_heatmap",
    "integrations.fastestimator.op": "LayerGradientOp",
    "integrations.fastestimator.swap": "SwapSurroundings",
    "integrations.fastestimator.trace": "GradCAM",
    "methods": "METHODS",
    "metrics.measure": "measure",
    "spec.objects": "masks_of_boxes",
    "metrics.rules": "METRICS",
    "reporting.report": "report",
    "spec.targets": "Contrast OutputValue Rank Segmentation top_k",
    "types": "Heatmap LayerInfo",
    "verdicts.find": "find_shortcuts",
    "verdicts.verdict": "Evidence Trial Verdict",
    "verdicts.remedy": "retrain_head",
    "verdicts.stamps": "Reaction react",
}
_ROOMS = {name: room for room, names in _NAMES.items() for name in names.split()}
_OF_HOST = ("GradCAM", "LayerGradientOp", "SwapSurroundings")


def _names() -> list[str]:
    """The public names that can be imported here."""
    try:
        host = find_spec("fastestimator")
    except (ImportError, ValueError):  # ValueError: of a module that somebody made by hand
        host = None
    return sorted(name for name in _ROOMS if name not in _OF_HOST or host)


__all__ = _names()


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that importing the package imports no framework."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    except ImportError as error:
        if name not in _OF_HOST:
            raise
        raise _without_host(name, error) from error


def _without_host(name: str, error: ImportError) -> Exception:
    from fe_gradcam.errors import CamError, NoHostError

    if isinstance(error, CamError):
        return NoHostError(*error.args)
    return NoHostError(
        f"{name} needs FastEstimator, and importing it raised {type(error).__name__}: {error}. Run: "
        "pip install 'fe_gradcam[fastestimator]'; then pip install --no-deps fastestimator==1.7.0 albumentations==1.4.1"
    )


class _OfHost:
    """Makes ``from fe_gradcam import GradCAM`` say what is missing: Python asks finders for a name that it lacks."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> None:
        """Raises HostError for names of the host; see importlib.abc.MetaPathFinder."""
        package, _, name = fullname.rpartition(".")
        if package == __name__ and name in _OF_HOST:
            from fe_gradcam.errors import HostError, NoHostError

            try:
                __getattr__(name)
            except NoHostError as error:
                raise HostError(*error.args) from error.__cause__


if not any(getattr(one, "__qualname__", "") == _OfHost.__qualname__ for one in sys.meta_path):
    sys.meta_path.append(_OfHost)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
