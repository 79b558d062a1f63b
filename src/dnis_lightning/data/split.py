"""Which rows train, search, select and test: drawn once from the split's own seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np

from dnis_lightning.data.arrays import forget, row_slices
from dnis_lightning.data.candidates import Candidates
from dnis_lightning.data.leave_one_out import left_out, left_out_as_given
from dnis_lightning.data.source import PARTS
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.errors import DataError
from dnis_lightning.quantities import SplitName

_TRAIN, _SEARCH, _SELECT, _TEST = range(4)
_ENOUGH: dict[str, str] = {"leave_one_out": "users with four rows or more", "column": "rows marked for it"}
_DRAWN_AT_ONCE = 1 << 26
"""Rows of which one permutation is held, at 4 bytes a row."""
_CHOSEN_AT_ONCE = 1 << 24
"""Rows of which those of train are held at a time, at 16 bytes a row, while some are drawn from them."""


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
    def weight_parts(self) -> tuple[str, ...]:
        """The parts that may train weights: search, too, unless its rows are those of select."""
        return ("train",) if self.shared else ("train", "search")

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
        return Shares(0.18 if task == "ctr" else 0.2, None, 0.1)
    return Shares(0.05, 0.05, 0.1)


def search_is_select(kind: SplitName, shares: Shares) -> bool:
    """Whether the rows of search serve as select, too."""
    return shares.select is None and kind not in ("leave_one_out", "column")


def assign_parts(
    dataset: EncodedDataset,
    kind: SplitName,
    seed: int,
    shares: Shares | None = None,
    candidates: Candidates | None = None,
) -> tuple[np.ndarray, bool]:
    """(rows,) uint8: the number in `PARTS` of each row's part; and whether search serves as select, too.

    candidates: with leave_one_out, what the test rows are: its positives. Of each user's others one row each, drawn at
    random, is select and search, as He et al. 2017 drew what they tuned by.
    Raises DataError when the data lack a column that the kind needs, or when a part would be empty.
    """
    if kind not in get_args(SplitName):
        raise DataError(f"data.split={kind}: there is no such split; choose one of {', '.join(get_args(SplitName))}")
    shares = shares or default_shares(kind, dataset.task)
    shared = search_is_select(kind, shares)
    if kind == "leave_one_out":
        part = left_out(dataset) if candidates is None else left_out_as_given(dataset, candidates, seed)
    elif kind == "column":
        part = _as_given(dataset, seed, shares)
    elif kind == "time":
        part = _by_time(dataset, shares)
    else:
        part = _at_random(dataset.rows, seed, shares)
    _check(part, shared, dataset, kind)
    return part, shared


def _at_random(rows: int, seed: int, shares: Shares) -> np.ndarray:
    """Test is cut off the front of a random order, so it is the same for all kinds drawn at random.

    Of very many rows, every 2^26 have an order of their own, and the same shares.
    """
    rng = np.random.default_rng(seed)
    part = np.full(rows, _TRAIN, dtype=np.uint8)
    for block in row_slices(rows, _DRAWN_AT_ONCE):
        order, start = rng.permutation(np.arange(block.stop - block.start, dtype=np.int32)), 0
        for number, end in _ends(len(order), shares):
            part[block][order[start:end]] = number
            start = end
    return part


def _ends(rows: int, shares: Shares) -> list[tuple[int, int]]:
    """Of rows in an order: the first are test, then select, then search, and where each of these ends."""
    found, end = [], 0
    for number, share in ((_TEST, shares.test), (_SELECT, shares.select or 0.0), (_SEARCH, shares.search)):
        end = min(end + round(share * rows), rows)
        found.append((number, end))
    return found


def _as_given(dataset: EncodedDataset, seed: int, shares: Shares) -> np.ndarray:
    """What the source says; search or select, where it has none, are their shares of train's rows, drawn from these."""
    if dataset.given is None:
        raise DataError(
            f"data.split=column: {dataset.name} does not say which rows are for what; take data.split=three_way"
        )
    part = np.array(dataset.given)
    rng = np.random.default_rng(seed)
    for number, share in ((_SELECT, shares.select or 0.0), (_SEARCH, shares.search)):
        sizes = part_sizes(part)
        if not sizes[number]:
            _draw(part, number, round(share * sizes[_TRAIN]), rng)
    return part


def _draw(part: np.ndarray, number: int, count: int, rng: np.random.Generator) -> None:
    """Move so many rows, drawn from those of train, to another part; every 2^24 rows give what they have a share of."""
    left = part_sizes(part)[_TRAIN]
    for block in row_slices(len(part), _CHOSEN_AT_ONCE):
        train = np.flatnonzero(part[block] == _TRAIN)
        mine = round(count * len(train) / max(left, 1))
        part[block][rng.choice(train, mine, replace=False)] = number
        count, left = count - mine, left - len(train)


def _by_time(dataset: EncodedDataset, shares: Shares) -> np.ndarray:
    """The latest rows are test, those before select, those before search; at equal times, later rows count as later."""
    time = _time(dataset, "time")
    part = np.full(len(time), _TRAIN, dtype=np.uint8)
    for number, end in reversed(_ends(len(time), shares)):  # the parts that reach further back first
        if not end:
            continue
        threshold, equal = _nth_latest(time, end)
        for rows in reversed(list(row_slices(len(time)))):
            part[rows][time[rows] > threshold] = number
            ties = np.flatnonzero(time[rows] == threshold)
            taken = min(equal, len(ties))
            part[rows][ties[len(ties) - taken :]] = number
            equal -= taken
            forget(time)
    return part


def _nth_latest(time: np.ndarray, count: int) -> tuple[int, int]:
    """The time of the `count`-th latest row, and how many rows of just this time are among the `count` latest.

    A radix selection: each pass over the rows settles the next 16 bits, so nothing is held but their histogram.
    """
    settled = 0
    for shift in (48, 32, 16, 0):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for rows in row_slices(len(time)):
            key = time[rows].view(np.uint64) ^ _SIGN  # unsigned keys in the order of the signed times
            if shift < 48:
                key = key[key >> np.uint64(shift + 16) == settled]
            histogram += np.bincount((key >> np.uint64(shift)).astype(np.int64) & 0xFFFF, minlength=1 << 16)
            forget(time)
        above = np.cumsum(histogram[::-1])  # rows of the largest digit, of the two largest, …
        place = int(np.searchsorted(above, count))
        count -= int(above[place - 1]) if place else 0
        settled = settled << 16 | 0xFFFF - place
    return settled - (1 << 63), count


_SIGN = np.uint64(1 << 63)


def _time(dataset: EncodedDataset, kind: SplitName) -> np.ndarray:
    if dataset.time is None:
        raise DataError(f"data.split={kind}: {dataset.name} has no time column; take data.split=three_way")
    return dataset.time


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
