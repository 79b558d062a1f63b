"""Embedding tables as they are shipped, read with NumPy and safetensors alone.

from dnis_lightning.packed import PackedEmbedding

embedding = PackedEmbedding.open("embedding/")
rows = embedding.lookup("user", ["42", "7"])  # (2, K) float32
"""

from dnis_lightning.packed.embedding import PackedEmbedding
from dnis_lightning.packed.table import PackedTable

__all__ = ["PackedEmbedding", "PackedTable"]
