"""Rows of distinct features, and the sums over them, against plain indexing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dnis_lightning.batch import Batch, Distinct
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.mf import MF
from dnis_lightning.lookup import bag, find_distinct, pairs, sum_by, take, with_distinct
from dnis_lightning.recommender import Recommender
from dnis_lightning.tasks import Objective, Rating
from tests.conftest import random_batch

OFFSETS = (0, 4, 9, 12)


def small(rng: np.random.Generator) -> tuple[Tensor, Distinct, Tensor]:
    """Rows (6, 3) that need gradients, places (5, 4) of which row 5 is none, weights (5, 4)."""
    rows = torch.from_numpy(rng.normal(size=(6, 3))).requires_grad_()
    batch = Batch(torch.from_numpy(rng.integers(0, 5, (5, 4))), torch.zeros(5))
    (batch,) = with_distinct([batch], lambda features: torch.arange(6))
    return rows, batch.distinct, torch.from_numpy(rng.normal(size=(5, 4)))


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_taken_and_summed_as_by_indexing(weighted: bool, rng: np.random.Generator) -> None:
    rows, distinct, weights = small(rng)
    places = distinct.places
    given = weights if weighted else None
    torch.testing.assert_close(take(rows, distinct), rows[places])
    factors = weights if weighted else torch.ones_like(weights)
    torch.testing.assert_close(bag(rows, distinct, given), (rows[places] * factors.unsqueeze(-1)).sum(1))
    for function in (lambda x: take(x, distinct), lambda x: bag(x, distinct, given)):
        assert torch.autograd.gradcheck(lambda x: function(x).tanh(), rows)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda x: function(x).tanh(), rows)  # noqa: B023


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_pairs_are_all_products_of_two_columns(columns: int, weighted: bool, rng: np.random.Generator) -> None:
    rows, distinct, weights = small(rng)
    (batch,) = with_distinct([Batch(distinct.places[:, :columns].long(), torch.zeros(5))], lambda f: torch.arange(6))
    own = weights[:, :columns] if weighted else torch.ones(5, columns, dtype=torch.float64)
    x = rows[batch.distinct.places] * own.unsqueeze(-1)
    every = [(x[:, c] * x[:, d]).sum(-1) for c in range(columns) for d in range(c)]
    expected = sum(every, torch.zeros(5, dtype=torch.float64))

    def found(rows: Tensor) -> Tensor:
        return pairs(rows, batch.distinct, own if weighted else None)

    torch.testing.assert_close(found(rows), expected)
    assert torch.autograd.gradcheck(lambda x: found(x).tanh(), rows)
    assert torch.autograd.gradgradcheck(lambda x: found(x).tanh(), rows)


def test_batches_share_the_features_of_both(rng: np.random.Generator) -> None:
    one, other = (random_batch(rng, OFFSETS, rows) for rows in (3, 2))
    first, second = with_distinct([one, other])
    assert torch.equal(first.distinct.features, second.distinct.features)
    assert first.distinct.features.tolist() == sorted({*one.ids.flatten().tolist(), *other.ids.flatten().tolist()})
    for batch, shared in ((one, first), (other, second)):
        assert torch.equal(shared.distinct.features[shared.distinct.places], batch.ids)
        assert torch.equal(shared.distinct.order.long(), batch.ids.flatten().argsort(stable=True))
        counts = [(batch.ids == feature).sum() for feature in shared.distinct.features]
        assert shared.distinct.starts.tolist() == [sum(counts[:place]) for place in range(len(counts))]
    (alone,) = with_distinct([one])
    assert alone.distinct.features.tolist() == sorted(set(one.ids.flatten().tolist()))
    assert with_distinct([alone])[0] is alone
    (more,) = with_distinct([one], lambda features: torch.arange(12))
    assert more.distinct.features.tolist() == list(range(12))
    assert torch.equal(more.distinct.places, one.ids)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_each_distinct_feature_is_found_once(dtype: torch.dtype, rng: np.random.Generator) -> None:
    for rows in (7, 3, 1, 0):
        batch = random_batch(rng, OFFSETS, rows)
        batch.ids = batch.ids.to(dtype)
        found = find_distinct(batch).distinct
        assert found.features.tolist() == sorted(set(batch.ids.flatten().tolist()))
        assert torch.equal(found.features[found.places], batch.ids)
        ends = [*found.starts[1:].tolist(), batch.ids.numel()]
        for feature, start, end in zip(found.features.tolist(), found.starts.tolist(), ends, strict=False):
            where = found.order[start:end].tolist()
            assert where == sorted(where)
            assert where == np.flatnonzero(batch.ids.numpy().ravel() == feature).tolist()


def test_rows_are_summed_by_their_numbers(rng: np.random.Generator) -> None:
    numbers = torch.tensor([3, 1, 3, 0, 3], dtype=torch.int32)
    rows = torch.from_numpy(rng.normal(size=(5, 2)))
    expected = torch.stack([rows[3], rows[1], torch.zeros(2), rows[0] + rows[2] + rows[4], torch.zeros(2)])
    torch.testing.assert_close(sum_by(numbers, rows, 5), expected)
    assert torch.equal(sum_by(numbers[:0], rows[:0], 2), torch.zeros(2, 2, dtype=torch.float64))


def test_a_batch_takes_its_distinct_features_along(rng: np.random.Generator) -> None:
    batch = find_distinct(random_batch(rng, OFFSETS, 4, values=True))
    by_feature = batch.distinct.in_order(batch.values)
    assert torch.equal(by_feature, batch.values.flatten()[batch.distinct.order])
    other = torch.arange(batch.ids.numel()).view(batch.ids.shape)
    assert torch.equal(batch.distinct.in_order(other), batch.distinct.order)
    assert batch.distinct.in_order(batch.values) is batch.distinct.in_order(batch.values)
    moved = batch.to("meta")
    for name in ("features", "places", "order", "starts"):
        assert getattr(moved.distinct, name).device.type == "meta"
    assert moved.distinct.in_order(moved.values).device.type == "meta"


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("kind", [FM, MF])
def test_distinct_features_change_neither_loss_nor_gradients(
    kind: type[FM | MF], reduce: str, values: bool, small_fm: Recommender, rng: np.random.Generator
) -> None:
    batch = random_batch(rng, OFFSETS if kind is FM else (0, 5, 12), 30, values=values)
    small_fm.interaction = FM(reduce) if kind is FM else MF(2, reduce)
    objective = Objective(Rating(), l2=0.1, l2_bias=0.05)
    found = []
    (own,), (all_of_them,) = with_distinct([batch]), with_distinct([batch], lambda features: torch.arange(12))
    for one in (batch, own, all_of_them, find_distinct(batch)):
        small_fm.zero_grad()
        told = small_fm(one)
        loss = objective(told, one)
        loss.backward()
        gradients = [p.grad.clone() for p in small_fm.parameters() if p.grad is not None]
        found.append([loss.detach(), told.logits.detach(), *gradients])
    for other in found[1:]:
        for expected, tensor in zip(found[0], other, strict=True):
            torch.testing.assert_close(tensor, expected)
