from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnis_lightning.data import delimited
from dnis_lightning.data.delimited import read_rows
from dnis_lightning.data.layout import Column, Format, is_number
from dnis_lightning.data.parallel import ordered_map
from dnis_lightning.data.text import TextFile
from dnis_lightning.errors import DataError

COLUMNS = (
    Column("label", "click"),
    Column("n", "number", optional=True),
    Column("u", "whole"),
    Column("t", "text"),
    Column("x", "unread"),
)
TSV = Format(COLUMNS, b"\t", "five are expected", hint="is this it?")
CSV = Format(COLUMNS, b",", "five are expected", quoted=True)
ROWS = [(n % 2, None if n % 3 == 0 else n / 4, n - 10, f"v{n % 5}" if n % 7 else "") for n in range(30)]
LINES = [f"{a}\t{'' if n is None else n}\t{u}\t{t}\tx" for a, n, u, t in ROWS]


def read(path: Path, layout: Format, mode: delimited.BadRows = "error") -> tuple[list[tuple[Any, ...]], int, str]:
    """The rows, how many were left out, and the first example."""
    parts = list(read_rows(TextFile(path), layout, mode))
    table = pa.concat_tables([part.table for part in parts])
    done = [part.done for part in parts]
    assert done == sorted(done)
    assert done[-1] == 1
    rows = list(zip(*table.to_pydict().values(), strict=True))
    return rows, sum(part.skipped for part in parts), next((part.example for part in parts if part.example), "")


def written(path: Path, lines: list[Any], end: bytes = b"\n", last: bytes | None = None) -> Path:
    path.write_bytes(
        end.join(line if isinstance(line, bytes) else line.encode() for line in lines) + (end if last is None else last)
    )
    return path


@pytest.fixture
def block_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda size: monkeypatch.setattr(TextFile.blocks, "__defaults__", (size, None))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_blocks_of_every_size_give_the_same_rows(
    begin: str, last: bytes, end: bytes, tmp_path: Path, block_of: Any
) -> None:
    path = written(tmp_path / "a.tsv", [begin + LINES[0], *LINES[1:]], end, last)
    for size in (*range(20, 60, 7), 1 << 20):
        block_of(size)
        assert read(path, TSV) == (ROWS, 0, "")


def test_separators_of_two_bytes(tmp_path: Path, block_of: Any) -> None:
    layout = Format(COLUMNS, b"::", "five are expected")
    path = written(tmp_path / "a.dat", [line.replace("\t", "::") for line in LINES])
    for size in (20, 35, 1 << 20):
        block_of(size)
        assert read(path, layout) == (ROWS, 0, "")
    written(path, ["1::1::1::a:b::", "1::1::1:::::c"])
    assert [row[3] for row in read(path, layout)[0]] == ["a:b", ""]
    written(path, ["1::1::1::a::b::c", "1::1::1::a\x1f::b", "1::1::1::d::"])
    rows, skipped, example = read(path, layout, "skip")
    assert (rows, skipped) == ([(1, 1, 1, "d")], 2)
    assert "a.dat:1: 6 columns" in example


GOOD_WHOLE = ["0", "-1", "007", "-0", " 1", "1 ", "9223372036854775807", "-9223372036854775808", "0" * 30 + "1"]
BAD_WHOLE = ["", "+1", "1.0", "1e3", "0x1f", "0X1F", "-0x1", "1_0", "١", "9223372036854775808", "-9223372036854775809"]
GOOD_NUMBERS = ["0", "-1.5", "+2", ".5", "5.", "1e5", "1E-3", "1e-60", " 1", "\t1 ", "3.4028235e38", "007"]
BAD_NUMBERS = [
    "x",
    "1e39",
    "inf",
    "-Infinity",
    "nan",
    "NaN",
    "0x1f",
    "1_0",
    "1e",
    "--1",
    "+-1",
    "١",
    "\u00a01",
    "1\x0b",
]
BAD_NUMBERS += ["NA", "null", "true", "1f", "\ufeff1", " ", "1" * 60]


def test_what_arrow_reads_and_what_is_called_a_number_are_the_same() -> None:
    for kind, good, bad in [("whole", GOOD_WHOLE, BAD_WHOLE), ("number", GOOD_NUMBERS, ["", *BAD_NUMBERS])]:
        layout = Format((Column("a", kind), Column("b", "text")), b",", "two")  # type: ignore[arg-type]
        for text in good + bad:
            line = f"{text},x\n".encode()
            table, fault = layout.parse(line), layout.fault(line)
            assert (table is not None, fault is None) == (text in good, text in good), text
            if table is not None:
                expected = int(text) if kind == "whole" else np.float32(float(text))
                assert table["a"].to_pylist() == [expected]
    assert [is_number(text) for text in ("1", "1e38", "1e39", "")] == [True, True, False, False]


def test_a_text_like_a_hexadecimal_number_is_none(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", ["1\t1\t7\t0x1f\t0x1", "0\t1\t0x1f\ta\t"])
    rows, skipped, example = read(path, TSV, "skip")
    assert (rows, skipped) == ([(1, 1, 7, "0x1f")], 1)
    assert "a.tsv:2: u is '0x1f', expected a whole number" in example


BAD = {
    "too few": (b"1\t2\t3", "3 columns, five are expected; is the file whole"),
    "too many": (b"1\t2\t3\t4\t5\t6", "6 columns, five are expected"),
    "label": (b"2\t1\t1\ta\t", r"label is '2', expected 0 or 1; is this it\?"),
    "no label": (b"\t1\t1\ta\t", "label is '', expected 0 or 1"),
    "label in words": (b"yes\t1\t1\ta\t", "label is 'yes', expected 0 or 1"),
    "label near 0": (b"0.01\t1\t1\ta\t", "label is '0.01', expected 0 or 1"),
    "no number": (b"1\tabc\t1\ta\t", "n is 'abc', expected a number; mend or remove this line"),
    "infinite": (b"1\t-inf\t1\ta\t", "n is '-inf', expected a number"),
    "nan": (b"1\tnan\t1\ta\t", "n is 'nan', expected a number"),
    "too large": (b"1\t1e39\t1\ta\t", "n is '1e39', expected a number"),
    "no whole number": (b"1\t1\t1.5\ta\t", "u is '1.5', expected a whole number"),
    "missing": (b"1\t1\t\ta\t", "u is '', expected a whole number"),
    "long": (b"1\t" + b"9" * 200 + b"\t1\ta\t", "n is '9{60}…', expected a number"),
    "NUL": (b"1\t1\t1\ta\0\t", "a NUL byte in the line; is this a text file"),
    "UTF-8": (b"1\t1\t1\tz\xfcrich\t", r"invalid UTF-8 at 'z\\xfcrich'; convert the file to UTF-8"),
    "return": (b"1\t1\t1\ta\rb\t", r"a carriage return within the line; lines should end in \\n or \\r\\n"),
    "blank": (b"", "1 column, five are expected"),
}


@pytest.mark.parametrize("size", [260, 1 << 20])
@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_named_or_left_out(kind: str, size: int, tmp_path: Path, block_of: Any) -> None:
    line, message = BAD[kind]
    lines: list[Any] = list(LINES)
    lines[20:20] = [line]
    lines[5:5] = [line]
    path = written(tmp_path / "a.tsv", lines)
    block_of(size)
    with pytest.raises(DataError, match=rf"a\.tsv:6: {message}"):
        read(path, TSV)
    rows, skipped, example = read(path, TSV, "skip")
    assert rows == ROWS
    assert skipped == 2
    with pytest.raises(DataError) as fault:
        read(path, TSV)
    assert example == str(fault.value)


def test_bytes_of_a_column_that_is_not_read_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", [b"1\t1\t1\ta\t\xff", b"1\t1"])
    assert read(path, TSV, "skip")[:2] == ([(1, 1, 1, "a")], 1)


def test_a_file_that_ends_within_a_row_is_named(tmp_path: Path, block_of: Any) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("\n".join(LINES)[:-6])
    for size in (50, 1 << 20):
        block_of(size)
        with pytest.raises(DataError, match=r"a\.tsv:30: \d columns?, five are expected; is the file whole"):
            read(path, TSV)
        assert read(path, TSV, "skip")[:2] == (ROWS[:-1], 1)


def test_a_header_where_none_is_expected_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", ["label\tn\tu\tt\tx", *LINES])
    message = (
        r"a\.tsv:1: label is 'label', expected 0 or 1; it looks like a header, and there should be none: remove this"
    )
    with pytest.raises(DataError, match=message):
        read(path, TSV)
    assert read(path, TSV, "skip")[:2] == (ROWS, 1)
    with pytest.raises(DataError, match=r"a\.tsv:1: label is 'label', expected 0 or 1; is this it\?"):
        read(written(path, ["label\t1\t1\tt\tx", *LINES]), TSV)
    with pytest.raises(DataError, match=r"a\.tsv:2: label is 'label', expected 0 or 1; is this it\?"):
        read(written(path, [LINES[0], "label\tn\tu\tt\tx"]), TSV)


@pytest.mark.parametrize("size", [70, 1 << 20])
def test_a_header_is_held_against_the_layout(size: int, tmp_path: Path, block_of: Any) -> None:
    layout = Format(COLUMNS, b"\t", "five are expected", header=b"label\tn\tu\tt\tx")
    path = written(tmp_path / "a.tsv", ["label\tn\tu\tt\tx ", *LINES], b"\r\n")
    block_of(size)
    assert read(path, layout) == (ROWS, 0, "")
    with pytest.raises(DataError, match=r"a\.tsv:1: it begins '0\\t\\t-10.*', expected the header label\tn\tu"):
        read(written(path, LINES), layout)
    with pytest.raises(DataError, match=r"a\.tsv: no rows after the header; is the file whole\?"):
        read(written(path, ["label\tn\tu\tt\tx"]), layout)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    for mode in ("error", "skip"):
        with pytest.raises(DataError, match=r"a\.tsv:1: the file is empty"):
            read(written(tmp_path / "a.tsv", [""]), TSV, mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [40, 1 << 20])
def test_a_file_of_bad_lines_only_is_refused(size: int, tmp_path: Path, block_of: Any) -> None:
    path = written(tmp_path / "a.tsv", ["1\t2", *["no"] * 50])
    block_of(size)
    with pytest.raises(DataError, match=r"a\.tsv: every line is bad \(.*a\.tsv:1: 2 columns, .*\); is this the right"):
        read(path, TSV, "skip")


def test_a_file_that_begins_with_nothing_but_bad_lines_is_not_read_to_its_end(
    tmp_path: Path, block_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_HOPELESS", 20)
    block_of(50)
    path = written(tmp_path / "a.tsv", [*["no"] * 100, *LINES])
    with pytest.raises(DataError, match=r"a\.tsv: the first \d\d lines are all bad \(.*a\.tsv:1: 1 column"):
        read(path, TSV, "skip")


def test_values_that_stand_for_missing_ones(tmp_path: Path) -> None:
    columns = (Column("a", "number", optional=True), Column("b", "text"), Column("c", "click", optional=True))
    path = written(tmp_path / "a.csv", ["NA,NA,1", '"NA","NA",NA', "1,,0", '-1,"a,b",1', ",b,1"])
    layout = Format(columns, b",", "two", quoted=True, missing=("NA", "-1"))
    with pytest.raises(DataError, match=r"a\.csv:5: a is '', expected a number"):
        read(path, layout)
    assert read(path, layout, "skip")[:2] == ([(None, "", 1), (None, "", None), (1, "", 0), (None, "a,b", 1)], 1)


QUOTED = [
    ("1", "", "1", 'a"b', ""),
    ("0", "1.5", "2", "a,b\nc", '"'),
    ("0", "2", "3", "\n", '""\n'),
    ("1", "", "4", "", "a\r\n\r\nb"),
    ("0", "-1", "5", '","', ","),
    ("1", "", "6", "é\r\nx", "\n\n"),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_values_with_all_that_may_stand_in_them(end: str, tmp_path: Path, block_of: Any) -> None:
    expected = [(float(a), float(n) if n else None, int(u), t) for a, n, u, t, _ in QUOTED]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator=end, quoting=quoting).writerows(QUOTED)
        for last in (text.getvalue(), text.getvalue().removesuffix(end), text.getvalue() + end * 2):
            path = tmp_path / "a.csv"
            path.write_bytes(last.encode())
            for size in (*range(40, 90, 9), 1 << 20):
                block_of(size)
                assert read(path, CSV) == (expected, 0, "")


@pytest.mark.parametrize("size", [60, 1 << 20])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'1,2,3,a",x', "a quote within a value that is not doubled, or not in quotes"),
        (b'1,2,3,"a"b,x', "a quote within a value that is not doubled"),
        (b'1,2,3,"a"b",x', "a quote within a value that is not doubled"),
        (b'1,2,3, "a",x', "a quote within a value that is not doubled"),
        (b'1,2,3,"a\nb"', "4 columns, five are expected"),
        (b'1,2,3,"\n\xff",x', r"invalid UTF-8 at '\\n\\xff'"),
        (b'1,"\n",3,a,x', r"n is '\\n', expected a number"),
        (b'1,2,3,"a"\r,x', "a carriage return within the line|a quote within"),
        (b'1,2,3,"a",x\ry', "a carriage return within the line"),
    ],
)
def test_rows_with_wrong_quotes_take_no_others_with_them(
    line: bytes, message: str, size: int, tmp_path: Path, block_of: Any
) -> None:
    good = [b'1,2,3,"a\n",x', b"0,1,2,b,", b'1,,3,"""",x', b'0,,4,"\r\n,",x']
    rows = [(1, 2, 3, "a\n"), (0, 1, 2, "b"), (1, None, 3, '"'), (0, None, 4, "\r\n,")]
    path = written(tmp_path / "a.csv", [*good, line, *good[1:]])
    block_of(size)
    with pytest.raises(DataError, match=rf"a\.csv:7: ({message})"):
        read(path, CSV)
    assert read(path, CSV, "skip")[:2] == (rows + rows[1:], 1)


@pytest.mark.parametrize("size", [60, 1 << 20])
def test_an_unclosed_quote_takes_no_plain_lines_with_it(size: int, tmp_path: Path, block_of: Any) -> None:
    path = written(tmp_path / "a.csv", [b'0,1,1,"\n",', b'1,2,3,"a,x', *[b"0,1,2,b,"] * 4])
    block_of(size)
    with pytest.raises(DataError, match=r"a\.csv:3: a quote that is not closed; mend or remove this line"):
        read(path, CSV)
    assert read(path, CSV, "skip")[:2] == ([(0, 1, 1, "\n"), *[(0, 1, 2, "b")] * 4], 1)


def test_one_column_too_many_and_one_too_few_do_not_cancel_out(tmp_path: Path) -> None:
    layout = Format((Column("a", "text"), Column("b", "text")), b",", "two")
    with pytest.raises(DataError, match=r"a\.csv:2: 3 columns, two"):
        read(written(tmp_path / "a.csv", ["a,b", "a,b,c", "d"]), layout)
    with pytest.raises(DataError, match=r"a\.csv:2: 1 column, two"):
        read(written(tmp_path / "a.csv", ["a,b", "", "c,d"]), layout)


VALUES = st.text(st.sampled_from('ab,"\n\r \té\u2028\ufeff:0'), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(VALUES, VALUES, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=12),
    size=st.integers(120, 300),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_the_csv_module_writes_comes_back(
    rows: list[tuple[str, str, int]], size: int, end: str, quoting: int, tmp_path: Path, block_of: Any
) -> None:
    layout = Format((Column("a", "text"), Column("b", "text"), Column("c", "whole")), b",", "three", quoted=True)
    text = io.StringIO(newline="")
    if any("\r" in a + b for a, b, _ in rows):
        quoting = csv.QUOTE_ALL  # some versions of the module leave a carriage return without quotes
    csv.writer(text, lineterminator=end, quoting=quoting).writerows(rows)
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    block_of(size)
    assert read(tmp_path / "a.csv", layout) == (rows, 0, "")


PIECES = st.sampled_from(
    [b"1", b"0", b",", b",", b"\n", b"\n", b'"', b"\r", b"\0", b"\xff", b"a", b"x,1\n", b'"a\nb",2\n']
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=30), quoted=st.booleans(), sizes=st.lists(st.integers(100, 200), max_size=2))
def test_any_bytes_are_rows_or_named_whatever_the_blocks(
    pieces: list[bytes], quoted: bool, sizes: list[int], tmp_path: Path, block_of: Any
) -> None:
    layout = Format((Column("a", "text"), Column("b", "whole", optional=True)), b",", "two", quoted=quoted)
    (tmp_path / "a.csv").write_bytes(b"".join(pieces))
    found = set()
    for size in (20, 30, *sizes, 1 << 20):
        block_of(size)
        for mode in ("error", "skip"):
            try:
                found.add((mode, repr(read(tmp_path / "a.csv", layout, mode))))  # type: ignore[arg-type]
            except DataError as fault:
                if "a line of more than" not in str(fault):
                    found.add((mode, str(fault)))
    assert len(found) == 2
    assert "cannot be read" not in str(found)


def test_ordered_map_keeps_the_order() -> None:
    def slow(x: int) -> int:
        time.sleep(0.002 * (x % 3))
        return x * x

    assert list(ordered_map(slow, range(30))) == [x * x for x in range(30)]
    assert list(ordered_map(slow, [])) == []


def test_ordered_map_raises_what_goes_wrong_in_its_place() -> None:
    def picky(x: int) -> int:
        if x == 7:
            raise DataError("seven")
        return x

    def items() -> Iterator[int]:
        yield from range(5)
        raise DataError("five")

    results = ordered_map(picky, range(20))
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(DataError, match="seven"):
        next(results)
    results = ordered_map(picky, items())
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(DataError, match="five"):
        next(results)


def test_ordered_map_reads_few_items_ahead_and_ends_its_threads_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dnis_lightning.data.parallel.cores", lambda: 3)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    before = threading.active_count()
    results = ordered_map(lambda x: x, items())
    for wanted in range(1, 50):
        assert next(results) == wanted
        assert taken <= wanted + 3
    results.close()
    assert threading.active_count() == before


def test_a_reader_that_is_closed_early_ends_its_threads(tmp_path: Path, block_of: Any) -> None:
    block_of(40)
    before = threading.active_count()
    rows = read_rows(TextFile(written(tmp_path / "a.tsv", LINES)), TSV)
    assert next(rows).table.num_rows
    rows.close()
    assert threading.active_count() == before
