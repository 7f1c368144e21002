"""Programs and notebooks to learn from."""
