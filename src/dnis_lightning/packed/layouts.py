"""Which entries of a table are kept, in five layouts.

All have the values of the kept entries one after the other, feature by feature. They differ in what says which these
are: *dense* keeps all; *prefix* the first dimensions of each feature, as many as it says; *blocks* says it once for a
run of features that keep the same dimensions; *bitmap* has a bit for each entry of the table; *csr* the number of the
dimension of each entry that is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from dnis_lightning.packed.pointers import Pointers, flat_places
from dnis_lightning.packed.tensors import expect
from dnis_lightning.packed.texts import Texts

LayoutName = Literal["dense", "prefix", "blocks", "bitmap", "csr"]
_AT_ONCE = 1 << 16
"""Features that are worked on at a time."""


class Layout(ABC):
    """What is kept of N features × K dimensions."""

    name: ClassVar[LayoutName]
    features: int
    dims: int

    @classmethod
    @abstractmethod
    def of(cls, indptr: np.ndarray, positions: np.ndarray, dims: int) -> Layout:
        """Of a scheme: feature i keeps the dimensions positions[indptr[i] : indptr[i + 1]], ascending, of K = dims."""

    @classmethod
    @abstractmethod
    def read(cls, tensors: Mapping[str, np.ndarray], features: int, dims: int) -> Layout:
        """Of what `tensors` gave, and "values". Raises KeyError or ValueError where that is not what is there."""

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays by name, as they are stored."""

    @abstractmethod
    def spans(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the values of features (n,) start among all values, and how many each has: (n,) int64 each."""

    @abstractmethod
    def cells(self, features: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Where in rows (n · K,), flattened, the entries of features (n,) belong: as many as places.

        counts, places: how many values each has, and where they stand; see `spans` and `flat_places`.
        """

    @property
    def kept(self) -> int:
        """How many entries are kept."""
        if not self.features:
            return 0
        starts, counts = self.spans(np.array([self.features - 1]))
        return int(starts[0] + counts[0])

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self.tensors().values())

    def every(self) -> tuple[np.ndarray, np.ndarray]:
        """indptr (N + 1,) int64 and positions (kept,), as `of` takes them."""
        features = np.arange(self.features)
        indptr = np.append(0, self.spans(features)[1].cumsum())
        pieces = np.split(features, np.arange(_AT_ONCE, self.features, _AT_ONCE))
        return indptr, np.concatenate([self._positions(some) for some in pieces])

    def _positions(self, features: np.ndarray) -> np.ndarray:
        starts, counts = self.spans(features)
        cells = self.cells(features, counts, flat_places(starts, counts))
        return cells - np.repeat(np.arange(len(features)) * self.dims, counts)


@dataclass(frozen=True, eq=False)
class Dense(Layout):
    """All is kept, the zeros too."""

    name = "dense"
    features: int
    dims: int

    @classmethod
    def of(cls, indptr: np.ndarray, positions: np.ndarray, dims: int) -> Dense:
        """See `Layout`."""
        return cls(len(indptr) - 1, dims)

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], features: int, dims: int) -> Dense:
        """See `Layout`."""
        return cls(features, dims)

    def tensors(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def spans(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Layout`."""
        return features * self.dims, np.full(len(features), self.dims)

    def cells(self, features: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """See `Layout`."""
        return np.arange(len(places))


@dataclass(frozen=True, eq=False)
class Prefix(Layout):
    """The dimensions of each feature up to the last one that it keeps, zeros between them, too."""

    name = "prefix"
    features: int
    dims: int
    starts: Pointers

    @classmethod
    def of(cls, indptr: np.ndarray, positions: np.ndarray, dims: int) -> Prefix:
        """See `Layout`."""
        lengths, ends = np.zeros(len(indptr) - 1, dtype=np.int64), indptr[1:]
        some = np.diff(indptr) > 0
        lengths[some] = positions[ends[some] - 1].astype(np.int64) + 1
        return cls(len(lengths), dims, Pointers.of(np.append(0, lengths.cumsum())))

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], features: int, dims: int) -> Prefix:
        """See `Layout`."""
        return cls(features, dims, Pointers.read(tensors, "starts", features))

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Layout`."""
        return self.starts.tensors("starts")

    def spans(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Layout`."""
        return self.starts.spans(features)

    def cells(self, features: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """See `Layout`."""
        return flat_places(np.arange(len(features)) * self.dims, counts)


@dataclass(frozen=True, eq=False)
class Blocks(Layout):
    """Runs of features that keep the same dimensions.

    first (R,): the first feature of each run, ascending from 0; start (R,): where its values start. pattern (R,): which
    of P sets of dimensions its features keep; patterns (P, K): these sets, as bits, eight to a byte.
    """

    name = "blocks"
    features: int
    dims: int
    first: np.ndarray
    start: np.ndarray
    pattern: np.ndarray
    patterns: np.ndarray

    @classmethod
    def of(cls, indptr: np.ndarray, positions: np.ndarray, dims: int) -> Blocks:
        """See `Layout`."""
        bits = _bits(indptr, positions, dims)
        first = np.flatnonzero(np.append(True, (bits[1:] != bits[:-1]).any(1))) if len(bits) else np.zeros(0, np.int64)
        patterns, pattern = _distinct(bits[first])
        start = indptr[first].astype(np.uint32 if indptr[-1] < 2**32 else np.uint64)
        kind = np.min_scalar_type(max(len(patterns) - 1, 0))
        return cls(len(bits), dims, first.astype(np.uint32), start, pattern.astype(kind), patterns)

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], features: int, dims: int) -> Blocks:
        """See `Layout`."""
        patterns = tensors["blocks.patterns"]
        count = len(tensors["blocks.first"])
        made = cls(
            features,
            dims,
            expect(tensors, "blocks.first", "u", count),
            expect(tensors, "blocks.start", "u", count),
            expect(tensors, "blocks.pattern", "u", count),
            expect(tensors, "blocks.patterns", "u", len(patterns), -(-dims // 8)),
        )
        if features and (not count or made.first[0] or made.pattern.max() >= len(patterns)):
            raise ValueError("blocks that do not cover the table")
        return made

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Layout`."""
        return {f"blocks.{name}": getattr(self, name) for name in ("first", "start", "pattern", "patterns")}

    def spans(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Layout`."""
        run = self.runs(features)
        counts = self.widths[self.pattern[run]]
        return self.start[run].astype(np.int64) + (features - self.first[run]) * counts, counts

    def cells(self, features: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """See `Layout`."""
        return _ones(self.patterns[self.pattern[self.runs(features)]], self.dims)

    def runs(self, features: np.ndarray) -> np.ndarray:
        """The run of each feature."""
        return np.searchsorted(self.first, features, side="right") - 1

    @cached_property
    def widths(self) -> np.ndarray:
        """(P,) how many dimensions each pattern has."""
        return _unpacked(self.patterns, self.dims).sum(1, dtype=np.int64)

    @cached_property
    def dimensions(self) -> np.ndarray:
        """The dimensions of each pattern, one pattern after the other."""
        return _unpacked(self.patterns, self.dims).nonzero()[1]


@dataclass(frozen=True, eq=False)
class Bitmap(Layout):
    """A bit for each entry, 1 where it is kept; bits (N, ⌈K / 8⌉) uint8, the lowest bit of a byte first."""

    name = "bitmap"
    features: int
    dims: int
    bits: np.ndarray
    starts: Pointers

    @classmethod
    def of(cls, indptr: np.ndarray, positions: np.ndarray, dims: int) -> Bitmap:
        """See `Layout`."""
        return cls(len(indptr) - 1, dims, _bits(indptr, positions, dims), Pointers.of(indptr))

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], features: int, dims: int) -> Bitmap:
        """See `Layout`."""
        return cls(
            features,
            dims,
            expect(tensors, "bits", "u", features, -(-dims // 8)),
            Pointers.read(tensors, "starts", features),
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Layout`."""
        return {"bits": self.bits} | self.starts.tensors("starts")

    def spans(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Layout`."""
        return self.starts.spans(features)

    def cells(self, features: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """See `Layout`."""
        return _ones(self.bits[features], self.dims)


@dataclass(frozen=True, eq=False)
class Csr(Layout):
    """The number of the dimension of each entry, `positions` (kept,), in a byte where K ≤ 256 and in two beyond."""

    name = "csr"
    features: int
    dims: int
    positions: np.ndarray
    starts: Pointers

    @classmethod
    def of(cls, indptr: np.ndarray, positions: np.ndarray, dims: int) -> Csr:
        """See `Layout`."""
        kind = np.min_scalar_type(max(dims - 1, 0))
        return cls(len(indptr) - 1, dims, positions.astype(kind, copy=False), Pointers.of(indptr))

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], features: int, dims: int) -> Csr:
        """See `Layout`."""
        positions = expect(tensors, "positions", "u", len(tensors["values"]))
        return cls(features, dims, positions, Pointers.read(tensors, "starts", features))

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Layout`."""
        return {"positions": self.positions} | self.starts.tensors("starts")

    def spans(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Layout`."""
        return self.starts.spans(features)

    def cells(self, features: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """See `Layout`."""
        return np.repeat(np.arange(len(features)) * self.dims, counts) + self.positions[places]


LAYOUTS: Mapping[LayoutName, type[Layout]] = {one.name: one for one in (Dense, Prefix, Blocks, Bitmap, Csr)}


def _bits(indptr: np.ndarray, positions: np.ndarray, dims: int) -> np.ndarray:
    """(N, ⌈K / 8⌉) uint8: a bit for each entry."""
    features = len(indptr) - 1
    bits = np.zeros((features, -(-dims // 8)), dtype=np.uint8)
    for start in range(0, features, _AT_ONCE):
        ends = indptr[start : start + _AT_ONCE + 1]
        kept = np.zeros((len(ends) - 1, dims), dtype=bool)
        kept[np.repeat(np.arange(len(kept)), np.diff(ends)), positions[ends[0] : ends[-1]]] = True
        bits[start : start + _AT_ONCE] = np.packbits(kept, axis=1, bitorder="little")
    return bits


def _distinct(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (P, W) of bits (R, W), and which of these each row is, (R,)."""
    rows, width = bits.shape
    each = Texts.joined(bits.reshape(-1), np.full(rows, width))
    _, first, which = np.unique(each.hashes, return_index=True, return_inverse=True)
    if (bits[first][which] == bits).all():
        return bits[first], which
    patterns, which = np.unique(bits, axis=0, return_inverse=True)  # two have one hash: slow, but next to never
    return patterns, which.reshape(-1)


def _unpacked(bits: np.ndarray, dims: int) -> np.ndarray:
    """(n, K) 0 or 1."""
    return np.unpackbits(bits, axis=1, count=dims, bitorder="little")


def _ones(bits: np.ndarray, dims: int) -> np.ndarray:
    """The numbers of the bits that are 1, of all rows one after the other."""
    return np.flatnonzero(_unpacked(bits, dims).view(bool))
