"""A text file of a table: its columns by the header or by name, what separates them, and its rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from dnis_lightning.data.delimited import BadRows, Rows, read_rows, sample_rows
from dnis_lightning.data.layout import Column, Format
from dnis_lightning.data.text import TextFile
from dnis_lightning.errors import DataError

_HEAD_BYTES = 1 << 20
_SAMPLE_BYTES = 4 << 20
_BY_ENDING = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_OTHERS = ("\t", "::", ",", ";", "|")
_QUOTED = (",", ";")


@dataclass(frozen=True)
class TextOptions:
    """How text files are read: null and None are found out from each file."""

    separator: str | None = None
    columns: tuple[str, ...] | None = None
    quoted: bool | None = None
    missing: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class TextTable:
    """A text file with a column for each name."""

    file: TextFile
    options: TextOptions = field(default_factory=TextOptions)

    def identity(self) -> dict[str, Any]:
        """See `TextFile`."""
        return self.file.identity()

    @property
    def missing(self) -> tuple[str, ...]:
        """What stands for a missing value."""
        return self.options.missing

    @property
    def lists(self) -> frozenset[str]:
        """The list columns: none, since text that is joined is text first."""
        return frozenset()

    @cached_property
    def separator(self) -> str:
        """What is said, else what the file's ending says if the first line has it, else the most frequent there."""
        if self.options.separator is not None:
            return self.options.separator
        first = self._first.decode(errors="replace")
        endings = [ending.lower() for ending in reversed(self.file.path.suffixes)]
        usual = next((_BY_ENDING[e] for e in endings if e in _BY_ENDING), None)
        found = max(_OTHERS, key=first.count)
        return usual if usual is not None and (usual in first or found not in first) else found

    @property
    def quoted(self) -> bool:
        """Whether values may stand in double quotes."""
        return self.separator in _QUOTED if self.options.quoted is None else self.options.quoted

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns in the order of the file; those without a name are column1, column2 … by their place.

        Raises DataError where a name occurs twice, or a header stands where none is expected.
        """
        found = self._split(self._first)
        if self.options.columns is not None:
            self._check_no_header(found)
            return self.options.columns
        names = tuple(name.strip() or f"column{place}" for place, name in enumerate(found, 1))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{self.file.where(1)}: {twice[0]!r} stands twice in the header; rename one, or name the columns with "
                "data.columns if this is no header"
            )
        return names

    @property
    def described(self) -> str:
        """How the file is read, for the log."""
        said = " (data.separator)" if self.options.separator is not None else ""
        named = "data.columns" if self.options.columns is not None else "line 1"
        return f"columns separated by {self.separator!r}{said}, named by {named}"

    def sample(self, rows: int) -> pa.Table:
        """Some of the first rows as text, bad ones left out."""
        layout = self._format({name: Column(name, "text") for name in self.names})
        return sample_rows(self.file, layout, _SAMPLE_BYTES).slice(0, rows)

    def rows(self, columns: Mapping[str, Column], bad_rows: BadRows) -> Iterator[Rows]:
        """The rows, of the wanted columns."""
        return read_rows(self.file, self._format(columns), bad_rows)

    def _format(self, columns: Mapping[str, Column]) -> Format:
        names, headed = self.names, self.options.columns is None
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return Format(
            tuple(columns.get(name, Column(name, "unread")) for name in names),
            self.separator.encode(),
            f"{'the header has' if headed else 'data.columns names'} {len(names)} ({listed})",
            self._first.strip() if headed else None,
            self.quoted,
            self.missing,
        )

    @cached_property
    def _first(self) -> bytes:
        """The first line."""
        return next(iter(self.file.blocks(_HEAD_BYTES))).text.split(b"\n", 1)[0].rstrip(b"\r")

    def _split(self, line: bytes) -> list[str]:
        if b"\0" in line:
            raise DataError(f"{self.file.where(1)}: a NUL byte in the line; is this a text file?")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise DataError(f"{self.file.where(1)}: invalid UTF-8 in the line; convert the file to UTF-8") from None
        if self.quoted and len(self.separator) == 1:
            try:
                return next(csv.reader([text], delimiter=self.separator), [""])
            except csv.Error as fault:
                raise DataError(f"{self.file.where(1)}: no line of names ({fault}); is this a text file?") from None
        return text.split(self.separator)

    def _check_no_header(self, found: list[str]) -> None:
        """Raise DataError when the first line reads like the names that the user gave."""
        given = self.options.columns or ()
        same = [name for name, other in zip(given, found, strict=False) if name.lower() == other.strip().lower()]
        if len(same) > len(given) / 2:
            raise DataError(
                f"{self.file.where(1)}: a header where data.columns says there is none ({', '.join(found[:8])}); leave "
                "data.columns out"
            )
