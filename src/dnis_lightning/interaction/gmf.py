"""Generalised matrix factorisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.axes import signed_axes
from dnis_lightning.interaction.tower import Affine


class GMF(nn.Module):
    """w · (e_1 ⊙ e_2) + b for two fields (He et al. 2017, section 3.2).

    Raises ConfigError for other than two fields.
    """

    pairs_at_once = 1 << 25  # one product of matrices

    def __init__(self, fields: int, dims: int) -> None:
        super().__init__()
        if fields != 2:
            raise ConfigError(f"model=gmf: GMF joins 2 fields, this data has {fields}; take model=fm")
        self.output = Affine(dims, 1)

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, 2, K)."""
        return self.output(rows[:, 0] * rows[:, 1]).squeeze(-1)

    @torch.no_grad()
    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows are multiplied by from now on, (K, K), which w takes over; see `Recommender.turn`."""
        matrix, signs = signed_axes(table, weights, self.output.weight[0])
        self.output.weight.copy_(signs)
        return matrix

    def of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (Q, M) of each of the rows (Q, K) with each of the rows (M, K)."""
        return (first * self.output.weight) @ second.T + self.output.bias
