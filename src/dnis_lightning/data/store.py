"""The encoded store: a source read once, kept as memory-mapped arrays under its fingerprint."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnis_lightning.data.arrays import TextColumn, open_array, row_slices
from dnis_lightning.data.encoder import Encoder
from dnis_lightning.data.source import Field, Source
from dnis_lightning.errors import DataError
from dnis_lightning.paths import alone_in, whole_folder
from dnis_lightning.quantities import TaskName

SCHEMA = 3
DAMAGE = (OSError, ValueError, KeyError, TypeError)
"""What opening an artefact raises when it is absent, damaged or of another schema."""
log = logging.getLogger(__name__)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}


@dataclass(frozen=True)
class EncodedDataset:
    """A whole source as arrays on disk, opened read-only; Fc fields with ids (categorical, multi), Fn numeric ones.

    codes: for each field with ids, (rows,) its raw codes 0 … n_f − 1, in the smallest unsigned type that fits; of a
    multi field all values of all rows, (values,). ends: for each multi field, by its number among the Fc, (rows,) where
    the values of each row end. values (rows, Fn): float32, NaN = missing; None without numeric fields.
    label (rows,): float32. time (rows,): int64 or None. given (rows,): the part that the source puts each row into, or
    None. cardinalities (Fc,): n_f. skipped: how many bad rows were left out; example: what was wrong with the first.
    binary: whether all labels are 0 or 1.
    """

    folder: Path
    name: str
    task: TaskName
    user_field: str | None
    fingerprint: str
    fields: tuple[Field, ...]
    rows: int
    cardinalities: tuple[int, ...]
    skipped: int
    example: str
    binary: bool
    codes: tuple[np.ndarray, ...]
    ends: dict[int, np.ndarray]
    values: np.ndarray | None
    label: np.ndarray
    time: np.ndarray | None
    given: np.ndarray | None

    @classmethod
    def open(cls, folder: Path) -> EncodedDataset:
        """Open a folder that `encode` wrote.

        Raises one of `DAMAGE` when it is absent, damaged or of another schema version.
        """
        told = json.loads((folder / "manifest.json").read_text())
        if told["schema"] != SCHEMA:
            raise ValueError(f"schema {told['schema']}, expected {SCHEMA}")
        for name, size in told["files"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{name} has another size than the manifest says")
        fields = tuple(Field(**field) for field in told["fields"])
        arrays = {name: _open_if_there(folder / f"{name}.npy") for name in ("values", "label", "time", "given")}
        numbers = range(len(told["cardinalities"]))
        ends = {number: _open_if_there(folder / f"ends{number}.npy") for number in numbers}
        keys = ("name", "task", "user_field", "fingerprint", "rows", "binary")
        return cls(
            folder=folder,
            fields=fields,
            cardinalities=tuple(told["cardinalities"]),
            skipped=told["skipped"]["rows"],
            example=told["skipped"]["example"],
            codes=tuple(open_array(folder / f"codes{number}.npy") for number in numbers),
            ends={number: array for number, array in ends.items() if array is not None},
            **arrays,
            **{k: told[k] for k in keys},
        )

    @property
    def coded(self) -> tuple[Field, ...]:
        """The fields with ids, in the order of `codes`."""
        return tuple(field for field in self.fields if field.kind != "numeric")

    @property
    def user(self) -> int | None:
        """Which of the fields with ids is the user; None where no categorical one is."""
        for number, field in enumerate(self.coded):
            if field.name == self.user_field and field.kind == "categorical":
                return number
        return None

    def list_bounds(self, number: int, part: slice) -> np.ndarray:
        """(R + 1,) where the values of some consecutive rows begin, and where the last end; number: a multi field's."""
        ends = self.ends[number]
        return np.append(ends[part.start - 1] if part.start else 0, ends[part])

    @property
    def numeric(self) -> tuple[Field, ...]:
        """The numeric fields, in the order of the columns of `values`."""
        return tuple(field for field in self.fields if field.kind == "numeric")

    def raw_ids(self, field: str) -> TextColumn:
        """The raw ids of a field as text, by code. Raises KeyError where there are none."""
        names = [known.name for known in self.coded]
        if field not in names:
            raise KeyError(field)
        number = names.index(field)
        return TextColumn(
            open_array(self.folder / f"ids{number}.npy"), open_array(self.folder / f"offsets{number}.npy")
        )

    def code_of_missing(self, number: int) -> int | None:
        """The raw code of "missing" in a field, by its number among the Fc; None where it does not occur."""
        offsets = open_array(self.folder / f"offsets{number}.npy")
        for part in row_slices(len(offsets) - 1):
            empty = np.flatnonzero(offsets[part] == offsets[part.start + 1 : part.stop + 1])
            if len(empty):
                return part.start + int(empty[0])
        return None


def encode(source: Source, cache: Path) -> EncodedDataset:
    """Open the encoded form of a source, or make it first; nothing half-made stays behind.

    Processes that ask for the same data at the same time wait for the first of them.

    Raises DataError when the source cannot be read or the cache cannot be written.
    """
    mark = fingerprint(source)
    folder = cache / f"{source.name}-{mark[:12]}"
    with contextlib.suppress(*DAMAGE):
        return EncodedDataset.open(folder)
    with writing_to(folder), alone_in(cache):
        with contextlib.suppress(*DAMAGE):
            return EncodedDataset.open(folder)  # another process made it while this one waited
        if (old := _of_other_content(source, cache)) is not None:
            log.info("%s: files so named were encoded with other content; encoding anew (%s can go)", source.name, old)
        _clear(folder)
        _write(source, mark, folder)
    return EncodedDataset.open(folder)


def fingerprint(source: Source) -> str:
    """A name for the encoded form: equal if and only if identity, fields and task are."""
    fields = [vars(field) for field in source.fields]
    told = {"name": source.name, "task": source.task, "user": source.user_field, "fields": fields}
    return hashlib.sha256(json.dumps(told | source.identity(), sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that may not be written into a DataError that says so."""
    try:
        yield
    except OSError as fault:
        if fault.errno in _NO_SPACE:
            raise DataError(f"{folder}: the disk is full ({_free(folder)}); {_ELSEWHERE}") from fault
        if fault.errno in _NO_ACCESS:
            raise DataError(f"{folder}: cannot be written ({fault.strerror}); {_ELSEWHERE}") from fault
        raise


_ELSEWHERE = "make room there or choose another place with data.cache="


def splits_folder(dataset_folder: Path) -> Path:
    """Where the splits, vocabularies and shuffled rows of an encoded set lie."""
    return dataset_folder.with_name(dataset_folder.name + ".splits")


def _write(source: Source, mark: str, folder: Path) -> None:
    with whole_folder(folder) as part:
        encoder = Encoder(source, part)
        try:
            facts = encoder.run()
        except OSError as fault:
            if fault.errno not in _NO_SPACE:
                raise
            raise _too_small(folder, encoder, part) from fault
        files = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "name": source.name,
            "task": source.task,
            "user_field": source.user_field,
        }
        told |= {
            "identity": source.identity(),
            "fingerprint": mark,
            "fields": [vars(field) for field in source.fields],
            "files": files,
            **facts,
        }
        (part / "manifest.json").write_text(json.dumps(told, indent=1))


def _of_other_content(source: Source, cache: Path) -> Path | None:
    """An encoded form of the same files, with the same options, as they were before."""
    wanted = _without_content(source.identity())
    for manifest in cache.glob(f"{source.name}-*/manifest.json"):
        with contextlib.suppress(*DAMAGE):
            if _without_content(json.loads(manifest.read_text())["identity"]) == wanted:
                return manifest.parent
    return None


def _without_content(identity: Any) -> Any:
    """An identity without what tells a file's content."""
    if isinstance(identity, dict):
        return {key: _without_content(value) for key, value in identity.items() if key not in _CONTENT}
    return [_without_content(value) for value in identity] if isinstance(identity, (list, tuple)) else identity


_CONTENT = {"size", "changed", "crc"}


def _too_small(folder: Path, encoder: Encoder, part: Path) -> DataError:
    written = sum(path.stat().st_size for path in part.iterdir())
    estimate = encoder.estimate()
    needed = f"about {_mib(estimate)}" if estimate else f"more than {_mib(written)}"
    free = shutil.disk_usage(part).free + written
    name = encoder.source.name
    return DataError(f"{folder}: the disk is full: {name} needs {needed}, {_mib(free)} are free; {_ELSEWHERE}")


def _clear(folder: Path) -> None:
    """Remove a damaged folder, what hangs on it, and what a killed process left."""
    for stale in (folder, splits_folder(folder), *folder.parent.glob(f".{folder.name}*")):
        shutil.rmtree(stale, ignore_errors=True)


def _open_if_there(path: Path) -> Any:
    return open_array(path) if path.exists() else None


def _free(folder: Path) -> str:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return f"{_mib(shutil.disk_usage(there).free)} free"


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"
