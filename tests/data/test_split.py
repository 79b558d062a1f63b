from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnis_lightning.data.arrays import row_slices
from dnis_lightning.data.source import PARTS, Chunk, Field
from dnis_lightning.data.split import Shares, Split, assign_parts
from dnis_lightning.data.store import EncodedDataset, encode
from dnis_lightning.errors import DataError

from .conftest import Table, random_table


def split_rows(dataset: EncodedDataset, kind: Any, seed: int, shares: Shares | None = None) -> Split:
    return Split(*assign_parts(dataset, kind, seed, shares))


RANDOM: tuple[Any, ...] = ("three_way", "paper", "authors")
ALL: tuple[Any, ...] = (*RANDOM, "time", "leave_one_out")


def rows_of(split: Split) -> np.ndarray:
    parts = ["train", "search", "test"] + ([] if split.shared else ["select"])
    return np.concatenate([getattr(split, name) for name in parts])


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("seed", [0, 5])
def test_the_parts_are_disjoint_sorted_and_cover_all_rows(kind: Any, seed: int, dataset: EncodedDataset) -> None:
    split = split_rows(dataset, kind, seed)
    np.testing.assert_array_equal(np.sort(rows_of(split)), np.arange(dataset.rows))
    for name in PARTS:
        part = getattr(split, name)
        assert part.dtype == np.int64
        assert len(part)
        assert (np.diff(part) > 0).all()
    assert split.rows == {name: len(getattr(split, name)) for name in PARTS}


@pytest.mark.parametrize(
    ("kind", "task", "shares"),
    [
        ("three_way", "rating", (0.8, 0.05, 0.05, 0.1)),
        ("paper", "rating", (0.8, 0.1, 0.1, 0.1)),
        ("authors", "rating", (0.7, 0.2, 0.2, 0.1)),
        ("authors", "ctr", (0.72, 0.18, 0.18, 0.1)),
        ("time", "ctr", (0.8, 0.05, 0.05, 0.1)),
    ],
)
def test_the_shares_are_those_of_the_kind(kind: Any, task: Any, shares: tuple[float, ...], tmp_path: Path) -> None:
    split = split_rows(encode(random_table(1000, task=task), tmp_path), kind, 0)
    assert tuple(split.rows.values()) == tuple(round(1000 * share) for share in shares)
    assert split.shared == (kind in ("paper", "authors"))
    assert split.shared == (split.search is split.select)


def test_all_random_kinds_test_on_the_same_rows(dataset: EncodedDataset) -> None:
    tests = [split_rows(dataset, kind, 4).test for kind in RANDOM]
    for test in tests:
        np.testing.assert_array_equal(test, tests[0])
    assert not np.array_equal(tests[0], split_rows(dataset, "paper", 5).test)


def test_the_latest_rows_are_test(dataset: EncodedDataset) -> None:
    split = split_rows(dataset, "time", 0)
    order = sorted(range(dataset.rows), key=lambda row: (dataset.time[row], row))  # type: ignore[index]
    ends = np.cumsum([240, 15, 15, 30])
    for name, start, end in zip(("train", "search", "select", "test"), [0, *ends], ends, strict=False):
        assert getattr(split, name).tolist() == sorted(order[start:end])


def test_leave_one_out_leaves_out_the_last_rows_of_each_user(dataset: EncodedDataset) -> None:
    split = split_rows(dataset, "leave_one_out", 0)
    expected: dict[str, list[int]] = {name: [] for name in PARTS}
    for user in np.unique(dataset.codes[1]):
        mine = [row for row in range(dataset.rows) if dataset.codes[1][row] == user]
        mine.sort(key=lambda row: (dataset.time[row], row))  # type: ignore[index]
        if len(mine) < 4:
            expected["train"] += mine
            continue
        expected["train"] += mine[:-3]
        for name, row in zip(("search", "select", "test"), mine[-3:], strict=True):
            expected[name].append(row)
    for name in PARTS:
        assert getattr(split, name).tolist() == sorted(expected[name])


def test_leave_one_out_keeps_small_users_in_train(tmp_path: Path) -> None:
    user = np.array([1, 1, 1, 2, 2, 2, 2])
    table = Table({"u": user}, np.zeros(7, np.float32), np.array([3, 2, 1, 9, 9, 9, 8]), user_field="u")
    split = split_rows(encode(table, tmp_path), "leave_one_out", 0)
    assert [getattr(split, name).tolist() for name in PARTS] == [[0, 1, 2, 6], [3], [4], [5]]


@pytest.fixture
def scattered() -> Any:
    """Rows with many equal times, the earliest and latest that there can be, and users of 1 to 40 rows."""
    rng = np.random.default_rng(3)
    time = rng.integers(-30, 30, 1000)
    time[::37], time[::41] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    user = rng.zipf(1.3, 1000).clip(max=300).astype(np.uint16) - 1
    return SimpleNamespace(
        name="scattered",
        task="ctr",
        rows=1000,
        time=time,
        coded=(Field("u", "categorical"),),
        user=0,
        codes=(user,),
        cardinalities=(300,),
        code_of_missing=lambda number: 7,
    )


@pytest.fixture(params=[(1 << 20, 1 << 23), (64, 7)])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and users that are looked at together: all of them, or a few."""
    rows, users = request.param
    for module in ("split", "leave_one_out"):
        at_once = f"dnis_lightning.data.{module}.row_slices"
        monkeypatch.setattr(at_once, lambda count, size=rows: row_slices(count, size))
    monkeypatch.setattr("dnis_lightning.data.leave_one_out._USERS_AT_ONCE", users)


@pytest.mark.parametrize("shares", [Shares(0.05, 0.05, 0.1), Shares(0.2, None, 0.3), Shares(0.4, 0.3, 0.3)])
def test_the_latest_rows_are_those_of_a_stable_sort(shares: Shares, scattered: Any, at_once: None) -> None:
    order = np.argsort(scattered.time, kind="stable")[::-1]
    expected, start = np.full(1000, PARTS.index("train")), 0
    for name, share in (("test", shares.test), ("select", shares.select or 0), ("search", shares.search)):
        expected[order[start : start + round(1000 * share)]] = PARTS.index(name)
        start += round(1000 * share)
    if (expected == 0).any():
        np.testing.assert_array_equal(assign_parts(scattered, "time", 0, shares)[0], expected)
    else:
        with pytest.raises(DataError, match="none is left for train"):
            assign_parts(scattered, "time", 0, shares)


def test_the_last_rows_of_users_are_those_of_a_stable_sort(scattered: Any, at_once: None) -> None:
    expected = np.full(1000, PARTS.index("train"))
    for user in range(300):
        mine = np.flatnonzero(scattered.codes[0] == user)
        mine = mine[np.argsort(scattered.time[mine], kind="stable")]
        if len(mine) >= 4 and user != 7:  # who stands for rows without a user
            expected[mine[-3:]] = [PARTS.index(name) for name in ("search", "select", "test")]
    assert (expected == PARTS.index("test")).sum() > 10
    np.testing.assert_array_equal(assign_parts(scattered, "leave_one_out", 0)[0], expected)


@pytest.mark.parametrize("kind", ["three_way", "time", "leave_one_out", "column"])
def test_a_split_takes_little_more_than_a_byte_a_row(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, few = 1_000_000, 1 << 14
    for module in ("split", "leave_one_out"):
        at_once = f"dnis_lightning.data.{module}.row_slices"
        monkeypatch.setattr(at_once, lambda count, size=few: row_slices(count, size))
    for name in ("split._DRAWN_AT_ONCE", "split._CHOSEN_AT_ONCE", "leave_one_out._USERS_AT_ONCE"):
        monkeypatch.setattr(f"dnis_lightning.data.{name}", few)
    rng = np.random.default_rng(0)
    dataset = SimpleNamespace(
        name="large",
        task="ctr",
        rows=rows,
        time=rng.integers(0, 10**9, rows),
        given=rng.choice([0, 0, 3], rows).astype(np.uint8),
        coded=(Field("u", "categorical"),),
        user=0,
        codes=(rng.integers(0, 50_000, rows).astype(np.uint16),),
        cardinalities=(50_000,),
        code_of_missing=lambda number: None,
    )
    tracemalloc.start()
    try:
        assign_parts(dataset, kind, 0)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * rows  # what is held besides does not grow with the rows


def test_shares_may_be_given(dataset: EncodedDataset) -> None:
    split = split_rows(dataset, "three_way", 0, Shares(0.1, 0.2, 0.3))
    assert split.rows == {"train": 120, "search": 30, "select": 60, "test": 90}


def test_shares_that_round_to_more_than_there_is_leave_nothing_to_train_on(tmp_path: Path) -> None:
    dataset = encode(random_table(5), tmp_path)
    for kind in ("three_way", "time"):
        with pytest.raises(DataError, match="of the 5 rows of table none is left for train"):
            split_rows(dataset, kind, 0, Shares(0.4, 0.3, 0.3))


@pytest.mark.parametrize("rows", [1, 3, 4, 9, 10, 11, 19, 20, 29])
@pytest.mark.parametrize("kind", ALL)
def test_on_tiny_data_no_part_is_empty_or_the_fault_is_named(kind: Any, rows: int, tmp_path: Path) -> None:
    dataset = encode(random_table(rows), tmp_path)
    said = ""
    try:
        split = split_rows(dataset, kind, 0)
    except DataError as fault:
        said = str(fault)
    if said:
        assert said.startswith(f"data.split={kind}: of the {rows} rows of table none is left for")
    else:
        assert min(split.rows.values()) > 0


@pytest.mark.parametrize("kind", ["time", "leave_one_out"])
def test_a_split_that_needs_time_says_so(kind: Any, tmp_path: Path) -> None:
    table = Table({"u": np.arange(20)}, np.zeros(20, np.float32), user_field="u")
    with pytest.raises(DataError, match=f"data.split={kind}: table has no time column; take data.split=three_way"):
        split_rows(encode(table, tmp_path), kind, 0)


def test_an_unknown_kind_is_named(dataset: EncodedDataset) -> None:
    with pytest.raises(DataError, match=r"data\.split=thirds: there is no such split; choose one of three_way, paper"):
        split_rows(dataset, "thirds", 0)  # type: ignore[arg-type]


def test_a_split_that_needs_users_says_so(tmp_path: Path) -> None:
    table = Table({"u": np.arange(20)}, np.zeros(20, np.float32), np.arange(20))
    with pytest.raises(DataError, match="table has no field for the user"):
        split_rows(encode(table, tmp_path), "leave_one_out", 0)


def given(parts: list[str], tmp_path: Path) -> EncodedDataset:
    """Rows whose source says which part they belong to."""

    class Given(Table):
        def chunks(self) -> Iterator[Chunk]:
            for chunk in super().chunks():
                start = int(chunk.label[0])
                names = parts[start : start + len(chunk.label)]
                yield replace(chunk, part=np.array([PARTS.index(name) for name in names], dtype=np.uint8))

    rows = np.arange(len(parts))
    return encode(Given({"u": rows}, rows.astype(np.float32)), tmp_path)


def test_a_split_by_column_is_that_of_the_source(tmp_path: Path) -> None:
    parts = ["train", "test", "search", "select", "train", "select", "search"] * 3
    split = split_rows(given(parts, tmp_path), "column", 0)
    for name in PARTS:
        assert getattr(split, name).tolist() == [row for row, part in enumerate(parts) if part == name]


def test_search_is_drawn_from_train_where_the_source_has_none(tmp_path: Path) -> None:
    parts = ["train"] * 70 + ["select"] * 20 + ["test"] * 10
    dataset = given(parts, tmp_path)
    split = split_rows(dataset, "column", 0)
    assert split.rows == {"train": 66, "search": 4, "select": 20, "test": 10}
    assert split.search.max() < 70
    assert not split.shared
    assert split_rows(dataset, "column", 1).search.tolist() != split.search.tolist()


def test_search_is_drawn_from_all_rows_of_train_however_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnis_lightning.data.split._CHOSEN_AT_ONCE", 32)
    parts = ["train"] * 70 + ["test"] * 60 + ["train"] * 40 + ["select"] * 30
    split = split_rows(given(parts, tmp_path), "column", 0)
    assert split.rows == {"train": 104, "search": 6, "select": 30, "test": 60}
    assert {parts[row] for row in split.search} == {"train"}
    assert (split.search < 70).sum() == 4


def test_a_split_by_column_needs_one(dataset: EncodedDataset) -> None:
    with pytest.raises(DataError, match=r"data\.split=column: table does not say which rows are for what"):
        split_rows(dataset, "column", 0)


def test_of_very_many_rows_each_stretch_has_the_same_shares(
    dataset: EncodedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnis_lightning.data.split._DRAWN_AT_ONCE", 100)
    split = split_rows(dataset, "three_way", 0)
    assert split.rows == {"train": 240, "search": 15, "select": 15, "test": 30}
    for start in (0, 100, 200):
        assert ((split.test >= start) & (split.test < start + 100)).sum() == 10
