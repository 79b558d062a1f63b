"""Embed, select, interact."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.interaction.autoint import AutoInt
from dnis_lightning.interaction.axes import principal_axes
from dnis_lightning.interaction.dcn import DCN
from dnis_lightning.interaction.deepfm import DeepFM
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.gmf import GMF
from dnis_lightning.interaction.mf import MF
from dnis_lightning.interaction.mlp import MLP
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.interaction.wide_deep import WideDeep
from dnis_lightning.interaction.xdeepfm import XDeepFM
from dnis_lightning.lookup import find_distinct
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.scheme import EVERY
from tests.conftest import random_batch

OFFSETS = (0, 4, 9, 12)


def test_forward_is_equations_4_and_2_by_loops(small_fm: Recommender, rng: np.random.Generator) -> None:
    batch = random_batch(rng, OFFSETS, 5, values=True)
    E, α = small_fm.table.weight.detach().numpy(), small_fm.gates.detach().numpy()
    w, block_of = small_fm.first_order.weight.detach().numpy()[:, 0], small_fm.selection.block_of.numpy()
    for b in range(5):
        ids, x = batch.ids[b].tolist(), batch.values[b].tolist()
        rows = [E[i] * α[block_of[i]] * v for i, v in zip(ids, x, strict=True)]
        pairs = sum(float(rows[f] @ rows[g]) for f in range(3) for g in range(f))
        linear = sum(float(w[i]) * v for i, v in zip(ids, x, strict=True))
        assert float(small_fm(batch).logits[b]) == pytest.approx(0.3 + linear + pairs)


def test_merging_changes_no_prediction(small_fm: Recommender, rng: np.random.Generator) -> None:
    batch = random_batch(rng, OFFSETS, 20)
    before = small_fm(batch).logits
    small_fm.keep(small_fm.merged_table(), None)
    assert small_fm.gates is None
    assert torch.allclose(small_fm(batch).logits, before)


def test_masked_entries_stay_zero_while_training(small_fm: Recommender, rng: np.random.Generator) -> None:
    mask = torch.from_numpy(rng.random((12, 4)) < 0.5)
    small_fm.keep(small_fm.merged_table(), mask)
    optimizer = torch.optim.Adam(small_fm.parameters(), lr=0.1)
    before = small_fm.table.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        small_fm(random_batch(rng, OFFSETS, 30)).logits.square().sum().backward()
        optimizer.step()
    small_fm.fill_unseen()
    assert (small_fm.table.weight[~mask] == 0).all()
    assert not torch.equal(small_fm.table.weight[mask], before[mask])


def test_unseen_features_get_the_mean_of_their_field() -> None:
    model = Recommender(FeatureSpace((0, 4, 9), unseen=(0, 4)), FM(), dims=2)
    model.first_order.weight.data.normal_()
    model.fill_unseen()
    weight, terms = model.table.weight.detach(), model.first_order.weight.detach()
    assert torch.allclose(weight[0], weight[1:4].mean(0))
    assert torch.allclose(weight[4], weight[5:9].mean(0))
    assert torch.allclose(terms[4], terms[5:9].mean(0))


def test_a_field_without_features_keeps_what_it_has() -> None:
    model = Recommender(FeatureSpace((0, 1, 3), unseen=(0,)), FM(), dims=2)
    before = model.table.weight.detach().clone()
    model.fill_unseen()
    assert torch.equal(model.table.weight, before)


def test_no_dimensions_leave_biases_alone(rng: np.random.Generator) -> None:
    model = Recommender(FeatureSpace(OFFSETS), FM(), dims=0, global_bias=2.0)
    model.first_order.weight.data.normal_()
    batch = random_batch(rng, OFFSETS, 6)
    expected = 2 + model.first_order.weight[batch.ids].squeeze(-1).sum(1)
    assert torch.allclose(model(batch).logits, expected)


def test_weights_round_trip_with_their_mask(small_fm: Recommender, rng: np.random.Generator) -> None:
    small_fm.keep(small_fm.merged_table(), torch.from_numpy(rng.random((12, 4)) < 0.5))
    weights = copy.deepcopy(small_fm.state_dict())
    other = Recommender(FeatureSpace(OFFSETS), FM(), dims=4).double()
    other.load_weights(weights)
    batch = random_batch(rng, OFFSETS, 6)
    assert torch.equal(other(batch).logits, small_fm(batch).logits)
    other.table.weight.data.zero_()
    assert not torch.equal(weights["table.weight"], other.table.weight), "they are copied into the model"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("kind", [DeepFM, DCN])
def test_compiled_code_computes_the_same(kind: type[DeepFM | DCN], rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    plain = Recommender(FeatureSpace(OFFSETS), kind(3, 4), dims=4, std=0.5)
    compiled = copy.deepcopy(plain)
    compiled.compile_interaction()
    for rows in (16, 16, 7):
        batch = find_distinct(random_batch(rng, OFFSETS, rows))
        found = []
        for model in (plain, compiled):
            model.zero_grad()
            logits = model(batch).logits
            logits.square().sum().backward()
            found.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for expected, tensor in zip(*found, strict=True):
            torch.testing.assert_close(tensor, expected)


def test_two_tables_make_rows_and_gates_twice_as_wide() -> None:
    interaction = FM()
    interaction.tables = 2
    assert Recommender(FeatureSpace(OFFSETS), interaction, dims=4).table.weight.shape == (12, 8)


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("user_column", [0, 1])
@pytest.mark.parametrize("interaction", [FM, lambda: NeuMF(2, 4), lambda: AutoInt(2, 4)])
def test_scores_are_the_logits_of_each_pair(
    interaction: object, user_column: int, first_order: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnis_lightning.recommender._PAIRS_AT_ONCE", 10)
    torch.manual_seed(0)
    made = interaction()  # type: ignore[operator]
    model = Recommender(FeatureSpace((0, 7, 12)), made, dims=4, std=0.5, first_order=first_order, global_bias=0.3)
    model.selection = SoftSelection(rng.integers(0, 3, 12), 3, model.table.kept().shape[1])
    model.selection.gates.data.uniform_(0.2, 0.9)
    if model.first_order is not None:
        model.first_order.weight.data.normal_()
    model = model.double().eval()
    of_users, of_items = ((0, 7), (7, 12)) if user_column == 0 else ((7, 12), (0, 7))
    users, items = torch.arange(*of_users), torch.arange(*of_items)

    def logit(user: int, item: int) -> float:
        pair = [user, item] if user_column == 0 else [item, user]
        return float(model(Batch(torch.tensor([pair]), torch.zeros(1))).logits)

    expected = torch.tensor([[logit(int(user), int(item)) for item in items] for user in users], dtype=torch.float64)
    torch.testing.assert_close(model.scores(users, items, user_column), expected, rtol=1e-12, atol=1e-12)
    own = torch.from_numpy(rng.integers(0, len(items), (len(users), 3)))
    picked = model.scores(users, items[own], user_column)
    torch.testing.assert_close(picked, expected.gather(1, own), rtol=1e-12, atol=1e-12)
    own = torch.where(own == 0, -1, items[own])
    assert model.scores(users, own, user_column).shape == own.shape  # where there is no item, any number


@pytest.mark.parametrize(
    "interaction",
    [
        MF(2),
        FM("mean"),
        GMF(2, 6),
        MLP(2, 6),
        MLP(2, 6, hidden=[]),
        NeuMF(2, 6),
        NeuMF(2, 6, hidden=[]),
        WideDeep(2, 6, batch_norm=True),
        DeepFM(2, 6),
        AutoInt(2, 6, layers=2, heads=2, width=3),
        DCN(2, 6),
        XDeepFM(2, 6, [4, 2]),
    ],
)
def test_turning_the_table_changes_no_logit(interaction: torch.nn.Module, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace((0, 10, 30)), interaction, dims=6, std=1.0).eval()
    batch, weights = random_batch(rng, (0, 10, 30), 40), torch.rand(30)
    before, rows = model(batch).logits, model.table.weight.detach().clone()
    assert model.turn(weights)
    torch.testing.assert_close(model(batch).logits, before, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.table.weight, rows)
    for part in model.table.weight.detach().split(6, dim=1):
        energy = (part.square() * weights[:, None]).sum(0)
        torch.testing.assert_close(energy, energy.sort(descending=True).values)


def test_axes_hold_as_much_as_any_directions_can(rng: np.random.Generator) -> None:
    low = torch.from_numpy(rng.normal(size=(50, 2)) @ rng.normal(size=(2, 8))).float()
    turned = low @ principal_axes(low, torch.ones(50))
    assert turned[:, 2:].abs().max() < 1e-4, "of rank 2, two dimensions hold all"
    torch.testing.assert_close(turned @ turned.T, low @ low.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "interaction", [FM(), DeepFM(2, 0), NeuMF(2, 0), WideDeep(2, 0), GMF(2, 0), MLP(2, 0), AutoInt(2, 0), DCN(2, 0)]
)
def test_a_table_without_columns_has_no_axes(interaction: torch.nn.Module) -> None:
    model = Recommender(FeatureSpace((0, 4, 9)), interaction, dims=0)
    assert not model.turn(torch.ones(9))
    assert not model.turned


def test_what_cannot_be_turned_stays_as_it_is(small_fm: Recommender) -> None:
    small_fm.keep(small_fm.merged_table(), torch.ones_like(small_fm.table.weight, dtype=torch.bool))
    before = small_fm.table.weight.detach().clone()
    assert not small_fm.turn(torch.ones(12)), "a mask is of the dimensions as they are"
    assert torch.equal(small_fm.table.weight, before)
    two = DCN(1, 6)
    two.tables = 2  # type: ignore[assignment]
    assert not Recommender(FeatureSpace((0, 4)), two, dims=3).turn(torch.ones(4)), "of two tables without a method"


def rotated(dims: int = 4) -> Recommender:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace((0, 7, 12)), DCN(2, dims), dims=dims, std=0.5).eval()
    assert model.turn(torch.rand(12))
    return model


def test_a_rotation_is_as_much_a_weight_as_others(rng: np.random.Generator) -> None:
    model, batch = rotated(), random_batch(rng, (0, 7, 12), 20)
    before = model(batch).logits
    assert model.turn(torch.rand(12)), "once more"
    torch.testing.assert_close(model(batch).logits, before)
    model(batch).logits.sum().backward()
    assert model.table.rotation.grad.abs().sum() > 0
    assert all(one is not model.table.rotation for one in model.tables()), "it is not looked up by feature"


def test_a_rotation_comes_and_goes_with_the_weights(rng: np.random.Generator) -> None:
    turned, batch = rotated(), random_batch(rng, (0, 7, 12), 20)
    plain = Recommender(FeatureSpace((0, 7, 12)), DCN(2, 4), dims=4).eval()
    straight = plain(batch).logits, {name: one.clone() for name, one in plain.state_dict().items()}
    plain.load_weights(turned.state_dict())
    assert torch.equal(plain(batch).logits, turned(batch).logits)
    kept = plain.table.rotation
    plain.load_weights(turned.state_dict())
    assert plain.table.rotation is kept, "an optimiser may have it"
    plain.load_weights(straight[1])
    assert plain.table.rotation is None
    assert torch.equal(plain(batch).logits, straight[0])


@pytest.mark.parametrize("longest", [0, 1, 4])
def test_a_scheme_has_the_rotation_that_it_needs(longest: int, rng: np.random.Generator) -> None:
    model, batch = rotated(), random_batch(rng, (0, 7, 12), 20)
    mask = torch.arange(4) < torch.from_numpy(rng.integers(0, longest + 1, 12))[:, None]
    mask[3] = torch.arange(4) < longest
    assert {name: len(one) for name, one in model.table.projection_arrays(mask).items()} == (
        {EVERY: longest} if longest else {}
    )
    model.keep(model.merged_table(), mask)
    scheme = model.scheme()
    other = Recommender(FeatureSpace((0, 7, 12)), DCN(2, 4), dims=4).eval()
    other.keep(torch.from_numpy(scheme.dense()), torch.from_numpy(scheme.mask()))
    other.table.load_projections(scheme.projections)
    other.load_rest(model.rest())
    torch.testing.assert_close(other(batch).logits, model(batch).logits)
    rows = scheme.packed(rng.integers(0, 3, 12)).rows(np.arange(12))
    assert np.allclose(rows, model.table(torch.arange(12)).detach().numpy(), atol=1e-6)


def test_gates_are_merged_in_before(small_fm: Recommender, rng: np.random.Generator) -> None:
    batch = random_batch(rng, OFFSETS, 20)
    before = small_fm(batch).logits
    assert small_fm.turn(torch.ones(12))
    assert small_fm.gates is None
    torch.testing.assert_close(small_fm(batch).logits, before)


def test_a_cut_copy_leaves_the_model_as_it_is(small_fm: Recommender, rng: np.random.Generator) -> None:
    batch, mask = random_batch(rng, OFFSETS, 20), torch.rand(12, 4) < 0.5
    before = small_fm(batch).logits
    made = small_fm.cut_copy(mask)
    assert made.first_order is small_fm.first_order
    assert torch.equal(made.table.entries() != 0, mask)
    assert torch.equal(small_fm(batch).logits, before)
    assert small_fm.gates is not None
    small_fm.keep(small_fm.merged_table(), mask)
    torch.testing.assert_close(made(batch).logits, small_fm(batch).logits)
