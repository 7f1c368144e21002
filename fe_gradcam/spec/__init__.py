"""What is explained, where and of which output, as users ask for it and as backends read it."""
