"""Which test rows belong together, by loops, and what is said of each group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.blocks import Blocks, make_blocks
from dnis_lightning.groups import Groups
from dnis_lightning.outcomes import Outcomes, mean_interval
from dnis_lightning.ranking import Query

FREQUENCY = np.array([5, 300, 40, 9, 0, 120, 10, 1])  # rows 0 and 4 stand for what has no row of its own
UNKNOWN = np.array([True, False, False, False, True, False, False, False])
DECADES = {"no row": (0, 0), "1–9": (1, 9), "10–99": (10, 99), "100–999": (100, 999)}


@pytest.fixture
def blocks() -> Blocks:
    return make_blocks(FREQUENCY, np.zeros(8, dtype=np.int32), blocks=6)


def batches(rng: np.random.Generator, rows: int = 40) -> list[Batch]:
    ids = np.stack([rng.integers(0, 4, rows), rng.integers(4, 8, rows)], 1)
    return [Batch(torch.from_numpy(part), torch.zeros(len(part))) for part in np.array_split(ids, 3)]


def rarest(ids: np.ndarray) -> str:
    if UNKNOWN[ids].any():
        return "no row"
    least = FREQUENCY[ids].min()
    return next(name for name, (low, high) in DECADES.items() if low <= least <= high)


def test_membership_by_loops(blocks: Blocks, rng: np.random.Generator) -> None:
    made = batches(rng)
    found = Groups.of(made, blocks, FREQUENCY, UNKNOWN)
    ids = np.concatenate([batch.ids.numpy() for batch in made])
    member = np.stack(list(found.members()), 1)
    assert member.shape == (len(ids), len(found.groups))
    for column, group in enumerate(found.groups):
        for row, own in enumerate(ids):
            belongs = {
                "all": True,
                "block": f"block {1 + blocks.block_of[own[0]]}" == group.name
                or f"block {1 + blocks.block_of[own[1]]}" == group.name,
                "rarest": rarest(own) == group.name,
            }[group.by]
            assert member[row, column] == belongs
        assert group.rows == member[:, column].sum() > 0
        if group.by == "rarest":
            assert (group.least, group.most) == DECADES[group.name]
        if group.by == "block":
            mine = FREQUENCY[blocks.block_of == int(group.name.removeprefix("block ")) - 1]
            assert (group.least, group.most) == (mine.min(), mine.max())
    by_rarest = [column for column, group in enumerate(found.groups) if group.by == "rarest"]
    assert member[:, by_rarest].sum(1).tolist() == [1] * len(ids)


def test_features_that_are_not_there_do_not_count(blocks: Blocks) -> None:
    values = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.5, 0.5]])
    batch = Batch(torch.tensor([[1, 5, 4], [1, 5, 4]]), torch.zeros(2), values, torch.tensor([0, 1, 3]))
    found = Groups.of([batch], blocks, FREQUENCY, UNKNOWN)
    (column,) = [column for column, group in enumerate(found.groups) if group.name == "no row"]
    assert list(found.members())[column].tolist() == [False, True]


def test_rows_of_queries_are_wanted_items_with_their_users(blocks: Blocks) -> None:
    wanted, seen = torch.tensor([[0, 1], [0, 2]]), torch.zeros((2, 0), dtype=torch.int64)
    both = torch.tensor([1, 1])
    query = Query(torch.tensor([1, 2]), torch.tensor([5, 6, 7]), seen, wanted, both, both)
    found = Groups.of([query], blocks, FREQUENCY, UNKNOWN)
    assert {group.name: group.rows for group in found.groups if group.by == "rarest"} == {"100–999": 1, "1–9": 1}
    own = Query(torch.tensor([1, 2]), torch.tensor([[6, 5, 7], [7, 6, 5]]), seen, wanted, both, both)
    found = Groups.of([own], blocks, FREQUENCY, UNKNOWN)
    assert {group.name: group.rows for group in found.groups if group.by == "rarest"} == {"10–99": 2}


def test_values_and_changes_are_means_over_the_rows_of_a_group(blocks: Blocks, rng: np.random.Generator) -> None:
    groups = Groups.of(batches(rng), blocks, FREQUENCY, UNKNOWN)
    before, after = (Outcomes({}, {}, rng.random(40).astype(np.float32)) for _ in range(2))
    for mine, told in zip(groups.members(), groups.compared(before, after), strict=True):
        assert told["value"] == pytest.approx(after.rows[mine].mean())
        expected = mean_interval((after.rows - before.rows)[mine]).told()
        assert (told["difference"], told["low"]) == (pytest.approx(expected["difference"]), expected["low"])
    assert groups.values(before)[0]["value"] == pytest.approx(before.rows.mean())


def test_clicks_have_their_rates(blocks: Blocks, rng: np.random.Generator) -> None:
    groups = Groups.of(batches(rng), blocks, FREQUENCY, UNKNOWN)
    logits, label = rng.normal(size=40), rng.integers(0, 2, 40)
    first = groups.values(Outcomes({}, {}, rng.random(40), logits, label))[0]
    assert first["predicted"] == pytest.approx((1 / (1 + np.exp(-logits))).mean())
    assert first["observed"] == pytest.approx(label.mean())


def test_clicks_have_the_auc_of_each_group_and_how_it_changes(blocks: Blocks, rng: np.random.Generator) -> None:
    groups = Groups.of(batches(rng), blocks, FREQUENCY, UNKNOWN)
    label = rng.integers(0, 2, 40)
    before, after = (Outcomes({}, {}, rng.random(40), rng.normal(size=40), label) for _ in range(2))
    for mine, first, told in zip(groups.members(), groups.values(before), groups.compared(before, after), strict=True):
        pairs = [(c, o) for c in after.logits[mine & (label > 0)] for o in after.logits[mine & (label == 0)]]  # type: ignore[index]
        if not pairs:
            assert told["auc"] is told["auc_difference"] is None
            continue
        assert told["auc"] == pytest.approx(np.mean([c > o for c, o in pairs]))
        assert told["auc_difference"] == pytest.approx(told["auc"] - first["auc"])
        if told["auc_low"] is not None:
            assert told["auc_low"] < told["auc_difference"] < told["auc_high"]


def test_a_diverged_model_has_no_values(blocks: Blocks, rng: np.random.Generator) -> None:
    groups = Groups.of(batches(rng), blocks, FREQUENCY, UNKNOWN)
    broken = Outcomes({}, {}, np.full(40, np.nan))
    assert {told["value"] for told in groups.values(broken)} == {None}


def test_no_rows_no_groups(blocks: Blocks) -> None:
    assert Groups.of([], blocks, FREQUENCY, UNKNOWN).groups == ()
