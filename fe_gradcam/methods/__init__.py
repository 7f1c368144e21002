"""The methods: importing this folder registers them all."""

from __future__ import annotations

from fe_gradcam.methods import components, gradients, variants, whole_model
from fe_gradcam.methods.registry import METHODS, CamMethod, get_method, parse_method
from fe_gradcam.parameters import is_pair

__all__ = [
    "METHODS",
    "CamMethod",
    "components",
    "get_method",
    "gradients",
    "is_pair",
    "parse_method",
    "variants",
    "whole_model",
]
