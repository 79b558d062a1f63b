"""Learnable thresholds, against their formula by loops."""

from __future__ import annotations

import math

import pytest
import torch

from dnis_lightning.embedding.threshold import SoftThreshold

SHAPES = {"table": (1, 1), "dimension": (1, 3), "feature": (5, 1), "element": (5, 3)}


def soft(e: float, s: float) -> float:
    """sign(e) · max(|e| − σ(s), 0)."""
    return math.copysign(max(abs(e) - 1 / (1 + math.exp(-s)), 0), e)


@pytest.mark.parametrize("granularity", list(SHAPES))
def test_entries_are_less_their_thresholds(granularity: str) -> None:
    torch.manual_seed(0)
    layer = SoftThreshold(5, 3, granularity=granularity).double()
    assert layer.s.shape == SHAPES[granularity]
    layer.s.data.normal_()
    table, ids = torch.randn(5, 3).double(), torch.tensor([[4, 0], [2, 2]])
    s = layer.s.detach().expand(5, 3)
    rows = layer(table[ids], ids)
    for b in range(2):
        for f in range(2):
            i = int(ids[b, f])
            expected = [soft(float(table[i, k]), float(s[i, k])) for k in range(3)]
            assert rows[b, f].tolist() == pytest.approx(expected)
    assert layer.merge(table)[4].tolist() == rows[0, 0].tolist()


def test_thresholds_learn_by_the_loss() -> None:
    layer = SoftThreshold(4, 2, start=-1.0).double()
    ids, table = torch.tensor([[0, 1]]), torch.randn(4, 2).double() + 3
    assert torch.autograd.gradcheck(
        lambda s: torch.func.functional_call(layer, {"s": s}, (table[ids], ids)), layer.s.detach().requires_grad_()
    )


def test_what_is_left_is_noted_when_few_enough_are_above() -> None:
    layer = SoftThreshold(2, 2, start=0.0)  # σ(0) = 0.5
    table = torch.tensor([[0.9, -0.7], [0.6, 0.1]])
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    layer.note_if_few(table, 2, everywhere)
    assert not layer.left.any(), "three are above"
    assert layer.chosen(table, 2, everywhere).tolist() == [[True, True], [False, False]]
    but_one = torch.tensor([[False, True], [True, True]])
    assert layer.chosen(table, 2, but_one).tolist() == [[False, True], [True, False]], "of those that are there"
    layer.note_if_few(table, 3, everywhere)
    assert layer.left.tolist() == [[True, True], [True, False]]
    assert torch.equal(layer.chosen(torch.zeros(2, 2), 3, everywhere), layer.left)
    assert layer.chosen(table, 2, everywhere).tolist() == [[True, True], [False, False]], "fewer, as bytes may want it"
