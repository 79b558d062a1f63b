"""What a data source is: named fields, and the rows as chunks of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Field:
    """A column of the data: `categorical` (each raw id is a feature) or `numeric` (one scalar feature)."""

    name: str
    kind: Literal["categorical", "numeric"] = "categorical"


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows.

    columns: for each field an array (rows,): raw ids as text or whole numbers, or float32 with NaN for missing.
    label (rows,) float32; time (rows,) int64 or None.
    """

    columns: dict[str, np.ndarray]
    label: np.ndarray
    time: np.ndarray | None = None


class Source(Protocol):
    """Raw files, read in one direction. Constructors check and store; files are opened by `identity` and `chunks`."""

    name: str
    task: str
    fields: tuple[Field, ...]
    user_field: str | None

    def identity(self) -> dict[str, Any]:
        """All that the encoded form depends on, JSON-able: which file, which options, which version of the reader."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """The rows from first to last."""
        ...
