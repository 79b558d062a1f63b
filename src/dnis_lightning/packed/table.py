"""An embedding table in the form in which it is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from dnis_lightning.packed.layouts import LAYOUTS, Dense, Layout, LayoutName, Prefix
from dnis_lightning.packed.loops import Loop, loop_of
from dnis_lightning.packed.pointers import flat_places
from dnis_lightning.packed.tensors import expect, file_bytes, map_tensors, write_tensors
from dnis_lightning.packed.values import STORED, DTypeName, Values

_FORMAT, _VERSION = "dnis-lightning packed table", "1"
_ROWS_AT_ONCE = 16384
_HEADERS_DIFFER = 1024  # bytes, at most, that the headers of two layouts of a table are apart


@dataclass(frozen=True, eq=False)
class Projections:
    """Rows of some features are narrow, and are multiplied by a matrix of their block (Ginart et al. 2019, section 3).

    matrices: the (C · d, K) projection of each block that has one, of C tables side by side with K dimensions each.
    first (R,): the first feature of each run of features of one block, ascending from 0; block (R,): its number, plus
    one; 0 where there is no projection.
    """

    matrices: Mapping[int, np.ndarray]
    first: np.ndarray
    block: np.ndarray

    @classmethod
    def of(cls, matrices: Mapping[int, np.ndarray], block_of: np.ndarray) -> Projections:
        """By the block of each feature, (N,)."""
        block = np.where(np.isin(block_of, list(matrices)), block_of.astype(np.int64) + 1, 0)
        if not len(block):
            block = np.zeros(1, dtype=np.int64)  # a run of no features
        first = np.flatnonzero(np.append(True, block[1:] != block[:-1]))
        kind = np.min_scalar_type(int(block.max(initial=0)))
        single = {number: np.asarray(matrix, dtype=np.float32) for number, matrix in matrices.items()}
        return cls(single, first.astype(np.uint32), block[first].astype(kind))

    def blocks(self, features: np.ndarray) -> np.ndarray:
        """(n,) the number of each feature's block, plus one, where that has a projection; else 0."""
        return self.block[np.searchsorted(self.first, features, side="right") - 1]

    def apply(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Widen rows (n, C · K) of features (n,), in place."""
        block = self.blocks(features)
        for number, matrix in self.matrices.items():
            mine = np.flatnonzero(block == number + 1)
            copies = rows.shape[1] // matrix.shape[1]
            narrow = rows[mine].reshape(len(mine), copies, matrix.shape[1])[..., : len(matrix) // copies]
            wide = np.matmul(narrow.swapaxes(0, 1), matrix.reshape(copies, -1, matrix.shape[1]))
            rows[mine] = wide.swapaxes(0, 1).reshape(len(mine), rows.shape[1])

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays by name, as they are stored."""
        matrices = {f"projection.{block}": matrix for block, matrix in self.matrices.items()}
        return {**matrices, "projected.first": self.first, "projected.block": self.block}

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], dims: int) -> Projections | None:
        """What `tensors` gave; None where there is nothing; dims: C · K."""
        prefix = "projection."
        matrices = {int(n.removeprefix(prefix)): array for n, array in tensors.items() if n.startswith(prefix)}
        if not matrices:
            return None
        for matrix in matrices.values():
            if matrix.ndim != 2 or dims % max(matrix.shape[1], 1) or len(matrix) % max(dims // matrix.shape[1], 1):
                raise ValueError(f"a projection of {matrix.shape} for rows of {dims}")
        first = expect(tensors, "projected.first", "u", len(tensors["projected.first"]))
        if not len(first) or first[0]:
            raise ValueError("projections that do not cover the table")
        return cls(matrices, first, expect(tensors, "projected.block", "u", len(first)))


@dataclass(frozen=True, eq=False)
class PackedTable:
    """N features × K dimensions, of which only some entries are stored; the others are 0."""

    layout: Layout
    values: Values
    projections: Projections | None = None

    @classmethod
    def of(
        cls,
        indptr: np.ndarray,
        positions: np.ndarray,
        values: np.ndarray,
        dims: int,
        *,
        dtype: DTypeName = "fp32",
        layout: LayoutName | None = None,
        projections: Projections | None = None,
    ) -> PackedTable:
        """Of the kept entries of a scheme: feature i keeps those from indptr[i] to indptr[i + 1].

        positions (kept,): their dimensions, ascending, of K = dims; values (kept,): float32. layout: None for that
        which takes the fewest bytes. Raises OverflowError where a value is too large for the type.
        """
        kinds = LAYOUTS.values() if layout is None else [LAYOUTS[layout]]
        size = STORED[dtype].itemsize
        made = [kind.of(indptr, positions, dims) for kind in kinds]
        sizes = [one.bytes + size * one.kept for one in made]
        near = [one for one, taken in zip(made, sizes, strict=True) if taken <= min(sizes) + _HEADERS_DIFFER]
        tables = (cls._with_values(one, indptr, positions, values, dtype, projections) for one in near)
        return min(tables, key=lambda table: table.bytes)

    @classmethod
    def _with_values(
        cls,
        layout: Layout,
        indptr: np.ndarray,
        positions: np.ndarray,
        values: np.ndarray,
        dtype: DTypeName,
        projections: Projections | None,
    ) -> PackedTable:
        if isinstance(layout, Dense | Prefix):
            indptr, values = _with_zeros(layout, indptr, positions, values)
        return cls(layout, Values.of(values, indptr, dtype), projections)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in ("layout", "values", "projections")}

    @property
    def features(self) -> int:
        """N."""
        return self.layout.features

    @property
    def dims(self) -> int:
        """K, or 2K of a model with two tables."""
        return self.layout.dims

    @property
    def kept(self) -> int:
        """How many values are stored."""
        return len(self.values.stored)

    @property
    def bytes(self) -> int:
        """The size of its file."""
        return file_bytes(self._tensors, self._told)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of values, with their scales; of indices; and of projections, with their runs."""
        values = sum(self._tensors[name].nbytes for name in ("values", "scales") if name in self._tensors)
        projections = 0 if self.projections is None else sum(a.nbytes for a in self.projections.tensors().values())
        return {"values": values, "indices": self.layout.bytes, "projections": projections}

    def rows(self, features: np.ndarray, *, compiled: bool = True) -> np.ndarray:
        """Rows (…, K) float32 of features (…), whole numbers from 0 to N − 1.

        compiled: by the compiled loops, where Numba is installed; else by NumPy alone.
        Raises IndexError where a feature is not among these, TypeError where it is no whole number.
        """
        wanted = np.asarray(features)
        flat = wanted.reshape(-1)
        if flat.size and flat.dtype.kind not in "iu":
            raise TypeError(f"features of the type {flat.dtype}, expected whole numbers")
        if flat.size and not (flat.min() >= 0 and flat.max() < self.features):
            raise IndexError(f"feature {flat.min()} … {flat.max()}: the table has 0 … {self.features - 1}")
        rows = np.empty((len(flat), self.dims), dtype=np.float32)
        if rows.size:
            ((compiled and self._loop) or self._fill)(flat.astype(np.int64, copy=False), rows)
        if self.projections is not None:
            self.projections.apply(rows, flat)
        return rows.reshape(*wanted.shape, self.dims)

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """indptr (N + 1,), positions (kept,) and values (kept,) float32, as `of` takes them."""
        indptr, positions = self.layout.every()
        return indptr, positions, self.values.at(slice(None), np.arange(self.features), np.diff(indptr))

    def unprojected(self) -> np.ndarray:
        """(N, K) float32: all rows, those of blocks with a projection not yet widened."""
        return replace(self, projections=None).rows(np.arange(self.features))

    def rounded(self, dtype: DTypeName) -> PackedTable:
        """The same table with its values in another type. Raises OverflowError as `of` does."""
        indptr, _, values = self.entries()
        return replace(self, values=Values.of(values, indptr, dtype))

    def save(self, path: Path | str) -> None:
        """Write its file, whole or not at all."""
        write_tensors(Path(path), self._tensors, self._told)

    @classmethod
    def load(cls, path: Path | str) -> PackedTable:
        """What `save` wrote, memory-mapped.

        Raises one of `tensors.DAMAGE` where the file is absent, damaged or something else.
        """
        tensors, told = map_tensors(Path(path))
        if told.get("format") != _FORMAT:
            raise ValueError("no packed table")
        if told["version"] != _VERSION:
            raise ValueError(f"version {told['version']} of the format, this program reads {_VERSION}")
        kind, dtype = cast(LayoutName, told["layout"]), cast(DTypeName, told["dtype"])
        if kind not in LAYOUTS or dtype not in STORED:
            raise ValueError(f"layout {kind} and values {dtype}, which this program does not know")
        layout, stored = LAYOUTS[kind].read(tensors, int(told["features"]), int(told["dims"])), tensors["values"]
        if stored.dtype != STORED[dtype] or layout.kept != len(stored):
            raise ValueError("values that do not go with the layout")
        scales = expect(tensors, "scales", "u", layout.features) if dtype == "int8" else None
        return cls(layout, Values(dtype, stored, scales), Projections.read(tensors, layout.dims))

    def _fill(self, features: np.ndarray, rows: np.ndarray) -> None:
        """Write rows (n, K) of features (n,), some at a time, so that what is made meanwhile stays in the cache."""
        for start in range(0, len(features), _ROWS_AT_ONCE):
            some, own = features[start : start + _ROWS_AT_ONCE], rows[start : start + _ROWS_AT_ONCE].reshape(-1)
            if isinstance(self.layout, Dense):
                own[:] = self.values.rows(some, self.dims).reshape(-1)
                continue
            starts, counts = self.layout.spans(some)
            places = flat_places(starts, counts)
            own[:] = 0
            own[self.layout.cells(some, counts, places)] = self.values.at(places, some, counts)

    @cached_property
    def _loop(self) -> Loop | None:
        return loop_of(self.layout, self.values)

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        scales = {} if self.values.scales is None else {"scales": self.values.scales}
        projections = {} if self.projections is None else self.projections.tensors()
        return {"values": self.values.stored, **scales, **self.layout.tensors(), **projections}

    @property
    def _told(self) -> dict[str, str]:
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "layout": self.layout.name,
            "dtype": self.values.dtype,
            "features": str(self.features),
            "dims": str(self.dims),
        }


def _with_zeros(
    layout: Dense | Prefix, indptr: np.ndarray, positions: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of each feature start, (N + 1,), and all values, in a layout that keeps zeros, too."""
    starts, counts = layout.spans(np.arange(layout.features))
    filled = np.zeros(layout.kept, dtype=values.dtype)
    filled[np.repeat(starts, np.diff(indptr)) + positions] = values
    return np.append(0, counts.cumsum()), filled
