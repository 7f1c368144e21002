"""Targets, layers and outputs to explain, in the form that users write and in the form that backends read."""
