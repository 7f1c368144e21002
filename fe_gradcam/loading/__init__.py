"""Loading models and photos by name or file."""
