"""The package proves itself on a user's own network, by other means than its own route."""
