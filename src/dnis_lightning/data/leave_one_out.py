"""Leave-one-out: of each user a row each to test, select and search by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dnis_lightning.data.arrays import forget, row_slices
from dnis_lightning.data.candidates import Candidates
from dnis_lightning.data.source import PARTS
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.errors import DataError

_TRAIN, _SEARCH, _SELECT, _TEST = range(len(PARTS))
_USERS_AT_ONCE = 1 << 23
"""Users whose last rows are held at a time, at 24 bytes a user."""


def left_out(dataset: EncodedDataset) -> np.ndarray:
    """(rows,) the part of each row: of a user's rows the last is test, the one before select, the one before search.

    Of rows at the same time, later ones count as later. Users with fewer than four rows stay in train, and rows without
    a user. Raises DataError without time or user.
    """
    if dataset.time is None:
        raise DataError(f"data.split=leave_one_out: {dataset.name} has no time column; take data.split=three_way")
    part = np.full(dataset.rows, _TRAIN, dtype=np.uint8)
    _leave_out(part, dataset, dataset.time, (_TEST, _SELECT, _SEARCH))
    return part


def left_out_as_given(dataset: EncodedDataset, candidates: Candidates, seed: int) -> np.ndarray:
    """(rows,) the part of each row: test is what the candidates say; of a user's others one at random is select, and
    another search.

    Raises DataError without a user.
    """
    user, item = _user(dataset), 1 - _user(dataset)
    part = np.full(dataset.rows, _TRAIN, dtype=np.uint8)
    part[candidates.test_rows(dataset, dataset.codes[user], dataset.codes[item])] = _TEST
    _leave_out(part, dataset, np.random.default_rng(seed).permutation(dataset.rows), (_SELECT, _SEARCH))
    return part


def _leave_out(part: np.ndarray, dataset: EncodedDataset, time: np.ndarray, numbers: Sequence[int]) -> None:
    """Move the last rows in train of each user to some parts, one row each, where at least one is left in train."""
    number = _user(dataset)
    user, count, nobody = dataset.codes[number], dataset.cardinalities[number], dataset.code_of_missing(number)
    for first in range(0, count, _USERS_AT_ONCE):
        users = range(first, min(first + _USERS_AT_ONCE, count))
        _leave_out_some(part, user, time, users, nobody, numbers)


def _leave_out_some(
    part: np.ndarray, user: np.ndarray, time: np.ndarray, users: range, nobody: int | None, numbers: Sequence[int]
) -> None:
    """Do so for some users, a row a user and pass over the data; nobody: is no user."""
    rows_of = np.zeros(len(users), dtype=np.int64)
    for rows, of in _rows_of(user, users):
        np.add.at(rows_of, of[part[rows] == _TRAIN], 1)
    enough = rows_of > len(numbers)
    if nobody is not None and nobody in users:
        enough[nobody - users.start] = False
    for number in numbers:
        latest = np.full(len(users), np.iinfo(np.int64).min)
        for rows, of in _rows_of(user, users):
            left = part[rows] == _TRAIN
            np.maximum.at(latest, of[left], time[rows[left]])
        last = np.full(len(users), -1)
        for rows, of in _rows_of(user, users):
            found = (part[rows] == _TRAIN) & (time[rows] == latest[of])
            np.maximum.at(last, of[found], rows[found])
        part[last[enough]] = number
    forget(user, time)


def _rows_of(user: np.ndarray, users: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of some users, and for each of them its user's place among these."""
    for part in row_slices(len(user)):
        of = user[part].astype(np.int64) - users.start
        mine = np.flatnonzero((of >= 0) & (of < len(users)))
        yield mine + part.start, of[mine]


def _user(dataset: EncodedDataset) -> int:
    if dataset.user is None:
        raise DataError(f"data.split=leave_one_out: {dataset.name} has no field for the user; take another data.split")
    return dataset.user
