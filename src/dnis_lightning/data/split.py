"""Which rows train, search, select and test: drawn once from the split's own seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np

from dnis_lightning.data.arrays import row_slices
from dnis_lightning.data.source import PARTS
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.errors import DataError
from dnis_lightning.quantities import SplitName

_TRAIN, _SEARCH, _SELECT, _TEST = range(4)
_LEAVE_ONE_OUT_LEAST = 4
_ENOUGH: dict[str, str] = {"leave_one_out": "users with four rows or more", "column": "rows marked for it"}
_DRAWN_AT_ONCE = 1 << 26
"""Rows of which one permutation is held."""


@dataclass(frozen=True)
class Shares:
    """Shares of all rows; the rest is train. select = None: the rows of search serve as select, too."""

    search: float
    select: float | None
    test: float


@dataclass(frozen=True, eq=False)
class Split:
    """Which part each row belongs to.

    part (rows,) uint8: its number in `PARTS`. shared: the rows of search serve as select, too.
    """

    part: np.ndarray
    shared: bool

    @cached_property
    def rows(self) -> dict[str, int]:
        """The number of rows of each part."""
        rows = dict(zip(PARTS, part_sizes(self.part), strict=True))
        return rows | {"select": rows["search"]} if self.shared else rows

    @property
    def is_train(self) -> np.ndarray:
        """(rows,) bool."""
        return self.part == _TRAIN

    @cached_property
    def train(self) -> np.ndarray:
        """Row numbers, sorted, int64."""
        return np.flatnonzero(self.part == _TRAIN)

    @cached_property
    def search(self) -> np.ndarray:
        """Row numbers, sorted, int64."""
        return np.flatnonzero(self.part == _SEARCH)

    @cached_property
    def select(self) -> np.ndarray:
        """Row numbers, sorted, int64."""
        return self.search if self.shared else np.flatnonzero(self.part == _SELECT)

    @cached_property
    def test(self) -> np.ndarray:
        """Row numbers, sorted, int64."""
        return np.flatnonzero(self.part == _TEST)


def part_sizes(part: np.ndarray) -> list[int]:
    """How many rows each of the four parts has; part (rows,), their numbers."""
    sizes = np.zeros(len(PARTS), dtype=np.int64)
    for rows in row_slices(len(part)):  # bincount makes int64 of all that it is given
        sizes += np.bincount(part[rows], minlength=len(PARTS))
    return sizes.tolist()


def default_shares(kind: SplitName, task: str) -> Shares:
    """The shares of a kind of split; `authors` has others for ratings than for clicks."""
    if kind == "paper":
        return Shares(0.1, None, 0.1)
    if kind == "authors":
        return Shares(0.2 if task == "rating" else 0.18, None, 0.1)
    return Shares(0.05, 0.05, 0.1)


def search_is_select(kind: SplitName, shares: Shares) -> bool:
    """Whether the rows of search serve as select, too."""
    return shares.select is None and kind not in ("leave_one_out", "column")


def assign_parts(
    dataset: EncodedDataset, kind: SplitName, seed: int, shares: Shares | None = None
) -> tuple[np.ndarray, bool]:
    """(rows,) uint8: the number in `PARTS` of each row's part; and whether search serves as select, too.

    Raises DataError when the data lack a column that the kind needs, or when a part would be empty.
    """
    if kind not in get_args(SplitName):
        raise DataError(f"data.split={kind}: there is no such split; choose one of {', '.join(get_args(SplitName))}")
    shares = shares or default_shares(kind, dataset.task)
    shared = search_is_select(kind, shares)
    if kind == "leave_one_out":
        part = _leave_one_out(dataset)
    elif kind == "column":
        part = _as_given(dataset, seed, shares)
    elif kind == "time":
        part = _cut(_by_time(dataset), shares)
    else:
        part = _at_random(dataset.rows, seed, shares)
    _check(part, shared, dataset, kind)
    return part, shared


def _at_random(rows: int, seed: int, shares: Shares) -> np.ndarray:
    """Test is cut off the front of a random order, so it is the same for all kinds drawn at random.

    Of very many rows, every 2^26 have an order of their own, and the same shares.
    """
    rng = np.random.default_rng(seed)
    part = np.empty(rows, dtype=np.uint8)
    for start in range(0, rows, _DRAWN_AT_ONCE):
        size = min(_DRAWN_AT_ONCE, rows - start)
        part[start : start + size] = _cut(rng.permutation(np.arange(size, dtype=np.int32)), shares)
    return part


def _as_given(dataset: EncodedDataset, seed: int, shares: Shares) -> np.ndarray:
    """What the source says; a part for search or select that it does not have is drawn from the rows of train."""
    if dataset.given is None:
        raise DataError(
            f"data.split=column: {dataset.name} does not say which rows are for what; take data.split=three_way"
        )
    part = np.array(dataset.given)
    rng = np.random.default_rng(seed)
    for number, share in ((_SELECT, shares.select or 0.0), (_SEARCH, shares.search)):
        if not (part == number).any():
            train = np.flatnonzero(part == _TRAIN)
            part[rng.choice(train, min(round(share * len(part)), len(train)), replace=False)] = number
    return part


def _by_time(dataset: EncodedDataset) -> np.ndarray:
    """The latest row first; of rows at the same time, that which comes later in the data."""
    return np.argsort(_time(dataset, "time"), kind="stable")[::-1]


def _cut(order: np.ndarray, shares: Shares) -> np.ndarray:
    """The first rows of the order are test, then select, then search; all others train."""
    part = np.full(len(order), _TRAIN, dtype=np.uint8)
    sizes = ((_TEST, shares.test), (_SELECT, shares.select or 0.0), (_SEARCH, shares.search))
    start = 0
    for number, share in sizes:
        end = start + round(share * len(order))
        part[order[start:end]] = number
        start = end
    return part


def _leave_one_out(dataset: EncodedDataset) -> np.ndarray:
    """Of each user's rows the last is test, the one before select, the one before that search.

    Users with fewer than four rows stay in train.
    """
    user = _users(dataset)
    order = np.lexsort((_time(dataset, "leave_one_out"), user))  # stable: rows at the same time in their order
    starts = np.flatnonzero(np.diff(user[order], prepend=-1))
    counts = np.diff(np.append(starts, len(order)))
    lasts = (starts + counts - 1)[counts >= _LEAVE_ONE_OUT_LEAST]
    part = np.full(len(order), _TRAIN, dtype=np.uint8)
    for back, number in enumerate((_TEST, _SELECT, _SEARCH)):
        part[order[lasts - back]] = number
    return part


def _users(dataset: EncodedDataset) -> np.ndarray:
    names = [field.name if field.kind == "categorical" else None for field in dataset.coded]
    if dataset.user_field not in names:
        raise DataError(f"data.split=leave_one_out: {dataset.name} has no field for the user; take another data.split")
    return np.asarray(dataset.codes[names.index(dataset.user_field)], dtype=np.int64)


def _time(dataset: EncodedDataset, kind: SplitName) -> np.ndarray:
    if dataset.time is None:
        raise DataError(f"data.split={kind}: {dataset.name} has no time column; take data.split=three_way")
    return np.asarray(dataset.time)


def _check(part: np.ndarray, shared: bool, dataset: EncodedDataset, kind: SplitName) -> None:
    counts = part_sizes(part)
    needed = [number for number in range(len(PARTS)) if not (shared and number == _SELECT)]
    empty = [PARTS[number] for number in needed if not counts[number]]
    if empty:
        enough = _ENOUGH.get(kind, "more rows")
        raise DataError(
            f"data.split={kind}: of the {dataset.rows} rows of {dataset.name} none is left for {' and '.join(empty)}; "
            f"take another data.split or data with {enough}"
        )
