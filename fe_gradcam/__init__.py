"""Heatmaps of what a network looks at, while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fe_gradcam.catalogue import METHODS
    from fe_gradcam.faithfulness import METRICS, measure
    from fe_gradcam.op import LayerGradientOp
    from fe_gradcam.operator import gen_dl_model_heatmap
    from fe_gradcam.picture import draw
    from fe_gradcam.route import explain, explain_many, list_layers
    from fe_gradcam.smoothing import Augment
    from fe_gradcam.targets import Contrast, OutputValue, Rank, Segmentation, top_k
    from fe_gradcam.trace import GradCAM
    from fe_gradcam.types import (
        ArgumentError,
        CamError,
        CamWarning,
        GradientError,
        Heatmap,
        UnknownNameError,
        UnsupportedModelError,
    )

__version__ = "0.1.0"

_ROOMS = {
    "explain": "route",
    "explain_many": "route",
    "list_layers": "route",
    "METHODS": "catalogue",
    "METRICS": "faithfulness",
    "masks_of_boxes": "faithfulness",
    "measure": "faithfulness",
    "draw": "picture",
    "LayerGradientOp": "op",
    "gen_dl_model_heatmap": "operator",
    "Augment": "smoothing",
    "Contrast": "targets",
    "OutputValue": "targets",
    "Rank": "targets",
    "Segmentation": "targets",
    "top_k": "targets",
    "GradCAM": "trace",
    "ArgumentError": "types",
    "CamError": "types",
    "CamWarning": "types",
    "GradientError": "types",
    "Heatmap": "types",
    "UnknownNameError": "types",
    "UnsupportedModelError": "types",
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
