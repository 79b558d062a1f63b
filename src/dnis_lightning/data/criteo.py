"""The Criteo Kaggle display-advertising log as it comes: label, I1–I13, C1–C26, separated by tabs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.data.text import TextTable, identity_of
from dnis_lightning.errors import DataError
from dnis_lightning.paths import expand

INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))


class Criteo:
    """Clicks with 13 numeric and 26 categorical fields; an empty category is a raw id of its own.

    numeric: `scalar`, where a number x multiplies its field's embedding as ln(1 + max(x, 0)) / 4 (counts with long tails:
    the scaled values are mostly within 0 … 2); or `log2`, where x becomes the category ⌊ln(x)²⌋ for x > 2 and x itself
    below, the discretisation of the challenge's winners.
    path: the file, or None for `train.txt` in root/criteo or root.
    """

    name = "criteo"
    task = "ctr"
    user_field = None

    def __init__(self, root: str, path: str | None = None, numeric: Literal["scalar", "log2"] = "scalar") -> None:
        self.root, self.path, self.numeric = expand(root), path, numeric
        kind: Literal["numeric", "categorical"] = "numeric" if numeric == "scalar" else "categorical"
        self.fields = (*(Field(name, kind) for name in INTEGERS), *(Field(name) for name in CATEGORIES))

    def identity(self) -> dict[str, Any]:
        """Version of this reader, its options, and the version of the file."""
        return {"reader": 1, "numeric": self.numeric, **identity_of(self._place(), None)}

    def chunks(self) -> Iterator[Chunk]:
        """The rows in the file's order.

        Raises DataError naming file and line for a wrong number of columns, a label other than 0 or 1, and an integer
        field that is no number.
        """
        table = TextTable(self._place(), "\t", 40, "Criteo rows")
        for line, frame in table.frames():
            columns = {name: self._number(table, frame[i], line, name) for i, name in enumerate(INTEGERS, 1)}
            columns |= {name: frame[i].to_numpy() for i, name in enumerate(CATEGORIES, 14)}
            yield Chunk(columns, _labels(table, frame[0], line))

    def _number(self, table: TextTable, column: Any, line: int, name: str) -> np.ndarray:
        numbers = table.numbers(column, line, name, missing=True)
        return scaled(numbers) if self.numeric == "scalar" else bucketed(numbers)

    def _place(self) -> Path:
        if self.path is not None:
            return expand(self.path)
        places = [self.root / "criteo" / "train.txt", self.root / "train.txt"]
        for place in places:
            if place.exists():
                return place
        raise DataError(
            f"{places[0]}: there is no such file; its licence forbids that we fetch it: get the Kaggle display-advertising "
            "data from Criteo and put train.txt there, or name it with data.path="
        )


def scaled(numbers: np.ndarray) -> np.ndarray:
    """ln(1 + max(x, 0)) / 4; missing stays NaN."""
    return np.log1p(np.maximum(numbers, 0)) / np.float32(4)


def bucketed(numbers: np.ndarray) -> np.ndarray:
    """Raw ids (text) of the buckets ⌊ln(x)²⌋ for x > 2, of x itself below, and "" for missing."""
    large = np.log(np.maximum(numbers, 1).astype(np.float64)) ** 2
    bucket = np.where(numbers > 2, np.floor(large), numbers)
    codes, known = np.nan_to_num(bucket).astype(np.int64), ~np.isnan(numbers)
    names = np.where(numbers > 2, "log2:", "").astype(object) + codes.astype(str).astype(object)
    return np.where(known, names, "")


def _labels(table: TextTable, column: Any, line: int) -> np.ndarray:
    wrong = ~column.isin(["0", "1"]).to_numpy()
    if wrong.any():
        at = int(np.argmax(wrong))
        raise table.fault(
            line + at, f"the label is {column.iloc[at]!r}", "it should be 0 or 1", "is this the labelled file?"
        )
    return (column == "1").to_numpy(np.float32)
