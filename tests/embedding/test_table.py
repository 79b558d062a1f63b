"""Which entries of a table are the largest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnis_lightning.embedding.table import top


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_takes_the_largest_of_any_numbers(dtype: torch.dtype, rng: np.random.Generator) -> None:
    drawn = rng.normal(size=(40, 5)) * 10.0 ** rng.integers(-44, 38, (40, 5))
    scores = torch.from_numpy(drawn).to(dtype)
    scores[3, :] = torch.tensor([torch.inf, 0.0, -0.0, 1e-45, -torch.inf])
    there = torch.from_numpy(rng.random((40, 5)) < 0.8)
    order = scores[there].sort(descending=True).values
    for count in (1, 2, 17, 80, len(order) - 1):
        mask = top(scores.clone(), count, there)
        assert int(mask.sum()) == count
        assert not (mask & ~there).any()
        assert torch.equal(scores[mask].sort(descending=True).values, order[:count])
    for count in (len(order), len(order) + 1, 999):
        assert torch.equal(top(scores.clone(), count, there), there)
    assert not top(scores.clone(), 0, there).any()


def test_of_equal_entries_the_first_are_taken() -> None:
    scores = torch.tensor([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0]])
    mask = top(scores, 3, torch.ones(3, 2, dtype=torch.bool))
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
