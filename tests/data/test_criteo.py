from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dnis_lightning.data import text
from dnis_lightning.data.criteo import CATEGORIES, NUMBERS, Criteo
from dnis_lightning.data.source import PARTS, Chunk
from dnis_lightning.errors import DataError

from .conftest import criteo_line, write_criteo

HEADER = ["label", *NUMBERS, *CATEGORIES]


def column(chunks: list[Chunk], name: str) -> list[object]:
    return [value for chunk in chunks for value in pa.chunked_array(chunk.columns[name]).to_pylist()]


def check(chunks: list[Chunk], lines: list[str]) -> None:
    """The chunks have the rows of some lines of train.txt, and a share that grows to 1."""
    rows = [line.split("\t") for line in lines]
    assert [label for chunk in chunks for label in chunk.label] == [float(row[0]) for row in rows]
    for place, name in enumerate(NUMBERS, 1):
        assert column(chunks, name) == [None if row[place] == "" else np.float32(row[place]) for row in rows]
    for place, name in enumerate(CATEGORIES, 14):
        assert column(chunks, name) == [row[place] for row in rows]
    done = [chunk.done for chunk in chunks]
    assert done == sorted(done)  # type: ignore[type-var]
    assert done[-1] == 1


def as_csv(line: str) -> str:
    return line.replace("\t", ",")


def write_split(folder: Path, ending: str, lines: list[str], form: Callable[[list[str]], str]) -> None:
    """Lines of train.txt in the files train (25), valid (10) and test (5) of a form."""
    folder.mkdir(exist_ok=True)
    for name, part in (("train", lines[:25]), ("valid", lines[25:35]), ("test", lines[35:])):
        data = form(part).encode()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)


def parts(chunks: list[Chunk]) -> list[int]:
    return [int(part) for chunk in chunks for part in chunk.part]  # type: ignore[union-attr]


SPLIT = [PARTS.index("train")] * 25 + [PARTS.index("select")] * 10 + [PARTS.index("test")] * 5


def test_every_column_is_read_as_it_stands(tmp_path: Path, criteo_lines: list[str]) -> None:
    write_criteo(tmp_path, criteo_lines)
    (chunk,) = Criteo(str(tmp_path)).chunks()
    check([chunk], criteo_lines)
    assert chunk.part is None
    assert chunk.label.dtype == np.float32
    assert {field.name: field.kind for field in Criteo.fields} == {
        **dict.fromkeys(NUMBERS, "numeric"),
        **dict.fromkeys(CATEGORIES, "categorical"),
    }


def test_a_compressed_file_is_read_as_it_is(tmp_path: Path, criteo_lines: list[str]) -> None:
    data = ("\r\n".join(criteo_lines) + "\r\n").encode()
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(data))
    check(list(Criteo(str(tmp_path)).chunks()), criteo_lines)
    check(list(Criteo(path=str(tmp_path / "train.txt.gz")).chunks()), criteo_lines)


@pytest.mark.parametrize("name", ["train.txt", "./train.txt"])
def test_the_archive_is_read_as_it_is(
    name: str, tmp_path: Path, criteo_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "criteo").mkdir()
    path = tmp_path / "criteo" / "dac.tar.gz"
    lines = "\n".join(criteo_lines).encode()
    with tarfile.open(path, "w:gz") as archive:
        for member, data in (("readme.txt", b"read\tme\n"), (name, lines), ("test.txt", lines.replace(b"0\t", b"\t"))):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    check(list(Criteo(str(tmp_path)).chunks()), criteo_lines)
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (200, None))
    chunks = list(Criteo(path=str(path)).chunks())
    assert len(chunks) > 5
    check(chunks, criteo_lines)
    assert Criteo(path=str(path)).identity()["file"] == "dac.tar.gz"


@pytest.mark.parametrize("block", [400, 1 << 20])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_a_form_that_was_split_beforehand(
    ending: str, block: int, tmp_path: Path, criteo_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path, ending, criteo_lines, lambda part: "\n".join([",".join(HEADER), *map(as_csv, part)]))
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (block, None))
    source = Criteo(path=str(tmp_path))
    chunks = list(source.chunks())
    check(chunks, criteo_lines)
    assert parts(chunks) == SPLIT
    assert [file["file"] for file in source.identity()["files"]] == [f"{n}{ending}" for n in ("train", "valid", "test")]


def test_a_form_with_ids_and_other_names(tmp_path: Path, criteo_lines: list[str]) -> None:
    header = ",".join(["Id", "Label", *HEADER[1:]])
    write_split(
        tmp_path,
        ".csv",
        criteo_lines,
        lambda part: "\r\n".join([header, *(f"{n}x,{as_csv(line)}" for n, line in enumerate(part))]) + "\r\n",
    )
    chunks = list(Criteo(path=str(tmp_path)).chunks())
    check(chunks, criteo_lines)
    assert parts(chunks) == SPLIT
    check(list(Criteo(path=str(tmp_path / "valid.csv")).chunks()), criteo_lines[25:35])


def libsvm_line(line: str, first: int = 1) -> str:
    label, *values = line.split("\t")
    return f"{label} " + " ".join(
        f"{n}:{value or 0}" if n < first + 13 else f"{value or 0}:1" for n, value in enumerate(values, first)
    )


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("end", ["\n", " \n", " \r\n"])
def test_pairs_of_ids_and_values(end: str, first: int, tmp_path: Path, criteo_lines: list[str]) -> None:
    write_split(
        tmp_path, ".libsvm", criteo_lines, lambda part: "".join(libsvm_line(line, first) + end for line in part)
    )
    chunks = list(Criteo(path=str(tmp_path)).chunks())
    check(chunks, ["\t".join(value or "0" for value in line.split("\t")) for line in criteo_lines])
    assert parts(chunks) == SPLIT


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" 2:", " 3:", r"train\.libsvm:3: a value is '3', expected '2'; mend or remove this line"),
        (" 2:", " 2:a", r"train\.libsvm:3: I2 is 'a2', expected a number"),
        (" 2:2", "", r"train\.libsvm:3: 77 columns, libsvm has 79 here \(label, 39 pairs id:value\)"),
    ],
)
def test_a_bad_pair_is_named(old: str, new: str, message: str, tmp_path: Path, criteo_lines: list[str]) -> None:
    lines = [libsvm_line(line) for line in criteo_lines]
    lines[2] = lines[2].replace(old, new, 1)
    (tmp_path / "train.libsvm").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        list(Criteo(path=str(tmp_path / "train.libsvm")).chunks())
    chunks = list(Criteo(path=str(tmp_path / "train.libsvm"), bad_rows="skip").chunks())
    assert (sum(len(chunk.label) for chunk in chunks), sum(chunk.skipped for chunk in chunks)) == (39, 1)
    (tmp_path / "train.libsvm").write_text("0 5:1 7:1\n")
    with pytest.raises(
        DataError, match=r"train\.libsvm:1: it begins '0 5:1 7:1', expected a label and then 1:I1 … 13:I13"
    ):
        list(Criteo(path=str(tmp_path / "train.libsvm")).chunks())


@pytest.mark.parametrize("present", [[], ["train.csv", "test.csv"], ["train.csv", "valid.libsvm", "test.csv"]])
def test_a_folder_without_the_parts_is_named(present: list[str], tmp_path: Path) -> None:
    for name in present:
        (tmp_path / name).write_text("x")
    with pytest.raises(
        DataError, match=r"data\.path=.*: a folder without train, valid and test, \.csv or \.libsvm; name"
    ):
        Criteo(path=str(tmp_path)).identity()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            [n for n in HEADER if n not in ("I2", "C20", "C3")],
            r"no column I2, C3, C20 in this header; expected label, I1–",
        ),
        (HEADER[:20], r"no column C7, C8, C9, C10, C11, … in this header; expected label"),
        ([*HEADER, "Label"], r"column label is twice in this header; remove one of the two"),
        (
            ["0"] * 40,
            r"it begins '0,0,0,.*', expected a header with label, I1–I13 and C1–C26; is this the right file\?",
        ),
    ],
)
def test_another_header_is_named(header: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(header) + "\n" + ",".join("0" * len(header)) + "\n")
    with pytest.raises(DataError, match=rf"a\.csv:1: {message}"):
        list(Criteo(path=str(tmp_path / "a.csv")).chunks())


def test_a_header_in_train_txt_is_named(tmp_path: Path, criteo_lines: list[str]) -> None:
    write_criteo(tmp_path, ["\t".join(HEADER), *criteo_lines])
    with pytest.raises(
        DataError, match=r"train\.txt:1: label is 'label', expected 0 or 1; it looks like a header, and"
    ):
        list(Criteo(str(tmp_path)).chunks())
    (chunk,) = Criteo(str(tmp_path), bad_rows="skip").chunks()
    check([chunk], criteo_lines)
    assert chunk.skipped == 1
    assert "it looks like a header" in chunk.example
    assert Criteo(str(tmp_path), bad_rows="skip").identity() != Criteo(str(tmp_path)).identity()


@pytest.mark.parametrize("block", [200, 1 << 20])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0\t1\t2", r":31: 3 columns, Criteo has 40 \(label, I1–I13, C1–C26\)"),
        (criteo_line() + "\t", ":31: 41 columns, Criteo has 40"),
        (criteo_line(I3="abc"), ":31: I3 is 'abc', expected a number"),
        (criteo_line(I3="inf"), ":31: I3 is 'inf', expected a number"),
        (criteo_line(2), r":31: label is '2', expected 0 or 1; is this train\.txt"),
        (criteo_line(""), ":31: label is '', expected 0 or 1"),
        (criteo_line("yes"), ":31: label is 'yes', expected 0 or 1"),
        (criteo_line(C1="z\udcff"), r":31: invalid UTF-8 at '.*z\\xff'; convert the file to UTF-8"),
    ],
)
def test_a_bad_line_is_named(
    line: str, message: str, block: int, tmp_path: Path, criteo_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    criteo_lines[30] = line
    path = write_criteo(tmp_path, criteo_lines)
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (block, None))
    with pytest.raises(DataError, match=message) as fault:
        list(Criteo(str(tmp_path)).chunks())
    assert str(path) in str(fault.value)


def test_quotes_and_words_for_missing_are_ids_like_others(tmp_path: Path) -> None:
    lines = [criteo_line(1, C1='"a', C2="NA", C3="null", C4=" x "), criteo_line(0, C1="b", C2='""')]
    write_criteo(tmp_path, lines)
    check(list(Criteo(str(tmp_path)).chunks()), lines)


def test_an_absent_file_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"criteo/train\.txt: not there, nor .*train\.txt, nor .* dac\.tar\.gz; its licence .* data\.path=",
    ):
        Criteo(str(tmp_path)).identity()
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read \(No such file or directory\)"):
        Criteo(path=str(tmp_path / "nowhere.txt")).identity()
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read \(No such file or directory\)"):
        list(Criteo(path=str(tmp_path / "nowhere.txt")).chunks())


def test_a_file_without_line_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.txt").write_bytes(b"0" * 1000)
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (100, None))
    with pytest.raises(DataError, match=r"train\.txt:1: a line of more than 100 bytes; is this a text file\?"):
        list(Criteo(str(tmp_path)).chunks())


@pytest.mark.data
def test_the_real_sample_has_its_counts(real_data: Path) -> None:
    chunks = list(Criteo(str(real_data)).chunks())
    label = np.concatenate([chunk.label for chunk in chunks])
    assert len(label) == 137_139
    assert label.mean() == pytest.approx(0.2568, abs=5e-5)
    values = {name: set(column(chunks, name)) for name in CATEGORIES}
    ids = sum(len(found - {""}) for found in values.values())
    missing = sum("" in found for found in values.values())
    assert ids + missing == 316_191


def test_stray_carriage_returns_are_named(tmp_path: Path, criteo_lines: list[str]) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("\r\r\n".join(criteo_lines[:2]).encode())
    with pytest.raises(DataError, match=r"train\.txt:1: a carriage return within the line; lines should end in"):
        list(Criteo(path=str(path)).chunks())
