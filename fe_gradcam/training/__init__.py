"""What an epoch shows, whatever the training loop; no host is known here."""
