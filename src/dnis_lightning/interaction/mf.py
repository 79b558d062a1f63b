"""Matrix factorisation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.fm import FM


class MF(FM):
    """⟨e_1, e_2⟩ for two fields (Koren, Bell and Volinsky 2009), which is all that a factorisation machine has of them.

    Biases are first-order terms of the recommender.
    reduce: `sum` is the inner product; `mean` divides it by K, as the DNIS authors' code does.
    """

    def __init__(self, fields: int, reduce: Literal["sum", "mean"] = "sum") -> None:
        super().__init__(reduce)
        if fields != 2:
            raise ConfigError(f"model=mf: matrix factorisation joins 2 fields, this data has {fields}; take model=fm")

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, 2, K)."""
        product = rows[:, 0] * rows[:, 1]
        return product.mean(-1) if self.reduce == "mean" and product.shape[-1] else product.sum(-1)
