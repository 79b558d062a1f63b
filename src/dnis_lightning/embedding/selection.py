"""The soft selection layer of section 2.4."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnis_lightning.lookup import sum_by

_AT_ONCE = 1 << 16
"""Rows of a table that are worked on at a time."""


class SoftSelection(nn.Module):
    """Equation 4: ẽ_i = e_i ⊙ α_l for a feature i of block l, with gates α (L, K) in [0, 1].

    The gates start at 1. They take no part in the backward of the weights (`requires_grad` is off, so that DDP leaves
    them alone); the search asks for their gradient by itself.
    idle: whether rows pass as they are, without a look at the gates: see `rest`.
    """

    block_of: Tensor
    idle: bool = False

    def __init__(self, block_of: np.ndarray, blocks: int, dims: int) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.ones(blocks, dims), requires_grad=False)
        own = torch.tensor(block_of, dtype=torch.int32)  # in torch's memory, whose pages are larger
        self.register_buffer("block_of", own, persistent=False)

    def forward(self, rows: Tensor, features: Tensor) -> Tensor:
        """Rows (…, K) of features (…), each scaled by the gates of its block."""
        if self.idle:
            return rows
        return rows * _Expand.apply(self.gates, self.block_of[features])

    def rest(self, resting: bool) -> None:
        """Gates that all are 1 stay so until this is called again with False: nothing is multiplied meanwhile."""
        self.idle = resting and bool((self.gates == 1).all())

    @torch.no_grad()
    def merge(self, table: Tensor) -> Tensor:
        """Ẽ = E ⊙ α, (N, K), in place of E: the table that equation 9 prunes."""
        for rows, blocks in zip(table.split(_AT_ONCE), self.block_of.split(_AT_ONCE), strict=True):
            rows.mul_(functional.embedding(blocks, self.gates))
        return table

    @torch.no_grad()
    def clip(self) -> None:
        """Line 9 of Algorithm 1: back into [0, 1]."""
        self.gates.clamp_(0, 1)


class _Expand(torch.autograd.Function):
    """(L, K) → (…, K): the rows of blocks (…); its transpose is `_PerBlock`."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, blocks: Tensor) -> Tensor:
        ctx.blocks, ctx.count = blocks, len(gates)
        return torch.embedding(gates, blocks)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _PerBlock.apply(gradient[0], ctx.blocks, ctx.count), None


class _PerBlock(torch.autograd.Function):
    """(…, K) → (L, K): the sums over each block."""

    @staticmethod
    def forward(ctx: Any, each: Tensor, blocks: Tensor, count: int) -> Tensor:
        ctx.blocks = blocks
        return sum_by(blocks.flatten(), each.flatten(end_dim=-2), count)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Expand.apply(gradient[0], ctx.blocks), None, None
