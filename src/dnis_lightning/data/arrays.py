"""Arrays on disk that grow while they are written and are memory-mapped when read."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

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


def write_text(texts: Sequence[str], blob: Path, offsets: Path) -> None:
    """Write texts as a `TextColumn`'s two arrays."""
    bytes_file, offset_file = ArrayFile(blob, np.uint8), ArrayFile(offsets, np.int64)
    try:
        offset_file.append(np.zeros(1, dtype=np.int64))
        for start in range(0, len(texts), CHUNK_ROWS):
            encoded = [text.encode() for text in texts[start : start + CHUNK_ROWS]]
            ends = bytes_file.rows + np.cumsum([len(text) for text in encoded])
            offset_file.append(ends)
            bytes_file.append(np.frombuffer(b"".join(encoded), dtype=np.uint8))
        bytes_file.close()
        offset_file.close()
    finally:
        bytes_file.abandon()
        offset_file.abandon()


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


def row_slices(rows: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Slices that together cover `rows` rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds 0 … largest."""
    return np.min_scalar_type(max(largest, 0))
