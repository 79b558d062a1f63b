"""The multilayer perceptron that the deep models share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.axes import principal_axes
from dnis_lightning.lookup import take
from dnis_lightning.quantities import Count

Hidden = Literal["paper", "authors"] | list[Count]
"""Widths of a tower's hidden layers: those of the model's own paper, those of the DNIS authors' code, or a list."""


def widths(hidden: Hidden, *, paper: Sequence[int], authors: Sequence[int]) -> list[int]:
    """The hidden widths that a choice stands for."""
    named = {"paper": paper, "authors": authors}
    return list(named[hidden] if isinstance(hidden, str) else hidden)


def halving(dims: int) -> list[int]:
    """K, K/2, K/4, each at least 1: the tower of He et al. 2017."""
    return [max(dims >> times, 1) for times in range(3)]


class Affine(nn.Linear):
    """x Wᵀ + b with W Xavier-normal (Glorot and Bengio 2010) and b = 0 at the start; either side may be 0 wide."""

    def reset_parameters(self) -> None:
        """Draw W, which torch's own start would warn of where it is empty."""
        if self.weight.numel():
            nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015) that takes any number of rows.

    One row has no variance and none has no mean, so fewer than two rows are scaled by the running statistics, which
    they do not move. On several devices each normalises by its own rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised (B, width) from (B, width)."""
        if len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Tower(nn.Module):
    """h_{i+1} = dropout(relu(norm(W_i h_i + b_i))) for each hidden layer, then w · h + b if `output`.

    inputs: width of h_0, perhaps 0. hidden: widths of the hidden layers, perhaps none. outputs: width of what comes
    out. W starts Xavier-normal, b at 0.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
        *,
        output: bool = True,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers = [part for size in pairwise(sizes) for part in _layer(*size, dropout, batch_norm)]
        self.layers = nn.Sequential(*layers, *([Affine(sizes[-1], 1)] if output else []))
        self.outputs = 1 if output else sizes[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, outputs) from (B, inputs)."""
        return self.layers(inputs)

    @torch.no_grad()
    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """What all rows are multiplied by from now on, (K, K), which the first layer takes over; `Recommender.turn`.

        x Wᵀ = x R (W R)ᵀ for each of the rows that it gets side by side. There has to be a layer.
        """
        first, rotation = self.layers[0], principal_axes(table, weights)
        assert isinstance(first, Affine), "each layer begins with one"
        first.weight.copy_((first.weight.unflatten(1, (-1, len(rotation))) @ rotation).flatten(1))
        return rotation

    def of_distinct(self, rows: Tensor, batch: Batch) -> Tensor:
        """(B, outputs) from the rows (U, K) of distinct features, times the batch's values, one after the other."""
        assert batch.distinct is not None, "the rows are those of the distinct features"
        if batch.values is not None:
            return self((take(rows, batch.distinct) * batch.values.unsqueeze(-1)).flatten(1))
        kind = rows.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None  # as the first layer has it
        return self(take(rows, batch.distinct, low).flatten(1))

    def of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """(Q, M, outputs) from each of the rows (Q, D) with each of the rows (M, D), one after the other.

        What the first layer makes of a row is worked out once, and not once for each of its pairs.
        """
        if not len(self.layers):
            return torch.cat([first[:, None].expand(-1, len(second), -1), second.expand(len(first), -1, -1)], dim=-1)
        affine, *others = self.layers
        assert isinstance(affine, Affine), "each layer begins with one"
        of_first, of_second = affine.weight.tensor_split([first.shape[1]], dim=1)
        both = (F.linear(first, of_first, affine.bias)[:, None] + F.linear(second, of_second)).flatten(0, 1)
        return nn.Sequential(*others)(both).view(len(first), len(second), -1)


def _layer(inputs: int, outputs: int, dropout: float, batch_norm: bool) -> Iterator[nn.Module]:
    yield Affine(inputs, outputs)
    if batch_norm:
        yield BatchNorm(outputs)
    yield nn.ReLU()
    if dropout:
        yield nn.Dropout(dropout)
