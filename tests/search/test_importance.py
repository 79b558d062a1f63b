"""What an entry counts for, against logits with the entry taken away, and against derivatives worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dnis_lightning.batch import Batch
from dnis_lightning.errors import RunError
from dnis_lightning.interaction.deepfm import DeepFM
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.mf import MF
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.lookup import find_distinct
from dnis_lightning.recommender import FeatureSpace, Recommender, tables_of
from dnis_lightning.search.importance import LEAST_COUNT, Importance, sensitivity
from tests.conftest import random_batch

OFFSETS = (0, 4, 9)


def made(interaction: nn.Module) -> Recommender:
    torch.manual_seed(0)
    return Recommender(FeatureSpace(OFFSETS), interaction, dims=3, std=0.5).double()


def test_sensitivity_of_inner_products_is_the_others_second_moment(rng: np.random.Generator) -> None:
    model, batch = made(MF(2)), random_batch(rng, OFFSETS, 50)
    rows = model.table.weight.detach()[batch.ids]
    expected = torch.stack([rows[:, 1].square().mean(0), rows[:, 0].square().mean(0)])
    for given in (batch, find_distinct(batch)):
        torch.testing.assert_close(sensitivity(model, [given]), expected.float())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("interaction", [FM(), NeuMF(2, 3), DeepFM(2, 3, hidden=[8])])
def test_sensitivity_by_central_differences(interaction: nn.Module, rng: np.random.Generator) -> None:
    model, batch = made(interaction), random_batch(rng, OFFSETS, 1)
    found = sensitivity(model, [batch])
    assert found.shape == (2, 3 * tables_of(interaction))
    for field, feature in enumerate(batch.ids[0]):
        for k in range(found.shape[1]):
            logits = []
            for step in (1e-5, -1e-5):
                model.table.weight.data[feature, k] += step
                logits.append(float(model(batch).logits[0]))
                model.table.weight.data[feature, k] -= step
            assert float(found[field, k]) == pytest.approx(((logits[0] - logits[1]) / 2e-5) ** 2, rel=1e-4, abs=1e-9)


def test_batches_add_up_until_there_are_rows_enough(rng: np.random.Generator) -> None:
    model, batches = made(FM()), [random_batch(rng, OFFSETS, rows) for rows in (30, 10, 20)]
    ids = torch.cat([batch.ids for batch in batches[:2]])
    together = Batch(ids, torch.zeros(40))
    torch.testing.assert_close(sensitivity(model, batches, most=31), sensitivity(model, [together]))


def test_a_list_counts_its_features_and_not_its_end(rng: np.random.Generator) -> None:
    model = made(FM())
    values = torch.tensor([[1.0, 0.5, 0.5], [1.0, 1.0, 0.0]], dtype=torch.float64)
    batch = Batch(torch.tensor([[0, 5, 6], [1, 7, 4]]), torch.zeros(2), values, torch.tensor([0, 1, 3]))
    rows = model.table.weight.detach()
    items = [(rows[5] + rows[6]) / 2, rows[7]]
    of_lists = (2 * (rows[0] / 2).square() + rows[1].square()) / 3
    expected = torch.stack([torch.stack(items).square().mean(0), of_lists])
    torch.testing.assert_close(sensitivity(model, [batch]), expected.float())


def test_what_is_cut_has_no_part_in_the_rows_but_in_what_they_would_move(rng: np.random.Generator) -> None:
    model, batch = made(MF(2)), random_batch(rng, OFFSETS, 50)
    mask = torch.ones(9, 3, dtype=torch.bool)
    mask[:4, 1:] = False
    model.keep(model.merged_table(), mask)
    found = sensitivity(model, [batch])
    assert torch.equal(found[1, 1:], torch.zeros(2))
    assert (found[0] > 0).all()
    assert model.table.mask is mask


def test_importance_is_how_far_logits_move(rng: np.random.Generator) -> None:
    """Of products of two rows to first order is exactly, and the mean over what a feature meets is that over all."""
    model = made(MF(2))
    ids = np.stack(np.meshgrid(np.arange(4), np.arange(4, 9)), -1).reshape(-1, 2)  # each pair once
    batch = Batch(torch.from_numpy(ids), torch.zeros(20))
    frequency = torch.tensor([5.0] * 4 + [4.0] * 5)
    found, there = Importance(frequency, lambda one: sensitivity(one, [batch])).by_table(model, 0.5)
    assert there.all()
    before = model(batch).logits
    for feature in range(9):
        for k in range(3):
            value = model.table.weight.data[feature, k].clone()
            model.table.weight.data[feature, k] = 0
            moved = (model(batch).logits - before).square().sum()
            model.table.weight.data[feature, k] = value
            assert float(found[feature, k].square()) == pytest.approx(float(moved), rel=1e-5)


def test_what_is_never_to_be_expected_counts_for_a_little() -> None:
    model = made(MF(2))
    ones = Importance(torch.tensor([0] + [4] * 8), lambda one: torch.ones(2, 3))
    assert ones.counts.tolist() == [LEAST_COUNT] + [4] * 8
    found, _ = ones.by_table(model, 0.5)
    expected = model.table.weight.detach().abs() * torch.tensor([[LEAST_COUNT**0.5], *[[2.0]] * 8])
    torch.testing.assert_close(found.abs(), expected)


def test_tables_side_by_side_are_told_apart(rng: np.random.Generator) -> None:
    model, slopes = made(NeuMF(2, 3)), torch.arange(12.0).view(2, 6)
    found, _ = Importance(torch.ones(9), lambda one: slopes).by_table(model, 0.5)
    for (start, end), slope in zip(pairwise(OFFSETS), slopes, strict=True):
        expected = model.table.weight.detach()[start:end] * slope.sqrt()
        torch.testing.assert_close(found[2 * start : 2 * end].reshape(-1, 6), expected)


def test_it_is_saved_for_later_cuts(rng: np.random.Generator, tmp_path: Path) -> None:
    batch, frequency = random_batch(rng, OFFSETS, 50), torch.arange(9)
    importance = Importance(frequency, lambda one: sensitivity(one, [batch]))
    importance.save(tmp_path / "file", made(MF(2)))
    again, turned = Importance.load(tmp_path / "file"), made(MF(2))
    assert again.frequency.tolist() == list(range(9))
    assert turned.turn(again.counts)
    torch.testing.assert_close(again.sensitivity(turned), importance.sensitivity(turned))


def test_a_file_without_what_a_cut_asks_for_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    save_file({"frequency": torch.ones(9)}, file)
    with pytest.raises(RunError, match=rf"{file}: it does not say how far entries move a logit; run the search again"):
        Importance.load(file).by_table(made(MF(2)), 0.5)
    for content in (b"", b"not a file of tensors"):
        file.write_bytes(content)
        with pytest.raises(RunError, match=rf"{file}: cannot be read .*; run the search again"):
            Importance.load(file)
