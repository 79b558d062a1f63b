"""Compresses an embedding of any trained torch model, without configuration and data sets of ours."""

from dnis_lightning.compression.packing import compress

__all__ = ["compress"]
