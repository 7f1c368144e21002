"""What things cost, as ratios measured inside one run."""
