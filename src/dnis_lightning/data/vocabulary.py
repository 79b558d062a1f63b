"""The train vocabulary: which features have a row of the embedding table of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dnis_lightning.data.arrays import forget, open_array, row_slices, save_array, smallest_unsigned
from dnis_lightning.data.numbers import fit_numbers
from dnis_lightning.data.parallel import ordered_map
from dnis_lightning.data.source import Field
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.packed.numbers import Binned, Numbers, from_json
from dnis_lightning.quantities import NumericForm

OTHER, MISSING, VALUE = "<other>", "<missing>", "<value>"
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class VocabularyOptions:
    """min_count: a feature seen less often in train has no row of its own; min_counts: the same by field.

    numeric, bins: what becomes of numbers, see `numbers`. max_values: of a row in a multi field are kept, the first.
    """

    min_count: int = 1
    min_counts: Mapping[str, int] = field(default_factory=dict)
    numeric: NumericForm = "scalar"
    bins: int = 32
    max_values: int = 16

    def least(self, field: str) -> int:
        """The least count of a feature of this field."""
        return max(self.min_counts.get(field, self.min_count), 1)


@dataclass(frozen=True, eq=False)
class TrainVocabulary:
    """N rows of the embedding table, for F fields.

    Field f owns the rows offsets[f] … offsets[f + 1] − 1; the first of them stands for what has no row of its own:
    for a field with ids, those seen fewer than min_count times in train (one never seen, too), for a numeric field
    "missing". Then come the field's features by descending frequency; or the numeric field's one row, whose value is
    the number, or its bins in order.

    offsets (F + 1,) int64. frequency (N,) int64: occurrences in train. code_of (N,) int64: the raw code of each row,
    −1 where there is none. local: for each field with ids, the row of each raw code, from 0 = the field's first, in the
    smallest unsigned type that fits. numbers: for each numeric field, what becomes of its numbers.
    """

    dataset: EncodedDataset
    offsets: np.ndarray
    frequency: np.ndarray
    code_of: np.ndarray
    local: tuple[np.ndarray, ...]
    numbers: tuple[Numbers, ...]

    @property
    def features(self) -> int:
        """N."""
        return int(self.offsets[-1])

    @property
    def fields(self) -> tuple[Field, ...]:
        """The F fields."""
        return self.dataset.fields

    @property
    def field_of(self) -> np.ndarray:
        """(N,) int32, made anew: the number of each row's field."""
        return np.repeat(np.arange(len(self.fields), dtype=np.int32), np.diff(self.offsets))

    @property
    def out_of_vocabulary(self) -> np.ndarray:
        """(F,) each field's row for what has no row of its own."""
        return self.offsets[:-1]

    @property
    def is_out_of_vocabulary(self) -> np.ndarray:
        """(N,) bool."""
        return np.isin(np.arange(self.features), self.out_of_vocabulary)

    @property
    def stands_for_unseen(self) -> np.ndarray:
        """(N,) bool: the row of each field with ids that all of its ids without a row of their own share."""
        ids = np.array([one.kind != "numeric" for one in self.fields])
        return self.is_out_of_vocabulary & ids[self.field_of]  # the first row of a number is that of a missing one

    @property
    def expected(self) -> np.ndarray:
        """(N,) float64: how often each row is to be expected in as many rows as train has.

        Its frequency; of the row that a field's unseen ids share, besides, as often as ids that train has once occur
        there all together, which is what Good (1953) estimates of unseen ones.
        """
        once = np.bincount(
            self.field_of[(self.frequency == 1) & ~self.is_out_of_vocabulary], minlength=len(self.fields)
        )
        return self.frequency + np.where(self.stands_for_unseen, once[self.field_of], 0.0)

    def names(self) -> Iterator[tuple[str, str]]:
        """The field and the raw id of each row, in order; rows without a raw id have names in angle brackets."""
        treated = iter(self.numbers)
        for number, one in enumerate(self.fields):
            if one.kind == "numeric":
                treatment = next(treated)
                values = treatment.names() if isinstance(treatment, Binned) else [VALUE]
                yield from ((one.name, name) for name in (MISSING, *values))
                continue
            codes = self.code_of[self.offsets[number] : self.offsets[number + 1]]
            raw = self.dataset.raw_ids(one.name)
            yield one.name, OTHER
            yield from ((one.name, raw[int(code)]) for code in codes[1:])

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder."""
        for name in _SAVED:
            save_array(folder / f"{name}.npy", getattr(self, name))
        for number, rows in enumerate(self.local):
            save_array(folder / f"local{number}.npy", rows)
        (folder / "numbers.json").write_text(json.dumps([one.to_json() for one in self.numbers]))

    @classmethod
    def load(cls, folder: Path, dataset: EncodedDataset) -> TrainVocabulary:
        """Read what `save` wrote; the arrays are memory-mapped.

        Raises OSError, ValueError, KeyError or TypeError when they are damaged.
        """
        arrays = {name: np.asarray(open_array(folder / f"{name}.npy")) for name in _SAVED}
        local = tuple(open_array(folder / f"local{number}.npy") for number in range(len(dataset.cardinalities)))
        treated = tuple(from_json(told) for told in json.loads((folder / "numbers.json").read_text()))
        if tuple(map(len, local)) != dataset.cardinalities or len(arrays["offsets"]) != len(dataset.fields) + 1:
            raise ValueError(f"{folder}: made for other data")
        return cls(dataset, **arrays, local=local, numbers=treated)


_SAVED = ("offsets", "frequency", "code_of")


def build_vocabulary(dataset: EncodedDataset, is_train: np.ndarray, options: VocabularyOptions) -> TrainVocabulary:
    """Give a row to every feature that occurs often enough in the rows of train; is_train (rows,) bool."""
    rows = int(is_train.sum())

    def fit() -> tuple[list[Numbers], np.ndarray]:
        return fit_numbers(
            options.numeric,
            lambda: _train_numbers(dataset, is_train),
            fields=len(dataset.numeric),
            rows=rows,
            least=[options.least(one.name) for one in dataset.numeric],
            bins=options.bins,
        )

    def count(number: int) -> np.ndarray:
        return train_occurrences(dataset, number, is_train, options.max_values)

    jobs: list[Callable[[], Any]] = [fit, *(partial(count, number) for number in range(len(dataset.coded)))]
    counted = ordered_map(lambda job: job(), jobs)
    treated, present = next(counted)
    numeric = iter(zip(treated, present.tolist(), strict=True))
    offsets, frequency, code_of, local = [0], [], [], []
    for one in dataset.fields:
        if one.kind == "numeric":
            treatment, seen = next(numeric)
            counts = treatment.counts if isinstance(treatment, Binned) else [seen]
            frequency.append(np.append(rows - seen, counts))
            code_of.append(np.full(len(frequency[-1]), -1))
        else:
            occurrences = next(counted)
            kept = _kept(occurrences, options.least(one.name))
            row_of = np.zeros(len(occurrences), dtype=smallest_unsigned(len(kept)))
            row_of[kept] = 1 + np.arange(len(kept))
            local.append(row_of)
            frequency.append(np.append(occurrences.sum() - occurrences[kept].sum(), occurrences[kept]))
            code_of.append(np.append(-1, kept))
        offsets.append(offsets[-1] + len(frequency[-1]))
    return TrainVocabulary(
        dataset,
        np.asarray(offsets, dtype=np.int64),
        np.concatenate(frequency).astype(np.int64),
        np.concatenate(code_of).astype(np.int64),
        tuple(local),
        tuple(treated),
    )


def _kept(occurrences: np.ndarray, least: int) -> np.ndarray:
    """The codes with a row of their own, most frequent first, ties by code."""
    often = np.flatnonzero(occurrences >= least)
    return often[np.argsort(-occurrences[often], kind="stable")]


def train_occurrences(
    dataset: EncodedDataset, number: int, is_train: np.ndarray, max_values: int | None = None
) -> np.ndarray:
    """(n_f,) how often each raw code of a field occurs in train; number: the field's among those with ids.

    max_values: how many values of a row in a multi field count, the first; None for all.
    """
    total, codes = np.zeros(dataset.cardinalities[number], dtype=np.int64), dataset.codes[number]
    for part in row_slices(dataset.rows, _ROWS_AT_ONCE):
        values, mine = part, is_train[part]
        if number in dataset.ends:
            bounds = dataset.list_bounds(number, part)
            values, mine = slice(int(bounds[0]), int(bounds[-1])), np.repeat(mine, np.diff(bounds))
            if max_values is not None:
                mine &= np.arange(*bounds[[0, -1]]) < np.repeat(bounds[:-1] + max_values, np.diff(bounds))
        np.add.at(total, codes[values], mine.astype(np.int64))  # bincount would make n_f counts of every piece
        forget(codes)
    return total


def _train_numbers(dataset: EncodedDataset, is_train: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of train, in pieces (R, Fn)."""
    if dataset.values is None:
        return
    for part in row_slices(dataset.rows, _ROWS_AT_ONCE):
        yield dataset.values[part][is_train[part]]
        forget(dataset.values)
