"""Runs the trials of a search method, or takes them from jobs that ran them, and keeps the weights of the best."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnis_lightning import build
from dnis_lightning.blueprint import Blueprint, save_best
from dnis_lightning.earlier import Earlier
from dnis_lightning.errors import RunError
from dnis_lightning.folder import RunFolder, is_rank_zero
from dnis_lightning.judge import Judge
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.trial import SearchMethod, Trial, TrialResult
from dnis_lightning.spread import copy_best, take_over
from dnis_lightning.training.phases import PhaseRunner

log = logging.getLogger(__name__)


@dataclass
class Trials:
    """The trials of a run.

    blueprint: what their models have in common. only: the number of the one to be run, None for all. jobs: finished
    jobs of search.trial, by the number of the trial, which need not be trained again. earlier: the run that each starts
    from, if any.
    """

    blueprint: Blueprint
    phases: PhaseRunner
    folder: RunFolder
    seed: int
    only: int | None
    jobs: Mapping[int, RunFolder]
    earlier: Earlier | None
    judge: Judge

    def run(self, method: SearchMethod) -> tuple[Trial, list[dict[str, Any]]]:
        """The best trial, whose weights are on disk then, and the facts of each for `result.json`.

        Raises RunError where training diverged in all of them.
        """
        assert self.phases.blocks is not None, "features lie in blocks"
        trials = method.trials(self.phases.blocks)
        ran: list[Trial] = []
        scores: list[float] = []
        told: list[dict[str, Any]] = []
        trial, number = next(trials), 0
        while True:
            score = math.nan
            if self.only in (None, number):
                self._take_over(number, trial, scores)
                facts = self._run_one(trial, scores)
                score = self.judge.cost(facts)
                ran.append(trial)
                scores.append(score)
                told.append({"name": trial.name, "dims": trial.dims, "block_dims": trial.block_dims, **facts})
            try:
                trial, number = trials.send(TrialResult(trial, score)), number + 1
            except StopIteration:
                break
        assert scores, "search.trial was checked before"
        if math.isinf(min(scores)):
            monitor = self.phases.objective.task.monitor
            raise RunError(f"select/{monitor} is no finite number: training diverged; take a smaller optimizer.lr")
        return ran[scores.index(min(scores))], told

    def _take_over(self, number: int, trial: Trial, scores: list[float]) -> None:
        """Reads back a trial that a job of its own has trained."""
        journal = self.phases.journal
        job, step = self.jobs.get(number), f"trial/{trial.name}"
        if job is None or step in journal.done:
            return
        take_over(job, trial.name, journal)
        log.info("%s: taken from %s", trial.name, job.path)
        if is_rank_zero() and self._is_best(journal.done[step], scores):
            copy_best(job, self.folder)
        journal.write()

    def _run_one(self, trial: Trial, scores: list[float]) -> dict[str, Any]:
        """Trains one trial through its phases; its weights go to disk if it beats the scores of those before it."""
        step, journal = f"trial/{trial.name}", self.phases.journal
        if step not in journal.done:
            model = self._initial(trial)
            phases: list[dict[str, Any]] = []
            for one in trial.phases:
                phases.append(
                    self.phases.fit(
                        f"{trial.name}/{one.name}",
                        one,
                        model,
                        start=lambda: self._initial(trial).state_dict(),
                        before=phases[-1]["best"] if phases else math.nan,
                    )
                )
            facts = {**self.judge.evaluate(model), "seconds": sum(phase["seconds"] for phase in phases)}
            facts["epochs"] = [phase["epochs"] for phase in phases]
            facts["kept"] = int(model.table.kept().sum())
            if is_rank_zero() and self._is_best(facts, scores):
                save_best(self.folder, model, trial.name)
            journal.record(step, facts)
            journal.write()
        return journal.done[step]

    def _initial(self, trial: Trial) -> Recommender:
        """What a trial starts from."""
        blueprint = self.blueprint.of(trial)
        model = build.trial_model(blueprint, self.seed, gated=trial.gated)
        return model if self.earlier is None else self.earlier.give_to(model, blueprint)

    def _is_best(self, facts: Mapping[str, Any], scores: list[float]) -> bool:
        return all(self.judge.cost(facts) < score for score in scores)
