"""Differentiable neural input search for recommender models."""

__version__ = "0.1.0"
