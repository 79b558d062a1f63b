"""Gates of 0 and 1."""

from __future__ import annotations

import numpy as np
import torch

from dnis_lightning.embedding.choice import BlockChoice


def test_what_is_behind_open_gates_is_chosen() -> None:
    choice = BlockChoice(np.array([0, 0, 1]), 2, 3)
    choice.gates.data = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    assert choice.open_entries() == 2 * 2 + 1
    table = torch.tensor([[1.0, -9, 2], [-3, 9, 4], [9, -5, 9]])
    everything = torch.ones(3, 3, dtype=torch.bool)
    opened = [[True, False, True], [True, False, True], [False, True, False]]
    assert choice.chosen(table.clone(), 9, everything).tolist() == opened
    there = everything.clone()
    there[0, 0] = False
    assert choice.chosen(table.clone(), 9, there).tolist() == [[False, False, True], *opened[1:]]


def test_of_more_than_are_wanted_the_smallest_go() -> None:
    choice = BlockChoice(np.array([0, 0, 1]), 2, 3)
    choice.gates.data = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    table = torch.tensor([[1.0, -9, 2], [-3, 9, 4], [9, -5, 9]])
    kept = choice.chosen(table, 3, torch.ones(3, 3, dtype=torch.bool))
    assert kept.tolist() == [[False, False, False], [True, False, True], [False, True, False]]
