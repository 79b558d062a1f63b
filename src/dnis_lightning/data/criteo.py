"""The Criteo display-advertising log: a click, 13 numbers I1 … I13 and 26 categories C1 … C26, tab-separated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd

from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.data.text import Block, TextFile, check_columns, is_number, numbered_lines, read_table
from dnis_lightning.errors import DataError
from dnis_lightning.paths import expand
from dnis_lightning.quantities import TaskName

READER = 1
NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
_COLUMNS = ("label", *NUMBERS, *CATEGORIES)


class Criteo:
    """Clicks with 39 fields; an empty column is missing, which is a feature of its own in each field.

    root: `criteo/train.txt` or `train.txt` is looked for there. path: the file itself, instead.
    numeric: what becomes of I1 … I13. `scalar`: numeric fields with the value sign(x)·log(1 + |x|) / 4 (counts from 0
    to millions, some of them −1 to −3, become numbers of order one). `log2`: categorical fields with the categories
    ⌊log(x)²⌋ for x > 2 and ⌊x⌋ (as text) below: the field's usual buckets.
    """

    name = "criteo"
    task: TaskName = "ctr"
    user_field = None

    def __init__(self, root: str = ".", path: str | None = None, numeric: Literal["scalar", "log2"] = "scalar") -> None:
        self.root, self.path, self.numeric = root, path, numeric
        kind: Literal["numeric", "categorical"] = "numeric" if numeric == "scalar" else "categorical"
        numbers = tuple(Field(name, kind) for name in NUMBERS)
        self.fields = numbers + tuple(Field(name, "categorical") for name in CATEGORIES)

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {"reader": READER, "numeric": self.numeric, **self._file().identity()}

    def chunks(self) -> Iterator[Chunk]:
        """See `Source`."""
        file = self._file()
        for block in file.blocks():
            check_columns(file, block, b"\t", len(_COLUMNS), f"Criteo has {len(_COLUMNS)} (label, I1–I13, C1–C26)")
            frame = _parse(file, block)
            yield Chunk(self._columns(frame), _labels(file, block, frame), None, block.done)

    def _columns(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        treat = scaled if self.numeric == "scalar" else buckets
        columns = {name: treat(frame[name].to_numpy()) for name in NUMBERS}
        return columns | {name: frame[name].to_numpy() for name in CATEGORIES}

    def _file(self) -> TextFile:
        if self.path is not None:
            return TextFile(expand(self.path))
        places = [expand(self.root) / "criteo" / "train.txt", expand(self.root) / "train.txt"]
        for place in places:
            if place.is_file():
                return TextFile(place)
        raise DataError(
            f"{places[0]}: not there, nor {places[1]}; its licence forbids a download from here: get train.txt of the "
            "Kaggle display-advertising challenge from Criteo and put it there, or name it with data.path="
        )


def scaled(x: np.ndarray) -> np.ndarray:
    """sign(x)·log(1 + |x|) / 4, float32; NaN stays NaN."""
    return (np.sign(x) * np.log1p(np.abs(x)) / 4).astype(np.float32)


def buckets(x: np.ndarray) -> np.ndarray:
    """⌊log(x)²⌋ for x > 2, ⌊x⌋ toward zero below, as text; "" for NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        number = np.where(x > 2, np.floor(np.log(x) ** 2), np.trunc(x))
    values, place = np.unique(np.where(np.isnan(x), np.inf, number), return_inverse=True)
    names = np.array(["" if np.isinf(value) else str(int(value)) for value in values], dtype=object)
    return names[place]


def _parse(file: TextFile, block: Block) -> pd.DataFrame:
    types: dict[str, Any] = dict.fromkeys(_COLUMNS[:14], np.float64) | dict.fromkeys(CATEGORIES, object)
    try:
        frame = read_table(block, b"\t", types, missing=_COLUMNS[:14])
    except ValueError as fault:
        raise _fault(file, block) from fault
    if np.isinf(frame[list(_COLUMNS[:14])].to_numpy()).any():
        raise _fault(file, block)
    return frame


def _labels(file: TextFile, block: Block, frame: pd.DataFrame) -> np.ndarray:
    label = frame["label"].to_numpy(dtype=np.float32)
    wrong = np.flatnonzero(~np.isin(label, (0, 1)))
    if len(wrong):
        number, line = next(itertools.islice(numbered_lines(block), int(wrong[0]), None))
        found = line.split("\t")[0]
        raise DataError(
            f"{file.where(number)}: label is {found!r}, expected 0 or 1; is this train.txt (test.txt has no labels)?"
        )
    return label


def _fault(file: TextFile, block: Block) -> DataError:
    """The first line in which a number is none."""
    for number, line in numbered_lines(block):
        for name, text in zip(_COLUMNS[:14], line.split("\t"), strict=False):
            if text and not is_number(text):
                return DataError(
                    f"{file.where(number)}: {name} is {text!r}, expected a number; mend or remove this line"
                )
    return DataError(f"{file.where(block.first)}: some of these lines cannot be read; is the file whole?")
