"""Who pays for a smaller table: the metrics of rows by how often what stands in them occurs in train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.blocks import Blocks
from dnis_lightning.outcomes import Outcomes, auc, auc_interval, mean_interval
from dnis_lightning.paths import finite
from dnis_lightning.ranking import Query

By = Literal["all", "block", "rarest"]
_MOST_DECADES = 12
"""Of frequencies; more than any data set has."""


@dataclass(frozen=True)
class Group:
    """Rows of a split: all, those that show a feature of a block, or those whose rarest feature occurs so often.

    least, most: occurrences in train of all features, of those of the block, or of the rarest one; both 0 for features
    that have no row of the table of their own. rows: how many there are.
    """

    by: By
    name: str
    least: int
    most: int
    rows: int


@dataclass(frozen=True)
class Groups:
    """The groups that have rows, G, and bits (R, ceil(G / 8)) uint8: to which of them each row of the split belongs."""

    groups: tuple[Group, ...]
    bits: np.ndarray

    @classmethod
    def of(cls, batches: Iterable[Batch | Query], blocks: Blocks, frequency: np.ndarray, unknown: np.ndarray) -> Groups:
        """Of a split. frequency (N,): in train; unknown (N,) bool: rows of the table that stand for all that lack one.

        Blocks take these in, too; by the rarest feature they are a group of their own, whatever their frequency. The
        rows of queries are the wanted items that have a row, with their users.
        """
        decades = np.where(unknown | (frequency == 0), 0, 1 + np.log10(np.maximum(frequency, 1)).astype(np.int64))
        rows, found = np.zeros(1 + blocks.count + _MOST_DECADES, dtype=np.int64), []
        for ids, there in map(_shown, batches):
            member = _members(ids, there, blocks, decades)
            rows += member.sum(0)
            found.append(np.packbits(member, axis=1))  # of all splits and blocks, a byte each would be gigabytes
        kept = np.flatnonzero(rows)
        groups = [_group(int(column), blocks, frequency, int(rows[column])) for column in kept]
        found = [np.packbits(np.unpackbits(bits, axis=1)[:, kept], axis=1) for bits in found]
        return cls(tuple(groups), np.concatenate([np.zeros((0, -(-len(kept) // 8)), dtype=np.uint8), *found]))

    def members(self) -> Iterator[np.ndarray]:
        """Of each group (R,) bool, whether a row belongs to it."""
        for column in range(len(self.groups)):
            yield (self.bits[:, column // 8] >> (7 - column % 8) & 1).astype(bool)

    def values(self, outcomes: Outcomes) -> list[dict[str, float | None]]:
        """Of each group the mean of its rows; of clicks the rates, predicted and observed, and the AUC, too."""
        return [_values(outcomes, mine) for mine in self.members()]

    def compared(self, before: Outcomes, after: Outcomes) -> list[dict[str, float | None]]:
        """The values of `after`, and how much larger they are than those of `before`, as intervals; AUC likewise."""
        change = after.rows - before.rows
        intervals = (mean_interval(change[mine]).told() | _auc_change(before, after, mine) for mine in self.members())
        return [values | interval for values, interval in zip(self.values(after), intervals, strict=True)]


def _auc_change(before: Outcomes, after: Outcomes, mine: np.ndarray) -> dict[str, float | None]:
    if before.logits is None or after.logits is None or before.label is None:
        return {}
    interval = auc_interval(before.logits[mine], after.logits[mine], before.label[mine])
    return {f"auc_{end}": value for end, value in interval.told().items()}


def _values(outcomes: Outcomes, mine: np.ndarray) -> dict[str, float | None]:
    rows = {"value": outcomes.rows[mine]}
    chances, label = outcomes.chances, outcomes.label
    if chances is not None and label is not None:
        rows |= {"predicted": chances[mine], "observed": label[mine]}
    found = {name: float(values.mean(dtype=np.float64)) for name, values in rows.items()}
    if outcomes.logits is not None and label is not None:
        found["auc"] = auc(outcomes.logits[mine], label[mine])
    told: dict[str, float | None] = finite(found)
    return told


def _shown(batch: Batch | Query) -> tuple[np.ndarray, np.ndarray | None]:
    """(R, C) the features of each row, and (R, C) bool which of them are there, None for all."""
    if isinstance(batch, Batch):
        there = batch.there()
        return batch.ids.numpy(), None if there is None else there.numpy()
    owner, place = batch.wanted
    items = batch.items[place] if batch.items.ndim == 1 else batch.items[owner, place]
    return torch.stack([batch.users[owner], items], 1).numpy(), None


def _members(ids: np.ndarray, there: np.ndarray | None, blocks: Blocks, decades: np.ndarray) -> np.ndarray:
    """(R, 1 + L + decades) bool: among all, in the block of each of its features, in the decade of its rarest."""
    rows, rare = np.arange(len(ids)), 1 + blocks.count
    there = np.ones(ids.shape, dtype=bool) if there is None else there
    member = np.zeros((len(ids), rare + _MOST_DECADES), dtype=bool)
    member[:, 0] = True
    at = np.broadcast_to(rows[:, None], ids.shape)[there]
    member[at, 1 + blocks.block_of[ids[there]]] = True
    rarest = np.where(there, decades[ids], _MOST_DECADES).min(1, initial=_MOST_DECADES)
    some = rarest < _MOST_DECADES
    member[rows[some], rare + rarest[some]] = True
    return member


def _group(column: int, blocks: Blocks, frequency: np.ndarray, rows: int) -> Group:
    if column == 0:
        return Group("all", "all rows", int(frequency.min()), int(frequency.max()), rows)
    if column <= blocks.count:
        own = frequency[blocks.block_of == column - 1]
        return Group("block", f"block {column}", int(own.min()), int(own.max()), rows)
    decade = column - 1 - blocks.count
    if decade == 0:
        return Group("rarest", "no row", 0, 0, rows)
    least, most = 10 ** (decade - 1), 10**decade - 1
    return Group("rarest", f"{least:,}–{most:,}", least, most, rows)
