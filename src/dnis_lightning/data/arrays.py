"""Arrays on disk that grow while they are written and are memory-mapped when read."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

CHUNK_ROWS = 1 << 20


class ArrayFile:
    """A `.npy` file written row by row through an ordinary file: a full disk is an OSError, never a SIGBUS.

    NumPy pads the header of such a file so that the number of rows can be put in at the end.
    """

    def __init__(self, path: Path, dtype: np.typing.DTypeLike, columns: int | None = None) -> None:
        self.dtype, self.rows = np.dtype(dtype), 0
        self._tail = () if columns is None else (columns,)
        self._file = path.open("wb")
        self._header = self._file.write(self._head())

    def append(self, rows: np.ndarray) -> None:
        """Write more rows, (R,) or (R, columns)."""
        if rows.size:
            self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.rows += len(rows)

    def close(self) -> None:
        """Put the number of rows into the header; the file is whole after this."""
        head = self._head()
        if len(head) != self._header:
            raise AssertionError("the header of a .npy file changed its length")
        self._file.seek(0)
        self._file.write(head)
        self._file.close()

    def abandon(self) -> None:
        """Close without finishing; what is still buffered may be lost."""
        try:
            self._file.close()
        except OSError:
            return  # the disk is full: that has been raised already

    def _head(self) -> bytes:
        buffer = io.BytesIO()
        shape = (self.rows, *self._tail)
        told = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, told)
        return buffer.getvalue()


class TextColumn(Sequence[str]):
    """Many short texts, memory-mapped: a utf-8 blob and the offset where each begins."""

    def __init__(self, blob: np.ndarray, offsets: np.ndarray) -> None:
        self._blob, self._offsets = blob, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def take(self, places: np.ndarray) -> pa.Array:
        """The texts at some places, as Arrow text."""
        offsets, blob = pa.py_buffer(self._offsets), pa.py_buffer(self._blob)
        return pa.LargeStringArray.from_buffers(len(self), offsets, blob).take(pa.array(places)).cast(pa.string())

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, end = self._offsets[index % len(self)], self._offsets[index % len(self) + 1]
        return self._blob[start:end].tobytes().decode()


class TextWriter:
    """Writes the two arrays of a `TextColumn`."""

    def __init__(self, blob: Path, offsets: Path) -> None:
        self._blob, self._offsets = ArrayFile(blob, np.uint8), ArrayFile(offsets, np.int64)
        self._offsets.append(np.zeros(1, dtype=np.int64))

    @property
    def count(self) -> int:
        """How many texts there are so far."""
        return self._offsets.rows - 1

    def append(self, content: np.ndarray, ends: np.ndarray) -> None:
        """Add texts: their bytes in utf-8, all together, and (texts,) where each of them ends."""
        self._offsets.append(ends + self._blob.rows)
        self._blob.append(content)

    def close(self) -> None:
        """Finish both files."""
        self._blob.close()
        self._offsets.close()

    def abandon(self) -> None:
        """Close without finishing."""
        self._blob.abandon()
        self._offsets.abandon()


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a whole array; unlike with `np.save`, a full disk is an OSError that says so (ENOSPC)."""
    file = ArrayFile(path, array.dtype, array.shape[1] if array.ndim == 2 else None)
    try:
        file.append(array)
        file.close()
    finally:
        file.abandon()


def open_array(path: Path) -> np.ndarray:
    """A `.npy` file, memory-mapped read-only (an empty one is simply read, since it cannot be mapped).

    Raises OSError or ValueError when it is absent, short or no `.npy` file.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        whole = np.load(path, allow_pickle=False)
        if whole.size:
            raise
        return whole


def forget(*arrays: np.ndarray) -> None:
    """Give back the memory that the pages of memory-mapped arrays take; what is asked for is read again."""
    for array in arrays:
        if isinstance(array, np.memmap):
            array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def row_slices(rows: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Slices that together cover `rows` rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds 0 … largest."""
    return np.min_scalar_type(max(largest, 0))
