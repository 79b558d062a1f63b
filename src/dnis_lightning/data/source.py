"""What every data source offers: fields, an identity, and chunks of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from dnis_lightning.quantities import TaskName


@dataclass(frozen=True)
class Field:
    """One input of the model: a feature out of many (categorical) or a number (numeric)."""

    name: str
    kind: Literal["categorical", "numeric"]


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of a source, R of them.

    columns: by field name, (R,); categorical: raw ids, integers or text, where "" or None is "missing", a category like
    any other; numeric: float32, NaN = missing.
    label (R,): float32. time (R,): int64, or None where the source has no time.
    done: the share of the source that has been read with this chunk, if known; for progress and estimates.
    """

    columns: dict[str, np.ndarray]
    label: np.ndarray
    time: np.ndarray | None = None
    done: float | None = None


class Source(Protocol):
    """Raw data of any origin.

    name: such as movielens-1m; a part of file names. task: what the labels are good for.
    user_field: the field whose rows belong together under leave_one_out, or None.
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
