"""Tests of the checks of a user's own network."""
