"""A table of the user's own: text or Parquet, one file or many, its columns taken for what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dnis_lightning.data.delimited import BadRows, Rows
from dnis_lightning.data.layout import Column
from dnis_lightning.data.readings import PARTS_WANTED, Reading, clicks, lists, parts, time_reading
from dnis_lightning.data.roles import put_together
from dnis_lightning.data.schema import Schema, infer
from dnis_lightning.data.source import Chunk, Field, RawForm
from dnis_lightning.data.table_files import TableFile, open_files, text_options
from dnis_lightning.data.table_parquet import ParquetTable
from dnis_lightning.errors import ConfigError, DataError
from dnis_lightning.quantities import SplitName, TaskName

READER = 1
_NEEDED = {"time": ("time",), "leave_one_out": ("user", "time"), "column": ("split_column",)}
SAMPLE_FILES, SAMPLE_ROWS = 3, 100_000
MISSING = ("", "NA", "NaN", "nan", "null", "NULL", "\\N", "None")


class Table:
    """Rows of files with named columns; conf/data/table.yaml says what each argument is.

    Files are read in the order of their names. What a column is taken for is found out from a sample, the first rows of
    the first files; `schema` has it.
    """

    def __init__(
        self,
        path: str | list[str],
        label: str | None,
        task: TaskName,
        name: str = "table",
        fields: list[str] | None = None,
        numeric: list[str] | None = None,
        multi: list[str] | None = None,
        kinds: dict[str, str] | None = None,
        ignore: list[str] | None = None,
        time: str | None = None,
        user: str | None = None,
        split_column: str | None = None,
        separator: str | None = None,
        columns: list[str] | None = None,
        quoted: bool | None = None,
        missing: list[str] | None = None,
        multi_separator: str = "|",
        bad_rows: BadRows = "error",
    ) -> None:
        self.name, self.task, self.bad_rows, self.user_field = name, task, bad_rows, user
        self.roles = put_together(
            label=label,
            fields=None if fields is None else list(fields),
            numeric=list(numeric or ()),
            multi=list(multi or ()),
            kinds=dict(kinds or {}),
            ignore=list(ignore or ()),
            time=time,
            user=user,
            split_column=split_column,
        )
        if label is None and task != "topk":
            raise ConfigError(f"data.label: data.task={task} needs a column to predict; name it with data.label=")
        self.path: list[str] = [path] if isinstance(path, str) else list(path)
        self.multi_separator = multi_separator
        self._options = text_options(separator, columns, quoted, MISSING if missing is None else missing)
        if "multi" in self.roles.kinds.values() and multi_separator in ("", self._options.separator):
            wants = "expected one character or more, and not data.separator"
            raise ConfigError(f"data.multi_separator={multi_separator!r}: {wants}")

    @property
    def fields(self) -> tuple[Field, ...]:
        """See `Source`; reads a sample of the rows. Raises DataError as `schema` does."""
        return self.schema.fields

    @cached_property
    def schema(self) -> Schema:
        """What each column is taken for.

        Raises DataError when a file is not there, cannot be read or lacks a column, and where nothing is left to learn
        from.
        """
        schema = infer(self._sample, self.roles, self.multi_separator)
        if not schema.rows:
            raise DataError(f"{self._shown_path}: there is no row in it; is the file whole?")
        if not schema.fields:
            raise DataError(f"{self._shown_path}: no column is left to be a field; see data.fields and data.ignore")
        if self.user_field is not None and Field(self.user_field, "categorical") not in schema.fields:
            raise DataError(
                f"data.user={self.user_field}: it is taken for numbers or lists; a user has to be categorical, see "
                "data.kinds"
            )
        return schema

    @property
    def raw_form(self) -> RawForm:
        """What text in the files means, besides itself."""
        return RawForm(self._files[0].missing or ("",), self.multi_separator, self._options.quoted)

    def check_split(self, split: SplitName, *, given_test: bool = False) -> None:
        """Raise ConfigError when a split needs a column that no key names: before any row is encoded.

        given_test: leave_one_out is told what is left out, so that it needs no time.
        """
        roles = self.roles
        named = {"time": roles.time, "user": roles.user, "split_column": roles.split}
        needed = ("user",) if given_test and split == "leave_one_out" else _NEEDED.get(split, ())
        absent = [f"data.{key}=" for key in needed if named[key] is None]
        if absent:
            raise ConfigError(f"data.split={split}: it needs a column named with {' and '.join(absent)}")

    def described(self) -> str:
        """Where the rows come from, and what each column is taken for."""
        return f"{self._shown_path}: {self._files[0].described}\n{self.schema}"

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        told = {
            "reader": READER,
            "files": [file.identity() for file in self._files],
            "columns": [[column.name, column.taken_as] for column in self.schema.columns],
            "time": None if self.roles.time is None else [self.roles.time, self._time[0].__name__],
            "multi_separator": self.multi_separator,
            "reading": [_told(file) for file in self._files],
        }
        return told if self.bad_rows == "error" else {**told, "bad_rows": self.bad_rows}

    def chunks(self) -> Iterator[Chunk]:
        """See `Source`; `part` is given by the split column, if there is one."""
        sizes = np.array([file.file.path.stat().st_size for file in self._files], dtype=np.float64)
        starts = np.append(0, np.cumsum(sizes)) / max(sizes.sum(), 1)
        wanted = self._wanted()
        for file, start, end in zip(self._files, starts, starts[1:], strict=False):
            for rows in file.rows(wanted, self.bad_rows):
                yield self._chunk(rows, file.missing, float(start + (end - start) * rows.done))

    def _chunk(self, rows: Rows, missing: Sequence[str], done: float) -> Chunk:
        table, roles = rows.table, self.roles
        columns = {field.name: table[field.name] for field in self.fields}
        for field in self.fields:
            if field.kind == "multi":
                columns[field.name] = lists(columns[field.name], self.multi_separator, missing)
        label = np.zeros(len(table)) if roles.label is None else table[roles.label].to_numpy()
        time = None if roles.time is None else table[roles.time].to_numpy()
        part = None if roles.split is None else table[roles.split].to_numpy()
        return Chunk(columns, label.astype(np.float32, copy=False), time, done, part, rows.skipped, rows.example)

    def _wanted(self) -> dict[str, Column]:
        """The columns to be read."""
        roles = self.roles
        found = {
            field.name: Column(field.name, "number", optional=True)
            if field.kind == "numeric"
            else Column(field.name, "text")
            for field in self.fields
        }
        if roles.label is not None:
            found[roles.label] = self._label_column(roles.label)
        if roles.time is not None:
            read, wants = self._time
            found[roles.time] = Column(roles.time, "text", read=read, wants=wants)
        if roles.split is not None:
            found[roles.split] = Column(roles.split, "text", read=parts, wants=PARTS_WANTED)
        return found

    def _label_column(self, name: str) -> Column:
        if self.task == "ctr":
            return Column(name, "text", read=clicks, wants="0 or 1 (data.task=rating takes any number)")
        return Column(name, "number")

    @cached_property
    def _time(self) -> tuple[Reading, str]:
        return time_reading(self._sample[self.roles.time])

    @cached_property
    def _sample(self) -> pa.Table:
        """The first rows of the first files, with the columns in the order of the first."""
        files = self._files[:SAMPLE_FILES]
        samples = [file.sample(SAMPLE_ROWS // len(files)).select(list(files[0].names)) for file in files]
        sample = _together(samples)
        if several := sorted(self.roles.beside.keys() & files[0].lists):
            raise DataError(
                f"{self.roles.keys[several[0]]}: a list column, expected one value in each row; take another"
            )
        return sample

    @cached_property
    def _files(self) -> list[TableFile]:
        return open_files(self.path, self._options, self.roles)

    @property
    def _shown_path(self) -> str:
        return "data.path=" + (self.path[0] if len(self.path) == 1 else f"[{','.join(self.path)}]")


class Unlabelled(Table):
    """A table that is only looked at: no column is left out as the label, and every label is 0."""

    def __init__(self, path: str | list[str], **options: Any) -> None:
        super().__init__(path, None, "topk", **options)


def _together(samples: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(samples, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return samples[0]  # a column is text in one file and numbers in another


def _told(file: TableFile) -> Mapping[str, Any] | str:
    """What the encoded form depends on besides the file."""
    if isinstance(file, ParquetTable):
        return "parquet"
    return {"separator": file.separator, "columns": file.names, "quoted": file.quoted, "missing": file.missing}
