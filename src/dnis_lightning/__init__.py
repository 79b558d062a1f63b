"""Differentiable neural input search for recommender models."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dnis_lightning.compression import compress
    from dnis_lightning.embedding.packed_table import PackedLookup

__all__ = ["PackedLookup", "__version__", "compress"]


def __getattr__(name: str) -> Any:
    """What loads torch, once it is asked for."""
    if name == "compress":
        from dnis_lightning.compression import compress

        return compress
    if name == "PackedLookup":
        from dnis_lightning.embedding.packed_table import PackedLookup

        return PackedLookup
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
