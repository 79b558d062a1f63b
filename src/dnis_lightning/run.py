"""Runs a search from data to result."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dnis_lightning import build, result
from dnis_lightning.blueprint import construct, load_best, pruned_model, save_best
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.errors import RunError
from dnis_lightning.folder import RunFolder, is_rank_zero
from dnis_lightning.recommender import Recommender
from dnis_lightning.report.pictures import draw
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.budget import Budget
from dnis_lightning.search.prune import cut_mask
from dnis_lightning.search.trial import Trial, TrialResult
from dnis_lightning.settings import Settings
from dnis_lightning.tasks import Task
from dnis_lightning.training.datamodule import SplitsDataModule
from dnis_lightning.training.evaluate import evaluate
from dnis_lightning.training.journal import Journal
from dnis_lightning.training.phases import PhaseRunner, TrainerOptions
from dnis_lightning.training.wandb_panels import WandbPanels, log_dims, log_figures, log_result

log = logging.getLogger(__name__)

Metrics = dict[str, float]


@dataclass
class Run:
    """One job: its settings, data and folder, and the steps from the first trial to `result.json`."""

    settings: Settings
    prepared: Prepared
    folder: RunFolder
    logger: Any = False
    prepare_seconds: float = 0.0
    command: str = ""

    def __post_init__(self) -> None:
        self.objective = build.make_objective(self.settings)
        self.blueprint = build.make_blueprint(self.settings, self.prepared, self.task)
        self.journal = Journal.open(self.folder.checkpoint)
        self.pruning = build.pruning(self.settings)
        self.gated = False
        self.phases = PhaseRunner(
            self.prepared,
            self.objective,
            build.weight_step(self.settings),
            _trainer_options(self.settings),
            self.journal,
            batch_size=self.settings.data.batch_size,
            seed=self.settings.seed,
            on_row=self._on_row,
            callbacks=[WandbPanels()],
            logger=self.logger,
        )

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.objective.task

    def go(self) -> dict[str, Any]:
        """All steps; returns what `result.json` holds."""
        trials = self._trials()
        model = self._best_model()
        unpruned = {**result.model_size(model), "metrics": self._evaluate(model, "select")}
        cuts = [self._cut(budget, model) for budget in build.budgets(self.settings)]
        cuts += [self._cut(epsilon, model) for epsilon in self.pruning.thresholds]
        self._test(unpruned, cuts, model)
        told = self._result(model, unpruned, cuts, trials)
        if is_rank_zero():
            self._write(told, model)
        return told

    # the steps

    def _trials(self) -> list[dict[str, Any]]:
        """Runs the method's trials, or the one of search.trial; the facts of each, and the best one's weights on disk.

        The blueprint then is that of the best.
        """
        trials, only = construct(self.settings.search.method).trials(), self.settings.search.trial
        ran: list[Trial] = []
        scores: list[float] = []
        told: list[dict[str, Any]] = []
        trial, number = next(trials), 0
        while True:
            score = math.nan
            if only in (None, number):
                facts = self._trial(trial, scores)
                score = self._score(facts)
                ran.append(trial)
                scores.append(score)
                told.append({"name": trial.name, **facts})
            try:
                trial, number = trials.send(TrialResult(trial, score)), number + 1
            except StopIteration:
                break
        assert scores, "search.trial was checked before"
        best = ran[scores.index(min(scores))]
        if math.isinf(min(scores)):
            raise RunError(
                f"select/{self.task.monitor} is no finite number: training diverged; take a smaller optimizer.lr"
            )
        self.gated = best.gated
        self.blueprint = replace(self.blueprint, dims=self.blueprint.dims if best.dims is None else best.dims)
        if is_rank_zero():
            self.blueprint.save(self.folder.path / "recommender.json", task=self.task.name)
        return told

    def _trial(self, trial: Trial, scores: list[float]) -> dict[str, Any]:
        """Trains one trial through its phases; its weights go to disk if it beats the scores of those before it."""
        step = f"trial/{trial.name}"
        if step not in self.journal.done:
            model = build.trial_model(self.blueprint, trial, self.settings.seed)
            start = model.weights()
            phases = [self.phases.fit(f"{trial.name}/{one.name}", one, model, start=start) for one in trial.phases]
            facts = {**self._evaluate(model, "select"), "seconds": sum(phase["seconds"] for phase in phases)}
            facts["epochs"] = [phase["epochs"] for phase in phases]
            if is_rank_zero() and all(self._score(facts) < score for score in scores):
                save_best(self.folder, model, trial.name)
            self.journal.record(step, facts)
            if is_rank_zero():
                self.journal.write()
        return self.journal.done[step]

    def _score(self, facts: Mapping[str, Any]) -> float:
        """What trials are compared by, smaller is better; infinite where training diverged."""
        score = facts[f"select/{self.task.monitor}"]
        return score if math.isfinite(score) else math.inf

    def _best_model(self) -> Recommender:
        self._wait_for_rank_zero()
        model = self.blueprint.build(gated=self.gated)
        model.load_weights(load_best(self.folder)["recommender"])
        return model

    def _cut(self, bound: Budget | float, unpruned: Recommender) -> dict[str, Any]:
        """Cuts a copy of the unpruned model to a budget or at a threshold, trains what is kept, saves the scheme."""
        name = bound.name if isinstance(bound, Budget) else f"eps:{bound:.12g}"
        step, path = f"cut/{name}", self.folder.scheme(name)
        if step not in self.journal.done or not path.exists():
            for stale in (step, f"fine_tune/{name}"):
                self.journal.done.pop(stale, None)
            self._make_cut(step, name, bound, unpruned)
        return {"budget": name, **self.journal.done[step]}

    def _make_cut(self, step: str, name: str, bound: Budget | float, unpruned: Recommender) -> None:
        started = time.perf_counter()
        model = self.blueprint.build()
        model.load_rest(unpruned.rest())
        model.keep(unpruned.merged_table(), cut_mask(unpruned, bound, self.pruning.by))
        before = self._evaluate(model, "select")
        metrics = self._fine_tuned(name, model, before)
        assert model.table.mask is not None
        scheme = Scheme.from_dense(model.table.weight.detach().numpy(), model.table.mask.numpy())
        facts = {**result.scheme_size(scheme), "metrics": metrics, "metrics_before_finetune": before}
        self.journal.record(step, facts | {"seconds": time.perf_counter() - started})
        if is_rank_zero():
            scheme.save(self.folder.scheme(name), {name: tensor.numpy() for name, tensor in model.rest().items()})
            self.journal.write()
        log.info("%s: kept %d entries, %s", name, scheme.kept, _figures(metrics))

    def _fine_tuned(self, name: str, model: Recommender, before: Metrics) -> Metrics:
        """Trains what a cut has kept, if that is asked for and helps on select; the metrics of what comes of it."""
        if self.pruning.finetune is None:
            return before
        weights = model.weights()
        self.phases.fit(f"fine_tune/{name}", self.pruning.finetune, model, keep_weights=False)
        after = self._evaluate(model, "select")
        if self._score(after) < self._score(before):
            return after
        model.load_weights(weights)
        return before

    def _test(self, unpruned: dict[str, Any], cuts: list[dict[str, Any]], model: Recommender) -> None:
        """The one look at the test rows, after every choice is made; a job of a single trial takes none."""
        if self.settings.search.trial is not None:
            return
        self._wait_for_rank_zero()
        unpruned["metrics"] |= self._evaluate(model, "test")
        for cut in cuts:
            shipped = pruned_model(self.blueprint, *Scheme.load(self.folder.scheme(cut["budget"])))
            cut["metrics"] = {**cut["metrics"], **self._evaluate(shipped, "test")}

    # what they share

    def _evaluate(self, model: Recommender, split: str) -> Metrics:
        data = SplitsDataModule(self.prepared, batch_size=self.settings.data.batch_size, seed=0)
        batches = data.val_dataloader() if split == "select" else data.test_dataloader()
        return {f"{split}/{name}": value for name, value in evaluate(model, batches, self.task, self._device()).items()}

    def _wait_for_rank_zero(self) -> None:
        """Let every rank see the files that rank zero has written."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()

    def _device(self) -> str:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if self.settings.trainer.accelerator == "gpu" else "cpu"

    def _on_row(self, rows: list[dict[str, Any]]) -> None:
        self.folder.write_rows("metrics.csv", rows)
        if self.logger:
            self.logger.log_metrics({name: value for name, value in rows[-1].items() if not isinstance(value, str)})

    def _result(
        self, model: Recommender, unpruned: dict[str, Any], cuts: list[dict[str, Any]], trials: list[dict[str, Any]]
    ) -> dict[str, Any]:
        total = self.journal.seconds() + self.prepare_seconds
        return {
            **result.identity(self.settings, self.prepared, self.blueprint),
            "unpruned": unpruned,
            "pruned": cuts,
            "gates_per_block": None if model.gates is None else [round(float(g), 6) for g in model.gates.mean(1)],
            "trials": trials,
            **result.costs(self.journal.done, prepare=self.prepare_seconds, total=total),
            "environment": result.environment(self.settings),
            "command": self.command,
        }

    def _write(self, told: dict[str, Any], model: Recommender) -> None:
        names = [cut["budget"] for cut in told["pruned"]]
        dims = {name: Scheme.load(self.folder.scheme(name))[0].dims_per_feature for name in names}
        self.folder.write_rows("dims.csv", result.dims_rows(self.prepared, self.blueprint, dims))
        draw(
            self.folder.figures,
            self.journal.history,
            self.task.monitor,
            model.gates,
            dims,
            self.prepared.vocabulary.frequency,
            self.blueprint.dims,
        )
        for name, counts in dims.items():
            log_dims(self.logger, counts, name)
        log_figures(self.logger, self.folder.figures)
        log_result(self.logger, told)
        told["recovery"] = result.recovery_of(self.settings, self.prepared, dims)
        log.info("%s", result.summary(told))
        self.folder.write_json("result.json", told)


def _trainer_options(settings: Settings) -> TrainerOptions:
    trainer = settings.trainer
    progress = sys.stderr.isatty() if trainer.progress == "auto" else bool(trainer.progress)
    return TrainerOptions(
        trainer.accelerator,
        trainer.devices,
        trainer.strategy,
        trainer.precision,
        trainer.checkpoint_every_n_steps,
        progress,
    )


def _figures(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.5f}" for name, value in metrics.items())
