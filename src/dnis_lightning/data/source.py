"""What every data source offers: fields, an identity, and chunks of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from dnis_lightning.quantities import TaskName

PARTS = ("train", "search", "select", "test")
"""The parts of a split, by number."""

Column: TypeAlias = "np.ndarray | pa.Array | pa.ChunkedArray"


@dataclass(frozen=True)
class Field:
    """One input of the model: a feature out of many (categorical), several at once (multi) or a number (numeric)."""

    name: str
    kind: Literal["categorical", "multi", "numeric"]


@dataclass(frozen=True)
class RawForm:
    """What raw text means, besides itself.

    missing: texts that stand for no value. multi_separator: what joins the values of a multi field in one text; None
    where they come as lists. quoted: whether values may stand in double quotes; None where each file shows.
    """

    missing: tuple[str, ...] = ("",)
    multi_separator: str | None = None
    quoted: bool | None = None


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of a source, R of them.

    columns: by field name, (R,); categorical: raw ids, integers or text, where "" or null is "missing", a category like
    any other; multi: an Arrow list array of such ids, where an empty list or null is "missing"; numeric: float32, NaN
    or null = missing.
    label (R,): float32. time (R,): int64, or None where the source has no time.
    part (R,): the number in `PARTS` of the part that the source itself puts each row into, or None.
    done: the share of the source that has been read with this chunk, if known; for progress and estimates.
    skipped: bad rows that were left out before these; example: what was wrong with the first of them.
    """

    columns: dict[str, Column]
    label: np.ndarray
    time: np.ndarray | None = None
    done: float | None = None
    part: np.ndarray | None = None
    skipped: int = 0
    example: str = ""

    def only(self, rows: np.ndarray) -> Chunk:
        """The same with some of its rows; rows (R,) bool."""
        time, part = (None if array is None else array[rows] for array in (self.time, self.part))
        columns = {name: _filtered(column, rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, label=self.label[rows], time=time, part=part)


def _filtered(column: Column, rows: np.ndarray) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else column.filter(pa.array(rows))


class Source(Protocol):
    """Raw data of any origin.

    name: such as movielens-1m; a part of file names. task: what the labels are good for.
    user_field: the field whose rows belong together under leave_one_out, or None.
    A source whose text means other things than itself has a `raw_form`, too.
    """

    @property
    def name(self) -> str: ...

    @property
    def task(self) -> TaskName: ...

    @property
    def fields(self) -> tuple[Field, ...]: ...

    @property
    def user_field(self) -> str | None: ...

    def identity(self) -> dict[str, Any]:
        """All that the encoded form depends on, JSON-able: files, options, version of the reader.

        Raises DataError when the files are absent or cannot be read.
        """

    def chunks(self) -> Iterator[Chunk]:
        """The rows in their order. Raises DataError, naming file and line, on a row that is not as expected."""
