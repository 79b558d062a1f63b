"""The whole source, encoded once: plain memory-mapped arrays and a manifest in a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from dnis_lightning.data.source import Chunk, Field, Source
from dnis_lightning.errors import DataError
from dnis_lightning.paths import expand, whole_folder

SCHEMA = 1
"""Version of the layout; another one is encoded anew."""


class RawIds(Sequence[str]):
    """The raw ids of a field by code, read from a memory-mapped blob of UTF-8."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self._blob, self._ends = blob, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, code: Any) -> Any:
        start = int(self._ends[code - 1]) if code else 0
        return self._blob[start : int(self._ends[code])].tobytes().decode()


class EncodedDataset:
    """An encoded source, opened for reading.

    fields (F), rows, name, fingerprint, user_field: as in the manifest. cardinalities: raw ids of each categorical field.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {manifest['schema']}")
        self.name, self.fingerprint, self.rows = manifest["name"], manifest["fingerprint"], manifest["rows"]
        self.fields = tuple(Field(**field) for field in manifest["fields"])
        self.cardinalities = tuple(manifest["cardinalities"])
        self.user_field: str | None = manifest["user_field"]
        if any(len(part) != self.rows for part in (self.codes, self.label, self.values, self.time) if part is not None):
            raise ValueError("an array is too short")

    @cached_property
    def codes(self) -> np.ndarray:
        """(rows, categorical fields) the code of each raw id, counted from 0 in each field."""
        return self._array("codes")

    @cached_property
    def values(self) -> np.ndarray | None:
        """(rows, numeric fields) float32, NaN where missing; None without such fields."""
        return self._array("values") if any(field.kind == "numeric" for field in self.fields) else None

    @cached_property
    def label(self) -> np.ndarray:
        """(rows,) float32."""
        return self._array("label")

    @cached_property
    def time(self) -> np.ndarray | None:
        """(rows,) int64, or None."""
        return self._array("time") if (self.folder / "time.npy").exists() else None

    def raw_ids(self, field: str) -> RawIds:
        """Code → raw id of a categorical field."""
        number = [f.name for f in self.fields if f.kind == "categorical"].index(field)
        return RawIds(self._array(f"ids-{number}"), self._array(f"ends-{number}"))

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def encode(source: Source, cache: str | Path) -> EncodedDataset:
    """Open the encoded form of a source under `cache`, making it first where there is none that is whole.

    Raises DataError for a fault of the source, or a disk that is full.
    """
    identity = source.identity()
    told = json.dumps([SCHEMA, source.name, identity, [asdict(field) for field in source.fields]], sort_keys=True)
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    folder = expand(cache) / f"{source.name}-{fingerprint[:12]}"
    found = _open(folder)
    if found is None:
        _make(source, fingerprint, folder)
        found = EncodedDataset(folder)
    return found


def _open(folder: Path) -> EncodedDataset | None:
    try:
        return EncodedDataset(folder)
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another version
        return None


def _make(source: Source, fingerprint: str, folder: Path) -> None:
    try:
        with whole_folder(folder) as part:
            _Writer(source, fingerprint, part).write()
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        free = shutil.disk_usage(_existing(folder)).free / 2**20
        raise DataError(
            f"{folder.parent}: the encoded data cannot be written ({fault.strerror}; {free:.0f} MiB free); "
            "make room or choose another folder with data.cache="
        ) from fault


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


class _Codes:
    """Gives each raw id of a field a code, in order of first appearance."""

    def __init__(self) -> None:
        self.code_of: dict[Any, int] = {}

    def encode(self, column: np.ndarray) -> np.ndarray:
        local, ids = pd.factorize(column, use_na_sentinel=False)
        codes = [self.code_of.setdefault(raw, len(self.code_of)) for raw in ids.tolist()]
        return np.asarray(codes, dtype=np.uint32)[local] if len(codes) else np.empty(0, np.uint32)

    def save(self, folder: Path, number: int) -> None:
        ids = [_text(raw).encode() for raw in self.code_of]
        np.save(folder / f"ends-{number}.npy", np.cumsum([len(raw) for raw in ids], dtype=np.int64))
        np.save(folder / f"ids-{number}.npy", np.frombuffer(b"".join(ids), dtype=np.uint8))


def _text(raw: Any) -> str:
    return "" if raw is None or raw != raw else str(raw)


class _Writer:
    """Writes the arrays row by row through files: a store into a memory map on a full disk would kill the process."""

    def __init__(self, source: Source, fingerprint: str, folder: Path) -> None:
        self.source, self.fingerprint, self.folder = source, fingerprint, folder
        self.categorical = [field.name for field in source.fields if field.kind == "categorical"]
        self.numeric = [field.name for field in source.fields if field.kind == "numeric"]
        self.codes = {name: _Codes() for name in self.categorical}
        self.rows, self.timed = 0, False

    def write(self) -> None:
        """All of it; the manifest last."""
        names = ["codes", "label", "time"] + (["values"] if self.numeric else [])
        files = {name: (self.folder / f"{name}.raw").open("wb") for name in names}
        try:
            for chunk in self.source.chunks():
                self._append(chunk, files)
        finally:
            for file in files.values():
                file.close()
        if self.rows == 0:
            raise DataError(f"data={self.source.name}: the file holds no rows; is it the right one?")
        self._finish()

    def _append(self, chunk: Chunk, files: dict[str, IO[bytes]]) -> None:
        self.rows += len(chunk.label)
        codes = [self.codes[name].encode(chunk.columns[name]) for name in self.categorical]
        np.stack(codes, axis=1).astype(np.uint32).tofile(files["codes"]) if codes else None
        chunk.label.astype(np.float32).tofile(files["label"])
        if self.numeric:
            np.stack([chunk.columns[name] for name in self.numeric], axis=1).astype(np.float32).tofile(files["values"])
        if chunk.time is not None:
            self.timed = True
            chunk.time.astype(np.int64).tofile(files["time"])

    def _finish(self) -> None:
        sizes = [len(self.codes[name].code_of) for name in self.categorical]
        self._to_npy("codes", np.uint32, (self.rows, len(self.categorical)), np.min_scalar_type(max([1, *sizes]) - 1))
        self._to_npy("label", np.float32, (self.rows,))
        if self.numeric:
            self._to_npy("values", np.float32, (self.rows, len(self.numeric)))
        if self.timed:
            self._to_npy("time", np.int64, (self.rows,))
        for raw in self.folder.glob("*.raw"):
            raw.unlink()
        for number, name in enumerate(self.categorical):
            self.codes[name].save(self.folder, number)
        manifest = {
            "schema": SCHEMA,
            "name": self.source.name,
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "fields": [asdict(field) for field in self.source.fields],
            "cardinalities": sizes,
            "user_field": self.source.user_field,
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1))

    def _to_npy(self, name: str, dtype: Any, shape: tuple[int, ...], narrow: Any = None) -> None:
        """A raw file as .npy, in a narrower type if given, a piece at a time."""
        target = np.dtype(dtype if narrow is None else narrow)
        with (self.folder / f"{name}.npy").open("wb") as file:
            npy.write_array_header_1_0(
                file, {"descr": npy.dtype_to_descr(target), "fortran_order": False, "shape": shape}
            )
            for piece in _pieces(self.folder / f"{name}.raw", dtype):
                piece.astype(target).tofile(file)
        (self.folder / f"{name}.raw").unlink()


def _pieces(path: Path, dtype: Any, count: int = 4_000_000) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(piece := np.fromfile(file, dtype, count)):
            yield piece
