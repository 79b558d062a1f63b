"""Embedding tables and the layers on them."""
