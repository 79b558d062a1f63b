"""Equation 9 and its budgets."""

from __future__ import annotations

import pytest
import torch

from dnis_lightning.errors import ConfigError
from dnis_lightning.search.budget import COO_BYTES, compression_rate, parse_budget
from dnis_lightning.search.prune import above, largest, largest_gates

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
