"""Observing Keras models."""
