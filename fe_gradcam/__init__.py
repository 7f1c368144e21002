"""Heatmaps of what a network looks at, while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fe_gradcam.drawing.picture import draw
    from fe_gradcam.errors import (
        ArgumentError,
        CamError,
        CamWarning,
        GradientError,
        UnknownNameError,
        UnsupportedModelError,
    )
    from fe_gradcam.explaining.route import explain, explain_many, list_layers
    from fe_gradcam.explaining.views import Augment
    from fe_gradcam.halcon import gen_dl_model_heatmap
    from fe_gradcam.integrations.fastestimator.op import LayerGradientOp
    from fe_gradcam.integrations.fastestimator.trace import GradCAM
    from fe_gradcam.methods import METHODS
    from fe_gradcam.metrics.measure import measure
    from fe_gradcam.metrics.objects import masks_of_boxes
    from fe_gradcam.metrics.rules import METRICS
    from fe_gradcam.spec.targets import Contrast, OutputValue, Rank, Segmentation, top_k
    from fe_gradcam.types import Heatmap

__version__ = "0.1.0"

_ROOMS = {
    "explain": "explaining.route",
    "explain_many": "explaining.route",
    "list_layers": "explaining.route",
    "METHODS": "methods",
    "METRICS": "metrics.rules",
    "masks_of_boxes": "metrics.objects",
    "measure": "metrics.measure",
    "draw": "drawing.picture",
    "LayerGradientOp": "integrations.fastestimator.op",
    "gen_dl_model_heatmap": "halcon",
    "Augment": "explaining.views",
    "Contrast": "spec.targets",
    "OutputValue": "spec.targets",
    "Rank": "spec.targets",
    "Segmentation": "spec.targets",
    "top_k": "spec.targets",
    "GradCAM": "integrations.fastestimator.trace",
    "ArgumentError": "errors",
    "CamError": "errors",
    "CamWarning": "errors",
    "GradientError": "errors",
    "Heatmap": "types",
    "UnknownNameError": "errors",
    "UnsupportedModelError": "errors",
}

__all__ = [
    "METHODS",
    "METRICS",
    "ArgumentError",
    "Augment",
    "CamError",
    "CamWarning",
    "Contrast",
    "GradCAM",
    "GradientError",
    "Heatmap",
    "LayerGradientOp",
    "OutputValue",
    "Rank",
    "Segmentation",
    "UnknownNameError",
    "UnsupportedModelError",
    "draw",
    "explain",
    "explain_many",
    "gen_dl_model_heatmap",
    "list_layers",
    "masks_of_boxes",
    "measure",
    "top_k",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that importing the package imports no framework."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
