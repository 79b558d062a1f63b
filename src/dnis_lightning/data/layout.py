"""How delimited text is laid out: what its columns hold, how blocks of it are parsed, what is wrong with a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dnis_lightning.data.quotes import misplaced, values_of

ColumnKind = Literal["text", "number", "whole", "click", "fixed", "unread"]
_TYPES = {
    "text": pa.string(),
    "number": pa.float32(),
    "whole": pa.int64(),
    "click": pa.float32(),
    "fixed": pa.string(),
}
_WANTED = {"number": "a number", "whole": "a whole number", "click": "0 or 1"}
_NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
_WHOLE = re.compile(r"[ \t]*(-?)0*([0-9]+)[ \t]*")
_BOM = b"\xef\xbb\xbf"
_AT_ONCE = 1 << 20
"""Bytes that Arrow parses at once: as much as the cache of a core holds."""
_UNIT = b"\x1f"
"""Stands for a separator of several bytes while a block is parsed."""


@dataclass(frozen=True)
class Column:
    """A column of the file, and what is expected in it.

    kind: `text`, `number` (finite in float32), `whole` (int64), `click` (0 or 1), `fixed` (always its name) or
    `unread` (anything).
    optional: a number may be missing, and is null then; a missing text is "".
    read: of `text` alone: makes other values of it, null for each that is not as expected; none may be missing.
    wants: what is expected then.
    """

    name: str
    kind: ColumnKind
    optional: bool = False
    read: Callable[[pa.ChunkedArray], pa.ChunkedArray] | None = None
    wants: str = ""


@dataclass(frozen=True)
class Format:
    """How a file is laid out.

    says: what a wrong number of columns is held against, such as "Criteo has 40 (label, …)".
    header: its first line, where it has one. quoted: values may be in double quotes.
    missing: what stands for a missing value. hint: the end of the message on a wrong label. alias: another separator.
    padded: a separator may stand at the end of a line, too.
    """

    columns: tuple[Column, ...]
    separator: bytes
    says: str
    header: bytes | None = None
    quoted: bool = False
    missing: tuple[str, ...] = ("",)
    hint: str = "mend or remove this line"
    alias: bytes | None = None
    padded: bool = False

    def __post_init__(self) -> None:
        assert not self.quoted or (len(self.separator) == 1 and not self.alias), (
            "quotes go with one separator of a byte"
        )

    @cached_property
    def _read(self) -> pyarrow.csv.ReadOptions:
        names = [column.name for column in self.columns]
        return pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=_AT_ONCE)

    @cached_property
    def _read_whole(self) -> pyarrow.csv.ReadOptions:
        names = [column.name for column in self.columns]
        return pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=1 << 30)

    @cached_property
    def _parse(self) -> pyarrow.csv.ParseOptions:
        return pyarrow.csv.ParseOptions(
            delimiter=self._byte.decode(),
            quote_char='"' if self.quoted else False,
            newlines_in_values=self.quoted,
            ignore_empty_lines=False,
        )

    @cached_property
    def _byte(self) -> bytes:
        """What separates while a block is parsed."""
        return _UNIT if len(self.separator) > 1 else self.separator

    @cached_property
    def _may_be_empty(self) -> bool:
        """Whether there can be rows in which every value is missing."""
        return all(column.read is None and (column.kind == "text" or column.optional) for column in self._wanted)

    @cached_property
    def _wanted(self) -> list[Column]:
        return [column for column in self.columns if column.kind != "unread"]

    @cached_property
    def _convert(self) -> pyarrow.csv.ConvertOptions:
        return self._conversion({column.name: _TYPES[column.kind] for column in self._wanted})

    @cached_property
    def _raw_wholes(self) -> pyarrow.csv.ConvertOptions:
        return self._conversion({column.name: pa.string() for column in self._wanted if column.kind == "whole"})

    def _conversion(self, types: dict[str, Any]) -> pyarrow.csv.ConvertOptions:
        return pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=list(self.missing),
            strings_can_be_null=self.missing != ("",),
        )

    def parse(self, text: bytes) -> pa.Table | None:
        """The columns of some lines, or None where something in them is not as expected."""
        if not text:
            return self._nothing()
        if b"\0" in text or (self._byte == _UNIT != self.separator and _UNIT in text):
            return None
        text = self._with_one_separator(text)
        if misplaced(text, self._byte, self.quoted, blank=len(self.columns) > 1 and self._may_be_empty):
            return None
        if text.startswith(_BOM):
            text = _BOM + text  # Arrow takes one away
        try:
            table = self._table(text, self._convert)
            if self._has_hexadecimals(text):
                return None
        except pa.ArrowInvalid:
            return None
        for number, column in enumerate(self._wanted):
            values = table.column(number)
            if column.read is not None:
                table = table.set_column(number, column.name, values := column.read(values))
                if values.null_count:
                    return None
            elif column.kind == "text":
                if values.null_count:
                    table = table.set_column(number, column.name, pc.fill_null(values, ""))
            elif (values.null_count and not column.optional) or not _as_expected(values, column):
                return None
        return table

    def _nothing(self) -> pa.Table:
        table = pa.schema([(column.name, _TYPES[column.kind]) for column in self._wanted]).empty_table()
        for number, column in enumerate(self._wanted):
            if column.read is not None:
                table = table.set_column(number, column.name, column.read(table.column(number)))
        return table

    def fault(self, line: bytes, first: bool = False) -> str | None:
        """What is wrong with one row, or None; first: it is the first of the file."""
        if b"\0" in line:
            return "a NUL byte in the line; is this a text file?"
        if self._byte == _UNIT != self.separator and _UNIT in line:
            return "a byte 0x1f in the line; is this a text file?"
        line = self._with_one_separator(line)
        if why := misplaced(line, self._byte, self.quoted, blank=False):
            return why
        text = line.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
        found = values_of(text, self._byte.decode(), self.quoted)
        if len(found) != len(self.columns):
            many = f"{len(found)} column{'s' * (len(found) != 1)}"
            return f"{many}, {self.says}; is the file whole and separated as it should be?"
        for column, value in zip(self.columns, found, strict=True):
            if column.kind == "unread":
                continue
            if why := _invalid(value):
                return why
            if not self._fits(column, value):
                wanted = repr(column.name) if column.kind == "fixed" else column.wants or _WANTED[column.kind]
                named = "a value" if column.kind == "fixed" else column.name
                hint = self.hint if column.kind == "click" else "mend or remove this line"
                if first and self._like_a_header(found):
                    hint = "it looks like a header, and there should be none: remove this line"
                return f"{named} is {_short(value)!r}, expected {wanted}; {hint}"
        return None

    def _with_one_separator(self, text: bytes) -> bytes:
        if self.alias is not None:
            text = text.replace(self.alias, self.separator)
        if self.padded:
            text = text.replace(self.separator + b"\n", b"\n").replace(self.separator + b"\r\n", b"\r\n")
        return text if self._byte == self.separator else text.replace(self.separator, self._byte)

    def _has_hexadecimals(self, text: bytes) -> bool:
        """Whether a whole number is one such as 0x1f, which Arrow would take."""
        if not self._raw_wholes.include_columns or not (b"0x" in text or b"0X" in text):
            return False
        table = self._table(text, self._raw_wholes)
        return any(pc.any(pc.match_substring_regex(column, "[xX]")).as_py() for column in table.columns)

    def _table(self, text: bytes, conversion: pyarrow.csv.ConvertOptions) -> pa.Table:
        buffer = pa.py_buffer(text)
        try:
            return pyarrow.csv.read_csv(pa.BufferReader(buffer), self._read, self._parse, conversion).combine_chunks()
        except pa.ArrowInvalid as fault:
            if "straddl" not in str(fault):
                raise
        return pyarrow.csv.read_csv(pa.BufferReader(buffer), self._read_whole, self._parse, conversion).combine_chunks()

    def _fits(self, column: Column, value: str) -> bool:
        if column.read is not None:
            return value not in self.missing and not column.read(pa.chunked_array([[value]])).null_count
        if column.kind == "text":
            return True
        if column.kind == "fixed":
            return value == column.name
        if value in self.missing:
            return column.optional
        if column.kind == "whole":
            return _is_whole(value)
        return is_number(value) and (column.kind == "number" or np.float32(value.strip()) in (0, 1))

    def _like_a_header(self, found: list[str]) -> bool:
        if self.header is not None:
            return False
        values = [v for c, v in zip(self.columns, found, strict=True) if c.kind in ("number", "whole", "click")]
        return all(value.strip() and not is_number(value) for value in values)


def is_number(text: str) -> bool:
    """Whether a text is a number that is finite in single precision."""
    with np.errstate(over="ignore"):
        return _NUMBER.fullmatch(text) is not None and bool(np.isfinite(np.float32(text.strip())))


def _is_whole(text: str) -> bool:
    found = _WHOLE.fullmatch(text)
    return found is not None and len(found[2]) < 20 and -(2**63) <= int(found[1] + found[2]) < 2**63


def _as_expected(values: pa.ChunkedArray, column: Column) -> bool:
    if column.kind == "whole":
        return True
    if column.kind == "fixed":
        return bool(pc.all(pc.equal(values, column.name)).as_py())
    numbers = values.to_numpy()
    if column.kind == "click":
        return np.count_nonzero((numbers == 0) | (numbers == 1)) == len(values) - values.null_count
    return np.count_nonzero(np.isfinite(numbers)) == len(values) - values.null_count


def _invalid(value: str) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError as fault:
        shown = repr(value[max(fault.start - 10, 0) : fault.start + 10]).replace("\\udc", "\\x")
        return f"invalid UTF-8 at {shown}; convert the file to UTF-8"
    return None


def _short(value: str) -> str:
    return value if len(value) <= 60 else value[:60] + "…"
