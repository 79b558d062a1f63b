"""Phases on planted data: which rows they see, when they stop, what they end with."""

from __future__ import annotations

import copy
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from dnis_lightning.batch import Batch
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.synthetic import Synthetic
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.interaction.mf import MF
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.trial import GateStep, GradualStep, Phase, Stopping, ThresholdStep
from dnis_lightning.tasks import Objective, Rating
from dnis_lightning.training.datamodule import SplitsDataModule
from dnis_lightning.training.evaluate import evaluate
from dnis_lightning.training.fit_module import WeightStep
from dnis_lightning.training.journal import Journal
from dnis_lightning.training.lazy_adam import LazyAdam
from dnis_lightning.training.phases import PhaseRunner, TrainerOptions

ADAM = partial(torch.optim.Adam, lr=0.01)


class Noted(nn.Module):
    """Matrix factorisation with dropout that notes in which mode its rows came."""

    def __init__(self) -> None:
        super().__init__()
        self.product = MF(2)
        self.modes: list[bool] = []

    def forward(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        if torch.is_grad_enabled() and rows.requires_grad:
            self.modes.append(self.training)
        return self.product(nn.functional.dropout(rows, 0.1, self.training), batch)


@pytest.fixture(scope="module")
def source() -> Synthetic:
    return Synthetic(rows=4000, features_per_field=40, dims=(2,))


def prepared_with(split: Any, source: Synthetic, folder: Path) -> Prepared:
    return prepare(source, cache=folder, split=split)


def runner(prepared: Prepared, folder: Path, step: WeightStep | None = None) -> PhaseRunner:
    step = step or WeightStep(ADAM)
    journal = Journal(folder / "last.ckpt")
    options = TrainerOptions()
    return PhaseRunner(
        prepared, Objective(Rating()), step, options, journal, batch_size=512, seed=0, on_row=lambda rows: None
    )


def model_for(prepared: Prepared, *, gated: bool = False) -> Recommender:
    torch.manual_seed(0)
    offsets = tuple(prepared.vocabulary.offsets.tolist())
    model = Recommender(FeatureSpace(offsets), Noted(), dims=4, std=0.3)
    if gated:
        model.selection = SoftSelection(np.arange(offsets[-1]) % 2, 2, 4)
    return model


THRESHOLDS = ThresholdStep(kept=1, start=-8.0, lr=0.5, decay=0.01, granularity="dimension")
BY_ROW = {
    "fit": Phase("fit", "train", Stopping(4, 9), plateau=True),
    "first order": Phase("search", "train", Stopping(3, 9), GateStep(xi=0.0)),
    "second order": Phase("search", "train", Stopping(3, 9), GateStep(xi=0.1)),
    "tables only": Phase("search", "train", Stopping(3, 9), GateStep(xi=0.1), tables_only=True),
    "gradual": Phase("gradual", "train", Stopping(3, 9), gradual=GradualStep(kept=80, entries=320, epochs=2)),
    "thresholds": Phase("learn", "train", Stopping(3, 9), thresholds=THRESHOLDS),
}


@pytest.mark.parametrize("name", BY_ROW)
def test_stepping_by_row_ends_where_the_whole_table_does(name: str, source: Synthetic, tmp_path: Path) -> None:
    prepared, phase = prepared_with("three_way", source, tmp_path), BY_ROW[name]
    ends = []
    for optimizer, by_row in ((ADAM, False), (partial(LazyAdam, lr=0.01), True)):
        model = model_for(prepared, gated=phase.gate_step is not None)
        if phase.thresholds is not None:
            model.selection = SoftThreshold(model.space.features, 4, granularity="dimension")
        step = WeightStep(optimizer, clip_norm=0.05, plateau_patience=0, by_row=by_row)
        runner(prepared, tmp_path / str(by_row), step).fit(phase.name, phase, model, keep_weights=False)
        ends.append(model.state_dict())
    for key, expected in ends[0].items():
        assert torch.allclose(ends[1][key], expected, rtol=1e-3, atol=1e-4), key


@pytest.mark.parametrize("split", ["three_way", "paper", "authors", "time"])
def test_no_weight_is_trained_on_rows_that_decide(split: str, source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with(split, source, tmp_path)
    for rows in ("train", "train+search"):
        loader = SplitsDataModule(prepared, batch_size=512, seed=0, rows=rows).train_dataloader()
        seen = np.sort(np.concatenate([batch["train"].label for batch, *_ in loader]))
        wider = rows == "train+search" and not prepared.split.shared
        trained = np.append(prepared.split.train, prepared.split.search if wider else [])
        np.testing.assert_array_equal(seen, np.sort(prepared.dataset.label[trained.astype(int)]))


@pytest.mark.parametrize(("shortest", "steps"), [(False, 7), (True, 1)])
def test_an_epoch_of_the_search_is_as_long_as_its_longer_or_shorter_loader(
    shortest: bool, steps: int, source: Synthetic, tmp_path: Path
) -> None:
    prepared = prepared_with("three_way", source, tmp_path)  # 3200 and 200 rows in batches of 512
    data = SplitsDataModule(prepared, batch_size=512, seed=0, paired=True, shortest=shortest)
    assert data.steps_per_epoch == steps
    pairs = [batch for batch, *_ in data.train_dataloader()]
    assert len(pairs) == steps
    searched = {float(label) for pair in pairs for label in pair["search"].label}
    assert searched == {float(label) for label in prepared.dataset.label[prepared.split.search]}


def test_a_phase_ends_with_its_best_epoch_after_its_patience(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    phases, model = runner(prepared, tmp_path, WeightStep(partial(torch.optim.Adam, lr=0.2))), model_for(prepared)
    facts = phases.fit("fit", Phase("fit", "train", Stopping(60, 3)), model)
    curve = [row["select/mse"] for row in phases.journal.history["rows"]]
    assert facts["best_epoch"] == int(np.argmin(curve)) + 1
    assert facts["epochs"] == facts["best_epoch"] + 3 < 60
    data = SplitsDataModule(prepared, batch_size=512, seed=0)
    assert evaluate(model, data.val_dataloader(), Rating())["mse"] == pytest.approx(min(curve), rel=1e-6)
    assert phases.fit("fit", Phase("fit", "train", Stopping(60, 3)), model) == facts, "a finished step is read back"


def test_epochs_before_the_least_do_not_count(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    phases = runner(prepared, tmp_path, WeightStep(partial(torch.optim.Adam, lr=0.5)))
    facts = phases.fit("fit", Phase("fit", "train", Stopping(9, 2, least_epochs=6)), model_for(prepared))
    assert facts["epochs"] >= facts["best_epoch"] >= 6


def test_the_learning_rate_falls_on_plateaus_and_its_floor_ends_the_phase(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    step = WeightStep(partial(torch.optim.SGD, lr=1e-3), plateau_factor=0.1, plateau_patience=0)
    phases = runner(prepared, tmp_path, step)
    model = model_for(prepared)
    for parameter in model.parameters():  # nothing learns, so every epoch but the first is a plateau
        parameter.data.zero_()
    phases.objective.task.losses = lambda logits, label: 0 * logits  # type: ignore[method-assign]
    phases.fit("fit", Phase("fit", "train", Stopping(99, 99, least_lr=1e-6)), model)
    rates = [row["lr"] for row in phases.journal.history["rows"]]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6], rel=1e-9)


def test_a_fresh_phase_starts_again_with_the_gates_that_were_found(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    phases, model = runner(prepared, tmp_path), model_for(prepared, gated=True)
    start = copy.deepcopy(model.state_dict())
    search = Phase("search", "train", Stopping(2, 2), GateStep(lr=0.2, per="epoch"), reset_gates=True)
    phases.fit("search", search, model, start=lambda: start)
    found = model.gates.detach().clone()
    assert (found < 1).any()
    still = WeightStep(partial(torch.optim.SGD, lr=0.0))
    phases.weight_step = still
    phases.fit("fit", Phase("fit", "train+search", Stopping(1, 1), fresh=True), model, start=lambda: start)
    assert torch.equal(model.gates, found)
    assert torch.equal(model.table.weight, start["table.weight"])
    phases.fit("again", Phase("again", "train", Stopping(1, 1), reset_gates=True), model, start=lambda: start)
    assert torch.equal(model.gates, torch.ones_like(found))


def test_every_phase_trains_in_training_mode(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    phases, model = runner(prepared, tmp_path), model_for(prepared)
    evaluate(model, [], Rating())
    model.eval()
    phases.fit("fine_tune", Phase("fine_tune", "train", Stopping(1, 1)), model)
    assert isinstance(model.interaction, Noted)
    assert set(model.interaction.modes) == {True}


def test_a_phase_lets_go_of_its_optimizer(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    made: list[weakref.ref] = []

    def optimizer(parameters):
        found = LazyAdam(parameters)
        made.append(weakref.ref(found))
        return found

    phases = runner(prepared, tmp_path, WeightStep(optimizer, by_row=True))
    phases.callbacks = lambda: [L.Callback()]
    phases.fit("fit", Phase("fit", "train", Stopping(1, 1)), model_for(prepared))
    assert [one() for one in made] == [None], "its moments are as large as two tables"


def test_evaluation_leaves_the_mode(source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    model = model_for(prepared)
    batches = SplitsDataModule(prepared, batch_size=512, seed=0).val_dataloader()
    for training in (True, False):
        model.train(training)
        evaluate(model, batches, Rating())
        assert model.training == training
