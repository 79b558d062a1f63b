"""What moved the gates of a search, how far, and whether they came to fit the rows that they were moved by, in numbers.

L blocks of features, K dimensions of each, T epochs. Nothing here changes a search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DEAD = 1e-3
"""A block whose gates are all below it is as good as gone."""
_TINY = 1e-100
_NOISE = math.sqrt(2 / math.pi)
"""E|x| of a standard normal x: what |Σ g| / sqrt(Σ g²) is on the average where signs are drawn by lot."""


@dataclass(frozen=True)
class Pushes:
    """Sums over the steps of a search, each (L, K) in double precision.

    steps: what equation 8 and the penalty ask of the gates, whether or not [0, 1] lets them follow; penalty: its part
    in that. gradient, squares: g, before equation 8, and g².
    """

    steps: Tensor
    penalty: Tensor
    gradient: Tensor
    squares: Tensor

    @classmethod
    def none(cls, gates: Tensor) -> Pushes:
        """Before the first step of gates (L, K)."""
        return cls(*torch.zeros(4, *gates.shape, dtype=torch.float64, device=gates.device))

    def to(self, device: str | torch.device) -> Pushes:
        """The same on a device."""
        return Pushes(**{name: total.to(device) for name, total in vars(self).items()})

    def add(self, gradient: Tensor, step: Tensor, penalty: Tensor | float) -> None:
        """Add a step: g (L, K), the normalised step (L, K), and the penalty's part of that, a number or (L, 1)."""
        gradient = gradient.double()
        self.steps.add_(step)
        self.penalty.add_(penalty)
        self.gradient.add_(gradient)
        self.squares.addcmul_(gradient, gradient)


def data_share(pushes: Pushes) -> Tensor:
    """(L,) the share that the data have in the net movement: 1 without a penalty, 0 where it is the penalty alone.

    Equation 8 makes each single step of the data as large as any other, pure noise included. What counts is what is
    left of them when they are summed: mean_k|Σ_t data| / (mean_k|Σ_t data| + mean_k|Σ_t penalty|).
    """
    data, penalty = (part.abs().mean(1) for part in (pushes.steps - pushes.penalty, pushes.penalty))
    return 1 - penalty / (data + penalty).clamp(min=_TINY)


def signal(pushes: Pushes) -> Tensor:
    """(L,) how far the steps of the gradient agree: mean_k |Σ_t g| / sqrt(Σ_t g²), as a multiple of what noise has.

    About 1 where signs are drawn by lot, larger where steps agree: of T steps that are all alike, sqrt(T · π / 2). 0
    where there is no gradient.
    """
    return (pushes.gradient.abs() / pushes.squares.sqrt().clamp(min=_TINY)).mean(1) / _NOISE


def drift(gates: Sequence[Tensor]) -> Tensor:
    """(T, L) how far the gates of a block moved in each epoch, mean_k |α_t − α_{t−1}|.

    gates: α (L, K) at the end of each epoch; a search starts at α = 1.
    """
    path = torch.stack([torch.ones_like(gates[0]), *gates])
    return path.diff(dim=0).abs().mean(2)


@dataclass(frozen=True)
class BlockHealth:
    """A block, 1 = the most frequent, of so many features: its `data_share` and `signal`, its `drift` in a mean epoch.

    gates: the mean of those that the search ends with; dead: whether all of them are 0, or next to it.
    """

    block: int
    features: int
    data_share: float
    signal: float
    gates: float
    dead: bool
    drift: float


@dataclass(frozen=True)
class Pace:
    """The mean drift of all blocks that have features in an epoch at first and at last: of a third each, or of five."""

    first: float
    last: float


@dataclass(frozen=True)
class Gap:
    """By how much the loss on select is above that on search, in the first epoch and in the last.

    growth: from first to last, as a share of the select loss at the end. The level itself says nothing: one set of rows
    may just be harder than another.
    """

    first: float
    last: float
    growth: float


@dataclass(frozen=True)
class Diagnosis:
    """The numbers of a search of T epochs; gap: None where the two losses cannot be compared."""

    epochs: int
    blocks: tuple[BlockHealth, ...]
    drift: Pace
    gap: Gap | None


def diagnose(
    pushes: Pushes, gates: Sequence[Tensor], features: Sequence[int], *, best: int, gap: Gap | None
) -> Diagnosis:
    """Of a search that ends with epoch `best` of T; 0: with what it started from, all gates 1.

    pushes: of all its steps. gates: α (L, K) at the end of each epoch. features (L,): how many each block has.
    """
    moved, ends = drift(gates), gates[best - 1] if best else torch.ones_like(gates[0])
    columns = (data_share(pushes), signal(pushes), ends.mean(1), ends.amax(1) < DEAD, moved.mean(0))
    rows = zip(features, *(column.tolist() for column in columns), strict=True)
    blocks = tuple(BlockHealth(number, *row) for number, row in enumerate(rows, 1))
    there, few = torch.tensor(features) > 0, min(max(len(moved) // 3, 1), 5)
    first, last = (float(part[:, there].mean()) for part in (moved[:few], moved[-few:]))
    return Diagnosis(len(moved), blocks, Pace(first, last), gap)


def gap_between(search: Sequence[float], select: Sequence[float]) -> Gap:
    """The gap between the losses (T,) of the epochs of a search."""
    first, last = select[0] - search[0], select[-1] - search[-1]
    return Gap(first, last, (last - first) / max(abs(select[-1]), _TINY))
