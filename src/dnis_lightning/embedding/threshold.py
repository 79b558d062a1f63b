"""Learnable thresholds on the entries of a table (PEP: Liu et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnis_lightning.embedding.table import top

Granularity = Literal["table", "dimension", "feature", "element"]


class SoftThreshold(nn.Module):
    """e'_i = sign(e_i) ⊙ relu(|e_i| − σ(s)): entries below their threshold are 0, the others shrink by it.

    s is learned with the weights, by the same loss: one for the whole table, for each dimension (1, K), for each
    feature (N, 1), or for each entry (N, K). `start` is its value at first: very negative, so that nothing is cut.
    left (N, K) bool: the entries that were left when the wanted number was reached, all false before.
    """

    left: Tensor

    def __init__(self, features: int, dims: int, *, granularity: Granularity = "element", start: float = -8.0) -> None:
        super().__init__()
        shape = (
            features if granularity in ("feature", "element") else 1,
            dims if granularity in ("dimension", "element") else 1,
        )
        self.s = nn.Parameter(torch.full(shape, float(start)))
        self.register_buffer("left", torch.zeros(features, dims, dtype=torch.bool))

    def forward(self, rows: Tensor, features: Tensor) -> Tensor:
        """Rows (…, K) of features (…), each entry less its threshold."""
        s = functional.embedding(features, self.s) if len(self.s) > 1 else self.s
        return rows.sign() * functional.relu(rows.abs() - s.sigmoid())

    @torch.no_grad()
    def margin(self, table: Tensor) -> Tensor:
        """|E| − σ(s), (N, K): above 0 for the entries that are left."""
        return table.abs() - self.s.sigmoid()

    @torch.no_grad()
    def merge(self, table: Tensor) -> Tensor:
        """E' (N, K)."""
        return table.sign() * self.margin(table).clamp(min=0)

    @torch.no_grad()
    def note_if_few(self, table: Tensor, kept: int, there: Tensor) -> None:
        """Note in `left` the `kept` entries of largest margin once no more are above their thresholds; see `chosen`."""
        if int((self.margin(table) > 0).sum()) <= kept:
            self.left = top(self.margin(table), kept, there)

    def chosen(self, table: Tensor, kept: int, there: Tensor) -> Tensor:
        """(N, K) bool: the `kept` entries farthest above their thresholds, or least below.

        there (N, K) bool: the entries to choose among; once some were noted, these are.
        """
        return top(self.margin(table), kept, self.left if self.left.any() else there)
