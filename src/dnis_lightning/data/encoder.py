"""One pass over a source: raw ids become codes, columns become arrays on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dnis_lightning.data import readings
from dnis_lightning.data.arrays import ArrayFile, row_slices
from dnis_lightning.data.dictionary import Spool
from dnis_lightning.data.parallel import cores
from dnis_lightning.data.source import Chunk, Column, Field, Source
from dnis_lightning.errors import DataError

_PER_CHUNK = 1 << 16
_COLUMNS_AT_ONCE = 4
"""Each takes some 200 MiB while its dictionaries become one."""


class Encoder:
    """Writes the arrays of a source into a folder."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source, self.folder = source, folder
        self._done = 0.0
        self._coded = [field for field in source.fields if field.kind != "numeric"]
        self._numbers = [field.name for field in source.fields if field.kind == "numeric"]
        self._spools = [Spool(folder, str(number)) for number in range(len(self._coded))]
        self._values = [0] * len(self._coded)
        self._files: dict[str, ArrayFile] = {}
        self._rows, self._skipped, self._example, self._binary = 0, 0, "", True

    def run(self) -> dict[str, Any]:
        """Read everything; the facts for the manifest: rows, cardinalities, what was skipped, if labels are binary.

        Raises DataError on an empty source.
        """
        try:
            self._read()
            if not self._rows:
                raise DataError(f"{self.source.name}: there is no row in it; is the file whole?")
            for file in self._files.values():
                file.close()
        finally:
            for file in self._files.values():
                file.abandon()
        skipped = {"rows": self._skipped, "example": self._example}
        return {"rows": self._rows, "cardinalities": self._number(), "skipped": skipped, "binary": self._binary}

    def estimate(self) -> float:
        """The bytes that the whole will take, as far as can be told from what has been read; 0 = not known yet."""
        written = sum(path.stat().st_size for path in self.folder.iterdir())
        return written / self._done if self._done else 0.0

    def _read(self) -> None:
        with tqdm(desc=f"encoding {self.source.name}", unit="row", unit_scale=True, disable=None) as bar:
            for chunk in self.source.chunks():
                self._append(chunk)
                if chunk.done:
                    bar.total = max(int(self._rows / chunk.done), self._rows)
                bar.update(len(chunk.label))

    def _number(self) -> list[int]:
        """Make one dictionary of all for each column; how many ids each has."""
        name = f"numbering {self.source.name}"
        with (
            ThreadPoolExecutor(min(_COLUMNS_AT_ONCE, cores())) as pool,
            tqdm(desc=name, total=len(self._spools), unit="field", disable=None) as bar,
        ):
            counts = []
            for count in pool.map(self._finish, range(len(self._spools))):
                counts.append(count)
                bar.update()
        return counts

    def _finish(self, number: int) -> int:
        names = (f"codes{number}.npy", f"ids{number}.npy", f"offsets{number}.npy")
        return self._spools[number].finish(*(self.folder / name for name in names))

    def _append(self, chunk: Chunk) -> None:
        columns: dict[str, np.ndarray] = {"label": chunk.label}
        if chunk.time is not None:
            columns["time"] = chunk.time
        if chunk.part is not None:
            columns["given"] = chunk.part
        if self._numbers:
            columns["values"] = np.stack([_floats(chunk.columns[name]) for name in self._numbers], axis=1)
        for number, field in enumerate(self._coded):
            self._append_ids(number, field, _arrow(chunk.columns[field.name]))
        for name, array in columns.items():
            self._file(name, array).append(array)
        self._rows += len(chunk.label)
        self._skipped, self._example = self._skipped + chunk.skipped, self._example or chunk.example
        self._binary = self._binary and bool(((chunk.label == 0) | (chunk.label == 1)).all())
        self._done = chunk.done or 0.0

    def _append_ids(self, number: int, field: Field, column: pa.Array) -> None:
        if field.kind == "multi":
            column, ends = readings.flat(column)
            self._file(f"ends{number}", ends).append(ends + self._values[number])
            self._values[number] += len(column)
        for part in row_slices(len(column), _PER_CHUNK):
            self._spools[number].append(column.slice(part.start, part.stop - part.start))

    def _file(self, name: str, array: np.ndarray) -> ArrayFile:
        if name not in self._files:
            columns = array.shape[1] if array.ndim == 2 else None
            kind = _TYPES["ends" if name.startswith("ends") else name]
            self._files[name] = ArrayFile(self.folder / f"{name}.npy", kind, columns)
        return self._files[name]


_TYPES = {
    name: np.dtype(kind)
    for name, kind in {"values": "f4", "label": "f4", "time": "i8", "given": "u1", "ends": "i8"}.items()
}


def _arrow(column: Column) -> pa.Array:
    """A column as one Arrow array."""
    if isinstance(column, np.ndarray):
        return pa.array(column, from_pandas=True)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _floats(column: Column) -> np.ndarray:
    """A numeric column as float32, NaN = missing."""
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column if isinstance(column, np.ndarray) else column.to_numpy(zero_copy_only=False)
