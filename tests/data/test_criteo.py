from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.data import text
from dnis_lightning.data.criteo import CATEGORIES, NUMBERS, Criteo, buckets, scaled
from dnis_lightning.errors import DataError

from .conftest import criteo_line, write_criteo


def test_every_column_is_read_as_it_stands(tmp_path: Path, criteo_lines: list[str]) -> None:
    write_criteo(tmp_path, criteo_lines)
    (chunk,) = Criteo(str(tmp_path)).chunks()
    for row, line in enumerate(criteo_lines):
        label, *columns = line.split("\t")
        assert chunk.label[row] == float(label)
        for name, raw in zip(NUMBERS, columns[:13], strict=True):
            expected = math.nan if raw == "" else math.copysign(math.log1p(abs(int(raw))) / 4, int(raw))
            assert chunk.columns[name][row] == pytest.approx(expected, nan_ok=True)
        assert [chunk.columns[name][row] for name in CATEGORIES] == columns[13:]


def test_scaled_numbers_keep_their_sign_and_order() -> None:
    x = np.array([-3, -1, 0, 1, 2, 1e6, np.nan])
    y = scaled(x)
    assert np.isnan(y[-1])
    assert (np.diff(y[:-1]) > 0).all()
    assert y[2] == 0


def test_buckets_are_floor_of_log_squared() -> None:
    x = np.array([-2.0, -1, 0, 1, 2, 3, 17, 12345, np.nan])
    expected = [str(math.floor(math.log(v) ** 2)) if v > 2 else str(int(v)) for v in x[:-1]]
    assert buckets(x).tolist() == [*expected, ""]


def test_log2_makes_all_fields_categorical(tmp_path: Path, criteo_lines: list[str]) -> None:
    write_criteo(tmp_path, criteo_lines)
    source = Criteo(str(tmp_path), numeric="log2")
    assert {field.kind for field in source.fields} == {"categorical"}
    (chunk,) = source.chunks()
    assert chunk.columns["I3"].tolist() == [""] * 40
    assert source.identity() != Criteo(str(tmp_path)).identity()


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
        (criteo_line("yes"), ":31: label is 'yes', expected a number"),
    ],
)
def test_a_bad_line_is_named(
    line: str, message: str, block: int, tmp_path: Path, criteo_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    criteo_lines[30] = line
    path = write_criteo(tmp_path, criteo_lines)
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (block,))
    with pytest.raises(DataError, match=message) as fault:
        list(Criteo(str(tmp_path)).chunks())
    assert str(path) in str(fault.value)


def test_quotes_and_bytes_that_are_no_utf8_are_ids_like_others(tmp_path: Path) -> None:
    path = write_criteo(tmp_path, [criteo_line(1, C1='"a', C2="NA"), criteo_line(0, C1="b")])
    path.write_bytes(path.read_bytes().replace(b"NA", b"\xff\xfe"))
    (chunk,) = Criteo(str(tmp_path)).chunks()
    assert chunk.columns["C1"].tolist() == ['"a', "b"]
    assert chunk.columns["C2"][0] == "\\xff\\xfe"


def test_an_absent_file_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"criteo/train\.txt: not there, nor .*train\.txt; its licence .* data\.path="):
        Criteo(str(tmp_path)).identity()
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read \(No such file or directory\)"):
        Criteo(path=str(tmp_path / "nowhere.txt")).identity()


def test_a_file_without_line_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.txt").write_bytes(b"0" * 1000)
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (100,))
    with pytest.raises(DataError, match=r"train\.txt:1: a line of more than 100 bytes; is this a text file\?"):
        list(Criteo(str(tmp_path)).chunks())


@pytest.mark.data
def test_the_real_sample_has_its_counts(real_data: Path) -> None:
    chunks = list(Criteo(str(real_data)).chunks())
    label = np.concatenate([chunk.label for chunk in chunks])
    assert len(label) == 137_139
    assert label.mean() == pytest.approx(0.2568, abs=5e-5)
    ids = sum(len({raw for chunk in chunks for raw in chunk.columns[name]} - {""}) for name in CATEGORIES)
    missing = sum(any((chunk.columns[name] == "").any() for chunk in chunks) for name in CATEGORIES)
    assert ids + missing == 316_191


def test_stray_carriage_returns_are_named(tmp_path: Path, criteo_lines: list[str]) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("\r\r\n".join(criteo_lines[:2]).encode())
    with pytest.raises(DataError, match=r"train\.txt:1: a carriage return within the line; lines should end in"):
        list(Criteo(path=str(path)).chunks())
