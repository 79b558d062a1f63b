"""Which row of a field's part of the table a raw id has, in few bytes and read where it lies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dnis_lightning.packed.pointers import Pointers, flat_places
from dnis_lightning.packed.tensors import expect
from dnis_lightning.packed.texts import PADDING, Texts

Form = Literal["range", "numbers", "texts"]
_TEXTS_AT_ONCE = 1 << 16
_SPARSEST = 4
"""A range may have so many numbers for each that is an id."""


class Ids(ABC):
    """The raw ids of a field's rows 1 … n; row 0 stands for every other."""

    form: ClassVar[Form]

    @classmethod
    @abstractmethod
    def read(cls, tensors: Mapping[str, np.ndarray]) -> Ids:
        """What `tensors` gave. Raises KeyError or ValueError where that is not what is there."""

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays by name, as they are stored."""

    @property
    @abstractmethod
    def count(self) -> int:
        """n."""

    @abstractmethod
    def rows(self, ids: Texts) -> np.ndarray:
        """(T,) int64: the row of each of some ids, 0 where it has none."""

    @abstractmethod
    def texts(self) -> Texts:
        """The ids of rows 1 … n."""

    def rows_of_numbers(self, ids: np.ndarray) -> np.ndarray:
        """(T,) int64: the row of each of some ids that are whole numbers, (T,) of an integer type."""
        return self.rows(Texts.of([str(number) for number in ids.tolist()]))


class _Whole(Ids):
    """Ids that are whole numbers, all of them."""

    def rows(self, ids: Texts) -> np.ndarray:
        """See `Ids`."""
        whole, numbers = ids.whole_numbers()
        return np.where(whole, self.rows_of_numbers(numbers), 0)


@dataclass(frozen=True, eq=False)
class RangeIds(_Whole):
    """Whole numbers close to each other: row_of (R,), the row of least, least + 1, …, in the smallest unsigned type."""

    form = "range"
    least: np.ndarray
    row_of: np.ndarray

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray]) -> RangeIds:
        """See `Ids`."""
        return cls(expect(tensors, "least", "i", 1), expect(tensors, "row_of", "u", len(tensors["row_of"])))

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Ids`."""
        return {"least": self.least, "row_of": self.row_of}

    @property
    def count(self) -> int:
        """See `Ids`."""
        return int(np.count_nonzero(self.row_of))

    def rows_of_numbers(self, ids: np.ndarray) -> np.ndarray:
        """See `Ids`."""
        least = int(self.least[0])
        inside = (ids >= least) & (ids < least + len(self.row_of))
        return np.where(inside, self.row_of[np.where(inside, ids, least) - least], 0).astype(np.int64)

    def texts(self) -> Texts:
        """See `Ids`."""
        there = np.flatnonzero(self.row_of)
        order = there[np.argsort(self.row_of[there])]
        return Texts.of([str(number) for number in (order + int(self.least[0])).tolist()])


@dataclass(frozen=True, eq=False)
class NumberIds(_Whole):
    """Whole numbers, at least one: sorted (n,), in the smallest type, and row_of (n,), the row of each."""

    form = "numbers"
    sorted: np.ndarray
    row_of: np.ndarray

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray]) -> NumberIds:
        """See `Ids`."""
        count = len(tensors["row_of"])
        return cls(expect(tensors, "sorted", "iu", count), expect(tensors, "row_of", "u", count))

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Ids`."""
        return {"sorted": self.sorted, "row_of": self.row_of}

    @property
    def count(self) -> int:
        """See `Ids`."""
        return len(self.sorted)

    def rows_of_numbers(self, ids: np.ndarray) -> np.ndarray:
        """See `Ids`."""
        inside = (ids >= int(self.sorted[0])) & (ids <= int(self.sorted[-1]))
        wanted = np.where(inside, ids, int(self.sorted[0])).astype(self.sorted.dtype)  # or all would be converted
        at = np.searchsorted(self.sorted, wanted)
        return np.where(inside & (self.sorted[at] == wanted), self.row_of[at], 0).astype(np.int64)

    def texts(self) -> Texts:
        """See `Ids`."""
        return Texts.of([str(number) for number in self.sorted[np.argsort(self.row_of)].tolist()])


@dataclass(frozen=True, eq=False)
class TextIds(Ids):
    """Any texts: content, the bytes of all, row by row, with where each starts; and what finds them again.

    hashes (n,) uint32: the upper half of each one's `texts.hashes`, ascending; row_of (n,): the row of each.
    """

    form = "texts"
    content: np.ndarray
    starts: Pointers
    hashes: np.ndarray
    row_of: np.ndarray

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray]) -> TextIds:
        """See `Ids`."""
        count, size = len(tensors["hashes"]), len(tensors["content"])
        return cls(
            expect(tensors, "content", "u", size),
            Pointers.read(tensors, "starts", count),
            expect(tensors, "hashes", "u", count),
            expect(tensors, "row_of", "u", count),
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Ids`."""
        kept = {"content": self.content, "hashes": self.hashes, "row_of": self.row_of}
        return kept | self.starts.tensors("starts")

    @property
    def count(self) -> int:
        """See `Ids`."""
        return len(self.hashes)

    def rows(self, ids: Texts) -> np.ndarray:
        """See `Ids`."""
        found, wanted = np.zeros(len(ids), dtype=np.int64), _upper(ids)
        at = np.searchsorted(self.hashes, wanted)
        open_ = np.arange(len(ids))
        while True:  # again for ids that others share their hash with
            open_ = open_[at[open_] < len(self.hashes)]
            open_ = open_[self.hashes[at[open_]] == wanted[open_]]
            if not len(open_):
                return found
            rows = self.row_of[at[open_]].astype(np.int64)
            same = self._some(rows - 1).equal(ids.take(open_))
            found[open_[same]] = rows[same]
            open_ = open_[~same]
            at[open_] += 1

    def texts(self) -> Texts:
        """See `Ids`."""
        return self._some(np.arange(len(self.hashes)))

    def _some(self, places: np.ndarray) -> Texts:
        return Texts(self.content, *self.starts.spans(places))


FORMS: Mapping[str, type[Ids]] = {one.form: one for one in (RangeIds, NumberIds, TextIds)}


def pack_ids(ids: Texts) -> Ids:
    """The ids of rows 1 … n, all of them different, in the form that takes the fewest bytes."""
    whole, numbers = ids.whole_numbers()
    row_type = np.min_scalar_type(len(ids))
    if not len(ids) or not whole.all():
        upper = _upper(ids)
        order = np.argsort(upper, kind="stable")
        content = np.concatenate([_joined(ids), np.zeros(PADDING, dtype=np.uint8)])
        return TextIds(
            content, Pointers.of(np.append(0, ids.sizes.cumsum())), upper[order], (order + 1).astype(row_type)
        )
    least, most = int(numbers.min()), int(numbers.max())
    if most - least < _SPARSEST * len(ids):
        row_of = np.zeros(most - least + 1, dtype=row_type)
        row_of[numbers - least] = np.arange(1, len(ids) + 1)
        return RangeIds(np.array([least], dtype=np.int64), row_of)
    order = np.argsort(numbers)
    kind = np.min_scalar_type(most if least >= 0 else -max(-least, most + 1))
    return NumberIds(numbers[order].astype(kind), (order + 1).astype(row_type))


def _upper(ids: Texts) -> np.ndarray:
    return (ids.hashes >> np.uint64(32)).astype(np.uint32)


def _joined(ids: Texts) -> np.ndarray:
    """The bytes of all, one text after the other."""
    ends = ids.sizes.cumsum()
    if len(ids) and np.array_equal(ids.starts - ids.starts[0], ends - ids.sizes):
        return ids.content[ids.starts[0] : ids.starts[0] + ends[-1]]
    pieces = [slice(start, start + _TEXTS_AT_ONCE) for start in range(0, len(ids), _TEXTS_AT_ONCE)]
    found = [ids.content[flat_places(ids.starts[some], ids.sizes[some])] for some in pieces]
    return np.concatenate([ids.content[:0], *found])
