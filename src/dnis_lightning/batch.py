"""The one type that travels from the loader to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass  # not frozen: Lightning writes converted tensors into a copy of it
class Batch:
    """B rows of F fields, in C columns: one a field, but several for a field of several features.

    ids (B, C): the row of the embedding table of each column's feature, int32 or int64.
    label (B,): what is predicted, float32.
    values (B, C) or None: multiplies the embedding of each column (1 for categorical fields, the share of each feature
    of a multi-valued field and 0 where it has no more); None means all ones.
    offsets (F + 1,) or None: field f has the columns offsets[f] … offsets[f + 1] − 1, whose products are summed; None
    means one each.
    total: rows of the *global* batch, of which these B are one rank's share; None means B.
    """

    ids: Tensor
    label: Tensor
    values: Tensor | None = None
    offsets: Tensor | None = None
    total: int | None = None

    @property
    def size(self) -> int:
        """B, the rows in this rank's share of the batch."""
        return int(self.label.shape[0])

    @property
    def global_size(self) -> int:
        """The rows of the batch over all ranks; losses are sums divided by it."""
        return self.size if self.total is None else self.total

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a copy to a GPU can overlap with work."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        values = None if self.values is None else move(self.values)
        offsets = None if self.offsets is None else move(self.offsets)
        return Batch(move(self.ids), move(self.label), values, offsets, self.total)
