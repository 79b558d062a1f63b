"""Wide & Deep."""

from __future__ import annotations

from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.tower import Hidden, Tower, widths
from dnis_lightning.quantities import Rate


class WideDeep(nn.Module):
    """The deep part, w · tower(e_1 ⊕ … ⊕ e_F) + b (Cheng et al. 2016, section 3.2).

    The wide part is the recommender's first-order terms, one weight a feature, without the paper's crossed features.

    fields, dims: F and K. hidden: `paper` is 1024, 512, 256, `authors` 400, 400, 400.
    """

    def __init__(
        self, fields: int, dims: int, hidden: Hidden = "paper", dropout: Rate = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        sizes = widths(hidden, paper=[1024, 512, 256], authors=[400, 400, 400])
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
