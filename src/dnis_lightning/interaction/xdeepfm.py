"""Extreme deep factorisation machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.tower import Affine, Hidden, Tower, widths
from dnis_lightning.quantities import Counts, Rate


class CIN(nn.Module):
    """CIN: X^{l+1}_n = Σ_{h,f} W^{l+1}_{n,h,f} (X^l_h ⊙ e_f), with X^0 = e (Lian et al. 2018).

    layers: H_1 … H_L, the maps of each layer. What comes out is Σ_k of maps of all layers: of all maps, or with
    split_half of the second half only, the first half alone feeding the next layer, save that the last layer shows all.
    outputs: how many come out. A layer holds H·F·K numbers a row while it works. W starts Xavier-normal.
    Raises ConfigError when half of a layer is no whole number.
    """

    def __init__(self, fields: int, layers: Sequence[int], split_half: bool = True) -> None:
        super().__init__()
        odd = [layer for layer in layers[:-1] if layer % 2]
        if split_half and odd:
            raise ConfigError(
                f"model.cin_layers: {odd[0]} maps cannot be halved; take an even number, or split_half=false"
            )
        self.split_half = split_half
        feeding = [fields, *(layer // 2 if split_half else layer for layer in layers[:-1])]
        starts = (torch.empty(maps, fed * fields) for maps, fed in zip(layers, feeding, strict=True))
        self.weights = nn.ParameterList(nn.Parameter(nn.init.xavier_normal_(start)) for start in starts)
        self.outputs = sum(layers) - (sum(feeding[1:]) if split_half else 0)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, outputs) from rows (B, F, K)."""
        maps, shown = rows, []
        for layer, weight in enumerate(self.weights, start=1):
            products = maps.unsqueeze(2) * rows.unsqueeze(1)
            maps = out = weight @ products.flatten(1, 2)
            if self.split_half and layer < len(self.weights):
                maps, out = maps.tensor_split(2, dim=1)
            shown.append(out.sum(-1))
        return torch.cat(shown, dim=-1)


class XDeepFM(nn.Module):
    """v · CIN(e) + w · tower(e_1 ⊕ … ⊕ e_F) + b (Lian et al. 2018, section 3.3).

    The paper's linear part is the recommender's first-order terms.

    fields, dims: F and K. cin_layers: maps of each layer; split_half: see `CIN`.
    hidden: `paper` is 400, 400; the DNIS authors have no such model, so `authors` is their 400, 400, 400 for others.
    Raises ConfigError when half of a layer is no whole number.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        cin_layers: Counts,
        split_half: bool = True,
        hidden: Hidden = "paper",
        dropout: Rate = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.cin = CIN(fields, cin_layers, split_half)
        self.output = Affine(self.cin.outputs, 1, bias=False)
        sizes = widths(hidden, paper=[400, 400], authors=[400, 400, 400])
        self.tower = Tower(fields * dims, sizes, dropout, batch_norm)

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, F, K)."""
        return (self.output(self.cin(rows)) + self.tower(rows.flatten(1))).squeeze(-1)
