"""Multilayer perceptron over the rows of all fields."""

from __future__ import annotations

from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.tower import Hidden, Tower, halving, widths
from dnis_lightning.quantities import Rate


class MLP(nn.Module):
    """w · tower(e_1 ⊕ … ⊕ e_F) + b (He et al. 2017, section 3.3).

    fields, dims: F and K. hidden: `paper` is K, K/2, K/4, `authors` 2K, K.
    """

    def __init__(
        self, fields: int, dims: int, hidden: Hidden = "paper", dropout: Rate = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        sizes = widths(hidden, paper=halving(dims), authors=[max(2 * dims, 1), max(dims, 1)])
        self.tower = Tower(fields * dims, sizes, dropout, batch_norm)

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, F, K)."""
        return self.tower(rows.flatten(1)).squeeze(-1)

    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows are multiplied by from now on, (K, K), which the tower takes over; see `Recommender.turn`."""
        return self.tower.turn(table, weights)

    def of_distinct(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from the rows (U, K) of distinct features, times the batch's values."""
        return self.tower.of_distinct(rows, batch).squeeze(-1)

    def of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (Q, M) of each of the rows (Q, K) with each of the rows (M, K): of two fields."""
        return self.tower.of_pairs(first, second).squeeze(-1)
