"""Trainings that remove entries: how many are left when, and where they end."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from dnis_lightning.data.synthetic import Synthetic
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.search.trial import GradualStep, Phase, Stopping, ThresholdStep
from dnis_lightning.training.pruning_modules import GradualModule, ThresholdModule
from tests.training.test_phases import model_for, prepared_with, runner

SOURCE = Synthetic(rows=4000, features_per_field=40, dims=(2,))


def test_the_mask_closes_step_by_step_and_never_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_with("three_way", SOURCE, tmp_path)
    model = model_for(prepared)
    start = model.table.weight.numel()
    model.keep(model.merged_table(), model.table.kept())
    masks: list[torch.Tensor] = []
    step = GradualModule.training_step

    def watched(self: GradualModule, batch: dict, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        masks.append(self.recommender.table.kept().clone())

    monkeypatch.setattr(GradualModule, "training_step", watched)
    kept = start // 5
    gradual = GradualStep(start, kept, epochs=2, updates=100)
    runner(prepared, tmp_path).fit(
        "gradual", Phase("gradual", "train+search", Stopping(3, 3, least_epochs=2), moves=gradual), model
    )
    steps = len(masks) // 3
    expected = [round(kept + (start - kept) * (1 - t / (2 * steps)) ** 3) for t in range(1, 2 * steps + 1)]
    assert [int(mask.sum()) for mask in masks] == expected + [kept] * steps, "after its end it stays"
    assert all(bool((after <= before).all()) for before, after in pairwise(masks))
    assert int(model.table.kept().sum()) == kept
    assert (model.table.entries()[~model.table.kept()] == 0).all()


def test_thresholds_rise_until_few_enough_entries_are_left(tmp_path: Path) -> None:
    prepared = prepared_with("three_way", SOURCE, tmp_path)
    model = model_for(prepared)
    features, dims = model.table.weight.shape
    kept = features * dims // 4
    model.selection = SoftThreshold(features, dims, start=-6.0)
    step = ThresholdStep(kept, -6.0, lr=1.5, granularity="element", decay=1e-4)
    phase = Phase("thresholds", "train+search", Stopping(50, 50, best=False), moves=step, plateau=False)
    facts = runner(prepared, tmp_path).fit("thresholds", phase, model)
    assert 1 < facts["epochs"] < 50, "it ends with the epoch in which they are few enough"
    assert facts["best_epoch"] == facts["epochs"], "with the last weights, not the best"
    assert int(model.selection.left.sum()) == kept
    assert int((model.merged_table() != 0).sum()) <= kept
    assert torch.equal(model.selection.chosen(model.table.entries(), kept, model.table.kept()), model.selection.left)


def test_thresholds_have_a_rate_of_their_own_spread_over_an_epoch(tmp_path: Path) -> None:
    prepared = prepared_with("three_way", SOURCE, tmp_path)
    model = model_for(prepared)
    model.selection = SoftThreshold(*model.table.weight.shape)
    shared = runner(prepared, tmp_path)
    step = ThresholdStep(5, -8.0, lr=0.5, granularity="element", decay=1e-3)
    module = ThresholdModule(model, shared.objective, shared.weight_step, step, steps_per_epoch=10)
    weights, of_s = module.configure_optimizers()["optimizer"].param_groups
    assert (of_s["lr"], of_s["weight_decay"], of_s["params"][0] is model.selection.s) == (0.05, 1e-3, True)
    assert (weights["lr"], weights["weight_decay"]) == (0.01, 0)
    assert not any(parameter is model.selection.s for parameter in weights["params"])
