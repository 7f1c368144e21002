"""Whether a heatmap is right."""
