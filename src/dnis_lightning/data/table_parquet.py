"""A Parquet file of a table, read batch by batch, and the first bad row named or all of them left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dnis_lightning.data.delimited import BadRows, Rows
from dnis_lightning.data.layout import Column
from dnis_lightning.data.readings import clicks, is_bytes, is_list, is_missing, numbers, plain, texts, wholes
from dnis_lightning.data.text import TextFile
from dnis_lightning.errors import DataError

BATCH_ROWS = 65_536
_MAGIC = b"PAR1"
_READINGS = {"number": numbers, "whole": wholes, "click": clicks}
_WANTED = {"number": "a number", "whole": "a whole number", "click": "0 or 1", "text": "text in UTF-8"}


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file with a column for each name."""

    file: TextFile

    missing = ()
    described = "Parquet"

    @classmethod
    def is_one(cls, file: TextFile) -> bool:
        """Whether a file is a Parquet file, by its ending or its first bytes."""
        if file.path.suffix.lower() in (".parquet", ".pq", ".parq"):
            return True
        file.identity()  # raises for a file that is not there
        try:
            with file.path.open("rb") as opened:
                return opened.read(len(_MAGIC)) == _MAGIC
        except OSError:
            return False

    def identity(self) -> dict[str, Any]:
        """See `TextFile`."""
        return self.file.identity()

    @cached_property
    def lists(self) -> frozenset[str]:
        """The list columns."""
        with self._opened() as file:
            return frozenset(field.name for field in file.schema_arrow if is_list(field.type))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns in the order of the file."""
        with self._opened() as file:
            names = tuple(file.schema_arrow.names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{self.file.path}: {twice[0]!r} names two columns; rename one")
        return names

    def sample(self, rows: int) -> pa.Table:
        """Some of the first rows, in the types of the file."""
        found = []
        with self._opened() as file:
            schema = file.schema_arrow
            for batch in file.iter_batches(BATCH_ROWS):
                found.append(batch)
                if (rows := rows - batch.num_rows) <= 0:
                    break
            sample = pa.Table.from_batches(found, schema)
        sample = sample.slice(0, sample.num_rows + min(rows, 0))
        for at, name in enumerate(sample.column_names):
            sample = sample.set_column(at, name, plain(sample.column(at)))
        return sample

    def rows(self, columns: Mapping[str, Column], bad_rows: BadRows) -> Iterator[Rows]:
        """The rows, of the wanted columns. Raises DataError, naming file and row, as `read_rows` does."""
        first, good, bad, example = 1, 0, 0, ""
        with self.file.unchanged(), self._opened() as file:
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                rows = self._converted(batch, columns, first, bad_rows, (first - 1 + batch.num_rows) / total)
                first, good, bad = first + batch.num_rows, good + rows.table.num_rows, bad + rows.skipped
                example = example or rows.example
                yield rows
        if bad and not good:
            raise DataError(f"{self.file.path}: every row is bad ({example}); is this the right file?")

    def _converted(
        self, batch: pa.RecordBatch, columns: Mapping[str, Column], first: int, bad_rows: BadRows, done: float
    ) -> Rows:
        raw = {name: plain(pa.chunked_array([batch.column(name)])) for name in columns}
        found = {name: _read(raw[name], column) for name, column in columns.items()}
        wrong = {name: _wrong(raw[name], found[name], column) for name, column in columns.items()}
        faulty = np.logical_or.reduce(list(wrong.values()))
        if not faulty.any():
            return Rows(pa.table(found), done)
        row = int(faulty.argmax())
        name = next(name for name, rows in wrong.items() if rows[row])
        shown, wants = _shown(raw[name][row]), columns[name].wants or _WANTED[columns[name].kind]
        example = f"{self.file.path}, row {first + row}: {name} is {shown}, expected {wants}; mend or remove this row"
        if bad_rows == "error":
            raise DataError(example)
        return Rows(pa.table(found).filter(pa.array(~faulty)), done, int(faulty.sum()), example)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """The open file; raises DataError when it is not there, no Parquet file or damaged, at once or further on."""
        self.identity()
        try:
            with pq.ParquetFile(self.file.path, buffer_size=1 << 20) as file:
                yield file
        except (pa.ArrowException, OSError) as fault:
            if isinstance(fault, OSError) and fault.errno is not None:
                raise
            reason = str(fault).splitlines()[0].rstrip(".")
            raise DataError(f"{self.file.path}: not a whole Parquet file ({reason}); write it again") from fault


def _read(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    if column.read is not None:
        return column.read(values)
    if column.kind == "text":
        return values if is_list(values.type) else texts(values)
    return _READINGS[column.kind](values)


def _wrong(raw: pa.ChunkedArray, found: pa.ChunkedArray, column: Column) -> np.ndarray:
    """(R,) bool: which values are not as expected."""
    if is_list(raw.type):
        return _with_no_text(raw)
    wrong = pc.and_(pc.is_null(found), pc.invert(is_missing(raw))) if column.optional else pc.is_null(found)
    return wrong.to_numpy()


def _shown(value: pa.Scalar) -> str:
    if not value.is_valid:
        return "missing"
    try:
        return repr(value.as_py())
    except OverflowError:  # Python's dates end sooner than Arrow's
        return f"{value.value} {value.type}"


def _with_no_text(lists: pa.ChunkedArray) -> np.ndarray:
    """(R,) bool: which lists have a value that is no text in UTF-8."""
    wrong = np.zeros(len(lists), dtype=bool)
    if not is_bytes(lists.type.value_type):
        return wrong
    flat = pc.is_null(texts(pc.list_flatten(lists))).to_numpy()
    wrong[pc.list_parent_indices(lists).to_numpy()[flat]] = True
    return wrong
