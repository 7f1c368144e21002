"""Which file of the tests mirrors a module."""

from __future__ import annotations

from pathlib import PurePosixPath

TESTED_ELSEWHERE: dict[str, str] = {
    "backends.errors": "backends/test_protocol.py",
    "backends.keras.attention": "backends/test_attention.py",
    "backends.keras.compiled": "backends/keras/test_backend.py",
    "backends.keras.on_torch": "backends/keras/test_version.py",
    "backends.keras.graph": "backends/keras/test_backend.py",
    "backends.keras.last": "verdicts/test_remedy.py",
    "backends.keras.layers": "spec/test_layers.py",
    "backends.keras.plain": "checking/test_check.py",
    "backends.keras.observed": "backends/keras/test_backend.py",
    "backends.keras.watch": "backends/keras/test_changes.py",
    "backends.keras.passes": "methods/test_whole_model.py",
    "backends.keras.scores": "spec/test_targets.py",
    "backends.pytorch.attention": "backends/test_attention.py",
    "backends.last": "verdicts/test_remedy.py",
    "backends.pytorch.last": "verdicts/test_remedy.py",
    "backends.pytorch.layers": "spec/test_layers.py",
    "backends.pytorch.observed": "backends/pytorch/test_backend.py",
    "backends.pytorch.passes": "methods/test_whole_model.py",
    "backends.pytorch.plain": "checking/test_check.py",
    "backends.pytorch.recorder": "backends/pytorch/test_backend.py",
    "backends.pytorch.scores": "spec/test_targets.py",
    "backends.pytorch.state": "backends/pytorch/test_backend.py",
    "backends.scoring": "spec/test_targets.py",
    "checking.differences": "checking/test_check.py",
    "checking.laws": "checking/test_check.py",
    "checking.result": "checking/test_check.py",
    "checking.subject": "checking/test_check.py",
    "command.check": "command/test_cli.py",
    "command.options": "command/test_messages.py",
    "command.written": "command/test_run.py",
    "drawing.canvas": "drawing/test_grid.py",
    "drawing.film": "training/test_history.py",
    "drawing.text": "drawing/test_grid.py",
    "explaining.explained": "drawing/test_sheet.py",
    "explaining.heat": "methods/test_gradients.py",
    "explaining.probe": "methods/test_variants.py",
    "explaining.results": "drawing/test_sheet.py",
    "explaining.route": "backends/test_protocol.py",
    "explaining.settings": "backends/test_protocol.py",
    "integrations.fastestimator.display": "integrations/fastestimator/test_trace.py",
    "integrations.fastestimator.keyed": "integrations/fastestimator/test_trace.py",
    "integrations.fastestimator.op": "integrations/fastestimator/test_trace.py",
    "spec.objects": "metrics/test_rules.py",
    "integrations.fastestimator.warmup": "integrations/fastestimator/test_mistakes.py",
    "spec.tokens": "spec/test_layers.py",
    "reporting.entries": "reporting/test_content.py",
    "training.chosen": "training/test_selection.py",
    "training.epoch": "training/test_watcher.py",
    "training.options": "integrations/fastestimator/test_trace.py",
    "training.products.film": "training/test_history.py",
    "training.products.grid": "integrations/fastestimator/test_trace.py",
    "training.products.verdicts": "verdicts/test_places.py",
    "training.rows": "training/test_selection.py",
    "training.source": "integrations/fastestimator/test_trace.py",
}
"""Modules without a test file of their own name, and what tests them, below tests/."""


def mirror(module: str) -> str:
    """Of fe_gradcam/metrics/area.py tests/metrics/test_area.py, or what TESTED_ELSEWHERE says."""
    path = PurePosixPath(module).relative_to("fe_gradcam")
    name = ".".join(path.with_suffix("").parts)
    return f"tests/{TESTED_ELSEWHERE.get(name, path.with_name(f'test_{path.name}').as_posix())}"
