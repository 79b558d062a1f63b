"""Fields of several features a row: their rows pooled, by hand, and against a table of one feature each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.prepare import prepare
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.interaction.deepfm import DeepFM
from dnis_lightning.interaction.fm import FM
from dnis_lightning.recommender import FeatureSpace, Recommender, _pooled
from dnis_lightning.search.bilevel import hypergradient
from dnis_lightning.search.trial import GateStep
from dnis_lightning.tasks import Objective, Rating
from dnis_lightning.training.search_module import SearchModule
from tests.data.conftest import Table, mixed_table
from tests.search.test_bilevel import central_differences, held_out_loss, train_loss
from tests.training.test_search_module import SGD, fit

OFFSETS = (0, 4, 9, 12)
COLUMNS = [0, 1, 4, 5]
"""Fields of one, up to three and one feature a row."""


def listed(rng: np.random.Generator, rows: int, *, pooling: str = "mean") -> Batch:
    """Rows with 1 to 3 features in the middle field; the last field is a number, 0 in some rows."""
    counts = rng.integers(1, 4, rows)
    there = np.arange(3) < counts[:, None]
    middle = np.where(there, rng.integers(4, 9, (rows, 3)), 4)
    values = np.ones((rows, 5))
    values[:, 1:4] = there / (counts[:, None] if pooling == "mean" else 1)
    values[:, 4] = rng.normal(size=rows) * rng.integers(0, 2, rows)
    ids = np.column_stack([rng.integers(0, 4, rows), middle, rng.integers(9, 12, rows)])
    return Batch(
        torch.from_numpy(ids), torch.from_numpy(rng.normal(size=rows)), torch.from_numpy(values), torch.tensor(COLUMNS)
    )


def features(batch: Batch, row: int, field: int) -> list[tuple[int, float]]:
    """The features of a field in a row that are no padding, and their values."""
    slot = slice(COLUMNS[field], COLUMNS[field + 1])
    pairs = zip(batch.ids[row, slot].tolist(), batch.values[row, slot].tolist(), strict=True)  # type: ignore[index]
    return [pair for pair in pairs if pair[1] or field != 1]


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_rows_are_pooled_by_field(pooling: str, rng: np.random.Generator) -> None:
    batch = listed(rng, 20, pooling=pooling)
    E = rng.normal(size=(12, 4))
    pooled = _pooled(torch.from_numpy(E)[batch.ids], batch)
    assert pooled.shape == (20, 3, 4)
    for row in range(20):
        mine = [i for i, _ in features(batch, row, 1)]
        expected = E[mine].mean(0) if pooling == "mean" else E[mine].sum(0)
        np.testing.assert_allclose(pooled[row, 1], expected)
        np.testing.assert_allclose(pooled[row, 0], E[batch.ids[row, 0]])
        np.testing.assert_allclose(pooled[row, 2], E[batch.ids[row, 4]] * float(batch.values[row, 4]))  # type: ignore[index]


def test_forward_with_gates_is_the_formula_by_loops(small_fm: Recommender, rng: np.random.Generator) -> None:
    batch = listed(rng, 8)
    E, α = small_fm.merged_table().numpy(), small_fm.first_order.weight.detach().numpy()[:, 0]
    logits = small_fm(batch).logits.tolist()
    for row in range(8):
        slots = [features(batch, row, field) for field in range(3)]
        rows = [sum(E[i] * x for i, x in slot) for slot in slots]
        pairs = sum(float(rows[f] @ rows[g]) for f in range(3) for g in range(f))
        linear = sum(α[i] * x for slot in slots for i, x in slot)
        assert logits[row] == pytest.approx(0.3 + linear + pairs)


def objective(model: Recommender, batch: Batch) -> Tensor:
    return Objective(Rating(), l2=0.1, l2_bias=0.05)(model(batch), batch)


@pytest.mark.parametrize("threshold", [False, True])
def test_padding_has_no_gradient_and_no_decay(threshold: bool, small_fm: Recommender, rng: np.random.Generator) -> None:
    """Row 11 stands in for the padding, and is nowhere else."""
    if threshold:
        small_fm.selection = SoftThreshold(12, 4).double()
    batch = listed(rng, 30)
    batch.ids[:, 4] = 9
    padding = batch.values == 0
    padding[:, 4] = False
    assert padding.any()
    batch.ids[padding] = 11
    objective(small_fm, batch).backward()
    assert (small_fm.table.weight.grad[11] == 0).all()
    assert small_fm.first_order.weight.grad[11] == 0
    assert (small_fm.table.weight.grad[9] != 0).any()
    told = small_fm(batch)
    assert (told.rows[padding] == 0).all()
    assert (told.terms[padding] == 0).all()


def test_decay_is_once_for_each_feature_there(small_fm: Recommender, rng: np.random.Generator) -> None:
    """Also for a number that is 0, as in data without lists."""
    batch = listed(rng, 30)
    told = small_fm(batch)
    E, w = small_fm.table.weight.detach(), small_fm.first_order.weight.detach()
    there = [i for row in range(30) for field in range(3) for i, _ in features(batch, row, field)]
    torch.testing.assert_close(told.rows.square().sum(), E[there].square().sum())
    torch.testing.assert_close(told.terms.square().sum(), w[there].square().sum())


@pytest.mark.parametrize("xi", [0.0, 0.3])
def test_hypergradient_equals_central_differences(xi: float, small_fm: Recommender, rng: np.random.Generator) -> None:
    train, held_out = listed(rng, 40), listed(rng, 30, pooling="sum")
    exact = hypergradient(
        small_fm, train=train, held_out=held_out, train_loss=train_loss, held_out_loss=held_out_loss, xi=xi
    )
    numeric = central_differences(small_fm, train, held_out, xi)
    assert float((exact - numeric).norm() / numeric.norm()) <= 1e-6


@pytest.mark.parametrize("interaction", [FM, lambda: DeepFM(3, 4, hidden=[5])], ids=["fm", "deepfm"])
def test_lists_of_one_are_single_features(interaction: Any, rng: np.random.Generator) -> None:
    """Padded to three columns, they give the same predictions, gradients and hypergradients."""
    batch = listed(rng, 40)
    single = replace(batch, ids=batch.ids[:, [0, 1, 4]], values=batch.values[:, [0, 1, 4]].clone(), offsets=None)  # type: ignore[index]
    single.values[:, 1] = 1  # type: ignore[index]
    batch.values[:, 1:4] = torch.tensor([1.0, 0, 0])  # type: ignore[index]
    torch.manual_seed(0)
    model = Recommender(FeatureSpace(OFFSETS), interaction(), dims=4, std=0.5)
    model.selection = SoftSelection(rng.integers(0, 3, 12), 3, 4)
    model.selection.gates.data.uniform_(0.2, 0.9)
    model = model.double()
    both = []
    for one in (batch, single):
        model.zero_grad()
        loss = objective(model, one)
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found = hypergradient(
            model, train=one, held_out=one, train_loss=train_loss, held_out_loss=held_out_loss, xi=0.2
        )
        both.append([model(one).logits.detach(), loss.detach(), *gradients, found])
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)


def searched(table: Table, folder: Path) -> list[Tensor]:
    """Gates and weights after an epoch of search on a table."""
    prepared = prepare(table, cache=folder)
    space = FeatureSpace(tuple(prepared.vocabulary.offsets.tolist()))
    torch.manual_seed(1)
    model = Recommender(space, FM(), dims=3, std=0.5)
    model.selection = SoftSelection(np.arange(space.features) % 4, 4, 3)
    module = SearchModule(
        model,
        Objective(Rating(), l2=0.1, l2_bias=0.1),
        SGD,
        GateStep(0.1, 0.01, "step", "sgd", 0.0, "raw", 1e-7),
        steps_per_epoch=1,
    )
    pairs = zip(*(Loader([prepared.parts[name]], batch_size=16, shuffle=True) for name in ("train", "search")))  # noqa: B905
    fit(module, [{"train": train, "search": search} for train, search in pairs], folder)
    return [parameter.detach() for parameter in model.parameters()]


def test_a_search_on_lists_of_one_is_that_on_a_plain_field(rng: np.random.Generator, tmp_path: Path) -> None:
    users, items = rng.integers(0, 9, 800), rng.integers(0, 12, 800)
    number, label = np.round(rng.normal(size=800)).astype(np.float32), rng.normal(size=800).astype(np.float32)
    lists = pa.array([[one] for one in items.tolist()])
    both = [
        searched(Table({"u": users, "i": column, "n": number}, label), tmp_path / name)
        for name, column in (("lists", lists), ("plain", items))
    ]
    assert (both[0][0] != 1).any()
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)


def test_a_search_on_lists_runs(tmp_path: Path) -> None:
    weights = searched(mixed_table(800), tmp_path)
    assert all(weight.isfinite().all() for weight in weights)
