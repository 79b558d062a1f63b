"""One pass over a source: raw ids become codes, columns become arrays on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from dnis_lightning.data.arrays import ArrayFile, open_array, row_slices, smallest_unsigned, write_text
from dnis_lightning.data.source import Chunk, Source
from dnis_lightning.errors import DataError


class Encoder:
    """Writes the arrays of a source into a folder.

    estimate: the bytes that the whole will take, as far as can be told from what has been read; 0 = not known yet.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.estimate = 0.0
        self._names = [field.name for field in source.fields if field.kind == "categorical"]
        self._numbers = [field.name for field in source.fields if field.kind == "numeric"]
        self._known: list[dict[Any, int]] = [{} for _ in self._names]
        self._files: dict[str, ArrayFile] = {}
        self._rows = 0

    def run(self) -> dict[str, Any]:
        """Read everything; the counts for the manifest: rows, cardinalities. Raises DataError on an empty source."""
        try:
            self._read()
            if not self._rows:
                raise DataError(f"{self.source.name}: there is no row in it; is the file whole?")
            for file in self._files.values():
                file.close()
        finally:
            for file in self._files.values():
                file.abandon()
        self._narrow()
        for number, known in enumerate(self._known):
            ids = [_text(raw) for raw in known]
            write_text(ids, self.folder / f"ids{number}.npy", self.folder / f"offsets{number}.npy")
        return {"rows": self._rows, "cardinalities": [len(known) for known in self._known]}

    def _read(self) -> None:
        with tqdm(desc=f"encoding {self.source.name}", unit="row", unit_scale=True, disable=None) as bar:
            for chunk in self.source.chunks():
                self._append(chunk)
                if chunk.done:
                    bar.total = int(self._rows / chunk.done)
                bar.update(len(chunk.label))

    def _append(self, chunk: Chunk) -> None:
        columns: dict[str, np.ndarray] = {"label": chunk.label, "codes": self._codes(chunk)}
        if chunk.time is not None:
            columns["time"] = chunk.time
        if self._numbers:
            columns["values"] = np.stack([chunk.columns[name] for name in self._numbers], axis=1)
        self._rows += len(chunk.label)
        if chunk.done:
            row_bytes = sum(
                _TYPES[name].itemsize * (array[0].size if len(array) else 0) for name, array in columns.items()
            )
            self.estimate = self._rows * row_bytes / chunk.done
        for name, array in columns.items():
            self._file(name, array).append(array)

    def _file(self, name: str, array: np.ndarray) -> ArrayFile:
        if name not in self._files:
            columns = array.shape[1] if array.ndim == 2 else None
            self._files[name] = ArrayFile(self.folder / f"{name}.npy", _TYPES[name], columns)
        return self._files[name]

    def _codes(self, chunk: Chunk) -> np.ndarray:
        codes = np.empty((len(chunk.label), len(self._names)), dtype=np.uint32)
        for column, (name, known) in enumerate(zip(self._names, self._known, strict=True)):
            codes[:, column] = _coded(chunk.columns[name], known)
        return codes

    def _narrow(self) -> None:
        """Write the codes anew in the smallest type that fits them."""
        dtype = smallest_unsigned(max((len(known) - 1 for known in self._known), default=0))
        if dtype == _TYPES["codes"]:
            return
        wide, path = open_array(self.folder / "codes.npy"), self.folder / "codes.npy.narrow"
        narrow = ArrayFile(path, dtype, len(self._names))
        try:
            for part in row_slices(len(wide)):
                narrow.append(wide[part])
            narrow.close()
        finally:
            narrow.abandon()
        path.replace(self.folder / "codes.npy")


_TYPES = {name: np.dtype(kind) for name, kind in {"codes": "u4", "values": "f4", "label": "f4", "time": "i8"}.items()}


def _coded(raw: np.ndarray, known: dict[Any, int]) -> np.ndarray:
    """Codes of raw ids (R,); ids that are new get the next code, in the order in which they appear."""
    if raw.dtype == object:
        raw = np.where(pd.isna(raw), "", raw)
    local, ids = pd.factorize(raw)
    codes = [known.setdefault(one, len(known)) for one in ids.tolist()]
    return np.asarray(codes, dtype=np.uint32)[local]


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else str(raw)
