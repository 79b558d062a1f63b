"""What can be said of each field of a data set: how many ids, how many missing, how unevenly they occur in train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dnis_lightning.data.arrays import forget, row_slices
from dnis_lightning.data.parallel import ordered_map
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.schema import ENOUGH_ROWS, NO_VALUE, ONE_VALUE, UNIQUE
from dnis_lightning.data.source import Field
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.data.vocabulary import MISSING, train_occurrences
from dnis_lightning.packed.numbers import Binned

_POINTS = 200
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Skew:
    """How unevenly the features of a field occur in train; a feature: an id seen there, or a bin of numbers.

    features: how many there are. most, top_1, top_10: the shares of all occurrences that the most frequent feature has,
    and the most frequent 1 % and 10 % of them (rounded up). most_frequent: its raw id, or its bin. once: how many occur
    once. ranks, frequency: occurrences of the feature of each of some ranks, 1 = the most frequent.
    """

    features: int
    most: float
    top_1: float
    top_10: float
    most_frequent: str
    once: int
    ranks: np.ndarray
    frequency: np.ndarray


@dataclass(frozen=True)
class FieldFacts:
    """One field.

    distinct: ids in all rows, a missing value being one of them where it occurs; None for numbers. missing: the share
    of all rows. table_rows: of the embedding table. out_of_vocabulary: the share of train's occurrences that have no
    row of their own; None for numbers. skew: None for numbers that multiply an embedding, and where train has no value.
    """

    name: str
    kind: str
    distinct: int | None
    missing: float
    table_rows: int
    out_of_vocabulary: float | None
    skew: Skew | None
    remark: str


def field_facts(prepared: Prepared) -> list[FieldFacts]:
    """The facts of each field. Memory: the occurrences of one field's ids a core."""
    dataset, is_train = prepared.dataset, prepared.split.is_train
    coded = ordered_map(lambda number: _of_ids(prepared, number, is_train), range(len(dataset.coded)))
    numeric = _of_numbers(prepared)
    return [next(numeric) if field.kind == "numeric" else next(coded) for field in dataset.fields]


def features_of(facts: FieldFacts) -> int:
    """As the paper counts them: distinct ids, and 1 for numbers."""
    return 1 if facts.distinct is None else facts.distinct


def skew_of(counts: np.ndarray, name: str) -> Skew | None:
    """counts: of each feature, in any order; zeros are left out. name: of the most frequent."""
    descending = np.sort(counts[counts > 0])[::-1]
    count = len(descending)
    if not count:
        return None
    held = np.cumsum(descending) / descending.sum()
    ranks = np.unique(np.geomspace(1, count, _POINTS).round().astype(np.int64))
    return Skew(
        features=count,
        most=float(held[0]),
        top_1=float(held[math.ceil(count / 100) - 1]),
        top_10=float(held[math.ceil(count / 10) - 1]),
        most_frequent=name,
        once=int(np.count_nonzero(descending == 1)),
        ranks=ranks,
        frequency=descending[ranks - 1],
    )


def _of_ids(prepared: Prepared, number: int, is_train: np.ndarray) -> FieldFacts:
    dataset = prepared.dataset
    field, distinct = dataset.coded[number], dataset.cardinalities[number]
    counts = train_occurrences(dataset, number, is_train)
    raw = dataset.raw_ids(field.name)
    missing = _missing(dataset, number)
    rows, outside = _in_table(prepared, field, int(counts.sum()))
    skew = skew_of(counts, (raw[int(counts.argmax())] or MISSING) if distinct else "")
    remark = _remark(field, distinct, missing, outside, skew, dataset.rows)
    return FieldFacts(field.name, field.kind, distinct, missing, rows, outside, skew, remark)


def _in_table(prepared: Prepared, field: Field, occurrences: int) -> tuple[int, float]:
    """How many rows of the table a field has, and the share of its occurrences in train that fall to the first."""
    vocabulary = prepared.vocabulary
    at = vocabulary.fields.index(field)
    start, end = vocabulary.offsets[at : at + 2].tolist()
    return end - start, float(vocabulary.frequency[start]) / max(occurrences, 1)


def _missing(dataset: EncodedDataset, number: int) -> float:
    """The share of rows without a value."""
    code = dataset.code_of_missing(number)
    if code is None:
        return 0.0
    codes = dataset.codes[number]
    found = 0
    for part in row_slices(len(codes)):
        found += int(np.count_nonzero(codes[part] == code))
        forget(codes)
    return found / dataset.rows


def _of_numbers(prepared: Prepared) -> Iterator[FieldFacts]:
    dataset, vocabulary = prepared.dataset, prepared.vocabulary
    present, low, high = _ranges(dataset)
    for number, field in enumerate(dataset.numeric):
        treated = vocabulary.numbers[number]
        rows, _ = _in_table(prepared, field, 0)
        skew = None
        if isinstance(treated, Binned):
            skew = skew_of(treated.counts, treated.names()[int(treated.counts.argmax())])
        alone = present[number] == dataset.rows and low[number] == high[number]
        remark = NO_VALUE if not present[number] else ONE_VALUE if alone else ""
        missing = 1 - int(present[number]) / dataset.rows
        yield FieldFacts(field.name, field.kind, None, missing, rows, None, skew, remark)


def _ranges(dataset: EncodedDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Fn,) each: how many rows have a number, the least and the largest."""
    fields = len(dataset.numeric)
    present, low, high = np.zeros(fields, dtype=np.int64), np.full(fields, np.inf), np.full(fields, -np.inf)
    if dataset.values is None:
        return present, low, high
    for part in row_slices(dataset.rows, _ROWS_AT_ONCE):
        values = dataset.values[part]
        there = ~np.isnan(values)
        present += there.sum(0)
        low = np.minimum(low, np.where(there, values, np.inf).min(0))
        high = np.maximum(high, np.where(there, values, -np.inf).max(0))
        forget(dataset.values)
    return present, low, high


def _remark(field: Field, distinct: int, missing: float, outside: float, skew: Skew | None, rows: int) -> str:
    if missing == 1:
        return NO_VALUE
    if distinct == 1:
        return ONE_VALUE
    if field.kind == "categorical" and distinct == rows >= ENOUGH_ROWS:
        return UNIQUE
    if outside > 0.5:
        return "most of it is out of vocabulary"
    if skew is not None and skew.most_frequent == MISSING and skew.most > 0.5:
        return "mostly missing"
    return ""
