"""DeepFM."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.tower import Hidden, Tower, widths
from dnis_lightning.quantities import Rate


class DeepFM(nn.Module):
    """FM(e) + w · tower(e_1 ⊕ … ⊕ e_F) + b on the same rows (Guo et al. 2017, section 2.1).

    fields, dims: F and K. reduce: of the factorisation machine, `sum` or `mean` over k.
    hidden: `paper` and `authors` are both 400, 400, 400.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        reduce: Literal["sum", "mean"] = "sum",
        hidden: Hidden = "paper",
        dropout: Rate = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pairs = FM(reduce)
        sizes = widths(hidden, paper=[400, 400, 400], authors=[400, 400, 400])
        self.tower = Tower(fields * dims, sizes, dropout, batch_norm)

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, F, K)."""
        return self.pairs(rows, batch) + self.tower(rows.flatten(1)).squeeze(-1)

    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows are multiplied by from now on, (K, K), which the tower takes over; see `Recommender.turn`."""
        return self.tower.turn(table, weights)

    def of_distinct(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from the rows (U, K) of distinct features, times the batch's values."""
        return self.pairs.of_distinct(rows, batch) + self.tower.of_distinct(rows, batch).squeeze(-1)
