from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dnis_lightning.training.lazy_adam import LazyAdam

FEATURES, DIMS = 40, 3


def batches(rng: np.random.Generator, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Distinct rows, few of them often and most seldom, and a target for each."""
    found = []
    for _ in range(steps):
        rows = np.unique(np.minimum(rng.zipf(1.2, 5) - 1, FEATURES - 1))
        found.append((torch.from_numpy(rows), torch.from_numpy(rng.normal(size=(len(rows), DIMS)))))
    return found


def table(rng: np.random.Generator, *, trained: bool) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(rng.normal(size=(FEATURES, DIMS))), requires_grad=trained)


def descend(optimizer: LazyAdam, weight: nn.Parameter, rows: Tensor, target: Tensor) -> None:
    optimizer.zero_grad()
    (optimizer.gather(weight, rows) - target).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.98, 0.9999), (0.0, 0.9)])
def test_rows_that_slept_are_where_dense_adam_has_them(betas: tuple[float, float]) -> None:
    dense, lazy = (table(np.random.default_rng(0), trained=trained) for trained in (True, False))
    expected = torch.optim.Adam([dense], lr=1e-2, betas=betas)
    found = LazyAdam([{"params": [lazy], "by_row": True}], lr=1e-2, betas=betas)
    for step, (rows, target) in enumerate(batches(np.random.default_rng(1), 900)):
        if step == 400:  # a plateau
            found.settle()
            for optimizer in (expected, found):
                optimizer.param_groups[0]["lr"] /= 2
        if step % 100 == 0:
            torch.testing.assert_close(found.peek(lazy, torch.arange(FEATURES)), dense.detach(), rtol=0, atol=1e-5)
        expected.zero_grad()
        (dense[rows] - target).square().mean().backward()
        expected.step()
        descend(found, lazy, rows, target)
    assert torch.allclose(lazy, dense.detach(), rtol=0, atol=1e-5) == (betas[0] == 0)  # then there is no drift
    found.settle()
    torch.testing.assert_close(lazy, dense.detach(), rtol=0, atol=1e-5)


def test_without_catching_up_it_is_sparse_adam() -> None:
    dense, lazy = (table(np.random.default_rng(0), trained=trained) for trained in (True, False))
    expected = torch.optim.SparseAdam([dense], lr=1e-2)
    found = LazyAdam([{"params": [lazy], "by_row": True}], lr=1e-2, catch_up=False)
    for rows, target in batches(np.random.default_rng(1), 50):
        expected.zero_grad()
        (nn.functional.embedding(rows, dense, sparse=True) - target).square().mean().backward()
        expected.step()
        descend(found, lazy, rows, target)
    found.settle()
    torch.testing.assert_close(lazy, dense.detach(), rtol=0, atol=1e-6)  # ε is scaled otherwise


def test_all_that_is_not_by_row_is_adam() -> None:
    one, other = (table(np.random.default_rng(0), trained=True) for _ in range(2))
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    expected, found = torch.optim.Adam([one], **settings), LazyAdam([other], **settings)
    for rows, target in batches(np.random.default_rng(1), 50):
        for weight, optimizer in ((one, expected), (other, found)):
            optimizer.zero_grad()
            looked_up = found.gather(weight, rows) if weight is other else weight[rows]
            (looked_up - target).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(one, other)


def test_groups_step_together_as_they_would_alone() -> None:
    rng = np.random.default_rng(0)
    first = [table(rng, trained=trained) for trained in (False, False, True, True)]
    second = copy.deepcopy(first)
    settings = [{"by_row": True}, {"by_row": True, "lr": 2e-2}, {}, {"weight_decay": 0.1}]
    groups = [
        [{"params": [parameter], **one} for parameter, one in zip(parameters, settings, strict=True)]
        for parameters in (first, second)
    ]
    together, alone = LazyAdam(groups[0], lr=1e-2), [LazyAdam([group], lr=1e-2) for group in groups[1]]
    for step, (rows, target) in enumerate(batches(rng, 30)):
        used = [
            step % 3 != 0,
            True,
            True,
            step % 4 != 0,
        ]  # the first table and the last weight rest at times
        if step == 15:
            together.param_groups[0]["lr"] = alone[0].param_groups[0]["lr"] = 5e-3
        for parameters, optimizers in ((first, [together] * 4), (second, alone)):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for parameter, optimizer, group, is_used in zip(parameters, optimizers, settings, used, strict=True):
                if is_used:
                    values = optimizer.gather(parameter, rows) if "by_row" in group else parameter[rows]
                    (values - target).square().mean().backward()
            for optimizer in dict.fromkeys(optimizers):
                optimizer.step()
    for optimizer in (together, *alone):
        optimizer.settle()
    for one, other, optimizer in zip(first, second, alone, strict=True):
        assert torch.equal(one, other)
        for name, tensor in optimizer.state[other].items():
            assert torch.equal(together.state[one][name], tensor)


def test_it_goes_on_from_its_state() -> None:
    weight = table(np.random.default_rng(0), trained=False)
    optimizer = LazyAdam([{"params": [weight], "by_row": True}])
    steps = batches(np.random.default_rng(1), 60)
    for rows, target in steps[:30]:
        descend(optimizer, weight, rows, target)
    again = nn.Parameter(weight.detach().clone(), requires_grad=False)
    resumed = LazyAdam([{"params": [again], "by_row": True}])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for rows, target in steps[30:]:
        descend(optimizer, weight, rows, target)
        descend(resumed, again, rows, target)
    assert torch.equal(weight, again)


def test_a_table_without_columns_is_no_fault() -> None:
    weight = nn.Parameter(torch.empty(5, 0), requires_grad=False)
    optimizer = LazyAdam([{"params": [weight], "by_row": True}])
    (optimizer.gather(weight, torch.tensor([1, 3])).sum() + 0).backward()
    optimizer.step()
    optimizer.settle()


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_of_any_width_are_written_back_whole(dims: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(FEATURES, dims).to(dtype), requires_grad=False)
    before, rows = weight.clone(), torch.tensor([7, 2, 31])
    optimizer = LazyAdam([{"params": [weight], "by_row": True}], lr=0.5)
    values = optimizer.gather(weight, rows)
    torch.testing.assert_close(values.detach(), before[rows], rtol=0, atol=0)
    values.sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight[rows], before[rows] - 0.5, rtol=0, atol=1e-2)
    others = [row for row in range(FEATURES) if row not in rows]
    assert torch.equal(weight[others], before[others])


def test_moments_are_taken_for_what_they_are_however_small() -> None:
    dense, lazy = (table(np.random.default_rng(0), trained=trained).float() for trained in (True, False))
    dense, lazy = nn.Parameter(dense.detach()), nn.Parameter(lazy.detach(), requires_grad=False)
    expected, found = (
        torch.optim.Adam([dense], lr=1e-2, eps=1e-20),
        LazyAdam([{"params": [lazy], "by_row": True}], lr=1e-2, eps=1e-20),
    )
    for step in range(20):
        expected.zero_grad()
        found.zero_grad()
        scale = 1e-14 if step == 0 else 0.0
        (dense * scale).sum().backward()
        if step == 0:
            (found.gather(lazy, torch.arange(FEATURES)) * scale).sum().backward()
        expected.step()
        found.step()
    found.settle()
    torch.testing.assert_close(lazy, dense.detach(), rtol=0, atol=1e-4)


def test_betas_for_which_there_is_no_sum() -> None:
    with pytest.raises(ValueError, match="the first has to be below the root of the second"):
        LazyAdam([nn.Parameter(torch.zeros(1))], betas=(0.9, 0.5))
