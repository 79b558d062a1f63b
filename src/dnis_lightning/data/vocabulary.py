"""The train vocabulary: which features have a row of the embedding table of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dnis_lightning.data.arrays import open_array, row_slices, save_array
from dnis_lightning.data.source import Field
from dnis_lightning.data.store import EncodedDataset

OTHER, MISSING, VALUE = "<other>", "<missing>", "<value>"


@dataclass(frozen=True, eq=False)
class TrainVocabulary:
    """N rows of the embedding table, for F fields.

    Field f owns the rows offsets[f] … offsets[f + 1] − 1; the first of them stands for what has no row of its own:
    for a categorical field the ids seen fewer than min_count times in train (one never seen, too), for a numeric field
    "missing". Then come the field's features by descending frequency, or the numeric field's one row, whose value is
    the number.

    offsets (F + 1,) int64. frequency (N,) int64: occurrences in train. code_of (N,) int64: the raw code of each row,
    −1 where there is none. remap: the row of each raw code, all categorical fields in one array.
    """

    dataset: EncodedDataset
    offsets: np.ndarray
    frequency: np.ndarray
    code_of: np.ndarray
    remap: np.ndarray

    @property
    def features(self) -> int:
        """N."""
        return int(self.offsets[-1])

    @property
    def fields(self) -> tuple[Field, ...]:
        """The F fields, in the order of the columns of `encode`."""
        return self.dataset.fields

    @cached_property
    def field_of(self) -> np.ndarray:
        """(N,) the number of each row's field."""
        return np.repeat(np.arange(len(self.fields)), np.diff(self.offsets))

    @property
    def out_of_vocabulary(self) -> np.ndarray:
        """(F,) each field's row for what has no row of its own."""
        return self.offsets[:-1]

    @property
    def is_out_of_vocabulary(self) -> np.ndarray:
        """(N,) bool."""
        return np.isin(np.arange(self.features), self.out_of_vocabulary)

    def encode(self, codes: np.ndarray, values: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Raw codes (B, Fc) and numbers (B, Fn) as table rows (B, F) int64 and values (B, F) float32.

        The values are None without numeric fields; they are 1 for categorical fields and for what is missing.
        """
        if values is None:
            return self._rows_of(codes), None
        ids = np.empty((len(values), len(self.fields)), dtype=np.int64)
        scale = np.ones(ids.shape, dtype=np.float32)
        ids[:, self._categorical_at] = self._rows_of(codes)
        missing = np.isnan(values)
        ids[:, self._numeric_at] = self.offsets[:-1][self._numeric_at] + ~missing
        scale[:, self._numeric_at] = np.where(missing, np.float32(1), values)
        return ids, scale

    def names(self) -> Iterator[tuple[str, str]]:
        """The field and the raw id of each row, in order; rows without a raw id have names in angle brackets."""
        for number, field in enumerate(self.fields):
            codes = self.code_of[self.offsets[number] : self.offsets[number + 1]]
            if field.kind == "numeric":
                yield from ((field.name, MISSING), (field.name, VALUE))
                continue
            raw = self.dataset.raw_ids(field.name)
            yield field.name, OTHER
            yield from ((field.name, raw[int(code)]) for code in codes[1:])

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder."""
        for name in _SAVED:
            save_array(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, dataset: EncodedDataset) -> TrainVocabulary:
        """Read what `save` wrote; the arrays are memory-mapped. Raises OSError or ValueError when they are damaged."""
        vocabulary = cls(dataset, **{name: np.asarray(open_array(folder / f"{name}.npy")) for name in _SAVED})
        if len(vocabulary.remap) != sum(dataset.cardinalities) or len(vocabulary.offsets) != len(dataset.fields) + 1:
            raise ValueError(f"{folder}: made for other data")
        return vocabulary

    def _rows_of(self, codes: np.ndarray) -> np.ndarray:
        return np.take(self.remap, codes + self._code_starts)

    @cached_property
    def _code_starts(self) -> np.ndarray:
        return np.cumsum([0, *self.dataset.cardinalities])[:-1]

    @cached_property
    def _categorical_at(self) -> slice | np.ndarray:
        return _places([field.kind == "categorical" for field in self.fields])

    @cached_property
    def _numeric_at(self) -> slice | np.ndarray:
        return _places([field.kind == "numeric" for field in self.fields])


_SAVED = ("offsets", "frequency", "code_of", "remap")


def build_vocabulary(dataset: EncodedDataset, train_rows: np.ndarray, min_count: int = 1) -> TrainVocabulary:
    """Give a row to every feature that occurs at least `min_count` times in the rows of train."""
    counts = iter(_counts(dataset, train_rows))
    present = iter(_present(dataset, train_rows))
    offsets, frequency, code_of, remap = [0], [], [], []
    for field in dataset.fields:
        if field.kind == "numeric":
            seen = next(present)
            frequency.append(np.array([len(train_rows) - seen, seen]))
            code_of.append(np.array([-1, -1]))
        else:
            occurrences = next(counts)
            kept = _kept(occurrences, min_count)
            rows = np.full(len(occurrences), offsets[-1])
            rows[kept] = offsets[-1] + 1 + np.arange(len(kept))
            remap.append(rows)
            frequency.append(np.append(len(train_rows) - occurrences[kept].sum(), occurrences[kept]))
            code_of.append(np.append(-1, kept))
        offsets.append(offsets[-1] + len(frequency[-1]))
    empty = np.empty(0, dtype=np.int64)
    return TrainVocabulary(
        dataset,
        np.asarray(offsets, dtype=np.int64),
        np.concatenate(frequency).astype(np.int64),
        np.concatenate(code_of).astype(np.int64),
        np.concatenate([empty, *remap]),
    )


def _places(wanted: list[bool]) -> slice | np.ndarray:
    """The places where `wanted` is true; as a slice, which is faster to write through, if they are neighbours."""
    places = np.flatnonzero(wanted)
    together = len(places) and places[-1] - places[0] + 1 == len(places)
    return slice(int(places[0]), int(places[-1]) + 1) if together else places


def _kept(occurrences: np.ndarray, min_count: int) -> np.ndarray:
    """The codes with a row of their own, most frequent first, ties by code."""
    order = np.argsort(-occurrences, kind="stable")
    return order[occurrences[order] >= max(min_count, 1)]


def _counts(dataset: EncodedDataset, rows: np.ndarray) -> list[np.ndarray]:
    """For each categorical field, (n_f,) how often each raw code occurs in the rows."""
    totals = [np.zeros(size, dtype=np.int64) for size in dataset.cardinalities]
    for part in row_slices(len(rows)) if totals else ():
        codes = dataset.codes[rows[part]]
        for total, column in zip(totals, codes.T, strict=True):
            total += np.bincount(column, minlength=len(total))
    return totals


def _present(dataset: EncodedDataset, rows: np.ndarray) -> list[int]:
    """For each numeric field, in how many of the rows there is a number."""
    if dataset.values is None:
        return []
    total = np.zeros(dataset.values.shape[1], dtype=np.int64)
    for part in row_slices(len(rows)):
        total += np.count_nonzero(~np.isnan(dataset.values[rows[part]]), axis=0)
    return total.tolist()
