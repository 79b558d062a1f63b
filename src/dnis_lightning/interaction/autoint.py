"""Interactions learned by self-attention over the fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.axes import principal_axes
from dnis_lightning.interaction.tower import Affine
from dnis_lightning.quantities import Count, Rate


class Attention(nn.Module):
    """relu(⊕_h Σ_g a^h_{fg} V^h e_g + R e_f), with a^h_{f·} = softmax_g ⟨Q^h e_f, K^h e_g⟩, for each field f.

    inputs: width of e. heads, width: H heads, A wide each, so that H·A come out. dropout: of the weights a.
    """

    def __init__(self, inputs: int, heads: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = (heads, width)
        self.query, self.key, self.value, self.residual = (Affine(inputs, heads * width, bias=False) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(B, F, H·A) from (B, F, inputs)."""
        query, key, value = (self._per_head(part(states)) for part in (self.query, self.key, self.value))
        attention = F.softmax(query @ key.mT, dim=-1)
        seen = self.dropout(attention) @ value
        return F.relu(seen.transpose(1, 2).flatten(2) + self.residual(states))

    def _per_head(self, states: Tensor) -> Tensor:
        """(B, H, F, A) from (B, F, H·A)."""
        return states.unflatten(-1, self.heads).transpose(1, 2)


class AutoInt(nn.Module):
    """w · [s_1 ⊕ … ⊕ s_F] + b, s from layers of multi-head self-attention over the rows (Song et al. 2019, section 4).

    fields, dims: F and K. layers, heads: of attention. width: of each head. dropout: of the attention's weights.
    """

    def __init__(
        self, fields: int, dims: int, layers: Count = 3, heads: Count = 2, width: Count = 32, dropout: Rate = 0.0
    ) -> None:
        super().__init__()
        inputs = [dims, *[heads * width] * (layers - 1)]
        self.layers = nn.Sequential(*(Attention(size, heads, width, dropout) for size in inputs))
        self.output = Affine(fields * heads * width, 1)

    @torch.no_grad()
    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows are multiplied by from now on, (K, K), which the first layer takes over; `Recommender.turn`."""
        first, rotation = self.layers[0], principal_axes(table, weights)
        assert isinstance(first, Attention), "there is no other kind"
        for part in (first.query, first.key, first.value, first.residual):
            part.weight.copy_(part.weight @ rotation)
        return rotation

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) from rows (B, F, K)."""
        return self.output(self.layers(rows).flatten(1)).squeeze(-1)
