"""Factorisation machine of second order."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.lookup import bag


class FM(nn.Module):
    """Σ_{f<g} ⟨e_f, e_g⟩ = ½ Σ_k [(Σ_f e_{f,k})² − Σ_f e_{f,k}²] (Rendle 2010, lemma 3.1).

    reduce: `sum` over k as in the formula; `mean` divides by K, as the DNIS authors' code does.
    """

    def __init__(self, reduce: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, F, K)."""
        square_of_sum = rows.sum(1).square()
        sum_of_squares = rows.square().sum(1)
        pairs = 0.5 * (square_of_sum - sum_of_squares)
        return pairs.mean(-1) if self.reduce == "mean" and pairs.shape[-1] else pairs.sum(-1)

    def of_distinct(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from the rows (U, K) of distinct features, times the batch's values; no (B, F, K) is built."""
        assert batch.distinct is not None, "the rows are those of the distinct features"
        values = batch.values
        square_of_sum = bag(rows, batch.distinct, values).square().sum(-1)
        squares = rows.square().sum(-1, keepdim=True)
        sum_of_squares = bag(squares, batch.distinct, None if values is None else values.square()).squeeze(-1)
        pairs = 0.5 * (square_of_sum - sum_of_squares)
        return pairs / rows.shape[-1] if self.reduce == "mean" and rows.shape[-1] else pairs
