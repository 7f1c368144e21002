"""The caller's default dtype of PyTorch does not matter: what the package makes says its own."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import fe_gradcam
from fe_gradcam import METHODS, METRICS, explain, measure

MAKERS = {"zeros", "ones", "empty", "full", "rand", "randn", "linspace", "eye", "normal"}


def found_everywhere() -> dict[str, np.ndarray]:
    """Every method's map of a small net, and every metric of one of them."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
        model = nn.Sequential(*layers).float().eval()
    images = torch.randn(2, 3, 9, 12, generator=generator, dtype=torch.float32)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
    methods = [name for name in METHODS if name != "le_grad"]  # which is for transformers
    found = {name: explain(model, images, method=name, batch_size=8).raw for name in methods}
    heatmap, boxes = explain(model, images), np.array([[3, 2, 6, 5]] * 2)
    again = {"again": lambda: explain(model, images, target=heatmap.class_ids)}
    return found | measure(model, images, heatmap, list(METRICS), boxes=boxes, **again)  # type: ignore[arg-type]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_maps_and_metrics_are_the_same_whatever_the_callers_default(default: torch.dtype) -> None:
    expected = found_everywhere()
    torch.set_default_dtype(default)
    try:
        found = found_everywhere()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, values in expected.items():
        assert_allclose(found[name], values, atol=1e-6 * np.nanmax(np.abs(values)), err_msg=name)


def test_no_tensor_is_made_in_the_callers_default() -> None:
    for path in Path(fe_gradcam.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}:
                assert "dtype" in {one.arg for one in node.keywords}, f"{path.name}, line {node.lineno}"
