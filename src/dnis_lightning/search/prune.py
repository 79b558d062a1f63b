"""Section 2.5: from a merged table Ẽ to the entries that are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.table import nth_largest, top
from dnis_lightning.errors import ConfigError
from dnis_lightning.quantities import CutBy
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.budget import Budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.schedule import Schedule

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1 << 16
_STEPS = 1 << 12
"""A budget that is found by trying is kept to within this part of the table."""
_PER_OCTAVE = 4
_EXACT = 1e-9  # of a number of entries that is a whole one but for rounding


@dataclass(frozen=True)
class Pruning:
    """How tables are cut after the search.

    by: `elements` removes the smallest |Ẽ_{i,j}| (equation 9), `gates` whole dimensions of a block, smallest α first;
    `prefix` turns the table onto its principal axes, and keeps the first dimensions of each feature; see
    `best_prefixes`.
    frequency_power: of `prefix`, p in what an entry counts for; see `Importance`.
    schedule: in how many steps, and what is trained between them.
    rival: another way to cut, too, to all but losses and thresholds; what is better on select stays.
    """

    by: CutBy
    schedule: Schedule
    frequency_power: float = 0.5
    rival: CutBy | None = None


Choice = Callable[[int], Tensor]
"""(N, K) bool: which entries stay where no more than so many are to be kept."""


def cut_mask(
    model: Recommender,
    budget: Budget,
    pruning: Pruning,
    importance: Importance,
    whole: int,
    fits: Callable[[Tensor], bool],
) -> Tensor:
    """(N, K) bool: the entries that stay within a budget.

    budget: its threshold is one of |Ẽ|, of α where gates go, of s of `Importance` where first dimensions stay, if rows
    can be turned.
    importance: of entries, where first dimensions stay. whole: N·K, the number of entries that rates and shares are of.
    fits: whether a mask keeps to a budget in bytes, of which the largest that does is taken, or to one in loss, of
    which it is the smallest. Where the first dimensions are kept, the model is turned onto its principal axes, if it
    has any.
    Raises ConfigError when a model without gates is to be cut by them.
    """
    if pruning.by == "prefix" and not model.turn(importance.counts):
        log.info("rows of this model cannot be turned: instead of first dimensions single entries go")
    if budget.epsilon is not None:
        return _above(model, budget.epsilon, pruning, importance)
    choose = _choice(model, pruning, importance)
    if budget.entries is not None:
        return choose(budget.entries)
    if budget.rate is not None:
        return choose(most_entries(whole, budget.rate))
    return (most_that_fits if budget.loss is None else least_that_fits)(choose, int(model.table.kept().sum()), fits)


def most_entries(whole: int, rate: float) -> int:
    """How many of N·K = whole entries may be kept at a compression rate."""
    return math.floor(whole / rate * (1 + _EXACT))


def chosen_by(model: Recommender, pruning: Pruning) -> CutBy:
    """How the entries of a model that `cut_mask` has seen were chosen: single ones where its rows cannot be turned."""
    return "elements" if pruning.by == "prefix" and not model.turned else pruning.by


def choose_again(model: Recommender, kept: int, pruning: Pruning, importance: Importance) -> Tensor:
    """(N, K) bool: as `cut_mask`, of a model that it has cut already, no more than so many entries."""
    if chosen_by(model, pruning) == "prefix":
        return _choice(model, pruning, importance)(kept)
    return largest(model.merged_table(), kept, model.table.kept())


def _choice(model: Recommender, pruning: Pruning, importance: Importance) -> Choice:
    there = model.table.kept()
    if chosen_by(model, pruning) == "prefix":
        narrow, own = importance.by_table(model, pruning.frequency_power)
        price = prices(narrow, own)
        return lambda kept: best_prefixes(price, kept, own).view_as(there)
    if pruning.by == "gates":
        gates, block_of = _gates(model)
        return lambda kept: largest_gates(model.merged_table(), gates, block_of, kept)
    return lambda kept: largest(model.merged_table(), kept, there)


def _above(model: Recommender, epsilon: float, pruning: Pruning, importance: Importance) -> Tensor:
    if chosen_by(model, pruning) == "prefix":
        narrow, own = importance.by_table(model, pruning.frequency_power)
        return (until_last(above(narrow, epsilon)) & own).view_as(model.table.kept())
    if pruning.by == "gates":
        gates, block_of = _gates(model)
        return above(gates, epsilon)[block_of]
    return above(model.merged_table(), epsilon)


def _gates(model: Recommender) -> tuple[Tensor, Tensor]:
    """(L, K) α, and (N,) the block of each feature."""
    if not isinstance(model.selection, SoftSelection):
        raise ConfigError("prune=gates: this model has no gates; take prune=elements")
    return model.selection.gates.detach(), model.selection.block_of


def most_that_fits(choose: Choice, most: int, fits: Callable[[Tensor], bool]) -> Tensor:
    """The largest choice that fits, where all smaller ones do; found by bisection to within most / `_STEPS`."""
    if fits(found := choose(most)):
        return found
    return choose(_between(0, most, lambda count: not fits(choose(count)), most)[0])


def least_that_fits(choose: Choice, most: int, fits: Callable[[Tensor], bool]) -> Tensor:
    """The smallest choice that fits, whether all larger ones do or not, as a loss may have it.

    Of `_PER_OCTAVE` numbers of entries in each octave up to `most`, which fits in any case, the first; then bisected
    down to the one before it.
    """
    octaves = math.log2(_STEPS)
    rungs = {round(most * 2 ** (step / _PER_OCTAVE - octaves)) for step in range(round(octaves * _PER_OCTAVE))}
    below = 0
    for rung in sorted(rungs | {0}):
        if fits(found := choose(rung)):
            return found if rung == 0 else choose(_between(below, rung, lambda count: fits(choose(count)), most)[1])
        below = rung
    return choose(_between(below, most, lambda count: fits(choose(count)), most)[1])


def _between(low: int, high: int, is_high: Callable[[int], bool], most: int) -> tuple[int, int]:
    """Two neighbouring numbers, within most / `_STEPS`, of which only the second is high."""
    while high - low > max(most // _STEPS, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if is_high(middle) else (middle, high)
    return low, high


def above(table: Tensor, epsilon: float) -> Tensor:
    """Equation 9: bool, true where |Ẽ| ≥ ε; of a table (N, K), or of gates (L, K)."""
    return table.abs() >= epsilon


def largest(table: Tensor, kept: int, there: Tensor | None = None) -> Tensor:
    """(N, K) bool: true for exactly `kept` entries of largest magnitude, or for all where there are not as many.

    table (N, K): is overwritten with the magnitudes. there (N, K) bool: the entries to choose among; None for all.
    """
    return top(table.abs_(), kept, torch.ones_like(table, dtype=torch.bool) if there is None else there)


def best_prefixes(price: Tensor, kept: int, there: Tensor) -> Tensor:
    """(N, K) bool: the first entries of each row, `kept` of them at most in all.

    No other lengths of rows with as many entries have a larger Σ s². price (N, K): as `prices` gives them. there (N, K)
    bool: entries that there are; of others none is counted, nor kept.
    """
    if kept >= int(there.sum()):
        return there
    if kept == 0:
        return torch.zeros_like(there)
    least = nth_largest(price, kept)
    found = price > least
    more = (price == least).logical_and_(there)  # steps of the same price, all of which do not fit
    return found | more & (more.sum(1).cumsum(0) <= kept - int(found.count_nonzero()))[:, None]


def prices(table: Tensor, there: Tensor) -> Tensor:
    """(N, K) the highest price of an entry at which its row is worth to be as long, in place of the table; −1 of none.

    A row keeps so many entries as make Σ_j (s_{i,j}² − τ) the largest, τ the price: it grows by the steps of the least
    concave majorant of its cumulated squares, and the price of a step is its slope. So prices never rise along a row.
    table (N, K): s. there (N, K) bool: entries that there are.
    """
    for squares, own in zip(table.square_().split(_ROWS_AT_ONCE), there.split(_ROWS_AT_ONCE), strict=True):
        if squares.numel():
            _slopes_of_majorant(squares, own)
    return table.masked_fill_(~there, -1)


def _slopes_of_majorant(squares: Tensor, there: Tensor) -> None:
    """Of each entry the slope of its step, in place of the squares; all rows go from one end of a step to the next."""
    held, counts = (squares * there).cumsum(1), there.cumsum(1, dtype=squares.dtype)
    places = torch.arange(squares.shape[1], device=squares.device)
    rows = torch.arange(len(squares), device=squares.device)
    held_at = torch.zeros_like(held[:, :1])
    count_at, lowest, last = held_at, held_at + torch.inf, held_at.long() - 1
    while (going := (counts[:, -1:] > count_at).squeeze(1)).any():
        rows, held, counts = rows[going], held[going], counts[going]
        held_at, count_at, lowest, last = held_at[going], count_at[going], lowest[going], last[going]
        slopes = ((held - held_at) / (counts - count_at)).masked_fill_(counts <= count_at, -torch.inf)
        slope, end = slopes.max(1, keepdim=True)
        lowest = torch.minimum(slope, lowest)  # what rounding makes of equal slopes does not rise
        squares[rows] = torch.where((places > last) & (places <= end), lowest, squares[rows])
        held_at, count_at, last = held.gather(1, end), counts.gather(1, end), end


def until_last(mask: Tensor) -> Tensor:
    """(N, K) bool: all entries of a row up to its last true one."""
    return mask.flip(1).cummax(1).values.flip(1) if mask.numel() else mask


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
