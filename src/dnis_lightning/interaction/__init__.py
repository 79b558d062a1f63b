"""Interaction models: rows (B, F, K) in, logits (B,) out, one file each."""
