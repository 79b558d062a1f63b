"""Section 2.5: from a merged table Ẽ to the entries that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.table import top
from dnis_lightning.errors import ConfigError
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.budget import Budget
from dnis_lightning.search.schedule import Schedule

By = Literal["elements", "gates"]


@dataclass(frozen=True)
class Pruning:
    """How tables are cut after the search.

    by: `elements` removes the smallest |Ẽ_{i,j}| (equation 9), `gates` whole dimensions of a block, smallest α first.
    schedule: in how many steps, and what is trained between them.
    thresholds: values of ε to cut at, besides the budgets; of |Ẽ|, or of α where gates go.
    """

    by: By
    schedule: Schedule
    thresholds: tuple[float, ...] = ()


def cut_mask(model: Recommender, bound: Budget | float, by: By, whole: int) -> Tensor:
    """(N, K) bool: the entries that stay within a budget, or at and above a threshold ε.

    whole: N·K, the number of entries that rates and shares are of. Raises ConfigError when a model without gates is to
    be cut by them.
    """
    merged, there = model.merged_table(), model.table.kept()
    if by == "elements":
        return largest(merged, bound.entries(whole), there) if isinstance(bound, Budget) else above(merged, bound)
    if not isinstance(model.selection, SoftSelection):
        raise ConfigError("prune=gates: this model has no gates; take prune=elements")
    gates, block_of = model.selection.gates.detach(), model.selection.block_of
    if isinstance(bound, Budget):
        return largest_gates(merged, gates, block_of, bound.entries(whole))
    return above(gates, bound)[block_of]


def above(table: Tensor, epsilon: float) -> Tensor:
    """Equation 9: bool, true where |Ẽ| ≥ ε; of a table (N, K), or of gates (L, K)."""
    return table.abs() >= epsilon


def largest(table: Tensor, kept: int, there: Tensor | None = None) -> Tensor:
    """(N, K) bool: true for exactly `kept` entries of largest magnitude, or for all where there are not as many.

    table (N, K): is overwritten with the magnitudes. there (N, K) bool: the entries to choose among; None for all.
    """
    return top(table.abs_(), kept, torch.ones_like(table, dtype=torch.bool) if there is None else there)


def largest_gates(table: Tensor, gates: Tensor, block_of: Tensor, kept: int) -> Tensor:
    """(N, K) bool: whole dimensions of blocks, largest gate first, as many as fit into `kept` entries.

    Equal gates are told apart by the mean magnitude of their entries in the merged table. A cell that does not fit is
    passed over, and smaller ones after it may still be taken.
    """
    sizes = torch.bincount(block_of, minlength=len(gates))
    means = torch.zeros_like(gates).index_add_(0, block_of, table.abs()) / sizes.clamp(min=1)[:, None]
    cells = [(-float(gates[l, k]), -float(means[l, k]), l, k) for l in range(len(gates)) for k in range(gates.shape[1])]
    open_gates, left = torch.zeros_like(gates, dtype=torch.bool), kept
    for _, _, block, k in sorted(cells):
        if sizes[block] <= left:
            open_gates[block, k] = True
            left -= int(sizes[block])
    return open_gates[block_of]
