"""Matrix factorisation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.errors import ConfigError
from dnis_lightning.lookup import pairs


class MF(nn.Module):
    """⟨e_1, e_2⟩ for two fields (Koren, Bell and Volinsky 2009); biases are first-order terms of the recommender.

    reduce: `sum` is the inner product; `mean` divides it by K, as the DNIS authors' code does.
    """

    def __init__(self, fields: int, reduce: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        if fields != 2:
            raise ConfigError(f"model=mf: matrix factorisation joins 2 fields, this data has {fields}; take model=fm")
        self.reduce = reduce

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, 2, K)."""
        product = rows[:, 0] * rows[:, 1]
        return product.mean(-1) if self.reduce == "mean" and product.shape[-1] else product.sum(-1)

    def of_distinct(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from the rows (U, K) of distinct features, times the batch's values; no (B, 2, K) is kept."""
        assert batch.distinct is not None, "the rows are those of the distinct features"
        found = pairs(rows, batch.distinct, batch.values)
        return found / rows.shape[-1] if self.reduce == "mean" and rows.shape[-1] else found
