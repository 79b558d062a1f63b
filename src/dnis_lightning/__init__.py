"""Differentiable neural input search for recommender models."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dnis_lightning.compression import compress

__all__ = ["__version__", "compress"]


def __getattr__(name: str) -> Any:
    if name != "compress":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dnis_lightning.compression import compress  # torch, which nobody loads who does not ask

    return compress
