from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.data.movielens import MovieLens
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.vocabulary import VocabularyOptions
from dnis_lightning.errors import DataError

from .conftest import Table, random_table


def same(a: Prepared, b: Prepared) -> None:
    for name in ("train", "search", "select", "test"):
        np.testing.assert_array_equal(getattr(a.split, name), getattr(b.split, name))
    assert a.split.shared == b.split.shared
    for name in ("offsets", "frequency", "code_of"):
        np.testing.assert_array_equal(getattr(a.vocabulary, name), getattr(b.vocabulary, name))
    for one, other in zip(a.vocabulary.local, b.vocabulary.local, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, part in a.parts.items():
        assert part.path.read_bytes() == b.parts[name].path.read_bytes()
    assert a.mean_label == b.mean_label


@pytest.mark.parametrize("kind", ["three_way", "paper", "authors", "time", "leave_one_out"])
def test_a_second_call_opens_what_the_first_made(
    kind: str, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(table, cache=tmp_path, split=kind, split_seed=3, options=VocabularyOptions(2))  # type: ignore[arg-type]
    for name in ("assign_parts", "build_vocabulary", "write_parts"):
        monkeypatch.setattr(f"dnis_lightning.data.prepare.{name}", None)
    same(first, prepare(table, cache=tmp_path, split=kind, split_seed=3, options=VocabularyOptions(2)))  # type: ignore[arg-type]
    assert first.rows == first.split.rows


def test_another_seed_or_min_count_encodes_nothing_anew(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(table, cache=tmp_path)
    monkeypatch.setattr(Table, "chunks", None)
    other = prepare(table, cache=tmp_path, split_seed=1)
    fewer = prepare(table, cache=tmp_path, options=VocabularyOptions(20))
    assert not np.array_equal(first.split.test, other.split.test)
    np.testing.assert_array_equal(first.split.test, fewer.split.test)
    assert fewer.vocabulary.features < first.vocabulary.features


def test_damaged_artefacts_are_made_anew(table: Table, tmp_path: Path, listing: Callable[[Path], list[str]]) -> None:
    first = prepare(table, cache=tmp_path)
    whole = listing(tmp_path)
    for path in tmp_path.rglob("part.npy"):
        path.unlink()  # `first` has it mapped
        path.write_bytes(b"x")
    for path in [*tmp_path.rglob("local0.npy"), *tmp_path.rglob("train.rows")]:
        path.unlink()
    for path in tmp_path.rglob("numbers.json"):
        path.write_text("[{}, {}]")
    same(first, prepare(table, cache=tmp_path))
    assert listing(tmp_path) == whole


def test_an_empty_part_leaves_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is left for"):
        prepare(random_table(5), cache=tmp_path)
    assert not list(tmp_path.rglob("part.npy"))


@pytest.mark.data
def test_movielens_1m_opens_in_under_a_second(real_data: Path, tmp_path: Path) -> None:
    source = MovieLens("1m", str(real_data))
    prepare(source, cache=tmp_path)
    started = time.perf_counter()
    assert prepare(source, cache=tmp_path).rows == {"train": 800168, "search": 50010, "select": 50010, "test": 100021}
    assert time.perf_counter() - started < 1
