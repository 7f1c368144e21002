"""Models and photos, loaded by name or from files."""
