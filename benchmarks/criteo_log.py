"""A made-up log in the layout of Criteo's and of about its distribution: text to measure a preparation on.

All that is known here of the real log is how many distinct values each column has in its 45,840,617 rows. The made-up
one approaches those; 137,139 of its rows have 307 thousand distinct categories (316 thousand in the real one), and a
row has 243 bytes, as a real one has. Columns are independent, which the real ones are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

CLICKS = 0.256
CHUNK = 1 << 14
OPEN = 1 << 32


class Category(NamedTuple):
    """A column of categories: rank r in [0, ranks) has a share that goes as (r + offset)^-exponent.

    distinct: of the full log, to which `exponent` and `offset` are fitted. Where that is large, new values keep coming:
    ranks is OPEN. missing: share of the rows.
    """

    distinct: int
    exponent: float
    offset: float = 1.0
    missing: float = 0.0

    @property
    def ranks(self) -> int:
        """How many values there are to draw from."""
        return self.distinct if self.distinct < 50_000 else OPEN


class Number(NamedTuple):
    """A column of integers: ⌊median · exp(spread · z)⌋ - below, z normal; missing: share of the rows."""

    median: float
    spread: float
    missing: float
    below: int = 0


CATEGORIES = (
    Category(1_460, 1.958),
    Category(583, 1.827),
    Category(10_131_227, 1.051, 0.193, 0.034),
    Category(2_202_608, 1.363, 107, 0.034),
    Category(305, 2.549),
    Category(24, 5.288, missing=0.12),
    Category(12_517, 1.164),
    Category(633, 2.262),
    Category(3, 1.1),
    Category(93_145, 3.117, 2380),
    Category(5_683, 1.308),
    Category(8_351_593, 1.096, 2.33, 0.034),
    Category(3_194, 1.284),
    Category(27, 3.685),
    Category(14_992, 1.321),
    Category(5_461_306, 1.176, 14.4, 0.034),
    Category(10, 1.1),
    Category(5_652, 1.469),
    Category(2_173, 1.506, missing=0.44),
    Category(4, 1.1, missing=0.44),
    Category(7_046_547, 1.129, 6.21, 0.034),
    Category(18, 4.872, missing=0.76),
    Category(15, 4.724),
    Category(286_181, 1.973, 506, 0.034),
    Category(105, 3.149, missing=0.44),
    Category(142_572, 2.36, 1190, 0.44),
)
NUMBERS = (
    Number(1.5, 1.3, 0.45),
    Number(4, 1.6, 0, below=1),
    Number(6, 1.5, 0.21),
    Number(4.5, 1.0, 0.22),
    Number(2_800, 1.9, 0.026),
    Number(32, 1.7, 0.22),
    Number(3.5, 1.6, 0.043),
    Number(8, 1.1, 0.001),
    Number(39, 1.4, 0.043),
    Number(1.0, 0.6, 0.45),
    Number(1.5, 1.0, 0.043),
    Number(0.7, 1.1, 0.76),
    Number(4.5, 1.1, 0.22),
)
# bytes of a row before the unused ones are left out: label, numbers, categories, each with its tab
_LABEL, _NUMBER, _CATEGORY = 2, 8, 9
_FIRST = _LABEL + _NUMBER * len(NUMBERS)
_WIDTH = _FIRST + _CATEGORY * len(CATEGORIES)


def generate(path: Path, rows: int, seed: int, *, wide: bool = False) -> None:
    """Write a made-up log in Criteo's own layout, a chunk of rows at a time; the same for the same arguments.

    wide: the columns with OPEN ranks have no missing and no equal values.
    """
    rng = np.random.default_rng(seed)
    numbers = [_number_texts(number) for number in NUMBERS]
    digits = np.array([b"%04x" % n for n in range(1 << 16)]).view(np.uint32)
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            text = np.zeros((min(CHUNK, rows - start), _WIDTH), dtype=np.uint8)
            text[:, 0] = ord("0") + (rng.random(len(text)) < CLICKS)
            text[:, 1] = ord("\t")
            for at, known in enumerate(numbers):
                _part(text, _LABEL + _NUMBER * at, np.uint64)[:, 0] = known[rng.integers(1 << 16, size=len(text))]
            for at, column in enumerate(CATEGORIES):
                rank, there = _ranks(column, rng.random(len(text)))
                if wide and column.ranks == OPEN:
                    rank, there = np.arange(start, start + len(text), dtype=np.uint32), np.ones_like(there)
                _write_category(text, at, _mixed(rank, at), there, digits)
            text[:, -1] = ord("\n")
            file.write(text.tobytes().translate(None, b"\0"))


def _write_category(text: np.ndarray, at: int, code: np.ndarray, there: np.ndarray, digits: np.ndarray) -> None:
    """Eight digits, where there is a value, and a tab; digits (65536,): the four of each 16-bit number, as bytes."""
    first = _FIRST + _CATEGORY * at
    words = _part(text, first, np.uint32)
    words[:, 0] = digits[code >> np.uint32(16)] * there
    words[:, 1] = digits[code & np.uint32(0xFFFF)] * there
    text[:, first + _CATEGORY - 1] = ord("\t")


def _part(text: np.ndarray, at: int, kind: type[np.generic]) -> np.ndarray:
    """(rows, 8 bytes / size of kind) view of eight bytes of each row, from byte `at`."""
    return text[:, at : at + 8].view(kind)


def _number_texts(number: Number) -> np.ndarray:
    """(65536,) equally likely texts of a number, tab included, each in eight bytes; a missing one is the tab alone."""
    missing = round(number.missing * (1 << 16))
    there = (1 << 16) - missing
    values = number.median * np.exp(number.spread * ndtri((np.arange(there) + 0.5) / there))
    whole = np.minimum(values, 9_999_999).astype(np.int64) - number.below
    return np.array([b"\t"] * missing + [b"%d\t" % value for value in whole.tolist()], dtype="S8").view(np.uint64)


def _ranks(column: Category, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) rank of each value by the inverse of its distribution, and whether there is a value (1 or 0)."""
    there = (uniform >= column.missing).astype(np.uint32)
    share = np.maximum(uniform - column.missing, 0) / (1 - column.missing)
    power = 1 - column.exponent
    first, last = column.offset**power, (column.ranks + column.offset) ** power
    rank = (first + share * (last - first)) ** (1 / power) - column.offset
    return np.clip(rank, 0, column.ranks - 1).astype(np.uint32), there


def _mixed(rank: np.ndarray, column: int) -> np.ndarray:
    """(rows,) 32-bit identifiers, distinct for distinct ranks: every step can be undone."""
    code = rank + np.uint32((column + 1) * 0x9E3779B9 & 0xFFFFFFFF)
    code = (code ^ code >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    code = (code ^ code >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return code ^ code >> np.uint32(16)
