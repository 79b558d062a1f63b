from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.errors import RunError

from .conftest import Table, random_table


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Rows whose label is their number."""
    table = random_table(300)
    table = Table(table.columns, np.arange(300, dtype=np.float32))
    return prepare(table, cache=tmp_path, split="three_way", split_seed=0)


def loader(prepared: Prepared, **options: Any) -> Loader:
    options = {"batch_size": 32, "shuffle": True} | options
    return Loader([prepared.parts[name] for name in options.pop("parts", ["train"])], **options)


def labels(batches: Any) -> list[list[float]]:
    return [batch.label.tolist() for batch in batches]


def rows(batches: Any) -> list[float]:
    return [label for batch in labels(batches) for label in batch]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_covers_every_row_once(shuffle: bool, prepared: Prepared) -> None:
    batches = list(loader(prepared, shuffle=shuffle))
    assert [batch.size for batch in batches] == [32] * 7 + [16]
    assert len(batches) == len(loader(prepared))
    found = rows(batches)
    assert sorted(found) == prepared.split.train.tolist()
    assert found != sorted(found), "the rows lie shuffled on disk"
    assert (rows(loader(prepared, shuffle=False)) == found) is not shuffle


def test_a_batch_holds_the_encoded_rows(prepared: Prepared) -> None:
    layout = prepared.parts["train"].layout
    whole = layout.batch(layout.records(slice(0, 300)), 300)
    assert whole.values is not None
    for batch in loader(prepared):
        mine = batch.label.long()
        assert batch.values is not None
        assert torch.equal(batch.ids, whole.ids[mine])
        assert torch.equal(batch.values, whole.values[mine])
        assert (batch.ids.dtype, batch.label.dtype, batch.total) == (torch.int64, torch.float32, batch.size)


def test_without_numeric_fields_there_are_no_values(tmp_path: Path) -> None:
    table = Table({"u": np.arange(40) % 7}, np.zeros(40, np.float32))
    made = prepare(table, cache=tmp_path, split="three_way", split_seed=0)
    assert all(batch.values is None for batch in loader(made))


@pytest.mark.parametrize("world", [2, 3, 20])
def test_the_ranks_together_have_the_batches_of_one_process(world: int, prepared: Prepared) -> None:
    alone = list(loader(prepared))
    ranks = [list(loader(prepared, rank=rank, world=world)) for rank in range(world)]
    for number, whole in enumerate(alone):
        shares: list[Batch] = [batches[number] for batches in ranks]
        together = torch.empty(whole.size)
        for rank, share in enumerate(shares):
            together[rank::world] = share.label
            assert share.total == whole.size
        torch.testing.assert_close(together, whole.label)
        assert sum(share.size for share in shares) == whole.size
    assert {len(batches) for batches in ranks} == {len(alone)}


def test_a_rank_without_rows_gets_an_empty_batch(prepared: Prepared) -> None:
    last = list(loader(prepared, rank=19, world=20))[-1]
    assert (last.size, last.total, tuple(last.ids.shape)) == (0, 16, (0, 3))


def test_each_pass_has_an_order_of_its_own_that_the_seed_gives(prepared: Prepared) -> None:
    one, two, other = loader(prepared), loader(prepared), loader(prepared, seed=1)
    passes = [labels(one) for _ in range(3)]
    assert passes == [labels(two) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    assert labels(other) != passes[0]


@pytest.mark.parametrize("taken", [1, 5, 7])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_restored_loader_goes_on_where_the_other_stood(taken: int, earlier: int, prepared: Prepared) -> None:
    original = loader(prepared)
    for _ in range(earlier):
        list(original)
    walk = iter(original)
    for _ in range(taken):
        next(walk)
    restored = loader(prepared)
    restored.load_state_dict(original.state_dict())
    assert restored.state_dict() == original.state_dict()
    assert labels(restored) == labels(walk)
    assert labels(restored) == labels(original)
    assert labels(restored) == labels(original)


def test_restored_after_the_last_batch_nothing_of_the_pass_is_left(prepared: Prepared) -> None:
    original = loader(prepared)
    walk = iter(original)
    for _ in range(len(original)):
        next(walk)
    restored = loader(prepared)
    restored.load_state_dict(original.state_dict())
    assert labels(restored) == labels(walk) == []
    assert labels(restored) == labels(original)


def test_restored_at_its_start_it_does_the_whole_pass(prepared: Prepared) -> None:
    original = loader(prepared)
    list(original)
    restored = loader(prepared)
    restored.load_state_dict(original.state_dict())
    assert labels(restored) == labels(original)


def test_an_iteration_left_early_is_followed_by_the_next_pass(prepared: Prepared) -> None:
    left, whole = loader(prepared), loader(prepared)
    next(iter(left))
    list(whole)
    assert labels(left) == labels(whole)


def test_the_state_of_another_loader_is_refused(prepared: Prepared) -> None:
    state = loader(prepared, batch_size=16).state_dict()
    with pytest.raises(RunError, match=r"loader had {'batch_size': 16}, this has {'batch_size': 32}"):
        loader(prepared).load_state_dict(state)


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches of 16 rows."""
    monkeypatch.setattr("dnis_lightning.data.loader._STRETCH_ROWS", 16)


@pytest.mark.usefixtures("stretches")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stretches_at_once", [1, 3, 100])
@pytest.mark.parametrize("batch_size", [7, 16, 50, 500])
def test_rows_that_do_not_fit_the_buffer_are_covered_once(
    shuffle: bool, stretches_at_once: int, batch_size: int, prepared: Prepared
) -> None:
    buffer = stretches_at_once * 16 * prepared.parts["train"].layout.dtype.itemsize
    options = {"buffer": buffer, "shuffle": shuffle, "batch_size": batch_size, "parts": ["train", "search"]}
    walked = loader(prepared, **options)
    for _ in range(2):
        batches = list(walked)
        assert [batch.size for batch in batches[:-1]] == [batch_size] * (len(walked) - 1)
        assert sorted(rows(batches)) == sorted([*prepared.split.train.tolist(), *prepared.split.search.tolist()])
    for position in range(len(walked) + 1):
        walked.load_state_dict({**walked.state_dict(), "pass": 1, "position": position})
        assert labels(walked) == labels(batches)[position:]


@pytest.mark.usefixtures("stretches")
def test_only_neighbours_on_disk_are_shuffled_with_one_another(prepared: Prepared) -> None:
    size = prepared.parts["train"].layout.dtype.itemsize
    on_disk = rows(loader(prepared, shuffle=False))
    found = rows(loader(prepared, buffer=16 * size))
    homes = [on_disk.index(row) // 16 for row in found]
    assert [len(set(homes[start : start + 16])) for start in range(0, 224, 16)] == [1] * 14
    assert homes != sorted(homes)


def test_every_order_is_as_likely_as_another(tmp_path: Path) -> None:
    """The place of a row on disk, and in a pass, says nothing about its number."""
    table = Table({"u": np.zeros(2000, dtype=int)}, np.arange(2000, dtype=np.float32))
    made = prepare(table, cache=tmp_path)
    for found in (rows(loader(made, shuffle=False)), rows(loader(made))):
        assert abs(np.corrcoef(np.arange(len(found)), found)[0, 1]) < 0.1


def test_a_file_that_became_short_is_an_error(prepared: Prepared) -> None:
    path = prepared.parts["train"].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"train\.rows: it ends before row"):
        list(loader(prepared))
