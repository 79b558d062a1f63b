"""Raw ids of a column → codes, in bounded memory whatever the number of rows and of ids.

While a source is read, the column of each chunk is coded by a dictionary of its own, which goes to disk (`Spool`). When
all is read, the dictionaries become one (`Spool.finish`). Only they are looked at then, a fraction of the rows; and if
even they are too many they are dealt out into buckets by a hash of the text, one of which is in memory at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnis_lightning.data.arrays import ArrayFile, TextWriter, forget, smallest_unsigned
from dnis_lightning.data.readings import content_of
from dnis_lightning.packed.texts import PADDING, hashes

TEXTS_AT_ONCE = 1 << 21
BYTES_AT_ONCE = 1 << 25


class Spool:
    """One column on its way: codes within each chunk, and each chunk's dictionary.

    Chunks have at most 2^16 values, so that a code takes two bytes.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._codes, self._texts, self._ends, self._of, self._buckets = (
            folder / f"{kind}-{name}.spool" for kind in ("codes", "texts", "ends", "of", "buckets")
        )
        _append(self._codes, np.empty(0, dtype=np.uint16))
        _append(self._texts, np.empty(0, dtype=np.uint8))
        _append(self._ends, np.zeros(1, dtype=np.int64))
        self._bytes = 0
        self._sizes: list[tuple[int, int]] = []

    def append(self, column: pa.Array) -> None:
        """Take more values, at most 2^16: text or integers; null becomes ""."""
        coded = column.dictionary_encode(null_encoding="encode")
        codes, ids = coded.indices, pc.fill_null(coded.dictionary.cast(pa.string()), "")
        data, ends = content_of(ids)
        _append(self._codes, codes.to_numpy().astype(np.uint16))
        _append(self._texts, data)
        _append(self._ends, ends + self._bytes)
        self._bytes += len(data)
        self._sizes.append((len(codes), len(ids)))

    def finish(self, codes: Path, ids: Path, offsets: Path) -> int:
        """Write the codes (values,), and the ids by code as a `TextColumn`'s two arrays; the number of ids.

        Codes are in order of first appearance, as long as all dictionaries together fit into memory at once (2 million
        texts, 32 MiB); bucket by bucket else.
        """
        writer = TextWriter(ids, offsets)
        try:
            code_of = self._code_of(writer)
            writer.close()
            self._write_codes(code_of, codes, writer.count)
        finally:
            writer.abandon()
            for spool in (self._codes, self._texts, self._ends, self._of, self._buckets):
                spool.unlink(missing_ok=True)
        return writer.count

    def _code_of(self, writer: TextWriter) -> np.ndarray:
        """(texts,) the code of each text of the dictionaries; writes the distinct ones in this order."""
        _append(self._texts, np.zeros(PADDING, dtype=np.uint8))
        texts = _Texts(self._texts, self._ends)
        buckets = max(math.ceil(len(texts) / TEXTS_AT_ONCE), math.ceil(self._bytes / BYTES_AT_ONCE))
        if buckets <= 1:
            coded = texts.part(slice(0, len(texts))).dictionary_encode()
            writer.append(*content_of(coded.dictionary))
            return coded.indices.to_numpy()
        code_of, bucket_of = _on_disk(self._of, np.uint32, len(texts)), _on_disk(self._buckets, np.uint16, len(texts))
        for part in texts.slices():
            bucket_of[part] = texts.buckets(part, buckets)
        for bucket in range(buckets):
            pieces, places = [], []
            for part in texts.slices():
                mine = np.flatnonzero(bucket_of[part] == bucket)
                pieces.append(texts.part(part).take(pa.array(mine)))
                places.append(mine + part.start)
                texts.forget()
            coded = pa.concat_arrays(pieces).dictionary_encode()
            code_of[np.concatenate(places)] = coded.indices.to_numpy() + writer.count
            writer.append(*content_of(coded.dictionary))
            forget(code_of, bucket_of)
        return code_of

    def _write_codes(self, code_of: np.ndarray, path: Path, ids: int) -> None:
        file = ArrayFile(path, smallest_unsigned(ids - 1))
        try:
            with self._codes.open("rb") as spool:
                start = 0
                for values, known in self._sizes:
                    local = np.frombuffer(spool.read(2 * values), dtype=np.uint16)
                    file.append(np.asarray(code_of[start : start + known])[local])
                    start += known
                    forget(code_of)
            file.close()
        finally:
            file.abandon()


class _Texts:
    """The dictionaries of all chunks, one after the other, memory-mapped."""

    def __init__(self, texts: Path, ends: Path) -> None:
        self._data, self._ends = np.memmap(texts, np.uint8, "r"), np.memmap(ends, np.int64, "r")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def slices(self) -> Iterator[slice]:
        """Runs of texts that are small enough to hold, which together are all."""
        start = 0
        while start < len(self):
            end = int(np.searchsorted(self._ends, self._ends[start] + BYTES_AT_ONCE))
            end = min(max(end, start + 1), start + TEXTS_AT_ONCE, len(self))
            yield slice(start, end)
            start = end

    def part(self, part: slice) -> pa.Array:
        """Some consecutive texts."""
        ends = self._ends[part.start : part.stop + 1]
        offsets = (ends - ends[0]).astype(np.int32)
        data = pa.py_buffer(self._data[ends[0] : ends[-1]])
        return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(offsets), data)

    def buckets(self, part: slice, count: int) -> np.ndarray:
        """A number below `count` for each of some texts, by all of its bytes; equal texts have equal numbers."""
        sizes = np.diff(self._ends[part.start : part.stop + 1])
        mixed = hashes(self._data, np.asarray(self._ends[part]), sizes)
        self.forget()
        return ((mixed >> np.uint64(32)) % np.uint64(count)).astype(np.uint16)

    def forget(self) -> None:
        """Let go of the memory that what was read takes."""
        forget(self._data, self._ends)


def _on_disk(path: Path, dtype: np.typing.DTypeLike, count: int) -> np.ndarray:
    """A new array on disk; its room is taken beforehand, so that a full disk is an OSError and no SIGBUS."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, count * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype=dtype, mode="r+", shape=(count,))


def _append(path: Path, array: np.ndarray) -> None:
    with path.open("ab") as file:
        file.write(np.ascontiguousarray(array).data)
