"""Factorisation machine of second order."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.axes import principal_axes
from dnis_lightning.lookup import pairs


class FM(nn.Module):
    """Σ_{f<g} ⟨e_f, e_g⟩ = ½ Σ_k [(Σ_f e_{f,k})² − Σ_f e_{f,k}²] (Rendle 2010, lemma 3.1).

    reduce: `sum` over k as in the formula; `mean` divides by K, as the DNIS authors' code does.
    """

    pairs_at_once = 1 << 25  # one product of matrices

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
        found = pairs(rows, batch.distinct, batch.values)
        return found / rows.shape[-1] if self.reduce == "mean" and rows.shape[-1] else found

    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows may be multiplied by, (K, K), and inner products stay as they are; see `Recommender.turn`."""
        return principal_axes(table, weights)

    def of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (Q, M) of each of the rows (Q, K) with each of the rows (M, K): of two fields."""
        found = first @ second.T
        return found / first.shape[-1] if self.reduce == "mean" and first.shape[-1] else found
