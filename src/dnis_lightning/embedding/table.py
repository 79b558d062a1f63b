"""The embedding matrix E of equation 1: one table for the features of all fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dnis_lightning.lookup import Gather, gather
from dnis_lightning.scheme import EVERY


class EmbeddingTable(nn.Module):
    """N features × K dimensions, of which a mask may keep only some entries.

    rotation (K, K): what each row is multiplied by when it is looked up, if the table was turned; it is trained, too.
    """

    mask: Tensor | None
    rotation: nn.Parameter | None

    def __init__(self, features: int, dims: int, std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dims))
        nn.init.normal_(self.weight, std=std)
        self.register_buffer("mask", None)
        self.register_parameter("rotation", None)

    def forward(self, features: Tensor, gather: Gather = gather) -> Tensor:
        """Rows (…, K) of features (…); entries outside the mask are 0 and get no gradient."""
        rows = gather(self.weight, features)
        rows = rows if self.mask is None else rows * self.mask[features]
        return rows if self.rotation is None else (rows @ self.rotation).to(rows.dtype)  # not as autocast has it

    def parameters_by_feature(self) -> list[nn.Parameter]:
        """What is looked up by feature: the one table."""
        return [self.weight]

    @torch.no_grad()
    def entries(self) -> Tensor:
        """(N, K), a copy: what the table holds, zeros outside the mask; rows as they are before a rotation."""
        return self.weight.clone() if self.mask is None else self.weight * self.mask

    def kept(self) -> Tensor:
        """(N, K) bool: true where there is an entry."""
        return torch.ones_like(self.weight, dtype=torch.bool) if self.mask is None else self.mask

    @torch.no_grad()
    def keep(self, table: Tensor, mask: Tensor | None) -> None:
        """Take the values of `table` (N, K) and hold all entries outside `mask` (N, K) at 0 from now on."""
        self.weight.copy_(table)
        if mask is not None:
            self.weight.mul_(mask)
        self.mask = mask

    @torch.no_grad()
    def fill_with_means(self, features: Sequence[int], bounds: Sequence[tuple[int, int]]) -> None:
        """Give each of the `features` the mean of the other rows of its field, in place (`fill_with_field_means`)."""
        fill_with_field_means(self.weight, features, bounds)
        if self.mask is not None:
            self.weight.mul_(self.mask)

    def rotate(self, rotation: Tensor | None) -> None:
        """Multiply rows by a matrix (K, K) from now on, or by none; one that is there already has its values."""
        if rotation is None:
            self.rotation = None
        elif self.rotation is None:
            self.rotation = nn.Parameter(rotation.to(self.weight, copy=True))
        else:
            self.rotation.data.copy_(rotation)

    def projection_arrays(self, mask: Tensor | None = None) -> dict[int, np.ndarray]:
        """The rotation, (d, K), of all features, on the CPU: of the first d dimensions, no feature having any beyond.

        mask (N, K) bool: what is to be kept; None for what is kept now. There is none where d is 0.
        """
        return (
            {} if self.rotation is None else turned_back(self.rotation.detach(), self.kept() if mask is None else mask)
        )

    def load_projections(self, arrays: Mapping[int, np.ndarray]) -> None:
        """Take what `projection_arrays` gave."""
        if EVERY in arrays:
            wide = self.weight.new_zeros(2 * self.weight.shape[1:])
            wide[: len(arrays[EVERY])] = torch.from_numpy(np.array(arrays[EVERY]))
            self.rotate(wide)


def turned_back(rotation: Tensor, mask: Tensor) -> dict[int, np.ndarray]:
    """The projection of all features, (d, K), on the CPU: the first d rows of (K, K), no entry of mask (N, K) beyond.

    There is none where d is 0.
    """
    used = mask.any(0).nonzero()
    return {EVERY: rotation[: int(used.max()) + 1].contiguous().cpu().numpy()} if len(used) else {}


class FirstOrder(nn.Module):
    """One weight w_i a feature: the linear part of a factorisation machine, the biases of matrix factorisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, 1))

    def forward(self, features: Tensor, gather: Gather = gather) -> Tensor:
        """Weights (…) of features (…)."""
        return gather(self.weight, features).squeeze(-1)


@torch.no_grad()
def fill_with_field_means(weight: Tensor, rows: Sequence[int], bounds: Sequence[tuple[int, int]]) -> None:
    """Give each of the `rows` of `weight` (N, K) the mean of the other rows of its field, in place.

    bounds: for each, the first and the end row of its field; a field of one row keeps what it has.
    """
    for row, (start, end) in zip(rows, bounds, strict=True):
        others = end - start - 1
        if others:
            weight[row] = (weight[start:end].sum(0) - weight[row]) / others


@torch.no_grad()
def top(scores: Tensor, count: int, there: Tensor) -> Tensor:
    """(N, K) bool: exactly `count` entries of largest score among those `there` (N, K), or all of these.

    scores (N, K): not NaN; they are overwritten where nothing is there. Of equal ones the first are taken.
    """
    count = min(count, int(there.count_nonzero()))
    if count == 0:
        return torch.zeros_like(there)
    scores.masked_fill_(~there, -torch.inf)
    least = nth_largest(scores, count)
    mask = scores > least
    equal = (scores == least).logical_and_(there).flatten().nonzero().squeeze(1)
    mask.view(-1)[equal[: count - int(mask.count_nonzero())]] = True
    return mask


def nth_largest(values: Tensor, n: int) -> Tensor:
    """The n-th largest of some floating-point numbers, by bisection over all that there are: nothing is copied.

    Numbers that are not negative are ordered as the integers of the same bits are, and the others the other way round.
    """
    kind = torch.int64 if values.dtype == torch.float64 else torch.int32
    most = torch.iinfo(kind).max

    def number(key: int) -> Tensor:
        bits = key if key >= 0 else key ^ most
        return torch.tensor(bits, dtype=kind, device=values.device).view(values.dtype)

    high = int(torch.tensor(torch.inf, dtype=values.dtype).view(kind))
    low = -high - 1  # the key of −∞
    while low < high:
        middle = (low + high + 1) // 2
        if int((values >= number(middle)).count_nonzero()) >= n:
            low = middle
        else:
            high = middle - 1
    return number(low)
