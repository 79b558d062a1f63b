"""The mixed dimension scheme of section 2.2: which entries of the (N, K) table are kept, and their values."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dnis_lightning.errors import RunError
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.table import PackedTable, Projections
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.paths import whole_file

EVERY = -1
"""The number of a projection that is of the features of all blocks."""
_AT_ONCE = 1 << 16
"""Features that are worked on at a time."""
_ENTRIES = 1 << 20
"""Entries that are worked on at a time."""


@dataclass(frozen=True)
class Scheme:
    """Kept entries row by row: D and V of the paper in compressed form.

    indptr (N + 1,): feature i owns entries indptr[i] … indptr[i + 1] − 1.
    positions (kept,): d, the kept dimensions of each feature, ascending, counted from 0.
    values (kept,): v, the embedding values at these positions, float32.
    base_dim: the width of a row: K, or 2K for a model with two tables.
    projections: for methods that give a block narrower rows, the (d_l, K) matrix of each such block; its features keep
    the leading dimensions, and the projection stands for the others. `EVERY` has one that is of all features.
    """

    indptr: np.ndarray
    positions: np.ndarray
    values: np.ndarray
    base_dim: int
    projections: Mapping[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_dense(
        cls, table: np.ndarray, kept: np.ndarray, projections: Mapping[int, np.ndarray] | None = None
    ) -> Scheme:
        """The entries of `table` (N, K) where `kept` (N, K) is true."""
        dims = table.shape[1]
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1, dtype=np.int64))])
        positions = np.broadcast_to(np.arange(dims, dtype=_index_type(dims)), kept.shape)[kept]
        return cls(indptr, positions, table[kept].astype(np.float32, copy=False), dims, dict(projections or {}))

    @classmethod
    def from_vectors(cls, positions: Sequence[np.ndarray], values: Sequence[np.ndarray], base_dim: int) -> Scheme:
        """The scheme of the paper's D = {d_1 … d_N} and V = {v_1 … v_N}."""
        indptr = np.concatenate([[0], np.cumsum([len(d) for d in positions])]).astype(np.int64)
        flat = np.concatenate([np.asarray(d) for d in positions]) if positions else np.empty(0)
        v = np.concatenate([np.asarray(v) for v in values]) if values else np.empty(0)
        return cls(indptr, flat.astype(_index_type(base_dim)), v.astype(np.float32), base_dim)

    @property
    def features(self) -> int:
        """N."""
        return len(self.indptr) - 1

    @property
    def kept(self) -> int:
        """The number of entries kept."""
        return len(self.values)

    @property
    def dims_per_feature(self) -> np.ndarray:
        """(N,) how many dimensions each feature keeps."""
        return np.diff(self.indptr)

    @property
    def compression_rate(self) -> float:
        """N·K / kept: by count and of the table alone, as in the paper; infinite for an empty table."""
        return self.features * self.base_dim / self.kept if self.kept else float("inf")

    def vectors(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """D and V: the kept positions and the values of every feature, each a list of N arrays."""
        cuts = self.indptr[1:-1]
        return np.split(self.positions, cuts), np.split(self.values, cuts)

    def mask(self) -> np.ndarray:
        """(N, K) bool: true where an entry is kept."""
        return self._filled(np.broadcast_to(np.True_, self.values.shape))

    def dense(self) -> np.ndarray:
        """(N, K) float32: E' of Algorithm 1, zero where nothing is kept."""
        return self._filled(self.values)

    def packed(self, block_of: np.ndarray, dtype: DTypeName = "fp32", layout: LayoutName | None = None) -> PackedTable:
        """The table as it is shipped, in a layout or in that which takes the fewest bytes.

        block_of (N,): the block of each feature, for projections. Raises OverflowError as `PackedTable.of` does.
        """
        matrices = self.projections
        if EVERY in matrices:
            matrices, block_of = {0: matrices[EVERY]}, np.zeros(self.features, dtype=np.int32)
        projections = Projections.of(matrices, block_of) if matrices else None
        arrays = self.indptr, self.positions, self.values, self.base_dim
        return PackedTable.of(*arrays, dtype=dtype, layout=layout, projections=projections)

    @property
    def coo_bytes(self) -> int:
        """Bytes of values, rows and columns, four each, and of projections: as the paper counts a sparse table."""
        return 12 * self.kept + self._projected_bytes

    def coo_npz_bytes(self) -> int:
        """Bytes of the table as `scipy.sparse.save_npz` writes it, compressed, in COO; and of projections as they are.

        This is what the authors of DNIS measured: what the paper's "Params (M)" are to be held against.
        """
        counter = _Counter()
        with zipfile.ZipFile(counter, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in (("format", np.array(b"coo")), ("shape", np.array((self.features, self.base_dim)))):
                _write(archive, name, array.dtype, array.shape, [array])
            _write(archive, "data", self.values.dtype, self.values.shape, self._parts(self.values))
            _write(archive, "col", np.dtype(np.int32), self.values.shape, self._parts(self.positions, np.int32))
            starts = range(0, self.features, _AT_ONCE)
            rows = (self._rows(start, start + _AT_ONCE) for start in starts)
            _write(archive, "row", np.dtype(np.int32), self.values.shape, rows)
        return counter.bytes + self._projected_bytes

    def save(self, path: Path, extra: Mapping[str, np.ndarray] | None = None) -> None:
        """Write to a safetensors file, whole or not at all; `extra` arrays travel with it."""
        arrays = {"indptr": self.indptr, "positions": self.positions, "values": self.values}
        arrays |= {f"projection.{block}": np.ascontiguousarray(m) for block, m in self.projections.items()}
        arrays |= {f"extra.{name}": np.ascontiguousarray(array) for name, array in (extra or {}).items()}
        with whole_file(path) as part:
            save_file(arrays, part, {"base_dim": str(self.base_dim)})

    @classmethod
    def load(cls, path: Path) -> tuple[Scheme, dict[str, np.ndarray]]:
        """Read what `save` wrote: the scheme and the extra arrays.

        Raises RunError when the file is absent, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                base_dim = int(file.metadata()["base_dim"])
                scheme = cls(
                    arrays["indptr"],
                    arrays["positions"],
                    arrays["values"],
                    base_dim,
                    _named(arrays, "projection.", int),
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as fault:
            raise RunError(
                f"{path}: not a scheme that can be read ({fault}); run the search again to make it anew"
            ) from fault
        return scheme, _named(arrays, "extra.", str)

    @property
    def _projected_bytes(self) -> int:
        return 4 * sum(matrix.size for matrix in self.projections.values())

    def _parts(self, array: np.ndarray, dtype: type = np.float32) -> Iterator[np.ndarray]:
        return (array[start : start + _ENTRIES].astype(dtype, copy=False) for start in range(0, self.kept, _ENTRIES))

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """(N, K): these values where entries are kept, zeros elsewhere."""
        table = np.zeros((self.features, self.base_dim), dtype=values.dtype)
        for start in range(0, self.features, _AT_ONCE):
            rows, stop = self._rows(start, start + _AT_ONCE), min(start + _AT_ONCE, self.features)
            own = slice(self.indptr[start], self.indptr[stop])
            table[rows, self.positions[own]] = values[own]
        return table

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """The feature of each entry of some features."""
        counts = self.dims_per_feature[start:stop]
        return np.repeat(np.arange(start, start + len(counts), dtype=np.int32), counts)


class _Counter(io.RawIOBase):
    """A file of which nothing is kept but its size."""

    def __init__(self) -> None:
        self.bytes = self._at = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.bytes}[whence]
        return self._at

    def write(self, data: Any) -> int:
        self._at += len(data)
        self.bytes = max(self.bytes, self._at)
        return len(data)


def _write(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> None:
    """Write an array into an archive as `numpy.savez_compressed` does, part by part."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.tobytes())


def _index_type(base_dim: int) -> np.dtype:
    return np.dtype(np.uint8 if base_dim <= 256 else np.uint16 if base_dim <= 65536 else np.uint32)


def _named(arrays: Mapping[str, np.ndarray], prefix: str, key: type) -> dict:
    return {key(name.removeprefix(prefix)): array for name, array in arrays.items() if name.startswith(prefix)}
