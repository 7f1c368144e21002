"""From images to heatmaps."""
