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
    return Loader(prepared.dataset, prepared.vocabulary, prepared.split.train, **options)


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
    assert (found == sorted(found)) is not shuffle


def test_a_batch_holds_the_encoded_rows(prepared: Prepared) -> None:
    for batch in loader(prepared):
        mine = batch.label.long().numpy()
        ids, values = prepared.vocabulary.encode(prepared.dataset.codes[mine], prepared.dataset.values[mine])  # type: ignore[index]
        np.testing.assert_array_equal(batch.ids, ids)
        np.testing.assert_array_equal(batch.values, values)
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
