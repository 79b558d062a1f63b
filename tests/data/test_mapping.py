from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from dnis_lightning.data.mapping import RawMapping, save_mapping
from dnis_lightning.data.packing import pack_fields
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.source import Field, RawForm
from dnis_lightning.data.table import Table as OwnTable
from dnis_lightning.data.vocabulary import VocabularyOptions
from dnis_lightning.errors import DataError, RunError
from dnis_lightning.packed import PackedEmbedding, PackedTable

from .conftest import Table, random_table


class WithLists(Table):
    """A table with a multi field beside the others, some of its lists empty or long."""

    def __init__(self) -> None:
        plain = random_table(300)
        rng = np.random.default_rng(1)
        lists = [[f"t{tag}" for tag in rng.integers(0, 9, rng.integers(0, 6))] for _ in range(300)]
        super().__init__(plain.columns, plain.label)
        self.fields = (*plain.fields, Field("tags", "multi"))
        self.columns = {**plain.columns, "tags": pa.array(lists)}


@pytest.fixture(params=["scalar", "quantile"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> Prepared:
    options = VocabularyOptions(2, numeric=request.param, bins=5)
    return prepare(WithLists(), cache=tmp_path / "cache", options=options, max_values=3)


def test_raw_rows_are_encoded_as_in_training_without_the_data_set(prepared: Prepared, tmp_path: Path) -> None:
    save_mapping(tmp_path, prepared)
    layout = prepared.parts["train"].layout
    expected = layout.batch(layout.records(slice(0, 300)), 300)
    found = RawMapping.load(tmp_path).encode(WithLists().columns)
    assert torch.equal(found.ids, expected.ids)
    assert expected.values is not None
    assert found.values is not None
    torch.testing.assert_close(found.values, expected.values)
    assert expected.offsets is not None
    assert found.offsets is not None
    assert torch.equal(found.offsets, expected.offsets)


def test_what_training_never_saw_goes_to_the_row_of_its_field_for_others(prepared: Prepared, tmp_path: Path) -> None:
    save_mapping(tmp_path, prepared)
    raw = {
        "a": np.array([np.nan], np.float32),
        "b": pa.array(["never"]),
        "c": np.array([-1]),
        "tags": pa.array([["no"]]),
    }
    found = RawMapping.load(tmp_path).encode(raw)
    assert found.ids[0].tolist()[:3] == prepared.vocabulary.offsets[:3].tolist()
    assert set(found.ids[0].tolist()[3:]) == {int(prepared.vocabulary.offsets[3])}


def test_a_column_that_is_not_there_is_named(prepared: Prepared, tmp_path: Path) -> None:
    save_mapping(tmp_path, prepared)
    with pytest.raises(DataError, match="no column b, c; the model was trained on them"):
        RawMapping.load(tmp_path).encode({"a": np.zeros(1, np.float32), "tags": pa.array([["x"]])})


def test_a_damaged_or_absent_mapping_is_named(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"data\.schema: cannot be read .*; name the folder of a run"):
        RawMapping.load(tmp_path)
    save_mapping(tmp_path, prepared)
    (tmp_path / "data.schema").write_text('{"schema": 99}')
    with pytest.raises(RunError, match="schema 99, expected 2"):
        RawMapping.load(tmp_path)


def test_new_rows_may_come_in_other_types_than_in_training(prepared: Prepared, tmp_path: Path) -> None:
    save_mapping(tmp_path, prepared)
    told = RawMapping.load(tmp_path)
    usual = {"a": np.array([0.5, np.nan], np.float32), "b": pa.array(["x", ""]), "c": np.array([12, 13])}
    expected = told.encode({**usual, "tags": pa.array([["t1", "t2"], ["t3"]])})
    other = {"a": pa.array(["0.5", ""]), "b": pa.array(["x", None], pa.large_string()), "c": pa.array([12.0, 13.0])}
    found = told.encode({**other, "tags": pa.array([["", "t1", None, "t2"], ["t3"]])})
    assert torch.equal(found.ids, expected.ids)
    assert expected.values is not None
    assert found.values is not None
    assert torch.equal(found.values, expected.values)


def test_text_in_place_of_lists_and_words_in_place_of_numbers_are_named(prepared: Prepared, tmp_path: Path) -> None:
    save_mapping(tmp_path, prepared)
    told = RawMapping.load(tmp_path)
    rows = {"a": pa.array([0.5]), "b": pa.array(["x"]), "c": pa.array([12]), "tags": pa.array([["t1"]])}
    with pytest.raises(DataError, match="tags is of the type string, expected lists of ids"):
        told.encode({**rows, "tags": pa.array(["t1|t2"])})
    with pytest.raises(DataError, match="row 1: a is 'cheap', expected a number; mend or remove this row"):
        told.encode({**rows, "a": pa.array(["cheap"])})


TEXT = """user,price,tags,clicked
007,1.5,a|b,1
7,?,b,0
?,2.5,?,1
NA,0.5,a|?|c,0
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of the mapping of a text file in which ? stands for what is missing, NA for itself."""
    (tmp_path / "clicks.csv").write_text(TEXT + "".join(TEXT.splitlines(keepends=True)[1:]) * 9)
    table = OwnTable(str(tmp_path / "clicks.csv"), "clicked", "ctr", multi=["tags"], numeric=["price"], missing=["?"])
    prepared = prepare(table, cache=tmp_path / "cache", options=VocabularyOptions(numeric="raw"))
    save_mapping(tmp_path, prepared)
    return tmp_path


def test_raw_text_means_what_it_meant_in_training(own: Path) -> None:
    told = RawMapping.load(own)
    assert told.columns == ("user", "price", "tags")
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(told.columns, pa.string()))
    new = pyarrow.csv.read_csv(own / "clicks.csv", convert_options=as_text).slice(0, 4)
    batch = told.encode({name: new[name] for name in told.columns})
    names = dict(
        zip(*(pq.read_table(own / "vocabulary.parquet").to_pydict()[key] for key in ("row", "id")), strict=True)
    )
    assert [names[row] for row in batch.ids[:, 0].tolist()] == ["007", "7", "", "NA"]
    assert batch.values is not None
    assert batch.values[:, 1].tolist() == [1.5, 1.0, 2.5, 0.5]
    assert (batch.ids[:, 1] - batch.ids[0, 1]).tolist() == [0, -1, 0, 0]
    tags = [
        [names[row] for row, value in zip(ids, values, strict=True) if value]
        for ids, values in zip(batch.ids[:, 2:].tolist(), batch.values[:, 2:].tolist(), strict=True)
    ]
    assert tags == [["a", "b"], ["b"], [""], ["a", "c"]]


def test_lists_in_place_of_joined_text_and_a_type_that_is_neither(own: Path) -> None:
    told = RawMapping.load(own)
    rows = {"user": pa.array(["007", "?"]), "price": pa.array(["1.5", "?"])}
    joined = told.encode({**rows, "tags": pa.array(["a|b", "?"]).dictionary_encode()})
    lists = told.encode({**rows, "tags": pa.array([["a", "?", "b"], None])})
    assert torch.equal(joined.ids, lists.ids)
    large = told.encode({**rows, "tags": pa.array(["a|b", None], pa.large_string())})
    assert torch.equal(large.ids, lists.ids)
    one_each = told.encode({**rows, "tags": pa.array([1, 2])})
    assert one_each.ids[:, 2].tolist() == [told.fields[2].first] * 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"user": pa.array(["007"])}, "price has 2 rows, user has 1; take columns of one length"),
        ({"price": pa.array([1.0])}, "price has 1 rows, user has 2; take columns of one length"),
        ({"user": pa.array([["a"], ["b"]])}, "user: no column to read ids from"),
        ({"user": np.array(["1", 2], object)}, "user: no column to read ids from"),
        ({"tags": pa.array([[["a"]], []])}, "tags: no column to read lists of ids from"),
        ({"price": pa.array([{"a": 1}, {}])}, "price: no column to read numbers from"),
        ({"user": pa.array([b"7", b"\xff"])}, "row 2: user is b'\\\\xff', expected text in UTF-8"),
    ],
)
def test_columns_that_are_none_are_named(own: Path, changed: dict[str, Any], says: str) -> None:
    rows = {"user": pa.array(["007", "?"]), "price": pa.array(["1.5", "?"]), "tags": pa.array(["a|b", ""])}
    with pytest.raises(DataError, match=says):
        RawMapping.load(own).encode({**rows, **changed})


def test_joined_text_of_a_parquet_file_and_a_whole_table_are_taken(tmp_path: Path) -> None:
    table = pa.table(
        {"when": pa.array([0, 10**6] * 20, pa.timestamp("us")), "tags": ["a|b", ""] * 20, "y": [0, 1] * 20}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = OwnTable(str(tmp_path / "a.parquet"), "y", "ctr", multi=["tags"])
    save_mapping(tmp_path, prepare(source, cache=tmp_path / "cache"))
    told = RawMapping.load(tmp_path)
    found = told.encode(table.slice(0, 2))
    finer = told.encode({"when": table["when"].cast(pa.timestamp("ns")).slice(0, 2), "tags": table["tags"].slice(0, 2)})
    assert torch.equal(found.ids, finer.ids)
    assert (found.ids[:, :2] > torch.tensor([f.first for f in told.fields])).all()


def test_packed_fields_give_each_raw_id_its_row(prepared: Prepared) -> None:
    fields, raw = pack_fields(prepared), WithLists()
    layout = prepared.parts["train"].layout
    expected = layout.batch(layout.records(slice(0, 300)), 300).ids.numpy()
    assert [(one.name, one.kind) for one in fields] == [(one.name, one.kind) for one in raw.fields]
    assert [one.columns for one in fields] == np.diff(layout.bounds).tolist()
    start = 0
    for one in fields:
        if one.kind == "categorical":
            column = raw.columns[one.name]
            ids = column.to_pylist() if isinstance(column, pa.Array) else column.tolist()
            assert one.features(ids).tolist() == expected[:, start].tolist()
        elif one.kind == "numeric":
            assert one.of_numbers(raw.columns[one.name])[0].tolist() == expected[:, start].tolist()
        else:
            lists = raw.columns[one.name].to_pylist()
            first = [one.features(tags[:1] or [None])[0] for tags in lists]
            assert first == expected[:, start].tolist()
        start += one.columns


@pytest.mark.parametrize("form", [RawForm(("", "?"), "|", quoted=False), RawForm()])
def test_an_embedding_says_how_raw_text_is_read(form: RawForm) -> None:
    empty = PackedTable.of(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), 4)
    told = {"pooling": "sum", "raw_form": json.loads(json.dumps(asdict(form)))}
    assert RawMapping.of(PackedEmbedding(empty, (), told)) == RawMapping((), "sum", form)
    with pytest.raises(RunError, match="pooling 'last'"):
        RawMapping.of(PackedEmbedding(empty, (), told | {"pooling": "last"}))
