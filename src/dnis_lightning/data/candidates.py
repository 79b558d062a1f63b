"""A given test of top-k recommendation: for each user the item to be found, and others to find it among."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from csv import Error as CsvError
from csv import reader
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from dnis_lightning.data.arrays import row_slices
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Raw codes: users (Q,), the positive of each (Q,), and its negatives (Q, C), −1 where it has fewer.

    path: where they are from.
    """

    path: Path
    users: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    def fingerprint(self) -> str:
        """A hash of all of it."""
        told = hashlib.sha256()
        for array in (self.users, self.positives, self.negatives):
            told.update(array.tobytes())
        return told.hexdigest()[:8]

    def test_rows(self, dataset: EncodedDataset, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """The rows of the data in which these users have their positives, all of them.

        user, item (rows,): raw codes. Raises DataError where there is none.
        """
        wanted = np.full(int(self.users.max()) + 1, -1, dtype=np.int64)
        wanted[self.users] = self.positives
        found = []
        for rows in row_slices(dataset.rows):
            users = user[rows].astype(np.int64)
            there = users < len(wanted)
            found.append(rows.start + np.flatnonzero(there & (wanted[np.where(there, users, 0)] == item[rows])))
        test = np.concatenate(found)
        absent = np.flatnonzero(~np.isin(self.users, user[test]))
        if len(absent):
            raise DataError(
                f"{self.path}: {dataset.name} has no row of the user and the positive in its row {absent[0] + 1}, so "
                "it is no test of these data"
            )
        return test


def read_candidates(path: Path, dataset: EncodedDataset, user_field: str, item_field: str) -> Candidates:
    """Read a CSV file with a header: user, positive, negative, negative, … in raw ids, one user a line.

    A negative that is the user's positive, too, or that the user has twice, is taken out, and it is said how many.
    Raises DataError when the file cannot be read, or has users or items that the data have not.
    """
    names, table = _read(path)
    if len(names) < 3 or not table.num_rows:
        raise DataError(f"data.candidates={path}: {len(names)} columns, {table.num_rows} rows; {_EXPECTED}")
    users = _codes(table.columns[:1], dataset, user_field, path)[:, 0]
    if _is_known(names[0], dataset, user_field) and _is_known(names[1], dataset, item_field):
        raise DataError(f"data.candidates={path}: its first line has a user and an item, expected a header")
    codes = _codes(table.columns[1:], dataset, item_field, path)
    positives, negatives = codes[:, 0], codes[:, 1:].copy()
    for empty, what in ((users < 0, "user"), (positives < 0, "positive")):
        if empty.any():
            raise DataError(f"data.candidates={path}: no {what} in row {np.flatnonzero(empty)[0] + 1}; {_EXPECTED}")
    if len(np.unique(users)) < len(users):
        raise DataError(f"data.candidates={path}: a user has several lines, expected one each")
    twice = negatives == positives[:, None]
    negatives[twice] = -1
    if twice.any():
        log.info(
            "%s: of %d users the positive is among the negatives, too, and is taken out there", path, twice.any(1).sum()
        )
    if (many := _take_out_repeats(negatives)) > 0:
        log.info("%s: %d negatives that a user has twice are taken out", path, many)
    return Candidates(path, users, positives, negatives)


def _take_out_repeats(negatives: np.ndarray) -> int:
    """Let each row have each of its items once, the first time, and −1 afterwards; how many that were."""
    order = np.argsort(negatives, axis=1, kind="stable")
    ordered = np.take_along_axis(negatives, order, axis=1)
    again = np.zeros(negatives.shape, dtype=bool)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    repeated = np.zeros_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    negatives[repeated] = -1
    return int(repeated.sum())


_EXPECTED = "a CSV file with a header: user, positive, negative, negative, … in raw ids"


def _read(path: Path) -> tuple[list[str], pa.Table]:
    """The names in the header, and the rows as text. Raises DataError when they cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(reader(file), [])
        columns = [str(number) for number in range(len(names))]
        return names, csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=columns, skip_rows=1),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        )
    except (OSError, ValueError, CsvError) as fault:  # Arrow's and Unicode's are ValueErrors
        raise DataError(f"data.candidates={path}: it cannot be read ({fault}); expected {_EXPECTED}") from fault


def _is_known(raw: str, dataset: EncodedDataset, field: str) -> bool:
    ids = dataset.raw_ids(field)
    return bool(pc.any(pc.equal(ids.take(np.arange(len(ids))), raw)).as_py())


def _codes(columns: Sequence[pa.ChunkedArray], dataset: EncodedDataset, field: str, path: Path) -> np.ndarray:
    """(rows, columns) the raw codes of raw ids; −1 where there is none."""
    raw, together = dataset.raw_ids(field), pa.chunked_array([chunk for column in columns for chunk in column.chunks])
    codes = pc.index_in(together, value_set=raw.take(np.arange(len(raw))))
    unknown = pc.and_(pc.not_equal(pc.fill_null(together, ""), ""), pc.is_null(codes)).to_numpy()
    if unknown.any():
        place = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"data.candidates={path}: {field} {together[place].as_py()!r} in row {place % len(columns[0]) + 1} is not "
            f"in {dataset.name}; is it a raw id?"
        )
    found = pc.if_else(pc.equal(pc.fill_null(together, ""), ""), -1, codes).to_numpy()
    return found.reshape(len(columns), -1).T.astype(np.int64)
