from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.data import text
from dnis_lightning.data.movielens import MovieLens
from dnis_lightning.errors import DataError

from .conftest import LINES, write_movielens

VERSIONS = ("100k", "1m", "20m")


def read(source: MovieLens) -> tuple[np.ndarray, ...]:
    """User, item, rating, time of all rows."""
    chunks = list(source.chunks())
    parts = [(c.columns["user"], c.columns["item"], c.label, c.time) for c in chunks]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_read_as_it_stands(version: str, zipped: bool, tmp_path: Path) -> None:
    write_movielens(tmp_path, version, zipped=zipped)
    user, item, rating, time = read(MovieLens(version, str(tmp_path)))
    separator = {"100k": "\t", "1m": "::", "20m": ","}[version]
    expected = [line.split(separator) for line in LINES[version] if line[0].isdigit()]
    assert user.tolist() == [int(row[0]) for row in expected]
    assert item.tolist() == [int(row[1]) for row in expected]
    assert rating.tolist() == [float(row[2]) for row in expected]
    assert time.tolist() == [int(row[3]) for row in expected]


@pytest.mark.parametrize("version", VERSIONS)
def test_small_blocks_give_the_same_rows(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_movielens(tmp_path, version, zipped=True)
    whole = read(MovieLens(version, str(tmp_path)))
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (50, None))
    assert len(list(MovieLens(version, str(tmp_path)).chunks())) > 3
    for a, b in zip(whole, read(MovieLens(version, str(tmp_path))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_line_ends_of_windows_and_blank_lines_at_the_end_do_no_harm(tmp_path: Path) -> None:
    path = write_movielens(tmp_path, "20m")
    whole = read(MovieLens("20m", str(tmp_path)))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    for a, b in zip(whole, read(MovieLens("20m", str(tmp_path))), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("block", [60, 1 << 20])
@pytest.mark.parametrize(
    ("version", "line", "message"),
    [
        ("1m", "1::2::3", r":21: 3 columns, movielens-1m has 4 \(user, item, rating, timestamp, separated by '::'\)"),
        ("1m", "1::2::3::4::5", ":21: 5 columns, movielens-1m has 4"),
        ("1m", "1::2::good::4", ":21: rating is 'good', expected a number"),
        ("1m", "1::2::nan::4", ":21: rating is 'nan', expected a number"),
        ("1m", "1::2::::4", ":21: rating is '', expected a number"),
        ("1m", "x::2::3::4", ":21: user is 'x', expected a whole number"),
        ("1m", "1::::3::4", ":21: item is '', expected a whole number"),
        ("1m", "", ":21: 1 column, movielens-1m has 4"),
        ("100k", "1\t2\t3\t1e99", ":21: timestamp is '1e99', expected a whole number"),
        ("20m", "1,2,3", ":21: 3 columns, movielens-20m has 4"),
        ("20m", "1,2,\xff,4", ":21: rating is '\xff', expected a number"),
        ("20m", "1,2,\udcff,4", r":21: invalid UTF-8 at '\\xff'; convert the file to UTF-8"),
        ("1m", "0x1f::2::3::4", ":21: user is '0x1f', expected a whole number"),
    ],
)
def test_a_bad_line_is_named(
    version: str, line: str, message: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = list(LINES[version])
    lines[20] = line
    path = write_movielens(tmp_path, version, lines)
    monkeypatch.setattr(text.TextFile.blocks, "__defaults__", (block, None))
    with pytest.raises(DataError, match=message) as fault:
        read(MovieLens(version, str(tmp_path)))
    assert str(path) in str(fault.value)


def test_one_column_too_many_and_one_too_few_do_not_cancel_out(tmp_path: Path) -> None:
    lines = list(LINES["1m"])
    lines[3], lines[9] = "1::2::3::4::5", "1::2::3"
    write_movielens(tmp_path, "1m", lines)
    with pytest.raises(DataError, match=":4: 5 columns"):
        read(MovieLens("1m", str(tmp_path)))


def test_another_header_is_named(tmp_path: Path) -> None:
    write_movielens(tmp_path, "20m", ["user;item;rating", *LINES["20m"][1:]])
    with pytest.raises(DataError, match=r":1: it begins 'user;item;rating', expected the header userId,movieId"):
        read(MovieLens("20m", str(tmp_path)))


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    write_movielens(tmp_path, "1m").write_bytes(b"")
    with pytest.raises(DataError, match=r"ratings\.dat:1: the file is empty"):
        read(MovieLens("1m", str(tmp_path)))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_zip_is_named(share: float, tmp_path: Path) -> None:
    path = write_movielens(tmp_path, "1m", zipped=True)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"ml-1m\.zip: not a whole zip archive .* delete it"):
        MovieLens("1m", str(tmp_path)).identity()


def test_a_zip_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write_movielens(tmp_path, "1m", zipped=True)
    data = bytearray(path.read_bytes())
    data[80:110] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"ml-1m\.zip: not a whole zip archive"):
        read(MovieLens("1m", str(tmp_path)))


def test_another_archive_under_that_name_is_named(tmp_path: Path) -> None:
    write_movielens(tmp_path, "100k", zipped=True).rename(tmp_path / "ml-1m.zip")
    with pytest.raises(DataError, match=r"no ml-1m/ratings\.dat in this archive, which has ml-100k/u\.data"):
        MovieLens("1m", str(tmp_path)).identity()


def test_without_file_and_mirror_the_message_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-1m\.zip .* put the file there by hand"):
        MovieLens("1m", str(tmp_path)).identity()


def test_the_identity_follows_the_content_of_an_archive_and_not_its_place(tmp_path: Path) -> None:
    write_movielens(tmp_path / "a", "1m", zipped=True)
    write_movielens(tmp_path / "b", "1m", zipped=True)
    write_movielens(tmp_path / "c", "1m", LINES["1m"][:-1], zipped=True)
    a, b, c = (MovieLens("1m", str(tmp_path / name)).identity() for name in "abc")
    assert a == b != c


@pytest.mark.data
@pytest.mark.parametrize(
    ("version", "rows", "users", "items"), [("100k", 100_000, 943, 1682), ("1m", 1_000_209, 6040, 3706)]
)
def test_the_real_archives_have_the_published_counts(
    version: str, rows: int, users: int, items: int, real_data: Path
) -> None:
    user, item, rating, _ = read(MovieLens(version, str(real_data)))
    assert (len(rating), len(np.unique(user)), len(np.unique(item))) == (rows, users, items)
    assert set(np.unique(rating)) == {1, 2, 3, 4, 5}


def test_films_with_few_ratings_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ml-1m" / "ratings.dat"
    path.parent.mkdir()
    counts = {1: 5, 2: 4, 3: 1, 4: 6}
    path.write_text("".join(f"{user}::{item}::3::7\n" for item, count in counts.items() for user in range(count)))
    source = MovieLens("1m", str(tmp_path), min_ratings=5)
    (chunk,) = source.chunks()
    assert chunk.columns["item"].tolist() == [1] * 5 + [4] * 6
    assert chunk.columns["user"].tolist() == [*range(5), *range(6)]
    assert len(chunk.label) == len(chunk.time) == 11
    assert source.identity() != MovieLens("1m", str(tmp_path)).identity()
    with pytest.raises(DataError, match=r"data\.min_ratings=7: no film has so many ratings, the most are 6"):
        list(MovieLens("1m", str(tmp_path), min_ratings=7).chunks())
