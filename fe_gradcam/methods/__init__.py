"""The methods: importing this folder registers them all."""

from __future__ import annotations

from fe_gradcam.methods import components, gradients, variants, whole_model
from fe_gradcam.methods.registry import METHODS, CamMethod

__all__ = ["METHODS", "CamMethod", "components", "gradients", "variants", "whole_model"]
