"""Files of raw rows → scores, by a model that was exported."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnis_lightning.data.delimited import Rows
from dnis_lightning.data.layout import Column
from dnis_lightning.data.readings import is_usable
from dnis_lightning.data.table_files import TableFile, open_file
from dnis_lightning.errors import ConfigError, DataError, NoRows
from dnis_lightning.packed.fields import PackedField
from dnis_lightning.serving import Predictor

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Scored:
    """The scores (R,) of some consecutive rows, and the share of the file that has been read with these."""

    scores: np.ndarray
    done: float


def score_file(
    predictor: Predictor, path: str, separator: str | None = None, columns: Sequence[str] | None = None
) -> Iterator[Scored]:
    """The scores of all rows of a file, in order.

    separator, columns: of text, where its first line does not say; see `TextTable`.
    Raises DataError, at once, where the file lacks a column, and, further on, for the first row that is not as in
    training.
    """
    form = predictor.mapping.form
    quoted = form.quoted if separator is None or len(separator.encode()) == 1 else None
    file = _opened(path, separator, columns, form.missing, quoted)
    _check_columns(file, predictor.mapping.columns)
    wanted = {one.name: _as_read(one) for one in predictor.embedding.fields}
    return _scored(predictor, file, wanted)


def _scored(predictor: Predictor, file: TableFile, wanted: Mapping[str, Column]) -> Iterator[Scored]:
    for rows in _rows(file, wanted):
        for start in range(0, len(rows.table), _ROWS_AT_ONCE):
            yield Scored(predictor.scores(rows.table.slice(start, _ROWS_AT_ONCE)), rows.done)


def read_pairs(
    predictor: Predictor,
    path: str,
    users: Collection[str],
    separator: str | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """What each of some users has had, by a file with the two columns that the model takes.

    Raises DataError where it lacks one, or has lists there.
    """
    user, item = (one.name for one in predictor.user_and_item())
    file, found = _opened(path, separator, columns), defaultdict(list)
    wanted = pa.array(sorted(set(users)), pa.string())
    _check_columns(file, [user, item])
    if several := sorted({user, item} & file.lists):
        raise DataError(f"{file.file.path}: {several[0]} is a list column, expected a user and an item in each row")
    for rows in _rows(file, {name: Column(name, "text") for name in (user, item)}):
        table = rows.table.filter(pc.is_in(rows.table[user], wanted))
        for one, other in zip(table[user].to_pylist(), table[item].to_pylist(), strict=True):
            found[one].append(other)
    return found


def _opened(
    path: str,
    separator: str | None,
    columns: Sequence[str] | None,
    missing: Sequence[str] = (),
    quoted: bool | None = None,
) -> TableFile:
    try:
        return open_file(path, separator, columns, missing, quoted)
    except ConfigError as fault:  # in a run these are keys
        said = str(fault).replace("data.separator", "--separator").replace("data.columns", "--columns")
        raise DataError(said) from fault


def _rows(file: TableFile, wanted: Mapping[str, Column]) -> Iterator[Rows]:
    """The rows of a file, which need not have any."""
    with contextlib.suppress(NoRows):
        yield from file.rows(wanted, "error")


def _as_read(one: PackedField) -> Column:
    return Column(one.name, "number", optional=True) if one.kind == "numeric" else Column(one.name, "text")


def _check_columns(file: TableFile, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in file.names]
    if absent:
        there = ", ".join(file.names[:20]) + (", …" if len(file.names) > 20 else "")
        raise DataError(
            f"{file.file.path}: no column {', '.join(absent[:5])}, which the model takes; it has {there}; a file "
            "without a header needs --columns"
        )
    kinds = file.sample(1).schema
    for name in names:
        if not is_usable(kinds.field(name).type):
            raise DataError(
                f"{file.file.path}: {name} is of the type {kinds.field(name).type}, expected ids or numbers"
            )
