"""The folder that these tests work in."""

from tests.models.squares import here as here
