"""Gates on rows, and what is derived of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dnis_lightning.embedding.selection import SoftSelection

BLOCKS, DIMS = 3, 2


@pytest.mark.parametrize("shape", [(7,), (3, 2)])
def test_rows_are_scaled_by_the_gates_of_their_blocks(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    block_of = np.array([0, 2, 2, 0, 2, 0])  # no feature is in block 1
    selection = SoftSelection(block_of, BLOCKS, DIMS).double()
    features = torch.from_numpy(rng.integers(0, len(block_of), shape))
    rows, gates = (torch.from_numpy(rng.normal(size=size)) for size in ((*shape, DIMS), (BLOCKS, DIMS)))

    def gated(rows: Tensor, gates: Tensor) -> Tensor:
        return torch.func.functional_call(selection, {"gates": gates}, (rows, features)).sin()

    blocks = torch.from_numpy(block_of)[features]
    torch.testing.assert_close(gated(rows, gates), (rows * gates[blocks]).sin())
    inputs = rows.requires_grad_(), gates.requires_grad_()
    assert torch.autograd.gradcheck(gated, inputs)
    assert torch.autograd.gradgradcheck(gated, inputs)


def test_merging_and_clipping_are_done_in_place(rng: np.random.Generator) -> None:
    selection = SoftSelection(np.array([1, 0, 1]), 2, DIMS)
    selection.gates.data = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    selection.clip()
    assert selection.gates.tolist() == [[0.5, 0.0], [1.0, 0.0]]
    table = torch.ones(3, DIMS)
    assert selection.merge(table) is table
    assert table.tolist() == [[1.0, 0.0], [0.5, 0.0], [1.0, 0.0]]
