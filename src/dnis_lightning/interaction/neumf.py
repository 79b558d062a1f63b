"""Neural matrix factorisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.axes import principal_axes, signed_axes
from dnis_lightning.interaction.tower import Affine, Hidden, Tower, halving, widths
from dnis_lightning.quantities import Rate


class NeuMF(nn.Module):
    """w · [p_1 ⊙ p_2 ⊕ tower(q_1 ⊕ q_2)] + b for two fields (He et al. 2017, section 3.4).

    Generalised matrix factorisation and tower have tables of their own: of a row's 2K entries the first K are p, the
    last K are q.

    dims: K, of each table. hidden: of the tower, on its 2K inputs; `paper` and `authors` are both K, K/2, K/4.
    Raises ConfigError for other than two fields.
    """

    tables = 2

    def __init__(
        self, fields: int, dims: int, hidden: Hidden = "paper", dropout: Rate = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if fields != 2:
            raise ConfigError(f"model=neumf: NeuMF joins 2 fields, this data has {fields}; take model=deepfm")
        sizes = widths(hidden, paper=halving(dims), authors=halving(dims))
        self.tower = Tower(2 * dims, sizes, dropout, batch_norm, output=False)
        self.output = Affine(dims + self.tower.outputs, 1)

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, 2, 2K)."""
        p, q = rows.tensor_split(2, dim=-1)
        return self.output(torch.cat([p[:, 0] * p[:, 1], self.tower(q.flatten(1))], dim=-1)).squeeze(-1)

    @torch.no_grad()
    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows are multiplied by from now on, (2K, 2K): p and q each by a matrix of its own.

        w takes over that of p, the tower that of q; see `Recommender.turn`.
        """
        p, q = table.tensor_split(2, dim=1)
        of_p, of_q = self.output.weight.clone().split([p.shape[1], self.tower.outputs], dim=1)
        matrix, signs = signed_axes(p, weights, of_p[0])
        if len(self.tower.layers):
            rotation = self.tower.turn(q, weights)
        else:
            rotation = principal_axes(q, weights)
            of_q = (of_q.unflatten(1, (2, len(rotation))) @ rotation).flatten(1)
        self.output.weight.copy_(torch.cat([signs[None], of_q], dim=1))
        return torch.block_diag(matrix, rotation)

    def of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (Q, M) of each of the rows (Q, 2K) with each of the rows (M, 2K)."""
        (p_1, q_1), (p_2, q_2) = first.tensor_split(2, dim=-1), second.tensor_split(2, dim=-1)
        of_p, of_q = self.output.weight.split([p_1.shape[1], self.tower.outputs], dim=1)
        return (p_1 * of_p) @ p_2.T + self.tower.of_pairs(q_1, q_2) @ of_q.flatten() + self.output.bias
