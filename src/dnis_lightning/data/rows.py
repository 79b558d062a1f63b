"""The rows of a part as they are trained on: records on disk, as small as the ids allow, in an order drawn once."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from dnis_lightning.batch import Batch
from dnis_lightning.data.arrays import forget, row_slices, smallest_unsigned
from dnis_lightning.data.parallel import ordered_map
from dnis_lightning.data.source import PARTS
from dnis_lightning.data.split import Split, part_sizes
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.data.vocabulary import TrainVocabulary
from dnis_lightning.packed.numbers import Scaled

Pooling = Literal["mean", "sum"]
_ROWS_AT_ONCE = 1 << 16
_BUCKET_BYTES = 1 << 26
_HELD_BYTES = 1 << 25


class RowLayout:
    """The record of a row: its label, ids within the fields in the smallest types that fit, and scalar numbers.

    Each field has one of the C columns of `Batch.ids`, but a multi field has as many as values of a row are kept.
    pooling: the values of a multi field are averaged or summed. max_values: of a row and field are kept, the first.
    with_user: records say who the user is, too, by the raw code: users who share a table row are several still.
    name: a part of a folder's name, the same for what can be read alike.
    """

    def __init__(
        self, vocabulary: TrainVocabulary, pooling: Pooling = "mean", max_values: int = 16, with_user: bool = False
    ) -> None:
        self.vocabulary, self.pooling = vocabulary, pooling
        self.name = (f"rows{max_values}" if vocabulary.dataset.ends else "rows") + ("-user" if with_user else "")
        dataset = vocabulary.dataset
        self._user = dataset.user if with_user else None
        self._widths = [_width(dataset, n, max_values) for n in range(len(dataset.coded))]
        self._groups: dict[str, list[int]] = {"u1": [], "u2": [], "u4": [], "u8": [], "scalar": []}
        self._placed: list[tuple[str, int]] = []
        self._columns = [0]
        sizes, coded, treated = np.diff(vocabulary.offsets), iter(self._widths), iter(vocabulary.numbers)
        for field, size in zip(vocabulary.fields, sizes.tolist(), strict=True):
            scalar = field.kind == "numeric" and isinstance(next(treated), Scaled)
            width = 1 if field.kind == "numeric" else next(coded)
            group = "scalar" if scalar else smallest_unsigned(size - 1).str[1:]
            self._placed.append((group, len(self._groups[group])))
            self._groups[group] += range(self._columns[-1], self._columns[-1] + width)
            self._columns.append(self._columns[-1] + width)
        self.width = self._columns[-1]  # C
        self._multi = [n for n, field in enumerate(vocabulary.fields) if field.kind == "multi"]
        kinds = [(name, "<f4" if name == "scalar" else f"<{name}") for name, columns in self._groups.items() if columns]
        self.dtype = np.dtype(
            [("label", "u1" if dataset.binary else "<f4")]
            + [(name, kind, (len(self._groups[name]),)) for name, kind in kinds]
            + ([("values", "<u2", (len(self._multi),))] if self._multi else [])
            + ([] if self._user is None else [("user", dataset.codes[self._user].dtype)])
        )
        self._starts = np.repeat(vocabulary.offsets[:-1], np.diff(self._columns))
        self._bounds = torch.tensor(self._columns) if self._multi else None

    @property
    def bounds(self) -> list[int]:
        """(F + 1,) field f has the columns bounds[f] … bounds[f + 1] − 1 of `Batch.ids`."""
        return list(self._columns)

    @property
    def columns(self) -> int:
        """C."""
        return self._columns[-1]

    def records(self, part: slice) -> np.ndarray:
        """(R,) the records of some consecutive rows of the data set."""
        vocabulary, dataset = self.vocabulary, self.vocabulary.dataset
        made = np.zeros(part.stop - part.start, dtype=self.dtype)
        made["label"] = dataset.label[part]
        if self._user is not None:
            made["user"] = dataset.codes[self._user][part]
        coded = numeric = multi = 0
        for field, (group, place) in zip(vocabulary.fields, self._placed, strict=True):
            if field.kind == "numeric":
                assert dataset.values is not None, "there are numeric fields"
                treated = vocabulary.numbers[numeric](dataset.values[part, numeric])
                made[group][:, place] = treated if group == "scalar" else treated + 1
                numeric += 1
                continue
            if field.kind == "multi":
                counts, ids = self._lists(coded, part)
                made[group][:, place : place + ids.shape[1]] = ids
                made["values"][:, multi] = counts
                multi += 1
            else:
                made[group][:, place] = vocabulary.local[coded][dataset.codes[coded][part]]
            coded += 1
        return made

    def batch(self, records: np.ndarray, total: int) -> Batch:
        """Records (B,) as a batch, their share of a global one of `total` rows."""
        ids = np.empty((len(records), self.columns), dtype=np.int64)
        values: np.ndarray | None = None
        if self._multi or self._groups["scalar"]:
            values = np.ones(ids.shape, dtype=np.float32)
        for name, columns in self._groups.items():
            if not columns:
                continue
            if name == "scalar":
                assert values is not None, "made above"
                missing = np.isnan(records[name])
                ids[:, _places(columns)] = ~missing
                values[:, _places(columns)] = np.where(missing, np.float32(1), records[name])
            else:
                ids[:, _places(columns)] = records[name]
        ids += self._starts
        for number, field in enumerate(self._multi):
            assert values is not None, "made above"
            counts = records["values"][:, number].astype(np.float32)[:, None]
            there = np.arange(self._columns[field + 1] - self._columns[field]) < counts
            values[:, self._columns[field] : self._columns[field + 1]] = there / (
                counts if self.pooling == "mean" else 1
            )
        label = torch.from_numpy(records["label"].astype(np.float32))
        scale = None if values is None else torch.from_numpy(values)
        user = None if self._user is None else torch.from_numpy(records["user"].astype(np.int64))
        return Batch(torch.from_numpy(ids), label, scale, self._bounds, total, user=user)

    def _lists(self, coded: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """How many values of each row are kept (R,), and their ids within the field (R, width), 0 beyond."""
        bounds, width = self.vocabulary.dataset.list_bounds(coded, part), self._widths[coded]
        counts = np.minimum(np.diff(bounds), width)
        at = bounds[:-1, None] + np.arange(width)
        there = np.arange(width) < counts[:, None]
        codes = self.vocabulary.dataset.codes[coded][bounds[0] : bounds[-1]]
        found = self.vocabulary.local[coded][codes[np.where(there, at, bounds[0]) - bounds[0]]]
        return counts, np.where(there, found, 0)


@dataclass(frozen=True)
class RowFile:
    """Records on disk, one after the other."""

    path: Path
    layout: RowLayout
    rows: int

    def read(self, start: int, stop: int, into: np.ndarray) -> None:
        """Read some records into an array (stop − start, bytes of a record), uint8.

        Raises OSError when they are not there.
        """
        size = self.layout.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            file.seek(start * size)
            view, done = memoryview(into.reshape(-1).data), 0
            while done < len(view):
                got = file.readinto(view[done:])
                if not got:
                    raise OSError(f"{self.path}: it ends before row {stop}")
                done += got

    def checksum(self) -> int:
        """CRC-32 of all records. Raises OSError when they are not there."""
        found = 0
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                found = zlib.crc32(piece, found)
        return found


def write_parts(layout: RowLayout, split: Split, folder: Path, seed: int) -> None:
    """Write the rows of each part into a folder, in random order, in bounded memory.

    Rows are dealt out at random into buckets, and each bucket is shuffled in memory: a uniformly random order.
    """
    size, counts = layout.dtype.itemsize, part_sizes(split.part)
    buckets = [max(1, math.ceil(count * size / _BUCKET_BYTES)) for count in counts]
    labels = _deal(layout, split, folder, seed, buckets)
    _shuffle(folder, size, seed, buckets)
    told = {"record": size, "rows": dict(zip(PARTS, counts, strict=True)), "labels": labels.tolist()}
    (folder / "rows.json").write_text(json.dumps(told))


def _deal(layout: RowLayout, split: Split, folder: Path, seed: int, buckets: list[int]) -> np.ndarray:
    """Write each row into one of so many buckets of its part; (parts,) the sum of the labels of each."""
    dataset, labels = layout.vocabulary.dataset, np.zeros(len(PARTS))
    numbers = [] if dataset.values is None else [dataset.values]

    def dealt(rows: slice) -> tuple[np.ndarray, list[tuple[Path, np.ndarray]]]:
        made, part, rng = layout.records(rows), split.part[rows], np.random.default_rng([seed, 1, rows.start])
        pieces = []
        for number, count in enumerate(buckets):
            mine, ends = _in_buckets(np.flatnonzero(part == number), count, rng)
            raw = _raw(made).take(mine, axis=0)
            for bucket, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                pieces.append((folder / f"{PARTS[number]}.{bucket}", raw[start:end]))
        return np.bincount(part, made["label"], minlength=len(PARTS)), pieces

    slices, held = list(row_slices(dataset.rows, _ROWS_AT_ONCE)), _Held()
    with tqdm(desc=f"shuffling {dataset.name}", total=dataset.rows, unit="row", unit_scale=True, disable=None) as bar:
        for rows, (sums, pieces) in zip(slices, ordered_map(dealt, slices), strict=True):
            labels += sums
            held.append(pieces)
            bar.update(rows.stop - rows.start)
            if held.bytes >= _HELD_BYTES:
                held.write()
                forget(dataset.label, split.part, *dataset.codes, *dataset.ends.values(), *numbers)
        held.write()
    return labels


def _in_buckets(rows: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """The rows in the order of the buckets they are dealt into, and where each of these ends."""
    if count == 1:
        return rows, [len(rows)]
    drawn = rng.integers(count, size=len(rows)).astype(smallest_unsigned(count - 1))  # sorted faster
    return rows[np.argsort(drawn, kind="stable")], np.cumsum(np.bincount(drawn, minlength=count)).tolist()


class _Held:
    """Pieces of files that are held until there are enough to be written: to open a file takes longer than to write."""

    def __init__(self) -> None:
        self.bytes = 0
        self._pieces: dict[Path, list[np.ndarray]] = {}

    def append(self, pieces: list[tuple[Path, np.ndarray]]) -> None:
        """Take some more of some files."""
        for path, piece in pieces:
            self._pieces.setdefault(path, []).append(piece)
            self.bytes += piece.nbytes

    def write(self) -> None:
        """Append all to their files."""
        for path, pieces in self._pieces.items():
            _append(path, *pieces)
        self.bytes, self._pieces = 0, {}


def _shuffle(folder: Path, size: int, seed: int, buckets: list[int]) -> None:
    """Make one file of the buckets of each part, each in random order; size: bytes of a record."""

    def shuffled(bucket: tuple[int, int]) -> np.ndarray:
        path = folder / f"{PARTS[bucket[0]]}.{bucket[1]}"
        raw = np.fromfile(path, dtype=np.uint8).reshape(-1, size)
        path.unlink()
        return raw.take(np.random.default_rng([seed, 2, *bucket]).permutation(len(raw)), axis=0)

    all_of_them = [(part, bucket) for part, count in enumerate(buckets) for bucket in range(count)]
    for (owner, _), raw in zip(all_of_them, ordered_map(shuffled, all_of_them), strict=True):
        _append(folder / f"{PARTS[owner]}.rows", raw)


def open_parts(layout: RowLayout, split: Split, folder: Path) -> tuple[dict[str, RowFile], float]:
    """The rows of each part, and the mean label of train.

    Raises OSError, ValueError, KeyError or TypeError when they are absent, damaged or of another layout.
    """
    told = json.loads((folder / "rows.json").read_text())
    if told["record"] != layout.dtype.itemsize:
        raise ValueError(f"{folder}: made for another layout")
    files = {name: RowFile(folder / f"{name}.rows", layout, told["rows"][name]) for name in PARTS}
    for file in files.values():
        if file.path.stat().st_size != file.rows * layout.dtype.itemsize:
            raise ValueError(f"{file.path}: it has another size than it should")
    if split.shared:
        files["select"] = files["search"]
    return files, told["labels"][0] / max(told["rows"]["train"], 1)


def _width(dataset: EncodedDataset, number: int, most: int) -> int:
    """How many columns a field has: the most values of a row, but not more than `most`."""
    if number not in dataset.ends:
        return 1
    longest = 1
    for part in row_slices(dataset.rows):
        longest = max(longest, int(np.diff(dataset.list_bounds(number, part)).max(initial=1)))
    return min(longest, most)


def _raw(records: np.ndarray) -> np.ndarray:
    """Records as bytes, (R, bytes of a record): rows of bytes are picked faster than records."""
    return records.view(np.uint8).reshape(len(records), -1)


def _append(path: Path, *raw: np.ndarray) -> None:
    with path.open("ab") as file:
        for piece in raw:
            file.write(piece.data)


def _places(columns: list[int]) -> slice | list[int]:
    """Columns as a slice, which is faster to write through, if they are neighbours."""
    together = columns[-1] - columns[0] + 1 == len(columns)
    return slice(columns[0], columns[-1] + 1) if together else columns
