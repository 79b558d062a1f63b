"""What each column of a table is taken for, by a sample of its rows, and what is remarkable about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnis_lightning.columns import aligned
from dnis_lightning.data.readings import (
    floats,
    is_bytes,
    is_list,
    is_missing,
    is_text,
    is_usable,
    texts,
    without_missing,
)
from dnis_lightning.data.roles import Roles
from dnis_lightning.data.source import Field
from dnis_lightning.errors import DataError

Taken = Literal["categorical", "numeric", "multi", "label", "time", "split", "ignored"]
_FIELDS = ("categorical", "numeric", "multi")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE = r"^(0|-?[1-9]\d*)$"  # 007 is an id
_MANY, _WIDTH = 50, 30
ENOUGH_ROWS = 20
"""Of fewer rows nothing is remarkable."""
NO_VALUE, ONE_VALUE, UNIQUE = "no value in any row", "one value only", "unique to each row: no use as a feature"
_NEARLY = 0.95


@dataclass(frozen=True)
class ColumnSummary:
    """A column in the sample: what it is taken for, distinct values, share of missing ones, an example."""

    name: str
    taken_as: Taken
    distinct: int
    missing: float
    example: str
    remark: str = ""


@dataclass(frozen=True)
class Schema:
    """The columns of a table, fields first if the user ordered them; rows: of the sample."""

    columns: tuple[ColumnSummary, ...]
    rows: int

    @property
    def fields(self) -> tuple[Field, ...]:
        """The inputs of the model."""
        return tuple(Field(c.name, c.taken_as) for c in self.columns if c.taken_as in _FIELDS)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The columns as a table of aligned text."""
        head = ("column", "taken as", "distinct", "missing", "example", "remark")
        body = [
            (_short(c.name), c.taken_as, f"{c.distinct:,}", f"{c.missing:.1%}", c.example, c.remark)
            for c in self.columns
        ]
        return "\n".join(aligned(head, body, left=(0, 1, 4, 5)))


def infer(sample: pa.Table, roles: Roles, multi_separator: str = "|") -> Schema:
    """Take each column for what its values in the sample are, unless the user says otherwise.

    Numbers that are not whole are numeric, lists are multi; all else, whole numbers too, are ids: categorical.
    Raises DataError for a column that cannot be what the user says.
    """
    labels = np.zeros(sample.num_rows, dtype=np.int64) if roles.label is None else _codes(sample[roles.label])
    columns = []
    for name in roles.order(sample.column_names):
        values, taken = sample[name], _taken(name, sample[name], roles)
        shown = _shown(values)
        single = is_list(values.type) and is_usable(values.type)
        ids = without_missing(texts(pc.list_flatten(values)) if single else shown)
        there = without_missing(shown)
        summary = ColumnSummary(
            name,
            taken,
            pc.count_distinct(ids).as_py(),
            1 - len(there) / max(len(values), 1),
            _short(there[0].as_py()) if len(there) else "",
        )
        remark = _remark(summary, values, labels, multi_separator, said=name in (*roles.kinds, roles.user))
        columns.append(replace(summary, remark=remark))
    return Schema(tuple(columns), sample.num_rows)


def _taken(name: str, values: pa.ChunkedArray, roles: Roles) -> Taken:
    said = roles.beside.get(name) or roles.kinds.get(name)
    key = roles.keys.get(name, "")
    if said == "ignore" or (roles.fields is not None and name not in roles.fields and name not in roles.beside):
        return "ignored"
    if not is_usable(values.type):
        if key:
            raise DataError(f"{key}: {name!r} is of the type {values.type}, which is no kind of field; leave it out")
        return "ignored"
    if is_list(values.type) and said not in (None, "multi"):
        raise DataError(f"{key}: {name!r} is a list column, which can be nothing but multi; take another column")
    if said == "numeric" and (pa.types.is_temporal(values.type) or is_bytes(values.type)):
        raise DataError(f"{key}: {name!r} is of the type {values.type}, no number; take it as categorical")
    return said or _inferred(values)  # type: ignore[return-value]


def _inferred(values: pa.ChunkedArray) -> Taken:
    kind = values.type
    if is_list(kind):
        return "multi"
    if is_text(kind):
        there = without_missing(values)
        if not len(there) or not pc.all(pc.match_substring_regex(there, _NUMBER)).as_py():
            return "categorical"
    elif not (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return "categorical"
    found = floats(without_missing(values))
    return "numeric" if pc.any(pc.not_equal(found, pc.round(found))).as_py() else "categorical"


def _remark(
    column: ColumnSummary, values: pa.ChunkedArray, labels: np.ndarray, multi_separator: str, *, said: bool
) -> str:
    name, rows = column.name, len(values)
    if column.taken_as == "ignored":
        return "" if said or is_usable(values.type) else f"{str(values.type).split('<')[0]}: no kind of field"
    if not column.distinct:
        return NO_VALUE if rows else ""
    if column.distinct == 1 and not column.missing:
        return ONE_VALUE
    if column.taken_as not in ("categorical", "numeric") or rows < ENOUGH_ROWS:
        return ""
    if _tells(values, labels):
        return "equals the label: does it leak?"
    if column.taken_as == "numeric" or said:
        return ""
    if is_text(values.type):
        are_numbers = pc.match_substring_regex(without_missing(values), _NUMBER)
        others = pc.sum(pc.invert(are_numbers)).as_py()
        if others and _share(are_numbers) >= _NEARLY:
            return f"all but {others:,} are numbers: data.numeric=[{name}] takes it for numbers, the rest for bad rows"
    if column.distinct >= _NEARLY * rows:
        nearly = "" if column.distinct == rows else "nearly "
        return f"{nearly}{UNIQUE}; data.ignore=[{name}] leaves it out"
    if is_text(values.type) and _share(pc.match_substring(values, multi_separator)) > 0.1:
        return f"has {multi_separator!r} in it; data.multi=[{name}] takes it as several values"
    if column.distinct >= _MANY and _all_whole(values):
        return f"whole numbers, taken as ids; data.numeric=[{name}] takes them as numbers"
    return ""


def _tells(values: pa.ChunkedArray, labels: np.ndarray) -> bool:
    """Whether a column says the same as the label, if by other names."""
    if is_list(values.type):
        return False
    codes = _codes(values)
    kinds, of_label = codes.max(initial=-1) + 1, labels.max(initial=-1) + 1
    if not 1 < kinds == of_label < len(labels):
        return False
    return len(np.unique(codes * of_label + labels)) == kinds


def _all_whole(values: pa.ChunkedArray) -> bool:
    if not is_text(values.type):
        return (
            not is_bytes(values.type) and not pa.types.is_temporal(values.type) and not pa.types.is_boolean(values.type)
        )
    return bool(pc.all(pc.match_substring_regex(without_missing(values), _WHOLE)).as_py())


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_nested(values.type) or not is_usable(values.type):
        return np.zeros(len(values), dtype=np.int64)
    encoded = texts(values).combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64)


def _shown(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as text."""
    if is_usable(values.type) and not is_list(values.type):
        return texts(values)
    absent = is_missing(values) if is_list(values.type) else pc.is_null(values)
    shown = (
        "" if no else (", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for value, no in zip(values.to_pylist(), absent.to_pylist(), strict=True)
    )
    return pa.chunked_array([pa.array(shown, pa.string())])


def _share(flags: pa.ChunkedArray) -> float:
    return float(pc.mean(pc.cast(flags, pa.float64())).as_py() or 0)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
