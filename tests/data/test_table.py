from __future__ import annotations

import datetime
import gzip
import math
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnis_lightning.data import table_parquet, text
from dnis_lightning.data.readings import moments, texts
from dnis_lightning.data.source import Field
from dnis_lightning.data.table import Table
from dnis_lightning.errors import ConfigError, DataError

CLICKS = """user,city,age,price,clicked
007,Zürich,30,1.5,1
8,"New York, NY",,2.25,0
9,"two
lines",41,NA,1
007,,30,-1e3,0
"""
EXPECTED: dict[str, list[Any]] = {
    "user": ["007", "8", "9", "007"],
    "city": ["Zürich", "New York, NY", "two\nlines", ""],
    "age": ["30", "", "41", "30"],
    "price": [1.5, 2.25, None, -1000.0],
}


def table(path: Path | str | list[str], label: str = "clicked", **options: Any) -> Table:
    return Table(path if isinstance(path, list) else str(path), label, **{"task": "ctr", **options})


def read(source: Table) -> dict[str, list[Any]]:
    """All columns of all chunks, and the label, time and part."""
    found: dict[str, list[Any]] = {}
    for chunk in source.chunks():
        assert list(chunk.columns) == [field.name for field in source.fields]
        assert chunk.label.dtype == np.float32
        values = {name: pa.chunked_array(column).to_pylist() for name, column in chunk.columns.items()}
        values |= {"label": chunk.label.tolist()}
        for name in ("time", "part"):
            if (column := getattr(chunk, name)) is not None:
                values[name] = column.tolist()
        for name, column in values.items():
            assert len(column) == len(chunk.label)
            found.setdefault(name, []).extend(column)
    return found


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def kinds(source: Table) -> dict[str, str]:
    return {field.name: field.kind for field in source.fields}


def test_quoted_csv_is_read_with_what_its_columns_are(tmp_path: Path) -> None:
    source = table(write(tmp_path / "clicks.csv", CLICKS))
    assert source.fields == (
        Field("user", "categorical"),
        Field("city", "categorical"),
        Field("age", "categorical"),
        Field("price", "numeric"),
    )
    assert read(source) == {**EXPECTED, "label": [1, 0, 1, 0]}


@pytest.mark.parametrize("ending", ["csv.gz", "csv.zst", "tsv", "txt", "dat"])
def test_compressed_and_otherwise_separated_files_read_the_same(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"clicks.{ending}"
    if ending == "csv.gz":
        path.write_bytes(gzip.compress(CLICKS.encode()))
    elif ending == "csv.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(CLICKS.encode())
    else:
        separator = {"tsv": "\t", "txt": "\t", "dat": ";"}[ending]
        text = CLICKS.replace(", ", "_").replace(",", separator).replace("_", ", ")
        write(path, text)
    quoted = {"quoted": True} if ending in ("tsv", "txt") else {}
    assert read(table(path, **quoted)) == {**EXPECTED, "label": [1, 0, 1, 0]}


def test_csv_separated_by_semicolons_is_found_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user;clicked\n1,5;1\n2,5;0\n")
    assert read(table(path))["user"] == ["1,5", "2,5"]


def test_tabs_can_be_written_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.log", "u,v\tclicked\n1,5\t1\n")
    for separator in ("\\t", "tab", "\t"):
        assert read(table(path, separator=separator))["u,v"] == ["1,5"]


def test_files_of_a_pattern_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", "clicked,user\n0,b\n")
    write(tmp_path / "a.csv", "user,clicked\na,1\n")
    write(tmp_path / "c.txt", "other")
    for path in (str(tmp_path / "*.csv"), [str(tmp_path / "b.csv"), str(tmp_path / "a.csv")]):
        source = table(path)
        assert read(source) == {"user": ["a", "b"], "label": [1, 0]}
        done = [chunk.done for chunk in source.chunks()]
        assert done[-1] == 1
        assert done == sorted(done)


def test_what_is_said_of_columns_goes_before_what_they_seem_to_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CLICKS)
    assert kinds(table(path, numeric=["age"]))["age"] == "numeric"
    assert kinds(table(path, kinds={"price": "categorical", "age": "numeric", "city": "ignore"})) == {
        "user": "categorical",
        "age": "numeric",
        "price": "categorical",
    }
    assert kinds(table(path, fields=["price", "user"], numeric=["age"])) == {
        "price": "numeric",
        "user": "categorical",
        "age": "numeric",
    }
    assert kinds(table(path, ignore=["user", "price"])) == {"city": "categorical", "age": "categorical"}
    ages = read(table(path, numeric=["age"]))["age"]
    assert ages == [30, None, 41, 30]


def test_several_values_are_split_and_the_missing_ones_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "genres,clicked\na|b,1\n,0\nNA,1\nb||NA|c,0\nd,0\n")
    assert read(table(path, multi=["genres"]))["genres"] == [["a", "b"], [], [], ["b", "c"], ["d"]]
    spaced = write(tmp_path / "b.csv", "genres,clicked\na b,1\n")
    assert read(table(spaced, kinds={"genres": "multi"}, multi_separator=" "))["genres"] == [["a", "b"]]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["3", "1"], [3, 1]),
        (["3.0", "1"], [3, 1]),
        (["1.5", "-2"], [1_500_000, -2_000_000]),
        (["1970-01-02", "1970-01-01T00:00:01.5"], [86_400_000_000, 1_500_000]),
        (["1970-01-01 00:00:01Z", "1970-01-01T01:00:00+01:00"], [1_000_000, 0]),
    ],
)
def test_times_are_whole_numbers_or_microseconds(times: list[str], expected: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"user,at,clicked\na,{times[0]},0\nb,{times[1]},1\n")
    source = table(path, time="at")
    assert read(source)["time"] == expected
    assert next(source.chunks()).time.dtype == np.int64  # type: ignore[union-attr]
    assert [field.name for field in source.fields] == ["user"]


def test_a_column_says_which_part_a_row_is_of(tmp_path: Path) -> None:
    names = ["train", "Search", "SELECT", "valid", "validation", "val", "dev", "test"]
    path = write(tmp_path / "a.csv", "fold,user,clicked\n" + "".join(f"{name},u,1\n" for name in names))
    source = table(path, split_column="fold")
    assert read(source)["part"] == [0, 1, 2, 2, 2, 2, 2, 3]
    assert next(source.chunks()).part.dtype == np.uint8  # type: ignore[union-attr]
    write(path, "fold,user,clicked\ntrain,u,1\nholdout,u,1\n")
    with pytest.raises(DataError, match=r"a\.csv:3: fold is 'holdout', expected train, search, select"):
        read(table(path, split_column="fold"))


def test_labels_go_with_the_task(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,y\na,true\nb,False\nc,1.0\nd,0\n")
    assert read(table(path, "y"))["label"] == [1, 0, 1, 0]
    path = write(tmp_path / "b.csv", "user,y\na,-3.5\nb,1e2\n")
    assert read(table(path, "y", task="rating"))["label"] == [-3.5, 100]
    with pytest.raises(DataError, match=r"b\.csv:2: y is '-3.5', expected 0 or 1 \(data\.task=rating takes any"):
        read(table(path, "y"))


def test_files_without_a_header_have_their_columns_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.dat", "1::0054::9::5\n02::0054::10::6\n")
    source = table(path, "rating", task="rating", separator="::", columns=["user", "item", "rating", "at"], time="at")
    assert read(source) == {"user": ["1", "02"], "item": ["0054", "0054"], "label": [9, 10], "time": [5, 6]}


def test_a_column_without_a_name_gets_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",user,clicked\n0,a,1\n1,b,0\n")
    assert list(kinds(table(path))) == ["column1", "user"]


def write_parquet(path: Path, columns: dict[str, Any], rows_at_once: int = 2) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows_at_once)
    return path


PARQUET = {
    "clicked": pa.array([1, 0, 1]),
    "id": pa.array([7, None, 2**62 + 1], pa.int64()),
    "whole": pa.array([7.0, None, math.nan]),
    "price": pa.array([0.5, math.nan, None]),
    "exact": pa.array([Decimal("1.25"), None, Decimal("2.00")]),
    "on": pa.array([True, None, False]),
    "day": pa.array([datetime.date(2024, 5, 31), None, datetime.date(2024, 6, 1)]),
    "city": pa.array(["Bern", None, ""]).dictionary_encode(),
    "raw": pa.array([b"a", None, b"\xc3\xbc"]),
    "tags": pa.array([["a", None, "b"], None, [""]]),
    "numbers": pa.array([[1, 2], [], [3]]),
    "nested": pa.array([{"a": 1}, None, {"a": 2}]),
}


def test_parquet_columns_of_every_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_parquet, "BATCH_ROWS", 2)
    source = table(write_parquet(tmp_path / "a.parquet", PARQUET))
    assert kinds(source) == {
        **dict.fromkeys(["id", "whole", "on", "day", "city", "raw"], "categorical"),
        **dict.fromkeys(["price", "exact"], "numeric"),
        **dict.fromkeys(["tags", "numbers"], "multi"),
    }
    found = read(source)
    assert found == {
        "id": ["7", "", str(2**62 + 1)],
        "whole": ["7", "", ""],
        "price": [0.5, None, None],
        "exact": [1.25, None, 2.0],
        "on": ["true", "", "false"],
        "day": ["2024-05-31", "", "2024-06-01"],
        "city": ["Bern", "", ""],
        "raw": ["a", "", "ü"],
        "tags": [["a", "b"], [], []],
        "numbers": [["1", "2"], [], ["3"]],
        "label": [1, 0, 1],
    }
    assert [len(chunk.label) for chunk in source.chunks()] == [2, 1]
    assert {str(pa.chunked_array(next(source.chunks()).columns[name]).type) for name in ("price", "exact")} == {"float"}


def test_parquet_columns_of_rarer_types(tmp_path: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    columns = {
        "clicked": pa.array([1, 0], pa.uint8()),
        "at": pa.array([datetime.datetime(1970, 1, 1, 2, 0, 1, tzinfo=zone)] * 2, pa.timestamp("us", "UTC")),
        "length": pa.array([datetime.timedelta(seconds=1), None]),
        "clock": pa.array([datetime.time(1), None]),
        "nothing": pa.nulls(2),
        "half": pa.array(np.array([0.5, 1]), pa.float16()),
        "large": pa.array([2**64 - 1, 0], pa.uint64()),
        "text": pa.array(["a", None], pa.large_string()),
        "pair": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)),
        "coded": pa.array([["a"], None], pa.large_list(pa.dictionary(pa.int8(), pa.string()))),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        "lists": pa.array([[[1]], None]),
        "a.b": pa.array([7, None]),
    }
    source = table(write_parquet(tmp_path / "a.parquet", columns), time="at")
    remarks = {column.name: column.remark for column in source.schema.columns if column.taken_as == "ignored"}
    assert remarks == {"map": "map: no kind of field", "lists": "list: no kind of field"}
    found = read(source)
    assert found["time"] == [1_000_000, 1_000_000]
    assert found["nothing"] == ["", ""]
    assert found["half"] == [0.5, 1]
    assert found["large"] == [str(2**64 - 1), "0"]
    assert found["text"] == ["a", ""]
    assert found["pair"] == [["1", "2"], []]
    assert found["coded"] == [["a"], []]
    assert found["a.b"] == ["7", ""]


def test_parquet_labels_times_and_parts(tmp_path: Path) -> None:
    moment = datetime.datetime(1970, 1, 1, 0, 0, 1)
    columns = {
        "user": ["a", "b"],
        "y": [True, False],
        "at": [moment, moment],
        "fold": pa.array(["Train", "test"]).dictionary_encode(),
    }
    found = read(table(write_parquet(tmp_path / "a.parquet", columns), "y", time="at", split_column="fold"))
    assert found == {"user": ["a", "b"], "label": [1, 0], "time": [1_000_000, 1_000_000], "part": [0, 3]}
    columns = {"user": ["a", "b"], "y": ["1", "0"], "at": [1.5, 2.5], "age": ["3", "x4"]}
    path = write_parquet(tmp_path / "b.parquet", columns)
    assert read(table(path, "y", time="at"))["time"] == [1_500_000, 2_500_000]
    with pytest.raises(DataError, match=r"b\.parquet, row 2: age is 'x4', expected a number; mend"):
        read(table(path, "y", numeric=["age"]))


def test_parquet_without_its_ending_and_in_several_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "part-0", {"user": [1], "clicked": [0]})
    write_parquet(tmp_path / "part-1", {"clicked": [1], "user": ["x"]})
    assert read(table(tmp_path / "part-*")) == {"user": ["1", "x"], "label": [0, 1]}


BAD_LINES = [
    ("a,1", r":3: 2 columns, the header has 3 \(user, price, clicked\)"),
    ("a,1,0,5", ":3: 4 columns, the header has 3"),
    ("a,1,2", ":3: clicked is '2', expected 0 or 1"),
    ("a,1,", ":3: clicked is '', expected 0 or 1"),
    ("a,1,yes", ":3: clicked is 'yes', expected 0 or 1"),
    ("a,dear,1", ":3: price is 'dear', expected a number"),
    ("a,1e99,1", ":3: price is '1e99', expected a number"),
    ("a\0,1,1", ":3: a NUL byte"),
    ("a\r,1,1", ":3: a carriage return within the line"),
    ("a\udcff,1,1", ":3: invalid UTF-8"),
]


@pytest.mark.parametrize("block", [32, 1 << 20])
@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_or_left_out_and_counted(
    line: str, message: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"user,price,clicked\nb,0.5,1\n{line}\nc,1.5,0\n".encode(errors="surrogateescape"))
    source = table(path, numeric=["price"])
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (block, None))
    with pytest.raises(DataError, match=message) as fault:
        read(source)
    assert str(path) in str(fault.value)
    chunks = list(table(path, numeric=["price"], bad_rows="skip").chunks())
    assert sum(len(chunk.label) for chunk in chunks) == 2
    assert sum(chunk.skipped for chunk in chunks) == 1
    assert next(chunk.example for chunk in chunks if chunk.example).startswith(f"{path}:3: ")


def test_bad_rows_of_parquet_are_named_or_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_parquet, "BATCH_ROWS", 2)
    path = write_parquet(tmp_path / "a.parquet", {"user": [1, 2, 3, 4], "clicked": [1, 0, None, 2]})
    with pytest.raises(DataError, match=r"a\.parquet, row 3: clicked is missing, expected 0 or 1"):
        read(table(path))
    path = write_parquet(tmp_path / "a.parquet", {"user": [1, 2, 3, 4], "clicked": [1, 0, 0, 2]})
    with pytest.raises(DataError, match=r"a\.parquet, row 4: clicked is 2, expected 0 or 1"):
        read(table(path))
    chunks = list(table(path, bad_rows="skip").chunks())
    assert [chunk.skipped for chunk in chunks] == [0, 1]
    assert "row 4" in chunks[1].example
    path = write_parquet(tmp_path / "b.parquet", {"user": [b"a", b"\xff"], "clicked": [1, 0]})
    with pytest.raises(DataError, match=r"row 2: user is b'\\xff', expected text in UTF-8"):
        read(table(path))


def test_files_where_every_row_is_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,clicked\na,5\nb,5\n")
    with pytest.raises(DataError, match=r"every line is bad \(.*a\.csv:2: clicked is '5'"):
        read(table(path, bad_rows="skip"))
    path = write_parquet(tmp_path / "a.parquet", {"user": [1], "clicked": [5]})
    with pytest.raises(DataError, match=r"every row is bad \(.*row 1: clicked is 5"):
        read(table(path, bad_rows="skip"))
    path = write(tmp_path / "b.csv", "user,clicked\na\nb\n")
    with pytest.raises(DataError, match=r"b\.csv:2: 1 column"):
        read(table(path))


def test_a_file_that_ends_within_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,city,clicked\na,b,1\nc,d")
    with pytest.raises(DataError, match=r"a\.csv:3: 2 columns, the header has 3"):
        read(table(path))
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(("user,clicked\n" + "abc,1\n" * 9999).encode())[:-20])
    with pytest.raises(DataError, match=r"not a whole \.gz file"):
        read(table(path))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match=r"a\.\w+: cannot be read \(No such file or directory\)"):
        table(path).fields  # noqa: B018
    path.touch()
    with pytest.raises(DataError, match=r"empty|not a whole Parquet file"):
        table(path).fields  # noqa: B018
    with pytest.raises(DataError, match=r"a folder; name its files"):
        table(tmp_path).fields  # noqa: B018
    with pytest.raises(DataError, match=r"no file matches this pattern"):
        table(tmp_path / "*.tsv").fields  # noqa: B018
    with pytest.raises(DataError, match=r"data\.path=\[\]: no file is named"):
        table([]).fields  # noqa: B018
    with pytest.raises(DataError, match=r"an archive; unpack it"):
        table(tmp_path / "a.zip").fields  # noqa: B018


def test_damaged_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"user": [1, 2], "clicked": [0, 1]})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        table(path).fields  # noqa: B018
    path.write_text("user,clicked\n1,0\n")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        table(path).fields  # noqa: B018


def test_a_table_without_rows(tmp_path: Path) -> None:
    for path in (
        write(tmp_path / "a.csv", "user,clicked\n"),
        write_parquet(tmp_path / "a.parquet", {"user": pa.array([], pa.int64()), "clicked": pa.array([], pa.int8())}),
    ):
        with pytest.raises(DataError, match="there is no row in it"):
            table(path).fields  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label": "click"},
            r"data\.label=click: .*a\.csv has no column 'click', it has user, .*did you mean 'clicked'\?",
        ),
        ({"numeric": ["Age"]}, r"data\.numeric: .* no column 'Age', .*did you mean 'age'\?"),
        ({"fields": ["zzz"]}, r"data\.fields: .* no column 'zzz', .*; a file without a header needs data\.columns"),
        ({"time": "when"}, r"data\.time=when: .* no column 'when'"),
        ({"ignore": ["x_y"]}, r"data\.ignore: .* no column 'x_y'"),
        ({"kinds": {"x_y": "numeric"}}, r"data\.kinds=\{x_y: numeric\}: .* no column 'x_y'"),
        ({"user": "x_y"}, r"data\.user=x_y: .* no column 'x_y'"),
        ({"user": "price"}, r"data\.user=price: it is taken for numbers or lists"),
        ({"ignore": ["user", "city", "age", "price"]}, "no column is left to be a field"),
        (
            {"columns": ["user", "city", "age", "price", "clicked"]},
            r"a\.csv:1: a header where data\.columns says there is",
        ),
        ({"columns": ["user", "clicked"], "separator": "\t"}, r"a\.csv:1: 1 column, data\.columns names 2"),
    ],
)
def test_keys_that_do_not_go_with_the_file(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(table(write(tmp_path / "a.csv", CLICKS), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kinds": {"age": "number"}},
            r"data\.kinds=\{age: number\}: a column is one of categorical, numeric, multi, ign",
        ),
        (
            {"kinds": {"age": "categorical"}, "numeric": ["age"]},
            r"data\.kinds=\{age: categorical\}: data\.numeric says oth",
        ),
        ({"multi": ["age"], "numeric": ["age"]}, r"data\.multi: data\.numeric says otherwise of 'age'"),
        ({"ignore": ["age"], "fields": ["age"]}, r"data\.ignore: data\.fields has 'age', too"),
        ({"fields": ["clicked"]}, r"data\.label=clicked: data\.fields names this column, too"),
        ({"time": "clicked"}, r"data\.time=clicked: data\.label=clicked names this column, too"),
        ({"split_column": "a", "numeric": ["a"]}, r"data\.split_column=a: data\.numeric names this column, too"),
        ({"user": "u", "fields": ["a"]}, r"data\.user=u: it is not among data\.fields"),
        ({"user": "u", "numeric": ["u"]}, r"data\.user=u: data\.numeric says otherwise"),
        ({"separator": ""}, r"data\.separator=''"),
        ({"separator": "::", "quoted": True}, r"data\.quoted: with data\.separator=:: of several bytes"),
        (
            {"separator": "|", "multi": ["a"]},
            r"data\.multi_separator='\|': expected one character or more, and not data\.separator",
        ),
        ({"columns": ["a", "a"]}, r"data\.columns: 'a' stands there twice"),
    ],
)
def test_keys_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table("nowhere.csv", **options)


def test_keys_that_parquet_has_no_use_for(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", PARQUET)
    with pytest.raises(ConfigError, match=r"data\.columns: .* is a Parquet file, which has its own"):
        table(path, columns=["a"]).fields  # noqa: B018
    for options, message in (
        ({"kinds": {"tags": "numeric"}}, r"data\.kinds=\{tags: numeric\}: 'tags' is a list column"),
        ({"kinds": {"nested": "categorical"}}, r"data\.kinds=\{nested: categorical\}: 'nested' is of the type struct<"),
        ({"numeric": ["day"]}, r"data\.numeric: 'day' is of the type date32\[day\], no number"),
        ({"label": "tags"}, r"data\.label=tags: a list column"),
        ({"split_column": "tags"}, r"data\.split_column=tags: a list column"),
    ):
        with pytest.raises(DataError, match=message):
            table(path, **options).fields  # noqa: B018


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "user,clicked\na,1\n")
    write(tmp_path / "b.csv", "user,item,click\na,b,1\n")
    with pytest.raises(
        DataError, match=r"b\.csv: its columns are not those of .*a\.csv: it lacks clicked and it has click"
    ):
        table(tmp_path / "*.csv").fields  # noqa: B018
    write_parquet(tmp_path / "c.parquet", {"user": [1], "clicked": [1]})
    with pytest.raises(DataError, match="some of these are Parquet and some are text"):
        table([str(tmp_path / "a.csv"), str(tmp_path / "c.parquet")]).fields  # noqa: B018
    write_parquet(tmp_path / "d.parquet", {"user": [[1]], "clicked": [1]})
    with pytest.raises(
        DataError, match=r"d\.parquet: 'user' is a list column either here or in .*c\.parquet; all have"
    ):
        table(tmp_path / "*.parquet").fields  # noqa: B018
    write(tmp_path / "d.csv", "user,user,clicked\na,b,1\n")
    with pytest.raises(DataError, match=r"d\.csv:1: 'user' stands twice in the header"):
        table(tmp_path / "d.csv").fields  # noqa: B018


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,clicked\ra,1\r", r"a\.csv:1: no line of names"),
        ("user,clicked\na,1\n".encode("utf-16"), r"a\.csv:1: a NUL byte"),
        ("städt,clicked\na,1\n".encode("latin-1"), r"a\.csv:1: invalid UTF-8"),
        (b'user,clicked\n"a,1\nb,0\n', r"a\.csv:2: a quote that is not closed"),
    ],
)
def test_files_that_are_no_csv(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(table(path))


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfuser,clicked\r\na,1\r\nb,0\r\n")
    assert read(table(path)) == {"user": ["a", "b"], "label": [1, 0]}


def test_a_user_has_a_field(tmp_path: Path) -> None:
    source = table(write(tmp_path / "a.csv", CLICKS), user="user")
    assert source.user_field == "user"


def test_the_identity_follows_files_and_options(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CLICKS)
    one = table(path).identity()
    assert table(path).identity() == one
    for options in ({"bad_rows": "skip"}, {"missing": ["?"]}, {"quoted": False}, {"multi_separator": ";"}):
        assert table(path, **options).identity() != one
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert table(path).identity() != one


def test_it_says_what_each_column_is_taken_for(tmp_path: Path) -> None:
    shown = table(write(tmp_path / "a.csv", CLICKS)).described()
    assert "columns separated by ',', named by line 1" in shown
    assert "price    numeric             3    25.0%  1.5" in shown


@pytest.mark.data
def test_movietweetings(real_data: Path) -> None:
    source = table(
        real_data / "movietweetings" / "ratings.dat",
        "rating",
        task="rating",
        separator="::",
        columns=["user", "item", "rating", "timestamp"],
        time="timestamp",
        user="user",
    )
    assert kinds(source) == {"user": "categorical", "item": "categorical"}
    found = read(source)
    assert len(found["label"]) == len(found["time"]) == 141_695
    assert (len(set(found["user"])), len(set(found["item"]))) == (21_081, 12_611)
    assert found["item"][0] == "0054890"
    assert found["time"][0] == 1381945744


def test_parquet_text_of_every_type_reads_the_same(tmp_path: Path) -> None:
    texts = ["a", None, "", "a"]
    kinds_of_text = {"s": pa.string(), "large": pa.large_string(), "view": pa.string_view()}
    columns = {name: pa.array(texts, kind) for name, kind in kinds_of_text.items()}
    pq.write_table(pa.table({**columns, "clicked": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    found = read(table(tmp_path / "a.parquet"))
    assert [found[name] for name in columns] == [["a", "", "", "a"]] * 3


def test_times_that_are_numbers_in_one_file_and_timestamps_in_the_next_are_named(tmp_path: Path) -> None:
    for name, times in (("a", [1, 2]), ("b", [datetime.datetime(2024, 5, 31)] * 2)):
        pq.write_table(pa.table({"u": [1, 2], "t": times, "clicked": [0, 1]}), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, row 1: t is .*, expected a whole number below"):
        read(table(str(tmp_path / "*.parquet"), time="t"))


def test_a_bad_time_among_good_ones_is_the_one_that_is_named(tmp_path: Path) -> None:
    times = [*range(150), "oops", *range(49)]
    path = write(tmp_path / "a.csv", "u,t,clicked\n" + "".join(f"{n % 9},{t},{n % 2}\n" for n, t in enumerate(times)))
    with pytest.raises(DataError, match=r"a\.csv:152: t is 'oops', expected a whole number below 2\^63"):
        read(table(path, time="t"))
    assert read(table(path, time="t", bad_rows="skip"))["time"] == [t for t in times if t != "oops"]


def test_times_too_far_away_are_named(tmp_path: Path) -> None:
    far = pa.array([0, 2**62, 1, 2], pa.int64()).cast(pa.timestamp("ms"))
    pq.write_table(pa.table({"u": [1, 2, 3, 4], "t": far, "clicked": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    source = table(tmp_path / "a.parquet", time="t", bad_rows="skip")
    assert read(source)["time"] == [0, 1000, 2000]
    for kind, unit in ((pa.timestamp("ns"), 1e-3), (pa.timestamp("us"), 1), (pa.timestamp("s"), 1e6)):
        times = pa.chunked_array([pa.array([5000, -7000], kind)])
        assert moments(times).to_pylist() == [5000 * unit, -7000 * unit]
    days = pa.chunked_array([pa.array([1, -1, 2**31 - 1], pa.int32()).cast(pa.date32())])
    assert moments(days).to_pylist() == [86_400_000_000, -86_400_000_000, None]


def test_ids_read_the_same_in_every_batch_and_unit() -> None:
    floats = pa.chunked_array([[7.0, 1e15, -0.0, 2.5, math.nan, None, 1e300]], pa.float64())
    assert texts(floats).to_pylist() == ["7", "1000000000000000", "0", "2.5", "", "", "1e+300"]
    times = [
        pa.chunked_array([pa.array([10**9], pa.timestamp("us")).cast(pa.timestamp(unit))]) for unit in ("us", "ns")
    ]
    assert texts(times[0]).equals(texts(times[1]))


def test_lists_of_bytes_and_floats(tmp_path: Path) -> None:
    columns = {"f": [[1.0, math.nan], [2.5], [], None], "clicked": [0, 1, 0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(table(tmp_path / "a.parquet"))["f"] == [["1"], ["2.5"], [], []]
    pq.write_table(pa.table({**columns, "b": [[b"x"], [b"y", b"\xff"], [], None]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, row 2: b is \[b'y', b'\\xff'\], expected text in UTF-8"):
        read(table(tmp_path / "b.parquet"))
    assert read(table(tmp_path / "b.parquet", bad_rows="skip"))["b"] == [["x"], [], []]


def test_a_split_without_the_column_that_it_needs_names_the_key(tmp_path: Path) -> None:
    source = table(write(tmp_path / "a.csv", CLICKS), user="user")
    source.check_split("three_way")
    for split, key in (("time", "time"), ("leave_one_out", "time"), ("column", "split_column")):
        with pytest.raises(ConfigError, match=f"data.split={split}: it needs a column named with data.{key}="):
            source.check_split(split)  # type: ignore[arg-type]
    source.check_split("leave_one_out", given_test=True)


def test_rows_that_only_say_who_had_what_need_no_label(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("who,what,when\na,x,1\nb,y,2\n")
    source = Table(str(path), None, "topk", fields=["who", "what"], user="who", time="when")
    (chunk,) = source.chunks()
    assert chunk.label.tolist() == [0, 0]
    assert [field.name for field in source.fields] == ["who", "what"]
    with pytest.raises(ConfigError, match=r"data\.label: data\.task=ctr needs a column to predict; name it with"):
        Table(str(path), None, "ctr")
