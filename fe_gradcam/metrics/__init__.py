"""Metrics: whether a heatmap is right."""
