"""Products of an epoch, for any training loop; no host is known here."""
