"""Which raw ids have a row of the embedding table of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dnis_lightning.data.source import Field
from dnis_lightning.data.store import EncodedDataset

_PIECE = 2_000_000


class TrainVocabulary:
    """The N features: for each field its out-of-vocabulary row, then the raw ids that train shows often enough.

    Field f owns the rows offsets[f] … offsets[f + 1] − 1, the first of which is its out-of-vocabulary row; the others stand
    in descending order of frequency. A numeric field has two rows: the first for missing numbers (value 1), the second for
    numbers (value = the number).

    frequency (N,): occurrences in train; of an out-of-vocabulary row, those of the train rows that fall to it.
    remap: raw codes of all categorical fields, one field after the other → table row; starts: where each field begins in it.
    """

    def __init__(
        self, fields: Sequence[Field], offsets: np.ndarray, frequency: np.ndarray, remap: np.ndarray, starts: np.ndarray
    ) -> None:
        self.fields, self.offsets, self.frequency = tuple(fields), offsets, frequency
        self._remap, self._starts = remap, starts
        self._is_numeric = np.array([field.kind == "numeric" for field in self.fields])

    @property
    def features(self) -> int:
        """N, the out-of-vocabulary rows included."""
        return int(self.offsets[-1])

    @property
    def out_of_vocabulary(self) -> np.ndarray:
        """(F,) the out-of-vocabulary row of each field."""
        return self.offsets[:-1]

    @property
    def field_of(self) -> np.ndarray:
        """(N,) the field of each row."""
        return np.repeat(np.arange(len(self.fields)), np.diff(self.offsets))

    def encode(self, codes: np.ndarray, values: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Table rows (B, F) int64, and values (B, F) float32 or None where no field is numeric.

        codes (B, categorical fields), values (B, numeric fields) with NaN for missing.
        """
        rows = self._remap[codes.astype(np.int64) + self._starts]
        if values is None:
            return rows, None
        missing = np.isnan(values)
        ids = np.empty((len(values), len(self.fields)), dtype=np.int64)
        scale = np.ones(ids.shape, dtype=np.float32)
        ids[:, ~self._is_numeric] = rows
        ids[:, self._is_numeric] = self.offsets[:-1][self._is_numeric] + ~missing
        scale[:, self._is_numeric] = np.where(missing, 1, values)
        return ids, scale

    def names(self, dataset: EncodedDataset) -> Iterator[tuple[str, str]]:
        """(field, raw id) of every row in order; `<other>` for an out-of-vocabulary row."""
        number = 0
        for f, field in enumerate(self.fields):
            if field.kind == "numeric":
                yield from ((field.name, "<missing>"), (field.name, "<value>"))
                continue
            raw, size = dataset.raw_ids(field.name), int(self.offsets[f + 1] - self.offsets[f])
            yield field.name, "<other>"
            code_of = self._codes_by_row(number, f, len(raw), size)
            yield from ((field.name, raw[code]) for code in code_of)
            number += 1

    def save(self, folder: Path) -> None:
        """Write the arrays."""
        for name, array in self._arrays().items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path, fields: Sequence[Field]) -> TrainVocabulary:
        """Read what `save` wrote."""
        return cls(fields, *(np.load(folder / f"{name}.npy") for name in ("offsets", "frequency", "remap", "starts")))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"offsets": self.offsets, "frequency": self.frequency, "remap": self._remap, "starts": self._starts}

    def _codes_by_row(self, number: int, field: int, codes: int, size: int) -> list[int]:
        start = int(self._starts[number])
        local = self._remap[start : start + codes] - self.offsets[field]
        by_row = np.zeros(size, dtype=np.int64)
        known = np.flatnonzero(local)
        by_row[local[known]] = known
        return by_row[1:].tolist()


def build_vocabulary(dataset: EncodedDataset, train_rows: np.ndarray, min_count: int) -> TrainVocabulary:
    """Give a row to every raw id that occurs at least `min_count` times among `train_rows`."""
    counts, present = _counts(dataset, train_rows)
    remaps, frequencies, offsets = [], [], [0]
    categorical, numeric = iter(counts), iter(present)
    for field in dataset.fields:
        if field.kind == "numeric":
            seen = next(numeric)
            frequencies.append(np.array([len(train_rows) - seen, seen]))
        else:
            remap, frequency = _rows_of(next(categorical), min_count)
            remaps.append(remap + offsets[-1])
            frequencies.append(frequency)
        offsets.append(offsets[-1] + len(frequencies[-1]))
    starts = np.cumsum([0, *(len(remap) for remap in remaps)])[:-1] if remaps else np.zeros(0, np.int64)
    flat = np.concatenate(remaps) if remaps else np.zeros(0, np.int64)
    return TrainVocabulary(
        dataset.fields, np.array(offsets), np.concatenate(frequencies), flat, starts.astype(np.int64)
    )


def _rows_of(counts: np.ndarray, min_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Code → row within the field (0 = out of vocabulary), and the frequency of each row."""
    order = np.argsort(-counts, kind="stable")
    kept = order[counts[order] >= max(min_count, 1)]
    remap = np.zeros(len(counts), dtype=np.int64)
    remap[kept] = np.arange(1, len(kept) + 1)
    return remap, np.concatenate([[counts.sum() - counts[kept].sum()], counts[kept]])


def _counts(dataset: EncodedDataset, rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Occurrences of each code in each categorical field, and present numbers in each numeric one."""
    counts = [np.zeros(size, dtype=np.int64) for size in dataset.cardinalities]
    present = np.zeros(sum(field.kind == "numeric" for field in dataset.fields), dtype=np.int64)
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        codes = dataset.codes[piece]
        for number, count in enumerate(counts):
            count += np.bincount(codes[:, number], minlength=len(count))
        if dataset.values is not None:
            present += (~np.isnan(dataset.values[piece])).sum(0)
    return counts, present
