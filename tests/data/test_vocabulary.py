from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnis_lightning.data.rows import RowLayout
from dnis_lightning.data.split import Split, assign_parts
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.data.vocabulary import MISSING, OTHER, VALUE, TrainVocabulary, VocabularyOptions, build_vocabulary

from .conftest import Table


@pytest.fixture
def train(dataset: EncodedDataset) -> np.ndarray:
    return Split(*assign_parts(dataset, "three_way", 0)).train[:60]


def built(dataset: EncodedDataset, train: np.ndarray, min_count: int, **options: Any) -> TrainVocabulary:
    options = {"numeric": "raw"} | options
    return build_vocabulary(dataset, np.isin(np.arange(dataset.rows), train), VocabularyOptions(min_count, **options))


def encoded(vocabulary: TrainVocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Table rows and values of all rows of the data set."""
    layout = RowLayout(vocabulary)
    batch = layout.batch(layout.records(slice(0, vocabulary.dataset.rows)), 1)
    values = torch.ones(batch.ids.shape) if batch.values is None else batch.values
    return batch.ids.numpy(), values.numpy()


@pytest.fixture(params=[1, 3, 1000])
def vocabulary(request: pytest.FixtureRequest, dataset: EncodedDataset, train: np.ndarray) -> TrainVocabulary:
    return built(dataset, train, request.param)


def test_each_field_begins_with_its_out_of_vocabulary_row(vocabulary: TrainVocabulary) -> None:
    names = list(vocabulary.names())
    assert len(names) == vocabulary.features == len(vocabulary.frequency) == len(vocabulary.field_of)
    assert [names[row] for row in vocabulary.out_of_vocabulary] == [("a", MISSING), ("b", OTHER), ("c", OTHER)]
    assert names[1] == ("a", VALUE)
    assert [vocabulary.fields[number].name for number in vocabulary.field_of] == [field for field, _ in names]


@pytest.mark.parametrize("min_count", [1, 3, 1000])
def test_rows_are_the_features_seen_often_enough_by_descending_frequency(
    min_count: int, dataset: EncodedDataset, table: Table, train: np.ndarray
) -> None:
    vocabulary = built(dataset, train, min_count)
    names = list(vocabulary.names())
    for number, field in enumerate("abc"):
        own = slice(vocabulary.offsets[number], vocabulary.offsets[number + 1])
        told = dict(zip([raw for _, raw in names[own]], vocabulary.frequency[own].tolist(), strict=True))
        column = table.columns[field][train]
        if field == "a":
            missing = int(np.isnan(column).sum())
            assert told == {MISSING: missing, VALUE: len(train) - missing}
            continue
        counts = Counter(str(raw) for raw in column)
        kept = {raw: count for raw, count in counts.items() if count >= min_count}
        assert told == {OTHER: len(train) - sum(kept.values()), **kept}
        assert list(told.values())[1:] == sorted(kept.values(), reverse=True)


def test_ties_are_in_the_order_of_the_codes(dataset: EncodedDataset, train: np.ndarray) -> None:
    vocabulary = built(dataset, train, 1)
    code, frequency = vocabulary.code_of[vocabulary.offsets[2] + 1 :], vocabulary.frequency[vocabulary.offsets[2] + 1 :]
    assert (np.diff(code)[np.diff(frequency) == 0] > 0).all()


def test_encoding_agrees_with_a_loop(vocabulary: TrainVocabulary, dataset: EncodedDataset, table: Table) -> None:
    row_of = {name: row for row, name in enumerate(vocabulary.names())}
    ids, values = encoded(vocabulary)
    assert (ids.dtype, values.dtype) == (np.int64, np.float32)
    for row in range(dataset.rows):
        number = table.columns["a"][row]
        if np.isnan(number):
            assert (ids[row, 0], values[row, 0]) == (row_of["a", MISSING], 1)
        else:
            assert (ids[row, 0], values[row, 0]) == (row_of["a", VALUE], number)
        for place, field in ((1, "b"), (2, "c")):
            raw = str(table.columns[field][row])
            assert ids[row, place] == row_of.get((field, raw), row_of[field, OTHER])
            assert values[row, place] == 1


def test_the_frequency_counts_the_encoded_rows_of_train(
    vocabulary: TrainVocabulary, dataset: EncodedDataset, train: np.ndarray
) -> None:
    ids = encoded(vocabulary)[0][train]
    np.testing.assert_array_equal(vocabulary.frequency, np.bincount(ids.ravel(), minlength=vocabulary.features))


def test_with_min_count_1_train_maps_nothing_to_the_out_of_vocabulary_rows(
    dataset: EncodedDataset, train: np.ndarray
) -> None:
    vocabulary = built(dataset, train, 1)
    assert vocabulary.frequency[vocabulary.out_of_vocabulary[1:]].tolist() == [0, 0]
    assert vocabulary.is_out_of_vocabulary.sum() == 3


def test_unseen_ids_are_expected_as_often_as_single_ones(dataset: EncodedDataset, train: np.ndarray) -> None:
    vocabulary = built(dataset, train, 1)
    expected = vocabulary.expected
    for number, first in enumerate(vocabulary.out_of_vocabulary):
        own = vocabulary.frequency[vocabulary.offsets[number] + 1 : vocabulary.offsets[number + 1]]
        numeric = vocabulary.fields[number].kind == "numeric"
        assert expected[first] == vocabulary.frequency[first] + (0 if numeric else (own == 1).sum())
        assert vocabulary.stands_for_unseen[first] == (not numeric)
    assert expected[vocabulary.stands_for_unseen].max() > 0
    others = ~vocabulary.is_out_of_vocabulary
    assert expected[others].tolist() == vocabulary.frequency[others].tolist()


def test_it_is_saved_and_loaded(vocabulary: TrainVocabulary, dataset: EncodedDataset, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    loaded = TrainVocabulary.load(tmp_path, dataset)
    for name in ("offsets", "frequency", "code_of"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(vocabulary, name))
    for one, other in zip(loaded.local, vocabulary.local, strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.numbers == vocabulary.numbers
    np.save(tmp_path / "local1.npy", vocabulary.local[1][:-1])
    with pytest.raises(ValueError, match="made for other data"):
        TrainVocabulary.load(tmp_path, dataset)


def test_a_field_may_have_a_least_count_of_its_own(dataset: EncodedDataset, train: np.ndarray) -> None:
    plain, own = built(dataset, train, 1), built(dataset, train, 1, min_counts={"c": 3})
    sizes, fewer = np.diff(plain.offsets), np.diff(own.offsets)
    assert fewer[2] < sizes[2]
    assert fewer[:2].tolist() == sizes[:2].tolist()


@pytest.mark.parametrize("form", ["log2", "quantile"])
def test_binned_numbers_have_a_row_for_each_bin(
    form: str, dataset: EncodedDataset, table: Table, train: np.ndarray
) -> None:
    vocabulary = built(dataset, train, 4, numeric=form, bins=6)
    ids, values = encoded(vocabulary)
    assert (values == 1).all()
    own = vocabulary.frequency[: vocabulary.offsets[1]]
    np.testing.assert_array_equal(own, np.bincount(ids[train, 0], minlength=len(own)))
    assert len(own) > 3
    assert own[1:].min() >= 4
    numbers = table.columns["a"]
    assert (ids[np.isnan(numbers), 0] == 0).all()
    order = np.argsort(numbers[~np.isnan(numbers)])
    assert (np.diff(ids[~np.isnan(numbers), 0][order]) >= 0).all()


def test_a_numeric_field_may_have_a_least_count_of_its_own(dataset: EncodedDataset, train: np.ndarray) -> None:
    plain = built(dataset, train, 1, numeric="quantile", bins=20)
    own = built(dataset, train, 1, numeric="quantile", bins=20, min_counts={"a": 10})
    assert plain.frequency[1 : plain.offsets[1]].min() < 10
    assert own.frequency[1 : own.offsets[1]].min() >= 10
    assert np.diff(own.offsets)[1:].tolist() == np.diff(plain.offsets)[1:].tolist()
