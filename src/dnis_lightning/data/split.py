"""Which rows train the weights, which the gates, which choose, and which are looked at once at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.errors import DataError

SplitKind = Literal["three_way", "paper", "authors", "time", "leave_one_out"]

_TEST = 0.1
_HELD_OUT = {"three_way": (0.05, 0.05), "paper": (0.1,), "authors": (0.2,)}
_AUTHORS_CTR = 0.18


@dataclass(frozen=True)
class Split:
    """Sorted row indices of the four parts; in `shared` splits search and select are the same rows."""

    train: np.ndarray
    search: np.ndarray
    select: np.ndarray
    test: np.ndarray
    shared: bool = False


def split_rows(dataset: EncodedDataset, kind: SplitKind, seed: int, *, task: str = "rating") -> Split:
    """Divide the rows.

    three_way 80/5/5/10; paper 8:1:1 and authors 7:2:1 (clicks: 72:18:10), whose one validation set is search and select;
    time: the latest tenth is test, select and search before it; leave_one_out: each user's last row is test, the one
    before it select, the one before that search. The random kinds draw test first: the same rows for the same seed.

    Raises DataError when a part would be empty, or the data have no times or no users where they are needed.
    """
    split = _makers(task)[kind](dataset, seed)
    for name in ("train", "search", "select", "test"):
        if not len(getattr(split, name)):
            raise DataError(
                f"data.split={kind}: the {name} part of {dataset.rows} rows is empty; "
                "take more rows or another data.split"
            )
    return split


def _makers(task: str) -> dict[str, Callable[[EncodedDataset, int], Split]]:
    held_out = dict(_HELD_OUT)
    if task == "ctr":
        held_out["authors"] = (_AUTHORS_CTR,)
    random = {
        kind: lambda dataset, seed, shares=shares: _random(dataset.rows, seed, shares)
        for kind, shares in held_out.items()
    }
    return {
        **random,
        "time": lambda dataset, _: _by_time(dataset),
        "leave_one_out": lambda dataset, _: _leave_one_out(dataset),
    }


def _random(rows: int, seed: int, shares: tuple[float, ...]) -> Split:
    order = np.random.default_rng(seed).permutation(rows)
    return _in_order(order, rows, shares)


def _in_order(order: np.ndarray, rows: int, shares: tuple[float, ...]) -> Split:
    """Test from the front of the order, then select, then search, the rest is train."""
    ends = np.round(np.cumsum([_TEST, *reversed(shares)]) * rows).astype(int)
    test, *held_out, train = (np.sort(part) for part in np.split(order, ends))
    return Split(train, held_out[-1], held_out[0], test, shared=len(held_out) == 1)


def _by_time(dataset: EncodedDataset) -> Split:
    if dataset.time is None:
        raise DataError(f"data.split=time: {dataset.name} has no times; take data.split=three_way")
    latest_first = np.argsort(np.asarray(dataset.time), kind="stable")[::-1]
    return _in_order(latest_first, dataset.rows, _HELD_OUT["three_way"])


def _leave_one_out(dataset: EncodedDataset) -> Split:
    if dataset.user_field is None:
        raise DataError(f"data.split=leave_one_out: {dataset.name} has no users; take data.split=three_way")
    categorical = [field.name for field in dataset.fields if field.kind == "categorical"]
    user = np.asarray(dataset.codes[:, categorical.index(dataset.user_field)]).astype(np.int64)
    time = np.zeros(dataset.rows, dtype=np.int64) if dataset.time is None else np.asarray(dataset.time)
    order = np.lexsort((np.arange(dataset.rows), time, user))
    counts = np.bincount(user)
    from_last = np.cumsum(counts)[user[order]] - 1 - np.arange(dataset.rows)
    enough = counts[user[order]] >= 4
    parts = [np.sort(order[enough & (from_last == place)]) for place in range(3)]
    train = np.sort(order[~enough | (from_last >= 3)])
    return Split(train, parts[2], parts[1], parts[0])
