"""Phases on planted data: which rows they see, when they stop, what they end with."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from dnis_lightning.batch import Batch
from dnis_lightning.blocks import Blocks, make_blocks
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.synthetic import Synthetic
from dnis_lightning.embedding.choice import BlockChoice
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.interaction.mf import MF
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.controller import Controller
from dnis_lightning.search.trial import ControllerStep, GateStep, GradualStep, Phase, Stopping, ThresholdStep
from dnis_lightning.tasks import Objective, Rating
from dnis_lightning.training.controller_module import ControllerModule
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
    return PhaseRunner(
        prepared,
        Objective(Rating()),
        step or WeightStep(ADAM),
        TrainerOptions(),
        Journal(folder / "last.ckpt"),
        batch_size=512,
        seed=0,
        on_row=lambda rows: None,
        blocks=blocks_for(prepared),
    )


def blocks_for(prepared: Prepared) -> Blocks:
    """Two blocks of each field."""
    return make_blocks(prepared.vocabulary.frequency, prepared.vocabulary.field_of, blocks=2, per="field")


def model_for(prepared: Prepared, *, gated: bool = False) -> Recommender:
    torch.manual_seed(0)
    offsets = tuple(prepared.vocabulary.offsets.tolist())
    model = Recommender(FeatureSpace(offsets), Noted(), dims=4, std=0.3)
    if gated:
        model.selection = SoftSelection(np.arange(offsets[-1]) % 2, 2, 4)
    return model


THRESHOLDS = ThresholdStep(kept=1, start=-8.0, lr=0.5, decay=0.01, granularity="dimension")
CONTROLLER = ControllerStep("single", parts=2, entries=320, kept=160, cost_weight=1.0, lr=0.1, samples=3)
BY_ROW = {
    "fit": Phase("fit", "train", Stopping(4, 9), plateau=True),
    "first order": Phase("search", "train", Stopping(3, 9), GateStep(xi=0.0)),
    "second order": Phase("search", "train", Stopping(3, 9), GateStep(xi=0.1)),
    "tables only": Phase("search", "train", Stopping(3, 9), GateStep(xi=0.1), tables_only=True),
    "gradual": Phase("gradual", "train", Stopping(3, 9), moves=GradualStep(kept=80, entries=320, epochs=2)),
    "controller": Phase("search", "train", Stopping(3, 9, best=False), moves=CONTROLLER),
    "warm-up": Phase("search", "train", Stopping(3, 9, best=False), moves=replace(CONTROLLER, learns=False)),
    "thresholds": Phase("learn", "train", Stopping(3, 9), moves=THRESHOLDS),
}


@pytest.mark.parametrize("name", BY_ROW)
def test_stepping_by_row_ends_where_the_whole_table_does(name: str, source: Synthetic, tmp_path: Path) -> None:
    prepared, phase = prepared_with("three_way", source, tmp_path), BY_ROW[name]
    ends = []
    for optimizer, by_row in ((ADAM, False), (partial(LazyAdam, lr=0.01), True)):
        model = model_for(prepared, gated=phase.searches)
        if isinstance(phase.moves, ControllerStep):
            blocks = blocks_for(prepared)
            model.selection = SoftSelection(blocks.block_of, blocks.count, 4)
        if isinstance(phase.moves, ThresholdStep):
            model.selection = SoftThreshold(model.space.features, 4, granularity="dimension")
        step = WeightStep(optimizer, clip_norm=0.05, plateau_patience=0, by_row=by_row)
        runner(prepared, tmp_path / str(by_row), step).fit(phase.name, phase, model, keep_weights=False)
        ends.append(model.state_dict())
    for key, expected in ends[0].items():
        assert torch.allclose(ends[1][key], expected, rtol=1e-3, atol=1e-4), key


@pytest.mark.parametrize("learns", [True, False])
def test_a_controller_ends_with_the_likeliest_choice_and_keeps_within_the_memory(
    learns: bool, source: Synthetic, tmp_path: Path
) -> None:
    """What it costs to keep more than half outweighs all else here; before it has learned, everything is kept."""
    prepared = prepared_with("three_way", source, tmp_path)
    blocks, model = blocks_for(prepared), model_for(prepared)
    model.selection = SoftSelection(blocks.block_of, blocks.count, 4)
    dear = replace(CONTROLLER, cost_weight=100.0, learns=learns)
    phase = Phase("search", "train", Stopping(12, 99, best=False), moves=dear)
    before = model.table.weight.detach().clone()
    runner(prepared, tmp_path).fit("search", phase, model)
    gates = model.gates.detach()
    assert set(gates.flatten().tolist()) <= {0.0, 1.0}
    kept = float((torch.from_numpy(blocks.sizes)[:, None] * gates).sum()) / model.table.weight.numel()
    assert kept <= 0.5 if learns else kept == 1
    assert (gates[:, ::2] == gates[:, 1::2]).all(), "dimensions of one part open together"
    assert not torch.equal(model.table.weight, before)


def test_a_controller_is_rewarded_for_low_loss_within_the_budget(
    source: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R = −L_search − λ · max(0, m / kept − 1), of choices that are drawn, without dropout; weights see such, too."""
    prepared = prepared_with("three_way", source, tmp_path)
    blocks, model = blocks_for(prepared), model_for(prepared)
    model.selection = BlockChoice(blocks.block_of, blocks.count, 4)
    told: list[tuple[float, float, float]] = []
    masks: list[str] = []
    losses, learn, keep = ControllerModule._losses, Controller.learn, ControllerModule.keep

    def noted_losses(self: ControllerModule, batch: Batch, choices: list[torch.Tensor]) -> torch.Tensor:
        found = losses(self, batch, choices)
        assert torch.equal(losses(self, batch, choices), found)
        self.noted = found
        return found

    def noted_learn(self: Controller, choices: Any, rewards: Any, optimizer: Any) -> None:
        shares = [self.decisions.share(self.decisions.kept(choice)) for choice in choices]
        told.extend(zip(module[0].noted.tolist(), shares, rewards, strict=True))
        learn(self, choices, rewards, optimizer)

    def noted_keep(self: ControllerModule, choice: torch.Tensor) -> None:
        module[:] = [self]
        masks.append(str(choice.tolist()))
        keep(self, choice)

    module: list[Any] = []
    for owner, name, noted in (
        (ControllerModule, "_losses", noted_losses),
        (Controller, "learn", noted_learn),
        (ControllerModule, "keep", noted_keep),
    ):
        monkeypatch.setattr(owner, name, noted)
    step = replace(CONTROLLER, cost_weight=0.7, kept=100)
    runner(prepared, tmp_path).fit("search", Phase("search", "train", Stopping(2, 9, best=False), moves=step), model)
    assert len(told) > 10
    assert len(set(masks)) > 10
    for loss, share, reward in told:
        assert reward == pytest.approx(-loss - 0.7 * max(0.0, share * 320 / 100 - 1), rel=1e-5)


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


@pytest.mark.parametrize(("least_lr", "share"), [(1e-6, 0.0), (0.0, 1e-3)])
def test_the_learning_rate_falls_on_plateaus_and_its_floor_ends_the_phase(
    least_lr: float, share: float, source: Synthetic, tmp_path: Path
) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    step = WeightStep(partial(torch.optim.SGD, lr=1e-3), plateau_factor=0.1, plateau_patience=0, plateau_floor=share)
    phases = runner(prepared, tmp_path, step)
    model = model_for(prepared)
    for parameter in model.parameters():  # nothing learns, so every epoch but the first is a plateau
        parameter.data.zero_()
    phases.objective.task.losses = lambda logits, label: 0 * logits  # type: ignore[method-assign]
    phases.fit("fit", Phase("fit", "train", Stopping(99, 99, least_lr=least_lr)), model)
    rates = [row["lr"] for row in phases.journal.history["rows"]]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6], rel=1e-9)


@pytest.mark.parametrize(("before", "kept"), [(0.0, True), (99.0, False), (float("nan"), False)])
def test_the_start_of_a_phase_may_be_its_best(before: float, kept: bool, source: Synthetic, tmp_path: Path) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    phases, model = runner(prepared, tmp_path), model_for(prepared, gated=True)
    started = copy.deepcopy(model.state_dict())
    stopping = Stopping(3, 3, least_epochs=2, start_counts=True)
    search = Phase("search", "train", stopping, GateStep(lr=0.2, per="epoch"), reset_gates=True)
    facts = phases.fit("search", search, model, before=before)
    assert (facts["best_epoch"] == 0) == kept
    assert all(torch.equal(value, started[name]) for name, value in model.state_dict().items()) == kept
    blocks = facts["diagnostics"]["blocks"]
    assert all(block["gates"] == 1 for block in blocks if block["features"]) == kept
    assert any("all gates are open again" in warning for warning in facts["diagnostics"]["warnings"]) == kept


@pytest.mark.parametrize(
    ("before", "give_up", "epochs"), [(0.001, 0.0, 4), (0.001, 0.01, 2), (0.001, 1e6, 4), (1e6, 1e-9, 4)]
)
def test_a_search_that_is_far_behind_its_start_is_given_up(
    before: float, give_up: float, epochs: int, source: Synthetic, tmp_path: Path
) -> None:
    prepared = prepared_with("three_way", source, tmp_path)
    stopping = Stopping(4, 4, least_epochs=2, start_counts=True, give_up=give_up)
    search = Phase("search", "train", stopping, GateStep(lr=0.2, per="epoch"), reset_gates=True)
    facts = runner(prepared, tmp_path).fit("search", search, model_for(prepared, gated=True), before=before)
    assert (facts["epochs"], facts["best_epoch"] == 0) == (epochs, before < 1)


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
