"""Whether the tests see it if the package's code is changed: ``make mutation``."""
