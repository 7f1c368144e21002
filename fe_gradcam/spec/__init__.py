"""Target, layer, output and images: as users ask for them, and as backends read them."""
