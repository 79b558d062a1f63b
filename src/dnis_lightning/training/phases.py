"""Runs one phase of a trial: builds its module, data and trainer, and ends with the best weights."""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning as L
import torch

from dnis_lightning.blocks import Blocks
from dnis_lightning.data.negatives import Feedback
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.memory import give_back_freed_memory
from dnis_lightning.recommender import GATES, Recommender
from dnis_lightning.search.trial import ControllerStep, GateStep, GradualStep, Phase, ThresholdStep
from dnis_lightning.tasks import Objective
from dnis_lightning.training.callbacks import BestWeights, History, RowsBar, RunCheckpoint
from dnis_lightning.training.controller_module import ControllerModule
from dnis_lightning.training.datamodule import SplitsDataModule
from dnis_lightning.training.fit_module import FitModule, WeightStep
from dnis_lightning.training.health import examine
from dnis_lightning.training.journal import Journal
from dnis_lightning.training.pruning_modules import GradualModule, ThresholdModule
from dnis_lightning.training.search_module import SearchModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerOptions:
    """Where and how Lightning trains; names as in `lightning.Trainer`.

    compile: torch.compile the interaction. checkpoint_every_n_steps: how often `last.ckpt` is written. progress: show a
    bar.
    """

    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    compile: bool = False
    checkpoint_every_n_steps: int = 500
    progress: bool = False


@dataclass
class PhaseRunner:
    """Everything that the phases of a run share. `fit` runs one of them."""

    prepared: Prepared
    objective: Objective
    weight_step: WeightStep
    options: TrainerOptions
    journal: Journal
    batch_size: int
    seed: int
    on_row: Callable[[list[dict[str, Any]]], None]
    callbacks: Callable[[], list[L.Callback]] = list
    feedback: Feedback | None = None
    blocks: Blocks | None = None
    logger: Any = False

    def fit(
        self,
        name: str,
        phase: Phase,
        model: Recommender,
        *,
        start: Callable[[], dict[str, Any]] | None = None,
        before: float = math.nan,
        keep_weights: bool = True,
    ) -> dict[str, Any]:
        """Train `model` through a phase and leave it with the weights of its best epoch.

        name: the step's name in the journal; a finished step is read back instead. start: gives the weights that a
        `fresh` phase goes back to. before: the task's metric on select of the weights that it starts with, for phases
        whose start counts. keep_weights: whether the journal keeps what this phase ends with.
        Returns seconds, epochs, the best epoch (0: the start), and its value of the task's metric on select.
        """
        if name not in self.journal.done:
            if phase.fresh and start is not None:
                gates = {} if model.gates is None else {GATES: model.gates.detach().clone()}
                model.load_weights(start() | gates)
            self._train(name, phase, model, before, keep_weights)
        elif self.journal.weights_of == name and self.journal.weights is not None:
            model.load_weights(self.journal.load(self.journal.weights))
        return self.journal.done[name]

    def _train(self, name: str, phase: Phase, model: Recommender, before: float, keep_weights: bool) -> None:
        """Run a phase from its start, or from where the journal's file has it, and record how it ended."""
        if phase.reset_gates and model.gates is not None:
            model.gates.data.fill_(1)
        give_back_freed_memory()
        facts = self._fit(name, phase, model, before)
        give_back_freed_memory()  # trainer, module and callbacks hold each other, and with them the optimizer's state
        model.to("cpu")
        if self.journal.best is not None:
            model.load_weights(self.journal.load(self.journal.best))
        facts = {"seconds": self.journal.seconds_of_step(), **facts}
        if keep_weights:
            weights = self.journal.best or self.journal.save(model.state_dict())
            self.journal.record(name, facts, weights, keep=phase.cut_too)
            self.journal.write()
        else:
            self.journal.record(name, facts)

    def _fit(self, name: str, phase: Phase, model: Recommender, before: float) -> dict[str, Any]:
        """Train, and note the best weights and the history in the journal; how many epochs, and which was the best."""
        best = BestWeights(f"select/{self.objective.task.monitor}", phase.stopping, self.journal)
        history = History(name, self.journal.history, self.on_row)
        resumes = self.journal.begin(name)
        if phase.stopping.start_counts and math.isfinite(before) and not resumes:
            best.begin_with(model, before)
        torch.manual_seed(self._seed_of(name))  # dropout, too, does not depend on what a kill has cut short
        model.train()
        if self.options.compile:
            model.compile_interaction()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")  # its hints are for hand-written loops
            trainer = self._trainer(phase, [best, history])
            data = self._data(name, phase)
            module = self._module(name, phase, model, data)
            try:
                trainer.fit(module, data, ckpt_path=str(self.journal.path) if resumes else None)
            except SystemExit as stop:
                if isinstance(stop.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
                    raise KeyboardInterrupt from stop
                raise
        self.journal.history = history.state_dict()
        log.info("%s: %d epochs, best %s %.5f at epoch %d", name, best.epochs, best.monitor, best.best, best.best_epoch)
        facts: dict[str, Any] = {"epochs": best.epochs, "best_epoch": best.best_epoch, "best": best.best}
        if isinstance(module, SearchModule) and module.selection.gates.numel():
            facts["diagnostics"] = examine(module, history, best, shared=self.prepared.split.shared)
        return facts

    def _module(self, name: str, phase: Phase, model: Recommender, data: SplitsDataModule) -> FitModule:
        step = self.weight_step if phase.plateau else replace(self.weight_step, plateau_patience=None)
        steps = data.steps_per_epoch
        match phase.moves:
            case GateStep() as moves:
                return SearchModule(
                    model, self.objective, step, moves, steps_per_epoch=steps, tables_only=phase.tables_only
                )
            case ControllerStep() as moves:
                assert self.blocks is not None, "a controller chooses among blocks"
                seed = self._seed_of(name)
                return ControllerModule(
                    model, self.objective, step, moves, self.blocks, steps_per_epoch=steps, seed=seed
                )
            case GradualStep() as moves:
                return GradualModule(model, self.objective, step, moves, steps_per_epoch=steps)
            case ThresholdStep() as moves:
                return ThresholdModule(model, self.objective, step, moves, steps_per_epoch=steps)
            case None:
                return FitModule(model, self.objective, step, tables_only=phase.tables_only)

    def _data(self, name: str, phase: Phase) -> SplitsDataModule:
        return SplitsDataModule(
            self.prepared,
            batch_size=self.batch_size,
            seed=self._seed_of(name),
            rows=phase.rows,
            paired=phase.paired,
            shortest=isinstance(phase.moves, GateStep) and phase.moves.shortest,
            feedback=self.feedback,
        )

    def _seed_of(self, name: str) -> int:
        """Each step has an order of rows of its own."""
        return (self.seed + zlib.crc32(name.encode())) % 2**32

    def _trainer(self, phase: Phase, callbacks: list[L.Callback]) -> L.Trainer:
        every = self.options.checkpoint_every_n_steps
        callbacks = [*callbacks, RunCheckpoint(self.journal, every), *self.callbacks()]
        if self.options.progress:
            callbacks.append(RowsBar(self.batch_size, phase.name))
        return L.Trainer(
            accelerator=self.options.accelerator,
            devices=self.options.devices,
            strategy=self.options.strategy,
            precision=self.options.precision,
            max_epochs=phase.stopping.max_epochs,
            callbacks=callbacks,
            logger=self.logger,
            enable_checkpointing=False,
            enable_progress_bar=self.options.progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1_000_000_000,  # what is logged is logged by the epoch, by `History`
            inference_mode=False,
            use_distributed_sampler=False,
        )
