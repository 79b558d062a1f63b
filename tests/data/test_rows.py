"""The rows of a part: records against a loop over the raw rows, and the order they are in on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dnis_lightning.data.loader import Loader
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.rows import RowLayout, write_parts
from dnis_lightning.data.source import PARTS
from dnis_lightning.data.vocabulary import MISSING, OTHER, VALUE, TrainVocabulary, VocabularyOptions
from dnis_lightning.packed.numbers import Binned

from .conftest import Table, mixed_table, random_table

ROWS = 150


def prepared(folder: Path, table: Table | None = None, **options: Any) -> Prepared:
    return prepare(mixed_table(ROWS) if table is None else table, cache=folder, **options)


def slots(vocabulary: TrainVocabulary, table: Table, row: int, pooling: str, most: int) -> list[dict[int, float]]:
    """For each field, how much each table row weighs in a row of the raw table."""
    row_of = {name: number for number, name in enumerate(vocabulary.names())}
    treatments = iter(vocabulary.numbers)
    made: list[dict[int, float]] = []
    for number, field in enumerate(table.fields):
        raw = table.columns[field.name][row]
        if field.kind == "numeric":
            treatment = next(treatments)
            if np.isnan(raw):
                made.append({row_of[field.name, MISSING]: 1})
            elif isinstance(treatment, Binned):
                bin_ = int(np.sum(treatment.edges <= raw))
                made.append({int(vocabulary.offsets[number]) + 1 + bin_: 1})
            else:
                made.append({row_of[field.name, VALUE]: float(treatment(np.array([raw]))[0])})
            continue
        values = [raw] if field.kind == "categorical" else (raw.as_py() or [None])[:most]
        made.append({})
        for value in values:
            name = (field.name, "" if value is None else str(value))
            at = row_of.get(name, row_of[field.name, OTHER])
            made[-1][at] = made[-1].get(at, 0) + 1 / (len(values) if pooling == "mean" else 1)
    return made


@pytest.mark.parametrize(
    ("pooling", "most", "numeric"),
    [("mean", 16, "scalar"), ("sum", 16, "quantile"), ("mean", 3, "log2"), ("sum", 3, "standard"), ("mean", 1, "raw")],
)
def test_a_batch_is_what_a_loop_makes_of_the_raw_rows(pooling: Any, most: int, numeric: Any, tmp_path: Path) -> None:
    table = mixed_table(ROWS)
    options = VocabularyOptions(3, numeric=numeric, bins=5)
    made = prepared(tmp_path, table, options=options, pooling=pooling, max_values=most)
    layout = made.parts["train"].layout
    batch = layout.batch(np.concatenate([layout.records(slice(0, 50)), layout.records(slice(50, ROWS))]), ROWS)
    assert batch.values is not None
    assert batch.offsets is not None
    assert batch.offsets.tolist()[-1] == layout.columns == 4 + min(most, 6) + min(most, 2)
    np.testing.assert_array_equal(batch.label, table.label)
    for row in range(ROWS):
        expected = slots(made.vocabulary, table, row, pooling, most)
        for field, (start, end) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
            slot = slice(int(start), int(end))
            found: dict[int, float] = {}
            for at, value in zip(batch.ids[row, slot].tolist(), batch.values[row, slot].tolist(), strict=True):
                assert made.vocabulary.offsets[field] <= at < made.vocabulary.offsets[field + 1]
                if value or end - start == 1:
                    found[at] = found.get(at, 0) + value
            assert found == pytest.approx(expected[field], rel=1e-6)


@pytest.mark.parametrize(("ids", "kind"), [(255, "u1"), (256, "u2"), (65_535, "u2"), (65_536, "u4")])
def test_ids_take_as_few_bytes_as_they_can(ids: int, kind: str, tmp_path: Path) -> None:
    """With the row for all other ids there is one more."""
    rows = 2 * ids
    table = Table({"a": np.arange(rows) % ids, "b": np.zeros(rows, int)}, np.zeros(rows, np.float32), rows_at_once=rows)
    made = prepared(tmp_path, table, split="paper")
    vocabulary = made.vocabulary
    everything = TrainVocabulary(
        made.dataset,
        np.array([0, ids + 1, ids + 3]),
        vocabulary.frequency,
        vocabulary.code_of,
        (np.arange(1, ids + 1), np.ones(1, dtype=np.uint8)),
        (),
    )
    dtype = RowLayout(everything).dtype
    expected = 1 + np.dtype(kind).itemsize + 1  # the labels are 0, which is binary
    assert dtype.itemsize == expected
    assert RowLayout(everything).records(slice(0, rows))[kind][:, 0].max() == ids


def on_disk(made: Prepared) -> dict[str, list[float]]:
    """The labels of each part in the order of the file."""
    files = {name: Loader([part], batch_size=64, shuffle=False) for name, part in made.parts.items()}
    return {name: [one for batch in loader for one in batch.label.tolist()] for name, loader in files.items()}


def numbered(rows: int = ROWS) -> Table:
    """Rows whose label is their number."""
    return Table(mixed_table(rows).columns, np.arange(rows, dtype=np.float32))


@pytest.fixture
def many_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several buckets for train, and one or a few for the others, from 13 rows at a time."""
    monkeypatch.setattr("dnis_lightning.data.rows._BUCKET_BYTES", 1 << 9)
    monkeypatch.setattr("dnis_lightning.data.rows._ROWS_AT_ONCE", 13)


@pytest.mark.parametrize("split", ["three_way", "paper"])
@pytest.mark.parametrize("buckets", ["one", "many"])
def test_the_parts_hold_the_rows_of_the_split(
    buckets: str, split: Any, tmp_path: Path, request: pytest.FixtureRequest, listing: Callable[[Path], list[str]]
) -> None:
    if buckets == "many":
        request.getfixturevalue("many_buckets")
    made = prepared(tmp_path, numbered(), split=split)
    found = on_disk(made)
    for name in PARTS:
        rows = getattr(made.split, name).tolist()
        assert sorted(found[name]) == rows
        assert found[name] != rows
    assert made.mean_label == pytest.approx(made.split.train.mean())
    assert made.label_std == pytest.approx(made.split.train.std())
    assert listing(made.parts["train"].path.parent) == sorted(["rows.json", *(f"{name}.rows" for name in PARTS)])


@pytest.mark.usefixtures("many_buckets")
def test_buckets_hold_the_records_of_their_rows(tmp_path: Path) -> None:
    made = prepared(tmp_path, numbered())
    layout = made.parts["train"].layout
    whole = layout.records(slice(0, ROWS))
    records = np.fromfile(made.parts["train"].path, dtype=layout.dtype)
    assert records.tobytes() == whole[records["label"].astype(int)].tobytes()


@pytest.mark.usefixtures("many_buckets")
def test_the_seed_gives_the_order(tmp_path: Path) -> None:
    made = prepared(tmp_path, numbered())
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_parts(made.parts["train"].layout, made.split, folder, seed)
        orders.append((folder / "train.rows").read_bytes())
    assert orders[0] == orders[1] == made.parts["train"].path.read_bytes()
    assert orders[2] != orders[0]


@pytest.mark.parametrize("buckets", ["one", "many"])
def test_any_row_may_be_in_any_place(buckets: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """χ² of the eighth of the data that a row is from against the eighth of the file that it is in.

    49 degrees of freedom summed over 12 seeds: 588, with a standard deviation of 34.
    """
    if buckets == "many":
        request.getfixturevalue("many_buckets")
    rows, seeds, statistic = 600, 12, 0.0
    table = Table({"u": np.zeros(rows, int)}, np.arange(rows, dtype=np.float32), rows_at_once=rows)
    for seed in range(seeds):
        found = on_disk(prepared(tmp_path, table, split_seed=seed))["train"]
        home = np.argsort(np.argsort(found)) * 8 // len(found)
        place = np.arange(len(found)) * 8 // len(found)
        table_of = np.zeros((8, 8))
        np.add.at(table_of, (home, place), 1)
        expected = len(found) / 64
        statistic += ((table_of - expected) ** 2 / expected).sum()
    assert abs(statistic - 49 * seeds) < 5 * (2 * 49 * seeds) ** 0.5


@pytest.mark.parametrize("damage", ["short", "long", "missing", "json", "record", "counts", "list"])
def test_damaged_rows_are_written_anew(damage: str, tmp_path: Path, listing: Callable[[Path], list[str]]) -> None:
    first = prepared(tmp_path)
    whole, path = listing(tmp_path), first.parts["train"].path
    kept, told = path.read_bytes(), json.loads((path.parent / "rows.json").read_text())
    if damage in ("short", "long"):
        path.write_bytes(kept[:-1] if damage == "short" else kept + b"x")
    elif damage == "missing":
        path.unlink()
    else:
        texts = {
            "json": "{",
            "record": json.dumps(told | {"record": told["record"] + 1}),
            "counts": json.dumps(told | {"rows": {}}),
            "list": "[]",
        }
        (path.parent / "rows.json").write_text(texts[damage])
    again = prepared(tmp_path)
    assert again.parts["train"].path.read_bytes() == kept
    assert again.mean_label == first.mean_label
    assert listing(tmp_path) == whole


def test_another_pooling_reads_the_same_files_and_other_max_values_do_not(tmp_path: Path) -> None:
    mean, total = prepared(tmp_path), prepared(tmp_path, pooling="sum")
    assert mean.parts["train"].path == total.parts["train"].path
    assert prepared(tmp_path, max_values=2).parts["train"].path != mean.parts["train"].path
    plain = prepared(tmp_path, random_table(ROWS))
    assert prepared(tmp_path, random_table(ROWS), max_values=2).parts["train"].path == plain.parts["train"].path


def test_lists_that_are_all_empty_are_missing(tmp_path: Path) -> None:
    lists = pa.array([[], None] * 50, pa.list_(pa.string()))
    made = prepared(tmp_path, Table({"t": lists}, np.arange(100, dtype=np.float32)))
    assert list(made.vocabulary.names()) == [("t", OTHER), ("t", "")]
    batch = next(iter(Loader([made.parts["train"]], batch_size=9, shuffle=False)))
    assert batch.ids.tolist() == [[1]] * 9
    assert batch.values is not None
    assert batch.values.tolist() == [[1]] * 9


def test_a_list_of_very_many_values_is_cut(tmp_path: Path) -> None:
    lists = pa.array([list(range(5000))] + [[1]] * 99, pa.list_(pa.int64()))
    made = prepared(tmp_path, Table({"t": lists}, np.arange(100, dtype=np.float32), rows_at_once=33), max_values=4)
    assert made.parts["train"].layout.columns == 4


def test_values_that_are_not_kept_have_no_rows(tmp_path: Path) -> None:
    lists = pa.array([["a", "b", "c"], ["b"], ["a", "b", "d"], []] * 25)
    made = prepared(tmp_path, Table({"t": lists}, np.arange(100, dtype=np.float32)), max_values=2)
    assert {raw for _, raw in made.vocabulary.names()} == {"<other>", "a", "b", ""}
    layout = made.parts["train"].layout
    batch = layout.batch(layout.records(slice(0, 100)), 100)
    assert batch.values is not None
    train = made.split.part == 0
    seen = batch.ids[train][batch.values[train] > 0]
    np.testing.assert_array_equal(made.vocabulary.frequency, np.bincount(seen, minlength=made.vocabulary.features))
