"""Models and photos by name or file."""
