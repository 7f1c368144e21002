"""How a PyTorch model is observed."""
