"""Measurements of speed and quality, run by make; no part of the package."""
