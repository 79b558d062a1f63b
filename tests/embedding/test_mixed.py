"""Tables of mixed widths, against loops over features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnis_lightning.embedding.mixed import MixedTable

BLOCK_OF = np.array([1, 0, 2, 0, 1, 2, 2, 3])
WIDTHS = (4, 2, 1, 0)


def table(*, projected: bool, copies: int = 1) -> MixedTable:
    torch.manual_seed(0)
    return MixedTable(BLOCK_OF, WIDTHS, 4, copies=copies, projected=projected, std=1.0).double()


def row_by_hand(mixed: MixedTable, feature: int, copy: int) -> np.ndarray:
    """The K dimensions of one feature in one of the tables side by side, taken out of the parameters by hand."""
    block = int(BLOCK_OF[feature])
    d, place = WIDTHS[block], int((BLOCK_OF[:feature] == block).sum())
    v = mixed.blocks[block].detach().numpy()[place, copy * d : (copy + 1) * d]
    if str(block) in mixed.projections:
        return v @ mixed.projections[str(block)].detach().numpy()[copy]
    return np.concatenate([v, np.zeros(4 - d)])


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("copies", [1, 2])
def test_rows_are_narrow_rows_widened(projected: bool, copies: int) -> None:
    mixed, ids = table(projected=projected, copies=copies), torch.tensor([[7, 0], [3, 3], [5, 2]])
    rows = mixed(ids).detach().numpy()
    assert rows.shape == (3, 2, 4 * copies)
    for b, f in np.ndindex(3, 2):
        expected = np.concatenate([row_by_hand(mixed, int(ids[b, f]), copy) for copy in range(copies)])
        assert rows[b, f] == pytest.approx(expected, abs=1e-12)


def test_only_narrow_blocks_of_a_projected_table_have_projections() -> None:
    assert {l: m.shape for l, m in table(projected=True).projection_arrays().items()} == {1: (2, 4), 2: (1, 4)}
    assert table(projected=False).projection_arrays() == {}


def test_parameters_are_as_many_as_the_widths_say() -> None:
    sizes = np.bincount(BLOCK_OF)
    mixed = table(projected=True)
    assert sum(p.numel() for p in mixed.parameters_by_feature()) == (sizes * WIDTHS).sum() == mixed.kept().sum()
    assert sum(p.numel() for p in mixed.parameters()) == (sizes * WIDTHS).sum() + 2 * 4 + 1 * 4


@pytest.mark.parametrize("copies", [1, 2])
def test_entries_go_in_and_come_out(copies: int) -> None:
    mixed, other = table(projected=True, copies=copies), table(projected=True, copies=copies)
    mask = torch.rand(8, 4 * copies) < 0.5
    other.keep(torch.full((8, 4 * copies), 9.0, dtype=torch.float64), None)
    other.keep(mixed.entries(), mask)
    assert torch.equal(other.entries(), mixed.entries() * mask)
    assert torch.equal(other.kept(), mixed.kept() & mask)
    mixed.mask = mask
    ids = torch.arange(8)[:, None]
    assert torch.equal(other(ids), mixed(ids))


def test_gradients_reach_what_a_batch_shows_and_no_more() -> None:
    mixed = table(projected=True)
    mixed.keep(mixed.entries(), torch.tensor([[True, False, True, True]]).expand(8, 4))
    mixed(torch.tensor([[0, 3]])).square().sum().backward()
    assert [block.grad.abs().sum(1).gt(0).tolist() for block in mixed.blocks] == [
        [False, True],
        [True, False],
        [False, False, False],
        [False],
    ]
    assert (mixed.blocks[0].grad[:, 1] == 0).all(), "outside the mask"
    assert mixed.projections["1"].grad[0, 0].abs().sum() > 0
    assert (mixed.projections["2"].grad == 0).all()


def test_a_widened_entry_starts_as_large_as_an_entry() -> None:
    torch.manual_seed(0)
    block_of = np.repeat([0, 1], 2000)
    rows = MixedTable(block_of, (64, 8), 64, projected=True, std=0.1)(torch.arange(4000)[:, None])
    assert rows[:2000].std().item() == pytest.approx(0.1, rel=0.02)
    assert rows[2000:].std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("projected", [True, False])
def test_unseen_features_get_a_mean(projected: bool) -> None:
    mixed = table(projected=projected)
    before = mixed.entries()
    mixed.fill_with_means([5, 7], [(0, 7), (7, 8)])
    others = [2, 6] if projected else [0, 1, 2, 3, 4, 6]
    expected = before[others].mean(0) * torch.tensor([1.0, 0, 0, 0])
    assert torch.allclose(mixed.entries()[5], expected)
    untouched = [0, 1, 2, 3, 4, 6, 7]
    assert torch.equal(mixed.entries()[untouched], before[untouched])


def test_projections_travel() -> None:
    mixed, other = table(projected=True, copies=2), table(projected=True, copies=2)
    for matrix in other.projections.values():
        matrix.data.zero_()
    other.load_projections(mixed.projection_arrays())
    ids = torch.arange(8)[:, None]
    assert torch.equal(other(ids), mixed(ids))


def test_no_rows() -> None:
    assert table(projected=True)(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, 4)


def test_a_block_may_have_no_features() -> None:
    mixed = MixedTable(np.array([0, 2, 2]), (3, 2, 1), 3, copies=2, projected=True)
    assert mixed.entries().shape == mixed.kept().shape == (3, 6)
    assert mixed(torch.tensor([[0, 2]])).shape == (1, 2, 6)
    mixed.keep(mixed.entries(), None)
    mixed.fill_with_means([2], [(0, 3)])
