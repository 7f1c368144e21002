"""What was explained as one HTML page, which needs nothing but a browser."""
