"""Whether a class is told by the right thing."""
