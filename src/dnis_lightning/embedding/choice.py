"""Which parts of a table are kept, as gates of 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.table import top


class BlockChoice(SoftSelection):
    """A soft selection that is hard: what a controller leaves out is shut, whole dimensions of a block at a time."""

    def open_entries(self) -> int:
        """How many entries are behind open gates."""
        sizes = torch.bincount(self.block_of, minlength=len(self.gates))
        return int((sizes[:, None] * (self.gates > 0)).sum())

    @torch.no_grad()
    def chosen(self, table: Tensor, kept: int, there: Tensor) -> Tensor:
        """(N, K) bool: the entries behind open gates; if these are more than `kept`, the largest of them.

        table (N, K): is overwritten. there (N, K) bool: the entries to choose among.
        """
        return top(table.abs_(), kept, there & (self.gates > 0)[self.block_of])
