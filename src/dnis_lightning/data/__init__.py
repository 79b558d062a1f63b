"""Data: raw files in, batches of encoded rows out."""
