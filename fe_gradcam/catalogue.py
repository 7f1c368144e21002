"""All methods: importing this room registers them."""

from __future__ import annotations

from fe_gradcam import methods, model_methods
from fe_gradcam.registry import METHODS, OF_TARGET, CamMethod, get_method, is_pair, parse_method

__all__ = ["METHODS", "OF_TARGET", "CamMethod", "get_method", "is_pair", "methods", "model_methods", "parse_method"]
