"""Equation 9 and its budgets."""

from __future__ import annotations

import itertools

import pytest
import torch

from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.dcn import DCN
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.budget import Budget, at_threshold, compression_rate, parse_budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import (
    Pruning,
    above,
    best_prefixes,
    choose_again,
    cut_mask,
    largest,
    largest_gates,
    least_that_fits,
    prices,
    until_last,
)
from dnis_lightning.search.schedule import OneShot


def never(mask: torch.Tensor) -> bool:
    """Of a budget that is counted no cut is tried."""
    raise AssertionError


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
    ("text", "budget"),
    [
        ("cr:2", Budget("cr:2", rate=2)),
        ("cr:2.5", Budget("cr:2.5", rate=2.5)),
        ("10%", Budget("10%", rate=10)),
        ("12KiB", Budget("12KiB", size=12 * 1024)),
        (" 1 GiB", Budget("1 GiB", size=2**30)),
        ("bytes:10%", Budget("bytes:10%", bytes_share=0.1)),
        ("loss:0.5%", Budget("loss:0.5%", loss=0.005)),
        ("loss:0%", Budget("loss:0%", loss=0)),
        ("eps:0.01", at_threshold(0.01)),
        ("eps:1e-05", at_threshold(1e-5)),
    ],
)
def test_budgets_as_users_say_them(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


def evenly(frequency: torch.Tensor) -> Importance:
    """Of features of these frequencies, all dimensions alike."""

    def alike(model: Recommender) -> torch.Tensor:
        return torch.ones(model.space.fields, model.table.kept().shape[1])

    return Importance(frequency, alike)


ASCENDING = evenly(torch.arange(30))


@pytest.mark.parametrize("by", ["elements", "prefix"])
def test_the_largest_cut_that_fits_is_taken(by: str) -> None:
    torch.manual_seed(0)
    pruning, whole = Pruning(by, OneShot(None)), 20_000 * 6  # type: ignore[arg-type]

    def cut(budget: Budget, most: int) -> int:
        def fits(mask: torch.Tensor) -> bool:
            return int(mask.sum()) >= most if budget.loss else int(mask.sum()) <= most

        model = Recommender(FeatureSpace((0, 10_000, 20_000)), FM(), dims=6, std=1.0)
        return int(cut_mask(model, budget, pruning, evenly(torch.ones(20_000)), whole, fits).sum())

    for most in (0, 100, 54_321, whole - 1, whole):
        found = cut(parse_budget("1MiB"), most)
        assert most - whole // 1024 <= found <= most
        found = whole - cut(parse_budget("loss:1%"), most)  # the smallest that is not below
        assert whole - most - whole // 1024 <= found <= whole - most
    assert cut(parse_budget("10%"), 0) == pytest.approx(whole / 10, abs=6), "shares are counted, not tried"


@pytest.mark.parametrize("text", ["cr:11", "cr:3", "10%", "33%", "0.5%", "0.07%"])
def test_no_more_entries_are_kept_than_a_budget_says(text: str) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace((0, 10, 20)), FM(), dims=64, std=1.0)
    bound = parse_budget(text)
    mask = cut_mask(model, bound, Pruning("elements", OneShot(None)), ASCENDING, 20 * 64, lambda mask: True)
    assert bound.rate is not None
    assert 20 * 64 / bound.rate - 1 < int(mask.sum()) <= 20 * 64 / bound.rate


def test_the_smallest_that_fits_is_found_where_larger_ones_do_not() -> None:
    def choose(count: int) -> torch.Tensor:
        return torch.arange(100_000) < count

    def fits(mask: torch.Tensor) -> bool:
        return 700 <= int(mask.sum()) < 20_000 or int(mask.sum()) == 100_000

    assert 700 <= int(least_that_fits(choose, 100_000, fits).sum()) <= 700 + 100_000 // 4096
    assert int(least_that_fits(choose, 100_000, lambda mask: int(mask.sum()) == 100_000).sum()) >= 99_970
    assert int(least_that_fits(choose, 100_000, lambda mask: True).sum()) == 0
    assert int(least_that_fits(choose, 0, lambda mask: True).sum()) == 0


def test_a_share_of_bytes_is_of_the_values_of_the_plain_table() -> None:
    assert parse_budget("bytes:10%").of_table(1000) == Budget("bytes:10%", size=400)
    assert parse_budget("10%").of_table(1000) == parse_budget("10%")
    assert parse_budget(compression_rate(1e15).name) == compression_rate(1e15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cr:",
        "cr:0.5",
        "0%",
        "101%",
        "25",
        "25MB",
        "cr:1.2.3",
        "-5%",
        "0MiB",
        "loss:",
        "loss:-1%",
        "loss:1",
        "bytes:0%",
        "bytes:101%",
        "bytes:10",
        f"0.{'0' * 40}1%",
    ],
)
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.(budget|rates)"):
        parse_budget(text)


def test_a_rate_says_its_name() -> None:
    assert compression_rate(2.5).name == "cr:2.5"


def test_first_dimensions_are_kept_where_they_hold_most() -> None:
    table = torch.tensor([[3.0, 1.0, 0.1], [2.0, 0.0, 2.0], [0.0, 0.0, 0.5]])
    everywhere = torch.ones(3, 3, dtype=torch.bool)
    lengths = {
        kept: best_prefixes(prices(table.clone(), everywhere), kept, everywhere).sum(1).tolist() for kept in range(10)
    }
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
        mask = best_prefixes(prices(table.clone(), everywhere), kept, everywhere)
        assert torch.equal(mask, until_last(mask)), "all entries up to the last one"
        used, held = int(mask.sum()), float((table * mask).square().sum())
        assert used <= kept
        every = (torch.tensor(lengths) for lengths in itertools.product(range(4), repeat=4))
        others = [torch.arange(3) < one[:, None] for one in every if int(one.sum()) == used]
        assert held >= max(float((table * one).square().sum()) for one in others) - 1e-5


def test_entries_that_are_not_there_are_not_kept() -> None:
    there = torch.tensor([[True, False, True], [False, False, False]])
    table = torch.ones(2, 3)
    assert best_prefixes(prices(table.clone(), there), 6, there).tolist() == there.tolist()
    assert best_prefixes(prices(table.clone(), there), 1, there).sum() <= 1
    assert not best_prefixes(prices(table.clone(), there), 1, there)[1].any()
    assert best_prefixes(
        prices(torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool)), 0, torch.zeros(3, 0, dtype=torch.bool)
    ).shape == (3, 0)


def test_until_last() -> None:
    mask = torch.tensor([[False, True, False], [False, False, False], [True, False, True]])
    assert until_last(mask).tolist() == [[True, True, False], [False] * 3, [True] * 3]


@pytest.mark.parametrize("interaction", [FM(), NeuMF(2, 6), DCN(2, 6)])
def test_prefixes_are_of_principal_axes_and_of_each_table(interaction: torch.nn.Module) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace((0, 10, 30)), interaction, dims=6, std=1.0)
    whole = model.table.weight.numel()
    mask = cut_mask(model, compression_rate(3), Pruning("prefix", OneShot(None)), ASCENDING, whole, never)
    assert 0 < int(mask.sum()) <= whole // 3
    narrow = mask.view(-1, 6)
    assert torch.equal(narrow, until_last(narrow))
    lengths = narrow.sum(1).view(30, -1).sum(1).float()
    assert lengths[:5].mean() < lengths[-5:].mean(), "what is frequent counts for more"
    by_threshold = cut_mask(model, at_threshold(1.5), Pruning("prefix", OneShot(None)), ASCENDING, whole, never).view(
        -1, 6
    )
    assert torch.equal(by_threshold, until_last(by_threshold))
    assert 0 < int(by_threshold.sum()) < whole


class TwoTables(torch.nn.Module):
    """Of two tables side by side, without a way to turn both."""

    tables = 2


def test_where_rows_cannot_be_turned_single_entries_go(caplog: pytest.LogCaptureFixture) -> None:
    model = Recommender(FeatureSpace((0, 10, 30)), TwoTables(), dims=3, std=1.0)
    before = model.table.weight.detach().clone()
    with caplog.at_level("INFO"):
        mask = cut_mask(model, compression_rate(2), Pruning("prefix", OneShot(None)), ASCENDING, 180, never)
    assert "rows of this model cannot be turned: instead of first dimensions single entries go" in caplog.text
    assert torch.equal(model.table.weight, before)
    assert torch.equal(mask, largest(before.clone(), 90))
    again = Recommender(FeatureSpace((0, 10, 30)), TwoTables(), dims=3, std=1.0)
    table, pruning = again.merged_table(), Pruning("prefix", OneShot(None))
    assert torch.equal(cut_mask(again, at_threshold(0.5), pruning, ASCENDING, 180, never), above(table, 0.5))
    assert torch.equal(choose_again(again, 40, pruning, ASCENDING), largest(table.clone(), 40))
