"""Which rows train, search, select and test: drawn once from the split's own seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.errors import DataError
from dnis_lightning.quantities import SplitName

PARTS = ("train", "search", "select", "test")
_TRAIN, _SEARCH, _SELECT, _TEST = range(4)
_LEAVE_ONE_OUT_LEAST = 4


@dataclass(frozen=True)
class Shares:
    """Shares of all rows; the rest is train. select = None: the rows of search serve as select, too."""

    search: float
    select: float | None
    test: float


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, sorted, int64; `shared` says that search and select are the same rows."""

    train: np.ndarray
    search: np.ndarray
    select: np.ndarray
    test: np.ndarray
    shared: bool

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of each part."""
        return {name: len(getattr(self, name)) for name in PARTS}


def default_shares(kind: SplitName, task: str) -> Shares:
    """The shares of a kind of split; `authors` has others for ratings than for clicks."""
    if kind == "paper":
        return Shares(0.1, None, 0.1)
    if kind == "authors":
        return Shares(0.2 if task == "rating" else 0.18, None, 0.1)
    return Shares(0.05, 0.05, 0.1)


def assign_parts(
    dataset: EncodedDataset, kind: SplitName, seed: int, shares: Shares | None = None
) -> tuple[np.ndarray, bool]:
    """(rows,) uint8: the number in `PARTS` of each row's part; and whether search serves as select, too.

    Raises DataError when the data lack a column that the kind needs, or when a part would be empty.
    """
    if kind not in get_args(SplitName):
        raise DataError(f"data.split={kind}: there is no such split; choose one of {', '.join(get_args(SplitName))}")
    shares = shares or default_shares(kind, dataset.task)
    if kind == "leave_one_out":
        part, shared = _leave_one_out(dataset), False
    else:
        order = _by_time(dataset) if kind == "time" else _at_random(dataset.rows, seed)
        part, shared = _cut(order, shares), shares.select is None
    _check(part, shared, dataset, kind)
    return part, shared


def to_split(part: np.ndarray, shared: bool) -> Split:
    """The split that `assign_parts` describes."""
    rows = [np.flatnonzero(part == number) for number in range(len(PARTS))]
    train, search, select, test = rows
    return Split(train, search, search if shared else select, test, shared)


def _at_random(rows: int, seed: int) -> np.ndarray:
    """An order of all rows; test is cut off its front, so it is the same for all kinds drawn at random."""
    return np.random.default_rng(seed).permutation(np.arange(rows, dtype=_row_type(rows)))


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
    names = [field.name for field in dataset.categorical]
    if dataset.user_field not in names:
        raise DataError(f"data.split=leave_one_out: {dataset.name} has no field for the user; take another data.split")
    return np.asarray(dataset.codes[:, names.index(dataset.user_field)], dtype=np.int64)


def _time(dataset: EncodedDataset, kind: SplitName) -> np.ndarray:
    if dataset.time is None:
        raise DataError(f"data.split={kind}: {dataset.name} has no time column; take data.split=three_way")
    return np.asarray(dataset.time)


def _check(part: np.ndarray, shared: bool, dataset: EncodedDataset, kind: SplitName) -> None:
    counts = np.bincount(part, minlength=len(PARTS))
    needed = [number for number in range(len(PARTS)) if not (shared and number == _SELECT)]
    empty = [PARTS[number] for number in needed if not counts[number]]
    if empty:
        enough = "users with four rows or more" if kind == "leave_one_out" else "more rows"
        raise DataError(
            f"data.split={kind}: of the {dataset.rows} rows of {dataset.name} none is left for {' and '.join(empty)}; "
            f"take another data.split or data with {enough}"
        )


def _row_type(rows: int) -> type[np.signedinteger]:
    return np.int32 if rows < 2**31 else np.int64
