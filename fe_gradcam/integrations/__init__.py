"""Whose training loop it is: one folder or file for each host."""
