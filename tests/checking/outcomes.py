"""What a check found, in short."""

from __future__ import annotations

from fe_gradcam import Check


def outcomes(check: Check) -> dict[str, str]:
    """The outcome of each test."""
    return {one.name: one.outcome for one in check.findings}
