"""What is made at the end of an epoch, one file for each."""
