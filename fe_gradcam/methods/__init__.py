"""All methods: importing this room registers them."""

from __future__ import annotations

from fe_gradcam.methods import gradients as methods
from fe_gradcam.methods import whole_model as model_methods
from fe_gradcam.methods.registry import METHODS, OF_TARGET, CamMethod, get_method, parse_method
from fe_gradcam.parameters import is_pair

__all__ = ["METHODS", "OF_TARGET", "CamMethod", "get_method", "is_pair", "methods", "model_methods", "parse_method"]
