"""The embedding matrix E of equation 1: one table for the features of all fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class EmbeddingTable(nn.Module):
    """N features × K dimensions, of which a mask may keep only some entries.

    Rows are gathered with `functional.embedding`, whose backward sums in a fixed order; indexing with `[]` does not.
    """

    mask: Tensor | None

    def __init__(self, features: int, dims: int, std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dims))
        nn.init.normal_(self.weight, std=std)
        self.register_buffer("mask", None)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (B, F, K) of the features `ids` (B, F); entries outside the mask are 0 and get no gradient."""
        rows = functional.embedding(ids, self.weight)
        return rows if self.mask is None else rows * self.mask[ids]

    @torch.no_grad()
    def keep(self, table: Tensor, mask: Tensor | None) -> None:
        """Take the values of `table` (N, K) and hold all entries outside `mask` (N, K) at 0 from now on."""
        self.weight.copy_(table if mask is None else table * mask)
        self.mask = mask


class FirstOrder(nn.Module):
    """One weight w_i a feature: the linear part of a factorisation machine, the biases of matrix factorisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Weights (B, F) of the features `ids` (B, F)."""
        return functional.embedding(ids, self.weight).squeeze(-1)


@torch.no_grad()
def fill_with_field_means(weight: Tensor, rows: Sequence[int], bounds: Sequence[tuple[int, int]]) -> None:
    """Give each of the `rows` of `weight` (N, K) the mean of the other rows of its field, in place.

    bounds: for each, the first and the end row of its field; a field of one row keeps what it has.
    """
    for row, (start, end) in zip(rows, bounds, strict=True):
        others = end - start - 1
        if others:
            weight[row] = (weight[start:end].sum(0) - weight[row]) / others
