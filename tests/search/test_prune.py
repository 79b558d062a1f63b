"""Equation 9 and its budgets."""

from __future__ import annotations

import itertools

import pytest
import torch

from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.autoint import AutoInt
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.budget import COO_BYTES, compression_rate, parse_budget
from dnis_lightning.search.prune import (
    Pruning,
    above,
    cut_mask,
    largest,
    largest_gates,
    longest_prefixes,
    until_last,
)
from dnis_lightning.search.schedule import OneShot

TABLE = torch.tensor([[0.5, -0.1], [0.0, 0.3], [-0.4, 0.2]])


def test_equation_9_keeps_what_is_not_below_the_threshold() -> None:
    assert above(TABLE, 0.3).tolist() == [[True, False], [False, True], [True, False]]
    assert above(TABLE, 0.0).all()


def test_largest_keeps_exactly_so_many() -> None:
    assert largest(TABLE.clone(), 3).tolist() == [[True, False], [False, True], [True, False]]
    for kept in range(8):
        assert int(largest(TABLE.clone(), kept).sum()) == min(kept, 6)
    assert int(largest(torch.ones(10, 4), 17).sum()) == 17, "ties are cut, too"
    assert largest(torch.zeros(5, 0), 0).shape == (5, 0)


def test_gates_are_taken_whole_largest_first() -> None:
    gates, block_of = torch.tensor([[0.9, 0.1], [0.5, 0.4]]), torch.tensor([0, 1, 1])
    assert largest_gates(TABLE, gates, block_of, 1).tolist() == [[True, False], [False, False], [False, False]]
    assert largest_gates(TABLE, gates, block_of, 3).tolist() == [[True, False], [True, False], [True, False]]
    # 4 entries: α = 0.4 would take 2 more and does not fit, the single entry of α = 0.1 does
    assert largest_gates(TABLE, gates, block_of, 4).tolist() == [[True, True], [True, False], [True, False]]


def test_equal_gates_are_told_apart_by_their_entries() -> None:
    gates, block_of = torch.ones(2, 2), torch.tensor([0, 1, 1])
    kept = largest_gates(TABLE, gates, block_of, 2)  # means: 0.5, 0.1 in block 0, 0.2, 0.25 in block 1
    assert kept.tolist() == [[True, True], [False, False], [False, False]]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("cr:2", 3200),
        ("cr:2.5", 2560),
        ("10%", 640),
        ("100%", 6400),
        ("12KiB", 12 * 1024 // COO_BYTES),
        ("1 GiB", 6400),
    ],
)
def test_budgets_as_users_say_them(text: str, entries: int) -> None:
    assert parse_budget(text).entries(100 * 64) == entries


@pytest.mark.parametrize("text", ["", "cr:", "cr:0.5", "0%", "101%", "25", "25MB", "cr:1.2.3", "-5%", "0MiB"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.(budget|rates)"):
        parse_budget(text)


def test_a_rate_says_its_name() -> None:
    assert compression_rate(2.5).name == "cr:2.5"


def test_first_dimensions_are_kept_where_they_hold_most() -> None:
    table = torch.tensor([[3.0, 1.0, 0.1], [2.0, 0.0, 2.0], [0.0, 0.0, 0.5]])
    everywhere = torch.ones(3, 3, dtype=torch.bool)
    lengths = {kept: longest_prefixes(table, kept, everywhere).sum(1).tolist() for kept in range(10)}
    # 9 alone; 4 of the second row's first; then 4 more for two entries, of which the first is 0; then 1
    assert [lengths[kept] for kept in (0, 1, 2, 4, 5, 9)] == [
        [0, 0, 0],
        [1, 0, 0],
        [1, 1, 0],
        [1, 3, 0],
        [2, 3, 0],
        [3, 3, 3],
    ]
    assert lengths[3] == [1, 1, 0], "a step of two entries does not fit"


@pytest.mark.parametrize("seed", range(20))
def test_no_other_lengths_of_as_many_entries_hold_more(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    table, everywhere = torch.randn(4, 3, generator=rng), torch.ones(4, 3, dtype=torch.bool)
    for kept in range(13):
        mask = longest_prefixes(table, kept, everywhere)
        assert torch.equal(mask, until_last(mask)), "all entries up to the last one"
        used, held = int(mask.sum()), float((table * mask).square().sum())
        assert used <= kept
        every = (torch.tensor(lengths) for lengths in itertools.product(range(4), repeat=4))
        others = [torch.arange(3) < one[:, None] for one in every if int(one.sum()) == used]
        assert held >= max(float((table * one).square().sum()) for one in others) - 1e-5


def test_entries_that_are_not_there_are_not_kept() -> None:
    there = torch.tensor([[True, False, True], [False, False, False]])
    table = torch.ones(2, 3)
    assert longest_prefixes(table, 6, there).tolist() == there.tolist()
    assert longest_prefixes(table, 1, there).sum() <= 1
    assert not longest_prefixes(table, 1, there)[1].any()
    assert longest_prefixes(torch.zeros(3, 0), 0, torch.zeros(3, 0, dtype=torch.bool)).shape == (3, 0)


def test_until_last() -> None:
    mask = torch.tensor([[False, True, False], [False, False, False], [True, False, True]])
    assert until_last(mask).tolist() == [[True, True, False], [False] * 3, [True] * 3]


@pytest.mark.parametrize("interaction", [FM(), NeuMF(2, 6)])
def test_prefixes_are_of_principal_axes_and_of_each_table(interaction: torch.nn.Module) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace((0, 10, 30)), interaction, dims=6, std=1.0)
    whole = model.table.weight.numel()
    mask = cut_mask(model, compression_rate(3), Pruning("prefix", OneShot(None)), torch.arange(30), whole)
    assert 0 < int(mask.sum()) <= whole // 3
    narrow = mask.view(-1, 6)
    assert torch.equal(narrow, until_last(narrow))
    lengths = narrow.sum(1).view(30, -1).sum(1).float()
    assert lengths[:5].mean() < lengths[-5:].mean(), "what is frequent counts for more"
    by_threshold = cut_mask(model, 1.5, Pruning("prefix", OneShot(None)), torch.arange(30), whole).view(-1, 6)
    assert torch.equal(by_threshold, until_last(by_threshold))
    assert 0 < int(by_threshold.sum()) < whole


def test_rows_that_cannot_be_turned_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Recommender(FeatureSpace((0, 10, 30)), AutoInt(2, 6), dims=6, std=1.0)
    before = model.table.weight.detach().clone()
    mask = cut_mask(model, compression_rate(2), Pruning("prefix", OneShot(None)), torch.arange(30), 180)
    assert "rows of this model cannot be turned" in caplog.text
    assert torch.equal(model.table.weight, before)
    assert torch.equal(mask, until_last(mask))
