"""Deep & Cross network, version 2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.tower import Affine, Hidden, Tower, widths
from dnis_lightning.quantities import Count, Rate


class Cross(nn.Module):
    """x_{l+1} = x_0 ⊙ (W x_l + b) + x_l (Wang et al. 2021, equation 1), and W = U Vᵀ of a rank, if one is given."""

    def __init__(self, width: int, rank: int | None = None) -> None:
        super().__init__()
        self.weigh: nn.Module = Affine(width, width)
        if rank is not None:
            self.weigh = nn.Sequential(Affine(width, rank, bias=False), Affine(rank, width))

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """x_{l+1} (B, width) from x_0 and x_l (B, width)."""
        return first * self.weigh(last) + last


class DCN(nn.Module):
    """Cross layers from x_0 = e_1 ⊕ … ⊕ e_F to x_L, and a tower (Wang et al. 2021).

    fields, dims: F and K. cross_layers: L. rank: of every W, or None for full matrices.
    structure: `stacked` is w · tower(x_L) + b, `parallel` w · [x_L ⊕ tower(x_0)] + b.
    hidden: the paper tunes it on each data set and the DNIS authors have no such model, so `paper` and `authors` are
    both the 400, 400, 400 of the other deep models.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        cross_layers: Count = 3,
        rank: Count | None = None,
        structure: Literal["stacked", "parallel"] = "stacked",
        hidden: Hidden = "paper",
        dropout: Rate = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        width = fields * dims
        sizes = widths(hidden, paper=[400, 400, 400], authors=[400, 400, 400])
        self.structure = structure
        self.crosses = nn.ModuleList(Cross(width, rank) for _ in range(cross_layers))
        self.tower = Tower(width, sizes, dropout, batch_norm, output=False)
        self.output = Affine(self.tower.outputs + (width if structure == "parallel" else 0), 1)

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, F, K)."""
        first = crossed = rows.flatten(1)
        for cross in self.crosses:
            crossed = cross(first, crossed)
        parallel = self.structure == "parallel"
        seen = torch.cat([crossed, self.tower(first)], dim=-1) if parallel else self.tower(crossed)
        return self.output(seen).squeeze(-1)
