"""Calls with hostile arguments: each must end in a result or in one of our errors; `python -m tests.fuzzing`."""
