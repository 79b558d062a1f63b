"""Section 2.3 of the paper: features of similar frequency share a block, and with it a row of gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dnis_lightning.errors import ConfigError

Blocking = Literal["equal", "decades", "mass"]
_DECADES = 20
"""More powers of ten than any log has rows."""


@dataclass(frozen=True)
class Blocks:
    """Which block each of the N features belongs to.

    block_of (N,) int32: the block of each feature, 0 = the most frequent.
    count: L, the number of blocks, empty ones included.
    occurrences (L,): how often the features of each block occur in train, all together.
    field_of (L,): the field that each block is of, where each field has blocks of its own, most frequent first; else 0.
    """

    block_of: np.ndarray
    count: int
    occurrences: np.ndarray
    field_of: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(L,) the number of features in each block."""
        return np.bincount(self.block_of, minlength=self.count)

    @property
    def frequency(self) -> np.ndarray:
        """(L,) how often a feature of each block occurs in train, on the average; 0 for an empty block."""
        return self.occurrences / np.maximum(self.sizes, 1)


def make_blocks(
    frequency: np.ndarray,
    field_of: np.ndarray,
    *,
    blocks: int,
    blocking: Blocking | Sequence[int] = "equal",
    per: Literal["table", "field"] = "table",
) -> Blocks:
    """Cut the features, sorted by descending frequency, into blocks.

    frequency (N,): occurrences of each feature in train; field_of (N,): its field.
    blocking: `equal` (equal counts of features), `decades` (L − 1 bounds at frequencies 10^L, …, 10^2),
    `mass` (equal shares of all occurrences) or the sizes of the blocks, the last of which may be −1 for "the rest".
    per: one cut through the whole table, or one for each field: L blocks a field, or as many as it has features.

    Raises ConfigError when there are more blocks than features, or sizes that do not add up.
    """
    if per == "table":
        count = _count(blocks, blocking)
        return _blocks(_cut(frequency, blocks, blocking), frequency, np.zeros(count, dtype=np.int64))
    of_fields: list[int] = []
    block_of, count = np.zeros(len(frequency), dtype=np.int32), 0
    for field in np.unique(field_of):
        members = np.flatnonzero(field_of == field)
        wanted = blocks if blocking == "decades" else min(blocks, len(members))
        block_of[members] = count + _cut(frequency[members], wanted, blocking)
        count += _count(wanted, blocking)
        of_fields += [int(field)] * _count(wanted, blocking)
    return _blocks(block_of, frequency, np.array(of_fields))


def _blocks(block_of: np.ndarray, frequency: np.ndarray, field_of: np.ndarray) -> Blocks:
    return Blocks(block_of, len(field_of), np.bincount(block_of, frequency, len(field_of)), field_of)


def _count(blocks: int, blocking: Blocking | Sequence[int]) -> int:
    return blocks if isinstance(blocking, str) else len(blocking)


def _cut(frequency: np.ndarray, blocks: int, blocking: Blocking | Sequence[int]) -> np.ndarray:
    if isinstance(blocking, str) and blocking == "decades":
        if blocks > _DECADES:
            raise ConfigError(f"search.blocks: {blocks} blocks by decades of frequency; take at most {_DECADES}")
        return _by_decades(frequency, blocks)
    order = np.argsort(-frequency, kind="stable")
    ends = _ends(frequency[order], blocks, blocking)
    block_of = np.empty(len(frequency), dtype=np.int32)
    block_of[order] = np.searchsorted(ends, np.arange(len(frequency)), side="right")
    return block_of


def _by_decades(frequency: np.ndarray, blocks: int) -> np.ndarray:
    bounds = 10.0 ** np.arange(blocks, 1, -1)
    return (frequency[:, None] < bounds[None, :]).sum(axis=1).astype(np.int32)


def _ends(descending: np.ndarray, blocks: int, blocking: Blocking | Sequence[int]) -> np.ndarray:
    """(L,) where each block ends in the sorted order."""
    features = len(descending)
    if not isinstance(blocking, str):
        return np.cumsum(_sizes(list(blocking), features))
    if blocks > features:
        raise ConfigError(f"search.blocks: {blocks} blocks for {features} features; take at most {features}")
    if blocking == "equal":
        return np.cumsum([len(part) for part in np.array_split(np.arange(features), blocks)])
    mass = np.cumsum(descending) / max(descending.sum(), 1)
    ends = np.searchsorted(mass, np.arange(1, blocks) / blocks, side="left") + 1
    ends = np.maximum.accumulate(np.maximum(ends, np.arange(1, blocks)))  # a block holds a feature at least
    return np.append(np.minimum(ends, features - np.arange(blocks - 1, 0, -1)), features)


def _sizes(sizes: list[int], features: int) -> list[int]:
    if sizes and sizes[-1] == -1:
        sizes = [*sizes[:-1], features - sum(sizes[:-1])]
    if not sizes or min(sizes) < 1 or sum(sizes) != features:
        raise ConfigError(
            f"search.blocking: sizes {sizes} for {features} features; "
            "they should be positive and add up to it, or end in -1 for the rest"
        )
    return sizes
