"""Observing PyTorch models."""
