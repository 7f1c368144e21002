"""Heatmaps of what a network looks at, while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fe_gradcam.drawing.picture import draw as draw
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
    from fe_gradcam.integrations.fastestimator.trace import GradCAM as GradCAM
    from fe_gradcam.methods import METHODS as METHODS
    from fe_gradcam.metrics.measure import measure as measure
    from fe_gradcam.metrics.objects import masks_of_boxes as masks_of_boxes
    from fe_gradcam.metrics.rules import METRICS as METRICS
    from fe_gradcam.spec.targets import Contrast as Contrast
    from fe_gradcam.spec.targets import OutputValue as OutputValue
    from fe_gradcam.spec.targets import Rank as Rank
    from fe_gradcam.spec.targets import Segmentation as Segmentation
    from fe_gradcam.spec.targets import top_k as top_k
    from fe_gradcam.types import Heatmap as Heatmap

__version__ = "0.1.0"

_NAMES = {
    "drawing.picture": "draw",
    "errors": "ArgumentError CamError CamWarning GradientError UnknownNameError UnsupportedModelError",
    "explaining.route": "explain explain_many list_layers",
    "explaining.views": "Augment",
    "halcon": "gen_dl_model_heatmap",
    "integrations.fastestimator.op": "LayerGradientOp",
    "integrations.fastestimator.trace": "GradCAM",
    "methods": "METHODS",
    "metrics.measure": "measure",
    "metrics.objects": "masks_of_boxes",
    "metrics.rules": "METRICS",
    "spec.targets": "Contrast OutputValue Rank Segmentation top_k",
    "types": "Heatmap",
}
_ROOMS = {name: room for room, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that importing the package imports no framework."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
